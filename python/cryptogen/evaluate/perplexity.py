"""Perplexity of a text under a backend, over disjoint windows that each start with an empty
cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryptogen.errors import InputError
from cryptogen.models.backend import Backend, Value
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import forward


@dataclass(frozen=True)
class Perplexity:
    """Mean negative log-likelihood of each window, in nats per predicted token."""

    nll: tuple[float, ...]

    @property
    def per_window(self) -> tuple[float, ...]:
        return tuple(float(np.exp(x)) for x in self.nll)

    @property
    def value(self) -> float:
        """`exp` of the mean over windows (all windows have equally many tokens)."""
        return float(np.exp(np.mean(self.nll)))


def windows(tokens: Sequence[int], n: int, size: int = 512) -> list[list[int]]:
    """Window i is `tokens[size·i : size·(i + 1)]`, i < n. `InputError` if the text is too short."""
    if n < 1 or size < 2 or len(tokens) < n * size:
        raise InputError(f"{n} windows of {size} tokens from a text of {len(tokens)}: n ≥ 1, size ≥ 2, n·size ≤ tokens")
    return [list(tokens[size * i : size * (i + 1)]) for i in range(n)]


def perplexity(
    fresh: Callable[[], Backend[Value]],
    config: ModelConfig,
    parts: Sequence[Sequence[int]],
    to_array: Callable[[Any], ArrayLike] = np.asarray,
) -> Perplexity:
    """Each part predicts its own tokens 1…: `fresh()` gives a backend with an empty cache per part.

    `to_array` turns the backend's logits into real numbers [T, vocab]; the float backend's already
    are.
    """
    nll = []
    for part in parts:
        logits = forward(fresh(), config, part, want="all")
        assert logits is not None  # want="all"
        nll.append(mean_nll(to_array(logits), part))
    return Perplexity(tuple(nll))


def mean_nll(logits: ArrayLike, tokens: Sequence[int]) -> float:
    """`−1/(T−1) · Σ_t log softmax(logits_t)[token_{t+1}]`: logits [T, vocab] of `tokens`, nats."""
    rows = np.asarray(logits)
    if rows.ndim != 2 or len(rows) != len(tokens) or len(tokens) < 2:
        raise InputError(f"logits of shape {list(rows.shape)} for {len(tokens)} tokens, expected 2 or more, a row each")
    # by row: [T, vocab] in float64 would be large
    total = sum(surprise(row.astype(np.float64), t) for row, t in zip(rows[:-1], tokens[1:], strict=True))
    return total / (len(tokens) - 1)


def surprise(logits: NDArray[np.float64], token: int) -> float:
    """`−log softmax(logits)[token]` of one row [vocab], nats."""
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()) - logits[token])
