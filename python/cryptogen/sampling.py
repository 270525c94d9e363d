"""Choosing the next token from logits: the client's side of generation, in plain numpy."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import InputError

Distribution = tuple[NDArray[np.intp], NDArray[np.float64]]  # tokens, their probabilities


@dataclass
class Sampler:
    """Greedy at `temperature` 0; otherwise softmax(logits / temperature) cut to the `top_k` best
    tokens, then to the smallest set of best tokens with probability `top_p` (Holtzman et al. 2020).

    Drawn by the Gumbel-max trick: the candidate with the largest logit / temperature + noise. The
    noise follows from `seed`, the token's position in the text and its id, and from nothing else.
    So the same seed, options, model and text give the same next token, with drafts or without,
    although the logits of two private runs differ in their last bits. Not promised where two
    candidates are nearly equal once the noise is added (about 0.05 logits), nor where a token on
    the edge of `top_k` or `top_p` is kept in one run and cut in the other: some choices in a
    hundred. From such a token on the texts are different ones.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None  # None: from the operating system
    _entropy: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < np.inf:
            raise InputError(f"temperature is {self.temperature}, expected a number ≥ 0")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}, expected an integer ≥ 1")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}, expected a number in (0, 1]")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected an integer ≥ 0")
        self._entropy = secrets.randbits(128) if self.seed is None else self.seed

    def sample(self, logits: Sequence[float] | NDArray[np.floating], position: int) -> int:
        """The token at `position` of the text from its row of logits [vocab]; ties go to the
        better, then to the lower id. `InputError` unless finite, 1-D."""
        scores = _finite(logits)
        if self.temperature == 0.0:
            return int(scores.argmax())
        tokens, _ = self.distribution(scores)
        gaps = (scores[tokens] - scores[tokens[0]]) / self.temperature
        return int(tokens[(gaps + self._noise(position, scores.size)[tokens]).argmax()])

    def verify(self, drafted: Sequence[int], logits: NDArray[np.floating], position: int) -> list[int]:
        """The first drafted tokens that are accepted, and one more, from rows of logits [n + 1,
        vocab]; the first of them is the token at `position`.

        Every token is what `sample` says of its row; a drafted one is accepted if it is that token
        (Daliri, Musco and Suresh 2024, arXiv 2408.07978: coupling by common noise). So the text
        does not depend on the draft, sampled or greedy; a draft that draws with the same noise is
        accepted nearly as often as by the rule of Leviathan et al. 2023, under which the text would
        depend on it.
        """
        chosen: list[int] = []
        for n, row in enumerate(logits):
            chosen.append(self.sample(row, position + n))
            if n == len(drafted) or chosen[n] != drafted[n]:
                break
        return chosen

    def distribution(self, scores: NDArray[np.float64]) -> Distribution:
        """Candidate tokens, best first, and their probabilities."""
        if self.temperature == 0.0:
            return np.array([scores.argmax()]), np.ones(1)
        order = np.argsort(-scores, kind="stable")[: self.top_k]
        p = np.exp((scores[order] - scores[order[0]]) / self.temperature)
        p /= p.sum()
        kept = int(np.searchsorted(np.cumsum(p), self.top_p * (1.0 - 1e-12))) + 1  # the token that crosses top_p stays
        p = p[:kept] / p[:kept].sum()
        return order[:kept], p

    def _noise(self, position: int, vocab: int) -> NDArray[np.float64]:
        """Standard Gumbel noise of every token id, [vocab], independent between positions."""
        sequence = np.random.SeedSequence(self._entropy, spawn_key=(position,))
        return np.random.default_rng(sequence).gumbel(size=vocab)


def _finite(logits: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise InputError(f"logits of shape {list(scores.shape)}, expected one row of finite numbers")
    return scores
