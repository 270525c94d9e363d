"""Drafted tokens: a small local model proposes, in the clear, what one pass of the private model
verifies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptogen.backends.float import FloatBackend
from cryptogen.errors import InputError
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import forward
from cryptogen.sampling import Sampler
from cryptogen.tokens import Tokenizer
from cryptogen.weights import Checkpoint, load

from .messages import LARGEST_BLOCK


@dataclass
class DraftStats:
    """What came of the proposals so far.

    Attributes:
        passes: Passes of the private model, without those of the prompt.
        drafted: Tokens proposed.
        accepted: Those of them that the private model chose too.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Part of the proposed tokens that were accepted; 0 if there were none."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a pass yields: the accepted ones and one more. 1 without proposals."""
        return 1.0 + (self.accepted / self.passes if self.passes else 0.0)

    def add(self, drafted: int, accepted: int) -> None:
        """Counts one more pass.

        Args:
            drafted: Tokens proposed for it.
            accepted: Those of them that were accepted.
        """
        self.passes += 1
        self.drafted += drafted
        self.accepted += accepted


class Draft:
    """A model that runs on the client and proposes up to `tokens` tokens at a time (1…63).

        draft = cryptogen.Draft("path/to/a/small/model")
        for token in client.generate("The capital of France is", draft=draft):
            print(token.text, end="")
        print(draft.stats.acceptance_rate)

    `stats` counts what came of the proposals since the draft was made.

    Args:
        model: Path of anything that `cryptogen.load` reads, or a `Checkpoint`. Its vocabulary has
            to be the served model's.
        tokens: Most tokens proposed for a pass, 1 to 63; default 8. Each costs a row and its
            logits, accepted or not.

    Raises:
        InputError: `tokens` is not in 1 to 63.
        WeightsError: The model cannot be read, as `cryptogen.load` says; or `TokenizerError`.
    """

    def __init__(self, model: str | Path | Checkpoint, tokens: int = 8) -> None:
        if not 1 <= tokens < LARGEST_BLOCK:
            raise InputError(f"{tokens} tokens drafted at a time, expected 1 to {LARGEST_BLOCK - 1}")
        self._model = model if isinstance(model, Checkpoint) else load(model)
        self.tokens, self.stats = tokens, DraftStats()
        self._backend = FloatBackend(self._model)
        self._seen: list[int] = []  # tokens in the backend's cache

    def check(self, config: ModelConfig, tokenizer: Tokenizer | None) -> None:
        """Compares the vocabulary with the served model's; by size alone if a tokenizer is lacking.

        Args:
            config: The served model's shape.
            tokenizer: Its tokenizer; None if it has none.

        Raises:
            InputError: The vocabularies differ.
        """
        own, mine = self._model.config, self._model.tokenizer
        if own.vocab != config.vocab:
            raise InputError(f"draft: a vocabulary of {config.vocab} tokens expected, the draft has {own.vocab}")
        if tokenizer is None or mine is None:
            return
        theirs, ours = tokenizer.vocabulary(), mine.vocabulary()
        if different := sum(ours.get(name) != i for name, i in theirs.items()) + len(ours.keys() - theirs.keys()):
            raise InputError(f"draft: the served model's vocabulary expected, {different} tokens of it differ")

    def passes_for(self, tokens: int) -> int:
        """Passes that a text may still take, by what was accepted so far; half of the proposals to
        begin with.

        Args:
            tokens: How many tokens are still to come.
        """
        each = self.stats.tokens_per_pass if self.stats.passes else 1.0 + self.tokens / 2
        return math.ceil(tokens / each)

    def propose(self, text: Sequence[int], limit: int, sampler: Sampler) -> list[int]:
        """Tokens that may come after a text, drawn with the sampler's noise for their positions.

        Args:
            text: Ids of all tokens so far.
            limit: Most tokens to propose. There are at most `self.tokens` anyway, and none beyond
                the draft's own context.
            sampler: What will choose among the served model's logits.
        """
        count = min(self.tokens, limit, self._model.config.context - len(text) + 1)
        tokens: list[int] = []
        if count < 1:
            return tokens
        known = 0
        while known < min(len(self._seen), len(text) - 1) and self._seen[known] == text[known]:
            known += 1
        self._backend.crop(known)
        self._seen = list(text[:known])  # what is known to be there if this is interrupted
        new = list(text[known:])
        while len(tokens) < count:
            rows = forward(self._backend, self._model.config, new)  # [1, vocab]
            assert rows is not None  # the last row was asked for
            tokens.append(sampler.sample(rows[0], len(text) + len(tokens)))
            new = tokens[-1:]
        self._seen = [*text, *tokens[:-1]]
        return tokens
