"""The client's end of a session: each method tells the server which step comes and takes the same
step."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cryptogen import _core
from cryptogen.backends.private import ClientBackend
from cryptogen.errors import CacheRejected, ConnectionLost, CryptogenError, Forked, MaterialShort, NumericFailure
from cryptogen.models.backend import Backend
from cryptogen.models.decoder import check_tokens, forward, want_of
from cryptogen.paths import write_private
from cryptogen.protocols import PREPROCESSED, RECOMPUTE
from cryptogen.tokens import Tokenizer

from . import messages
from .connect import Connector
from .costs import Costs
from .ledger import Ledger
from .material import POOLS, Need, need_ahead
from .messages import LARGEST_PASS, Message
from .offer import Offer
from .rows import Rows
from .text import Text
from .trust import Trust

Progress = Callable[[str, int, int], None]


class Link:
    """An open session. A step that fails in the middle closes it: shares would no longer match.

    `text` is what the session holds: every step that changes its rows tells it.
    """

    offer: Offer
    tokenizer: Tokenizer | None
    checked_plan: _core.CheckedPlan

    def __init__(
        self,
        address: str,
        trust: Trust,
        data_dir: str | Path | None,
        name: str | None,
        batch_tokens: int | None,
        linear_tokens: int | None,
        resync: bool,
        protocol: str,
        progress: Progress | None,
    ) -> None:
        self.protocol, self.ledger, self.text = protocol, Ledger(), Text()
        self._connector = Connector(address, trust, data_dir, name, resync, protocol)
        self._batch_tokens, self._linear_tokens, self._progress = batch_tokens, linear_tokens, progress
        self._endpoint: _core.ClientEndpoint | None = None

    # --- opening and closing

    @property
    def connected(self) -> bool:
        return self._endpoint is not None

    def connect(self) -> None:
        """Opens a session. Errors: `Connector.open`'s."""
        started = time.perf_counter()
        opened = self._connector.open()
        self.offer, self.checked_plan = opened.offer, opened.checked_plan
        self.tokenizer, self._record = opened.tokenizer, opened.record
        self.ledger.opened(opened.endpoint)
        self.text.opened(opened.endpoint)
        self._endpoint, self._backend = opened.endpoint, ClientBackend(opened.endpoint, opened.numeric_plan)
        self.ledger.setup_took(time.perf_counter() - started)

    def close(self) -> None:
        if self._endpoint is not None:
            try:
                self._endpoint.send_control(messages.encode(messages.Bye()))
            except CryptogenError:
                pass  # it is gone already, or another process's
            self._drop()

    def _drop(self) -> None:
        if self._endpoint is None:
            return
        self.ledger.closed()
        self.text.closed()
        self._endpoint = None
        del self._backend  # the last references: the connection closes, the store is unlocked

    # --- steps

    def has(self, need: Need) -> bool:
        """Whether the store holds so much."""
        return need.beyond(self._open().stock()) == Need(0, 0, 0)

    def ensure(self, need: Need) -> None:
        """Buys what the store lacks; a batch of `batch_tokens` if that is more."""
        missing = need.beyond(self._open().stock())
        if missing == Need(0, 0, 0):
            return
        if self._batch_tokens is not None:
            batch = self.need_ahead(self._batch_tokens, self._batch_tokens)
            missing = Need(
                **{p: max(getattr(missing, p), getattr(batch, p)) if getattr(missing, p) else 0 for p in POOLS}
            )
        self.buy(missing)

    def need_ahead(self, tokens: int, context: int) -> Need:
        """What `tokens` tokens need in texts of so many, or of as many as there is room for."""
        first = self.offer.secret_rows
        context = min(context, self.offer.config.context - first)
        return need_ahead(self.checked_plan, tokens, context, first, self.protocol == RECOMPUTE)

    def buy(self, need: Need) -> None:
        """Makes material and stores it, on both sides: of `linears` also what the rows lack, or
        `linear_tokens` if that is more."""
        if (lacking := need.rows - self._open().stock()["linears"]) > need.linears:
            need = dataclasses.replace(need, linears=max(lacking, self._linear_tokens or 0))
        for part in need.requests():
            endpoint = self._open()
            with self._step("offline", messages.Prepare(part.linears, part.rows, part.logits, part.exponentials)):
                endpoint.prepare(part, self._progress)
            self.ledger.made_rows(part.rows)

    def begin(self, tokens: Sequence[int]) -> list[int]:
        """Begins a text that consists of these tokens, unless one has begun: with the rows that the
        server has ready. The tokens that are left to feed."""
        prefix = self.offer.prefix
        if prefix is None or self.protocol != PREPROCESSED or self.text.cached or self.text.ready_rows:
            return list(tokens)
        if not prefix.secret and not prefix.begins(tokens):
            return list(tokens)
        known = [] if prefix.secret else list(tokens[: prefix.rows])
        endpoint = self._open()
        with self._step("offline", messages.Begin()):
            endpoint.put_prefix(prefix.rows)
        self.text.begun(prefix.rows, known)
        self.ledger.known_rows += prefix.rows
        return list(tokens[len(known) :])

    def extend(self, rows: int) -> None:
        """Makes the next `rows` rows ready: positions and attention material."""
        if (left := rows - self.text.ready_rows) > 0:
            endpoint, first = self._open(), self.text.cached + self.text.ready_rows
            self.ensure(Need(left, 0, self.checked_plan.exponentials_needed(first, left)))
            for done in range(0, left, LARGEST_PASS):
                part = min(LARGEST_PASS, left - done)
                with self.ledger.spending(), self._step("offline", messages.Extend(part)):
                    endpoint.extend(part)

    def take_logits(self, n: int) -> None:
        """Takes the material for the logits of the next `n` sampled rows."""
        if (left := n - self.text.ready_logits) > 0:
            endpoint = self._open()
            self.ensure(Need(0, left, 0))
            with self.ledger.spending(), self._step("offline", messages.Logits(left)):
                endpoint.take_logits(left)

    def forward(self, tokens: Sequence[int], sampled: int) -> Rows:
        """One pass, of which the last `sampled` rows come back.

        `NumericFailure`: the pass is over, the session open, but no row behind it will be right
        before a `reset`.
        """
        want = want_of(len(tokens), sampled)
        assert want is not None  # callers ask for none, one or all
        self.extend(len(tokens))
        self.take_logits(sampled)
        self.ledger.rows += len(tokens)
        with self._step("online", messages.Forward(len(tokens), sampled)):
            backend: Backend[Any] = self._backend
            try:
                logits = forward(backend, self.offer.config, tokens, want)
            except NumericFailure:
                self.text.fed(tokens)
                raise
            self.text.fed(tokens)
        if logits is None:
            return Rows(np.empty((0, self.offer.config.vocab)), ())
        assert isinstance(logits, np.ndarray)
        self.ledger.range_events += sum(self._backend.range_events)
        return Rows(logits, tuple(self._backend.range_events))

    def settle(self) -> None:
        """Drops the rows that do not count, and those that are ready. Before the next pass, not
        sooner: until then the text may still come to count them."""
        if self.text.length < self.text.cached:
            endpoint = self._open()
            with self._step("offline", messages.Crop(self.text.length)):
                endpoint.crop(self.text.length)
                self.text.settled()

    def reset(self, keep_ready: bool = False) -> None:
        """Forgets the text and its rows; without a message if there are none. `keep_ready`: rows
        that were made ready in front of any text stay so, and a system prompt in front of them."""
        secret = self.offer.secret_rows
        keeps = keep_ready and self.text.ready_rows > 0 and self.text.cached == secret
        if not keeps and (self.text.cached or self.text.ready_rows):
            endpoint = self._open()
            with self._step("offline", messages.Reset()):
                endpoint.reset()
        self.text.forget()
        if keeps and secret:
            self.text.begun(secret, [])

    def save(self) -> None:
        """The server saves the encrypted cache, this client the tokens that are not in it.

        `CacheRejected` if the server keeps none.
        """
        with self._step("offline", messages.Save()):
            self._asked()
        self._record.parent.mkdir(exist_ok=True, mode=0o700)
        write_private(self._record, json.dumps({"pending": self.text.pending, "rows": self.text.cached}))

    def resume(self) -> None:
        """An empty session goes on where the saved one was.

        `CacheRejected`, and it stays empty, if the server has no cache that fits, or this client no
        record of the same session.
        """
        endpoint = self._open()
        with self._step("offline", messages.Resume()):
            try:
                self._asked()
            except CacheRejected:
                endpoint.reset()  # as the server did
                raise
            endpoint.resume_cache()
        try:
            self.text.resumed(self._recorded())
        except CacheRejected:
            self.reset()
            raise

    def _recorded(self) -> list[int]:
        """The tokens of the saved session that are not in its cache.

        `CacheRejected` if the record is of another one.
        """
        try:
            found = messages.parse_object(self._record.read_text(encoding="utf-8"))
            pending, rows = found["pending"], found["rows"]
            check_tokens(self.offer.config, pending or [0], 0)
        except (OSError, KeyError, TypeError, CryptogenError):
            raise CacheRejected(f"{self._record}: not the record of a saved session") from None
        if rows != (there := self.text.cached):
            raise CacheRejected(f"{self._record} is of a session of {rows} rows, the server's cache has {there}")
        return list(pending)

    def _asked(self) -> None:
        refused = messages.parse_object(self._open().recv_control()).get("refused", "")
        if refused is not None:
            raise CacheRejected(f"the server says: {str(refused)[:200]}")

    def counters(self) -> dict[str, Any]:
        """The server's counters of operations on ciphertexts."""
        endpoint = self._open()
        with self._step("offline", messages.Counters()):
            return messages.parse_object(endpoint.recv_control())

    def _open(self) -> _core.ClientEndpoint:
        if self._endpoint is None:
            raise ConnectionLost("the session is closed; connect again")
        return self._endpoint

    @contextmanager
    def _step(self, phase: str, message: Message) -> Iterator[None]:
        """Announces a step and times it. Only running short, no saved cache, logits that are absurd
        (when the pass is over), or another process's use leave both parties in step."""
        with self.ledger.timing(phase):
            try:
                self._open().send_control(messages.encode(message))
                yield
            except (MaterialShort, CacheRejected, NumericFailure, Forked):
                raise
            except BaseException:
                self._drop()
                raise

    # --- reports

    @contextmanager
    def reporting(self, progress: Progress | None) -> Iterator[None]:
        """Another listener for the progress of the steps inside."""
        before, self._progress = self._progress, progress or self._progress
        try:
            yield
        finally:
            self._progress = before

    def costs(self) -> Costs:
        """All connections of this link together."""
        return self.ledger.costs()
