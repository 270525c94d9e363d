"""`python -m cryptogen.bench.table`: benches/*.json into the tables of README.md, in brief, and of
docs/figures.md, and into its plot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .plots import pyplot, save

NAME = "figures"  # of the markers
Figures = dict[str, Any]
Cells = Mapping[str, Callable[[Figures], str]]  # heading → what stands below it


def _network(f: Figures) -> str:
    """With a draft, how much of it was accepted."""
    draft = f", {f['drafted']} drafted, {f['acceptance_rate']:.0%} accepted" if "drafted" in f else ""
    return f"{f.get('network', 'loopback')}{draft}"


def _pair(name: str, unit: float = 1.0, digits: int = 1) -> Callable[[Figures], str]:
    """The client's figure and the server's."""
    return lambda f: " / ".join(f"{f[f'{name}_{party}'] / unit:.{digits}f}" for party in ("client", "server"))


WHOLE: Cells = {
    "shape": lambda f: f"{f['shape']}",
    "context": lambda f: f"{f['context']}",
    "network": _network,
    "kernels": lambda f: f"{f['kernels']}",
    "batch, linear": lambda f: f"{f['batch_tokens']}, {f['linear_tokens']}",
    "offline s/token": lambda f: f"{f['offline_seconds_per_token']:.2f}",
    "online s/token": lambda f: f"{f['online_seconds_per_token']:.2f}",
    "offline MB/token": lambda f: f"{f['offline_bytes_per_token'] / 1e6:.1f}",
    "online MB/token": lambda f: f"{f['online_bytes_per_token'] / 1e6:.2f}",
    "round trips/token": lambda f: f"{f['round_trips_per_token']:.0f}",
    "prompt s, online": lambda f: f"{f['prefill_seconds']:.1f}, {f['prefill_online_seconds']:.1f}",
    "setup MB, s": lambda f: f"{f['setup_bytes'] / 1e6:.2f}, {f['setup_seconds']:.1f}",
    "CPU s/token client / server": _pair("cpu_seconds_per_token", digits=2),
    "RSS client / server GB": _pair("peak_rss", 1e9, 2),
    "blocks measured": lambda f: f"{f.get('extrapolated_from_blocks', 'all')}",
    "runs": lambda f: f"{f.get('runs', 1)}",
    "commit": lambda f: f["commit"][:8],
}


def _joined(between: str, *columns: str) -> Callable[[Figures], str]:
    """Several columns of the whole table in one."""
    return lambda f: between.join(WHOLE[column](f) for column in columns)


# What tells the rows apart, and what a user waits and pays for.
BRIEF: Cells = {
    "shape, context": _joined(", ", "shape", "context"),
    "network": WHOLE["network"],
    "kernels; batch, linear": _joined("; ", "kernels", "batch, linear"),
    "offline s/token": WHOLE["offline s/token"],
    "online s/token": WHOLE["online s/token"],
    "MB/token offline / online": _joined(" / ", "offline MB/token", "online MB/token"),
}
PAGES = {"README.md": BRIEF, "docs/figures.md": WHOLE}


def row(f: Figures, cells: Cells = WHOLE) -> str:
    """One line of a table."""
    return f"| {' | '.join(cell(f) for cell in cells.values())} |"


def table(figures: list[Figures], cells: Cells = WHOLE) -> str:
    """Markdown; machines below."""
    if not figures:
        return "Not measured yet."
    head = [f"| {' | '.join(cells)} |", "|" + "---|" * len(cells)]
    machines = sorted({f["machine"] for f in figures})
    rows = (row(f, cells) for f in figures)
    return "\n".join([*head, *rows, "", f"Both parties on one machine: {'; '.join(machines)}."])


def measured(folder: Path) -> list[Figures]:
    """Outputs of `bench decode`; those of `bench paper`, `bench peers` and `bench ranges` are not
    such."""
    others = ("paper-", "peers-", "ranges-")
    paths = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(others)]
    return sorted((json.loads(p.read_text()) for p in paths), key=lambda f: (f["shape"], f["context"]))


def by_length(figures: list[Figures]) -> dict[str, list[Figures]]:
    """Shape → its results on the loopback with the widest kernels and one size of batches, by
    context: what three contexts or more were measured of."""

    def alike(f: Figures) -> tuple[object, ...]:
        return f["shape"], f["kernels"], f["linear_tokens"], f.get("network"), "drafted" in f

    kinds: dict[tuple[object, ...], list[Figures]] = {}
    for f in figures:
        kinds.setdefault(alike(f), []).append(f)
    plain = {kind: found for kind, found in kinds.items() if kind[3:] == (None, False) and len(found) > 2}
    return {str(kind[0]): sorted(found, key=lambda f: f["context"]) for kind, found in plain.items()}


def plot(figures: list[Figures], path: Path) -> None:
    """An SVG file: seconds and MB of a token against the tokens before it. `NotBuilt` without
    matplotlib."""
    figure, (seconds, megabytes) = pyplot().subplots(1, 2, figsize=(9.6, 4.0))
    for i, (shape, found) in enumerate(by_length(figures).items()):
        contexts = [f["context"] for f in found]
        for axes, what, unit in ((seconds, "seconds", 1.0), (megabytes, "bytes", 1e6)):
            for phase, style in (("offline", "-"), ("online", "--")):
                points = [f[f"{phase}_{what}_per_token"] / unit for f in found]
                axes.plot(contexts, points, style, color=f"C{i}", marker="o", markersize=3, label=f"{shape}, {phase}")
    for axes, label in ((seconds, "seconds per token"), (megabytes, "MB per token, both directions")):
        axes.set(xlabel="tokens before it", ylabel=label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save(figure, path)


def filled(page: str, name: str, content: str) -> str:
    """The page with other content between its markers `<!-- name:begin -->` and
    `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{content}\n{end}", page, flags=re.DOTALL)


def main() -> None:
    root = Path(__file__).resolve().parents[3]
    figures = measured(root / "benches")
    for name, cells in PAGES.items():
        page = root / name
        page.write_text(filled(page.read_text(), NAME, table(figures, cells)))
    plot(figures, root / "docs" / "lengths.svg")


if __name__ == "__main__":
    main()
