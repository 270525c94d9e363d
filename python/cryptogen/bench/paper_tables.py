"""`python -m cryptogen.bench.paper_tables`: benches/paper-*.json into the tables and plots of
docs/paper.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptogen.protocols import PROTOCOLS

from .plots import pyplot, save
from .table import filled

COUNTS = ("ct_pt", "ct_ct", "rotations", "hoisted_rotations", "relinearisations", "masked", "refreshes",
          "refreshes_if_always")  # fmt: skip
Run = dict[str, Any]


def latency(result: dict[str, Any]) -> str:
    """Seconds, bytes, round trips and memory of one generated token."""
    columns: list[tuple[str, Callable[[Run], str]]] = [
        ("protocol", lambda r: f"`{r['protocol']}`"),
        ("L", lambda r: str(r["length"])),
        ("offline s", lambda r: _number(r["offline_seconds_per_token"])),
        ("online s", lambda r: _number(r["online_seconds_per_token"])),
        ("total s", lambda r: _number(r["seconds_per_token"])),
        ("s/block", lambda r: _number(r["seconds_per_block"])),
        ("MB C→S", lambda r: _number(r["bytes_sent_per_token"] / 1e6)),
        ("MB S→C", lambda r: _number(r["bytes_received_per_token"] / 1e6)),
        ("round trips online", lambda r: f"{r['online_round_trips_per_token']:.0f}"),
        ("RSS client / server GB", lambda r: f"{r['peak_rss_client'] / 1e9:.2f} / {r['peak_rss_server'] / 1e9:.2f}"),
        ("blocks run", lambda r: str(r["blocks_run"])),
        ("commit", lambda r: str(r["commit"])[:8]),
    ]
    return _table(columns, _sorted(result["runs"]))


def operations(result: dict[str, Any]) -> str:
    """Operations on ciphertexts per generated token, and what the server holds."""
    columns: list[tuple[str, Callable[[Run], str]]] = [
        ("protocol", lambda r: f"`{r['protocol']}`"),
        ("L", lambda r: str(r["length"])),
        *((name.replace("_", " "), lambda r, n=name: _count(r.get(f"{n}_per_token"))) for name in COUNTS),
        ("ciphertexts in cache", lambda r: _count(r.get("cache_ciphertexts"))),
        ("Galois keys MB", lambda r: _number(r.get("galois_key_bytes", 0) / 1e6)),
    ]
    return _table(columns, [r for r in _sorted(result["runs"]) if r["protocol"] != "preprocessed"])


def ratios(result: dict[str, Any]) -> str:
    """Seconds of a generated token, one protocol over another."""
    names = sorted({name for found in result["ratios"].values() for name in found})
    rows = [
        f"| {name.replace('_', ' ')} | {' | '.join(_number(found.get(name)) for found in result['ratios'].values())} |"
        for name in names
    ]
    head = f"| ratio at L = | {' | '.join(result['ratios'])} |"
    return "\n".join([head, "|" + "---|" * (len(result["ratios"]) + 1), *rows])


def growth(result: dict[str, Any]) -> str:
    """How much more a token costs at the longest text."""
    keys = ("seconds_per_token", "online_seconds_per_token", "peak_rss_client", "peak_rss_server")
    rows = [
        f"| `{protocol}` | {g['from']} → {g['to']} | {' | '.join(f'{g[key]:.2f}' for key in keys)} |"
        for protocol, g in result["growth"].items()
    ]
    head = f"| growth, times | L | {' | '.join(key.replace('_', ' ') for key in keys)} |"
    return "\n".join([head, "|" + "---|" * (len(keys) + 2), *rows])


def page(results: list[dict[str, Any]], plots: bool = True) -> str:
    """Everything between the markers."""
    parts = []
    for result in results:
        parts += [f"**{result['shape']}, {result['layers']} blocks.** One generated token after L others.", ""]
        parts += [latency(result), "", operations(result), "", ratios(result), "", growth(result), ""]
        parts += [f"Both parties on one machine: {result['machine']}.", ""]
    if plots and results:
        parts += ["![seconds per token against length](paper-latency.svg)", "",
                  "![peak memory against length](paper-memory.svg)"]  # fmt: skip
    return "\n".join(parts).rstrip() if results else "Not measured yet."


def plot(result: dict[str, Any], folder: Path) -> None:
    """Two SVG files: seconds of a token, and peak memory, against the number of tokens before it.
    `NotBuilt`."""
    for name, label, lines in (
        ("latency", "seconds per generated token",
         [("seconds_per_token", "-", "total", 1.0), ("online_seconds_per_token", "--", "online", 1.0)]),
        ("memory", "peak memory of a process, GB",
         [("peak_rss_server", "-", "server", 1e9), ("peak_rss_client", "--", "client", 1e9)]),
    ):  # fmt: skip
        figure, axes = pyplot().subplots(figsize=(6.4, 4.0))
        for i, protocol in enumerate(p for p in PROTOCOLS if any(r["protocol"] == p for r in result["runs"])):
            mine = [r for r in _sorted(result["runs"]) if r["protocol"] == protocol]
            for key, style, what, unit in lines:
                points = [r[key] / unit for r in mine]
                axes.plot([r["length"] for r in mine], points, style, color=f"C{i}", marker="o", markersize=3,
                          label=f"{protocol}, {what}")  # fmt: skip
        lengths = sorted({r["length"] for r in result["runs"]})
        axes.set(xlabel="tokens before the generated one", ylabel=label, xticks=lengths)
        axes.set_yscale("log" if name == "latency" else "linear")
        axes.set_ylim(bottom=None if name == "latency" else 0)
        axes.set_title(f"{result['shape']}, {result['layers']} blocks")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        save(figure, folder / f"paper-{name}.svg")


def _table(columns: list[tuple[str, Callable[[Run], str]]], runs: list[Run]) -> str:
    head = [f"| {' | '.join(name for name, _ in columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(cell(run) for _, cell in columns)} |" for run in runs)])


def _sorted(runs: list[Run]) -> list[Run]:
    return sorted(runs, key=lambda r: (PROTOCOLS.index(r["protocol"]), r["length"]))


def _number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if float(value).is_integer() or value >= 10 else f"{value:.1f}"


def main() -> None:
    top = Path(__file__).resolve().parents[3]
    results = [json.loads(path.read_text()) for path in sorted((top / "benches").glob("paper-*.json"))]
    for result in results[:1]:
        plot(result, top / "docs")
    note = top / "docs" / "paper.md"
    note.write_text(filled(note.read_text(), "paper", page(results)))


if __name__ == "__main__":
    main()
