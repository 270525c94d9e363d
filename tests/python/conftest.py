"""Tests import `tiny` from this folder; the golden files are found beside the checkout or not at
all."""

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


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def served(request, tmp_path_factory):
    """A tiny model of each kind, served to the tests of one file."""
    from served import serving

    with serving(tmp_path_factory.mktemp(request.param), request.param) as server:
        yield server


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The tiny LLaMA alone."""
    from served import serving

    with serving(tmp_path_factory.mktemp("llama")) as server:
        yield server
