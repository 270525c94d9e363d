"""`cryptogen bench`: measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cryptogen.errors import PlanUnfaithful
from cryptogen.protocols import PROTOCOLS, check_protocol

from .app import bench
from .options import BatchTokens, Json, LinearTokens, PlanFile, Protocol, existing, numbers, show


@bench.command("decode")
def bench_decode(
    shape: Annotated[str, typer.Option(help="gpt2, smollm2, llama-1b (random weights), or a model's path")] = "gpt2",
    context: Annotated[int, typer.Option(min=1)] = 128,
    tokens: Annotated[int, typer.Option(min=1)] = 16,
    batch_tokens: BatchTokens = None,
    linear_tokens: LinearTokens = None,
    blocks: Annotated[int, typer.Option(min=0, help="measure 1 and K blocks and scale up; 0: all blocks")] = 4,
    protocol: Protocol = "preprocessed",
    network: Annotated[
        str | None,
        typer.Option(help="emulate a network: lan (1 Gbit/s, 0.5 ms round trip) or wan (100 Mbit/s, 80 ms)"),
    ] = None,
    draft_tokens: Annotated[
        int, typer.Option(min=0, max=63, help="a draft proposes so many tokens for every pass; 0: no draft")
    ] = 0,
    runs: Annotated[int, typer.Option(min=1, help="whole runs, of which the medians count")] = 1,
    as_json: Json = False,
) -> None:
    """Cost of one decoded token, two processes over TLS on this host."""
    from cryptogen.bench.decode import Task, decode
    from cryptogen.bench.shapes import SHAPES
    from cryptogen.console import Bars

    if shape not in SHAPES:
        existing(Path(shape), f"model, or one of the shapes {', '.join(SHAPES)}")
        blocks = 0
    bars = Bars()
    task = Task(
        shape, context, tokens, batch_tokens, linear_tokens, blocks or None, protocol, network, draft_tokens, runs
    )
    result = decode(task, bars, _note)
    bars.close()
    show(result, as_json)


@bench.command("paper")
def bench_paper(
    shape: Annotated[str, typer.Option(help="gpt2, smollm2 or tiny: random weights")] = "gpt2",
    lengths: Annotated[str, typer.Option(help="tokens before the measured one")] = "64,128,256,512",
    protocols: Annotated[str, typer.Option(help="some of the three, separated by commas")] = ",".join(PROTOCOLS),
    tokens: Annotated[int, typer.Option(min=1, max=16, help="tokens measured per length where there is a cache")] = 2,
    blocks: Annotated[
        int, typer.Option(min=0, help="measure 1 and K blocks and scale up; 0: all, `recompute` beyond 128 from 2")
    ] = 0,
    add_to: Annotated[Path | None, typer.Option(help="add the runs to this file, e.g. benches/paper-gpt2.json")] = None,
    as_json: Json = False,
) -> None:
    """The paper's comparison: three protocols, seconds, bytes, memory and operations of one token
    after L others."""
    from cryptogen.bench import paper

    known = [check_protocol(name.strip()) for name in protocols.split(",")]
    task = paper.Paper(shape, tuple(numbers(lengths, "lengths")), tuple(known), tokens, blocks or None)
    result = paper.compare(task, _note)
    if add_to is not None:
        result = paper.add_to(add_to, result)
    print(json.dumps(result) if as_json else paper.summary(result))


@bench.command("peers")
def bench_peers(
    shape: Annotated[str, typer.Option(help="gpt2")] = "gpt2",
    context: Annotated[int, typer.Option(min=1, help="rows of the KV cache")] = 128,
    runs: Annotated[int, typer.Option(min=1, max=100, help="runs of the peer's block; their median counts")] = 3,
    tokens: Annotated[int, typer.Option(min=1, help="tokens of preprocessed")] = 4,
    blocks: Annotated[int, typer.Option(min=2, help="measure 1 and K blocks of preprocessed")] = 4,
    as_json: Json = False,
) -> None:
    """SPU's Cheetah and `preprocessed` on the same block, one after the other; SPU is installed on
    first use."""
    from cryptogen.bench.peers import compare

    result = compare.compare(compare.Task(shape, context, runs, tokens, blocks), _note)
    print(json.dumps(result) if as_json else compare.summary(result))


@bench.command("ranges")
def bench_ranges(
    model: Annotated[Path | None, typer.Option(help="default: SmolLM2-135M-Instruct, fetched if need be")] = None,
    plan: PlanFile = None,
    sizes: Annotated[str, typer.Option(help="rows of every text")] = "512,2048",
    text: Annotated[list[Path] | None, typer.Option(help="another text to try; may be given several times")] = None,
    docs: Annotated[bool, typer.Option("--docs", help="rewrite the table of docs/guide/ranges.md")] = False,
    as_json: Json = False,
) -> None:
    """Does any text break the plan? The integers against the float model on texts of every class,
    and greedy chains.

    Exit code 1 if a text fails: perplexity changed by more than 0.5 %, the same token in less than
    98.5 % of rows, or a logit error above 1 in a row without range events.
    """
    from cryptogen.bench import ranges
    from cryptogen.bench.demo import smollm2
    from cryptogen.console import Bars

    for path in text or []:
        existing(path, "text")
    bars = Bars()
    figures = ranges.measure(model or smollm2(), plan, numbers(sizes, "sizes"), text or [], bars)
    bars.close()
    print(json.dumps(figures) if as_json else ranges.table(figures))
    if docs:
        _note(f"{ranges.write_docs(figures)} rewritten")
    if failed := ranges.failing(figures):
        raise PlanUnfaithful(failed)


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
