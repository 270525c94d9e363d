"""Commands about one model, without a peer: inspect, calibrate, eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cryptogen.protocols import check_protocol

from .app import app
from .options import Json, Model, PlanFile, Protocol, existing, numbers, show


@app.command()
def inspect(model: Model, plan: PlanFile = None, protocol: Protocol = "preprocessed", as_json: Json = False) -> None:
    """Show a model's plan, its cost per token, the security parameters and what leaks; how it lies
    in ciphertexts."""
    check_protocol(protocol)
    from cryptogen.evaluate.inspect import as_text, facts
    from cryptogen.session.plans import find_plan
    from cryptogen.weights import load

    found = find_plan(load(model), plan)
    print(json.dumps(facts(found, protocol)) if as_json else as_text(found, protocol))


@app.command()
def calibrate(
    model: Model,
    text: Annotated[Path, typer.Option(help="public text like what the model will see")],
    windows: Annotated[str, typer.Option(help="which windows of the text, from 0, e.g. 8-11 or 0,3")] = "8-11",
    size: Annotated[int, typer.Option(min=2, help="tokens per window of the text")] = 512,
    context: Annotated[
        int | None, typer.Option(min=2, help="rows of every stress text; fewer are quicker [the model's context]")
    ] = None,
    accept: Annotated[
        str, typer.Option(help="write the plan although these classes fail, e.g. pairs,prompts; it will say so")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="default: MODEL.plan.json")] = None,
) -> None:
    """Make a model's numeric plan from public text and the packaged stress text, and check it on
    texts of every class.

    The plan is public: do not use confidential text. If the integers do not follow the float model
    on some class of text, nothing is written, and the error names layer and head. Half an hour for
    135 M weights and 2048 rows.
    """
    from cryptogen.calibration.model import calibrate_model
    from cryptogen.console import Bars
    from cryptogen.evaluate.report import CLASS_HEADING, accepted_lines, class_line
    from cryptogen.session.plans import beside

    existing(text, "text")
    chosen, bars = numbers(windows), Bars()
    try:
        found = calibrate_model(model, text, chosen, size, context, bars, [name for name in accept.split(",") if name])
    finally:
        bars.close()
    path = out or beside(model)
    found.save(path)
    print(CLASS_HEADING, *(class_line(name, f) for name, f in found.statistics["classes"].items()), sep="\n")
    for line in accepted_lines(found):
        print(line)
    print(f"{path}: plan {found.digest()[:16]}…, {len(chosen)} windows of {size} tokens and the stress text")


@app.command("eval")
def evaluate(
    text: Annotated[Path, typer.Argument(help="UTF-8 text")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder, .gguf or llama2.c .bin")],
    backend: Annotated[str, typer.Option(help="float, fixed or private")] = "fixed",
    windows: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[int, typer.Option(min=2, help="tokens per window, up to the model's context")] = 512,
    plan: PlanFile = None,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """How faithful a backend is on a text: perplexity, agreement with the float model, flagged
    rows, logit errors."""
    from cryptogen.console import Bars
    from cryptogen.evaluate.quality import evaluate as run

    existing(text, "text")
    bars = Bars()
    result = run(model, text, backend, windows, size, plan, bars, protocol)
    bars.close()
    show(result, as_json)
