"""What plots of the documentation share. They need matplotlib: `pip install cryptogen[bench]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptogen.errors import NotBuilt


def pyplot() -> Any:
    """matplotlib's, which writes the same SVG file for the same figures. `NotBuilt`."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise NotBuilt("plots need matplotlib: pip install 'cryptogen[bench]'") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cryptogen"
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    """As an SVG file without a date in it."""
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
