"""What the client learns: logits of sampled rows, tokens, and what the numeric plan has to say
about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """T sampled rows.

    Attributes:
        logits: `[T, vocab]`, real numbers.
        events: T numbers, the range events of each row: look-ups in it, and in rows before it that
            were not sampled, whose argument lay outside the range that the numeric plan was made
            for (`docs/guide/ranges.md`).
    """

    logits: NDArray[np.float64]  # [T, vocab]
    events: tuple[int, ...]

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, in order.

        Args:
            parts: One or more.
        """
        return Rows(np.concatenate([p.logits for p in parts]), tuple(e for p in parts for e in p.events))


@dataclass(frozen=True)
class Token:
    """A sampled token and the text it completes (sometimes none: half a character, or a special
    token).

    Attributes:
        id: Its number in the model's vocabulary.
        text: What it adds to the text. Empty if the model has no tokenizer.
        range_events: Look-ups in this token's row, and in rows since the token before that were not
            sampled (the prompt's), whose argument lay outside the range that the numeric plan was
            made for. 0 normally; from a token with others on the answer may be wrong, whatever
            later tokens say. Under `recompute` every token counts its whole text.
    """

    id: int
    text: str
    range_events: int = 0
