"""The tokenizer in a GGUF file's metadata: byte-level BPE (`gpt2`) or SentencePiece BPE
(`llama`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
# How text is cut into words before merging: the expressions of the models' tokenizer.json files.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = f"{_ENDINGS}|{_WORDS % '{1,3}'}"
_QWEN2 = f"{_ENDINGS}|{_WORDS % ''}"
_TEKKEN = _CASED % ("", "", "")
_GPT4O = _CASED % (f"{_ENDINGS}?", f"{_ENDINGS}?", "{1,3}")


@dataclass(frozen=True)
class Recipe:
    """What llama.cpp does for a `tokenizer.ggml.pre`, unless other keys say otherwise.

    Attributes:
        split: The expression. None: GPT-2's.
        digits: Every digit is a word of its own.
        bos: Texts begin with the begin-of-sequence token.
        whole: A word that is a token needs no merges (`ignore_merges`).
    """

    split: str | None = None
    digits: bool = False
    bos: bool = False
    whole: bool = False


_LLAMA_BPE, _DIGITS = Recipe(_LLAMA3, bos=True, whole=True), Recipe(digits=True)
RECIPES = {
    "default": Recipe(), "gpt-2": Recipe(), "phi-2": Recipe(), "olmo": Recipe(), "mpt": Recipe(),
    "smollm": _DIGITS, "starcoder": _DIGITS, "refact": _DIGITS, "command-r": _DIGITS, "codeshell": _DIGITS,
    "llama-bpe": _LLAMA_BPE, "llama3": _LLAMA_BPE, "llama-v3": _LLAMA_BPE,
    "dbrx": Recipe(_LLAMA3), "smaug-bpe": Recipe(_LLAMA3),
    "qwen2": Recipe(_QWEN2), "deepseek-r1-qwen": Recipe(_QWEN2), "stablelm2": Recipe(_QWEN2),
    "tekken": Recipe(_TEKKEN, bos=True, whole=True), "gpt-4o": Recipe(_GPT4O),
}  # fmt: skip


def read_tokenizer(values: Mapping[str, Any], source: Path) -> Tokenizer:
    """`UnsupportedModel` for other kinds, `TokenizerError` for metadata that contradicts itself."""
    fields = ConfigFields(values)
    kind = fields.text("tokenizer.ggml.model")
    tokens, types = _list(values, "tokenizer.ggml.tokens", str), _list(values, "tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise TokenizerError(f"tokenizer.ggml.token_type has {len(types)} entries, expected {len(tokens)}")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModel("tokenizer.ggml.model", kind, ["gpt2", "llama"])
    recipe = _recipe(values, source) if kind == "gpt2" else Recipe(bos=True)
    starts = fields.token_ids("tokenizer.ggml.bos_token_id")
    bos = starts[0] if starts and fields.flag("tokenizer.ggml.add_bos_token", recipe.bos) else None
    if fields.flag("tokenizer.ggml.add_eos_token", False):
        log.warning("%s: tokenizer.ggml.add_eos_token is left out: a text that goes on does not end", source)
    if bos is not None and not 0 <= bos < len(tokens):
        raise TokenizerError(f"tokenizer.ggml.bos_token_id is {bos}, expected 0..{len(tokens) - 1}")
    if kind == "gpt2":
        tokenizer = _byte_level(values, tokens, types, bos, recipe)
    else:
        scores = _list(values, "tokenizer.ggml.scores", float)
        if len(scores) != len(tokens):
            raise TokenizerError(f"tokenizer.ggml.scores has {len(scores)} entries, expected {len(tokens)}")
        pieces = [
            Piece(t, s, k in (_UNKNOWN, _CONTROL), k == _USER) for t, s, k in zip(tokens, scores, types, strict=True)
        ]
        prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
        tokenizer = bpe_from_pieces(pieces, fields.integer("tokenizer.ggml.unknown_token_id", 0), bos, prefix)
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
    values: Mapping[str, Any], tokens: list[str], types: list[int], bos: int | None, recipe: Recipe
) -> tokenizers.Tokenizer:
    merges = [tuple(m.split(" ")) for m in _list(values, "tokenizer.ggml.merges", str)]
    vocab = {token: i for i, token in enumerate(tokens)}
    try:
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=recipe.whole))
    except Exception as e:  # the library raises bare Exception
        raise TokenizerError(f"tokenizer.ggml.merges do not fit the tokens ({e})") from e
    named = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in named if k == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in named if k == _USER])
    return byte_level(tokenizer, recipe, None if bos is None else tokens[bos])


def byte_level(tokenizer: tokenizers.Tokenizer, recipe: Recipe, bos: str | None) -> tokenizers.Tokenizer:
    """Gives a BPE over bytes what stands around it; `bos`, if given, starts every encoded text."""
    tokenizer.pre_tokenizer, tokenizer.decoder = _pre_tokenizer(recipe), decoders.ByteLevel()
    token = None if bos is None else tokenizer.token_to_id(bos)
    if bos is not None and token is not None:
        first = [(bos, token)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=first
        )
    return tokenizer


def _recipe(values: Mapping[str, Any], source: Path) -> Recipe:
    """llama.cpp names the recipes after the model that introduced them."""
    name = ConfigFields(values).text("tokenizer.ggml.pre", "default")
    if name not in RECIPES:
        raise UnsupportedModel("tokenizer.ggml.pre", name, RECIPES)
    if name == "default":
        log.warning("%s: tokenizer.ggml.pre does not say how text is cut into words; cut as GPT-2 does", source)
    return RECIPES[name]


def _pre_tokenizer(recipe: Recipe) -> pre_tokenizers.PreTokenizer:
    if recipe.split is not None:
        split = pre_tokenizers.Split(Regex(recipe.split), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]) if recipe.digits else gpt2


def _list(values: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = values.get(name)
    if not isinstance(value, list) or not all(isinstance(v, kind) for v in value):
        raise TokenizerError(f"{name} is missing or not a list of {kind.__name__}")
    return value
