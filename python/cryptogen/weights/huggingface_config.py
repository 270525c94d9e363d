"""config.json of transformers 4 and 5 to `ModelConfig`; what changes the computation but is not
done is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptogen.errors import InvalidConfig, UnsupportedModel
from cryptogen.models.config import Activation, ModelConfig
from cryptogen.weights.config_fields import ConfigFields

_GPT2_ACTIVATIONS: dict[str, Activation] = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu"}
_LLAMA_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "swish": "silu"}


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """`UnsupportedModel` names the first option that is not supported, `InvalidConfig` one that
    makes no sense."""
    fields = ConfigFields(values)
    arch = fields.text("model_type")
    fields.only("quantization_config", [None])
    fields.only("is_encoder_decoder", [False])
    if arch == "gpt2":
        return _gpt2(fields)
    if arch == "llama":
        return _llama(fields, values)
    raise UnsupportedModel("model_type", arch, ["gpt2", "llama"])


def _gpt2(f: ConfigFields) -> ModelConfig:
    f.only("scale_attn_weights", [True])
    f.only("scale_attn_by_inverse_layer_idx", [False])
    f.only("add_cross_attention", [False])
    d, heads = f.integer("n_embd"), f.integer("n_head")
    if heads < 1 or d % heads:
        raise InvalidConfig("n_head", f"a divisor of n_embd = {d}", heads)
    return ModelConfig(
        arch="gpt2", layers=f.integer("n_layer"), d=d, heads=heads, kv_heads=heads, head_dim=d // heads,
        ff=f.integer("n_inner", 4 * d), gated=False, rope=False, rope_theta=10000.0, vocab=f.integer("vocab_size"),
        context=f.integer("n_positions"), norm_eps=f.number("layer_norm_epsilon", 1e-5),
        activation=_activation("activation_function", f.text("activation_function", "gelu_new"), _GPT2_ACTIVATIONS),
        tied=f.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _llama(f: ConfigFields, values: Mapping[str, Any]) -> ModelConfig:
    f.only("attention_bias", [False])
    f.only("mlp_bias", [False])
    f.only("sliding_window", [None])
    f.only("use_sliding_window", [False])
    f.only("partial_rotary_factor", [1.0, 1, None])
    d, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    if heads < 1 or (values.get("head_dim") is None and d % heads):
        raise InvalidConfig("num_attention_heads", f"a divisor of hidden_size = {d}", heads)
    return ModelConfig(
        arch="llama", layers=f.integer("num_hidden_layers"), d=d, heads=heads,
        kv_heads=f.integer("num_key_value_heads", heads), head_dim=f.integer("head_dim", d // heads),
        ff=f.integer("intermediate_size"), gated=True, rope=True, rope_theta=_rope_theta(values),
        vocab=f.integer("vocab_size"), context=f.integer("max_position_embeddings"),
        norm_eps=f.number("rms_norm_eps", 1e-6),
        activation=_activation("hidden_act", f.text("hidden_act", "silu"), _LLAMA_ACTIVATIONS),
        tied=f.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _rope_theta(values: Mapping[str, Any]) -> float:
    """transformers 5: `rope_parameters`; before: `rope_theta` beside `rope_scaling` (with
    `rope_type` or `type`)."""
    theta = ConfigFields(values).number("rope_theta", 10000.0)
    for option in ("rope_scaling", "rope_parameters"):
        rope = values.get(option)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise InvalidConfig(option, "an object or null", rope)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UnsupportedModel(f"{option}.rope_type", kind, ["default"])
        nested = ConfigFields(rope)
        if rope.get("partial_rotary_factor") is not None and nested.number("partial_rotary_factor") != 1.0:
            raise UnsupportedModel(f"{option}.partial_rotary_factor", rope["partial_rotary_factor"], [1.0])
        theta = nested.number("rope_theta", theta)
    return theta


def _activation(option: str, name: str, known: Mapping[str, Activation]) -> Activation:
    if name not in known:
        raise UnsupportedModel(option, name, known)
    return known[name]
