"""Two parties of this process over `_core` itself: what a script could do with their steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

import cryptogen
from cryptogen.backends.private import server_model
from cryptogen.bench.shapes import quick_plan
from cryptogen.numerics.plan import NumericPlan, tables
from cryptogen.numerics.quantise import quantise
from cryptogen.protocols import PREPROCESSED
from cryptogen.session import Need
from cryptogen.weights.canonical import Canonical, canonicalise

_core = pytest.importorskip("cryptogen._core", reason="the Rust core is not built (make build)")

T = TypeVar("T")


@dataclass
class Parties:
    """Both ends of a connection, over stores in `folder`."""

    client: Any  # endpoints
    server: Any
    model: Any  # the server's weights
    numeric: NumericPlan
    checked: Any
    canonical: Canonical
    folder: Path

    def material(self, rows: int, sampled: int) -> None:
        """Prepares and takes what a session of `rows` rows needs, on both sides."""
        pairs = self.checked.exponentials_needed(0, rows)

        def make(endpoint: Any, *model: Any) -> None:
            endpoint.prepare(*model, Need(rows + 5, sampled + 2, pairs + 1, linears=rows + 5), None)
            endpoint.extend(rows)
            endpoint.take_logits(sampled)

        both(lambda: make(self.client), lambda: make(self.server, self.model))


def both(client: Callable[[], T], server: Callable[[], Any]) -> T:
    """Runs the server's part in a thread, the client's here; the client's result."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    result = client()
    thread.join(600)
    if failed:
        raise failed[0]
    return result


def accepted(listener: Any) -> Any:
    """The server's end of the next connection, agreed on what is served."""
    connection = None
    while connection is None:
        connection = listener.accept(1.0)
    connection.welcome(None)
    connection.agree("model", "plan", "tables")
    return connection


def called(core: Any, address: str, fingerprint: str) -> Any:
    """The client's end, likewise."""
    connection = core.ClientConnection.connect(address, fingerprint, None)
    connection.hello("client", None)
    connection.agree("model", "plan", "tables")
    return connection


def open_parties(folder: Path, path: Path, protocol: str = PREPROCESSED) -> Parties:
    """A client and a server of the tiny model at `path`."""
    checkpoint = cryptogen.load(path)
    numeric, canonical = quick_plan(checkpoint), canonicalise(checkpoint)
    weights, checked = quantise(canonical, numeric), _core.CheckedPlan(numeric.to_json(), tables(numeric))
    model = server_model(_core.ServerModelBuilder(checked), weights.parts())
    identity = _core.Identity.load_or_create(str(folder / "identity"))
    listener = _core.Listener("127.0.0.1:0", identity)
    served: list[Any] = []

    def serve() -> None:
        connection = accepted(listener)
        store = str(folder / "server")
        served.append(connection.open(checked, store, "client", "model", "plan", False, protocol))

    def call() -> Any:
        connection = called(_core, listener.address, identity.fingerprint)
        return connection.open(checked, str(folder / "client"), "server", "model", "plan", False, protocol)

    client = both(call, serve)
    return Parties(client, served[0], model, numeric, checked, canonical, folder)
