"""Texts that end an answer."""

from __future__ import annotations

from collections.abc import Collection


class StopStrings:
    """Cuts a text that comes in pieces in front of the first of some strings. What may be the
    beginning of one is held back until it is known."""

    def __init__(self, strings: Collection[str]) -> None:
        self._strings, self._held = tuple(strings), ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether a string has come: then nothing more follows."""
        self._held += text
        found = [at for s in self._strings if (at := self._held.find(s)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = max((self._begun(s) for s in self._strings), default=0)
        at = len(self._held) - keep
        shown, self._held = self._held[:at], self._held[at:]
        return shown, False

    def finish(self) -> str:
        """What is still held back: the text has ended."""
        shown, self._held = self._held, ""
        return shown

    def _begun(self, string: str) -> int:
        """How many of the last characters are the first ones of a string."""
        most = min(len(string) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(string[:n])), 0)
