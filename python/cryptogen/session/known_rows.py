"""The rows of a prefix, by the server alone: in the clear, in the plan's integers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptogen import _core
from cryptogen.backends.fixed import FixedBackend
from cryptogen.backends.rounding import Nearest
from cryptogen.errors import ChatTemplateError, ContextOverflow, InputError
from cryptogen.models.decoder import check_tokens, forward
from cryptogen.numerics.plan import NumericPlan
from cryptogen.numerics.quantise import on_demand
from cryptogen.tokens import Tokenizer
from cryptogen.weights import Checkpoint
from cryptogen.weights.canonical import canonicalise

from .prefix import Prefix, digest_of

log = logging.getLogger("cryptogen.server")


@dataclass(frozen=True)
class KnownRows:
    """A prefix and its keys and values."""

    public: Prefix
    numbers: _core.Prefix


def known_rows(
    checkpoint: Checkpoint, plan: NumericPlan, checked: _core.CheckedPlan, system_prompt: str | None
) -> KnownRows | None:
    """Those of the system prompt; without one, those of the chat template's head. None if the model
    has no chat template, or one that writes nothing before a user's first words.

    Raises:
        InputError: A system prompt that is empty, for a model without a tokenizer, or with numbers
            outside the ranges of the plan.
        ChatTemplateError: A system prompt for a model without a chat template, or whose template
            refuses system messages, or leaves them out.
        ContextOverflow: It leaves no room in the model's context.
    """
    tokenizer = checkpoint.tokenizer
    if system_prompt is not None:
        tokens = _of_system_prompt(tokenizer, system_prompt)
        if len(tokens) >= checkpoint.config.context:
            raise ContextOverflow(len(tokens) + 1, checkpoint.config.context, "the system prompt and a token")
        numbers, events = _computed(checkpoint, plan, checked, tokens)
        if events:
            raise InputError(f"the system prompt has {events} range events, 0 expected (docs/guide/ranges.md)")
        return KnownRows(Prefix(len(tokens), None), numbers)
    tokens = _head(tokenizer)
    if not 0 < len(tokens) < checkpoint.config.context:
        return None
    numbers, events = _computed(checkpoint, plan, checked, tokens)
    if events:  # clients compute these rows themselves then, and learn of the events
        log.warning("the head of the chat template has %d range events: it is not computed ahead", events)
        return None
    return KnownRows(Prefix(len(tokens), digest_of(tokens)), numbers)


def _of_system_prompt(tokenizer: Tokenizer | None, text: str) -> list[int]:
    if tokenizer is None:
        raise InputError("a system prompt needs a model with a tokenizer")
    if tokenizer.chat is None:
        raise ChatTemplateError("a system prompt needs one, this model has none")
    if not text.strip():
        raise InputError("the system prompt is empty")
    tokenizer.chat.takes_system()
    return tokenizer.chat_head(text.strip())


def _head(tokenizer: Tokenizer | None) -> list[int]:
    if tokenizer is None or tokenizer.chat is None:
        return []
    try:
        return tokenizer.chat_head()
    except ChatTemplateError as error:  # `chat` will say the same; texts can be continued
        log.warning("%s", error)
        return []


def _computed(
    checkpoint: Checkpoint, plan: NumericPlan, checked: _core.CheckedPlan, tokens: Sequence[int]
) -> tuple[_core.Prefix, int]:
    """Keys and values, and how many range events there were."""
    check_tokens(checkpoint.config, tokens, 0)
    weights = on_demand(canonicalise(checkpoint, keep=False), plan, tokens)
    backend = FixedBackend(weights, plan, Nearest())
    forward(backend, replace(checkpoint.config, vocab=len(tokens)), range(len(tokens)), "none")
    cached = [backend.cached(layer) for layer in range(checkpoint.config.layers)]
    keys, values = ([layer[what].reshape(len(tokens), -1) for layer in cached] for what in (0, 1))
    return _core.Prefix(checked, keys, values), sum(backend.events.values())
