"""Tokens with a meaning: those that end a generation, and those that a chat template names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptogen.errors import ChatTemplateError
from cryptogen.tokens.chat import SPECIAL, ChatTemplate
from cryptogen.tokens.tokenizer import Tokenizer

log = logging.getLogger("cryptogen.weights")


def inside(ids: Iterable[int], vocab: int, what: str, source: Path) -> list[int]:
    """The ids that the model can give. Some files name tokens beyond the embedding: they are left
    out, with a warning."""
    kept: list[int] = []
    beyond: list[int] = []
    for token in dict.fromkeys(ids):
        (kept if 0 <= token < vocab else beyond).append(token)
    if beyond:
        log.warning("%s: %s %s left out, 0..%d expected (rows of the embedding)", source, what, beyond, vocab - 1)
    return kept


def stop_tokens(ids: Iterable[int], vocab: int, tokenizer: Tokenizer | None, source: Path) -> frozenset[int]:
    """Those of the file, and the one that ends a turn in the chat template."""
    found = list(ids)
    if tokenizer is not None and tokenizer.chat is not None:
        try:
            end = tokenizer.chat_end()
        except ChatTemplateError as error:  # `chat` will say the same; texts can be continued
            log.warning("%s: %s", source, error)
        else:
            found += [] if end is None else [end]
    return frozenset(inside(found, vocab, "stop tokens", source))


def chat_template(source: str | None, special: Mapping[str, str | None], where: Path) -> ChatTemplate | None:
    """A template with the special tokens that are known. None, with a warning, if it is too
    large."""
    if source is None:
        return None
    try:
        return ChatTemplate(source, {name: t for name in SPECIAL if (t := special.get(name)) is not None})
    except ChatTemplateError as error:
        log.warning("%s: %s", where, error)
        return None
