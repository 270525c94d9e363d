"""GGUF files of architecture `llama`, in every quantisation that the `gguf` package can expand.

llama.cpp rotates q and k in the interleaved layout, so its converter permuted their rows; they are
permuted back here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from cryptogen.errors import MalformedFile, MissingFile, TensorMismatch, UnsupportedModel
from cryptogen.models.config import ModelConfig
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.gguf_tokenizer import read_tokenizer
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.special import stop_tokens
from cryptogen.weights.tensors import Array, Stored, Tensors, half_rotated, read_converted, stacked

_ENDS = ("bos", "eos", "eot", "eom")  # tokens that the metadata names; all but the first end a generation


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
    config = _read_config(values, tensors)
    refused = {name: _refusal(tensor) for name, tensor in tensors.items() if not _known(tensor.tensor_type)}
    reader = TensorReader(path, {n: _stored(path, t) for n, t in tensors.items() if n not in refused}, refused)
    out = _tensors(reader, config)
    reader.finish()
    fields = ConfigFields(values)
    tokenizer = read_tokenizer(values, path) if "tokenizer.ggml.model" in values else None
    bos, eos, *others = (fields.token_ids(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    stop = stop_tokens([*eos, *(t for ids in others for t in ids)], config.vocab, tokenizer, path)
    first, last = (next((t for t in ids if 0 <= t < config.vocab), None) for ids in (bos, eos))
    return Checkpoint(config, Tensors(out, path), tokenizer, path, first, last, stop)


def _read_config(values: dict[str, Any], tensors: dict[str, Any]) -> ModelConfig:
    f = ConfigFields(values)
    if (arch := f.text("general.architecture")) != "llama":
        raise UnsupportedModel("general.architecture", arch, ["llama"])
    f.only("llama.expert_count", [0])
    f.only("llama.rope.scaling.type", ["none"])
    f.only("llama.attention.sliding_window", [0])
    if "rope_freqs.weight" in tensors:  # Llama 3's scaled frequencies
        raise UnsupportedModel("rope_freqs.weight", "present", ["absent (plain RoPE)"])
    d, heads = f.integer("llama.embedding_length"), f.integer("llama.attention.head_count")
    head_dim = f.integer("llama.attention.key_length", d // max(heads, 1))
    f.only("llama.attention.value_length", [head_dim])
    f.only("llama.rope.dimension_count", [head_dim])
    embedding = tensors.get("token_embd.weight")
    vocab = f.integer("llama.vocab_size", None if embedding is None else int(embedding.shape[-1]))
    return ModelConfig(
        arch="llama", layers=f.integer("llama.block_count"), d=d, heads=heads,
        kv_heads=f.integer("llama.attention.head_count_kv", heads), head_dim=head_dim,
        ff=f.integer("llama.feed_forward_length"), gated=True, rope=True,
        rope_theta=f.number("llama.rope.freq_base", 10000.0), vocab=vocab, context=f.integer("llama.context_length"),
        norm_eps=_decimal(f.number("llama.attention.layer_norm_rms_epsilon")), activation="silu",
        tied="output.weight" not in tensors,
    )  # fmt: skip


def _decimal(value: float) -> float:
    """The file stores ε in float32: 9.99999974e-06 was written as 1e-5."""
    return float(np.format_float_scientific(np.float32(value)))


def _tensors(reader: TensorReader, c: ModelConfig) -> dict[str, Stored]:
    out = {"embed": reader.take("token_embd.weight", c.vocab, c.d)}
    for i in range(c.layers):
        take = reader.under(f"blk.{i}.", ".weight")
        out[f"layers.{i}.attn_norm.gain"] = take("attn_norm", c.d)
        out[f"layers.{i}.mlp_norm.gain"] = take("ffn_norm", c.d)
        q = half_rotated(take("attn_q", c.q_width, c.d), c.heads)
        k = half_rotated(take("attn_k", c.kv_width, c.d), c.kv_heads)
        out[f"layers.{i}.qkv.weight"] = stacked(q, k, take("attn_v", c.kv_width, c.d))
        out[f"layers.{i}.o.weight"] = take("attn_output", c.d, c.q_width)
        out[f"layers.{i}.up.weight"] = stacked(take("ffn_gate", c.ff, c.d), take("ffn_up", c.ff, c.d))
        out[f"layers.{i}.down.weight"] = take("ffn_down", c.d, c.ff)
    out["final_norm.gain"] = reader.take("output_norm.weight", c.d)
    if not c.tied:
        out["head.weight"] = reader.take("output.weight", c.vocab, c.d)
    return out


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
