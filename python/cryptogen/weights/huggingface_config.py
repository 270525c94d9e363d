"""config.json of transformers 4 and 5 to a `Layout`, a function for each `model_type`. What a
family computes differently is data of the configuration, an order of rows or a factor; what is none
of these is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cryptogen.errors import InvalidConfig, UnsupportedModel
from cryptogen.models.config import Activation, ModelConfig
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.layout import Layout, Names
from cryptogen.weights.rope import Rotation, read_rotation

log = logging.getLogger("cryptogen.weights")

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_new", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "relu": "relu",
    "silu": "silu", "swish": "silu",
}  # fmt: skip
_LLAMA = Names(
    prefixes=("model.",), embed="embed_tokens", attn_norm="layers.{}.input_layernorm",
    mlp_norm="layers.{}.post_attention_layernorm", final_norm="norm",
    qkv=("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
    o="layers.{}.self_attn.o_proj", up=("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
    down="layers.{}.mlp.down_proj",
)  # fmt: skip
_PHI3 = replace(_LLAMA, qkv=("layers.{}.self_attn.qkv_proj",), up=("layers.{}.mlp.gate_up_proj",))
_PHI = replace(
    _LLAMA, mlp_norm=_LLAMA.attn_norm, final_norm="final_layernorm", o="layers.{}.self_attn.dense",
    up=("layers.{}.mlp.fc1",), down="layers.{}.mlp.fc2",
)  # fmt: skip
_STARCODER2 = replace(_LLAMA, up=("layers.{}.mlp.c_fc",), down="layers.{}.mlp.c_proj")
_GPT2 = Names(
    prefixes=("transformer.", ""), embed="wte", pos="wpe", attn_norm="h.{}.ln_1", mlp_norm="h.{}.ln_2",
    final_norm="ln_f", qkv=("h.{}.attn.c_attn",), o="h.{}.attn.c_proj", up=("h.{}.mlp.c_fc",),
    down="h.{}.mlp.c_proj",
)  # fmt: skip
_GPTJ = Names(
    prefixes=("transformer.", ""), embed="wte", attn_norm="h.{}.ln_1", mlp_norm="h.{}.ln_1", final_norm="ln_f",
    qkv=("h.{}.attn.q_proj", "h.{}.attn.k_proj", "h.{}.attn.v_proj"), o="h.{}.attn.out_proj",
    up=("h.{}.mlp.fc_in",), down="h.{}.mlp.fc_out",
)  # fmt: skip
_NEOX = Names(
    prefixes=("gpt_neox.",), embed="embed_in", attn_norm="layers.{}.input_layernorm",
    mlp_norm="layers.{}.post_attention_layernorm", final_norm="final_layer_norm",
    qkv=("layers.{}.attention.query_key_value",), o="layers.{}.attention.dense",
    up=("layers.{}.mlp.dense_h_to_4h",), down="layers.{}.mlp.dense_4h_to_h", heads=("embed_out", "lm_head"),
)  # fmt: skip
_OPT = Names(
    prefixes=("model.decoder.", "decoder."), embed="embed_tokens", pos="embed_positions",
    attn_norm="layers.{}.self_attn_layer_norm", mlp_norm="layers.{}.final_layer_norm", final_norm="final_layer_norm",
    qkv=_LLAMA.qkv, o="layers.{}.self_attn.out_proj", up=("layers.{}.fc1",), down="layers.{}.fc2",
)  # fmt: skip
_ALL = frozenset({"norm", "qkv", "o", "up", "down"})


def read_layout(values: Mapping[str, Any]) -> Layout:
    """`UnsupportedModel` names the first option that is not supported, `InvalidConfig` one that
    makes no sense."""
    fields = ConfigFields(values)
    family = fields.text("model_type")
    fields.only("quantization_config", [None])
    fields.only("is_encoder_decoder", [False])
    if family not in FAMILIES:
        raise UnsupportedModel("model_type", family, FAMILIES)
    return FAMILIES[family](fields, values)


def _gpt2(f: ConfigFields, _values: Mapping[str, Any]) -> Layout:
    f.only("scale_attn_weights", [True])
    f.only("scale_attn_by_inverse_layer_idx", [False])
    f.only("add_cross_attention", [False])
    d, heads, tied = f.integer("n_embd"), f.integer("n_head"), f.flag("tie_word_embeddings", True)
    config = ModelConfig(
        layers=f.integer("n_layer"), d=d, heads=heads, kv_heads=heads, head_dim=_part(d, heads, "n_head"),
        ff=f.integer("n_inner", 4 * d), gated=False, norm="layer", parallel=False, rope=(), unrotated=(),
        vocab=f.integer("vocab_size"), context=f.integer("n_positions"), norm_eps=f.number("layer_norm_epsilon", 1e-5),
        activation=_activation(f, "activation_function", "gelu_new"), tied=tied,
    )  # fmt: skip
    return Layout(config, _GPT2, tied, _ALL, transposed=True)


def _llama(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    """LLaMA, and what differs from it by biases (`attention_bias`, `mlp_bias`) and rotation
    alone."""
    f.only("sliding_window", [None])
    f.only("use_sliding_window", [False])
    return _like_llama(values, biased=_llama_biases(f))


def _mistral(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    window = f.integer("sliding_window", 4096) if values.get("sliding_window", 0) is not None else None
    return _like_llama(values, window=window)


def _qwen2(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    return _like_llama(values, biased=frozenset({"qkv"}), window=_used_window(f))


def _granite(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    return _like_llama(
        values, biased=_llama_biases(f), score_scale=f.number("attention_multiplier", 1.0),
        embed_scale=f.number("embedding_multiplier", 1.0), residual_scale=f.number("residual_multiplier", 1.0),
        logit_scale=1.0 / _positive(f, "logits_scaling", 1.0),
    )  # fmt: skip


def _smollm3(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    layers = f.integer("num_hidden_layers")
    rotated = values.get("no_rope_layers")  # despite its name: 1 where queries and keys turn
    if rotated is None:
        every = f.integer("no_rope_layer_interval", 4)
        if every < 1:
            raise InvalidConfig("no_rope_layer_interval", "a positive integer", every)
        rotated = [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(rotated, list) or len(rotated) != layers or any(turns not in (0, 1) for turns in rotated):
        raise InvalidConfig("no_rope_layers", f"0 or 1 for each of {layers} layers", rotated)
    unrotated = tuple(i for i, turns in enumerate(rotated) if not turns)
    return _like_llama(
        values, biased=_llama_biases(f), window=_used_window(f), theta=2e6, unrotated=unrotated, tied=True
    )


def _phi3(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    f.only("attention_bias", [False])
    return _like_llama(values, names=_PHI3, window=_window(f, values), part=1.0, eps=1e-5)


def _gemma(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    """The first Gemma. The file's gains lack 1; its activation is the approximate GELU, also where
    an old file says otherwise."""
    f.only("hidden_act", ["gelu", "gelu_pytorch_tanh"])
    f.only("hidden_activation", [None, "gelu_pytorch_tanh"])
    f.only("attention_bias", [False])
    f.only("use_bidirectional_attention", [None, False])
    return _like_llama(
        {"head_dim": 256, **values}, activation="gelu_new", gain=1.0, embed_scale=f.integer("hidden_size") ** 0.5,
        tied=True,
    )  # fmt: skip


def _stablelm(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    f.only("qk_layernorm", [False])
    parallel = f.flag("use_parallel_residual", False)
    names = _with_one_norm(_LLAMA) if parallel else _LLAMA
    biased = frozenset({"norm"} | ({"qkv"} if f.flag("use_qkv_bias", False) else set()))
    return _like_llama(
        values, names=names, biased=biased, part=0.25, norm="layer", eps_option="layer_norm_eps", eps=1e-5,
        parallel=parallel,
    )  # fmt: skip


def _starcoder2(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    biased = _ALL if f.flag("use_bias", True) else frozenset({"norm"})
    return _like_llama(
        values, names=_STARCODER2, biased=biased, norm="layer", eps_option="norm_epsilon", eps=1e-5, gated=False,
        activation=_activation(f, "hidden_act", "gelu_pytorch_tanh"), window=_window(f, values), tied=True,
    )  # fmt: skip


def _phi(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    f.only("qk_layernorm", [False])
    return _like_llama(
        values, names=_PHI, biased=_ALL | {"head"}, part=0.5, norm="layer", eps_option="layer_norm_eps", eps=1e-5,
        gated=False, activation=_activation(f, "hidden_act", "gelu_new"), parallel=True,
    )  # fmt: skip


def _gpt_neox(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    theta, part = f.number("rotary_emb_base", 1e4), f.number("rotary_pct", 0.25)
    biased = _ALL if f.flag("attention_bias", True) else _ALL - {"qkv", "o"}
    return _like_llama(
        values, names=_NEOX, biased=biased, theta=theta, part=part, norm="layer", eps_option="layer_norm_eps",
        eps=1e-5, gated=False, activation=_activation(f, "hidden_act", "gelu"), grouped=True,
        parallel=f.flag("use_parallel_residual", True),
    )  # fmt: skip


def _gptj(f: ConfigFields, _values: Mapping[str, Any]) -> Layout:
    d, heads, tied = f.integer("n_embd"), f.integer("n_head"), f.flag("tie_word_embeddings", False)
    head_dim, width = _part(d, heads, "n_head"), f.integer("rotary_dim", 64)
    rotation = read_rotation({}, head_dim, part=width / head_dim)
    config = ModelConfig(
        layers=f.integer("n_layer"), d=d, heads=heads, kv_heads=heads, head_dim=head_dim,
        ff=f.integer("n_inner", 4 * d), gated=False, norm="layer", parallel=True, rope=rotation.of_head(head_dim),
        unrotated=(), vocab=f.integer("vocab_size"), context=f.integer("n_positions"),
        norm_eps=f.number("layer_norm_epsilon", 1e-5), activation=_activation(f, "activation_function", "gelu_new"),
        tied=False,
    )  # fmt: skip
    biased = frozenset({"norm", "up", "down", "head"})
    return Layout(config, _GPTJ, tied, biased, rotation, interleaved=True)


def _falcon(f: ConfigFields, values: Mapping[str, Any]) -> Layout:
    """Falcon's variants: one norm or two, residuals side by side or not, one key head or
    several."""
    f.only("alibi", [False])
    new, parallel = f.flag("new_decoder_architecture", False), f.flag("parallel_attn", True)
    heads = f.integer("num_attention_heads")
    kv_heads = f.integer("num_kv_heads", heads) if new else 1 if f.flag("multi_query", True) else heads
    norms = ("h.{}.input_layernorm", "h.{}.input_layernorm" if parallel else "h.{}.post_attention_layernorm")
    if parallel and f.integer("num_ln_in_parallel_attn", 2 if new else 1) == 2:
        norms = ("h.{}.ln_attn", "h.{}.ln_mlp")
        if not new:
            raise UnsupportedModel("num_ln_in_parallel_attn", 2, ["1 without new_decoder_architecture"])
    elif new and not parallel:
        raise UnsupportedModel("parallel_attn", False, ["true with new_decoder_architecture"])
    names = Names(
        prefixes=("transformer.", ""), embed="word_embeddings", attn_norm=norms[0], mlp_norm=norms[1],
        final_norm="ln_f", qkv=("h.{}.self_attention.query_key_value",), o="h.{}.self_attention.dense",
        up=("h.{}.mlp.dense_h_to_4h",), down="h.{}.mlp.dense_4h_to_h",
    )  # fmt: skip
    sizes = {
        "num_key_value_heads": kv_heads, "head_dim": None,
        "intermediate_size": f.integer("ffn_hidden_size", 4 * f.integer("hidden_size")),
        "max_position_embeddings": f.integer("max_position_embeddings", 2048),
    }  # fmt: skip
    return _like_llama(
        {**values, **sizes}, names=names, biased=_ALL if f.flag("bias", False) else frozenset({"norm"}), norm="layer",
        eps_option="layer_norm_epsilon", eps=1e-5, gated=False, activation=_activation(f, "activation", "gelu"),
        grouped=True, parallel=parallel, tied=True,
    )  # fmt: skip


def _opt(f: ConfigFields, _values: Mapping[str, Any]) -> Layout:
    d, heads, tied = f.integer("hidden_size"), f.integer("num_attention_heads"), f.flag("tie_word_embeddings", True)
    f.only("word_embed_proj_dim", [None, d])
    f.only("do_layer_norm_before", [True])
    f.only("_remove_final_layer_norm", [False])
    f.only("layer_norm_elementwise_affine", [True])
    config = ModelConfig(
        layers=f.integer("num_hidden_layers"), d=d, heads=heads, kv_heads=heads,
        head_dim=_part(d, heads, "num_attention_heads"), ff=f.integer("ffn_dim"), gated=False, norm="layer",
        parallel=False, rope=(), unrotated=(), vocab=f.integer("vocab_size"),
        context=f.integer("max_position_embeddings"), norm_eps=1e-5,
        activation=_activation(f, "activation_function", "relu"), tied=tied,
    )  # fmt: skip
    biased = _ALL if f.flag("enable_bias", True) else frozenset({"norm"})
    return Layout(config, _OPT, tied, biased, first_position=2)


def _like_llama(
    values: Mapping[str, Any],
    names: Names = _LLAMA,
    biased: frozenset[str] = frozenset(),
    window: int | None = None,
    tied: bool = False,
    theta: float = 1e4,
    part: float | None = None,
    eps_option: str = "rms_norm_eps",
    eps: float = 1e-6,
    activation: Activation | None = None,
    **differs: Any,
) -> Layout:
    """A decoder with rotary positions whose sizes have LLaMA's names. `window`: rows that a row
    attends to; `tied`, `theta`, `part`, `eps`: the family's defaults, `part` where not all of a
    head has to turn; `differs`: further fields of `ModelConfig` and `Layout`."""
    f = ConfigFields(values)
    d, heads, tied = f.integer("hidden_size"), f.integer("num_attention_heads"), f.flag("tie_word_embeddings", tied)
    own = f.integer("head_dim") if values.get("head_dim") is not None else None
    head_dim = own if own is not None else _part(d, heads, "num_attention_heads")
    rotation = read_rotation(values, head_dim, theta, 1.0 if part is None else part)
    if part is None and rotation.width != head_dim:
        raise UnsupportedModel("partial_rotary_factor", rotation.width / head_dim, [1.0])
    options: dict[str, Any] = {"gated": True, "norm": "rms", "parallel": False, "unrotated": ()}
    options |= {name: differs.pop(name) for name in list(differs) if name in options}
    scaled = differs.get("embed_scale", 1.0) != 1.0 or differs.get("logit_scale", 1.0) != 1.0 or "head" in biased
    config = ModelConfig(
        layers=f.integer("num_hidden_layers"), d=d, heads=heads, kv_heads=f.integer("num_key_value_heads", heads),
        head_dim=head_dim, ff=f.integer("intermediate_size"), rope=rotation.of_head(head_dim),
        vocab=f.integer("vocab_size"), context=limited_context(f.integer("max_position_embeddings"), rotation, window),
        norm_eps=f.number(eps_option, eps), activation=activation or _activation(f, "hidden_act", "silu"),
        tied=tied and not scaled, **options,
    )  # fmt: skip
    return Layout(config, names, tied, biased, rotation, **differs)


def limited_context(longest: int, rotation: Rotation, window: int | None) -> int:
    """Rows for which every row attends to all before it and turns as it would in a text of any
    length."""
    context = min([longest, *(rows for rows in (rotation.context, window) if rows is not None)])
    if context < longest:
        reason = "its rows attend to that many" if context == window else "it turns otherwise in longer texts"
        log.warning("context limited to %d rows of the model's %d: %s", context, longest, reason)
    return context


def _window(f: ConfigFields, values: Mapping[str, Any]) -> int | None:
    """Rows that a row attends to, if the file limits them."""
    return f.integer("sliding_window") if values.get("sliding_window") is not None else None


def _used_window(f: ConfigFields) -> int | None:
    return f.integer("sliding_window", 4096) if f.flag("use_sliding_window", False) else None


def _llama_biases(f: ConfigFields) -> frozenset[str]:
    attention, mlp = f.flag("attention_bias", False), f.flag("mlp_bias", False)
    return frozenset(({"qkv", "o"} if attention else set()) | ({"up", "down"} if mlp else set()))


def _with_one_norm(names: Names) -> Names:
    """Attention and MLP read the same norm: it is computed for each."""
    return replace(names, mlp_norm=names.attn_norm)


def _part(d: int, heads: int, option: str) -> int:
    if heads < 1 or d % heads:
        raise InvalidConfig(option, f"a divisor of the model's width {d}", heads)
    return d // heads


def _positive(f: ConfigFields, name: str, default: float) -> float:
    value = f.number(name, default)
    if not 0.0 < value < 1e12:
        raise InvalidConfig(name, "a positive number", value)
    return value


def _activation(f: ConfigFields, option: str, default: str) -> Activation:
    name = f.text(option, default)
    if name not in ACTIVATIONS:
        raise UnsupportedModel(option, name, ACTIVATIONS)
    return ACTIVATIONS[name]


FAMILIES: dict[str, Callable[[ConfigFields, Mapping[str, Any]], Layout]] = {
    "falcon": _falcon, "gemma": _gemma, "gpt2": _gpt2, "gpt_neox": _gpt_neox, "gptj": _gptj, "granite": _granite,
    "llama": _llama, "mistral": _mistral, "opt": _opt, "phi": _phi, "phi3": _phi3, "qwen2": _qwen2,
    "smollm3": _smollm3, "stablelm": _stablelm, "starcoder2": _starcoder2,
}  # fmt: skip
