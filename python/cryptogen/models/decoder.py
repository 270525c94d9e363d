"""The decoder, written once: what is computed, in which order. How, and for whom, is the backend's
business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from cryptogen.errors import ContextOverflow, InputError
from cryptogen.models.backend import Backend, Value
from cryptogen.models.config import ModelConfig

Want = Literal["last", "all", "none"]  # the rows of a pass whose logits are asked for
WANTS: tuple[Want, ...] = get_args(Want)


def forward(backend: Backend[Value], config: ModelConfig, tokens: Sequence[int], want: Want = "last") -> Value | None:
    """Append `tokens` to the backend's sequence and return logits of the last or of all T new rows,
    or nothing.

    Prefill is a call with many tokens, a decode step a call with one: earlier rows live in the
    backend's cache. Raises `InputError` for no tokens or ids outside the vocabulary,
    `ContextOverflow` when the context is full.
    """
    check_tokens(config, tokens, backend.position)
    h = backend.embed(tokens, sampled_of(len(tokens), want))  # [T, d]
    for i in range(config.layers):
        x = backend.norm(h, f"layers.{i}.attn_norm")  # [T, d]
        qkv = backend.linear(x, f"layers.{i}.qkv")  # [T, q_width + 2·kv_width]
        x = backend.attention(qkv, i)  # [T, q_width]
        attended = backend.add(h, backend.linear(x, f"layers.{i}.o"))  # [T, d]
        x = backend.norm(h if config.parallel else attended, f"layers.{i}.mlp_norm")  # [T, d]
        u = backend.linear(x, f"layers.{i}.up")  # [T, ff], gated: [T, 2·ff]
        x = backend.activation(u, i)  # [T, ff]
        h = backend.add(attended, backend.linear(x, f"layers.{i}.down"))  # [T, d]
    if want == "none":
        return None
    if want == "last":
        h = backend.last(h)  # [1, d]: norm and head are row by row, so only the wanted row pays for them
    return backend.logits(backend.norm(h, "final_norm"))  # [1 or T, vocab]


def sampled_of(rows: int, want: Want) -> int:
    """How many rows of a pass over `rows` rows are sampled."""
    return {"none": 0, "last": 1, "all": rows}[want]


def want_of(rows: int, sampled: int) -> Want | None:
    """What a pass over `rows` rows asks for if the last `sampled` of them are sampled; None if no
    pass does."""
    return next((want for want in WANTS if sampled_of(rows, want) == sampled), None)


def check_tokens(config: ModelConfig, tokens: Sequence[int], position: int) -> None:
    """Refuse what the embedding and the positions cannot represent."""
    if len(tokens) == 0:
        raise InputError("no tokens: at least 1 expected")
    for t in tokens:
        if not 0 <= t < config.vocab:
            raise InputError(f"token id {t} is outside 0..{config.vocab - 1}")
    if position + len(tokens) > config.context:
        raise ContextOverflow(position + len(tokens), config.context)
