"""A GGUF file's metadata to `ModelConfig`. Every key of the architecture is used, has the value at
which it changes nothing, or is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cryptogen.errors import InvalidConfig, UnsupportedModel
from cryptogen.models.config import ModelConfig
from cryptogen.weights.config_fields import ConfigFields

ARCHITECTURES = ("llama", "gpt2")
_SHAPE = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
          "attention.head_count_kv", "vocab_size")  # fmt: skip
_USED = {
    "llama": (*_SHAPE, "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
              "rope.dimension_count", "rope.freq_base"),
    "gpt2": (*_SHAPE, "attention.layer_norm_epsilon"),
}  # fmt: skip
# Keys that change nothing, and the values at which they do not.
_NEUTRAL: dict[str, list[Any]] = {
    "attention.causal": [True],
    "attention.clamp_kqv": [0.0],
    "attention.max_alibi_bias": [0.0],
    "attention.scale": [0.0],
    "attention.sliding_window": [0],
    "embedding_scale": [0.0, 1.0],
    "expert_count": [0],
    "expert_used_count": [0],
    "final_logit_softcapping": [0.0],
    "attn_logit_softcapping": [0.0],
    "logit_scale": [0.0, 1.0],
    "residual_scale": [0.0, 1.0],
    "rope.scale_linear": [0.0, 1.0],
    "rope.scaling.attn_factor": [1.0],
    "tensor_data_layout": ["Meta AI original pth", "reference"],
    "use_parallel_residual": [False],
}
# What only a scaled RoPE reads.
_OF_SCALING = ("factor", "original_context_length", "finetuned", "yarn_log_multiplier")


def read_config(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """`shapes`: of the file's tensors. `UnsupportedModel`, `InvalidConfig`."""
    f = ConfigFields(values)
    f.only("general.type", ["model"])
    if (arch := f.text("general.architecture")) not in ARCHITECTURES:
        raise UnsupportedModel("general.architecture", arch, ARCHITECTURES)
    _check_scaling(values, arch)
    for key in sorted(k for k in values if k.startswith(f"{arch}.")):
        name = key.removeprefix(f"{arch}.")
        if name in _NEUTRAL:
            f.only(key, _NEUTRAL[name])
        elif name not in _USED[arch] and not (arch == "llama" and _of_scaling(name)):
            raise UnsupportedModel(key, values[key], ["absent"])
    embedding = shapes.get("token_embd.weight")
    vocab = f.integer(f"{arch}.vocab_size", None if embedding is None else int(embedding[0]))
    d, heads = f.integer(f"{arch}.embedding_length"), f.integer(f"{arch}.attention.head_count")
    if heads < 1:
        raise InvalidConfig(f"{arch}.attention.head_count", "a positive integer", heads)
    if arch == "gpt2":
        if d % heads:
            raise InvalidConfig("gpt2.attention.head_count", f"a divisor of embedding_length = {d}", heads)
        f.only("gpt2.attention.head_count_kv", [heads])
        return ModelConfig(
            arch="gpt2", layers=f.integer("gpt2.block_count"), d=d, heads=heads, kv_heads=heads, head_dim=d // heads,
            ff=f.integer("gpt2.feed_forward_length", 4 * d), gated=False, rope=False, rope_theta=10000.0, vocab=vocab,
            context=f.integer("gpt2.context_length"), norm_eps=_decimal(f.number("gpt2.attention.layer_norm_epsilon")),
            activation="gelu_new", tied="output.weight" not in shapes,
        )  # fmt: skip
    head_dim = f.integer("llama.attention.key_length", d // heads)
    f.only("llama.attention.value_length", [head_dim])
    f.only("llama.rope.dimension_count", [head_dim])
    return ModelConfig(
        arch="llama", layers=f.integer("llama.block_count"), d=d, heads=heads,
        kv_heads=f.integer("llama.attention.head_count_kv", heads), head_dim=head_dim,
        ff=f.integer("llama.feed_forward_length"), gated=True, rope=True,
        rope_theta=f.number("llama.rope.freq_base", 10000.0), vocab=vocab, context=f.integer("llama.context_length"),
        norm_eps=_decimal(f.number("llama.attention.layer_norm_rms_epsilon")), activation="silu",
        tied="output.weight" not in shapes,
    )  # fmt: skip


def _check_scaling(values: Mapping[str, Any], arch: str) -> None:
    """Refuses a scaled RoPE. As in llama.cpp a factor without a type is linear, and 0 stands for
    none."""
    f = ConfigFields(values)
    kind = f.text(f"{arch}.rope.scaling.type", "linear")
    if kind == "none":
        return
    if kind != "linear":
        raise UnsupportedModel(f"{arch}.rope.scaling.type", kind, ["none", "linear with factor 1"])
    f.only(f"{arch}.rope.scaling.factor", [0.0, 1.0])


def _of_scaling(name: str) -> bool:
    first, _, last = name.rpartition(".")
    return first == "rope.scaling" and last in ("type", *_OF_SCALING)


def _decimal(value: float) -> float:
    """The file stores ε in float32: 9.99999974e-06 was written as 1e-5."""
    return float(np.format_float_scientific(np.float32(value)))
