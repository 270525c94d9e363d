"""Text to tokens and back, streaming, chat."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptogen import errors
from cryptogen.tokens import StreamDecoder, Tokenizer
from cryptogen.tokens.sentencepiece import Piece, bpe_from_pieces
from cryptogen.weights import load
from tiny import CHAT_TEMPLATE, tiny_llama, tokenizer_json, write_gguf, write_llama2c

TOKENIZER = Tokenizer.from_json(tokenizer_json())
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *"▁aetonih", "th", "the", "▁the", "he", "▁t"]
SPM = Tokenizer(bpe_from_pieces([Piece(p, -float(i), i < 3) for i, p in enumerate(PIECES)], 0, 1, True))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(t) for t in tokens), stream.finish()]


@given(TEXT)
def test_byte_level_round_trip(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens, skip_special=False) == text


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SPM])
@given(text=TEXT)
def test_stream_is_decode(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text.replace("\N{REPLACEMENT CHARACTER}", ""))
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(st.lists(st.integers(0, 511), max_size=30))
def test_any_tokens_stream(tokens: list[int]) -> None:
    assert "".join(streamed(TOKENIZER, tokens)) == TOKENIZER.decode(tokens)


def test_stream_holds_partial_characters_only() -> None:
    pieces = streamed(TOKENIZER, TOKENIZER.encode("né €🙂!"))
    assert "".join(pieces) == "né €🙂!"
    assert not any("\N{REPLACEMENT CHARACTER}" in p for p in pieces)
    assert pieces[0] == "n"  # at once
    assert pieces[1] == ""  # first byte of é
    cut = TOKENIZER.encode("🙂")[:-1]
    assert "\N{REPLACEMENT CHARACTER}" in streamed(TOKENIZER, cut)[-1]


def test_stream_gives_up_on_invalid_bytes() -> None:
    stream = StreamDecoder(lambda tokens: "\N{REPLACEMENT CHARACTER}" * len(tokens))
    assert sum(len(stream.push(0)) for _ in range(100)) >= 92


def test_sentencepiece() -> None:
    assert [PIECES[t] for t in SPM.encode("the hat")] == ["<s>", "▁the", "▁", "h", "a", "t"]
    assert SPM.decode(SPM.encode("the hat")) == "the hat"
    assert SPM.decode(SPM.encode("é€")) == "é€"
    assert SPM.encode("a", special=False)[0] != 1
    with pytest.raises(errors.TokenizerError, match="same text"):
        bpe_from_pieces([Piece("a", 0, False), Piece("a", 0, False)], 0, None, True)


def test_tokenizers_of_every_format_agree(tmp_path: Path) -> None:
    folder = load(tiny_llama(tmp_path / "m", rms_norm_eps=1e-5))
    packed = load(write_gguf(folder, tmp_path / "m.gguf"))
    assert folder.tokenizer is not None
    assert packed.tokenizer is not None
    text = "the rain, <|im_start|>on 3 plains ✓<|im_end|>"
    assert folder.tokenizer.encode(text) == packed.tokenizer.encode(text)
    assert folder.tokenizer.chat is not None and packed.tokenizer.chat is not None
    assert folder.tokenizer.chat.source == packed.tokenizer.chat.source == CHAT_TEMPLATE
    assert folder.stop == packed.stop == {2}
    small = load(write_llama2c(folder, tmp_path / "m.bin")).tokenizer
    assert small is not None
    assert small.decode(small.encode("the rain ✓")) == "the rain ✓"


def test_tokenizer_errors(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile):
        Tokenizer.from_file(tmp_path / "no.json")
    with pytest.raises(errors.TokenizerError):
        Tokenizer.from_json("not json")
    with pytest.raises(errors.InputError):
        TOKENIZER.decode([-1])
    with pytest.raises(errors.TokenizerError):
        TOKENIZER.encode("\ud800")
    assert Tokenizer.from_json(TOKENIZER.to_json()).encode("the end") == TOKENIZER.encode("the end")
