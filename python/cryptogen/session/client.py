"""The prompt owner's side: connects, buys material, feeds tokens, samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import ContextOverflow, InputError, NumericFailure, RangeExceeded
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import check_tokens
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED, check_protocol
from cryptogen.sampling import Sampler
from cryptogen.tokens import Tokenizer
from cryptogen.tokens.stops import StopStrings

from .costs import Costs
from .draft import Draft
from .generation import Run, run_of
from .link import Link, Progress
from .material import READY_BYTES, Need, attention_bytes, need_of
from .messages import LARGEST_BLOCK
from .rows import Rows, Token
from .trust import Trust

if TYPE_CHECKING:
    from cryptogen import _core

ON_RANGE = ("warn", "stop")


def checked_options(
    protocol: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int | None,
    draft: Draft | None,
    on_range: str,
) -> Sampler:
    """Checks of `Client.generate`'s options what needs no server, so that nothing is bought or sent
    for wrong ones. `InputError`."""
    sampler = Sampler(temperature, top_k, top_p, seed)
    if on_range not in ON_RANGE:
        raise InputError(f"on_range is {on_range!r}, expected one of {', '.join(ON_RANGE)}")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}, expected 1 or more")
    if draft is not None and protocol == ENCRYPTED_CACHE:
        raise InputError(f"draft: protocol {ENCRYPTED_CACHE} cannot drop rows from its cache of ciphertexts")
    return sampler


@dataclass(frozen=True)
class Ends:
    """What ends an answer: tokens, which belong to it, and texts, which do not."""

    tokens: frozenset[int]
    strings: tuple[str, ...]


class Client:
    """Private generation with a server's model.

        with cryptogen.Client("host:7766", fingerprint="…", access_token="…") as client:
            for token in client.generate("The capital of France is", max_new_tokens=8):
                print(token.text, end="")
            print(client.costs.online.seconds)

    Nothing is sent before `connect`, the `with` block or the first call that needs the server.
    Errors: the classes of `cryptogen.errors`.

    Args:
        server: `host:port` of the server.
        fingerprint: SHA-256 of the server's certificate, 64 hexadecimal digits; colons and case do
            not matter. It is remembered under the address once the server has shown it. None takes
            the remembered one, unless there is a `ca_file`; one of the three is needed.
        ca_file: PEM file of the authorities that may vouch for the server. Not looked at if
            `fingerprint` is given.
        access_token: The access token that the server asks for; None if it asks for none.
        client_id: The name under which the server keeps this client's material: 1 to 64 of
            `A-Z a-z 0-9 . _ -`, the first a letter or digit. None takes a random name, made on
            first use and kept in `data_dir`. Clients that are connected to a server at the same
            time need different names.
        data_dir: Folder in which a folder `client` (mode 0700) holds the name, known fingerprints,
            documents and material (GBs). None: `$CRYPTOGEN_DATA_DIR`, else
            `$XDG_DATA_HOME/cryptogen`, else `~/.local/share/cryptogen`.
        batch_tokens: When material runs short, buy what so many tokens need, or what the call needs
            if that is more; 1 or more. None buys what the call needs.
        linear_tokens: When what linear layers need runs short, buy that for so many tokens, or for
            those whose material is made if these are more; 1 or more. It is the cheaper per token
            the more are bought at once, up to 1024, and small on disk beside the rest. None buys no
            more than needed.
        resync: After a crash, drop the material that only one party still has. With False (the
            default) parties whose stores differ do not connect: `MaterialMismatch`.
        protocol: `preprocessed` (the default), or one of the two that it is compared with,
            `encrypted-cache` and `recompute`.
        progress: Called as `progress(phase, done, total)` during long steps: what is done, in
            words, and how much of how much. An exception that it raises ends the step and closes
            the connection. None: nobody is told.

    Raises:
        InputError: `batch_tokens` or `linear_tokens` is below 1, or there is no such `protocol`
            (`UnknownProtocol`).
    """

    def __init__(
        self,
        server: str,
        *,
        fingerprint: str | None = None,
        ca_file: str | Path | None = None,
        access_token: str | None = None,
        client_id: str | None = None,
        data_dir: str | Path | None = None,
        batch_tokens: int | None = None,
        linear_tokens: int | None = None,
        resync: bool = False,
        protocol: str = PREPROCESSED,
        progress: Progress | None = None,
    ) -> None:
        for option, tokens in (("batch_tokens", batch_tokens), ("linear_tokens", linear_tokens)):
            if tokens is not None and tokens < 1:
                raise InputError(f"{option} is {tokens}, expected 1 or more")
        trust = Trust(fingerprint, str(ca_file) if ca_file else None, access_token)
        name = check_protocol(protocol)
        self._link = Link(server, trust, data_dir, client_id, batch_tokens, linear_tokens, resync, name, progress)
        self._run: Run = run_of(self._link)
        self._unreported = 0  # range events of rows of this session that no token has carried yet
        self._spoilt = False  # a row could not be sampled: nothing may follow it

    def connect(self) -> None:
        """Connects, agrees on the model and makes the keys of the connection.

        Does nothing if there is a connection; otherwise a new session begins. Other calls connect
        by themselves.

        Raises:
            ConnectionFailed: Nobody listens there, or TLS failed, or `client_id` is not a name.
            WrongFingerprint: The server shows another certificate, or nothing is known that vouches
                for it.
            WrongAccessToken: The access token is missing or wrong.
            PeerFailed: The server refuses: all places are taken, or it failed.
            VersionMismatch: The parties speak different versions of the protocol.
            AgreementMismatch: They do not mean the same model, plan or tables.
            MaterialMismatch: Their stores differ; see `resync`. If one is lost, the text says which
                two folders to remove.
            StoreError: This client's store cannot be read or is damaged. The text says the same.
            StoreLocked: Another client uses this one's store.
            InputError: `fingerprint` is not one.
            ProtocolViolation: The server sends something else than the protocol says.
            PlanError: The server's plan cannot be used.
        """
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
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer."""
        self.connect()
        return self._link.tokenizer

    @property
    def costs(self) -> Costs:
        """Everything since this client was made; subtract an earlier value for a part of it."""
        return self._link.costs()

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer of the model."""
        self.connect()
        return self._link.offer.stop

    @property
    def length(self) -> int:
        """Tokens of the session so far, those of the server's system prompt included."""
        return self._link.text.length

    @property
    def secret_rows(self) -> int:
        """Tokens of a system prompt that the server puts before every text and does not show; 0 if
        there is none."""
        self.connect()
        return self._link.offer.secret_rows

    def prepare(self, tokens: int | None = None, context: int | None = None, progress: Progress | None = None) -> None:
        """Buys material ahead of time; no prompt is needed. It is stored, on both sides.

        Args:
            tokens: For how many tokens, beside what is in the store already; 1 or more. A token of
                the prompt counts like one that is generated. None: for a prompt of `context`
                tokens, of which only the last is sampled.
            context: Rows of the sessions that they will be spent in, without those of the server's
                system prompt: longer ones need more exponentials per token. More than the model's
                context has room for counts as that. None: `tokens`.
            progress: As in `Client`, for this call. None: the client's.

        Raises:
            InputError: `tokens` is below 1, `context` negative, or neither is given.
            DiskFull: No room in the store.
        """
        self.connect()
        if tokens is None and context is None:
            raise InputError("prepare: tokens or context expected, neither given")
        link, first = self._link, self.secret_rows
        rows = min(context or tokens or 0, self.config.context - first)
        if (tokens is not None and tokens < 1) or rows < 1:
            raise InputError(f"prepare {tokens} tokens for a context of {rows}, expected 1 or more")
        need = need_of(link.checked_plan, first, rows, 1) if tokens is None else link.need_ahead(tokens, rows)
        with link.reporting(progress):
            link.buy(need)

    def make_ready(self, rows: int, progress: Progress | None = None) -> None:
        """Gives the next `rows` rows of the session their positions and makes their attention
        material, ahead of their tokens: a prompt of up to as many tokens then costs its passes
        only. They are of this connection, and stay until they are used or the session is reset;
        `generate` of a new text uses them if no text was there before, and then for all of its
        tokens: the head of the chat template, which the server knows, too. Buys material first if
        it is short.

        Args:
            rows: How many, beside those that are ready; 1 or more. They fit the model's context,
                and the attention material of all ready rows 512 MB in either party's memory:
                16 bytes for each layer, head and pair of a row and a row up to it.
            progress: As in `Client`, for this call. None: the client's.

        Raises:
            InputError: `rows` is below 1, or their material is too large.
            ContextOverflow: They are more than the model's context has left.
        """
        self.connect()
        self._check_sound()
        link = self._link
        link.settle()
        cached, ready = link.text.cached or self.secret_rows, link.text.ready_rows + rows
        if rows < 1:
            raise InputError(f"{rows} rows to make ready, expected 1 or more")
        if cached + ready > self.config.context:
            raise ContextOverflow(cached + ready, self.config.context)
        if (size := attention_bytes(self.config, cached, ready)) > READY_BYTES:
            raise InputError(f"{ready} ready rows: {size >> 20} MiB of material, at most {READY_BYTES >> 20} expected")
        with link.reporting(progress):
            if self.secret_rows:
                link.begin([])
            link.extend(ready)

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
        stop_strings: Collection[str] = (),
        continue_session: bool = False,
        draft: Draft | None = None,
        on_range: str = "warn",
        progress: Progress | None = None,
    ) -> Iterator[Token]:
        """Tokens as they come, sampled here from the logits of one pass after another.

        Buys material first if it is short. After `NumericFailure` or `RangeExceeded` the tokens so
        far stand and the connection goes on, but the session cannot be continued: `generate`
        without `continue_session`.

        Rows that the server has computed already are used (`preprocessed`): its system prompt,
        behind which every text stands, or the head of the chat template, for texts that begin with
        it.

        Args:
            prompt: A text, or token ids. Text needs a model with a tokenizer.
            max_new_tokens: Most tokens to generate, 1 or more; default 64.
            temperature: 0 (the default) takes the best token; above 0, tokens are drawn from
                softmax(logits / temperature).
            top_k: Draw among so many of the best tokens, 1 or more. None: among all.
            top_p: Draw among the fewest best tokens that have this probability together, above 0
                and up to 1; default 1, all.
            seed: An integer from 0 on, of any size: the same one makes the same choices, but for
                near ties (`cryptogen.sampling.Sampler`). None: noise from the operating system,
                anew for every call.
            stop: Token ids that end the generation; the one that came is yielded as the last token.
                None: the model's own. `()`: none.
            stop_strings: Texts that end the generation; what is yielded ends in front of the first
                of them. Text that may be the beginning of one comes with a later token. They need a
                model with a tokenizer; none may be empty.
            continue_session: Append to what this client has fed and sampled so far, whose cache is
                kept, instead of starting anew (False, the default).
            draft: A local model that proposes tokens, several of which are verified in one pass:
                the same tokens in fewer round trips and for more material. Not with
                `encrypted-cache`. None: a pass per token.
            on_range: At a token with range events: `warn` (the default) says so in
                `Token.range_events`, `stop` raises `RangeExceeded` in its place.
            progress: As in `Client`, for this call. None: the client's.

        Returns:
            An iterator of tokens. Arguments are checked at once, the work is done while it is read.

        Raises:
            InputError: An argument is not as above. Nothing has been sent for it then.
            ContextOverflow: Session, prompt and `max_new_tokens` are longer than the model's
                context. Likewise.
            NumericFailure: In place of a token whose logits are absurd.
            RangeExceeded: In place of a token with range events, if `on_range` is `stop`.
        """
        protocol = self._link.protocol
        sampler = checked_options(protocol, max_new_tokens, temperature, top_k, top_p, seed, draft, on_range)
        self.connect()
        before = self.length if continue_session and self.length else self.secret_rows
        tokens = self.encode(prompt, first=before == 0)
        if continue_session:
            self._check_sound()
        fed = [*self._link.text.pending, *tokens] if continue_session else tokens
        if len(tokens) == 0:
            raise InputError("the prompt is empty: at least 1 token expected")
        check_tokens(self.config, fed, before)
        if before + len(fed) + max_new_tokens - 1 > self.config.context:
            raise ContextOverflow(before + len(fed) + max_new_tokens - 1, self.config.context)
        if draft is not None:
            draft.check(self.config, self.tokenizer)
        if isinstance(stop_strings, str) or not all(isinstance(s, str) and s for s in stop_strings):
            raise InputError("stop_strings: texts of one character or more expected")
        if stop_strings and self.tokenizer is None:
            raise InputError("stop_strings: the server's model has no tokenizer")
        ends = Ends(self._link.offer.stop if stop is None else frozenset(stop), tuple(stop_strings))
        return self._generate(tokens, max_new_tokens, sampler, ends, continue_session, draft, on_range, progress)

    def _generate(
        self,
        tokens: list[int],
        limit: int,
        sampler: Sampler,
        ends: Ends,
        continue_session: bool,
        draft: Draft | None,
        on_range: str,
        progress: Progress | None,
    ) -> Iterator[Token]:
        link = self._link
        if not continue_session:
            self._restart()
        before = [*(link.text.tokens if continue_session else []), *tokens]
        decoder = link.tokenizer.stream(before=before) if link.tokenizer else None
        generated, strings = 0, StopStrings(ends.strings)
        with link.reporting(progress), self._spoiling():
            for token, events in self._sampled(tokens, limit, sampler, draft):
                generated += 1
                if events and on_range == "stop":
                    raise RangeExceeded(events, generated)
                last = token in ends.tokens or generated == limit
                text = "" if decoder is None else decoder.push(token) + (decoder.finish() if last else "")
                text, found = strings.push(text)
                text, last = (text, True) if found else (text + strings.finish() if last else text, last)
                link.ledger.tokens += 1
                yield Token(token, text, events)
                if last:
                    return

    def _sampled(
        self, tokens: list[int], limit: int, sampler: Sampler, draft: Draft | None
    ) -> Iterator[tuple[int, int]]:
        """Up to `limit` tokens with their range events."""
        run, text = self._run, self._link.text
        rows = run.start(tokens, limit)
        yield from self._accepted([sampler.sample(rows.logits[0], text.length)], rows.events)
        left = limit - 1
        while left:
            drafted = draft.propose(text.tokens, left - 1, sampler) if draft else []
            if draft and drafted:
                run.expect(draft.passes_for(left), 1 + len(drafted))
            rows = run.next(drafted)
            chosen = sampler.verify(drafted, rows.logits, text.length)
            if draft:
                draft.stats.add(len(drafted), len(chosen) - 1)
            left -= len(chosen)
            yield from self._accepted(chosen, rows.events)

    def _accepted(self, chosen: list[int], events: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """The tokens of a pass. When a token is yielded, `length` and `save()` describe the session
        up to that token, even if drafted tokens behind it have been computed: all but the last are
        rows of the pass already."""
        self._unreported += events[0]
        for token, ahead in zip(chosen, (*events[1 : len(chosen)], 0), strict=True):
            self._link.text.take(token)
            found, self._unreported = self._unreported, ahead
            yield token, found

    def keep(self, tokens: Sequence[int]) -> int:
        """Keeps those rows of the session that a text of these tokens begins with, too, and forgets
        the others.

        Args:
            tokens: Token ids of a text from its beginning, without the server's system prompt.

        Returns:
            How many of the tokens the session has: fewer than there are, so that
            `generate(tokens[kept:], continue_session=kept > 0)` goes on with that text. 0 where
            rows would have to be dropped from a cache that cannot (`encrypted-cache`).

        Raises:
            InputError: The session ended with `NumericFailure` or `RangeExceeded`.
        """
        self.connect()
        self._check_sound()
        there, link = self._link.text.tokens, self._link
        kept = min(len(commonprefix([there, list(tokens)])), len(tokens) - 1)
        if kept < len(there) and link.protocol == ENCRYPTED_CACHE:
            return 0
        link.text.keep(kept)
        return kept

    def score(self, tokens: Sequence[int], progress: Progress | None = None) -> Rows:
        """Every row of a new session, logits and range events: what evaluation needs. It spends
        logits for every row. Of the server's system prompt, if it has one, there are none.

        Args:
            tokens: Token ids of the text, 1 or more, up to the model's context.
            progress: As in `Client`, for this call. None: the client's.

        Returns:
            A row per token.

        Raises:
            InputError: No tokens, or ids outside the vocabulary; `ContextOverflow` if there are too
                many.
            NumericFailure: Logits are absurd.
        """
        self.connect()
        first, link = self.secret_rows, self._link
        check_tokens(self.config, tokens, first)
        self._restart()
        with link.reporting(progress), self._spoiling():
            link.ensure(need_of(link.checked_plan, first, len(tokens), len(tokens)))
            if first:
                link.begin(tokens)
            parts = []
            for i in range(0, len(tokens), LARGEST_BLOCK):
                part = tokens[i : i + LARGEST_BLOCK]
                parts.append(link.forward(part, len(part)))
        return Rows.joined(parts)

    def logits(self, tokens: Sequence[int], progress: Progress | None = None) -> NDArray[np.float64]:
        """The logits of `score`, [T, vocab].

        Args:
            tokens: Token ids of the text, 1 or more, up to the model's context.
            progress: As in `Client`, for this call. None: the client's.
        """
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
        self._unreported, self._spoilt = 0, False
        self._link.reset()

    def _restart(self) -> None:
        """The same, but that rows stay which `make_ready` was asked for in front of any text."""
        self._unreported, self._spoilt = 0, False
        self._link.reset(keep_ready=True)

    def save(self) -> None:
        """Keeps the session for `resume` by a later connection: the server its encrypted cache,
        this client the token that was sampled last.

        Raises:
            CacheRejected: The server did not keep it: it has no `cache_dir`, for example.
            InputError: The protocol is not `encrypted-cache`, or the session ended with
                `NumericFailure` or `RangeExceeded`.
        """
        self._cached()
        self._check_sound()
        self._link.save()

    def resume(self) -> int:
        """Goes on where `save` was called; then `generate` with `continue_session=True`.

        Returns:
            The number of rows of the session.

        Raises:
            CacheRejected: The server has no cache that fits; the session is empty then.
            InputError: The protocol is not `encrypted-cache`.
        """
        self._cached()
        self.reset()
        self._link.resume()
        return self.length

    def _cached(self) -> None:
        self.connect()
        if self._link.protocol != ENCRYPTED_CACHE:
            raise InputError(f"protocol {self._link.protocol}, only {ENCRYPTED_CACHE} has a cache that can be saved")

    def encode(self, prompt: str | Sequence[int], first: bool = True) -> list[int]:
        """Token ids of a prompt.

        Args:
            prompt: A text, or token ids, which stay as they are.
            first: With the begin-of-sequence token, for models that have one (True, the default).

        Raises:
            InputError: Text for a model without a tokenizer.
            TokenizerError: The tokenizer cannot encode the text.
        """
        if not isinstance(prompt, str):
            return [int(t) for t in prompt]
        if self.tokenizer is None:
            raise InputError("the server's model has no tokenizer: token ids expected, text given")
        return self.tokenizer.encode(prompt, special=first)

    # --- for measuring

    @property
    def checked_plan(self) -> _core.CheckedPlan:
        """The server's plan as the core has checked it: how much material rows need, and how rows
        lie in ciphertexts."""
        self.connect()
        return self._link.checked_plan

    def buy(self, need: Need) -> None:
        """Buys exactly this material, beside what is in the store already. `prepare` works out what
        tokens need.

        Args:
            need: How many records of each pool.

        Raises:
            DiskFull: No room in the store.
        """
        self.connect()
        self._link.buy(need)

    def counters(self) -> dict[str, Any]:
        """Asks the server what it has done with ciphertexts so far; it follows from the model's
        shape.

        Returns:
            `counts`: operations by name, which only grow. `state`: what the server holds now,
            ciphertexts in its cache and bytes of keys.
        """
        self.connect()
        return self._link.counters()
