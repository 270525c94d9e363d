"""GGUF files of the architectures in `gguf_config.py`, in every quantisation that the `gguf`
package can expand; one file, or the parts of a split one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from cryptogen.errors import MalformedFile, MissingFile, TensorMismatch, UnsupportedModel
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.gguf_config import read_layout
from cryptogen.weights.gguf_tokenizer import read_tokenizer
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.special import stop_tokens
from cryptogen.weights.tensors import Array, Stored, Tensors, read_converted

MAGIC = b"GGUF"
_ENDS = ("bos", "eos", "eot", "eom")  # tokens that the metadata names; all but the first end a generation
_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def load_gguf(path: Path) -> Checkpoint:
    """Read a GGUF file, with the tokenizer of its metadata; of a split one any part, beside the
    others. Errors: the `WeightsError` family, `TokenizerError`."""
    if not path.exists():
        raise MissingFile(path, "GGUF weights")
    parts = [_read(part) for part in parts_of(path)]
    values = parts[0].values
    tensors = _all_tensors(parts)
    stored = {name: _stored(part, t) for name, (part, t) in tensors.items() if _known(t.tensor_type)}
    refused = {name: _refusal(t) for name, (_, t) in tensors.items() if name not in stored}
    reader = TensorReader(path, stored, refused)
    layout = read_layout(values, reader)
    out, config = layout.tensors(reader), layout.config
    reader.finish()
    fields = ConfigFields(values)
    tokenizer = read_tokenizer(values, path) if "tokenizer.ggml.model" in values else None
    bos, eos, *others = (fields.token_ids(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    stop = stop_tokens([*eos, *(t for ids in others for t in ids)], config.vocab, tokenizer, path)
    first, last = (next((t for t in ids if 0 <= t < config.vocab), None) for ids in (bos, eos))
    return Checkpoint(config, Tensors(out, path), tokenizer, path, first, last, stop)


def parts_of(path: Path) -> list[Path]:
    """The parts of a split file in order, `NAME-00001-of-00003.gguf` and so on, of any of them;
    otherwise the file alone."""
    found = _PART.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["count"])
    return [path.with_name(f"{found['name']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]


@dataclass(frozen=True)
class _Part:
    """What one file says, without its numbers."""

    path: Path
    values: Mapping[str, Any]
    tensors: list[Any]


def _read(path: Path) -> _Part:
    if not path.exists():
        raise MissingFile(path, "part of a split GGUF file")
    try:
        file = gguf.GGUFReader(path)
        values = {name: field.contents() for name, field in file.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, OverflowError, UnicodeDecodeError, TypeError) as e:
        size = path.stat().st_size if path.is_file() else 0
        raise MalformedFile(path, f"a complete GGUF file expected; its header does not fit its {size} bytes") from e
    if file.byte_order != "I":  # quantised blocks of such files are in either order
        raise UnsupportedModel("byte order of the file", "big-endian", ["little-endian"])
    return _Part(path, values, file.tensors)


def _all_tensors(parts: list[_Part]) -> dict[str, tuple[_Part, Any]]:
    """Name → part and tensor; each part has to be the one that its name says."""
    found: dict[str, tuple[_Part, Any]] = {}
    for number, part in enumerate(parts):
        f = ConfigFields(part.values)
        count, own = f.integer("split.count", 1), f.integer("split.no", 0)
        if (max(count, 1), own) != (len(parts), number):
            raise MalformedFile(
                part.path,
                f"part {own + 1} of {count} by its metadata, {number + 1} of {len(parts)} by its name "
                "(NAME-00001-of-00002.gguf)",
            )
        for tensor in part.tensors:
            if tensor.name in found:
                raise MalformedFile(part.path, f"tensor {tensor.name!r} is in two parts")
            found[tensor.name] = (part, tensor)
    wanted = ConfigFields(parts[0].values).integer("split.tensors.count", len(found))
    if len(found) != wanted:
        raise MalformedFile(parts[0].path, f"{wanted} tensors expected in all parts, {len(found)} found")
    return found


def _known(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether `gguf.dequantize` can expand this type."""
    try:
        gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _refusal(tensor: Any) -> UnsupportedModel:
    return UnsupportedModel("tensor type", tensor.tensor_type.name, ["what gguf.dequantize supports"])


def _stored(part: _Part, tensor: Any) -> Stored:
    """A tensor by its place in the file: the reader's own arrays would keep all that was read
    mapped."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    place = (tensor.data.dtype.str, tensor.data.shape, int(tensor.data_offset))
    return Stored(shape, partial(_expand, part.path, tensor.name, tensor.tensor_type, place))


def _expand(path: Path, name: str, kind: gguf.GGMLQuantizationType, place: tuple[str, tuple[int, ...], int]) -> Array:
    """Float32 values of one tensor."""
    try:
        return read_converted(path, *place, lambda rows: gguf.dequantize(rows, kind))
    except ValueError as e:
        raise TensorMismatch(name, "content", f"{kind.name} blocks", str(e)) from e
