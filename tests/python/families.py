"""Tiny random checkpoints of every model family, made of numpy alone: a Hugging Face folder each,
with the names and options that published models of the family have. Same name, same files.

What transformers computes on them is in `family_logits.json`, made by `family_logits.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from tiny import interleaved

VOCAB, D, LAYERS, CONTEXT = 64, 32, 2, 64
TOKENS = [5, 9, 60, 2, 7, 11, 12, 3]
ROWS = (0, 3, 7)  # of which the logits are committed

_SIZES = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48,
          "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
          "pad_token_id": 0}  # fmt: skip
_LLAMA = {**_SIZES, "model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "hidden_act": "silu",
          "tie_word_embeddings": False, "rope_theta": 10000.0}  # fmt: skip
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 24}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0}
_LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [2.0, 3.0, 4.0]}
_NEOX = {**_SIZES, "model_type": "gpt_neox", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.25,
         "rotary_emb_base": 10000, "use_parallel_residual": True, "tie_word_embeddings": False}  # fmt: skip
_FALCON = {"model_type": "falcon", "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
           "vocab_size": VOCAB, "alibi": False, "bias": False, "parallel_attn": True, "rope_theta": 10000.0,
           "layer_norm_epsilon": 1e-5, "max_position_embeddings": CONTEXT, "bos_token_id": 1,
           "eos_token_id": 2}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """`blocks`: a layer's matrices, name -> [d_out, d_in], and its norms, name -> None; `ends`: the
    same outside of layers. `biased`: beginnings of the names, within a layer or outside, that have
    biases."""

    config: dict[str, Any]
    layer: str
    blocks: dict[str, tuple[int, int] | None]
    ends: dict[str, tuple[int, int] | None]
    biased: tuple[str, ...] = ()
    gain: float = 1.0

    @property
    def layers(self) -> int:
        return int(self.config.get("num_hidden_layers") or self.config["n_layer"])

    def tensors(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Outputs about as large as inputs, gains around 1, biases that matter."""
        rng, out = np.random.default_rng(seed), {}
        names = {f"{self.layer.format(i)}{n}": (n, shape) for i in range(self.layers)
                 for n, shape in self.blocks.items()}  # fmt: skip
        names |= {n: (n, shape) for n, shape in self.ends.items()}
        for full, (name, shape) in names.items():
            if shape is None:
                out[f"{full}.weight"] = self.gain + 0.2 * rng.normal(size=D)
            else:
                out[f"{full}.weight"] = rng.normal(size=shape) / (1.0 if "emb" in name or "wte" in name else D**0.5)
            if name.startswith(self.biased):
                out[f"{full}.bias"] = 0.3 * rng.normal(size=out[f"{full}.weight"].shape[0])
        return {name: tensor.astype(np.float32) for name, tensor in out.items()}


def _llama_like(options: dict[str, Any], biased: tuple[str, ...] = (), gain: float = 1.0) -> Family:
    config = {**_LLAMA, **options}
    heads, kv, ff = config["num_attention_heads"], config["num_key_value_heads"], config["intermediate_size"]
    head_dim = config.get("head_dim") or D // heads
    blocks: dict[str, tuple[int, int] | None] = {
        "input_layernorm": None, "post_attention_layernorm": None, "self_attn.q_proj": (heads * head_dim, D),
        "self_attn.k_proj": (kv * head_dim, D), "self_attn.v_proj": (kv * head_dim, D),
        "self_attn.o_proj": (D, heads * head_dim), "mlp.gate_proj": (ff, D), "mlp.up_proj": (ff, D),
        "mlp.down_proj": (D, ff),
    }  # fmt: skip
    ends: dict[str, tuple[int, int] | None] = {"model.embed_tokens": (VOCAB, D), "model.norm": None}
    if not config["tie_word_embeddings"]:
        ends["lm_head"] = (VOCAB, D)
    return Family(config, "model.layers.{}.", blocks, ends, biased, gain)


def _phi3(**options: Any) -> Family:
    made = _llama_like({"model_type": "phi3", "num_key_value_heads": 2, **options})
    norms = {name: None for name, shape in made.blocks.items() if shape is None}
    fused = {"self_attn.qkv_proj": (64, D), "mlp.gate_up_proj": (96, D)}
    rest = {name: made.blocks[name] for name in ("self_attn.o_proj", "mlp.down_proj")}
    return Family(made.config, made.layer, {**norms, **fused, **rest}, made.ends)


def _stablelm(**options: Any) -> Family:
    made = _llama_like({"model_type": "stablelm", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25,
                        "use_qkv_bias": True, **options})  # fmt: skip
    blocks = dict(made.blocks)
    if options.get("use_parallel_residual"):
        del blocks["post_attention_layernorm"]
    biased = ("input_", "post_", "model.norm", "self_attn.q", "self_attn.k", "self_attn.v")
    return Family(made.config, made.layer, blocks, made.ends, biased)


def _plain(config: dict[str, Any], layer: str, names: dict[str, str], ends: dict[str, str], **more: Any) -> Family:
    """A decoder without gate. `names`: of a layer, role -> name; `ends`: likewise."""
    shapes = {"q": (D, D), "k": (D, D), "v": (D, D), "qkv": (3 * D, D), "o": (D, D), "up": (48, D), "down": (D, 48),
              "embed": (VOCAB, D), "pos": (CONTEXT + 2, D), "head": (VOCAB, D)} | more.pop("shapes", {})  # fmt: skip
    blocks = {name: shapes.get(role) for role, name in names.items()}
    return Family(config, layer, blocks, {name: shapes.get(role) for role, name in ends.items()}, **more)


def _neox(**options: Any) -> Family:
    names = {"norm": "input_layernorm", "norm2": "post_attention_layernorm", "qkv": "attention.query_key_value",
             "o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}  # fmt: skip
    ends = {"embed": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "head": "embed_out"}
    biased = (*names.values(), "gpt_neox.final")
    return _plain({**_NEOX, **options}, "gpt_neox.layers.{}.", names, ends, biased=biased)


def _falcon(qkv: int, norms: tuple[str, ...], **options: Any) -> Family:
    names = {f"norm{i}": name for i, name in enumerate(norms)}
    names |= {"qkv": "self_attention.query_key_value", "o": "self_attention.dense", "up": "mlp.dense_h_to_4h",
              "down": "mlp.dense_4h_to_h"}  # fmt: skip
    ends = {"embed": "transformer.word_embeddings", "norm": "transformer.ln_f"}
    shapes = {"qkv": (qkv, D), "up": (4 * D, D), "down": (D, 4 * D)}
    biased: tuple[str, ...] = (*norms, "transformer.ln_f")
    biased += tuple(names.values()) if options.get("bias") else ()
    return _plain({**_FALCON, **options}, "transformer.h.{}.", names, ends, biased=biased, shapes=shapes)


_QKV = {part: f"self_attn.{part}_proj" for part in "qkv"}
FAMILIES: dict[str, Family] = {
    "falcon": _falcon(6 * 8, ("input_layernorm",), multi_query=True, new_decoder_architecture=False),
    "falcon-new": _falcon(2 * 4 * 8, ("ln_attn", "ln_mlp"), new_decoder_architecture=True, num_kv_heads=2, bias=True),
    "falcon-serial": _falcon(
        3 * D, ("input_layernorm", "post_attention_layernorm"), multi_query=False, parallel_attn=False
    ),
    "gemma": _llama_like(
        {"model_type": "gemma", "head_dim": 16, "hidden_act": "gelu", "hidden_activation": None,
         "num_key_value_heads": 1,
         "tie_word_embeddings": True, "rms_norm_eps": 1e-6}, gain=0.0),
    "gpt-neox": _neox(),
    "gpt-neox-serial": _neox(use_parallel_residual=False, rotary_pct=1.0),
    "gptj": _plain(
        {"model_type": "gptj", "n_embd": D, "n_head": 4, "n_layer": LAYERS, "n_positions": CONTEXT, "rotary_dim": 4,
         "n_inner": 48, "vocab_size": VOCAB, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2},
        "transformer.h.{}.",
        {"norm": "ln_1", "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.out_proj",
         "up": "mlp.fc_in", "down": "mlp.fc_out"},
        {"embed": "transformer.wte", "norm": "transformer.ln_f", "head": "lm_head"},
        biased=("ln_1", "mlp", "transformer.ln_f", "lm_head"),
    ),
    "granite": _llama_like(
        {"model_type": "granite", "embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4,
         "logits_scaling": 2.5, "tie_word_embeddings": True}),
    "llama-3.1": _llama_like({"rope_scaling": _LLAMA3, "tie_word_embeddings": True}),
    "llama-biases": _llama_like({"attention_bias": True, "mlp_bias": True}, ("self_attn.", "mlp.")),
    "llama-dynamic": _llama_like({"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    "llama-linear": _llama_like({"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-yarn": _llama_like({"rope_scaling": _YARN}),
    "mistral": _llama_like({"model_type": "mistral", "sliding_window": None, "head_dim": 12}),
    "mistral-window": _llama_like({"model_type": "mistral", "sliding_window": 16}),
    "opt": _plain(
        {"model_type": "opt", "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "ffn_dim": 48,
         "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "do_layer_norm_before": True,
         "word_embed_proj_dim": D, "activation_function": "relu", "enable_bias": True, "tie_word_embeddings": True,
         "layer_norm_elementwise_affine": True, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
        "model.decoder.layers.{}.",
        {"norm": "self_attn_layer_norm", "norm2": "final_layer_norm", **_QKV, "o": "self_attn.out_proj", "up": "fc1",
         "down": "fc2"},
        {"embed": "model.decoder.embed_tokens", "pos": "model.decoder.embed_positions",
         "norm": "model.decoder.final_layer_norm"},
        biased=("self_attn", "final_", "fc", "model.decoder.final"),
    ),
    "phi": _plain(
        {**_SIZES, "model_type": "phi", "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5,
         "qk_layernorm": False, "tie_word_embeddings": False, "rope_theta": 10000.0},
        "model.layers.{}.",
        {"norm": "input_layernorm", **_QKV, "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
        {"embed": "model.embed_tokens", "norm": "model.final_layernorm", "head": "lm_head"},
        biased=("input_", "self_attn", "mlp", "model.final", "lm_head"),
    ),
    "phi3": _phi3(sliding_window=40),
    "phi4-mini": _phi3(
        rope_scaling=_LONGROPE, partial_rotary_factor=0.75, original_max_position_embeddings=16,
        tie_word_embeddings=True, sliding_window=60,
    ),
    "qwen2": _llama_like(
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1,
         "tie_word_embeddings": True, "rope_theta": 1000000.0}, ("self_attn.q", "self_attn.k", "self_attn.v")),
    "smollm3": _llama_like(
        {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4,
         "use_sliding_window": False,
         "tie_word_embeddings": True, "rope_theta": 5000000.0}),
    "stablelm": _stablelm(),
    "stablelm-parallel": _stablelm(use_parallel_residual=True, use_qkv_bias=True),
    "starcoder2": _plain(
        {**_SIZES, "model_type": "starcoder2", "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
         "norm_epsilon": 1e-5, "sliding_window": None, "use_bias": True, "tie_word_embeddings": True,
         "rope_theta": 100000.0},
        "model.layers.{}.",
        {"norm": "input_layernorm", "norm2": "post_attention_layernorm", **_QKV, "o": "self_attn.o_proj",
         "up": "mlp.c_fc", "down": "mlp.c_proj"},
        {"embed": "model.embed_tokens", "norm": "model.norm"},
        biased=("input_", "post_", "self_attn", "mlp", "model.norm"), shapes={"k": (16, D), "v": (16, D)},
    ),
}  # fmt: skip


def write_family(name: str, folder: Path) -> Path:
    """The folder of a family's checkpoint: config.json and model.safetensors."""
    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.config))
    save_file(family.tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


_PACKED = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
           "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
           "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv",
           "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
           "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip


def write_packed(name: str, path: Path, arch: str, factors: dict[str, list[float]], **keys: Any) -> Path:
    """A family's checkpoint as llama.cpp's converter writes it: its names, queries and keys
    interleaved where it rotates so. `factors`: tensors of frequencies; `keys`: further metadata,
    `__` for a dot."""
    family = FAMILIES[name]
    c = family.config
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(family.layers)
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    for key, value in keys.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{arch}.{key.replace('__', '.')}", value)
    for full, tensor in family.tensors().items():
        layer, inner = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.*)", full).groups()  # type: ignore[union-attr]
        stem, _, end = inner.rpartition(".")
        if arch in ("llama", "granite", "smollm3") and _PACKED[stem] in ("attn_q", "attn_k"):
            tensor = interleaved(tensor, heads if _PACKED[stem] == "attn_q" else kv_heads)
        prefix = "" if layer is None else f"blk.{layer}."
        writer.add_tensor(f"{prefix}{_PACKED[stem]}.{end}", np.ascontiguousarray(tensor))
    for tensor_name, values in factors.items():
        writer.add_tensor(tensor_name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
