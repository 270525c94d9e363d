"""Do two backends choose the same tokens? With the one excuse that integers may have: a near tie in
the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cryptogen.errors import InputError
from cryptogen.models.backend import Backend, Value
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import forward

# Logits. Where the reference's best token leads the next by less, another choice is excused.
# Smaller than `texts.COUNTED_LEAD`: every token of a private run is judged, not a share of many
# rows.
EXCUSED_LEAD = 0.05


@dataclass(frozen=True)
class Disagreement:
    step: int
    reference: int
    candidate: int
    margin: float  # the reference's best logit minus its second best

    @property
    def tolerated(self) -> bool:
        return self.margin < EXCUSED_LEAD


@dataclass(frozen=True)
class Agreement:
    """Greedy tokens of a candidate against a reference, step by step on the reference's own
    text."""

    steps: int
    disagreements: tuple[Disagreement, ...]
    largest_error: float  # max |logit difference|

    @property
    def rate(self) -> float:
        """Share of equal tokens, near ties counted as different."""
        return 1.0 - len(self.disagreements) / self.steps

    @property
    def violations(self) -> tuple[Disagreement, ...]:
        """Disagreements that no near tie excuses."""
        return tuple(d for d in self.disagreements if not d.tolerated)


def compare(reference: ArrayLike, candidate: ArrayLike) -> Agreement:
    """Row by row comparison of logits [steps, vocab]. `InputError` unless both have that one
    shape."""
    ref, other = np.asarray(reference, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if ref.ndim != 2 or ref.shape != other.shape or ref.shape[0] < 1 or ref.shape[1] < 2:
        raise InputError(f"logits of shapes {list(ref.shape)} and {list(other.shape)}, expected one [steps, vocab]")
    best, chosen = ref.argmax(axis=1), other.argmax(axis=1)
    two = np.partition(ref, -2, axis=1)[:, -2:]  # [steps, 2], ascending
    margin = two[:, 1] - two[:, 0]
    differ = np.flatnonzero(best != chosen)
    found = tuple(Disagreement(int(t), int(best[t]), int(chosen[t]), float(margin[t])) for t in differ)
    return Agreement(len(ref), found, float(np.abs(ref - other).max()))


def agreement(
    reference: Backend[np.ndarray],
    candidate: Backend[Value],
    config: ModelConfig,
    prompt: Sequence[int],
    steps: int,
    to_array: Callable[[Any], ArrayLike] = np.asarray,
) -> Agreement:
    """Run `steps` greedy steps of the reference after `prompt`, feeding its choices to both
    backends (fresh ones).

    Teacher forcing: one near tie early on does not make the rest of a long chain incomparable.
    """
    if steps < 1:
        raise InputError(f"{steps} steps, at least 1 expected")
    ours, theirs = [], []
    tokens: Sequence[int] = prompt
    for _ in range(steps):
        row, other = forward(reference, config, tokens), forward(candidate, config, tokens)
        assert row is not None  # want="last"
        assert other is not None
        ours.append(row[0])
        theirs.append(np.asarray(to_array(other))[0])
        tokens = [int(row[0].argmax())]
    return compare(np.stack(ours), np.stack(theirs))
