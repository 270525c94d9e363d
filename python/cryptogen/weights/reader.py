"""Taking tensors out of a file: each once, as float32, with the shape that the configuration
promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import MissingTensor, TensorMismatch, UnexpectedTensor

Array = NDArray[np.float32]


class TensorReader:
    """Named tensors of one file, read on demand. `finish` refuses what nobody took: it would be
    another model."""

    def __init__(self, source: Path, load: Mapping[str, Callable[[], NDArray[Any]]], ignored: str = "") -> None:
        self._source, self._load = source, dict(load)
        self._left = {name for name in load if not (ignored and re.fullmatch(ignored, name))}

    def __contains__(self, name: str) -> bool:
        return name in self._load

    def take(self, name: str, *shape: int) -> Array:
        """The tensor as contiguous float32; `MissingTensor`, or `TensorMismatch` on another shape
        or dtype."""
        if name not in self._load:
            raise MissingTensor(name, self._source)
        self._left.discard(name)
        tensor = self._load[name]()
        if tensor.shape != shape:
            raise TensorMismatch(name, "shape", list(shape), list(tensor.shape))
        if tensor.dtype.kind != "f":
            raise TensorMismatch(name, "dtype", "a floating-point type", tensor.dtype)
        # A copy, not a view of the mapped file: the file may change under a running server.
        return np.array(tensor, dtype=np.float32, order="C")

    def under(self, prefix: str, suffix: str = "") -> Callable[..., Array]:
        """`take` for names between `prefix` and `suffix`."""
        return lambda name, *shape: self.take(f"{prefix}{name}{suffix}", *shape)

    def skip(self, name: str) -> None:
        """Leave a tensor aside knowingly."""
        self._left.discard(name)

    def finish(self) -> None:
        """Every tensor of the file must have been used."""
        if self._left:
            raise UnexpectedTensor(self._left, self._source)


def half_rotation(rows: Array, heads: int) -> Array:
    """Interleaved RoPE rows (pairs 2i, 2i+1) to half-rotation rows (pairs i, i + head_dim/2), per
    head.

    rows: [heads·head_dim, d_in]. llama2.c and GGUF store the former, Hugging Face and this package
    the latter.
    """
    paired = rows.reshape(heads, -1, 2, *rows.shape[1:])  # [heads, head_dim/2, 2, d_in]
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows.shape))
