"""The integer oracle: truncation, scalars, the whole decoder against float, replay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen.backends.exact import matmul, product
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.rounding import Nearest, Random, Recording, Replay, ReplayError
from cryptogen.models.canonical import Canonical, canonicalise
from cryptogen.models.decoder import forward
from cryptogen.numerics import IntegerModel, Plan, quantise
from cryptogen.numerics.calibrate import calibrate
from cryptogen.weights import load
from tiny import tiny_gpt2, tiny_llama

P = 2**64 - 2**32 + 1
TOKENS = np.random.default_rng(5).integers(0, 512, 40).tolist()


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Canonical, Plan]:
    canonical = canonicalise(load(request.param(tmp_path_factory.mktemp("model") / "m")))
    rng = np.random.default_rng(0)
    return canonical, calibrate(canonical, [rng.integers(0, 512, 64).tolist() for _ in range(4)])


@pytest.fixture(scope="module")
def integers(model: tuple[Canonical, Plan]) -> IntegerModel:
    return quantise(*model)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def outcome(x: int, client: int, k: int) -> int:
    """A1 with real shares."""
    server = (x - client) % P
    y = ((client >> k) + (server >> k) - (P >> k) + 1) % P
    return y - P if y > P // 2 else y


@given(st.integers(-(2**50), 2**50), st.integers(2**51, P - 2**51), st.integers(1, 32))
def test_the_oracle_knows_both_outcomes_of_truncation(x: int, client: int, k: int) -> None:
    Replay([[outcome(x, client, k)]]).truncate(ints(x), k)
    Replay([Nearest().truncate(ints(x), k)]).truncate(ints(x), k)
    Replay([Random(np.random.default_rng(client)).truncate(ints(x), k)]).truncate(ints(x), k)


@given(st.integers(-(2**50), 2**50), st.integers(2**51, P - 2**51), st.integers(1, 32), st.integers(4, 16))
def test_the_oracle_knows_both_outcomes_of_an_index(x: int, client: int, h: int, k: int) -> None:
    server = (x - client) % P
    j = ((client >> h) + ((server >> h) - (P >> h))) % 2**k
    Replay([[j]]).index(ints(x), h, k)
    Replay([Nearest().index(ints(x), h, k)]).index(ints(x), h, k)
    Replay([Random(np.random.default_rng(client)).index(ints(x), h, k)]).index(ints(x), h, k)


@pytest.mark.parametrize("x", [-5000, -1, 0, 1, 3, 1535, 2**40 + 77])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_random_rounding_has_the_distribution_of_shares(x: int, k: int) -> None:
    n = 200_000
    y = Random(np.random.default_rng(1)).truncate(np.full(n, x), k)
    upper = ((x + 1) % 2**k + 1) / 2**k
    assert (y - ((x + 1) >> k)).mean() == pytest.approx(upper, abs=0.006)
    assert set(np.unique(y)) <= {(x + 1) >> k, ((x + 1) >> k) + 1}
    j = Random(np.random.default_rng(2)).index(np.full(n, x), k, 8)
    assert (j == (((x + 1) >> k) & 255)).mean() == pytest.approx(upper, abs=0.006)


def test_shifts_may_differ_by_column() -> None:
    x, k = ints(100, 100, 100), ints(0, 3, 32)
    assert Nearest().truncate(x, k).tolist() == [100, 13, 0]
    y = Random(np.random.default_rng(0)).truncate(x, k)
    assert y[0] == 100
    Replay([y]).truncate(x, k)


def test_replay_refuses_what_cannot_be() -> None:
    with pytest.raises(ReplayError, match="expected 0 or 1, got 2"):
        Replay([[2]]).truncate(ints(100), 8)
    with pytest.raises(ReplayError, match="expected 0 or 15, got 1"):
        Replay([[1]]).index(ints(100), 8, 4)
    with pytest.raises(ReplayError, match="2 values expected"):
        Replay([[0]]).truncate(ints(1, 2), 8)
    leftover = Replay([[0, 0]])
    leftover.truncate(ints(1), 8)
    with pytest.raises(ReplayError, match="1 are"):
        leftover.finish()


def test_products_are_exact_beyond_one_float() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(-(2**45), 2**45, (3, 50))
    w = rng.integers(-(2**15) + 1, 2**15, (7, 50)).astype(np.int16)
    want = [[sum(int(a) * int(b) for a, b in zip(r, c, strict=True)) for c in w] for r in x]
    assert product(x, w).tolist() == want
    with pytest.raises(OverflowError):
        matmul(np.full((1, 50), 2**62), np.ones((50, 1)), 2.0**15)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_logits_follow_float(model: tuple[Canonical, Plan], integers: IntegerModel, seed: int | None) -> None:
    canonical, plan = model
    want = forward(FloatBackend(canonical), canonical.config, TOKENS, "all")
    rounding = Nearest() if seed is None else Random(np.random.default_rng(seed))
    backend = FixedBackend(integers, plan, rounding)
    got = forward(backend, canonical.config, TOKENS, "all")
    assert want is not None and got is not None
    assert np.abs(got - want).mean() < 0.005 * want.std()
    assert np.abs(got - want).max() < 0.03 * want.std()
    assert not backend.events
    assert np.array_equal(backend.raw_logits / 2.0**plan.logit_bits, got)


def test_prefill_and_decode_replayed(model: tuple[Canonical, Plan], integers: IntegerModel) -> None:
    canonical, plan = model
    calls = [TOKENS[:1], TOKENS[1:20], TOKENS[20:21], TOKENS[21:24]]
    recording = Recording(Random(np.random.default_rng(9)))
    backend = FixedBackend(integers, plan, recording)
    first = [forward(backend, canonical.config, c, "last") for c in calls]
    assert backend.position == 24
    stream = np.concatenate([v.reshape(-1) for v in recording.values])
    replay = Replay(np.array_split(stream, 7))
    backend = FixedBackend(integers, plan, replay)
    for want, call in zip(first, calls, strict=True):
        assert np.array_equal(forward(backend, canonical.config, call, "last"), want)
    replay.finish()


def test_split_calls_equal_one_call_without_chance(model: tuple[Canonical, Plan], integers: IntegerModel) -> None:
    canonical, plan = model
    whole = forward(FixedBackend(integers, plan, Nearest()), canonical.config, TOKENS, "last")
    backend = FixedBackend(integers, plan, Nearest())
    for t in TOKENS:
        last = forward(backend, canonical.config, [t], "last")
    assert np.array_equal(last, whole)


def test_row_zero_attends_to_itself(model: tuple[Canonical, Plan], integers: IntegerModel) -> None:
    canonical, plan = model
    recording = Recording(Nearest())
    backend = FixedBackend(integers, plan, recording)
    qkv = backend.linear(backend.norm(backend.embed(TOKENS[:1]), "layers.0.attn_norm"), "layers.0.qkv")
    before = len(recording.values)
    x = backend.attention(qkv, 0)
    assert len(recording.values) - before == (2 if plan.rope else 0)
    m = plan.model
    shift = np.array(plan.linears["layers.0.o"].in_shift)
    v = qkv[0, -m.kv_dim :].reshape(m.kv_heads, -1).repeat(m.heads // m.kv_heads, axis=0).reshape(-1)
    assert np.array_equal(x[0], v << shift)


def test_surprises_are_counted(model: tuple[Canonical, Plan], integers: IntegerModel) -> None:
    canonical, plan = model
    backend = FixedBackend(integers, plan, Nearest())
    h = backend.embed(TOKENS[:4])
    backend.norm(h * 64, "layers.0.attn_norm")
    assert backend.events["norm"] == 4 and backend.events["bound"] > 0
    u = np.zeros((1, plan.linears["layers.0.up"].d_out), dtype=np.int64)
    backend.events = Counter()
    spec = plan.activations[0]
    u[0, 0] = spec.offset + (1 << (spec.h + spec.k))
    backend.activation(u, 0)
    assert backend.events == {"activation": 1}


def test_golden_tokens(shared: Path) -> None:
    """Greedy tokens of the golden checkpoints, near ties aside."""
    for name in ("tiny-gpt2", "tiny-llama"):
        checkpoint = load(shared / "golden" / name)
        canonical = canonicalise(checkpoint)
        rng = np.random.default_rng(0)
        size = min(64, checkpoint.config.context)
        windows = [rng.integers(0, checkpoint.config.vocab, size).tolist() for _ in range(4)]
        plan = calibrate(canonical, windows)
        want = forward(FloatBackend(checkpoint), checkpoint.config, windows[0], "all")
        got = forward(
            FixedBackend(quantise(canonical, plan), plan, Random(np.random.default_rng(3))),
            checkpoint.config, windows[0], "all",
        )  # fmt: skip
        assert want is not None and got is not None
        two = np.sort(want, axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 0.1
        assert np.array_equal(want.argmax(axis=1)[clear], got.argmax(axis=1)[clear])
