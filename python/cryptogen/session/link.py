"""The client's end of a session: each method tells the server which step comes and takes the same step."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen import _core
from cryptogen.backends.base import Backend
from cryptogen.backends.private import ClientBackend, want_of
from cryptogen.errors import (
    CacheRejected,
    ConnectionLost,
    CryptogenError,
    DiskFull,
    MaterialMismatch,
    MaterialShort,
    NumericFailure,
    ProtocolViolation,
)
from cryptogen.models.decoder import check_tokens, forward
from cryptogen.numerics.calibrate import shape_of
from cryptogen.numerics.document import PlanError
from cryptogen.numerics.plan import Plan, tables, tables_digest
from cryptogen.paths import KnownServers, client_id, data_folder, write_private
from cryptogen.protocols import PREPROCESSED, RECOMPUTE, store_name
from cryptogen.tokens import TextCodec

from . import messages
from .costs import Costs, phase_costs
from .material import Need, need_ahead, spare
from .messages import Message
from .offer import Offer, receive_offer
from .rows import Rows
from .trust import Trust

Progress = Callable[[str, int, int], None]
POOLS = ("slots", "heads", "exponentials")


class Link:
    """An open session. A step that fails in the middle closes it: shares would no longer match."""

    offer: Offer
    codec: TextCodec | None
    plan: _core.Plan

    def __init__(
        self,
        address: str,
        trust: Trust,
        data_dir: str | Path | None,
        name: str | None,
        batch_tokens: int | None,
        resync: bool,
        protocol: str,
        progress: Progress | None,
    ) -> None:
        self._address, self._trust, self._resync, self.protocol = address, trust, resync, protocol
        self._folder = data_folder("client", data_dir)
        self._name = name or client_id(self._folder)
        self._known = KnownServers(self._folder)
        self._batch_tokens, self._progress = batch_tokens, progress
        self._endpoint: _core.ClientEndpoint | None = None
        self._seconds: dict[str, float] = {}
        self._earlier, self._spent, self._rows, self._tokens, self._events = Costs(), Counter[str](), 0, 0, 0

    # --- opening and closing

    @property
    def connected(self) -> bool:
        return self._endpoint is not None

    def connect(self) -> None:
        """Errors: `ConnectionFailed`, `WrongFingerprint`, `WrongToken`, `VersionMismatch`, `AgreementMismatch`,
        `MaterialMismatch`, `StoreLocked`, `ProtocolViolation`, `PlanError`."""
        started = time.perf_counter()
        fingerprint = self._trust.pinned(self._address, self._known)
        connection = _core.ClientConnection.connect(self._address, fingerprint, self._trust.ca_file)
        connection.hello(self._name, self._trust.token)
        if fingerprint is not None:
            self._known.put(self._address, fingerprint)  # the server has just proved to own it
        self.offer, documents = receive_offer(connection, self._folder / "documents", self.protocol)
        plan, made = self._checked_plan(documents["plan"])
        plan_digest, model = self.offer.documents["plan"], self.offer.model
        connection.agree(model, plan_digest, tables_digest(made))
        self.plan = _core.Plan(plan.to_json(), made)
        self.codec = _codec(self.offer, documents.get("tokenizer"))
        peer = fingerprint or f"certified:{self._address}"
        pair = hashlib.sha256(f"{peer} {self._name} {model} {plan_digest}".encode()).hexdigest()[:32]
        (self._folder / "stores").mkdir(exist_ok=True, mode=0o700)
        name = store_name(pair, self.protocol)
        store, self._kept = str(self._folder / "stores" / name), self._folder / "sessions" / f"{name}.json"
        try:
            endpoint = connection.open(self.plan, store, peer, model, plan_digest, self._resync, self.protocol)
        except MaterialMismatch as error:
            raise MaterialMismatch(f"{error} ({self._way_out()})") from None
        self._earlier, self._seconds = self.costs(), {}
        self._endpoint, self._backend = endpoint, ClientBackend(endpoint, plan)
        try:
            self._fetch_model(model, plan_digest)
        except BaseException:
            self._drop()
            raise
        self._seconds["setup"] = time.perf_counter() - started

    def _way_out(self) -> str:
        return f"after a crash: resync; if one party's store is lost: delete {self._folder / 'client_id'} to start anew"

    def _checked_plan(self, document: bytes) -> tuple[Plan, list[NDArray[np.int64]]]:
        try:
            plan = Plan.from_json(document.decode())
            if plan.model != shape_of(self.offer.config):
                raise PlanError("model", shape_of(self.offer.config), plan.model)
            return plan, tables(plan)
        except (UnicodeDecodeError, RecursionError, MemoryError) as error:
            raise ProtocolViolation(f"the server's plan cannot be read ({type(error).__name__})") from None

    def _fetch_model(self, model: str, plan_digest: str) -> None:
        """The encrypted model, or the part that the protocol needs, comes once per model and key; a file appears under
        its name only when complete."""
        parts = (model, plan_digest, self.offer.key_id, self.plan.encrypted_model_layout)
        name = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
        whole = self._folder / "models" / name
        path = whole if self.protocol == PREPROCESSED else whole.with_name(f"{name}-ends")
        endpoint = self._open()
        for there in (whole, path):
            if there.exists():
                endpoint.open_model(str(there))
                return
        path.parent.mkdir(exist_ok=True, mode=0o700)
        size, free = self.plan.encrypted_model_bytes(self.protocol), shutil.disk_usage(path.parent).free
        if size > free:
            raise DiskFull(f"{path.parent}: {size} bytes needed for the encrypted model, {free} free")
        partial = path.with_name(f"{path.name}.{self._name}.partial")
        try:
            with self._step("setup", messages.SendModel()):
                endpoint.receive_model(str(partial), _named(self._progress, f"{size / 1e9:.1f} GB, once per model"))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def close(self) -> None:
        if self._endpoint is not None:
            try:
                self._endpoint.send_control(messages.encode(messages.Bye()))
            except CryptogenError:
                pass  # it is gone already
            self._drop()

    def _drop(self) -> None:
        if self._endpoint is None:
            return
        self._earlier, self._seconds = self.costs(), {}
        self._endpoint = None
        del self._backend  # the last references: the connection closes, the store is unlocked

    # --- steps

    @property
    def length(self) -> int:
        return self._endpoint.length if self._endpoint else 0

    @property
    def ready_rows(self) -> int:
        return self._endpoint.ready_rows if self._endpoint else 0

    @property
    def ready_heads(self) -> int:
        return self._endpoint.ready_heads if self._endpoint else 0

    def has(self, need: Need) -> bool:
        """Whether the store holds so much."""
        return need.beyond(self._open().stock()) == Need(0, 0, 0)

    def ensure(self, need: Need) -> None:
        """Buys what the store lacks; a batch of `batch_tokens` if that is more."""
        missing = need.beyond(self._open().stock())
        if missing == Need(0, 0, 0):
            return
        if self._batch_tokens is not None:
            context = min(self._batch_tokens, self.offer.config.context)
            batch = need_ahead(self.plan, self._batch_tokens, context, self.protocol == RECOMPUTE)
            missing = Need(*(max(getattr(missing, p), getattr(batch, p)) if getattr(missing, p) else 0 for p in POOLS))
        self.buy(missing)

    def buy(self, need: Need) -> None:
        """Makes material and stores it, on both sides."""
        for part in need.requests():
            endpoint = self._open()
            with self._step("offline", messages.Prepare(part.slots, part.heads, part.exponentials)):
                endpoint.prepare(part.slots, part.heads, part.exponentials, self._progress)

    def extend(self, rows: int) -> None:
        """Gives the next rows their positions. Unusable slots may make the store run short: then more are bought."""
        target = self.ready_rows + rows
        while (left := target - self.ready_rows) > 0:
            endpoint, first = self._open(), self.length + self.ready_rows
            self.ensure(Need(left, 0, self.plan.exponentials_needed(first, left)))
            try:
                with self._spending(), self._step("offline", messages.Extend(left)):
                    endpoint.extend(left)
            except MaterialShort:
                self.buy(Need(spare(target - self.ready_rows), 0, 0))

    def heads(self, n: int) -> None:
        """Takes the material of `n` sampled rows."""
        while (left := n - self.ready_heads) > 0:
            endpoint = self._open()
            self.ensure(Need(0, left, 0))
            try:
                with self._spending(), self._step("offline", messages.Heads(left)):
                    endpoint.take_heads(left)
            except MaterialShort:
                self.buy(Need(0, spare(n - self.ready_heads), 0))

    def forward(self, tokens: Sequence[int], sampled: int) -> Rows:
        """One pass, of which the last `sampled` rows come back. The rows must have been given positions.

        `NumericFailure`: the pass is over, the session open, but no row behind it will be right before a `reset`.
        """
        want = want_of(len(tokens), sampled)
        assert want is not None  # callers ask for none, one or all
        self.heads(sampled)
        self._rows += len(tokens)
        with self._step("online", messages.Forward(len(tokens), sampled)):
            self._backend.sampled = sampled
            backend: Backend[Any] = self._backend
            logits = forward(backend, self.offer.config, tokens, want)
        if logits is None:
            return Rows(np.empty((0, self.offer.config.vocab)), ())
        assert isinstance(logits, np.ndarray)
        self._events += sum(self._backend.range_events)
        return Rows(logits, tuple(self._backend.range_events))

    def truncate(self, rows: int) -> None:
        """Forgets all rows but the first `rows`, and those that were prepared ahead."""
        endpoint = self._open()
        with self._step("offline", messages.Truncate(rows)):
            endpoint.truncate(rows)

    def reset(self) -> None:
        endpoint = self._open()
        with self._step("offline", messages.Reset()):
            endpoint.reset()

    def save(self) -> None:
        """The server saves the encrypted cache. `CacheRejected` if it keeps none."""
        with self._step("offline", messages.Save()):
            self._asked()

    def resume(self) -> None:
        """A new session with the rows of the saved cache. `CacheRejected` if the server has none that fits."""
        endpoint = self._open()
        with self._step("offline", messages.Resume()):
            try:
                self._asked()
            except CacheRejected:
                endpoint.reset()  # as the server did
                raise
            endpoint.resume_cache()

    def keep(self, tokens: list[int]) -> None:
        """Stores the tokens of a saved session that are not in the cache yet."""
        self._kept.parent.mkdir(exist_ok=True, mode=0o700)
        write_private(self._kept, json.dumps({"pending": tokens, "rows": self.length}))

    def kept(self) -> list[int]:
        """Those tokens. `CacheRejected` if they are of another session than the server's cache."""
        try:
            found = messages.parse_object(self._kept.read_text(encoding="utf-8"))
            pending, rows = found["pending"], found["rows"]
            check_tokens(self.offer.config, pending or [0], 0)
        except (OSError, KeyError, TypeError, CryptogenError):
            raise CacheRejected(f"{self._kept}: not the record of a saved session") from None
        if rows != self.length:
            raise CacheRejected(f"{self._kept} is of a session of {rows} rows, the server's cache has {self.length}")
        return list(pending)

    def _asked(self) -> None:
        refused = messages.parse_object(self._open().recv_control()).get("refused", "")
        if refused is not None:
            raise CacheRejected(f"the server says: {str(refused)[:200]}")

    def counters(self) -> str:
        """The server's counters of operations on ciphertexts, JSON."""
        endpoint = self._open()
        with self._step("offline", messages.Counters()):
            return endpoint.recv_control()

    def _open(self) -> _core.ClientEndpoint:
        if self._endpoint is None:
            raise ConnectionLost("the session is closed; connect again")
        return self._endpoint

    @contextmanager
    def _step(self, phase: str, message: Message) -> Iterator[None]:
        """Announces a step and times it. Only running short, no saved cache, or logits that are absurd (when the pass
        is over) leave both parties in step."""
        started = time.perf_counter()
        try:
            self._open().send_control(messages.encode(message))
            yield
        except (MaterialShort, CacheRejected, NumericFailure):
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started

    # --- reports

    @contextmanager
    def reporting(self, progress: Progress | None) -> Iterator[None]:
        """Another listener for the progress of the steps inside."""
        before, self._progress = self._progress, progress or self._progress
        try:
            yield
        finally:
            self._progress = before

    @contextmanager
    def _spending(self) -> Iterator[None]:
        before = self._open().stock()
        try:
            yield
        finally:
            if self._endpoint is not None:
                after = self._endpoint.stock()
                self._spent.update({name: before[name] - after[name] for name in POOLS})

    def count_token(self) -> None:
        self._tokens += 1

    def costs(self) -> Costs:
        """All connections of this link together."""
        now = phase_costs(self._endpoint.stats() if self._endpoint else "{}", self._seconds)
        left = self._endpoint.stock() if self._endpoint else self._earlier.left
        before = self._earlier
        return Costs(
            before.setup + now["setup"],
            before.offline + now["offline"],
            before.online + now["online"],
            self._rows,
            self._tokens,
            self._events,
            dict(self._spent),
            dict(left),
        )


def _named(progress: Progress | None, note: str) -> Progress | None:
    """The listener, told more about the phase."""
    return progress and (lambda phase, done, total: progress(f"{phase} ({note})", done, total))


def _codec(offer: Offer, document: bytes | None) -> TextCodec | None:
    if document is None:
        return None
    codec = TextCodec.from_json(document.decode("utf-8", errors="replace"), source="the server's tokenizer")
    codec.chat = offer.chat
    return codec
