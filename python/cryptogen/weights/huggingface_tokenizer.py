"""The tokenizer of a Hugging Face folder: tokenizer.json, or the files that older folders have, and
the options beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers

from cryptogen.errors import ChatTemplateError, MalformedFile, TokenizerError, UnsupportedModel
from cryptogen.tokens.chat import SPECIAL, one_template
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.gguf_tokenizer import RECIPES, byte_level
from cryptogen.weights.sentencepiece_model import read_model
from cryptogen.weights.special import chat_template

log = logging.getLogger("cryptogen.weights")
_RECIPES = {"": RECIPES["gpt-2"], "GPT2Tokenizer": RECIPES["gpt-2"], "Qwen2Tokenizer": RECIPES["qwen2"]}
ReadJson = Callable[[Path, str], dict[str, Any]]


def folder_tokenizer(folder: Path, read: ReadJson) -> Tokenizer | None:
    """`read`: a JSON object's file. None, with a warning, if there is none that is read here.
    Errors: `TokenizerError`, and those of `read`."""
    options, names = (_options(folder / f"{name}.json", read) for name in ("tokenizer_config", "special_tokens_map"))
    special = {name: _token(options.get(name)) or _token(names.get(name)) for name in SPECIAL}
    if (folder / "tokenizer.json").exists():
        tokenizer: Tokenizer | None = Tokenizer.from_file(folder / "tokenizer.json")
    else:
        tokenizer = _from_parts(folder, options, special, read)
    if tokenizer is None:
        return None
    _check_bos(folder, options, special["bos_token"], tokenizer)
    try:
        source = _template(folder, options)
    except ChatTemplateError as error:
        log.warning("%s: %s", folder, error)
        return tokenizer
    return tokenizer.with_chat(chat_template(source, special, folder))


def _from_parts(
    folder: Path, options: Mapping[str, Any], special: Mapping[str, str | None], read: ReadJson
) -> Tokenizer | None:
    """Older folders: vocab.json and merges.txt, or tokenizer.model."""
    kind = str(options.get("tokenizer_class", "")).removesuffix("Fast")
    try:
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            made = _byte_level(folder, kind, bool(options.get("add_bos_token", False)), special["bos_token"], read)
        elif (folder / "tokenizer.model").exists():
            add_bos, first_only = options.get("add_bos_token", True), options.get("legacy") is False
            made = read_model(folder / "tokenizer.model", bool(add_bos), first_only)
        else:
            log.warning(
                "%s: no tokenizer.json, nor vocab.json with merges.txt, nor tokenizer.model: token ids alone", folder
            )
            return None
    except (UnsupportedModel, MalformedFile) as error:
        log.warning("%s: no tokenizer.json, and of the other files none is read (%s): token ids alone", folder, error)
        return None
    plain = options.get("added_tokens_decoder")
    added = [AddedToken(t, special=True, normalized=False) for t in dict.fromkeys(special.values()) if t is not None]
    extra = _options(folder / "added_tokens.json", read)
    added += [AddedToken(t, normalized=False) for t in sorted(extra, key=lambda t: (str(extra[t]), t))]
    for token in (plain or {}).values() if isinstance(plain, Mapping) else ():
        if isinstance(token, Mapping) and (text := _token(token)) is not None:
            added.append(AddedToken(text, special=bool(token.get("special")), normalized=bool(token.get("normalized"))))
    wanted = {t: i for t, i in extra.items() if isinstance(i, int)}
    if isinstance(plain, Mapping):
        wanted |= {text: int(i) for i, t in plain.items() if str(i).isdigit() and (text := _token(t)) is not None}
    for token in sorted(added, key=lambda t: wanted.get(t.content, -1)):
        (made.add_special_tokens if token.special else made.add_tokens)([token])
    for text, i in wanted.items():
        if made.token_to_id(text) != i:
            raise TokenizerError(f"{folder}: token {text[:40]!r} is {made.token_to_id(text)}, expected {i}")
    return Tokenizer(made)


def _byte_level(folder: Path, kind: str, add_bos: bool, bos: str | None, read: ReadJson) -> tokenizers.Tokenizer:
    """GPT-2's files, which Qwen2 has, too, with another cutting into words."""
    recipe = _RECIPES.get(kind)
    if recipe is None:
        raise UnsupportedModel("tokenizer_class", kind, _RECIPES)
    vocab = read(folder / "vocab.json", "vocabulary")
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.partition(" ") for line in lines if line.strip() and not line.startswith("#version")]
        made = tokenizers.Tokenizer(models.BPE(vocab, [(left, right) for left, _, right in pairs]))
    except Exception as e:  # the library raises bare Exception
        raise TokenizerError(f"{folder}: vocab.json and merges.txt do not fit ({e})") from e
    if kind == "Qwen2Tokenizer":
        made.normalizer = normalizers.NFC()
    return byte_level(made, recipe, bos if add_bos else None)


def _check_bos(folder: Path, options: Mapping[str, Any], bos: str | None, tokenizer: Tokenizer) -> None:
    """tokenizer.json counts, as in transformers 5: earlier ones let the options of LLaMA's
    tokenizers change it."""
    said, token = options.get("add_bos_token"), None if bos is None else tokenizer.token_id(bos)
    if isinstance(said, bool) and token is not None and said != (tokenizer.encode("a")[:1] == [token]):
        log.warning(
            "%s: tokenizer_config.json says add_bos_token = %s, but tokenizer.json does the opposite and counts",
            folder,
            said,
        )


def _options(path: Path, read: ReadJson) -> dict[str, Any]:
    return read(path, "tokenizer options") if path.exists() else {}


def _token(value: object) -> str | None:
    """A special token's text, as a string or as the object that newer files have."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _template(folder: Path, options: Mapping[str, Any]) -> str | None:
    """Newer folders keep it in a file of its own, which counts before the options."""
    own = folder / "chat_template.jinja"
    if own.exists():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChatTemplateError(f"{own}: not readable as UTF-8 text ({error})") from None
    return one_template(options.get("chat_template"), "tokenizer_config.json")
