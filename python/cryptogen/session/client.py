"""The prompt owner's side: connects, buys material, feeds tokens, samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import CacheRejected, ContextOverflow, InputError, NumericFailure, RangeExceeded
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import check_tokens
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED, RECOMPUTE, check_protocol
from cryptogen.sampling import Sampler
from cryptogen.tokens import TextCodec

from .costs import Costs
from .draft import Draft
from .generation import Run, blocks, run_of
from .link import Link, Progress
from .material import need_ahead, need_of
from .rows import Rows, Token
from .trust import Trust

ON_RANGE = ("warn", "stop")


class Client:
    """Private generation with a server's model.

        with cryptogen.Client("host:7766", fingerprint="…", token="…") as client:
            for token in client.generate("The capital of France is", max_new_tokens=8):
                print(token.text, end="")
            print(client.costs.online.seconds)

    `fingerprint`: SHA-256 of the server's certificate; remembered once the server has shown it. Without one, `ca_file`
    or a remembered fingerprint is needed. `batch_tokens`: least number of tokens to buy material for when it runs
    short (None: just what the call needs). `resync`: after a crash, drop the material that only one party still has.
    `protocol`: `preprocessed`, or one of the two that it is compared with, `encrypted-cache` and `recompute`.
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
        protocol: str = PREPROCESSED,
        progress: Progress | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens is {batch_tokens}, expected 1 or more")
        trust = Trust(fingerprint, str(ca_file) if ca_file else None, token)
        name = check_protocol(protocol)
        self._link = Link(server, trust, data_dir, client_id, batch_tokens, resync, name, progress)
        self._run: Run = run_of(self._link)
        self._pending: list[int] = []  # sampled, not yet computed
        self._text: list[int] = []  # fed and sampled in this session
        self._unreported = 0  # range events of rows of this session that no token has carried yet
        self._spoilt = False  # a row could not be sampled: nothing may follow it

    def connect(self) -> None:
        """Connects, agrees on the model and fetches the encrypted model if this is the first time."""
        if not self._link.connected:
            self._link.connect()
            self._run = run_of(self._link)
            self.reset()

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
        """Tokens of the session so far."""
        return self._run.length

    def prepare(self, tokens: int, context: int | None = None, progress: Progress | None = None) -> None:
        """Buys material for `tokens` more tokens, spent in sessions of up to `context` rows (default: `tokens`)."""
        self.connect()
        context = min(context or tokens, self.config.context)
        if tokens < 1 or context < 1:
            raise InputError(f"prepare {tokens} tokens for a context of {context}, expected 1 or more")
        with self._link.reporting(progress):
            again = self._link.protocol == RECOMPUTE
            self._link.buy(need_ahead(self._link.plan, tokens, context, again))

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
        draft: Draft | None = None,
        on_range: str = "warn",
        progress: Progress | None = None,
    ) -> Iterator[Token]:
        """Tokens as they come. `prompt`: text, or token ids. `stop`: ids that end the generation (yielded as the last
        token); default the model's own. `continue_session`: append to what this client has fed and sampled so far
        instead of starting anew; the cache is kept. Greedy unless `temperature` is above 0; what `seed` promises:
        `cryptogen.sampling.Sampler`. `draft`: a local model that proposes tokens, several of which are verified in one
        pass: the same tokens in fewer round trips and for more material; not with `encrypted-cache`. `on_range`: what
        happens at a token with range events: "warn" (it says so in `Token.range_events`) or "stop" (`RangeExceeded`
        in its place).

        Buys material first if it is short. Errors before anything is sent: `InputError`, `ContextOverflow`.
        `NumericFailure` in place of a token whose logits are absurd. After that, or `RangeExceeded`, the tokens so far
        stand and the connection goes on, but the session cannot be continued: `generate` without `continue_session`.
        """
        self.connect()
        sampler = Sampler(temperature, top_k, top_p, seed)
        tokens = self.encode(prompt, first=not (continue_session and self.length))
        if on_range not in ON_RANGE:
            raise InputError(f"on_range is {on_range!r}, expected one of {', '.join(ON_RANGE)}")
        if continue_session:
            self._check_sound()
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}, expected 1 or more")
        before = self.length if continue_session else 0
        fed = [*self._pending, *tokens] if continue_session else tokens
        if len(tokens) == 0:
            raise InputError("the prompt is empty: at least 1 token expected")
        check_tokens(self.config, fed, before)
        if before + len(fed) + max_new_tokens - 1 > self.config.context:
            raise ContextOverflow(before + len(fed) + max_new_tokens - 1, self.config.context)
        if draft is not None:
            if self._link.protocol == ENCRYPTED_CACHE:
                raise InputError(f"draft: protocol {ENCRYPTED_CACHE} cannot drop rows from its cache of ciphertexts")
            draft.check(self.config, self.codec)
        ends = self._link.offer.stop if stop is None else frozenset(stop)
        return self._generate(fed, max_new_tokens, sampler, ends, continue_session, draft, on_range, progress)

    def _generate(
        self,
        tokens: list[int],
        limit: int,
        sampler: Sampler,
        stop: frozenset[int],
        continue_session: bool,
        draft: Draft | None,
        on_range: str,
        progress: Progress | None,
    ) -> Iterator[Token]:
        link = self._link
        if not continue_session:
            self.reset()
        decoder = link.codec.stream() if link.codec else None
        generated = 0
        with link.reporting(progress), self._spoiling():
            for token, events in self._sampled(tokens, limit, sampler, draft):
                generated += 1
                if events and on_range == "stop":
                    raise RangeExceeded(events, generated)
                last = token in stop or generated == limit
                text = "" if decoder is None else decoder.push(token) + (decoder.finish() if last else "")
                link.ledger.tokens += 1
                yield Token(token, text, events)
                if last:
                    return

    def _sampled(
        self, tokens: list[int], limit: int, sampler: Sampler, draft: Draft | None
    ) -> Iterator[tuple[int, int]]:
        """Up to `limit` tokens with their range events."""
        run = self._run
        rows = run.start(tokens, limit)
        self._text += tokens[len(self._pending) :]
        self._pending = []
        yield from self._accepted([sampler.sample(rows.logits[0], run.length)], rows.events, run.length)
        left = limit - 1
        while left:
            drafted = draft.propose(self._text, left - 1, sampler) if draft else []
            if draft and drafted:
                run.expect(draft.passes_for(left), 1 + len(drafted))
            position = run.length + 1
            rows = run.next([*self._pending, *drafted])
            self._pending = []
            chosen = sampler.verify(drafted, rows.logits, position)
            if draft:
                draft.stats.add(len(drafted), len(chosen) - 1)
            left -= len(chosen)
            yield from self._accepted(chosen, rows.events, position)

    def _accepted(self, chosen: list[int], events: tuple[int, ...], position: int) -> Iterator[tuple[int, int]]:
        """The tokens of a pass, from `position` on; the session is at each of them when it is yielded, whatever has
        been computed ahead: all but the last are rows of the pass already."""
        self._unreported += events[0]
        for n, token in enumerate(chosen):
            computed = n < len(chosen) - 1
            self._run.keep(position + n + computed)
            self._pending = [] if computed else [token]
            self._text.append(token)
            found, self._unreported = self._unreported, events[n + 1] if computed else 0
            yield token, found

    def score(self, tokens: Sequence[int], progress: Progress | None = None) -> Rows:
        """Every row of a new session, logits and range events: what evaluation needs. A head is spent per row."""
        self.connect()
        check_tokens(self.config, tokens, 0)
        self.reset()
        link = self._link
        with link.reporting(progress), self._spoiling():
            link.ensure(need_of(link.plan, 0, len(tokens), len(tokens)))
            parts = []
            for part in blocks(tokens):
                link.extend(len(part) - link.ready_rows)
                parts.append(link.forward(part, len(part)))
        self._text = list(tokens)
        return Rows.joined(parts)

    def logits(self, tokens: Sequence[int], progress: Progress | None = None) -> NDArray[np.float64]:
        """The logits of `score`, [T, vocab]."""
        return self.score(tokens, progress).logits

    @contextmanager
    def _spoiling(self) -> Iterator[None]:
        """A row that is not sampled stays in the cache: no later row would be right."""
        try:
            yield
        except (NumericFailure, RangeExceeded):
            self._spoilt = True
            raise

    def _check_sound(self) -> None:
        if self._spoilt:
            raise InputError("the session ended with NumericFailure or RangeExceeded, expected a new one")

    def reset(self) -> None:
        """Forgets the session: the next tokens start at position 0."""
        self._pending, self._text, self._unreported, self._spoilt = [], [], 0, False
        self._run.reset()

    def save(self) -> None:
        """Keeps the session for `resume` by a later connection: the server its encrypted cache, this client the token
        that was sampled last. `encrypted-cache` only. Errors: `CacheRejected`, `InputError`."""
        self._cached()
        self._check_sound()
        self._link.save()
        self._link.keep(self._pending)

    def resume(self) -> int:
        """Goes on where `save` was called (then `continue_session=True`). Returns the number of rows.
        Errors: `CacheRejected` (the session is empty then), `InputError`."""
        self._cached()
        self.reset()
        self._link.resume()
        try:
            self._pending = self._link.kept()
        except CacheRejected:
            self.reset()
            raise
        return self.length

    def _cached(self) -> None:
        self.connect()
        if self._link.protocol != ENCRYPTED_CACHE:
            raise InputError(f"protocol {self._link.protocol}, only {ENCRYPTED_CACHE} has a cache that can be saved")

    def encode(self, prompt: str | Sequence[int], first: bool = True) -> list[int]:
        """Token ids of a prompt; `first`: with the begin-of-sequence token of models that have one."""
        if not isinstance(prompt, str):
            return [int(t) for t in prompt]
        if self.codec is None:
            raise InputError("the server's model has no tokenizer: token ids expected, text given")
        return self.codec.encode(prompt, special=first)
