"""How the next tokens' logits come about: from a cache, or from the whole text once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptogen.protocols import RECOMPUTE

from .link import Link
from .material import Need, need_again, need_of, spare
from .messages import LARGEST_BLOCK
from .rows import Rows

DECODE_BLOCKS = (16, 32)  # rows given a position at a time while decoding: at first, and in a longer answer


class Run(Protocol):
    """A text that grows, and the rows of its last tokens."""

    @property
    def length(self) -> int:
        """Tokens of the text so far."""
        ...

    def start(self, tokens: list[int], limit: int) -> Rows:
        """Appends `tokens` and buys the material that `limit` tokens after them need. The last token's row."""
        ...

    def next(self, tokens: list[int]) -> Rows:
        """Appends tokens; the row of each."""
        ...

    def keep(self, length: int) -> None:
        """Roll back to the first `length` tokens. The roll-back is lazy: until the next append it
        may be undone by a larger `length`."""
        ...

    def expect(self, passes: int, rows: int) -> None:
        """Buys material for so many calls of `next` with `rows` tokens each, if there is too little for one."""
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
        self._begun = 0  # rows of the prompt and what was before
        self._kept: int | None = None  # rows that count, if the cache still has others behind them

    @property
    def length(self) -> int:
        return self._link.length if self._kept is None else self._kept

    def start(self, tokens: list[int], limit: int) -> Rows:
        link = self._link
        self._settle()
        self._begun = self.length + len(tokens)
        self._end = self._begun + limit - 1
        new = max(self._end - self.length - link.ready_rows, 0)
        link.ensure(need_of(link.plan, self.length + link.ready_rows, new, max(limit - link.ready_heads, 0)))
        return feed(link, tokens)

    def next(self, tokens: list[int]) -> Rows:
        link = self._link
        self._settle()
        if len(tokens) > 1:  # no rows ahead: they would be dropped with those that are not accepted
            link.extend(len(tokens) - link.ready_rows)
        elif link.ready_rows == 0:
            first, later = DECODE_BLOCKS
            block = first if self.length < self._begun + first else later
            link.extend(min(block, self._end - self.length))
        return link.forward(tokens, len(tokens))

    def keep(self, length: int) -> None:
        self._kept = length if length < self._link.length else None

    def expect(self, passes: int, rows: int) -> None:
        link = self._link
        self._settle()
        tables = link.plan.exponentials_needed
        if not link.has(Need(rows - link.ready_rows, rows - link.ready_heads, tables(self.length, rows))):
            middle = max((self.length + self._end - rows) // 2, self.length)
            link.ensure(Need(spare(passes * rows), spare(passes * rows), passes * tables(middle, rows)))

    def _settle(self) -> None:
        """Drops the rows that do not count any more; not sooner, because `keep` is called for every token of a pass."""
        if self._kept is not None:
            self._link.truncate(self._kept)
            self._kept = None

    def reset(self) -> None:
        self._kept = None
        if self._link.length or self._link.ready_rows:
            self._link.reset()


class Recomputed:
    """A token is the whole text again, in a session that starts empty. So is every range event of that text."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._text: list[int] = []
        self._kept: int | None = None  # tokens that count, if not all

    @property
    def length(self) -> int:
        return len(self._text) if self._kept is None else self._kept

    def start(self, tokens: list[int], limit: int) -> Rows:
        self._append(tokens)
        self._link.ensure(need_again(self._link.plan, self.length, limit))
        return self._whole(1)

    def next(self, tokens: list[int]) -> Rows:
        self._append(tokens)
        return self._whole(len(tokens))

    def keep(self, length: int) -> None:
        self._kept = length

    def expect(self, passes: int, rows: int) -> None:
        link, whole = self._link, self.length + rows
        tables = link.plan.exponentials_needed(0, whole)
        if not link.has(Need(whole, rows, tables)):
            link.ensure(Need(spare(passes * whole), spare(passes * rows), passes * tables))

    def reset(self) -> None:
        self._text, self._kept = [], None
        if self._link.length or self._link.ready_rows:
            self._link.reset()

    def _append(self, tokens: list[int]) -> None:
        self._text, self._kept = [*self._text[: self.length], *tokens], None

    def _whole(self, sampled: int) -> Rows:
        if self._link.length or self._link.ready_rows:
            self._link.reset()
        return feed(self._link, self._text, sampled)


def feed(link: Link, tokens: Sequence[int], sampled: int = 1) -> Rows:
    """Appends tokens in passes of at most 64 rows; the last `sampled` rows."""
    parts = blocks(tokens) if sampled == 1 else [*blocks(tokens[:-sampled]), list(tokens[-sampled:])]
    for part in parts[:-1]:
        link.extend(len(part) - link.ready_rows)
        link.forward(part, 0)
    link.extend(len(parts[-1]) - link.ready_rows)
    return link.forward(parts[-1], sampled)


def blocks(tokens: Sequence[int]) -> list[list[int]]:
    """The same tokens, as many at a time as one pass takes."""
    return [list(tokens[i : i + LARGEST_BLOCK]) for i in range(0, len(tokens), LARGEST_BLOCK)]
