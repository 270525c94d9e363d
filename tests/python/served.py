"""A tiny served model for tests of two parties: in a thread, or in a process of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tiny import tiny_gpt2, tiny_llama

pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")

import cryptogen  # noqa: E402
from cryptogen.bench.shapes import quick_plan  # noqa: E402
from cryptogen.session.plans import beside  # noqa: E402
from cryptogen.weights import Checkpoint  # noqa: E402

MAKERS = {"llama": tiny_llama, "gpt2": tiny_gpt2}
ACCESS_TOKEN = "an access token for tests"


@dataclass(frozen=True)
class Served:
    """Where a server listens and what it serves."""

    address: str
    fingerprint: str
    folder: Path  # of the server's data
    model: cryptogen.weights.Checkpoint  # type: ignore[name-defined]

    def client(self, data: Path, **options: object) -> cryptogen.Client:
        options = {"fingerprint": self.fingerprint, "access_token": ACCESS_TOKEN} | options
        return cryptogen.Client(self.address, data_dir=data, **options)  # type: ignore[arg-type]


def model_with_plan(folder: Path, kind: str = "llama", **overrides: object) -> Path:
    """A tiny model's folder with a plan beside it."""
    path = MAKERS[kind](folder / kind, **overrides)
    quick_plan(cryptogen.load(path)).save(beside(path))
    return path


@contextmanager
def serving(folder: Path, kind: str = "llama", **options: object) -> Iterator[Served]:
    """Serves a tiny model (or the one that `model` is or names) from a thread of this process."""
    model = options.pop("model", None) or model_with_plan(folder, kind)
    if isinstance(model, str | Path):
        model = cryptogen.load(model)
    assert isinstance(model, Checkpoint)
    server = cryptogen.Server(model, data_dir=folder / "data", **({"access_token": ACCESS_TOKEN} | options))  # type: ignore[arg-type]
    ready, found = threading.Event(), []

    def serve() -> None:
        server.serve("127.0.0.1:0", lambda *where: (found.extend(where), ready.set()))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Served(found[0], found[1], folder / "data", model)
    finally:
        server.stop()
        thread.join(10)


def cursors(data: Path) -> dict[str, int]:
    """Spent records per pool of the one store below a party's data folder."""
    states = sorted(data.glob("**/state.json"))
    assert len(states) == 1, states
    return {name: pool["cursor"] for name, pool in json.loads(states[0].read_text())["pools"].items()}
