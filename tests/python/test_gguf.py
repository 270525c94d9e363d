"""GGUF files as real ones are: no key is ignored, defaults are those of llama.cpp, parts and names
of any kind."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryptogen import errors
from cryptogen.weights import Checkpoint, load
from cryptogen.weights.gguf_tokenizer import RECIPES
from tiny import SPECIALS, tiny_gpt2, tiny_llama, write_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load(tiny_llama(tmp_path_factory.mktemp("m") / "m", rms_norm_eps=1e-5))


def refused(model: Checkpoint, path: Path, key: str, value: object) -> None:
    with pytest.raises(errors.UnsupportedModel) as raised:
        load(write_gguf(model, path, **{key.replace(".", "__"): value}))
    assert raised.value.option == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.scaling.attn_factor", 1.2),
        ("llama.rope.freq_base_swa", 10000.0),
        ("llama.attention.scale", 0.5),
        ("llama.attention.sliding_window", 64),
        ("llama.attention.value_length", 8),
        ("llama.attention.causal", False),
        ("llama.attention.layer_norm_epsilon", 1e-5),
        ("llama.attention.unheard_of", 1),
        ("llama.logit_scale", 0.5),
        ("llama.residual_scale", 0.5),
        ("llama.embedding_scale", 12.0),
        ("llama.final_logit_softcapping", 30.0),
        ("llama.expert_count", 4),
        ("llama.some_new_option", 3),
        ("general.type", "adapter"),
        ("general.architecture", "mamba"),
    ],
)
def test_a_key_that_would_change_the_answer_is_refused_by_name(
    llama: Checkpoint, tmp_path: Path, key: str, value: object
) -> None:
    refused(llama, tmp_path / "m.gguf", key, value)


@pytest.mark.parametrize(
    "scaled",
    [
        {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
        {"llama__rope__scaling__factor": 4.0},  # linear without a type
        {"llama__rope__scale_linear": 4.0},  # its old name
    ],
)
def test_linear_scaling_divides_all_frequencies(llama: Checkpoint, tmp_path: Path, scaled: dict[str, Any]) -> None:
    packed = load(write_gguf(llama, tmp_path / "m.gguf", **scaled))
    assert packed.config.rope == pytest.approx(tuple(f / 4 for f in llama.config.rope))


def test_a_part_of_a_head_turns(llama: Checkpoint, tmp_path: Path) -> None:
    packed = load(write_gguf(llama, tmp_path / "m.gguf", llama__rope__dimension_count=8))
    assert [f > 0 for f in packed.config.rope] == [True] * 4 + [False] * 4


def test_keys_that_change_nothing(llama: Checkpoint, tmp_path: Path) -> None:
    neutral = {
        "llama.rope.scale_linear": 1.0, "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 8.0,
        "llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.finetuned": True,
        "llama.expert_count": 0, "llama.expert_used_count": 0, "llama.attention.causal": True,
        "llama.attention.sliding_window": 0, "llama.logit_scale": 1.0,
        "llama.tensor_data_layout": "Meta AI original pth", "general.type": "model", "general.name": "any",
    }  # fmt: skip
    loaded = load(write_gguf(llama, tmp_path / "m.gguf", **{k.replace(".", "__"): v for k, v in neutral.items()}))
    assert loaded.digest == llama.digest


def test_a_factor_per_frequency(llama: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny

    plain = tiny._gguf_llama
    for factors, sound in ((np.ones(8, np.float32), True), (np.linspace(1, 8, 8, dtype=np.float32), False)):
        monkeypatch.setattr(tiny, "_gguf_llama", lambda m, f=factors: plain(m) | {"rope_freqs.weight": f})
        path = write_gguf(llama, tmp_path / f"{sound}.gguf")
        if sound:
            assert load(path).digest == llama.digest
        else:
            scaled = np.array(llama.config.rope) / factors
            assert load(path).config.rope == pytest.approx(tuple(scaled))


def test_gpt2(tmp_path: Path) -> None:
    for tied in (True, False):
        model = load(tiny_gpt2(tmp_path / f"{tied}", tie_word_embeddings=tied))
        path = write_gguf(model, tmp_path / f"{tied}.gguf")
        packed = load(path)
        assert packed.config == model.config and packed.digest == model.digest
        assert packed.tokenizer is not None and model.tokenizer is not None
        assert packed.tokenizer.encode("the end") == model.tokenizer.encode("the end")
    refused(model, tmp_path / "other.gguf", "gpt2.attention.layer_norm_rms_epsilon", 1e-5)
    refused(model, tmp_path / "other.gguf", "gpt2.rope.freq_base", 10000.0)


def test_a_file_is_known_by_its_first_bytes(llama: Checkpoint, tmp_path: Path) -> None:
    path = write_gguf(llama, tmp_path / "m.gguf")
    for name in ("model", "model.bin", "sha256-3f2a"):
        shutil.copy(path, tmp_path / name)
        assert load(tmp_path / name).digest == llama.digest


def test_split_files(llama: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    first = write_gguf(llama, folder / "m.gguf", tensors_per_part=8)
    parts = sorted(folder.glob("*.gguf"))
    assert len(parts) == 3 and first == parts[0]
    for path in (*parts, folder):  # any part, and the folder
        loaded = load(path)
        assert loaded.digest == llama.digest and loaded.tokenizer is not None
    alone = tmp_path / "alone.gguf"
    shutil.copy(first, alone)
    with pytest.raises(errors.MalformedFile, match="part 1 of 3 by its metadata, 1 of 1 by its name"):
        load(alone)
    kept = parts[1].read_bytes()
    shutil.copy(parts[2], parts[1])
    with pytest.raises(errors.MalformedFile, match="part 3 of 3 by its metadata, 2 of 3 by its name"):
        load(first)
    parts[1].write_bytes(kept)
    parts[2].unlink()
    with pytest.raises(errors.MissingFile, match="part of a split GGUF file"):
        load(first)


def test_another_byte_order_is_refused(llama: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModel, match="big-endian"):
        load(write_gguf(llama, tmp_path / "m.gguf", big=True))


# --- the tokenizer


def encoded(model: Checkpoint, path: Path, text: str = "the end", **extra: Any) -> list[int]:
    tokenizer = load(write_gguf(model, path, **extra)).tokenizer
    assert tokenizer is not None
    return tokenizer.encode(text)


@pytest.mark.parametrize("pre", sorted(RECIPES))
def test_the_first_token_is_the_default_of_the_recipe(llama: Checkpoint, tmp_path: Path, pre: str) -> None:
    """As llama.cpp does where no key says so (src/llama-vocab.cpp, `load`)."""
    begins = pre in ("llama-bpe", "llama3", "llama-v3", "tekken")
    keys: dict[str, Any] = {"tokenizer__ggml__pre": pre, "tokenizer__ggml__add_bos_token": None}
    plain = encoded(llama, tmp_path / "m.gguf", **keys)
    assert (plain[0] == 1) is begins
    assert encoded(llama, tmp_path / "m.gguf", **keys | {"tokenizer__ggml__add_bos_token": True})[0] == 1
    assert encoded(llama, tmp_path / "m.gguf", **keys | {"tokenizer__ggml__add_bos_token": False})[0] != 1


def test_words_that_no_merge_reaches(llama: Checkpoint, tmp_path: Path) -> None:
    """Llama 3's vocabulary has such words: they are tokens nevertheless (`ignore_merges`)."""
    import tiny

    vocab = [*tiny._byte_level_vocab()[0][:-1], "ĠViet"]
    keys: dict[str, Any] = {"tokenizer__ggml__tokens": vocab, "tokenizer__ggml__add_bos_token": False}
    assert encoded(llama, tmp_path / "a.gguf", " Viet", tokenizer__ggml__pre="llama-bpe", **keys) == [511]
    assert len(encoded(llama, tmp_path / "b.gguf", " Viet", tokenizer__ggml__pre="dbrx", **keys)) > 1


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["abc", "12345", "'s", " x", "!", "\n\n"]),
        ("smollm", ["abc", "1", "2", "3", "4", "5", "'s", " x", "!", "\n\n"]),
        ("llama-bpe", ["abc", "123", "45", "'s", " x", "!\n\n"]),
        ("qwen2", ["abc", "1", "2", "3", "4", "5", "'s", " x", "!\n\n"]),
        ("tekken", ["abc", "1", "2", "3", "4", "5", "'s", " x", "!\n\n"]),
        ("gpt-4o", ["abc", "123", "45", "'s", " x", "!\n\n"]),
    ],
)
def test_how_text_is_cut(pre: str, words: list[str]) -> None:
    from cryptogen.weights.gguf_tokenizer import _pre_tokenizer

    cut = [w for w, _ in _pre_tokenizer(RECIPES[pre]).pre_tokenize_str("abc12345's x!\n\n")]
    assert [w.replace("Ġ", " ").replace("Ċ", "\n") for w in cut] == words


def test_what_a_file_does_not_say_is_said(llama: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    load(write_gguf(llama, tmp_path / "m.gguf"))
    assert not caplog.records
    encoded(llama, tmp_path / "m.gguf", tokenizer__ggml__pre=None)
    assert "does not say how text is cut into words" in caplog.text
    plain = encoded(llama, tmp_path / "m.gguf")
    assert encoded(llama, tmp_path / "m.gguf", tokenizer__ggml__add_eos_token=True) == plain
    assert "add_eos_token is left out" in caplog.text
    refused(llama, tmp_path / "m.gguf", "tokenizer.ggml.pre", "unheard-of")
    refused(llama, tmp_path / "m.gguf", "tokenizer.ggml.model", "unheard-of")


def test_stop_tokens_that_the_model_cannot_give(
    llama: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load(write_gguf(llama, tmp_path / "m.gguf", tokenizer__ggml__eot_token_id=600))
    assert loaded.stop == {SPECIALS.index("<|im_end|>")}
    assert "stop tokens [600] left out, 0..511 expected" in caplog.text
    loaded = load(write_gguf(llama, tmp_path / "m.gguf", tokenizer__ggml__eom_token_id=7))
    assert loaded.stop == {2, 7}
