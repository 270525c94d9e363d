"""Every model family: `float` gives transformers' logits, two parties give the oracle's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import cryptogen
from cryptogen import errors
from cryptogen.backends.float import FloatBackend
from cryptogen.bench.shapes import quick_plan
from cryptogen.models.decoder import forward
from cryptogen.weights.canonical import canonicalise
from cryptogen.weights.rope import frequencies, head_rows, read_rotation
from families import CONTEXT, FAMILIES, ROWS, TOKENS, D, write_family, write_packed
from replaying import insecure_core, passes_over, replayed
from tiny import tiny_gpt2

core = pytest.fixture(scope="module")(insecure_core)
LLAMA3 = FAMILIES["llama-3.1"].config["rope_scaling"]
LOGITS: dict[str, list[list[float]]] = json.loads(Path(__file__).with_name("family_logits.json").read_text())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    checkpoint = cryptogen.load(write_family(name, tmp_path / "m"))
    for model in (checkpoint, canonicalise(checkpoint)):
        made = forward(FloatBackend(model), checkpoint.config, TOKENS, "all")
        assert made is not None
        np.testing.assert_allclose(made[list(ROWS)], LOGITS[name], rtol=0, atol=1e-4)


def llama_3_factors(config: dict[str, Any]) -> list[float]:
    """What llama.cpp's converter puts into `rope_freqs.weight`."""
    made = read_rotation(config, D // config["num_attention_heads"])
    return list(np.array(frequencies(config["rope_theta"], made.width)) / made.frequencies)


PACKED: dict[str, tuple[str, dict[str, list[float]], dict[str, Any]]] = {
    "granite": ("granite", {}, {"embedding_scale": 3.0, "attention__scale": 0.2, "residual_scale": 0.4,
                                "logit_scale": 2.5}),
    "llama-3.1": ("llama", {"rope_freqs.weight": llama_3_factors(FAMILIES["llama-3.1"].config)}, {}),
    "llama-biases": ("llama", {}, {}),
    "llama-linear": ("llama", {}, {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}),
    "mistral": ("llama", {}, {"attention__key_length": 12, "attention__value_length": 12, "rope__dimension_count": 12}),
    "phi3": ("phi3", {}, {"attention__sliding_window": 40}),
    "phi4-mini": ("phi3", {"rope_factors_short.weight": [1.0, 1.1, 1.3], "rope_factors_long.weight": [2.0, 3.0, 4.0]},
                  {"rope__dimension_count": 6, "rope__scaling__original_context_length": 16,
                   "rope__scaling__attn_factor": 1.5**0.5, "attention__sliding_window": 60}),
    "qwen2": ("qwen2", {}, {}),
    "smollm3": ("smollm3", {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    arch, factors, keys = PACKED[name]
    checkpoint = cryptogen.load(write_packed(name, tmp_path / "m.gguf", arch, factors, **keys))
    assert checkpoint.config.context == cryptogen.load(write_family(name, tmp_path / "m")).config.context
    made = forward(FloatBackend(checkpoint), checkpoint.config, TOKENS, "all")
    assert made is not None
    np.testing.assert_allclose(made[list(ROWS)], LOGITS[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("key", "value"), [("rope__scaling__factor", 4.0), ("rope__scale_linear", 4.0)])
def test_a_factor_without_a_type_is_linear(key: str, value: float, tmp_path: Path) -> None:
    checkpoint = cryptogen.load(write_packed("llama-linear", tmp_path / "m.gguf", "llama", {}, **{key: value}))
    assert checkpoint.config.rope == tuple(f / 4 for f in frequencies(1e4, 8))


@pytest.mark.parametrize(
    ("arch", "key", "value"),
    [("llama", "rope__scaling__type", "yarn"), ("llama", "rope__scaling__type", "longrope"),
     ("llama", "attention__scale", 0.5), ("qwen2", "logit_scale", 2.0), ("qwen2", "attention__sliding_window", 8),
     ("qwen2", "attention__a_new_key", 1), ("olmo2", "rope__freq_base_swa", 1.0)],
)  # fmt: skip
def test_what_a_packed_file_means_and_is_not_computed_is_refused(
    arch: str, key: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(errors.UnsupportedModel) as e:
        cryptogen.load(write_packed("llama-linear", tmp_path / "m.gguf", arch, {}, **{key: value}))
    assert e.value.option == ("general.architecture" if arch == "olmo2" else f"{arch}.{key.replace('__', '.')}")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_oracle_replays_a_private_run(core: Any, name: str, tmp_path: Path) -> None:
    checkpoint = cryptogen.load(write_family(name, tmp_path / "m"))
    run = replayed(core, tmp_path, checkpoint, quick_plan(checkpoint), passes=passes_over(TOKENS))
    assert not run.oracle.events and not run.range_events


def edited(name: str, folder: Path, **options: Any) -> Path:
    """A family's folder with other options in config.json."""
    write_family(name, folder)
    (folder / "config.json").write_text(json.dumps({**FAMILIES[name].config, **options}))
    return folder


@pytest.mark.parametrize(
    ("name", "options", "context", "reason"),
    [
        ("mistral", {}, CONTEXT, None),
        ("mistral", {"sliding_window": CONTEXT}, CONTEXT, None),
        ("mistral", {"sliding_window": 24}, 24, "attend"),
        ("qwen2", {"use_sliding_window": True}, 16, "attend"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 20}, 20, "attend"),
        ("starcoder2", {"sliding_window": 30}, 30, "attend"),
        ("phi4-mini", {}, 16, "turns"),
        ("llama-dynamic", {}, CONTEXT, None),
    ],
)
def test_context_ends_where_the_computation_would_be_another(
    name: str, options: dict[str, Any], context: int, reason: str | None, tmp_path: Path, caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        assert cryptogen.load(edited(name, tmp_path / "m", **options)).config.context == context
    messages = [m for m in caplog.messages if "tokenizer" not in m]  # these folders have none
    assert [reason] * len(messages) == [r for r in [reason] if r]
    assert all(reason in m and str(context) in m for m in messages)


def test_a_file_without_a_window_has_mistral_s_own(tmp_path: Path) -> None:
    folder = write_family("mistral", tmp_path / "m")
    config = {**FAMILIES["mistral"].config, "max_position_embeddings": 8192}
    (folder / "config.json").write_text(json.dumps(config))
    assert cryptogen.load(folder).config.context == 8192
    del config["sliding_window"]
    (folder / "config.json").write_text(json.dumps(config))
    assert cryptogen.load(folder).config.context == 4096


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *(("llama-linear", "model_type", family) for family in (
            "bloom", "cohere", "gemma2", "gemma3_text", "mixtral", "mpt", "olmo2", "qwen2_moe", "qwen3",
        )),
        ("stablelm", "qk_layernorm", True), ("phi", "qk_layernorm", True), ("falcon", "alibi", True),
        ("opt", "do_layer_norm_before", False), ("opt", "word_embed_proj_dim", 16), ("qwen2", "rope_scaling", {
            "rope_type": "default", "mrope_section": [2, 3, 3]}), ("qwen2", "partial_rotary_factor", 0.5),
        ("gptj", "activation_function", "quick_gelu"), ("gemma", "use_bidirectional_attention", True),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused_by_name(name: str, option: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModel) as e:
        cryptogen.load(edited(name, tmp_path / "m", **{option: value}))
    assert e.value.option.startswith(option)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("smollm3", "no_rope_layers", [1, 0, 1]), ("smollm3", "no_rope_layers", [2, 0]),
        ("granite", "logits_scaling", 0),
        ("phi", "partial_rotary_factor", 1.5), ("phi", "partial_rotary_factor", 0.4), ("gptj", "rotary_dim", 5),
        ("llama-linear", "rope_scaling", {"type": "linear"}),
        ("llama-linear", "rope_scaling", {"type": "linear", "factor": 0}),
        ("llama-linear", "rope_scaling", {"type": "linear", "factor": 0.1}),
        ("llama-3.1", "rope_scaling", {**LLAMA3, "low_freq_factor": 4.0}),
        ("phi4-mini", "rope_scaling", {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
    ],
)  # fmt: skip
def test_nonsense_is_refused(name: str, option: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidConfig):
        cryptogen.load(edited(name, tmp_path / "m", **{option: value}))


def test_biases_that_the_options_promise_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingTensor, match=r"q_proj\.bias"):
        cryptogen.load(edited("llama-linear", tmp_path / "m", attention_bias=True))
    with pytest.raises(errors.UnexpectedTensor, match="bias"):
        cryptogen.load(edited("llama-biases", tmp_path / "n", attention_bias=False))


def test_pairs_that_do_not_turn_come_last() -> None:
    assert head_rows(8, 8, interleaved=False).tolist() == list(range(8))
    assert head_rows(8, 8, interleaved=True).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert head_rows(8, 4, interleaved=False).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert read_rotation({}, 8, part=0.5).of_head(8) == (1.0, 0.01, 0.0, 0.0)


def test_llama_3_stretches_long_waves_alone() -> None:
    """Those of Llama 3.1 8B: 29 pairs turn as before, 29 eight times slower, six are between."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    made = read_rotation({"rope_theta": 5e5, "max_position_embeddings": 131072, "rope_scaling": scaling}, 128)
    ratio = np.array(frequencies(5e5, 128)) / np.array(made.frequencies)
    assert ((ratio == 1).sum(), (ratio == 8).sum(), ((ratio > 1) & (ratio < 8)).sum()) == (29, 29, 6)


def test_gpt2_from_a_packed_file(tmp_path: Path) -> None:
    checkpoint = cryptogen.load(tiny_gpt2(tmp_path / "m"))
    c, path = checkpoint.config, tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.d)
    writer.add_feed_forward_length(c.ff)
    writer.add_head_count(c.heads)
    writer.add_layer_norm_eps(c.norm_eps)
    renamed = {"embed": "token_embd.weight", "pos": "position_embd.weight", "final_norm": "output_norm",
               "attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "qkv": "attn_qkv", "o": "attn_output", "up": "ffn_up",
               "down": "ffn_down"}  # fmt: skip
    for name, tensor in checkpoint.tensors.items():
        *layer, site, end = name.replace("layers.", "blk.").split(".") if "." in name else [name, ""]
        writer.add_tensor(
            ".".join([*layer, renamed[site], *(["weight" if end == "gain" else end] if end else [])]), tensor
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert cryptogen.load(path).digest == checkpoint.digest
