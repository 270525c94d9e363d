"""Sampling: the distribution, what a seed promises under noise, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen import errors
from cryptogen.sampling import Sampler

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))
RUNS = 5_000


def chi_square(tokens: list[int], p: np.ndarray) -> float:
    """Pearson's statistic, relative to its 99.99 % quantile (Wilson and Hilferty): above 1 is
    another distribution."""
    expected = p[p > 0] * len(tokens)
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[p == 0].sum() == 0
    freedom = max(len(expected) - 1, 1)
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.72 * np.sqrt(2 / (9 * freedom))) ** 3
    return float(((counts[p > 0] - expected) ** 2 / expected).sum() / quantile)


def dense(sampler: Sampler, logits: np.ndarray) -> np.ndarray:
    p = np.zeros(len(logits))
    tokens, p_of = sampler.distribution(logits)
    p[tokens] = p_of
    return p


def draws(sampler: Sampler, logits: np.ndarray = LOGITS, n: int = RUNS) -> list[int]:
    return [sampler.sample(logits, position) for position in range(n)]


def test_greedy() -> None:
    assert Sampler().sample(LOGITS, 0) == 1
    assert Sampler().sample([0.0, 1.0, 1.0], 0) == 1  # ties: lower id
    assert Sampler(temperature=1.0, top_k=1, seed=3).sample(LOGITS, 0) == 1
    assert Sampler(temperature=1e-300, seed=3).sample(LOGITS, 0) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((1.0,), [0.1, 0.4, 0.05, 0.3, 0.15]),
        ((0.5,), np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()),
        ((1.0, 2), [0, 4 / 7, 0, 3 / 7, 0]),
        ((1.0, None, 0.5), [0, 4 / 7, 0, 3 / 7, 0]),
        ((1.0, None, 0.4), [0, 1, 0, 0, 0]),
        ((1.0, 3, 0.8), [0, 8 / 14, 0, 6 / 14, 0]),
    ],
)
def test_distribution(options: tuple[Any, ...], expected: list[float]) -> None:
    """Over the positions of one seed, and over the seeds of one position."""
    np.testing.assert_allclose(dense(Sampler(*options), LOGITS), expected, atol=1e-12)
    assert chi_square(draws(Sampler(*options, seed=0)), np.array(expected)) < 1
    seeds = [Sampler(*options, **{"seed": seed}).sample(LOGITS, 7) for seed in range(RUNS)]
    assert chi_square(seeds, np.array(expected)) < 1
    other = chi_square(draws(Sampler(1.2, seed=0)), np.exp(LOGITS))
    assert other > 1  # the test would notice


def test_positions_are_independent() -> None:
    tokens = np.array(draws(Sampler(1.0, seed=0)))
    pairs = list(tokens[:-1] * 5 + tokens[1:])
    p = np.exp(LOGITS)
    assert chi_square(pairs, np.outer(p, p).ravel()) < 1


def test_seed_repeats() -> None:
    def draw(seed: int | None) -> list[int]:
        return draws(Sampler(1.0, seed=seed), n=20)

    assert draw(7) == draw(7) != draw(8)
    assert draw(None) != draw(None)
    flat = np.zeros(10_000)  # no seed has at some position what another has at another
    assert Sampler(1.0, seed=5).sample(flat, 1) != Sampler(1.0, seed=5 + (1 << 32)).sample(flat, 0)
    for huge in (1 << 64, 10**22, 1 << 200):  # of any size, and every bit counts
        assert draw(huge) == draw(huge) != draw(huge + 1) != draw(huge % (1 << 64))
    backwards = [Sampler(1.0, seed=7).sample(LOGITS, p) for p in reversed(range(20))]
    assert backwards[::-1] == draw(7)  # the position counts, not the order of calls


@pytest.mark.parametrize("slope", [1.8, 0.9], ids=["peaked", "flat"])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_noise_in_the_last_bits_rarely_changes_a_choice(slope: float, top_p: float) -> None:
    """Logits of two private runs differ by about 0.01: at most 4 % of the choices may."""
    rng = np.random.default_rng(0)
    vocab, runs = 2_000, 400
    base = rng.permutation(-slope * np.log(np.arange(1, vocab + 1)))
    one, two = Sampler(1.0, top_p=top_p, seed=1), Sampler(1.0, top_p=top_p, seed=2)

    def run(sampler: Sampler) -> np.ndarray:
        return np.array([sampler.sample(base + 0.01 * rng.standard_normal(vocab), n) for n in range(runs)])

    assert (run(one) != run(one)).mean() <= 0.04
    assert (run(one) != run(two)).mean() >= 0.5


# --- drafted tokens

P = np.log(np.array([[0.1, 0.4, 0.05, 0.3, 0.15], [0.5, 0.1, 0.2, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]]))
Q = np.log(np.array([[0.3, 0.2, 0.3, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]]))


@pytest.mark.parametrize("options", [(1.0, None, 1.0), (0.7, None, 1.0), (1.0, 3, 1.0), (1.3, None, 0.8)])
def test_verified_tokens_are_distributed_as_sampled_ones(options: tuple[float, int | None, float]) -> None:
    sampler = Sampler(*options, seed=11)
    drafted = [[sampler.sample(q, n * len(P) + i) for i, q in enumerate(Q)] for n in range(RUNS)]
    chosen = [sampler.verify(tokens, P, n * len(P)) for n, tokens in enumerate(drafted)]
    for place, logits in enumerate(P):
        tokens = [c[place] for c in chosen if len(c) > place]
        assert len(tokens) > RUNS // 50
        assert chi_square(tokens, dense(sampler, logits)) < 1
    # the test would notice: drafted tokens that nobody rejects are distributed otherwise
    assert chi_square([d[0] for d in drafted], dense(sampler, P[0]) + 1e-9) > 1


def test_drafted_tokens_are_accepted_nearly_as_often_as_they_can_be() -> None:
    """The common noise matters: drawn with other noise, they would be as often as two strangers
    agree."""
    sampler, other = Sampler(1.0, seed=11), Sampler(1.0, seed=12)
    p, q = np.exp(P[0]), np.exp(Q[0])
    most = np.minimum(p, q).sum()
    rates = [
        np.mean([len(sampler.verify([by.sample(Q[0], n)], P[:2], n)) == 2 for n in range(RUNS)])
        for by in (sampler, other)
    ]
    assert most / (2 - most) - 0.02 < rates[0] < most + 0.02  # (1 − d)/(1 + d) and 1 − d, d the distance of p and q
    assert rates[1] == pytest.approx((p * q).sum(), abs=0.02)


def test_greedy_accepts_the_best_tokens_only() -> None:
    sampler = Sampler()
    assert sampler.verify([1, 4], P, 9) == [1, 0]  # the second is not the best of its row: the best follows
    assert sampler.verify([1, 0], P, 9) == [1, 0, 0]  # and one more where all are accepted
    assert sampler.verify([], P[:1], 9) == [1]
    with pytest.raises(errors.InputError):
        sampler.verify([1], np.array([[np.nan, 1.0], [0.0, 1.0]]), 9)


# --- candidates and refusals


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=40),
    st.floats(0.05, 5),
    st.integers(1, 50),
    st.floats(0.01, 1.0),
)
def test_candidates_are_the_best_tokens(scores: list[float], temperature: float, top_k: int, top_p: float) -> None:
    sampler = Sampler(temperature, top_k, top_p)
    tokens, p = sampler.distribution(np.array(scores))
    assert 1 <= len(tokens) <= min(top_k, len(scores))
    assert p.sum() == pytest.approx(1.0)
    assert min(scores[t] for t in tokens) >= max((s for t, s in enumerate(scores) if t not in tokens), default=-99)
    assert sampler.sample(scores, 0) in tokens


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(errors.InputError):
        Sampler(**options)


def test_bad_logits() -> None:
    for bad in ([], [[1.0, 2.0]], [1.0, float("nan")]):
        with pytest.raises(errors.InputError):
            Sampler().sample(bad, 0)
