"""A Hugging Face folder: config.json, model.safetensors (or shards and their index),
tokenizer.json."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cryptogen.errors import InvalidConfig, MalformedFile, MissingFile, TensorMismatch
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.huggingface_config import read_layout
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.tensors import Array, Stored, Tensors, read_converted, read_numbers

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
# Buffers that old versions of transformers stored beside the weights; they hold no parameters.
_BUFFERS = r".*\.(attn|attention)\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq"


def load_folder(folder: Path) -> Checkpoint:
    """Read a folder. Errors: the `WeightsError` family."""
    values = _json(folder / "config.json", "model configuration")
    layout = read_layout(values)
    config = layout.config
    entries = _tensors(folder)
    refused = {name: entry.refusal(name) for name, entry in entries.items() if entry.dtype not in _DTYPES}
    stored = {name: entry.stored() for name, entry in entries.items() if name not in refused}
    reader = TensorReader(folder, stored, refused, _BUFFERS)
    tensors = layout.tensors(reader)
    reader.finish()
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else None
    if tokenizer is not None and (chat := _chat_template(folder)) is not None:
        tokenizer = tokenizer.with_chat_template(chat)
    generation = folder / "generation_config.json"
    extra = ConfigFields(_json(generation, "generation defaults") if generation.exists() else {})
    bos, eos = ConfigFields(values).token_ids("bos_token_id"), ConfigFields(values).token_ids("eos_token_id")
    stop = {t for t in [*eos, *extra.token_ids("eos_token_id")] if 0 <= t < config.vocab}
    if tokenizer is not None and tokenizer.chat is not None:
        stop.add(tokenizer.chat.end_id)
    first, last = bos[0] if bos else None, eos[0] if eos else None
    return Checkpoint(config, Tensors(tensors, folder), tokenizer, folder, first, last, frozenset(stop))


@dataclass(frozen=True)
class _Entry:
    """A tensor of a safetensors file: where its numbers are and what they are."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def refusal(self, name: str) -> TensorMismatch:
        """Of a tensor whose numbers are of another type."""
        return TensorMismatch(name, "dtype", f"one of {', '.join(_DTYPES)}", self.dtype)

    def stored(self) -> Stored:
        return Stored(self.shape, partial(_numbers, self))


def _tensors(folder: Path) -> dict[str, _Entry]:
    """Every tensor in the folder by name."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.exists() or not index.exists():
        return _file_tensors(single)
    shard_of = _json(index, "shard index").get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise MalformedFile(index, "weight_map is not a mapping of tensor names to file names")
    found: dict[str, _Entry] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise MalformedFile(index, f"shard {shard!r} lies outside the folder")
        found |= {name: entry for name, entry in _file_tensors(folder / shard).items() if shard_of.get(name) == shard}
    return found


def _file_tensors(path: Path) -> dict[str, _Entry]:
    """Tensors of one safetensors file. The library checks header and size; the bytes are read
    without it, because its numpy side has no bfloat16."""
    if not path.exists():
        raise MissingFile(path, "weights")
    try:
        with safe_open(path, framework="np") as file:
            file.keys()
        with path.open("rb") as raw:
            (size,) = struct.unpack("<Q", raw.read(8))
            header = json.loads(raw.read(size))
    except (SafetensorError, OSError, ValueError, struct.error) as e:
        raise MalformedFile(path, f"not a complete safetensors file ({e})") from e
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {
        name: _Entry(path, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in entries.items()
    }


def _numbers(entry: _Entry) -> Array:
    place = (entry.path, _DTYPES[entry.dtype], entry.shape, entry.offset)
    if entry.dtype == "F32":
        return read_numbers(*place)
    return read_converted(*place, _from_bfloat16 if entry.dtype == "BF16" else lambda raw: raw)


def _from_bfloat16(raw: NDArray[Any]) -> Array:
    """The upper half of a float32."""
    wide = raw.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _chat_template(folder: Path) -> str | None:
    """The Jinja text that newer folders keep in its own file, older ones in
    tokenizer_config.json."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "tokenizer_config.json").exists():
        template = _json(folder / "tokenizer_config.json", "tokenizer options").get("chat_template")
        return template if isinstance(template, str) else None
    return None


def _json(path: Path, what: str) -> dict[str, Any]:
    if not path.exists():
        raise MissingFile(path, what)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise MalformedFile(path, f"not readable as JSON ({e})") from e
    if not isinstance(values, dict):
        raise InvalidConfig(path.name, "a JSON object", type(values).__name__)
    return values
