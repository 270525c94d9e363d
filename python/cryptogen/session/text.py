"""How long the text of a session is, and which rows it has: one owner, whom everything else
asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Counts(Protocol):
    """What an endpoint counts itself, because its masks and material depend on it."""

    @property
    def length(self) -> int: ...
    @property
    def ready_rows(self) -> int: ...
    @property
    def ready_logits(self) -> int: ...


class Text:
    """The tokens of a session and their rows, from left to right:

        in the cache:  counted (`length` of them) | not counted any more or yet | rows made ready
        tokens:        fed                        | drafted                     |
                                                  | pending

    Rows that do not count are of drafted tokens: `take` counts them one by one as the text reaches
    them, and the rest is dropped before the next pass (`Link.settle`). A pending token was sampled
    and has no row yet. Of a cache that was resumed, and of the server's system prompt, only the
    number of rows is known here.

    `Link` tells what its steps have done to the rows, `Client` which tokens the text goes on with.
    """

    def __init__(self) -> None:
        self._endpoint: Counts | None = None
        self.forget()

    def opened(self, endpoint: Counts) -> None:
        """An empty session, whose rows this endpoint counts."""
        self._endpoint = endpoint
        self.forget()

    def closed(self) -> None:
        """The session is gone; so may its endpoint be."""
        self._endpoint = None
        self.forget()

    # --- what there is

    @property
    def length(self) -> int:
        """Tokens of the text that have a row."""
        return self._length

    @property
    def pending(self) -> list[int]:
        """The tokens of the text that have none: the one that was sampled last, if it was not
        drafted."""
        return list(self._pending)

    @property
    def tokens(self) -> list[int]:
        """The text, pending tokens included, without those that are not known here."""
        return [*self._rows[: self._length - self._unknown], *self._pending]

    @property
    def cached(self) -> int:
        """Rows in the cache, whether they count or not."""
        return self._endpoint.length if self._endpoint else 0

    @property
    def ready_rows(self) -> int:
        """Rows behind those in the cache that have a position and material, but no token yet."""
        return self._endpoint.ready_rows if self._endpoint else 0

    @property
    def ready_logits(self) -> int:
        """Rows that may be sampled before more material for logits is taken."""
        return self._endpoint.ready_logits if self._endpoint else 0

    # --- what has happened

    def forget(self) -> None:
        """The session starts anew: no tokens."""
        self._unknown = 0  # rows whose tokens are not known
        self._rows: list[int] = []  # the tokens of all other rows in the cache
        self._length = 0
        self._pending: list[int] = []

    def begun(self, rows: int, tokens: Sequence[int]) -> None:
        """The empty session begins with rows of the server's: of these tokens, or of none that are
        known here."""
        assert len(tokens) in (0, rows) and rows == self.cached, f"{rows} rows, {len(tokens)} tokens, {self.cached}"
        self.forget()
        self._unknown, self._rows, self._length = rows - len(tokens), list(tokens), rows

    def resumed(self, pending: Sequence[int]) -> None:
        """The session has the rows of a saved cache, and goes on with these tokens."""
        self.forget()
        self._unknown = self._length = self.cached
        self._pending = list(pending)

    def fed(self, tokens: Sequence[int]) -> None:
        """A pass has appended the rows of these tokens, the pending one first. They count."""
        there = self._unknown + len(self._rows)
        assert self._length == there, f"{self._length} of {there} rows count: drop the others first"
        self._rows += tokens
        self._length, self._pending = there + len(tokens), []
        assert self._length == self.cached, f"{self._length} rows fed, the endpoint has {self.cached}"

    def drafted(self, rows: int) -> None:
        """The last rows are of drafted tokens: they do not count until they are taken."""
        self._length = self.cached - rows

    def take(self, token: int) -> None:
        """The text goes on with this token. If it is the one that was drafted here, its row counts
        now; if not, the token is pending."""
        assert not self._pending, "the pending token has to be fed first"
        ahead = self._rows[self._length - self._unknown :]
        if ahead[:1] == [token]:
            self._length += 1
        else:
            self._pending = [token]

    def keep(self, tokens: int) -> None:
        """The text goes on behind its first `tokens` known tokens: the others do not count any
        more."""
        rows = self._length - self._unknown
        assert 0 <= tokens <= rows + len(self._pending), f"{tokens} tokens of {rows} rows"
        self._length -= max(rows - tokens, 0)
        self._pending = self._pending[: max(tokens - rows, 0)]

    def settled(self) -> None:
        """The rows that do not count are out of the cache."""
        del self._rows[self._length - self._unknown :]
