"""Tests import `tiny` from this folder; the golden files are found beside the checkout or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden logits and data that are too large or not ours to commit."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"{SHARED} is absent")
    return SHARED
