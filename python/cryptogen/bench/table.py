"""`python -m cryptogen.bench.table`: benches/*.json into the tables of README.md, in brief, and of
docs/figures.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "figures"  # of the markers
Figures = dict[str, Any]
Cells = Mapping[str, Callable[[Figures], str]]  # heading → what stands below it


def _network(f: Figures) -> str:
    """With a draft, how much of it was accepted."""
    draft = f", {f['drafted']} drafted, {f['acceptance_rate']:.0%} accepted" if "drafted" in f else ""
    return f"{f.get('network', 'loopback')}{draft}"


def _prompt(f: Figures) -> str:
    """Seconds of the prompt, material included; older results lack it."""
    return f"{f['prefill_seconds']:.1f}" if "prefill_seconds" in f else ""


WHOLE: Cells = {
    "shape": lambda f: f"{f['shape']}",
    "context": lambda f: f"{f['context']}",
    "network": _network,
    "kernels": lambda f: f"{f['kernels']}",
    "batch": lambda f: f"{f['batch_tokens']}",
    "offline s/token": lambda f: f"{f['offline_seconds_per_token']:.2f}",
    "online s/token": lambda f: f"{f['online_seconds_per_token']:.2f}",
    "offline MB/token": lambda f: f"{f['offline_bytes_per_token'] / 1e6:.1f}",
    "online MB/token": lambda f: f"{f['online_bytes_per_token'] / 1e6:.2f}",
    "round trips/token": lambda f: f"{f['round_trips_per_token']:.0f}",
    "prompt s": _prompt,
    "setup GB (once)": lambda f: f"{f['setup_bytes'] / 1e9:.2f}",
    "RSS client / server GB": lambda f: f"{f['peak_rss_client'] / 1e9:.1f} / {f['peak_rss_server'] / 1e9:.1f}",
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
    "kernels, batch": _joined(", ", "kernels", "batch"),
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
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*.json")) if not p.name.startswith(others)]


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


if __name__ == "__main__":
    main()
