"""Tokenizers of folders and files as real ones are; values by sentencepiece and transformers
(tests/reference/tokenizers_of_folders.py)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from cryptogen import errors
from cryptogen.tokens.sentencepiece import Piece, bpe_from_pieces
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights import load
from cryptogen.weights.sentencepiece_model import read_model
from tiny import tiny_llama

REFERENCE = Path(__file__).parents[1] / "reference"
FOUND = json.loads((REFERENCE / "tokenizers_of_folders.json").read_text(encoding="utf-8"))
PIECES = FOUND["pieces"]


def folder_of(folder: Path, **options: object) -> Path:
    """A tiny model's folder without a tokenizer."""
    tiny_llama(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def test_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m")
    shutil.copy(REFERENCE / "tokenizer.model", folder)
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    for case in FOUND["sentencepiece"]:
        tokens = tokenizer.encode(case["text"])
        assert tokens[0] == PIECES.index("<s>")
        if case["text"] and "<tool>" not in case["text"]:
            assert tokens[1:] == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert "<tool>" in tokenizer.decode(tokenizer.encode("the<tool>cat"))


def test_options_of_a_sentencepiece_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", add_bos_token=False, legacy=False, bos_token="<s>")
    shutil.copy(REFERENCE / "tokenizer.model", folder)
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    by_text = {case["text"]: case["ids"] for case in FOUND["sentencepiece"]}
    assert tokenizer.encode("the rain") == by_text["the rain"]
    assert tokenizer.encode("the<tool>cat") == by_text["the<tool>cat"]  # no space behind the symbol


def test_symbols_of_the_user_are_written() -> None:
    pieces = [Piece(p, 0.0, p in ("<unk>", "<s>", "</s>"), p == "<tool>") for p in ["<unk>", "<s>", "</s>", "<tool>"]]
    pieces += [Piece(f"<0x{b:02X}>", 0.0, False) for b in range(256)] + [Piece(c, -1.0, False) for c in "▁abc"]
    tokenizer = Tokenizer(bpe_from_pieces(pieces, 0, 1, True))
    tokens = tokenizer.encode("a<tool>b")
    assert tokens.count(3) == 1
    assert tokenizer.decode(tokens).startswith("a<tool>")
    assert "</s>" not in tokenizer.decode([*tokens, 2])


def test_the_first_space_of_a_continuation_is_kept() -> None:
    tokenizer = Tokenizer(read_model(REFERENCE / "tokenizer.model", True, False))
    prompt, answer = tokenizer.encode("the rain"), [PIECES.index("▁the"), PIECES.index("▁c")]
    stream = tokenizer.stream(before=prompt)
    assert "".join([*(stream.push(t) for t in answer), stream.finish()]) == " the c"
    alone = tokenizer.stream()
    assert "".join([*(alone.push(t) for t in answer), alone.finish()]) == "the c"
    behind_bos = tokenizer.stream(before=prompt[:1])  # where a text begins there is none
    assert "".join([*(behind_bos.push(t) for t in answer), behind_bos.finish()]) == "the c"


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast"])
def test_a_vocabulary_and_merges_alone(kind: str, tmp_path: Path) -> None:
    options = {"tokenizer_class": kind, "eos_token": "<|endoftext|>"}
    folder = folder_of(tmp_path / "m", **options)
    (folder / "vocab.json").write_text(json.dumps(FOUND["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\nr a\n")
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_start|>": len(FOUND["vocab"])}))
    tokenizer = load(folder).tokenizer
    assert tokenizer is not None
    wanted = FOUND["byte_level"][kind.removesuffix("Fast")]
    assert [tokenizer.encode(w) for w in FOUND["words"]] == wanted
    assert tokenizer.encode("<|im_start|>the") == [len(FOUND["vocab"]), FOUND["vocab"]["the"]]
    assert tokenizer.decode(tokenizer.encode("a<|endoftext|>")) == "a"
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 400}))
    with pytest.raises(errors.TokenizerError, match="expected 400"):
        load(folder)


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    folder = folder_of(tmp_path / "m")
    assert load(folder).tokenizer is None
    assert "no tokenizer.json, nor vocab.json with merges.txt, nor tokenizer.model: token ids alone" in caplog.text
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # Llama 3's, of another kind
    assert load(folder).tokenizer is None and "not a SentencePiece model" in caplog.text
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert load(folder).tokenizer is None and "tokenizer_class = 'BertTokenizer'" in caplog.text


def test_other_sentencepiece_models_are_refused_by_name(tmp_path: Path) -> None:
    model, path = (REFERENCE / "tokenizer.model").read_bytes(), tmp_path / "tokenizer.model"
    for changed, named in (
        (model + b"\x12\x02\x18\x01", "model_type"),  # trainer_spec: unigram
        (model + b"\x1a\x03\x12\x01x", "normalizer"),  # normalizer_spec: a map of characters
        (model + b"\x1a\x02\x20\x01", "remove_extra_whitespaces"),
    ):
        path.write_bytes(changed)
        with pytest.raises(errors.UnsupportedModel, match=named):
            read_model(path, True, False)
    for cut in (b"", b"\x0a", model[:-1], b"\x0b", b"\xff" * 20):
        path.write_bytes(cut)
        with pytest.raises(errors.MalformedFile, match="not a SentencePiece model"):
            read_model(path, True, False)


def test_a_contradiction_about_the_first_token_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_llama(tmp_path / "m")
    for said, warned in ((False, False), (True, True)):
        options = {"bos_token": "<|im_start|>", "add_bos_token": said}
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
        caplog.clear()
        loaded = load(folder).tokenizer
        assert loaded is not None and loaded.encode("a")[0] != 1
        assert ("add_bos_token = True, but tokenizer.json does the opposite" in caplog.text) is warned
