"""A GGUF file's metadata to a `Layout`. Every key of the architecture is used, has the value at
which it changes nothing, or is refused by name.

Rows of queries and keys are interleaved (pairs 2i, 2i + 1) where llama.cpp rotates so: its
converter permuted them for `llama` and what descends from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cryptogen.errors import InvalidConfig, UnsupportedModel
from cryptogen.models.config import ModelConfig
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.huggingface_config import limited_context
from cryptogen.weights.layout import Layout, Names
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.rope import Rotation, frequencies

_NAMES = Names(
    embed="token_embd", attn_norm="blk.{}.attn_norm", mlp_norm="blk.{}.ffn_norm", final_norm="output_norm",
    qkv=("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"), o="blk.{}.attn_output",
    up=("blk.{}.ffn_gate", "blk.{}.ffn_up"), down="blk.{}.ffn_down", heads=("output",),
)  # fmt: skip
_FUSED = replace(_NAMES, qkv=("blk.{}.attn_qkv",), up=("blk.{}.ffn_up",))


@dataclass(frozen=True)
class _Architecture:
    names: Names = _NAMES
    interleaved: bool = False
    used: tuple[str, ...] = ()  # keys beside those that all have
    every: int = 0  # layers of which the last does not turn (llama.cpp has no key for it); 0: none


_SCALES = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
ARCHITECTURES = {
    "gpt2": _Architecture(replace(_FUSED, pos="position_embd"), used=("attention.layer_norm_epsilon",)),
    "granite": _Architecture(interleaved=True, used=_SCALES),
    "llama": _Architecture(interleaved=True),
    "phi3": _Architecture(_FUSED, used=("attention.sliding_window", "rope.scaling.attn_factor")),
    "qwen2": _Architecture(),
    "smollm3": _Architecture(interleaved=True, every=4),
}
_SHAPE = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
          "attention.head_count_kv", "vocab_size")  # fmt: skip
_ROTARY = ("attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
           "rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor",
           "rope.scaling.original_context_length", "rope.scaling.finetuned")  # fmt: skip
# Keys that change nothing, and the values at which they do not.
_NEUTRAL: dict[str, list[Any]] = {
    "attention.causal": [True], "attention.clamp_kqv": [0.0], "attention.max_alibi_bias": [0.0],
    "attention.scale": [0.0], "attention.sliding_window": [0], "attn_logit_softcapping": [0.0],
    "embedding_scale": [0.0, 1.0], "expert_count": [0], "expert_used_count": [0], "final_logit_softcapping": [0.0],
    "logit_scale": [0.0, 1.0], "residual_scale": [0.0, 1.0], "rope.scaling.attn_factor": [1.0],
    "rope.scaling.yarn_log_multiplier": [0.0], "tensor_data_layout": ["Meta AI original pth", "reference"],
    "use_parallel_residual": [False],
}  # fmt: skip


def read_layout(values: Mapping[str, Any], reader: TensorReader) -> Layout:
    """`UnsupportedModel`, `InvalidConfig`; takes the factors of frequencies out of the file, if it
    has them."""
    everything = ConfigFields(values)
    everything.only("general.type", ["model"])
    name = everything.text("general.architecture")
    if name not in ARCHITECTURES:
        raise UnsupportedModel("general.architecture", name, ARCHITECTURES)
    arch = ARCHITECTURES[name]
    f = ConfigFields({k.removeprefix(f"{name}."): v for k, v in values.items() if k.startswith(f"{name}.")}, name)
    used = {*_SHAPE, *arch.used, *(() if arch.names.pos else _ROTARY)}
    f.known(used | set(_NEUTRAL))
    for key, neutral in _NEUTRAL.items():
        if key not in used:
            f.only(key, neutral)
    d, heads, layers = f.integer("embedding_length"), f.integer("attention.head_count"), f.integer("block_count")
    if heads < 1:
        raise InvalidConfig(f"{name}.attention.head_count", "a positive integer", heads)
    embedding, tied = reader.shape("token_embd.weight"), "output.weight" not in reader
    vocab = f.integer("vocab_size", embedding[0] if embedding else None)
    if arch.names.pos:
        if d % heads:
            raise InvalidConfig(f"{name}.attention.head_count", f"a divisor of embedding_length = {d}", heads)
        f.only("attention.head_count_kv", [heads])
        config = ModelConfig(
            layers=layers, d=d, heads=heads, kv_heads=heads, head_dim=d // heads,
            ff=f.integer("feed_forward_length", 4 * d), gated=False, norm="layer", parallel=False, rope=(),
            unrotated=(), vocab=vocab, context=f.integer("context_length"),
            norm_eps=_decimal(f.number("attention.layer_norm_epsilon")), activation="gelu_new", tied=tied,
        )  # fmt: skip
        return Layout(config, arch.names, tied, frozenset({"norm", "qkv", "o", "up", "down"}))
    head_dim = f.integer("attention.key_length", d // heads)
    f.only("attention.value_length", [head_dim])
    rotation = _rotation(f, reader, head_dim)
    embed_scale, residual_scale = f.number("embedding_scale", 0.0) or 1.0, f.number("residual_scale", 0.0) or 1.0
    score_scale, divisor = f.number("attention.scale", 0.0) or None, f.number("logit_scale", 0.0) or 1.0  # 0: none
    scaled = embed_scale != 1.0 or divisor != 1.0
    window = f.integer("attention.sliding_window", 0) or None
    config = ModelConfig(
        layers=layers, d=d, heads=heads, kv_heads=f.integer("attention.head_count_kv", heads), head_dim=head_dim,
        ff=f.integer("feed_forward_length"), gated=True, norm="rms", parallel=False, rope=rotation.of_head(head_dim),
        unrotated=tuple(range(arch.every - 1, layers, arch.every)) if arch.every else (), vocab=vocab,
        context=limited_context(f.integer("context_length"), rotation, window),
        norm_eps=_decimal(f.number("attention.layer_norm_rms_epsilon")), activation="silu", tied=tied and not scaled,
    )  # fmt: skip
    first = {"qkv": arch.names.qkv[0], "o": arch.names.o, "up": arch.names.up[0], "down": arch.names.down}
    biased = frozenset(kind for kind, tensor in first.items() if f"{tensor.format(0)}.bias" in reader)
    return Layout(
        config, arch.names, tied, biased, rotation, interleaved=arch.interleaved, score_scale=score_scale,
        embed_scale=embed_scale, residual_scale=residual_scale, logit_scale=1 / divisor,
    )  # fmt: skip


def _rotation(f: ConfigFields, reader: TensorReader, head_dim: int) -> Rotation:
    """As llama.cpp: a factor without a type is linear, under an old name too, and 0 stands for
    none. Factors of single pairs are tensors: Llama 3's for every text, Phi-3's for short ones."""
    width, theta = f.integer("rope.dimension_count", head_dim), f.number("rope.freq_base", 1e4)
    if head_dim % 2 or not 0 < width <= head_dim or width % 2:
        raise InvalidConfig("rope.dimension_count", f"an even part of key_length = {head_dim}", width)
    if not 0.0 < theta < 1e12:
        raise InvalidConfig("rope.freq_base", "a positive number", theta)
    plain, context = np.array(frequencies(theta, width)), None
    kind = f.text("rope.scaling.type", "linear")
    factor = f.number("rope.scaling.factor", 0.0) or f.number("rope.scale_linear", 0.0) or 1.0
    if kind == "linear" and factor > 0:
        plain /= factor
    elif kind not in ("none", "longrope"):
        raise UnsupportedModel(f.named("rope.scaling.type"), kind, ["none", "linear", "longrope"])
    if "rope_freqs.weight" in reader:
        plain /= _factors(reader, "rope_freqs.weight", width // 2)
    if "rope_factors_short.weight" in reader:
        plain /= _factors(reader, "rope_factors_short.weight", width // 2)
        reader.skip("rope_factors_long.weight")
        context = f.integer("rope.scaling.original_context_length")
    elif kind == "longrope":
        raise UnsupportedModel(f.named("rope.scaling.type"), kind, ["none", "linear", "longrope with its factors"])
    return Rotation(tuple(plain.tolist()), f.number("rope.scaling.attn_factor", 1.0), context)


def _factors(reader: TensorReader, name: str, pairs: int) -> np.ndarray[Any, Any]:
    factors = reader.take(name, pairs).read().astype(np.float64)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise InvalidConfig(name, "positive numbers", "others")
    return factors


def _decimal(value: float) -> float:
    """The file stores ε in float32: 9.99999974e-06 was written as 1e-5."""
    return float(np.format_float_scientific(np.float32(value)))
