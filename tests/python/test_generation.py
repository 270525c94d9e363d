"""Sampling and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.evaluate import agreement, compare, mean_nll, windows
from cryptogen.models.canonical import canonicalise
from cryptogen.sampling import Sampler, should_stop
from cryptogen.weights import load
from tiny import random_tokens, tiny_gpt2

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def frequencies(sampler: Sampler, n: int = 4000) -> np.ndarray:
    return np.bincount([sampler.sample(LOGITS) for _ in range(n)], minlength=5) / n


def test_greedy() -> None:
    assert Sampler().sample(LOGITS) == 1
    assert Sampler().sample([0.0, 1.0, 1.0]) == 1  # ties: lower id
    assert Sampler(temperature=1.0, top_k=1, seed=3).sample(LOGITS) == 1


def test_distributions() -> None:
    np.testing.assert_allclose(frequencies(Sampler(1.0, seed=0)), [0.1, 0.4, 0.05, 0.3, 0.15], atol=0.03)
    np.testing.assert_allclose(frequencies(Sampler(1.0, top_k=2, seed=0)), [0, 4 / 7, 0, 3 / 7, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(Sampler(1.0, top_p=0.5, seed=0)), [0, 4 / 7, 0, 3 / 7, 0], atol=0.03)
    np.testing.assert_allclose(frequencies(Sampler(1.0, top_p=0.4, seed=0)), [0, 1, 0, 0, 0])
    squared = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(frequencies(Sampler(0.5, seed=0)), squared, atol=0.03)


def test_seed_repeats() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(1.0, seed=seed)
        return [sampler.sample(LOGITS) for _ in range(20)]

    assert draw(7) == draw(7) != draw(8)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=40),
    st.floats(0.05, 5),
    st.integers(1, 50),
    st.floats(0.01, 1.0),
)
def test_candidates_are_the_best_tokens(scores: list[float], temperature: float, top_k: int, top_p: float) -> None:
    tokens, p = Sampler(temperature, top_k, top_p).distribution(np.array(scores))
    assert 1 <= len(tokens) <= min(top_k, len(scores))
    assert p.sum() == pytest.approx(1.0)
    assert min(scores[t] for t in tokens) >= max((s for t, s in enumerate(scores) if t not in tokens), default=-99)


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
            Sampler().sample(bad)


def test_should_stop() -> None:
    assert should_stop(2, {2}, 1, 10)
    assert should_stop(5, {2}, 10, 10)
    assert not should_stop(5, {2}, 9, 10)


def test_windows() -> None:
    assert windows(list(range(10)), 3, 3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for n, size in ((4, 3), (0, 3), (1, 1)):
        with pytest.raises(errors.InputError):
            windows(list(range(10)), n, size)


def test_mean_nll() -> None:
    uniform = np.zeros((3, 8))
    assert mean_nll(uniform, [1, 2, 3]) == pytest.approx(np.log(8))
    certain = np.eye(8)[[2, 3, 0]] * 100  # [3, 8]: predicts 2 then 3
    assert mean_nll(certain, [1, 2, 3]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(errors.InputError):
        mean_nll(uniform, [1, 2])


def test_near_ties_are_tolerated_and_nothing_else() -> None:
    reference = np.array([[1.00, 0.97, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 5.0]])
    candidate = np.array([[0.97, 1.00, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 5.0]])
    found = compare(reference, candidate)
    assert [d.step for d in found.disagreements] == [0, 1]
    assert [d.step for d in found.violations] == [1]
    assert found.rate == pytest.approx(1 / 3)
    assert found.largest_error == pytest.approx(0.1)
    with pytest.raises(errors.InputError):
        compare(reference, candidate[:2])


def test_agreement_of_original_and_canonical(tmp_path: Path) -> None:
    checkpoint = load(tiny_gpt2(tmp_path / "m"))
    ours, theirs = FloatBackend(checkpoint), FloatBackend(canonicalise(checkpoint))
    found = agreement(ours, theirs, checkpoint.config, random_tokens(checkpoint.config, 8), 20)
    assert found.steps == 20
    assert not found.violations
    assert found.largest_error < 1e-3
    assert ours.position == theirs.position == 27
