"""A SentencePiece BPE vocabulary (pieces with scores, as GGUF and llama2.c store it) as a
`tokenizers` BPE.

SentencePiece joins, at every step, the neighbours whose joint piece has the best score. Listing
every split of every piece into two pieces as a merge rule, best score first, gives the same result:
the conversion that transformers does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from cryptogen.errors import TokenizerError


@dataclass(frozen=True)
class Piece:
    text: str  # spaces written as ▁
    score: float
    special: bool  # never made from text, and not written: unknown and control pieces
    user: bool = False  # one token wherever it stands in a text (`user_defined_symbols`)


def bpe_from_pieces(
    pieces: Sequence[Piece], unknown: int, bos: int | None, space_prefix: bool, first_only: bool = False
) -> tokenizers.Tokenizer:
    """Token i is `pieces[i]`. `bos`, if given, starts every encoded text; `space_prefix`: text gets
    a leading space, behind special and user-defined tokens, too, as llama.cpp and transformers do;
    with `first_only` (transformers: `legacy` false) only a text's beginning, if there is none."""
    vocab: dict[str, int] = {}
    for token, piece in enumerate(pieces):
        if vocab.setdefault(piece.text, token) != token:
            raise TokenizerError(f"tokens {vocab[piece.text]} and {token} have the same text")
    if not 0 <= unknown < len(pieces) or not 0 <= (bos or 0) < len(pieces):
        raise TokenizerError(f"unknown = {unknown} or bos = {bos} outside 0..{len(pieces) - 1}")
    unk = pieces[unknown].text
    model = models.BPE(vocab, _merges(pieces, vocab), unk_token=unk, fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    prepend = [normalizers.Prepend("▁")] if space_prefix and not first_only else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    if space_prefix and first_only:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    specials = [p.text for t, p in enumerate(pieces) if p.special or t in (unknown, bos)]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    tokenizer.add_tokens([AddedToken(p.text, special=False, normalized=False) for p in pieces if p.user])
    if bos is not None:
        first = pieces[bos].text
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, bos)]
        )
    return tokenizer


def _merges(pieces: Sequence[Piece], vocab: dict[str, int]) -> list[tuple[str, str]]:
    rules: list[tuple[float, int, str, str]] = []
    for piece in pieces:
        if piece.special or (piece.text.startswith("<0x") and piece.text.endswith(">")):
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in vocab and right in vocab:
                rules.append((-piece.score, vocab[piece.text], left, right))
    return [(left, right) for *_, left, right in sorted(rules, key=lambda r: r[:2])]
