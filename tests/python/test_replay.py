"""A private run, bit for bit: the oracle that replays both parties' truncation shares gets the same logits.

Needs a core built with `insecure-trace` (`make test` builds one and names it in CRYPTOGEN_TEST_CORE).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryptogen
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.private import ClientBackend, ServerBackend
from cryptogen.backends.rounding import Ints, Replay, ReplayError, Shift
from cryptogen.bench.shapes import quick_plan
from cryptogen.errors import MissingPackage
from cryptogen.models.canonical import canonicalise
from cryptogen.models.decoder import forward
from cryptogen.numerics.plan import Plan, tables
from cryptogen.numerics.quantise import IntegerModel, quantise
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED
from cryptogen.session.plans import find_plan
from cryptogen.weights import Checkpoint
from cryptogen.weights.packages import find_packaged
from tiny import tiny_gpt2, tiny_llama

P = 2**64 - 2**32 + 1
WORDS = np.dtype(np.uint64)
ROWS = 8
Passes = list[tuple[list[int], str]]


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
    """Adds up the two parties' logs: truncation shares modulo p; index shares, tagged `i | k<<32 | 1<<63`, modulo 2^k.

    The tag alone does not tell them apart (a share may look like one), but the oracle knows what it asks for.
    """

    def __init__(self, client: np.ndarray, server: np.ndarray) -> None:
        super().__init__([])
        if client.shape != server.shape:
            raise ReplayError(f"replay: the client's log has {client.size} words, the server's {server.size}")
        self._logs, self._at = np.stack([client, server]), 0

    def truncate(self, x: Ints, k: Shift) -> Ints:
        client, server = self._words(x.size)
        total = client + server  # modulo 2^64
        wrapped = total < client
        total = total + wrapped * np.uint64(2**32 - 1)  # 2^64 = 2^32 − 1 modulo p
        total = np.where(total >= np.uint64(P), total - np.uint64(P), total)
        negative = total > np.uint64(P // 2)
        values = np.where(negative, -(np.uint64(P) - total).astype(np.int64), total.astype(np.int64))
        self._rest = values
        return super().truncate(x, k)

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        words = self._words(x.size)
        tags = words >> np.uint64(32)
        if (tags != np.uint64(1 << 31 | k)).any():
            raise ReplayError(f"replay: {x.size} indices of {k} bits expected at word {self._at - x.size}")
        self._rest = ((words & np.uint64(0xFFFFFFFF)).sum(axis=0) & np.uint64((1 << k) - 1)).astype(np.int64)
        return super().index(x, h, k)

    def finish(self) -> None:
        if left := self._logs.shape[1] - self._at:
            raise ReplayError(f"replay: 0 words expected to be left, {left} are")

    def _words(self, n: int) -> np.ndarray:
        words = self._logs[:, self._at : self._at + n]
        if words.shape[1] < n:
            raise ReplayError(f"replay: {n} words expected, {words.shape[1]} left")
        self._at += n
        return words


@pytest.fixture(scope="module")
def core() -> Any:
    path = os.environ.get("CRYPTOGEN_TEST_CORE")
    if not path:
        pytest.skip("CRYPTOGEN_TEST_CORE is not set: no core with insecure-trace")
    loader = importlib.machinery.ExtensionFileLoader("_core", path)
    spec = importlib.util.spec_from_loader("_core", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(("make", "overrides"), [
    (tiny_gpt2, {}), (tiny_llama, {}), (tiny_llama, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [PREPROCESSED, ENCRYPTED_CACHE])
def test_the_oracle_replays_a_private_run(
    core: Any, tmp_path: Path, make: Any, overrides: dict[str, Any], protocol: str
) -> None:
    checkpoint = cryptogen.load(make(tmp_path / "model", **overrides))
    oracle = _replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), protocol)
    assert not oracle.events


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_oracle_replays_rows_that_were_dropped(core: Any, tmp_path: Path, make: Any) -> None:
    checkpoint = cryptogen.load(make(tmp_path / "model"))
    oracle = _replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), cut=Cut(before=3, rows=5))
    assert oracle.position == 6 and not oracle.events


@pytest.mark.long
def test_the_oracle_replays_smollm2(core: Any, tmp_path: Path) -> None:
    try:
        checkpoint = cryptogen.load(find_packaged("smollm2"))
    except MissingPackage:
        pytest.skip("SmolLM2 is not in the cache: run `make demo` once")
    assert checkpoint.tokenizer is not None
    # Text, not any ids: a row outside its norm's windows wraps modulo p, which the oracle's 64-bit integers do not.
    passes = passes_over(checkpoint.tokenizer.encode("The capital of France is Paris, and", special=True))
    oracle = _replayed(core, tmp_path, checkpoint, find_plan(checkpoint, None), passes=passes)
    assert not oracle.events


def _replayed(
    core: Any,
    tmp_path: Path,
    checkpoint: Checkpoint,
    plan: Plan,
    protocol: str = PREPROCESSED,
    passes: Passes = PASSES,
    cut: Cut = NO_CUT,
) -> FixedBackend:
    """Runs `passes` privately and again by the oracle, which must get the same integers."""
    weights = quantise(canonicalise(checkpoint), plan)
    run = _private_run(core, _Agreed(core, plan, cut), tmp_path, plan, weights, checkpoint.config, protocol, passes)
    client_log, server_log, private = run
    replay = ReplayShares(client_log, server_log)
    oracle = FixedBackend(weights, plan, replay)
    for n, ((tokens, want), logits) in enumerate(zip(passes, private, strict=True)):
        if n == cut.before:
            oracle.truncate(cut.rows)
        forward(oracle, checkpoint.config, tokens, want)
        assert (oracle.raw_logits == logits).all()
    replay.finish()
    return oracle


def _private_run(
    core: Any,
    agreed: _Agreed,
    folder: Path,
    plan: Plan,
    weights: IntegerModel,
    config: Any,
    protocol: str,
    passes: Passes,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Both parties in threads of this process, over TLS: logs of the client and the server, raw logits per pass."""
    logs: dict[str, np.ndarray] = {}
    listener = core.Listener("127.0.0.1:0", identity := core.Identity.load_or_create(str(folder / "identity")))
    model = core.ServerModel(agreed.plan, weights.matrices, weights.biases, weights.embed, weights.pos)
    key = core.ServerKey.load_or_create(str(folder / "key"))

    def serve() -> None:
        connection = None
        while connection is None:
            connection = listener.accept(1.0)
        connection.welcome(None)
        connection.agree("model", "plan", "tables")
        endpoint = connection.open(agreed.plan, str(folder / "server"), "client", "model", "plan", key, False, protocol)
        endpoint.send_model(model, None)
        agreed.material(endpoint)
        backend = ServerBackend(endpoint, model)
        for n, (tokens, want) in enumerate(passes):
            agreed.before(n, endpoint)
            backend.sampled = _sampled(tokens, want)
            forward(backend, config, [0] * len(tokens), want)
        logs["server"] = endpoint.insecure_trace()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    connection = core.ClientConnection.connect(listener.address, identity.fingerprint, None)
    connection.hello("client", None)
    connection.agree("model", "plan", "tables")
    endpoint = connection.open(agreed.plan, str(folder / "client"), "server", "model", "plan", False, protocol)
    endpoint.receive_model(str(folder / "encrypted"), None)
    agreed.material(endpoint)
    backend, private = ClientBackend(endpoint, plan), []
    for n, (tokens, want) in enumerate(passes):
        agreed.before(n, endpoint)
        backend.sampled = _sampled(tokens, want)
        forward(backend, config, tokens, want)
        private.append(backend.raw_logits)
    thread.join(600)
    return endpoint.insecure_trace(), logs["server"], private


class _Agreed:
    """What both parties do alike before the passes."""

    def __init__(self, core: Any, plan: Plan, cut: Cut) -> None:
        self.plan, self._cut = core.Plan(plan.to_json(), tables(plan)), cut

    def material(self, endpoint: Any) -> None:
        sampled = sum(_sampled(tokens, want) for tokens, want in PASSES)
        tables = self.plan.exponentials_needed(0, ROWS) + self.plan.exponentials_needed(self._cut.rows, 1)
        endpoint.prepare(ROWS + 5, sampled + 2, tables, None)
        endpoint.extend(5)
        endpoint.extend(ROWS - 5)  # blocks need not be passes
        endpoint.take_heads(sampled)

    def before(self, n: int, endpoint: Any) -> None:
        if n == self._cut.before:
            endpoint.truncate(self._cut.rows)
            assert (endpoint.length, endpoint.ready_rows) == (self._cut.rows, 0)
            endpoint.extend(1)


def _sampled(tokens: list[int], want: str) -> int:
    return 1 if want == "last" else len(tokens)


def test_shares_that_do_not_add_up_are_noticed() -> None:
    words = np.array([5, 6], dtype=WORDS)
    with pytest.raises(ReplayError):
        ReplayShares(words, words[:1])
    with pytest.raises(ReplayError, match="expected"):
        ReplayShares(words, words).truncate(np.array([1000, 1000]), 2)
    with pytest.raises(ReplayError, match="left"):
        ReplayShares(words, words).finish()
