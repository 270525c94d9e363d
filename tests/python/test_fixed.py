"""The integer oracle: truncation, scalars, the whole decoder against float, replay."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen.backends.exact import product, scores_of, weighted_values
from cryptogen.backends.exponential import HeadPowers, Powers
from cryptogen.backends.field import Ints, P, minus, plus, times, total
from cryptogen.backends.fixed import FixedBackend, Place
from cryptogen.backends.float import FloatBackend
from cryptogen.backends.rounding import (
    STEP,
    Nearest,
    Random,
    Recording,
    Replay,
    ReplayError,
    index_shares,
    lifted_shares,
    truncated_shares,
    truncated_word_shares,
)
from cryptogen.backends.scalars import ScalarTables
from cryptogen.calibration.choose import calibrate
from cryptogen.models.decoder import forward
from cryptogen.numerics import IntegerModel, NumericPlan, quantise
from cryptogen.numerics.exponential import MODULUS_BITS, PRIMES
from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import Activation, Attention, Head, Window, tables
from cryptogen.weights import load
from cryptogen.weights.canonical import Canonical, canonicalise
from tiny import tiny_gpt2, tiny_llama

TOKENS = np.random.default_rng(5).integers(0, 512, 40).tolist()

Model = tuple[Canonical, NumericPlan]


@pytest.fixture(scope="module", params=[tiny_gpt2, tiny_llama])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    canonical = canonicalise(load(request.param(tmp_path_factory.mktemp("model") / "m")))
    rng = np.random.default_rng(0)
    return canonical, calibrate(canonical, [rng.integers(0, 512, 64).tolist() for _ in range(4)])


@pytest.fixture(scope="module")
def integers(model: Model) -> IntegerModel:
    return quantise(*model)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def signed(x: int) -> int:
    """The representative of x modulo p in (−p/2, p/2)."""
    return x % P - P if x % P > P // 2 else x % P


def word(x: int) -> int:
    """The representative of x modulo 2^64 in [−2^63, 2^63)."""
    return (x + 2**63) % 2**64 - 2**63


# What two parties compute, with Python's integers: x shared as the client's number and the rest
# (A1, A2, A6).


def shared_truncation(x: int, client: int, k: int) -> int:
    server = (x - client) % P
    return signed((client >> k) + (server >> k) - (P >> k) + 1) if k else signed(x)


def shared_word_truncation(x: int, client: int, k: int) -> int:
    server = (x - client) % 2**64
    return signed((client >> k) + (server >> k) - 2 ** (64 - k) + (1 if k else 0))


def shared_index(x: int, client: int, h: int, k: int) -> int:
    server = (x - client) % P
    return ((client >> h) + (server >> h) - (P >> h)) % 2**k


def shared_leading(x: int, client: int) -> int:
    server = (x - client) % P
    total = 2**24 * client // P + 2**24 * server // P + 1
    return (total + 2**23) % 2**24 - 2**23


def mantissa(fraction: int) -> int:
    """A9: `2^(10 + fraction/2^F)`, nearly."""
    u = 1308915
    for c in (3792916, 11674113, 16775963):
        u = c + (u * fraction >> 12)
    return (u + 2**13) >> 14


def shared_exponential(x: int, client: int, n: int, bottom: int, shift: int, other: int) -> int:
    """A9: the client's number and a number of its result modulo Q given."""
    server = (x - client) % P
    ends, value, modulus = [client, server - P + bottom * 2**F], 0, 1
    for prime in PRIMES[:n]:
        factor = 1
        for end in ends:
            factor = factor * mantissa(end % 2**F) * pow(2, end // 2**F, prime) % prime
        value += (factor - value) * pow(modulus, -1, prime) % prime * modulus
        modulus *= prime
    c, s = other % modulus, (value - other) % modulus
    return signed((c >> shift) % P + (((s - modulus) >> shift) + 1) % P)


def powers(x: int | np.ndarray, fraction: int | np.ndarray, n: int, bottom: int, shift: int) -> Powers:
    head = Head("own", n, bottom, shift, 0, None)  # type: ignore[arg-type]
    x = np.atleast_1d(np.asarray(x, dtype=np.int64))
    return HeadPowers(Attention((head,))).of(x, np.broadcast_to(np.int64(fraction), x.shape), 0)


def shared_lift(x: int, client: int) -> int:
    return word(client + (x - client) % P - P)


# Any size is as likely as any other; the ends of every range, and what lies beside them, are
# likely.
near = st.sampled_from([0, 2**40, P // 2, 2**62]).flatmap(lambda x: st.integers(x - 3, x + 3))
numbers = st.one_of(st.integers(0, 63).flatmap(lambda b: st.integers(-(2**b), 2**b)), near, near.map(lambda x: -x))
residues = numbers.map(signed)
words = st.one_of(numbers, st.just(-(2**63)), st.just(2**63 - 1)).map(word)
clients = st.one_of(st.integers(0, P - 1), numbers.map(lambda x: x % P))


@given(residues, clients, st.integers(0, 32))
def test_the_oracle_knows_every_outcome_of_truncation(x: int, client: int, k: int) -> None:
    want = shared_truncation(x, client, k)
    assert truncated_shares(ints(x), np.array([client], dtype=np.uint64), ints(k)).tolist() == [want]
    if usual(x, client, (x - client) % P, P):
        assert want in ((x,) if k == 0 else ((x + 1) >> k, ((x + 1) >> k) + 1))
    if usual(x, client, (x - client) % P, P) or abs(x) >= 2**40:
        assert Replay([[want]]).truncate(ints(x), k).tolist() == [want]
    Replay([Random(np.random.default_rng(client)).truncate(ints(x), k)]).truncate(ints(x), k)


@given(words, st.one_of(st.integers(0, 2**64 - 1), numbers.map(lambda x: x % 2**64)), st.integers(0, 32))
def test_the_oracle_knows_every_outcome_of_truncating_words(x: int, client: int, k: int) -> None:
    want = shared_word_truncation(x, client, k)
    assert truncated_word_shares(ints(x), np.array([client], dtype=np.uint64), ints(k)).tolist() == [want]
    if usual(x, client, (x - client) % 2**64, 2**64):
        assert want in ((signed(x),) if k == 0 else ((x + 1) >> k, ((x + 1) >> k) + 1))
    if usual(x, client, (x - client) % 2**64, 2**64) or abs(x) >= 2**40:
        assert Replay([[want]]).truncate_word(ints(x), k).tolist() == [want]
    Replay([Random(np.random.default_rng(client % P)).truncate_word(ints(x), k)]).truncate_word(ints(x), k)


@given(residues, clients, st.integers(1, 32), st.integers(4, 16))
def test_the_oracle_knows_every_outcome_of_an_index(x: int, client: int, h: int, k: int) -> None:
    want = shared_index(x, client, h, k)
    assert (index_shares(ints(x), np.array([client], dtype=np.uint64), ints(h)) % 2**k).tolist() == [want]
    either = [((x + 1) >> h) % 2**k, (((x + 1) >> h) - 1) % 2**k]
    if usual(x, client, (x - client) % P, P):
        assert want in either
    elif client + (x - client) % P == x and h + k <= 32:
        assert want in either  # so it does not matter that the shares did not wrap
    if usual(x, client, (x - client) % P, P) or abs(x) >= 2**40:
        assert Replay([[want]]).index(ints(x), h, k).tolist() == [want]
    Replay([Nearest().index(ints(x), h, k)]).index(ints(x), h, k)
    Replay([Random(np.random.default_rng(client)).index(ints(x), h, k)]).index(ints(x), h, k)


heads = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.just(n), st.integers(1, MODULUS_BITS[n] - 50), st.integers(1, MODULUS_BITS[n] - 58), st.integers(0, 2**380)
    )
)
scores = st.one_of(residues, st.integers(-400 * 2**F, 400 * 2**F))  # of any size; or as far as exponentials reach


@given(scores, clients, heads)
def test_the_oracle_knows_every_outcome_of_an_exponential(x: int, client: int, head: tuple[int, int, int, int]) -> None:
    n, bottom, shift, other = head
    want = shared_exponential(x, client, n, bottom, shift, other)
    v = powers(x, client % 2**F, n, bottom, shift)
    (exact,) = v._replace(rare=np.ones(1, dtype=np.bool_)).exactly()
    usually = usual(x, client, (x - client) % P, P)
    assert exact.truncated(exact.value(not usually), other % exact.modulus) == want
    likely = other % exact.modulus > exact.value(not usually)  # shares of V wrap as they nearly always do
    if (usually or abs(x) >= 2**40) and (v.rare[0] or likely):
        assert Replay([[want]]).exponential(v).tolist() == [want]
    for rounding in (Nearest(), Random(np.random.default_rng(client))):
        Replay([rounding.exponential(v)]).exponential(v)


@given(st.integers(-(2**40), 2**40), clients, st.integers(2, 3))
def test_for_primes_of_small_order_it_does_not_matter_how_shares_wrap(x: int, client: int, n: int) -> None:
    (exact,) = powers(x, client % 2**F, n, 59, 67)._replace(rare=np.ones(1, dtype=np.bool_)).exactly()
    value, other = exact.value(), exact.value(wrapped=True)
    step = exact._replace(x=x + (1 if x < 0 else -1)).value()
    assert other == step  # the exponent is off by one unit, 2^-12
    if -59 < x / 2**F < 30:
        assert abs(other / value - 1) < 2**-9


@given(st.integers(2, 6), st.floats(-1, 1), st.integers(0, 2**F - 1))
def test_exponentials_are_right_above_the_bottom(n: int, where: float, fraction: int) -> None:
    bottom = MODULUS_BITS[n] - 66
    shift = 2 * 10 + bottom - 12
    bits = where * bottom if where < 0 else where * 30  # from the anchor
    x = max(round(bits * 2**F), (1 - bottom) * 2**F)
    (got,) = Nearest().exponential(powers(x, fraction, n, bottom, shift)).tolist()
    ideal = 2.0 ** (12 + x / 2**F)
    assert abs(got - ideal) <= 0.5 + 1.2e-3 * ideal


@pytest.mark.parametrize("above", [-11.3, -4.7, 0.2, 7.1, 29.0])
def test_exponentials_are_truncated_without_bias(above: float) -> None:
    count, v = 400_000, powers(round((above - 12) * 2**F), 777, 2, 59, 67)
    ideal = float(v.mantissa[0]) * 2.0 ** float(v.exponent[0] - 67)
    many = Powers(*(np.broadcast_to(column, count) for column in v))
    got = Random(np.random.default_rng(5)).exponential(many)
    assert got.min() >= int(ideal) and got.max() <= int(ideal) + 1
    assert got.mean() == pytest.approx(ideal, abs=0.004 if ideal > 0.01 else 0.0005)


def test_large_exponentials_are_truncated_wrongly_as_often_as_their_shares_wrap() -> None:
    """V = Q/8: it is an eighth of Q off, which is a multiple of nothing."""
    v = powers(round((125.644 - 3 - 79) * 2**F), 0, 2, 59, 67)
    many = Powers(*(np.broadcast_to(column, 20_000) for column in v))
    got = Random(np.random.default_rng(6)).exponential(many)
    (exact,) = v.exactly()
    right = (got == exact.value() >> 67) | (got == (exact.value() >> 67) + 1)
    assert 1 - right.mean() == pytest.approx(exact.value() / exact.modulus, abs=0.01)
    assert exact.value() / exact.modulus == pytest.approx(1 / 8, abs=0.002)


def test_fractions_of_the_clients_shares_are_uniform() -> None:
    found = Random(np.random.default_rng(7)).fraction(np.zeros(200_000, dtype=np.int64))
    assert found.min() == 0 and found.max() == 2**F - 1 and found.mean() == pytest.approx(2**11, rel=0.01)


@given(residues, clients)
def test_the_oracle_knows_every_outcome_of_leading_bits(x: int, client: int) -> None:
    want, exact = shared_leading(x, client), 2**24 * x // P
    assert (want - exact) % 2**24 in (0, 1) and -(2**23) <= want < 2**23
    assert Replay([[want]]).leading(ints(x)).tolist() == [want]
    for other in (exact - 1, exact + 2):
        with pytest.raises(ReplayError, match="logit"):
            Replay([[(other + 2**23) % 2**24 - 2**23]]).leading(ints(x))
    for rounding in (Nearest(), Random(np.random.default_rng(client))):
        Replay([rounding.leading(ints(x))]).leading(ints(x))
    away = (int(Nearest().leading(ints(x))[0]) * P - 2**24 * x) % (2**24 * P)
    assert min(away, 2**24 * P - away) <= P // 2 + 2**24


def test_random_leading_bits_are_unbiased() -> None:
    x = np.full(100_000, 5 * STEP + 3 * STEP // 8)
    assert Random(np.random.default_rng(3)).leading(x).mean() == pytest.approx(5.375, abs=0.01)


@pytest.mark.parametrize("bound", [1, 2**22, 2**22 + 1, 6005373801, 2**33, 2**40 - 1, 2**62, 2**62 + 1, 2**63])
def test_no_logit_within_the_bound_is_absurd_and_most_garbage_is(model: Model, bound: int) -> None:
    plan = dataclasses.replace(model[1], logit_bound=bound)
    shift, rng = plan.logit_shift, np.random.default_rng(4)
    if 2**22 < bound <= 2**62:
        assert 2**61 < bound << shift <= 2**62
        uniform = rng.integers(0, P, 1000, dtype=np.uint64).astype(object)
        garbage = [shared_leading(int(y), int(c)) for y, c in zip(uniform, uniform[::-1], strict=True)]
        assert sum(abs(z) > plan.coarse_logit_bound for z in garbage) > 450
    clients = [0, 1, P - 1, *map(int, rng.integers(0, P, 100, dtype=np.uint64))]
    for y in (bound, -bound):
        if abs(y << shift) < P // 2:
            assert max(abs(shared_leading(y << shift, c)) for c in clients) <= plan.coarse_logit_bound


@given(residues, clients)
def test_the_oracle_knows_every_outcome_of_lifting(x: int, client: int) -> None:
    want = shared_lift(x, client)
    assert lifted_shares(ints(x), np.array([client], dtype=np.uint64), ints(0)).tolist() == [want]
    assert (want == x) == usual(x, client, (x - client) % P, P)
    if want == x or abs(x) >= 2**40:
        assert Replay([[want]]).lift(ints(x)).tolist() == [want]
    Replay([Nearest().lift(ints(x))]).lift(ints(x))
    Replay([Random(np.random.default_rng(client)).lift(ints(x))]).lift(ints(x))


@given(st.integers(-(2**62), 2**62), st.integers(1, 32), st.integers(1, 2**64 - 1))
def test_what_a_truncation_left_is_lifted_right(x: int, k: int, seed: int) -> None:
    """Also if it was truncated wrongly; shares of 0 and 1 on the server's side are the exception
    (A6)."""
    client = int(np.random.default_rng(seed).integers(0, P, dtype=np.uint64))
    server = (x - client) % P
    c, s = client >> k, ((server >> k) - (P >> k) + 1) % P
    if s > 1:
        assert word(c + s - P) == shared_truncation(x, client, k)


def usual(x: int, client: int, server: int, modulus: int) -> bool:
    """Shares wrap the way they nearly always do."""
    return client + server == x + modulus


@pytest.mark.parametrize("modulus", [P, 2**64])
def test_large_numbers_wrap_as_often_as_shares_do(modulus: int) -> None:
    n, k = 40_000, 12
    for x in (2**62, -(2**61), 2**40 + 5):
        rounding = Random(np.random.default_rng(4))
        y = (rounding.truncate if modulus == P else rounding.truncate_word)(np.full(n, x), k)
        wrong = np.abs(y - (x >> k)) > 2
        assert wrong.mean() == pytest.approx(abs(x) / modulus, abs=0.01)
        assert set((y[~wrong] - ((x + 1) >> k)).tolist()) <= {0, 1}


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
    with pytest.raises(ReplayError, match="lifted share"):
        Replay([[101]]).lift(ints(100))
    for fraction in (-1, 2**F):
        with pytest.raises(ReplayError, match="fraction"):
            Replay([[fraction]]).fraction(ints(5))
    anchor = powers(0, 0, 2, 59, 67)
    assert [Replay([[e]]).exponential(anchor).tolist() for e in (4096, 4097)] == [[4096], [4097]]
    below, high = powers(-80 << F, 777, 2, 59, 67), powers(63 << F, 0, 2, 59, 67)
    for v, value in ((anchor, 4095), (anchor, 4098), (below, 0), (high, 2**62 + 7)):
        with pytest.raises(ReplayError, match="exponential"):
            Replay([[value]]).exponential(v)
    for big in (2**41, -(2**41) + 7, 2**60):  # what no shares give; the other wrap is 2^52 away
        for got in (5, (big >> 12) - 1, (big >> 12) + 3, (big >> 12) + 2**51, (big >> 12) + 2**52 + 4):
            with pytest.raises(ReplayError):
                Replay([[got]]).truncate(ints(big), 12)
            with pytest.raises(ReplayError):
                Replay([[got]]).truncate_word(ints(big), 12)
        with pytest.raises(ReplayError):
            Replay([[(big >> 12) + 3 & 255]]).index(ints(big), 12, 8)
        with pytest.raises(ReplayError):
            Replay([[big + 2**32]]).lift(ints(big))
    leftover = Replay([[0, 0]])
    leftover.truncate(ints(1), 8)
    with pytest.raises(ReplayError, match="1 are"):
        leftover.finish()


def random_ints(rng: np.random.Generator, bits: int, *shape: int) -> np.ndarray:
    """Up to `bits` bits and a sign, at most p/2."""
    return rng.integers(-(P // 2), P // 2, shape, endpoint=True) >> (63 - bits)


@pytest.mark.parametrize("bits", [63, 62, 53, 50, 40, 30, 20, 8])
@pytest.mark.parametrize("other", [63, 46, 20])
def test_products_and_sums_are_exact_for_operands_of_any_size(bits: int, other: int) -> None:
    rng = np.random.default_rng(bits)
    a, b = random_ints(rng, bits, 200), random_ints(rng, other, 200)
    a[:2], b[:2] = [P // 2 >> (63 - bits), -(P // 2) >> (63 - bits)], P // 2 >> (63 - other)
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert times(a, b).tolist() == [signed(x * y) for x, y in pairs]
    assert plus(a, b).tolist() == [signed(x + y) for x, y in pairs]
    assert minus(a, b).tolist() == [signed(x - y) for x, y in pairs]
    m = random_ints(rng, bits, 7, 50)
    assert total(m, 1).tolist() == [signed(sum(map(int, row))) for row in m]
    assert total(m, 0).tolist() == [signed(sum(map(int, row))) for row in m.T]
    w = rng.integers(-(2**15) + 1, 2**15, (9, 50)).astype(np.int16)
    m[3] = 1  # a tame row beside wild ones
    assert product(m, w).tolist() == [[dot(row, column) for column in w] for row in m]
    q, k = random_ints(rng, bits, 4, 6, 5), random_ints(rng, other, 8, 3, 5)
    want = [[[dot(q[t, g], k[j, g // 2]) for j in range(8)] for g in range(6)] for t in range(4)]
    assert scores_of(q, k).tolist() == want
    e = random_ints(rng, bits, 4, 6, 8)
    want = [[[dot(e[t, g], k[:, g // 2, d]) for d in range(5)] for g in range(6)] for t in range(4)]
    assert weighted_values(e, k).tolist() == want


def dot(a: Any, b: Any) -> int:
    return signed(sum(int(x) * int(y) for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_logits_follow_float(model: Model, integers: IntegerModel, seed: int | None) -> None:
    canonical, plan = model
    want = forward(FloatBackend(canonical), canonical.config, TOKENS, "all")
    rounding = Nearest() if seed is None else Random(np.random.default_rng(seed))
    backend = FixedBackend(integers, plan, rounding)
    got = forward(backend, canonical.config, TOKENS, "all")
    assert want is not None and got is not None
    assert np.abs(got - want).mean() < 0.005 * want.std()
    assert np.abs(got - want).max() < 0.03 * want.std()
    assert not backend.events
    assert np.array_equal(backend.raw_logits / 2.0**plan.coarse_logit_bits, got)


def test_prefill_and_decode_replayed(model: Model, integers: IntegerModel) -> None:
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


def test_split_calls_equal_one_call_without_chance(model: Model, integers: IntegerModel) -> None:
    canonical, plan = model
    whole = forward(FixedBackend(integers, plan, Nearest()), canonical.config, TOKENS, "last")
    backend = FixedBackend(integers, plan, Nearest())
    for t in TOKENS:
        last = forward(backend, canonical.config, [t], "last")
    assert np.array_equal(last, whole)


def test_row_zero_attends_to_itself(model: Model, integers: IntegerModel) -> None:
    canonical, plan = model
    recording = Recording(Nearest())
    backend = FixedBackend(integers, plan, recording)
    qkv = backend.linear(backend.norm(backend.embed(TOKENS[:1], 1), "layers.0.attn_norm"), "layers.0.qkv")
    before = len(recording.values)
    x = backend.attention(qkv, 0)
    assert len(recording.values) - before == (2 if plan.rope[0] else 0)
    m = plan.model
    shift = np.array(plan.linears["layers.0.o"].in_shift)
    v = qkv[0, -m.kv_dim :].reshape(m.kv_heads, -1).repeat(m.heads // m.kv_heads, axis=0).reshape(-1)
    assert np.array_equal(x[0], v << shift)


def test_norms_outside_their_range_are_counted(model: Model, integers: IntegerModel) -> None:
    _, plan = model
    backend = FixedBackend(integers, plan, Nearest())
    h = backend.embed(TOKENS[:4], 1)
    x = backend.norm(h, "layers.0.attn_norm")
    assert not backend.events

    def resized(rows: np.ndarray, square: np.ndarray, pre_shift: int) -> np.ndarray:
        """Rows with these sums of squares."""
        was = (rows.astype(np.float64) ** 2).sum(axis=1) / 4.0**pre_shift
        return np.rint(rows * np.sqrt(square / was)[:, None]).astype(np.int64)

    norm = plan.norms[0]
    hi, lo = norm.scalar.hi, norm.scalar.lo
    assert lo is not None
    end = 2.0 ** (hi.mu + hi.h + hi.k)
    loud = resized(h, np.array([0.45, 0.55, 0.7, 0.45]) * end, norm.pre_shift)
    y = backend.norm(loud, "layers.0.attn_norm")
    assert backend.events == {Place("norm", 0): 2} and backend.excess[Place("norm", 0)] == pytest.approx(1.4, rel=0.01)
    assert np.abs(y / np.abs(y).max(axis=1)[:, None] - x / np.abs(x).max(axis=1)[:, None]).max() < 0.01
    assert (y[1] ** 2.0).mean() == pytest.approx((x[1] ** 2.0).mean(), rel=0.02)  # flagged, although it is right
    norm = plan.norms[-1]
    lo = norm.scalar.lo
    assert lo is not None
    low = next(f["low"] for f in plan.functions if f["tables"][0] == lo.a)
    edge = 2.0 ** (lo.mu + lo.h) * low
    quiet = resized(h[1:], np.array([1.1, 0.9, 0.5]) * edge, norm.pre_shift)
    backend.norm(quiet, "final_norm")
    assert backend.events[Place("norm", 2)] == 2 and backend.excess[Place("norm", 2)] == pytest.approx(2, rel=0.1)
    backend.logits(backend.norm(h, "final_norm"))
    assert backend.range_events == [0, 1, 2, 1]  # of rows 0…3, all sampled


def test_events_wait_for_the_next_row_that_is_sampled(model: Model, integers: IntegerModel) -> None:
    canonical, plan = model
    loud, scalar = [TOKENS[i] for i in (0, 3)], plan.norms[0].scalar.hi
    square = (integers.embed[loud] / 2.0**plan.embed.shift) ** 2
    embed = integers.embed.copy()
    top = 2.0 ** (scalar.mu + scalar.h + scalar.k + 2 * plan.norms[0].pre_shift)
    embed[loud] = embed[loud] * np.sqrt(0.75 * top / square.sum(axis=1))[:, None]
    backend = FixedBackend(dataclasses.replace(integers, embed=embed, pos=None), plan, Nearest())
    seen = []
    for tokens, want in ((TOKENS[:3], "none"), (TOKENS[3:4], "none"), (TOKENS[4:7], "last"), (TOKENS[3:5], "all")):
        if forward(backend, canonical.config, tokens, want) is not None:
            seen.append((backend.range_events, sum(backend.events.values())))
    (first, early), (both, late) = seen
    assert len(first) == 1 and early == first[0] >= 2  # of rows 0 and 3, sampled with row 6
    assert len(both) == 2 and sum(both) == late - early and both[0] >= 1
    backend.crop(2)
    forward(backend, canonical.config, TOKENS[4:5], "last")
    assert sum(backend.events.values()) == late + backend.range_events[0]


@pytest.mark.parametrize("rounding", [Nearest(), Random(np.random.default_rng(1))])
def test_scores_below_the_bottom_clear_their_head(
    model: Model, integers: IntegerModel, rounding: Nearest | Random
) -> None:
    """The key of row 1 is turned until its score is below those that the exponential is right for:
    that is garbage, and so is σ."""
    _, plan = model
    heads = [[dataclasses.replace(head, anchor="own") for head in a.heads] for a in plan.attention]
    plan = dataclasses.replace(plan, attention=tuple(Attention(tuple(layer)) for layer in heads))
    m = plan.model
    for g, head in enumerate(plan.attention[0].heads):
        found: list[int] = []
        cleared: list[list[int]] = []
        for bits in (1 - head.bottom, -21 - head.bottom):  # mantissas of 1 have 20 zeros
            backend = FixedBackend(integers, plan, rounding)
            qkv = np.zeros((3, m.q_dim + 2 * m.kv_dim), dtype=np.int64)
            at, kv = m.head_dim // 2 - 1, g // (m.heads // m.kv_heads)  # the last pair of a head hardly turns
            qkv[2, g * m.head_dim + at] = 1 << F
            qkv[1, m.q_dim + kv * m.head_dim + at] = bits << F
            qkv[:, m.q_dim + m.kv_dim :] = 1 << F
            backend._rows, backend._end = np.zeros(3, dtype=np.int64), 3
            out = backend.attention(qkv, 0).reshape(3, m.heads, m.head_dim)
            cleared.append(np.flatnonzero(~out[2].any(axis=1)).tolist())
            found.append(backend.events[Place("sigma", 0, g)])
            assert backend._rows.tolist() == [0, 0, backend.events.total()]
        assert found[0] == 0 and found[1] >= 1 and cleared == [[], [g]]
        assert backend.excess[Place("sigma", 0, g)] > 2


def test_what_lies_outside_its_window_becomes_nothing(model: Model, integers: IntegerModel) -> None:
    """From the window's end on, however far; and garbage, but for what the net or the selector of
    the fine range takes for small."""
    _, plan = model
    made = tables(plan)
    for scalar in (plan.norms[0].scalar, *(head.scalar for head in plan.attention[0].heads)):
        cleared, kept = (ScalarTables([scalar], made, cleared=is_cleared) for is_cleared in (True, False))
        m = ints(5, 11, 4003)[:, None] << scalar.hi.end - 2
        for rounding in (Nearest(), Random(np.random.default_rng(5))):
            rho, events = cleared(m, rounding)
            assert not rho.any() and (events > 0).all()
            assert kept(m, rounding)[0].any()
        garbage = np.random.default_rng(3).integers(-(P // 2), P // 2, (200_000, 1))
        rho, events = cleared(garbage, Nearest())
        passed = 4 / 2**12 + (0.0 if scalar.hi.z is None else float(made[scalar.hi.z].mean()))
        assert (rho != 0).mean() == pytest.approx(passed, rel=0.3)
        assert (events == 0).mean() < passed


class Failing(Nearest):
    """The next truncation of its first number fails, when it shall: shares wrapped the other way
    (A1)."""

    fails = False

    def truncate(self, x: Ints, k: Any, off: int = 0) -> Ints:
        y = super().truncate(x, k, off)
        if self.fails:
            y.flat[0] += P >> int(np.ravel(k)[0])
            self.fails = False
        return y


class FailingBackend(FixedBackend):
    """One number that enters the matrix `site` is truncated wrongly, once."""

    site = ""

    def linear(self, x: Ints, site: str) -> Ints:
        if site == self.site and isinstance(self.rounding, Failing):
            self.rounding.fails, self.site = True, ""
        return super().linear(x, site)


@pytest.mark.parametrize("site", ["layers.0.o", "layers.0.up", "layers.1.o"])
def test_a_row_that_is_lost_stays_alone(model: Model, integers: IntegerModel, site: str) -> None:
    """A truncation fails in row 6: its logits are absurd, no later row is flagged, and all are what
    they would be but for one row that they cannot attend to."""
    canonical, plan = model
    right = FixedBackend(integers, plan, Nearest())
    lost = FailingBackend(integers, plan, Failing())
    for backend in (right, lost):
        forward(backend, canonical.config, TOKENS[:6], "none")
    lost.site = site
    expected = np.asarray(forward(right, canonical.config, TOKENS[6:7], "last"))
    forward(lost, canonical.config, TOKENS[6:7], "last")
    assert lost.range_events[0] > 0 and not lost.rounding.fails  # type: ignore[attr-defined]
    assert np.abs(lost.raw_logits).max() > plan.coarse_logit_bound
    expected, got = (np.asarray(forward(b, canonical.config, TOKENS[7:12], "all")) for b in (right, lost))
    assert lost.range_events == [0] * 5
    spread = expected.std(axis=1)
    assert (np.abs(got - expected).max(axis=1) < 2 * spread).all()
    assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(got, expected, strict=True))


def test_sums_outside_their_window_are_counted(model: Model, integers: IntegerModel) -> None:
    _, plan = model
    heads = FixedBackend(integers, plan, Nearest())._heads[0]
    for g, head in enumerate(plan.attention[0].heads):
        hi = head.scalar.hi
        end = 1 << (hi.mu + hi.h + hi.k)
        assert head.bits == 12
        sigma = np.full((5, plan.model.heads), 1 << 12, dtype=np.int64)
        sigma[:, g] = [1 << 12, 1 << 9, end // 2 - (1 << hi.mu + hi.h), end // 2 + (1 << hi.mu + hi.h), end // 8 * 5]
        rho, events = heads.scalar(sigma, Nearest())
        assert events[:, g].tolist() == [0, 1, 0, 1, 1] and events.sum() == 3
        ideal = rho[0, g] * 2.0**12 / sigma[:, g]  # right in the upper half too: flagged because of what is above
        assert (np.abs(rho[[0, 2, 3, 4], g] / ideal[[0, 2, 3, 4]] - 1) < 0.1).all()
        assert heads.scalar.outside(sigma[[3, 4], g], g) == pytest.approx(1.25, rel=0.01)
        assert heads.scalar.outside(sigma[[1], g], g) > 2


def guarded(plan: NumericPlan) -> NumericPlan:
    """With open windows in layer 1: the first half of the neurons with a guard that flags, the
    others with zeros."""
    functions, tables_ = list(plan.functions), plan.tables
    windows, spec = [], plan.activations[1]
    for guard in (1, 2):
        f = next(f for f in functions if f["tables"][0] == spec.windows[0].a)
        count = len(f["tables"]) + 1
        ids = list(range(tables_, tables_ + count))
        functions.append({**f, "guard": guard, "tables": ids})
        windows.append(Window(f["h"], ids[0], ids[1], None if plan.model.gated else ids[2], ids[-1]))
        tables_ += count
    of = tuple(int(i >= plan.model.ff // 2) for i in range(plan.model.ff))
    activations = (plan.activations[0], Activation(spec.k, tuple(windows), of))
    changed = dataclasses.replace(plan, activations=activations, functions=tuple(functions), tables=tables_)
    return NumericPlan.from_json(changed.to_json())


def test_activations_outside_their_window_are_counted(model: Model, integers: IntegerModel) -> None:
    _, plan = model
    plan = guarded(plan)
    backend = FixedBackend(integers, plan, Nearest())
    half, ff = 1 << (plan.activations[1].windows[0].h + plan.activations[1].k - 1), plan.model.ff
    u = np.zeros((4, plan.linears["layers.1.up"].d_out), dtype=np.int64)
    # the outer quarters: met from half the window's half on, on both sides; and from beyond, once
    # around
    u[:, 0] = [half // 2 - 2, half // 2, -half // 2 - 2, 2 * half - half // 2 - 2]
    u[0, 2] = -half // 2
    u[1, 1], u[2, 2] = half - 1, -half
    u[:, ff - 1] = 5 * half  # a neuron of the second window: no events
    backend._rows = np.zeros(4, dtype=np.int64)
    backend.activation(u, 1)
    assert backend._rows.tolist() == [0, 2, 2, 1] and backend.events == {Place("activation", 1): 5}
    assert backend.excess[Place("activation", 1)] == pytest.approx(1.5, rel=0.01)
    backend.activation(u, 0)  # a layer without guards
    assert backend.events == {Place("activation", 1): 5}


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
