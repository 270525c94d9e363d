"""pytorch_model.bin, as PyTorch 1.6 and newer write it: a zip archive with a pickle of the names
and shapes, and a member of plain numbers for every storage.

A pickle is a program. Of this one nothing runs but what builds tensors: every other name that it
asks for is refused. Format: torch/serialization.py, `_save`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from cryptogen.errors import MalformedFile

LARGEST_PICKLE = 1 << 26  # bytes; names and shapes of 100 000 tensors have less
# PyTorch's storages → the names that safetensors has for the same numbers.
_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LOCAL = struct.Struct("<26xHH")  # of a member's own header: lengths of its name and of what follows that
# What a pickle can raise that is cut off, or no pickle.
_UNREADABLE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
               AssertionError, RecursionError, OSError, struct.error, NotImplementedError, OverflowError,
               MemoryError)  # fmt: skip


class Numbers(NamedTuple):
    """A tensor in the file: what its numbers are and where they begin."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Kind(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    dtype: str
    offset: int
    size: int  # in numbers


def read_tensors(path: Path) -> dict[str, Numbers]:
    """Every tensor of a file by name. `MalformedFile` says what is wrong, or what it asks for that
    is not read."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            members = {m.filename.partition("/")[2]: m for m in archive.infolist()}
            if "data.pkl" not in members:
                raise MalformedFile(path, "a PyTorch file expected; it has no data.pkl")
            if "byteorder" in members and archive.read(members["byteorder"])[:8] != b"little":
                raise MalformedFile(path, "little-endian numbers expected, it has others")
            if (size := members["data.pkl"].file_size) > LARGEST_PICKLE:
                raise MalformedFile(path, f"at most {LARGEST_PICKLE} bytes of names expected, it has {size}")
            found = _Reader(path, raw, archive.read(members["data.pkl"]), members).load()
    except zipfile.BadZipFile:
        raise MalformedFile(
            path, "a PyTorch file of version 1.6 or newer expected; older ones can be saved again as model.safetensors"
        ) from None
    except _UNREADABLE as e:
        raise MalformedFile(path, f"its pickle cannot be read ({' '.join(str(e).split())[:200]})") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise MalformedFile(path, f"a mapping of names to tensors expected, {type(found).__name__} found")
    if others := [name for name, value in found.items() if not isinstance(value, Numbers)]:
        raise MalformedFile(path, f"{others[0][:80]!r} is {type(found[others[0]]).__name__}, a tensor expected")
    return dict(found)


class _Reader(pickle.Unpickler):
    """An unpickler that knows what builds tensors and nothing else."""

    def __init__(self, path: Path, raw: io.BufferedReader, data: bytes, members: dict[str, zipfile.ZipInfo]) -> None:
        super().__init__(io.BytesIO(data))
        self._path, self._raw, self._members = path, raw, members

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}[name]
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        raise pickle.UnpicklingError(f"{module}.{name} is not read: tensors alone expected")

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _, size = pid
        member = self._members.get(f"data/{key}")
        if what != "storage" or not isinstance(kind, _Kind) or type(size) is not int or member is None:
            raise pickle.UnpicklingError(f"a storage expected, {str(pid)[:80]} found")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != size * _SIZES[kind.dtype]:
            raise pickle.UnpicklingError(f"storage {key}: {size} plain numbers of {kind.dtype} expected")
        self._raw.seek(member.header_offset)
        name, extra = _LOCAL.unpack(self._raw.read(_LOCAL.size))
        return _Storage(kind.dtype, member.header_offset + _LOCAL.size + name + extra, size)


def _tensor(storage: Any, first: Any, shape: Any, strides: Any, *_: Any) -> Numbers:
    """A tensor whose numbers lie one behind the other, the last axis first."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor's storage expected")
    count, expected = 1, []
    for n in reversed(shape):
        if type(n) is not int or n < 0:
            raise pickle.UnpicklingError(f"a shape expected, {str(shape)[:80]} found")
        expected.append(count)
        count *= n
    if any(n > 1 and s != e for n, s, e in zip(shape, strides, reversed(expected), strict=True)):
        raise pickle.UnpicklingError(f"rows one behind the other expected, strides {tuple(strides)} of {tuple(shape)}")
    if type(first) is not int or not 0 <= first <= storage.size - count:
        raise pickle.UnpicklingError(f"{count} numbers from {first} on expected, the storage has {storage.size}")
    return Numbers(storage.dtype, tuple(shape), storage.offset + first * _SIZES[storage.dtype])


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor
