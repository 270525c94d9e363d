"""Tensors that are read when they are needed: of a model that is being loaded, no more than one is
in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import MalformedFile, TensorMismatch

Array = NDArray[np.float32]
Value = TypeVar("Value")
NUMBERS = 1 << 21  # worked on at a time: a few copies of a whole embedding would be most of a server's memory


@dataclass(frozen=True)
class Stored:
    """A tensor of which the shape is known. `read` makes its numbers, each time anew: an array that
    is the caller's own, C-contiguous float32."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


class Made(Mapping[str, Value]):
    """Named things that are made when they are asked for, each time anew, and not kept."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Value]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Tensors(Made[Array]):
    """Stored tensors by name. Each is read whenever it is asked for, and nothing is kept but its
    SHA-256: what is read later has to be what was read first, so that a file that changes in
    between does not give a model of two halves, or another one than the digest says.

    Asking for a tensor raises `TensorMismatch` (NaN, infinity) and `MalformedFile` (changed, or cut
    off).
    """

    def __init__(self, stored: Mapping[str, Stored], source: Path) -> None:
        super().__init__(stored, self._read)
        self._stored, self._source = dict(stored), source
        self._digests: dict[str, bytes] = {}

    def _read(self, name: str) -> Array:
        tensor = self._stored[name].read()
        check_finite(name, tensor)
        digest = hashlib.sha256(tensor.data).digest()
        if self._digests.setdefault(name, digest) != digest:
            raise MalformedFile(self._source, f"tensor {name!r} has changed since it was first read")
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading it."""
        return self._stored[name].shape


def check_finite(name: str, tensor: Array) -> None:
    """`TensorMismatch` if there is a NaN or an infinity."""
    flat = tensor.reshape(-1)
    if not all(np.isfinite(flat[i : i + NUMBERS]).all() for i in range(0, flat.size, NUMBERS)):
        raise TensorMismatch(name, "content", "finite numbers", "NaN or infinity")


def read_numbers(path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Numbers of a file from byte `offset` on. A copy, not a view of the mapped file: the file may
    change under a running server. `MalformedFile` if they are not all there."""
    count = int(np.prod(shape))
    try:
        numbers = np.fromfile(path, dtype=dtype, count=count, offset=offset)
    except OSError as e:
        raise MalformedFile(path, f"cannot be read any more ({e})") from e
    if numbers.size < count:
        raise MalformedFile(path, f"{count} numbers expected from byte {offset} on, {numbers.size} found")
    return numbers.reshape(shape)


def read_converted(
    path: Path, dtype: str, shape: tuple[int, ...], offset: int, convert: Callable[[NDArray[Any]], NDArray[Any]]
) -> Array:
    """The same as float32, some rows at a time, where the file has another type. `shape`: of what
    is in the file; `convert` makes as many rows."""
    width = int(np.prod(shape[1:]))
    step = max(NUMBERS // width, 1) if len(shape) > 1 else shape[0]
    out: Array | None = None
    for at in range(0, shape[0], step):
        part = (min(step, shape[0] - at), *shape[1:])
        rows = convert(read_numbers(path, dtype, part, offset + at * width * np.dtype(dtype).itemsize))
        if out is None:
            out = np.empty((shape[0], *rows.shape[1:]), dtype=np.float32)
        out[at : at + len(rows)] = rows
    return np.empty(shape, dtype=np.float32) if out is None else out


def filled(shape: tuple[int, ...], blocks: Iterable[Array]) -> Array:
    """The array whose rows come in blocks, of which one at a time is in memory beside it."""
    out, at = np.empty(shape, dtype=np.float32), 0
    for rows in blocks:
        out[at : at + len(rows)] = rows
        at += len(rows)
    return out


def stacked(*parts: Stored) -> Stored:
    """Matrices of one width, one below the other."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Stored(shape, lambda: filled(shape, (part.read() for part in parts)))


def transposed(matrix: Stored) -> Stored:
    """[d_in, d_out] to [d_out, d_in]."""
    return Stored(matrix.shape[::-1], lambda: np.ascontiguousarray(matrix.read().T))


def adjusted(
    tensor: Stored, scale: float | Array = 1.0, rows: NDArray[np.int64] | None = None, offset: float = 0.0
) -> Stored:
    """Some rows of a tensor in another order, plus `offset`, times `scale`: one for all rows, or
    one for each of those taken, [n]. The tensor itself if nothing is to be done."""
    factors = np.atleast_1d(np.asarray(scale, dtype=np.float32))
    if rows is None and not offset and (factors == 1).all():
        return tensor
    shape = (tensor.shape[0] if rows is None else len(rows), *tensor.shape[1:])

    def read() -> Array:
        numbers = tensor.read()
        if rows is not None:
            numbers = numbers[rows]
        if offset:
            numbers += np.float32(offset)
        numbers *= factors.reshape(-1, *[1] * (numbers.ndim - 1))
        return numbers

    return Stored(shape, read)


def half_rotated(rows: Stored, heads: int) -> Stored:
    """See `half_rotation`."""
    return Stored(rows.shape, lambda: half_rotation(rows.read(), heads))


def half_rotation(rows: Array, heads: int) -> Array:
    """Interleaved RoPE rows (pairs 2i, 2i+1) to half-rotation rows (pairs i, i + head_dim/2), per
    head.

    rows: [heads·head_dim, d_in]. llama2.c and GGUF store the former, Hugging Face and this package
    the latter.
    """
    paired = rows.reshape(heads, -1, 2, *rows.shape[1:])  # [heads, head_dim/2, 2, d_in]
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(rows.shape))
