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
    """Show a model's plan, its cost per token, the security parameters and what leaks; how it lies in ciphertexts."""
    check_protocol(protocol)
    from cryptogen.bench.inspect import as_text, facts
    from cryptogen.session.plans import find_plan
    from cryptogen.weights import load

    found = find_plan(load(model), plan)
    print(json.dumps(facts(found, protocol)) if as_json else as_text(found, protocol))


@app.command()
def calibrate(
    model: Model,
    text: Annotated[Path, typer.Option(help="public text like what the model will see")],
    windows: Annotated[str, typer.Option(help="which windows of the text, from 0, e.g. 8-11 or 0,3")] = "8-11",
    size: Annotated[int, typer.Option(min=2, help="tokens per window")] = 512,
    out: Annotated[Path | None, typer.Option(help="default: MODEL.plan.json")] = None,
) -> None:
    """Make a model's numeric plan from public text. The plan is public: do not use confidential text."""
    from cryptogen.console import Bars
    from cryptogen.numerics.calibrate import calibrate_model
    from cryptogen.session.plans import beside

    existing(text, "text")
    chosen, bars = numbers(windows), Bars()
    done = [0]

    def step(_: int) -> None:
        done[0] = min(done[0] + 1, len(chosen))
        bars("windows", done[0], len(chosen))

    found = calibrate_model(model, text, chosen, size, step)
    bars.close()
    path = out or beside(model)
    found.save(path)
    print(f"{path}: plan {found.digest()[:16]}…, {len(chosen)} windows of {size} tokens")


@app.command("eval")
def evaluate(
    text: Annotated[Path, typer.Argument(help="UTF-8 text")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder, .gguf or llama2.c .bin")],
    backend: Annotated[str, typer.Option(help="float, fixed or private")] = "fixed",
    windows: Annotated[int, typer.Option(min=1)] = 4,
    size: Annotated[int, typer.Option(min=2, help="tokens per window")] = 512,
    plan: PlanFile = None,
    protocol: Protocol = "preprocessed",
    as_json: Json = False,
) -> None:
    """Perplexity of a text, and how often the backend prefers the float model's token."""
    from cryptogen.bench.quality import evaluate as run
    from cryptogen.console import Bars

    existing(text, "text")
    bars = Bars()
    result = run(model, text, backend, windows, size, plan, bars, protocol)
    bars.close()
    show(result, as_json)
