"""Tiny random models in every file format, for tests: d = 64, 2 layers, vocabulary of 512. Same
seed, same files.

Use: folder = tiny_gpt2(tmp_path / "m")          # Hugging Face folder folder = tiny_llama(tmp_path
    / "m", tie_word_embeddings=True)   # any config.json field can be overridden checkpoint =
    cryptogen.weights.load(folder) write_gguf(checkpoint, tmp_path / "m.gguf");
    write_llama2c(checkpoint, tmp_path / "m.bin")
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cryptogen.models.config import ModelConfig
from cryptogen.weights.checkpoint import Checkpoint

VOCAB, D, LAYERS, HEADS, KV_HEADS, CONTEXT = 512, 64, 2, 4, 2, 128
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tiny_gpt2(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """A GPT-2 folder; `overrides` replace fields of config.json."""
    config = {
        "model_type": "gpt2", "n_embd": D, "n_head": HEADS, "n_layer": LAYERS, "n_positions": CONTEXT, "n_inner": None,
        "vocab_size": VOCAB, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 0,
        "eos_token_id": 0, "tie_word_embeddings": True, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    } | overrides  # fmt: skip
    rng, d = np.random.default_rng(seed), config["n_embd"]
    ff = config["n_inner"] or 4 * d
    tensors = {"wte.weight": _normal(rng, config["vocab_size"], d)}
    tensors["wpe.weight"] = _normal(rng, config["n_positions"], d)
    for i in range(config["n_layer"]):
        shapes = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, ff), "mlp.c_proj": (ff, d)}
        for name, (d_in, d_out) in shapes.items():
            tensors[f"h.{i}.{name}.weight"] = _matrix(rng, d_in, d_out).T.copy()
            tensors[f"h.{i}.{name}.bias"] = _normal(rng, d_out) * 0.1
        for name in ("ln_1", "ln_2"):
            tensors |= _norm(rng, f"h.{i}.{name}", d, bias=True)
    tensors |= _norm(rng, "ln_f", d, bias=True)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = _matrix(rng, d, config["vocab_size"])
    return _write(folder, config, {(n if n == "lm_head.weight" else f"transformer.{n}"): t for n, t in tensors.items()})


def tiny_llama(folder: Path, seed: int = 0, **overrides: Any) -> Path:
    """A LLaMA folder; `overrides` replace fields of config.json."""
    config = {
        "model_type": "llama", "hidden_size": D, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": LAYERS, "head_dim": D // HEADS, "intermediate_size": 176, "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False,
    } | overrides  # fmt: skip
    rng, d, ff = np.random.default_rng(seed), config["hidden_size"], config["intermediate_size"]
    head_dim = config["head_dim"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    tensors = {"model.embed_tokens.weight": _normal(rng, config["vocab_size"], d)}
    for i in range(config["num_hidden_layers"]):
        shapes = {"self_attn.q_proj": (d, q), "self_attn.k_proj": (d, kv), "self_attn.v_proj": (d, kv),
                  "self_attn.o_proj": (q, d), "mlp.gate_proj": (d, ff), "mlp.up_proj": (d, ff),
                  "mlp.down_proj": (ff, d)}  # fmt: skip
        for name, (d_in, d_out) in shapes.items():
            tensors[f"model.layers.{i}.{name}.weight"] = _matrix(rng, d_in, d_out)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors |= _norm(rng, f"model.layers.{i}.{name}", d)
    tensors |= _norm(rng, "model.norm", d)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = _matrix(rng, d, config["vocab_size"])
    return _write(folder, config, tensors)


def write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    kind: gguf.GGMLQuantizationType | None = None,
    tensors_per_part: int = 0,
    big: bool = False,
    **extra: Any,
) -> Path:
    """A checkpoint as GGUF, with interleaved q/k rows if it is a LLaMA; matrices quantised as
    `kind`; split into files of so many tensors, of which the first is returned; `extra`: other
    metadata, `__` for a dot, None to leave a key out."""
    c = checkpoint.config
    order = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    arch = "llama" if c.rope else "gpt2"
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=tensors_per_part, endianess=order)
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.d)
    writer.add_feed_forward_length(c.ff)
    writer.add_head_count(c.heads)
    if c.rope:
        writer.add_head_count_kv(c.kv_heads)
        writer.add_rope_freq_base(1e4)
        writer.add_rope_dimension_count(c.head_dim)
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
        writer.add_layer_norm_rms_eps(c.norm_eps)
    else:
        writer.add_layer_norm_eps(c.norm_eps)
    writer.add_vocab_size(c.vocab)
    vocab, merges = _byte_level_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocab)
    writer.add_token_types([3 if token in SPECIALS else 1 for token in vocab])
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for key, value in extra.items():
        name = key.replace("__", ".")
        writer.kv_data[0].pop(name, None)
        if isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            kinds = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, int: writer.add_uint32}
            kinds[type(value)](name, value)
    for name, tensor in (_gguf_llama(checkpoint) if c.rope else _gguf_gpt2(checkpoint)).items():
        if kind is None or tensor.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
        else:
            writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if tensors_per_part else path


def _gguf_llama(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    c, t = checkpoint.config, checkpoint.tensors
    named = {"token_embd": t["embed"], "output_norm": t["final_norm.gain"]}
    if not c.tied:
        named["output"] = t["head.weight"]
    for i in range(c.layers):
        q, k, v = np.split(t[f"layers.{i}.qkv.weight"], [c.q_width, c.q_width + c.kv_width])
        gate, up = np.split(t[f"layers.{i}.up.weight"], 2)
        rows = {"attn_q": interleaved(q, c.heads), "attn_k": interleaved(k, c.kv_heads), "attn_v": v,
                "attn_output": t[f"layers.{i}.o.weight"], "ffn_gate": gate, "ffn_up": up,
                "ffn_down": t[f"layers.{i}.down.weight"], "attn_norm": t[f"layers.{i}.attn_norm.gain"],
                "ffn_norm": t[f"layers.{i}.mlp_norm.gain"]}  # fmt: skip
        named |= {f"blk.{i}.{name}": tensor for name, tensor in rows.items()}
    return {f"{name}.weight": tensor for name, tensor in named.items()}


def _gguf_gpt2(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    c, t = checkpoint.config, checkpoint.tensors
    named = {"token_embd.weight": t["embed"], "position_embd.weight": t["pos"]}
    sites = {"attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "qkv": "attn_qkv", "o": "attn_output", "up": "ffn_up",
             "down": "ffn_down"}  # fmt: skip
    for i in range(c.layers):
        for site, name in sites.items():
            named[f"blk.{i}.{name}.weight"] = t[f"layers.{i}.{site}.{'gain' if 'norm' in site else 'weight'}"]
            named[f"blk.{i}.{name}.bias"] = t[f"layers.{i}.{site}.bias"]
    named |= {"output_norm.weight": t["final_norm.gain"], "output_norm.bias": t["final_norm.bias"]}
    return named if c.tied else named | {"output.weight": t["head.weight"]}


def write_llama2c(checkpoint: Checkpoint, path: Path) -> Path:
    """A LLaMA checkpoint in llama2.c's legacy format, with tok{vocab}.bin beside it."""
    c, t = checkpoint.config, checkpoint.tensors
    layers = range(c.layers)
    qkv = [np.split(t[f"layers.{i}.qkv.weight"], [c.q_width, c.q_width + c.kv_width]) for i in layers]
    gate_up = [np.split(t[f"layers.{i}.up.weight"], 2) for i in layers]
    parts = [t["embed"], *(t[f"layers.{i}.attn_norm.gain"] for i in layers)]
    parts += [interleaved(q, c.heads) for q, _, _ in qkv] + [interleaved(k, c.kv_heads) for _, k, _ in qkv]
    parts += [v for _, _, v in qkv] + [t[f"layers.{i}.o.weight"] for i in layers]
    parts += [t[f"layers.{i}.mlp_norm.gain"] for i in layers] + [gate for gate, _ in gate_up]
    parts += [t[f"layers.{i}.down.weight"] for i in layers] + [up for _, up in gate_up] + [t["final_norm.gain"]]
    parts += [np.zeros((2, c.context, c.head_dim // 2), dtype=np.float32)]  # precomputed RoPE, which no reader uses
    if not c.tied:
        parts.append(t["head.weight"])
    vocab = c.vocab if c.tied else -c.vocab
    header = struct.pack("<7i", c.d, c.ff, c.layers, c.heads, c.kv_heads, vocab, c.context)
    path.write_bytes(header + b"".join(np.ascontiguousarray(p, dtype="<f4").tobytes() for p in parts))
    path.with_name(f"tok{c.vocab}.bin").write_bytes(_llama2c_tokenizer(c.vocab))
    return path


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Half-rotation rows to interleaved ones: what llama.cpp's converter does (`permute`)."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def random_tokens(config: ModelConfig, n: int, seed: int = 0) -> list[int]:
    """n uniform token ids."""
    return [int(t) for t in np.random.default_rng(seed).integers(0, config.vocab, n)]


def tokenizer_json() -> str:
    """A byte-level BPE of 512 tokens as tokenizer.json."""
    tokens, merges = _byte_level_vocab()
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return str(tokenizer.to_str())


def _byte_level_vocab() -> tuple[list[str], list[tuple[str, str]]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in "Ġetaoinshrdl" for b in "etaoinshrdlumcfgpwyb" if a != b or a == "e"]
    merges = pairs[: VOCAB - len(SPECIALS) - len(alphabet)]
    tokens = SPECIALS + alphabet + [a + b for a, b in merges]
    tokens += [f"<|extra_{i}|>" for i in range(VOCAB - len(tokens))]
    return tokens, merges


def _llama2c_tokenizer(vocab: int) -> bytes:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256)), *" etaoinshrdlumcfgpwybvkxjqz.,?!"]
    pieces += [a + b for a in " etaoinshrdl" for b in "etaoinshrdlumcfgpwyb"]
    pieces = pieces[:vocab] + [f"<extra_{i}>" for i in range(vocab - len(pieces))]
    out = struct.pack("<i", max(len(p.encode()) for p in pieces))
    for i, piece in enumerate(pieces):
        out += struct.pack("<fi", -float(i) if len(piece) == 2 else 0.0, len(piece.encode())) + piece.encode()
    return out


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    save_file({n: np.ascontiguousarray(t, dtype=np.float32) for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _matrix(rng: np.random.Generator, d_in: int, d_out: int) -> np.ndarray:
    """[d_out, d_in], outputs about as large as inputs."""
    return _normal(rng, d_out, d_in) / np.float32(d_in**0.5)


def _norm(rng: np.random.Generator, name: str, d: int, bias: bool = False) -> dict[str, np.ndarray]:
    out = {f"{name}.weight": 1.0 + 0.2 * _normal(rng, d)}
    return out | ({f"{name}.bias": 0.2 * _normal(rng, d)} if bias else {})
