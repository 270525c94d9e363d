"""How the next tokens' logits come about: from a cache, or from the whole text once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptogen.protocols import RECOMPUTE

from .link import Link
from .material import Need, need_again, need_of, rows_of_pass
from .rows import Rows

DECODE_BLOCKS = (16, 32)  # rows given a position at a time while decoding: at first, and in a longer answer


class Run(Protocol):
    """The passes of an answer. What the text is, `Link.text` knows."""

    def start(self, tokens: list[int], limit: int) -> Rows:
        """Appends `tokens` to the text and buys the material that `limit` tokens after them need.
        The last token's row."""
        ...

    def next(self, drafted: list[int]) -> Rows:
        """The rows of the pending token and of drafted ones, which count when they are taken."""
        ...

    def expect(self, passes: int, rows: int) -> None:
        """Buys material for so many calls of `next` with so many rows each, if there is too little
        for one."""
        ...


def run_of(link: Link) -> Run:
    """What the session's protocol asks for."""
    return Recomputed(link) if link.protocol == RECOMPUTE else Cached(link)


class Cached:
    """A token is one more row; earlier rows live in the cache."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._answer = range(0)  # the rows that the answer may take, behind those of the prompt

    def start(self, tokens: list[int], limit: int) -> Rows:
        link, text = self._link, self._link.text
        link.settle()
        fed = [*text.pending, *link.begin(tokens)]
        begun = text.length + len(fed)
        self._answer = range(begun, begun + limit - 1)
        there = text.length + text.ready_rows
        new = max(self._answer.stop - there, 0)
        link.ensure(need_of(link.checked_plan, there, new, max(limit - text.ready_logits, 0)))
        return feed(link, fed)

    def next(self, drafted: list[int]) -> Rows:
        link, text = self._link, self._link.text
        link.settle()
        if not drafted and text.ready_rows == 0:  # with drafts no rows ahead: they are dropped with rejected ones
            first, later = DECODE_BLOCKS
            block = first if text.length < self._answer.start + first else later
            link.extend(min(block, self._answer.stop - text.length))
        return feed_drafted(link, text.pending, drafted)

    def expect(self, passes: int, rows: int) -> None:
        link, text = self._link, self._link.text
        link.settle()
        pairs = link.checked_plan.exponentials_needed
        if not link.has(Need(rows - text.ready_rows, rows - text.ready_logits, pairs(text.length, rows))):
            middle = max((text.length + self._answer.stop - rows) // 2, text.length)
            link.ensure(Need(passes * rows, passes * rows, passes * pairs(middle, rows)))


class Recomputed:
    """A token is the whole text again, in a session that starts empty. So is every range event of
    that text."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def start(self, tokens: list[int], limit: int) -> Rows:
        whole = [*self._link.text.tokens, *tokens]
        self._link.ensure(need_again(self._link.checked_plan, len(whole), limit))
        self._link.reset()
        return feed(self._link, whole)

    def next(self, drafted: list[int]) -> Rows:
        whole = self._link.text.tokens
        self._link.reset()
        return feed_drafted(self._link, whole, drafted)

    def expect(self, passes: int, rows: int) -> None:
        link, whole = self._link, self._link.text.length + rows
        pairs = link.checked_plan.exponentials_needed(0, whole)
        if not link.has(Need(whole, rows, pairs)):
            link.ensure(Need(passes * whole, passes * rows, passes * pairs))


def feed_drafted(link: Link, tokens: list[int], drafted: list[int]) -> Rows:
    """Appends tokens and drafted ones; the rows of the last of those and of all of these."""
    rows = feed(link, [*tokens, *drafted], 1 + len(drafted))
    link.text.drafted(len(drafted))
    return rows


def feed(link: Link, tokens: Sequence[int], sampled: int = 1) -> Rows:
    """Appends tokens in passes as large as memory allows; the last `sampled` rows."""
    left = list(tokens)
    while True:
        # Rows that are sampled go together.
        ahead = len(left) - (0 if sampled == 1 else sampled)
        rows = rows_of_pass(link.offer.config, link.protocol, link.text.cached, ahead or len(left))
        part, left = left[:rows], left[rows:]
        if not left:
            return link.forward(part, sampled)
        link.forward(part, 0)
