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
from cryptogen.models.config import ModelConfig
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.huggingface_config import read_config
from cryptogen.weights.huggingface_tokenizer import folder_tokenizer
from cryptogen.weights.pytorch import read_tensors
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.special import stop_tokens
from cryptogen.weights.tensors import Array, Stored, Tensors, read_converted, read_numbers, stacked, transposed

log = logging.getLogger("cryptogen.weights")
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
# Buffers that old versions of transformers stored beside the weights; they hold no parameters.
_BUFFERS = r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)|model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"


def load_folder(folder: Path) -> Checkpoint:
    """Read a folder. Errors: the `WeightsError` family."""
    values = _json(folder / "config.json", "model configuration")
    config = read_config(values)
    entries = _tensors(folder)
    refused = {name: entry.refusal(name) for name, entry in entries.items() if entry.dtype not in _DTYPES}
    stored = {name: entry.stored() for name, entry in entries.items() if name not in refused}
    config = _with_own_head(config, stored, folder)
    reader = TensorReader(folder, stored, refused, _BUFFERS)
    tensors = _gpt2(reader, config) if config.arch == "gpt2" else _llama(reader, config)
    reader.finish()
    tokenizer = folder_tokenizer(folder, _json)
    generation = folder / "generation_config.json"
    extra = ConfigFields(_json(generation, "generation defaults") if generation.exists() else {})
    bos, eos = ConfigFields(values).token_ids("bos_token_id"), ConfigFields(values).token_ids("eos_token_id")
    stop = stop_tokens([*eos, *extra.token_ids("eos_token_id")], config.vocab, tokenizer, folder)
    first, last = (next((t for t in ids if 0 <= t < config.vocab), None) for ids in (bos, eos))
    return Checkpoint(config, Tensors(tensors, folder), tokenizer, folder, first, last, stop)


def _gpt2(reader: TensorReader, c: ModelConfig) -> dict[str, Stored]:
    prefix = "transformer." if "transformer.wte.weight" in reader else ""
    take = reader.under(prefix)
    out = {"embed": take("wte.weight", c.vocab, c.d), "pos": take("wpe.weight", c.context, c.d)}
    for i in range(c.layers):
        for site, name in (("attn_norm", "ln_1"), ("mlp_norm", "ln_2")):
            out[f"layers.{i}.{site}.gain"] = take(f"h.{i}.{name}.weight", c.d)
            out[f"layers.{i}.{site}.bias"] = take(f"h.{i}.{name}.bias", c.d)
        for site, name in (("qkv", "attn.c_attn"), ("o", "attn.c_proj"), ("up", "mlp.c_fc"), ("down", "mlp.c_proj")):
            d_out, d_in = c.linear_shapes()[f"layers.{i}.{site}"]
            stored = take(f"h.{i}.{name}.weight", d_in, d_out)  # GPT-2's Conv1D is [d_in, d_out]
            out[f"layers.{i}.{site}.weight"] = transposed(stored)
            out[f"layers.{i}.{site}.bias"] = take(f"h.{i}.{name}.bias", d_out)
    out["final_norm.gain"], out["final_norm.bias"] = take("ln_f.weight", c.d), take("ln_f.bias", c.d)
    return out | _head(reader, c)


def _llama(reader: TensorReader, c: ModelConfig) -> dict[str, Stored]:
    out = {"embed": reader.take("model.embed_tokens.weight", c.vocab, c.d)}
    for i in range(c.layers):
        take = reader.under(f"model.layers.{i}.", ".weight")
        out[f"layers.{i}.attn_norm.gain"] = take("input_layernorm", c.d)
        out[f"layers.{i}.mlp_norm.gain"] = take("post_attention_layernorm", c.d)
        q = take("self_attn.q_proj", c.q_width, c.d)
        k, v = (take(f"self_attn.{n}_proj", c.kv_width, c.d) for n in "kv")
        out[f"layers.{i}.qkv.weight"] = stacked(q, k, v)
        out[f"layers.{i}.o.weight"] = take("self_attn.o_proj", c.d, c.q_width)
        gate, up = (take(f"mlp.{n}_proj", c.ff, c.d) for n in ("gate", "up"))
        out[f"layers.{i}.up.weight"] = stacked(gate, up)
        out[f"layers.{i}.down.weight"] = take("mlp.down_proj", c.d, c.ff)
    out["final_norm.gain"] = reader.take("model.norm.weight", c.d)
    return out | _head(reader, c)


def _with_own_head(config: ModelConfig, stored: Mapping[str, Stored], folder: Path) -> ModelConfig:
    """Some files say that the head is the embedding, and have another one beside it: it counts."""
    head = stored.get("lm_head.weight")
    names = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")
    embedding = next((stored[name] for name in names if name in stored), None)
    if not config.tied or head is None or embedding is None:
        return config
    if head.shape == embedding.shape and np.array_equal(head.read(), embedding.read()):
        return config
    log.warning(
        "%s: tie_word_embeddings is true, but lm_head.weight is not the embedding: the file's lm_head.weight is used",
        folder,
    )
    return replace(config, tied=False)


def _head(reader: TensorReader, c: ModelConfig) -> dict[str, Stored]:
    if c.tied:
        reader.skip("lm_head.weight")  # some files repeat the embedding
        return {}
    return {"head.weight": reader.take("lm_head.weight", c.vocab, c.d)}


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
