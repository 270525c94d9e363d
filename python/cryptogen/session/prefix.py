"""A prefix: rows that the server computes in the clear, once, and that sessions begin with for
nothing. Either both parties know its tokens (the head of the chat template), or the server alone
(its system prompt)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Prefix:
    """What the server says of it.

    Attributes:
        rows: How many rows, 1 or more: the first positions of a text.
        digest: SHA-256 of its tokens, which both parties know: the client uses it for texts that
            begin with them. None: a secret one, which every text stands behind.
    """

    rows: int
    digest: str | None

    @property
    def secret(self) -> bool:
        """Whether the server alone knows its tokens."""
        return self.digest is None

    def begins(self, tokens: Sequence[int]) -> bool:
        """Whether these begin with it, and go on: the last row of a text is sampled."""
        return len(tokens) > self.rows and digest_of(tokens[: self.rows]) == self.digest


def digest_of(tokens: Sequence[int]) -> str:
    """SHA-256 of token ids, 4 bytes each."""
    return hashlib.sha256(b"".join(token.to_bytes(4, "little") for token in tokens)).hexdigest()
