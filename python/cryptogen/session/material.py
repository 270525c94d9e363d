"""How much single-use material a piece of work needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptogen.models.config import ModelConfig
from cryptogen.protocols import PREPROCESSED

from .messages import LARGEST_BATCH, LARGEST_BLOCK, LARGEST_EXPONENTIALS, LARGEST_PASS

if TYPE_CHECKING:
    from cryptogen._core import CheckedPlan

PASS_BYTES = 64 << 20  # most that a pass of more than 64 rows takes for tokens and attention, bytes per party
READY_BYTES = 512 << 20  # the same of all rows that are ready
POOLS = ("linears", "rows", "logits", "exponentials")  # of a store: the fields of `Need`


@dataclass(frozen=True)
class Need:
    """How many records of each pool of the store.

    Attributes:
        rows: One per row.
        logits: One per sampled row.
        exponentials: One per pair of rows, a new one and any up to it: of all heads of all layers.
        linears: What `Linear` makes for a row: one per row whose material is made. `Link.buy` adds
            what rows lack.
    """

    rows: int
    logits: int
    exponentials: int
    linears: int = 0

    def beyond(self, stock: Mapping[str, int]) -> Need:
        """What is missing.

        Args:
            stock: How many records of each pool there are.
        """
        return Need(**{name: max(getattr(self, name) - stock[name], 0) for name in POOLS})

    def requests(self) -> list[Need]:
        """The same in pieces that one message may ask for."""
        pieces, left = [], self
        while left != Need(0, 0, 0):
            piece = Need(
                min(left.rows, LARGEST_BATCH),
                min(left.logits, LARGEST_BATCH),
                min(left.exponentials, LARGEST_EXPONENTIALS),
                min(left.linears, LARGEST_BATCH),
            )
            pieces.append(piece)
            left = Need(**{name: getattr(left, name) - getattr(piece, name) for name in POOLS})
        return pieces


def attention_bytes(config: ModelConfig, first: int, rows: int) -> int:
    """Bytes in either party's memory of the attention material of rows first … first + rows − 1,
    until they are computed: two numbers for each head and cached row."""
    pairs = rows * (2 * first + rows + 1) // 2
    return 16 * config.layers * config.heads * pairs


def rows_of_pass(config: ModelConfig, protocol: str, first: int, left: int) -> int:
    """How many of the next `left` rows, the first of which is number `first`, one pass takes: 64,
    as many as a block of attention material, unless more make fewer passes."""
    passes, block = _fewest_passes(config, protocol, first, left), min(left, LARGEST_BLOCK)
    if _fewest_passes(config, protocol, first + block, left - block) < passes:
        return block
    return _most_rows(config, protocol, first, left)


def _fewest_passes(config: ModelConfig, protocol: str, first: int, left: int) -> int:
    """When each takes as many rows as it may."""
    passes = 0
    while left > 0:
        rows = _most_rows(config, protocol, first, left)
        passes, first, left = passes + 1, first + rows, left - rows
    return passes


def _most_rows(config: ModelConfig, protocol: str, first: int, left: int) -> int:
    rows = min(left, LARGEST_PASS if protocol == PREPROCESSED else LARGEST_BLOCK)
    # A token is a vector as long as the vocabulary, once as bytes and once as numbers.
    while rows > LARGEST_BLOCK and 16 * config.vocab * rows + attention_bytes(config, first, rows) > PASS_BYTES:
        rows -= 1
    return rows


def need_of(plan: CheckedPlan, first: int, rows: int, sampled: int) -> Need:
    """For rows first … first + rows − 1 of one session, `sampled` of them sampled."""
    return Need(rows, sampled, plan.exponentials_needed(first, rows))


def need_again(plan: CheckedPlan, first: int, tokens: int) -> Need:
    """For `tokens` tokens without a cache: the first computes `first` rows, each further one a row
    more."""
    lengths = range(first, first + tokens)
    exponentials = sum(plan.exponentials_needed(0, rows) for rows in lengths)
    return Need(sum(lengths), tokens, exponentials)


def need_ahead(plan: CheckedPlan, tokens: int, context: int, first: int = 0, again: bool = False) -> Need:
    """For `tokens` tokens, every one of them sampled, spent in sessions of `context` rows behind
    `first` known ones; `again`: without a cache."""
    full, rest = divmod(tokens, context)
    if again:
        parts = [need_again(plan, 1, context), need_again(plan, 1, rest)]
        return Need(**{p: full * getattr(parts[0], p) + getattr(parts[1], p) for p in POOLS})
    exponentials = full * plan.exponentials_needed(first, context) + plan.exponentials_needed(first, rest)
    return Need(tokens, tokens, exponentials)
