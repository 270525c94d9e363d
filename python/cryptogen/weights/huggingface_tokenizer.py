"""The tokenizer of a Hugging Face folder: tokenizer.json and the options beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptogen.errors import ChatTemplateError
from cryptogen.tokens.chat import SPECIAL, one_template
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.special import chat_template

log = logging.getLogger("cryptogen.weights")
ReadJson = Callable[[Path, str], dict[str, Any]]


def folder_tokenizer(folder: Path, read: ReadJson) -> Tokenizer | None:
    """`read`: a JSON object's file. Errors: `TokenizerError`, and those of `read`."""
    if not (folder / "tokenizer.json").exists():
        return None
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    options, names = (_options(folder / f"{name}.json", read) for name in ("tokenizer_config", "special_tokens_map"))
    special = {name: _token(options.get(name)) or _token(names.get(name)) for name in SPECIAL}
    try:
        source = _template(folder, options)
    except ChatTemplateError as error:
        log.warning("%s: %s", folder, error)
        return tokenizer
    return tokenizer.with_chat(chat_template(source, special, folder))


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
