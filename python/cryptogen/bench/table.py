"""`python -m cryptogen.bench.table`: benches/*.json into the table between the markers of README.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
COLUMNS = (
    "shape", "context", "network", "kernels", "batch", "offline s/token", "online s/token", "offline MB/token",
    "online MB/token", "round trips/token", "prompt s", "setup GB (once)", "RSS client / server GB",
    "blocks measured", "runs", "commit",
)  # fmt: skip


def row(f: dict[str, Any]) -> str:
    """One line of the table."""
    cells = (
        f["shape"], f["context"], _network(f), f["kernels"], f["batch_tokens"],
        f"{f['offline_seconds_per_token']:.2f}", f"{f['online_seconds_per_token']:.2f}",
        f"{f['offline_bytes_per_token'] / 1e6:.1f}", f"{f['online_bytes_per_token'] / 1e6:.2f}",
        f"{f['round_trips_per_token']:.0f}", _prompt(f), f"{f['setup_bytes'] / 1e9:.2f}",
        f"{f['peak_rss_client'] / 1e9:.1f} / {f['peak_rss_server'] / 1e9:.1f}",
        f.get("extrapolated_from_blocks", "all"), f.get("runs", 1), f["commit"][:8],
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _network(f: dict[str, Any]) -> str:
    """With a draft, how much of it was accepted."""
    draft = f", {f['drafted']} drafted, {f['acceptance_rate']:.0%} accepted" if "drafted" in f else ""
    return f"{f.get('network', 'loopback')}{draft}"


def _prompt(f: dict[str, Any]) -> str:
    """Seconds of the prompt, material included; older results lack it."""
    return f"{f['prefill_seconds']:.1f}" if "prefill_seconds" in f else ""


def table(figures: list[dict[str, Any]]) -> str:
    """Markdown; machines below."""
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    machines = sorted({f["machine"] for f in figures})
    return "\n".join([*head, *map(row, figures), "", f"Both parties on one machine: {'; '.join(machines)}."])


def _decoded(folder: Path) -> list[Path]:
    """Outputs of `bench decode`; those of `bench paper`, `bench peers` and `bench ranges` are not such."""
    return [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(("paper-", "peers-", "ranges-"))]


def main() -> None:
    root = Path(__file__).resolve().parents[3]
    figures = [json.loads(path.read_text()) for path in _decoded(root / "benches")]
    readme = root / "README.md"
    pattern = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    content = table(figures) if figures else "Not measured yet."
    readme.write_text(pattern.sub(lambda _: f"{BEGIN}\n{content}\n{END}", readme.read_text()))


if __name__ == "__main__":
    main()
