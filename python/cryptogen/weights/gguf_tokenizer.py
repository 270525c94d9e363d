"""The tokenizer in a GGUF file's metadata: byte-level BPE (`gpt2`) or SentencePiece BPE
(`llama`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from cryptogen.errors import TokenizerError, UnsupportedModel
from cryptogen.tokens.chat import ChatTemplate
from cryptogen.tokens.sentencepiece import Piece, bpe_from_pieces
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.config_fields import ConfigFields
from cryptogen.weights.special import chat_template

log = logging.getLogger("cryptogen.weights")

_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # gguf.TokenType
# What a chat template calls them → what GGUF does.
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator",
          "pad_token": "padding", "cls_token": "cls", "mask_token": "mask"}  # fmt: skip
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_tokenizer(values: Mapping[str, Any], source: Path) -> Tokenizer:
    """`UnsupportedModel` for other kinds, `TokenizerError` for metadata that contradicts itself."""
    fields = ConfigFields(values)
    kind = fields.text("tokenizer.ggml.model")
    tokens, types = _list(values, "tokenizer.ggml.tokens", str), _list(values, "tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise TokenizerError(f"tokenizer.ggml.token_type has {len(types)} entries, expected {len(tokens)}")
    starts = fields.token_ids("tokenizer.ggml.bos_token_id")
    bos = starts[0] if starts and fields.flag("tokenizer.ggml.add_bos_token", kind == "llama") else None
    if bos is not None and not 0 <= bos < len(tokens):
        raise TokenizerError(f"tokenizer.ggml.bos_token_id is {bos}, expected 0..{len(tokens) - 1}")
    if kind == "gpt2":
        tokenizer = _byte_level(values, tokens, types, bos)
    elif kind == "llama":
        scores = _list(values, "tokenizer.ggml.scores", float)
        if len(scores) != len(tokens):
            raise TokenizerError(f"tokenizer.ggml.scores has {len(scores)} entries, expected {len(tokens)}")
        pieces = [Piece(t, s, k in (_UNKNOWN, _CONTROL, _USER)) for t, s, k in zip(tokens, scores, types, strict=True)]
        prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
        tokenizer = bpe_from_pieces(pieces, fields.integer("tokenizer.ggml.unknown_token_id", 0), bos, prefix)
    else:
        raise UnsupportedModel("tokenizer.ggml.model", kind, ["gpt2", "llama"])
    return Tokenizer(tokenizer).with_chat(_chat(values, tokens, source))


def _chat(values: Mapping[str, Any], tokens: Sequence[str], source: Path) -> ChatTemplate | None:
    """`tokenizer.chat_template` is the default one; named ones stand beside it."""
    fields = ConfigFields(values)
    template = fields.text("tokenizer.chat_template", "") or None
    if template is None and (named := values.get("tokenizer.chat_templates")):
        log.warning("%s: no default chat template, only %s", source, str(named)[:100])
    ids = {name: fields.token_ids(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMED.items()}
    return chat_template(template, {n: tokens[t[0]] for n, t in ids.items() if t and 0 <= t[0] < len(tokens)}, source)


def _byte_level(
    values: Mapping[str, Any], tokens: list[str], types: list[int], bos: int | None
) -> tokenizers.Tokenizer:
    merges = [tuple(m.split(" ")) for m in _list(values, "tokenizer.ggml.merges", str)]
    vocab = {token: i for i, token in enumerate(tokens)}
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    except Exception as e:  # the library raises bare Exception
        raise TokenizerError(f"tokenizer.ggml.merges do not fit the tokens ({e})") from e
    tokenizer.pre_tokenizer = _pre_tokenizer(ConfigFields(values).text("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    named = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in named if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in named if k == _USER])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A {tokens[bos]} $B", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut into words before merging; llama.cpp names the recipes after the model that
    introduced them."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return gpt2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name == "llama-bpe":
        split = pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise UnsupportedModel("tokenizer.ggml.pre", name, ["default", "gpt-2", "smollm", "llama-bpe"])


def _list(values: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = values.get(name)
    if not isinstance(value, list) or not all(isinstance(v, kind) for v in value):
        raise TokenizerError(f"{name} is missing or not a list of {kind.__name__}")
    return value
