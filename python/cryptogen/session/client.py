"""The prompt owner's side: connects, buys material, feeds tokens, samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import ContextOverflow, InputError
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import check_tokens
from cryptogen.sampling import Sampler
from cryptogen.tokens import TextCodec

from .costs import Costs
from .link import Link, Progress
from .material import need_ahead, need_of
from .messages import LARGEST_BLOCK
from .trust import Trust

DECODE_BLOCK = 16  # rows given a position at a time while decoding


@dataclass(frozen=True)
class Token:
    """A sampled token and the text it completes (sometimes none: half a character, or a special token)."""

    id: int
    text: str


class Client:
    """Private generation with a server's model.

        with cryptogen.Client("host:7100", fingerprint="…", token="…") as client:
            for token in client.generate("The capital of France is", max_new_tokens=8):
                print(token.text, end="")
            print(client.costs.online.seconds)

    `fingerprint`: SHA-256 of the server's certificate; remembered once the server has shown it. Without one, `ca_file`
    or a remembered fingerprint is needed. `batch_tokens`: least number of tokens to buy material for when it runs
    short (None: just what the call needs). `resync`: after a crash, drop the material that only one party still has.
    `progress(phase, done, total)` is called during long steps. Errors: the classes of `cryptogen.errors`.
    """

    def __init__(
        self,
        server: str,
        *,
        fingerprint: str | None = None,
        ca_file: str | Path | None = None,
        token: str | None = None,
        client_id: str | None = None,
        data_dir: str | Path | None = None,
        batch_tokens: int | None = None,
        resync: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}, expected 1 or more")
        trust = Trust(fingerprint, str(ca_file) if ca_file else None, token)
        self._link = Link(server, trust, data_dir, client_id, batch_tokens, resync, progress)
        self._pending: list[int] = []  # sampled, not yet in the cache

    def connect(self) -> None:
        """Connects, agrees on the model and fetches the encrypted model if this is the first time."""
        if not self._link.connected:
            self._link.connect()
            self._pending = []

    def close(self) -> None:
        """Says goodbye. The cache is gone; material stays in the store."""
        self._link.close()

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> ModelConfig:
        """The model's public shape."""
        self.connect()
        return self._link.offer.config

    @property
    def codec(self) -> TextCodec | None:
        """The model's tokenizer."""
        self.connect()
        return self._link.codec

    @property
    def costs(self) -> Costs:
        """Everything since this client was made; subtract an earlier value for a part of it."""
        return self._link.costs()

    @property
    def length(self) -> int:
        """Rows of the session so far."""
        return self._link.length

    def prepare(self, tokens: int, context: int | None = None, progress: Progress | None = None) -> None:
        """Buys material for `tokens` more tokens, spent in sessions of up to `context` rows (default: `tokens`)."""
        self.connect()
        context = min(context or tokens, self.config.context)
        if tokens < 1 or context < 1:
            raise InputError(f"prepare {tokens} tokens for a context of {context}, expected 1 or more")
        with self._link.reporting(progress):
            self._link.buy(need_ahead(self._link.plan, tokens, context))

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Collection[int] | None = None,
        continue_session: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Token]:
        """Tokens as they come. `prompt`: text, or token ids. `stop`: ids that end the generation (yielded as the last
        token); default the model's own. `continue_session`: append to what this client has fed and sampled so far
        instead of starting anew; nothing is recomputed. Greedy unless `temperature` is above 0.

        Buys material first if it is short. Errors before anything is sent: `InputError`, `ContextOverflow`.
        """
        self.connect()
        sampler = Sampler(temperature, top_k, top_p, seed)
        tokens = self.encode(prompt, first=not (continue_session and self.length))
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}, expected 1 or more")
        before = self.length if continue_session else 0
        fed = [*self._pending, *tokens] if continue_session else tokens
        if len(tokens) == 0:
            raise InputError("the prompt is empty: at least 1 token expected")
        check_tokens(self.config, fed, before)
        if before + len(fed) + max_new_tokens - 1 > self.config.context:
            raise ContextOverflow(before + len(fed) + max_new_tokens - 1, self.config.context)
        ends = self._link.offer.stop if stop is None else frozenset(stop)
        return self._generate(fed, max_new_tokens, sampler, ends, continue_session, progress)

    def _generate(
        self,
        tokens: list[int],
        limit: int,
        sampler: Sampler,
        stop: frozenset[int],
        continue_session: bool,
        progress: Progress | None,
    ) -> Iterator[Token]:
        link = self._link
        if not continue_session:
            self.reset()
        decoder = link.codec.stream() if link.codec else None
        end = self.length + len(tokens) + limit - 1  # rows of the session when all is done
        with link.reporting(progress):
            new = max(end - self.length - link.ready_rows, 0)
            link.ensure(need_of(link.plan, self.length + link.ready_rows, new, max(limit - link.ready_heads, 0)))
            logits = self._feed(tokens)
            self._pending = []
            for generated in range(1, limit + 1):
                token = sampler.sample(logits)
                self._pending = [token]
                last = token in stop or generated == limit
                text = "" if decoder is None else decoder.push(token) + (decoder.finish() if last else "")
                link.count_token()
                yield Token(token, text)
                if last:
                    return
                if link.ready_rows == 0:
                    link.extend(min(DECODE_BLOCK, end - self.length))
                logits = link.forward([token], 1)[0]
                self._pending = []

    def logits(self, tokens: Sequence[int], progress: Progress | None = None) -> NDArray[np.float64]:
        """Logits of every row of a new session, [T, vocab]: what evaluation needs. A head is spent per row."""
        self.connect()
        check_tokens(self.config, tokens, 0)
        self.reset()
        link = self._link
        with link.reporting(progress):
            link.ensure(need_of(link.plan, 0, len(tokens), len(tokens)))
            rows = []
            for part in _blocks(tokens):
                link.extend(len(part) - link.ready_rows)
                rows.append(link.forward(part, len(part)))
        return np.concatenate(rows)

    def reset(self) -> None:
        """Forgets the session: the next tokens start at position 0."""
        self._pending = []
        if self._link.length or self._link.ready_rows:
            self._link.reset()

    def encode(self, prompt: str | Sequence[int], first: bool = True) -> list[int]:
        """Token ids of a prompt; `first`: with the begin-of-sequence token of models that have one."""
        if not isinstance(prompt, str):
            return [int(t) for t in prompt]
        if self.codec is None:
            raise InputError("the server's model has no tokenizer: token ids expected, text given")
        return self.codec.encode(prompt, special=first)

    def _feed(self, tokens: list[int]) -> NDArray[np.float64]:
        """Prefill in passes of at most 64 rows; logits of the last row, [vocab]."""
        parts = _blocks(tokens)
        for part in parts[:-1]:
            self._link.extend(len(part) - self._link.ready_rows)
            self._link.forward(part, 0)
        self._link.extend(len(parts[-1]) - self._link.ready_rows)
        logits: NDArray[np.float64] = self._link.forward(parts[-1], 1)[0]
        return logits


def _blocks(tokens: Sequence[int]) -> list[list[int]]:
    return [list(tokens[i : i + LARGEST_BLOCK]) for i in range(0, len(tokens), LARGEST_BLOCK)]


