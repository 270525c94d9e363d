"""Evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.evaluate import agreement, compare, mean_nll, windows
from cryptogen.weights import load
from cryptogen.weights.canonical import canonicalise
from tiny import random_tokens, tiny_gpt2


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
