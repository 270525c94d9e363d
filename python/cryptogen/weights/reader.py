"""Taking tensors out of a file: each once, with the shape that the configuration promises. What is
taken is read later."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptogen.errors import MissingTensor, TensorMismatch, UnexpectedTensor
from cryptogen.weights.tensors import Stored


class TensorReader:
    """Named tensors of one file. `finish` refuses what nobody took: it would be another model.

    `refused`: for tensors whose type cannot be read, the error that says so; it is raised when such
    a tensor is taken.
    """

    def __init__(
        self,
        source: Path,
        stored: Mapping[str, Stored],
        refused: Mapping[str, Exception] | None = None,
        ignored: str = "",
    ) -> None:
        self._source, self._stored, self._refused = source, dict(stored), dict(refused or {})
        self._left = {name for name in self._names() if not (ignored and re.fullmatch(ignored, name))}

    def __contains__(self, name: str) -> bool:
        return name in self._names()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor that can be read, if the file has it."""
        return self._stored[name].shape if name in self._stored else None

    def take(self, name: str, *shape: int) -> Stored:
        """The tensor; `MissingTensor`, or `TensorMismatch` on another shape or dtype."""
        if name in self._refused:
            raise self._refused[name]
        if name not in self._stored:
            raise MissingTensor(name, self._source)
        self._left.discard(name)
        stored = self._stored[name]
        if stored.shape != shape:
            raise TensorMismatch(name, "shape", list(shape), list(stored.shape))
        return stored

    def under(self, prefix: str, suffix: str = "") -> Callable[..., Stored]:
        """`take` for names between `prefix` and `suffix`."""
        return lambda name, *shape: self.take(f"{prefix}{name}{suffix}", *shape)

    def skip(self, name: str) -> None:
        """Leave a tensor aside knowingly."""
        self._left.discard(name)

    def finish(self) -> None:
        """Every tensor of the file must have been used."""
        if self._left:
            raise UnexpectedTensor(self._left, self._source)

    def _names(self) -> set[str]:
        return {*self._stored, *self._refused}
