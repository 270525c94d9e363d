"""Choosing the next token from logits: the client's side of generation, in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import InputError

Distribution = tuple[NDArray[np.intp], NDArray[np.float64]]  # tokens, their probabilities


@dataclass
class Sampler:
    """Greedy at `temperature` 0; otherwise softmax(logits / temperature) cut to the `top_k` best tokens, then to the
    smallest set of best tokens with probability `top_p` (Holtzman et al. 2020). Same `seed`, same choices.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None  # None: from the operating system
    _rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < np.inf:
            raise InputError(f"temperature is {self.temperature}, expected a number ≥ 0")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}, expected an integer ≥ 1")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}, expected a number in (0, 1]")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected an integer ≥ 0")
        self._rng = np.random.default_rng(self.seed)

    def sample(self, logits: Sequence[float] | NDArray[np.floating]) -> int:
        """The next token from one row of logits [vocab]; ties go to the lower id. `InputError` unless finite, 1-D."""
        scores = _finite(logits)
        if self.temperature == 0.0:
            return int(scores.argmax())
        tokens, p = self.distribution(scores)
        return int(self._rng.choice(tokens, p=p))

    def verify(self, drafted: Sequence[int], drafts: Sequence[Distribution], logits: NDArray[np.floating]) -> list[int]:
        """Speculative sampling (Leviathan et al. 2023, alg. 1; Chen et al. 2023): the first drafted tokens that are
        accepted, and one more. Distributed as if each had been sampled from its row of `logits` [n + 1, vocab].

        `drafts`: what the n tokens were drawn from. A token x drawn from q is accepted with probability
        min(1, p(x)/q(x)); in place of the first that is not, one is drawn from norm(max(0, p − q)). Greedy is the
        same rule with all probability on one token.
        """
        chosen: list[int] = []
        for token, (names, q), row in zip(drafted, drafts, logits, strict=False):
            scores = _finite(row)
            tokens, p = self.distribution(scores)
            proposed = np.zeros(scores.size)
            proposed[names] = q
            if self._rng.random() * proposed[token] < p[tokens == token].sum():
                chosen.append(token)
                continue
            rest = np.maximum(p - proposed[tokens], 0.0)
            if not rest.any():  # p = q but for rounding
                rest = p
            return [*chosen, int(self._rng.choice(tokens, p=rest / rest.sum()))]
        return [*chosen, self.sample(logits[len(drafted)])]

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


def _finite(logits: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise InputError(f"logits of shape {list(scores.shape)}, expected one row of finite numbers")
    return scores


def should_stop(token: int, stop: frozenset[int] | set[int], generated: int, limit: int) -> bool:
    """Whether generation ends after `token`, the `generated`-th one: a stop token, or the limit is reached."""
    return token in stop or generated >= limit
