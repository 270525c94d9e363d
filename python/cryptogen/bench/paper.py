"""`cryptogen bench paper`: the paper's comparison, from real runs of the three protocols on one
host.

One server process, one client process, TLS between them, random weights. Two numbers of blocks are
run, 1 and K (all of them by default), and a straight line is drawn through both: blocks are
identical, and what is not a block (embedding, head) is in both. Its slope is the cost of a block.
`recompute` beyond 128 rows is run with 1 and 2 blocks unless K says otherwise: minutes instead of
hours per token.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptogen.errors import InputError
from cryptogen.evaluate.inspect import layouts
from cryptogen.processes import ServerProcess
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED, PROTOCOLS, RECOMPUTE
from cryptogen.session import Client

from .decode import commit, machine
from .measure import Note, PerToken, Token, check_lengths, tokens
from .shapes import shape

FULL_RECOMPUTE = 128  # rows up to which `recompute` runs all blocks by default
FEW = 2  # blocks beyond
PHASES = ("offline", "online", "total")
RATIOS = (("recompute", "encrypted_cache"), ("encrypted_cache", "preprocessed"), ("recompute", "preprocessed"))


@dataclass(frozen=True)
class Paper:
    """`tokens`: measured per length where there is a cache. `blocks`: None runs all."""

    shape: str
    lengths: tuple[int, ...]
    protocols: tuple[str, ...] = PROTOCOLS
    tokens: int = 2
    blocks: int | None = None


def compare(task: Paper, note: Note) -> dict[str, Any]:
    """The figures of `cryptogen bench paper --json`. `InputError` before anything runs."""
    config = shape(task.shape)
    if task.blocks is not None and not 2 <= task.blocks <= config.layers:
        raise InputError(f"{task.blocks} blocks of {task.shape}, expected 2 to {config.layers}")
    if not task.protocols or len(set(task.protocols)) < len(task.protocols):
        raise InputError(f"protocols {', '.join(task.protocols)}, expected some of {', '.join(PROTOCOLS)}, each once")
    for protocol in task.protocols:
        check_lengths(task.lengths, 1 if protocol == RECOMPUTE else task.tokens, config.context)
    measured: dict[tuple[int, str, int], Token] = {}
    why: dict[str, Any] = {}
    for blocks in sorted(set(_blocks(task, config.layers).values()) | {1}):
        measured |= _run(task, blocks, config.layers, why, note)
    runs = [
        _figures(protocol, measured[1, protocol, length], measured[blocks, protocol, length], blocks, config.layers)
        for (protocol, length), blocks in _blocks(task, config.layers).items()
    ]
    return report(task.shape, config.layers, runs, why)


def report(name: str, layers: int, runs: list[dict[str, Any]], why: dict[str, Any]) -> dict[str, Any]:
    """The runs and what follows from them."""
    return {
        "shape": name,
        "layers": layers,
        "runs": runs,
        "ratios": {str(length): _ratios(runs, length) for length in sorted({int(r["length"]) for r in runs})},
        "growth": {p: _growth(runs, p) for p in PROTOCOLS if any(r["protocol"] == p for r in runs)},
        "layouts": why,
        "machine": machine(),
    }


def add_to(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The file's runs with these added, those of the same protocol and length replaced; written
    back."""
    known: list[dict[str, Any]] = []
    why: dict[str, Any] = {}
    if path.exists():
        before = json.loads(path.read_text())
        if (before["shape"], before["machine"]) != (result["shape"], result["machine"]):
            raise InputError(f"{path} holds {before['shape']} on {before['machine']}, expected the same")
        known, why = before["runs"], before["layouts"]
    new = {(r["protocol"], r["length"]) for r in result["runs"]}
    runs = [r for r in known if (r["protocol"], r["length"]) not in new] + result["runs"]
    whole = report(result["shape"], result["layers"], runs, why | result["layouts"])
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def _blocks(task: Paper, layers: int) -> dict[tuple[str, int], int]:
    """How many blocks each run has, besides 1."""

    def of(protocol: str, length: int) -> int:
        if task.blocks is None and protocol == RECOMPUTE and length > FULL_RECOMPUTE:
            return min(FEW, layers)
        return task.blocks or layers

    return {(p, length): of(p, length) for p in task.protocols for length in task.lengths}


def _run(task: Paper, blocks: int, layers: int, why: dict[str, Any], note: Note) -> dict[tuple[int, str, int], Token]:
    """One process pair: every run that wants this number of blocks, or that wants 1 block beside
    its own number."""
    found: dict[tuple[int, str, int], Token] = {}
    with tempfile.TemporaryDirectory(prefix="cryptogen-bench-") as folder:
        with ServerProcess("cryptogen.bench.server", [task.shape, str(blocks), folder]) as server:
            for protocol in task.protocols:
                lengths = [
                    length
                    for (p, length), wanted in _blocks(task, layers).items()
                    if p == protocol and (blocks in (1, wanted))
                ]
                if not lengths:
                    continue
                say = f"{protocol}, {blocks} of {layers} blocks"
                note(f"{say}: connecting")
                client = Client(server.address, fingerprint=server.fingerprint, data_dir=folder, protocol=protocol)
                with client:
                    why[protocol] = layouts(client.checked_plan, protocol).get("layouts", {})
                    for token in tokens(client, protocol, lengths, task.tokens, server.pid, partial(_say, note, say)):
                        found[blocks, protocol, token.length] = token
                        seconds = token.offline.seconds + token.online.seconds
                        note(f"{say}: {token.length} rows, {seconds:.2f} s/token")
    return found


def _say(note: Note, prefix: str, text: str) -> None:
    note(f"{prefix}: {text}")


def _figures(protocol: str, one: Token, some: Token, blocks: int, layers: int) -> dict[str, Any]:
    """A row of `runs`: the straight line through 1 and K blocks, at all layers and its slope."""

    def line(a: float, b: float) -> tuple[float, float]:
        slope = (b - a) / (blocks - 1) if blocks > 1 else a
        return a + (layers - 1) * slope, slope

    figures: dict[str, Any] = {
        "protocol": protocol, "length": some.length, "blocks_run": blocks, "commit": commit(),
    }  # fmt: skip
    first, second = _phases(one), _phases(some)
    for phase in PHASES:
        a, b = asdict(first[phase]), asdict(second[phase])
        for name in a:
            token, block = line(a[name], b[name])
            prefix = "" if phase == "total" else f"{phase}_"
            figures[f"{prefix}{name}_per_token"], figures[f"{prefix}{name}_per_block"] = token, block
    for name in some.counts:
        token, block = line(one.counts.get(name, 0), some.counts[name])
        figures[f"{name}_per_token"], figures[f"{name}_per_block"] = token, block
    for name in some.state:
        figures[name] = line(one.state.get(name, 0), some.state[name])[0]
    for name in ("peak_rss_client", "peak_rss_server"):
        figures[name] = max(line(getattr(one, name), getattr(some, name))[0], getattr(some, name))
        figures[f"{name}_run"] = getattr(some, name)  # as measured, with `blocks_run` blocks
    if some.prefill_seconds:
        figures["prefill_seconds"] = line(one.prefill_seconds, some.prefill_seconds)[0]
    return figures | ({"extrapolated_from_blocks": blocks} if blocks < layers else {})


def _phases(token: Token) -> dict[str, PerToken]:
    return {"offline": token.offline, "online": token.online, "total": token.offline + token.online}


def _find(runs: Iterable[dict[str, Any]], protocol: str, length: int) -> dict[str, Any] | None:
    return next((r for r in runs if r["protocol"] == protocol and r["length"] == length), None)


def _ratios(runs: list[dict[str, Any]], length: int) -> dict[str, float]:
    """Seconds of one generated token over seconds of one generated token; `_online`: without the
    offline phase."""
    names = {"recompute": RECOMPUTE, "encrypted_cache": ENCRYPTED_CACHE, "preprocessed": PREPROCESSED}
    ratios = {}
    for above, below in RATIOS:
        a, b = _find(runs, names[above], length), _find(runs, names[below], length)
        if a and b:
            ratios[f"{above}_over_{below}"] = a["seconds_per_token"] / b["seconds_per_token"]
            ratios[f"{above}_over_{below}_online"] = a["online_seconds_per_token"] / b["online_seconds_per_token"]
            ratios[f"{above}_over_{below}_per_block"] = a["seconds_per_block"] / b["seconds_per_block"]
    return ratios


def _growth(runs: list[dict[str, Any]], protocol: str) -> dict[str, float]:
    """From 128 rows (or the shortest length) to the longest."""
    mine = sorted((r for r in runs if r["protocol"] == protocol), key=lambda r: int(r["length"]))
    first = next((r for r in mine if r["length"] == FULL_RECOMPUTE), mine[0])
    last = mine[-1]
    keys = ("seconds_per_token", "online_seconds_per_token", "bytes_sent_per_token", "peak_rss_client",
            "peak_rss_server")  # fmt: skip
    return {"from": first["length"], "to": last["length"]} | {key: last[key] / first[key] for key in keys}


def summary(result: dict[str, Any]) -> str:
    """For people."""
    from .paper_tables import latency

    parts = [latency(result)]
    for length, ratios in result["ratios"].items():
        parts += [f"{length}: {name} {value:.2f}" for name, value in ratios.items()]
    return "\n".join([*parts, result["machine"]])
