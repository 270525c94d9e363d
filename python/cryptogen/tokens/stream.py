"""Text of a growing token sequence, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_WAIT = 8  # a UTF-8 character spans at most 4 byte tokens: beyond that the bytes really are invalid
_CONTEXT = 16  # tokens in front that are decoded along: enough for one with a text among special ones


class StreamDecoder:
    """Turns tokens into text as they come, holding back bytes of an unfinished UTF-8 character.

    The pieces of `push` and the last one of `finish` concatenate to `decode` of all tokens (for
    valid UTF-8), without the text of those in front. A window of already printed tokens is decoded
    along, because the text of a token may depend on those before it.

    `before`: tokens that stand in front. Behind some, a first space is part of the text, which
    SentencePiece leaves out where a text begins.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(before[-_CONTEXT:])  # printed tokens, then held ones
        self._printed = len(self._window)  # tokens of the window that are printed

    def push(self, token: int) -> str:
        """The text that this token completes; often one word, sometimes nothing."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT) and len(self._window) - self._printed < _LONGEST_WAIT:
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """What is still held back (replacement characters where the bytes stay incomplete)."""
        return self._advance(self._decode(self._window))

    def _advance(self, text: str) -> str:
        old = self._decode(self._window[: self._printed])
        self._window = self._window[self._printed :]  # keep the new tokens as context of the next
        self._printed = len(self._window)
        return text[len(old) :]
