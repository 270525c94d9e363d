"""A private run of two parties in this process, and the oracle that replays its shares.

Use: run = replayed(core, tmp_path, checkpoint, plan)    # fails if logits or range events differ
    anywhere run.oracle.events, run.range_events
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cryptogen.backends.exponential import Powers
from cryptogen.backends.field import Ints, add_field, from_field
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.private import ClientBackend, ServerBackend, server_model
from cryptogen.backends.rounding import LEADING_BITS, Nearest, Replay, Shift
from cryptogen.errors import NumericFailure, ReplayError
from cryptogen.models.decoder import Want, forward, sampled_of
from cryptogen.numerics.plan import NumericPlan, tables
from cryptogen.numerics.quantise import IntegerModel, quantise
from cryptogen.protocols import PREPROCESSED
from cryptogen.session import Need
from cryptogen.weights import Checkpoint
from cryptogen.weights.canonical import canonicalise
from parties import accepted, called

ROWS = 8
Passes = list[tuple[list[int], Want]]


def passes_over(t: list[int]) -> Passes:
    """A prompt, a token, two tokens with all their logits, a token."""
    return [(t[:4], "last"), (t[4:5], "last"), (t[5:7], "all"), (t[7:ROWS], "last")]


PASSES = passes_over([5, 9, 300, 2, 7, 11, 12, 3])


@dataclass(frozen=True)
class Cut:
    """Before a pass, all rows but the first `rows` are dropped."""

    before: int
    rows: int


NO_CUT = Cut(before=-1, rows=0)


class ReplayShares(Replay):
    """Adds up the two parties' logs: truncation shares, exponentials and fractions (the server's
    are 0) modulo p, lifted shares modulo 2^64, index shares, tagged `i | k<<32 | 1<<63`, modulo
    2^k.

    The tag alone does not tell them apart (a share may look like one), but the oracle knows what it
    asks for.
    """

    def __init__(self, client: np.ndarray, server: np.ndarray) -> None:
        super().__init__([])
        if client.shape != server.shape:
            raise ReplayError(f"replay: the client's log has {client.size} words, the server's {server.size}")
        self._logs, self._at = np.stack([client, server]), 0

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        self._rest = from_field(add_field(*self._words(x.size)))
        return super().truncate(x, k, off)

    def truncate_word(self, x: Ints, k: Shift) -> Ints:
        self._rest = from_field(add_field(*self._words(x.size)))  # elements of F_p already
        return super().truncate_word(x, k)

    def lift(self, x: Ints) -> Ints:
        client, server = self._words(x.size)
        self._rest = (client + server).astype(np.int64)  # modulo 2^64
        return super().lift(x)

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        words = self._words(x.size)
        tags = words >> np.uint64(32)
        if (tags != np.uint64(1 << 31 | k)).any():
            raise ReplayError(f"replay: {x.size} indices of {k} bits expected at word {self._at - x.size}")
        self._rest = ((words & np.uint64(0xFFFFFFFF)).sum(axis=0) & np.uint64((1 << k) - 1)).astype(np.int64)
        return super().index(x, h, k)

    def leading(self, x: Ints, off: int = 0) -> Ints:
        """Leading bits are logged as indices of 24 bits."""
        words = self._words(x.size)
        if ((words >> np.uint64(32)) != np.uint64(1 << 31 | LEADING_BITS)).any():
            raise ReplayError(f"replay: {x.size} logits expected at word {self._at - x.size}")
        total = (words & np.uint64(0xFFFFFFFF)).sum(axis=0).astype(np.int64) << (64 - LEADING_BITS)
        self._rest = total >> (64 - LEADING_BITS)
        return super().leading(x, off)

    def fraction(self, x: Ints) -> Ints:
        self._rest = from_field(add_field(*self._words(x.size)))
        return super().fraction(x)

    def exponential(self, v: Powers) -> Ints:
        self._rest = from_field(add_field(*self._words(v.x.size)))
        return super().exponential(v)

    def finish(self) -> None:
        if left := self._logs.shape[1] - self._at:
            raise ReplayError(f"replay: 0 words expected to be left, {left} are")

    def _words(self, n: int) -> np.ndarray:
        words = self._logs[:, self._at : self._at + n]
        if words.shape[1] < n:
            raise ReplayError(f"replay: {n} words expected, {words.shape[1]} left")
        self._at += n
        return words


def insecure_core() -> Any:
    """A core with `insecure-trace`, named in CRYPTOGEN_TEST_CORE; without one the test is
    skipped."""
    path = os.environ.get("CRYPTOGEN_TEST_CORE")
    if not path:
        pytest.skip("CRYPTOGEN_TEST_CORE is not set: no core with insecure-trace")
    loader = importlib.machinery.ExtensionFileLoader("_core", path)
    spec = importlib.util.spec_from_loader("_core", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Pass(NamedTuple):
    """What the client got; nothing where it wanted nothing."""

    logits: Ints
    range_events: list[int]


@dataclass(frozen=True)
class Run:
    oracle: FixedBackend
    replay: ReplayShares
    passes: list[Pass]

    @property
    def range_events(self) -> int:
        return sum(sum(p.range_events) for p in self.passes)


def replayed(
    core: Any,
    tmp_path: Path,
    checkpoint: Checkpoint,
    plan: NumericPlan,
    protocol: str = PREPROCESSED,
    passes: Passes = PASSES,
    cut: Cut = NO_CUT,
    weights: IntegerModel | None = None,
    replaying: type[ReplayShares] = ReplayShares,
    prefix: Sequence[int] = (),
) -> Run:
    """Runs `passes` privately and again by the oracle, which must get the same integers and range
    events; behind a prefix of the server's, if there is one, which has none."""
    weights = weights or quantise(canonicalise(checkpoint), plan)
    oracle = FixedBackend(weights, plan, Nearest())
    if prefix:
        forward(oracle, checkpoint.config, prefix, "none")
        assert not oracle.events
    agreed = _Agreed(core, plan, cut, passes, oracle)
    client_log, server_log, private = _private_run(core, agreed, tmp_path, plan, weights, checkpoint.config, protocol)
    oracle.rounding = replay = replaying(client_log, server_log)
    for n, ((tokens, want), got) in enumerate(zip(passes, private, strict=True)):
        if n == cut.before:
            oracle.crop(cut.rows)
        if forward(oracle, checkpoint.config, tokens, want) is not None:
            assert np.array_equal(oracle.raw_logits, got.logits), f"pass {n}"
            assert oracle.range_events == got.range_events, f"pass {n}"
    replay.finish()
    run = Run(oracle, replay, private)
    assert sum(oracle.events.values()) == run.range_events  # of rows that were not sampled too: the last one was
    return run


def _private_run(
    core: Any,
    agreed: _Agreed,
    folder: Path,
    plan: NumericPlan,
    weights: IntegerModel,
    config: Any,
    protocol: str,
) -> tuple[np.ndarray, np.ndarray, list[Pass]]:
    """Both parties in threads of this process, over TLS: logs of the client and the server, what
    the client got."""
    logs: dict[str, np.ndarray] = {}
    listener = core.Listener("127.0.0.1:0", identity := core.Identity.load_or_create(str(folder / "identity")))
    model = server_model(core.ServerModelBuilder(agreed.plan), weights.parts())

    def serve() -> None:
        connection = accepted(listener)
        endpoint = connection.open(agreed.plan, str(folder / "server"), "client", "model", "plan", False, protocol)
        agreed.material(endpoint, model)
        backend = ServerBackend(endpoint, model)
        for n, (tokens, want) in enumerate(agreed.passes):
            agreed.before(n, endpoint)
            forward(backend, config, [0] * len(tokens), want)
        logs["server"] = endpoint.insecure_trace()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    connection = called(core, listener.address, identity.fingerprint)
    endpoint = connection.open(agreed.plan, str(folder / "client"), "server", "model", "plan", False, protocol)
    agreed.material(endpoint)
    backend, private = ClientBackend(endpoint, plan), []
    for n, (tokens, want) in enumerate(agreed.passes):
        agreed.before(n, endpoint)
        try:
            sampled = forward(backend, config, tokens, want) is not None
        except NumericFailure:
            sampled = True  # absurd, but they are there, and the oracle has to agree
        if not sampled:
            private.append(Pass(np.empty((0, 0), dtype=np.int64), []))
        else:
            assert backend.raw_logits is not None
            private.append(Pass(backend.raw_logits, backend.range_events))
    thread.join(600)
    return endpoint.insecure_trace(), logs["server"], private


class _Agreed:
    """What both parties do alike before the passes."""

    def __init__(self, core: Any, plan: NumericPlan, cut: Cut, passes: Passes, oracle: FixedBackend) -> None:
        self.plan, self._cut, self.passes = core.CheckedPlan(plan.to_json(), tables(plan)), cut, passes
        self._known = oracle.position
        if self._known:
            cached = [oracle.cached(layer) for layer in range(plan.model.layers)]
            self._prefix = core.Prefix(
                self.plan, *([x[what].reshape(self._known, -1) for x in cached] for what in (0, 1))
            )

    def material(self, endpoint: Any, *model: Any) -> None:
        if self._known:
            endpoint.put_prefix(self._prefix if model else self._known)
            assert endpoint.length == self._known
        rows = sum(len(tokens) for tokens, _ in self.passes)
        sampled = sum(sampled_of(len(tokens), want) for tokens, want in self.passes)
        pairs = self.plan.exponentials_needed(self._known, rows) + self.plan.exponentials_needed(self._cut.rows, 1)
        endpoint.prepare(*model, Need(rows + 5, sampled + 2, pairs, linears=rows + 5), None)
        first = min(5, rows - 1)
        endpoint.extend(first)
        endpoint.extend(rows - first)  # blocks need not be passes
        endpoint.take_logits(sampled)

    def before(self, n: int, endpoint: Any) -> None:
        if n == self._cut.before:
            endpoint.crop(self._cut.rows)
            assert (endpoint.length, endpoint.ready_rows) == (self._cut.rows, 0)
            endpoint.extend(1)
