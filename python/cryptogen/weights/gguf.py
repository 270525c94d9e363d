"""GGUF files of the architectures in `gguf_config.py`, in every quantisation that the `gguf`
package can expand."""

from __future__ import annotations

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
from cryptogen.weights.tensors import Array, Stored, Tensors, read_converted


def load_gguf(path: Path) -> Checkpoint:
    """Read a GGUF file, with the tokenizer of its metadata. Errors: the `WeightsError` family,
    `TokenizerError`."""
    if not path.exists():
        raise MissingFile(path, "GGUF weights")
    try:
        file = gguf.GGUFReader(path)
        values = {name: field.contents() for name, field in file.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, OverflowError, UnicodeDecodeError, TypeError) as e:
        size = path.stat().st_size if path.is_file() else 0
        raise MalformedFile(path, f"a complete GGUF file expected; its header does not fit its {size} bytes") from e
    tensors = {tensor.name: tensor for tensor in file.tensors}
    refused = {name: _refusal(tensor) for name, tensor in tensors.items() if not _known(tensor.tensor_type)}
    reader = TensorReader(path, {n: _stored(path, t) for n, t in tensors.items() if n not in refused}, refused)
    layout = read_layout(values, reader)
    out = layout.tensors(reader)
    reader.finish()
    fields = ConfigFields(values)
    tokenizer = read_tokenizer(values) if "tokenizer.ggml.model" in values else None
    bos = fields.token_ids("tokenizer.ggml.bos_token_id")
    eos = fields.token_ids("tokenizer.ggml.eos_token_id")
    stop = {*eos, *fields.token_ids("tokenizer.ggml.eot_token_id")}
    if tokenizer is not None and tokenizer.chat is not None:
        stop.add(tokenizer.chat.end_id)
    return Checkpoint(
        layout.config,
        Tensors(out, path),
        tokenizer,
        path,
        bos[0] if bos else None,
        eos[0] if eos else None,
        frozenset(stop),
    )


def _known(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether `gguf.dequantize` can expand this type."""
    try:
        gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _refusal(tensor: Any) -> UnsupportedModel:
    return UnsupportedModel("tensor type", tensor.tensor_type.name, ["what gguf.dequantize supports"])


def _stored(path: Path, tensor: Any) -> Stored:
    """A tensor by its place in the file: the reader's own arrays would keep all that was read
    mapped."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    place = (tensor.data.dtype.str, tensor.data.shape, int(tensor.data_offset))
    return Stored(shape, partial(_expand, path, tensor.name, tensor.tensor_type, place))


def _expand(path: Path, name: str, kind: gguf.GGMLQuantizationType, place: tuple[str, tuple[int, ...], int]) -> Array:
    """Float32 values of one tensor."""
    try:
        return read_converted(path, *place, lambda rows: gguf.dequantize(rows, kind))
    except ValueError as e:
        raise TensorMismatch(name, "content", f"{kind.name} blocks", str(e)) from e
