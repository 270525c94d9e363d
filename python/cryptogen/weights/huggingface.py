"""A Hugging Face folder: config.json, model.safetensors or pytorch_model.bin (or shards and their
index), tokenizer.json."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cryptogen.errors import InvalidConfig, MalformedFile, MissingFile, TensorMismatch
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.huggingface_config import read_layout
from cryptogen.weights.huggingface_tokenizer import folder_tokenizer
from cryptogen.weights.layout import Layout
from cryptogen.weights.pytorch import read_tensors
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.special import stop_tokens
from cryptogen.weights.tensors import Array, Stored, Tensors, read_converted, read_numbers

log = logging.getLogger("cryptogen.weights")
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
# Buffers that old versions of transformers stored beside the weights; they hold no parameters.
_BUFFERS = r".*\.(attn|attention)\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq"


def load_folder(folder: Path) -> Checkpoint:
    """Read a folder. Errors: the `WeightsError` family."""
    values = _json(folder / "config.json", "model configuration")
    layout = read_layout(values)
    entries = _tensors(folder)
    refused = {name: entry.refusal(name) for name, entry in entries.items() if entry.dtype not in _DTYPES}
    stored = {name: entry.stored() for name, entry in entries.items() if name not in refused}
    layout = _with_own_head(layout, stored, folder)
    config = layout.config
    reader = TensorReader(folder, stored, refused, _BUFFERS)
    tensors = layout.tensors(reader)
    reader.finish()
    tokenizer = folder_tokenizer(folder, _json)
    generation = folder / "generation_config.json"
    extra = ConfigFields(_json(generation, "generation defaults") if generation.exists() else {})
    bos, eos = ConfigFields(values).token_ids("bos_token_id"), ConfigFields(values).token_ids("eos_token_id")
    stop = stop_tokens([*eos, *extra.token_ids("eos_token_id")], config.vocab, tokenizer, folder)
    first, last = (next((t for t in ids if 0 <= t < config.vocab), None) for ids in (bos, eos))
    return Checkpoint(config, Tensors(tensors, folder), tokenizer, folder, first, last, stop)


def _with_own_head(layout: Layout, stored: Mapping[str, Stored], folder: Path) -> Layout:
    """Some files say that the head is the embedding, and have another one beside it: it counts."""
    names = layout.names
    name = next((f"{head}.weight" for head in names.heads if f"{head}.weight" in stored), None)
    embeddings = [f"{prefix}{names.embed}.weight" for prefix in names.prefixes]
    embedding = next((stored[name] for name in embeddings if name in stored), None)
    if not layout.tied or name is None or embedding is None:
        return layout
    if stored[name].shape == embedding.shape and np.array_equal(stored[name].read(), embedding.read()):
        return layout
    log.warning(
        "%s: tie_word_embeddings is true, but %s is not the embedding: the file's %s is used", folder, name, name
    )
    return replace(layout, tied=False, config=replace(layout.config, tied=False))


@dataclass(frozen=True)
class _Entry:
    """A tensor of a file: where its numbers are and what they are."""

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
    names = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists()]
    indices = [f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin")]
    index = next((folder / name for name in indices if (folder / name).exists()), None)
    # safetensors first, as transformers does: the other file may be left over.
    if index is None or (names and not (names == ["pytorch_model.bin"] and index.name == indices[0])):
        return _file_tensors(folder / (names or ["model.safetensors"])[0])
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
    """Tensors of one file. Of safetensors the library checks header and size; the bytes are read
    without it, because its numpy side has no bfloat16."""
    if not path.exists():
        raise MissingFile(path, "weights")
    if path.suffix == ".bin":
        return {name: _Entry(path, n.dtype, n.shape, n.offset) for name, n in read_tensors(path).items()}
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
