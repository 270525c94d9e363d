"""How the next token's logits come about: from a cache, or from the whole text once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cryptogen.protocols import RECOMPUTE

from .link import Link
from .material import need_again, need_of
from .messages import LARGEST_BLOCK

Logits = NDArray[np.float64]  # [vocab], of the last row
DECODE_BLOCK = 16  # rows given a position at a time while decoding


class Run(Protocol):
    """A text that grows, and the logits of its last token."""

    @property
    def length(self) -> int:
        """Tokens of the text so far."""
        ...

    def start(self, tokens: list[int], limit: int) -> Logits:
        """Appends `tokens` and buys the material that `limit` tokens after them need."""
        ...

    def next(self, token: int) -> Logits:
        """Appends one token."""
        ...

    def reset(self) -> None:
        """Forgets the text."""
        ...


def run_of(link: Link) -> Run:
    """What the session's protocol asks for."""
    return Recomputed(link) if link.protocol == RECOMPUTE else Cached(link)


class Cached:
    """A token is one more row; earlier rows live in the cache."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._end = 0  # rows when all announced tokens are there

    @property
    def length(self) -> int:
        return self._link.length

    def start(self, tokens: list[int], limit: int) -> Logits:
        link = self._link
        self._end = self.length + len(tokens) + limit - 1
        new = max(self._end - self.length - link.ready_rows, 0)
        link.ensure(need_of(link.plan, self.length + link.ready_rows, new, max(limit - link.ready_heads, 0)))
        return feed(link, tokens)

    def next(self, token: int) -> Logits:
        if self._link.ready_rows == 0:
            self._link.extend(min(DECODE_BLOCK, self._end - self.length))
        logits: Logits = self._link.forward([token], 1)[0]
        return logits

    def reset(self) -> None:
        if self._link.length or self._link.ready_rows:
            self._link.reset()


class Recomputed:
    """A token is the whole text again, in a session that starts empty."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._text: list[int] = []

    @property
    def length(self) -> int:
        return len(self._text)

    def start(self, tokens: list[int], limit: int) -> Logits:
        self._text += tokens
        self._link.ensure(need_again(self._link.plan, self.length, limit))
        return self._whole()

    def next(self, token: int) -> Logits:
        self._text.append(token)
        return self._whole()

    def reset(self) -> None:
        self._text = []
        if self._link.length or self._link.ready_rows:
            self._link.reset()

    def _whole(self) -> Logits:
        if self._link.length or self._link.ready_rows:
            self._link.reset()
        return feed(self._link, self._text)


def feed(link: Link, tokens: Sequence[int]) -> Logits:
    """Appends tokens in passes of at most 64 rows; logits of the last row, [vocab]."""
    parts = blocks(tokens)
    for part in parts[:-1]:
        link.extend(len(part) - link.ready_rows)
        link.forward(part, 0)
    link.extend(len(parts[-1]) - link.ready_rows)
    logits: Logits = link.forward(parts[-1], 1)[0]
    return logits


def blocks(tokens: Sequence[int]) -> list[list[int]]:
    """The same tokens, as many at a time as one pass takes."""
    return [list(tokens[i : i + LARGEST_BLOCK]) for i in range(0, len(tokens), LARGEST_BLOCK)]
