"""Makes tokenizer.model and tokenizers_of_folders.json: a small SentencePiece model with
user-defined symbols, and what sentencepiece and transformers make of texts.

    python tests/reference/tokenizers_of_folders.py        # needs sentencepiece and transformers
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import sentencepiece
from transformers import GPT2Tokenizer, Qwen2Tokenizer

HERE = Path(__file__).parent
TEXT = ["the rain in the plain", "a cat on the mat", "hello there, the weather is fine", "no one knows", "12 + 30 = 42"]
PROMPTS = ["the rain", " the rain", "the  cat", "é€🙂", "hello", "the<tool>cat", "42 dogs\nand cats", ""]
WORDS = ["the", "rain", "hello", "world's", "12345", "Straße", "cafe\u0301", " x\n\n y"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT * 20), model_prefix=f"{folder}/m", vocab_size=320, model_type="bpe",
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            user_defined_symbols=["<tool>"], character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        (HERE / "tokenizer.model").write_bytes(Path(f"{folder}/m.model").read_bytes())
        sp = sentencepiece.SentencePieceProcessor(f"{folder}/m.model")
        letters = [c for c in bytes_to_unicode().values()]
        vocab = {t: i for i, t in enumerate([*letters, "th", "the", "Ġthe", "ra", "<|endoftext|>"])}
        Path(f"{folder}/vocab.json").write_text(json.dumps(vocab))
        Path(f"{folder}/merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\nr a\n")
        made = {}
        for kind in (GPT2Tokenizer, Qwen2Tokenizer):
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind.__name__}))
            loaded = kind.from_pretrained(folder, unk_token="<|endoftext|>")
            made[kind.__name__] = [loaded(w)["input_ids"] for w in WORDS]
    found = {
        "sentencepiece": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in PROMPTS],
        "pieces": [sp.id_to_piece(i) for i in range(sp.get_piece_size())],
        "vocab": vocab, "words": WORDS, "byte_level": made,
    }  # fmt: skip
    (HERE / "tokenizers_of_folders.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def bytes_to_unicode() -> dict[int, str]:
    """GPT-2's letters for bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(others)}


if __name__ == "__main__":
    main()
