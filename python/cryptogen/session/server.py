"""The model owner's side: accepts clients, one thread each, and takes the steps that a client asks
for."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptogen import _core
from cryptogen.backends.private import ServerBackend, server_model
from cryptogen.defaults import ADDRESS
from cryptogen.errors import (
    Busy,
    CacheRejected,
    ConnectionLost,
    CryptogenError,
    DiskFull,
    InputError,
    MaterialShort,
    ProtocolViolation,
    Refused,
)
from cryptogen.models.backend import Backend
from cryptogen.models.decoder import forward, want_of
from cryptogen.numerics.plan import NumericPlan, tables, tables_digest
from cryptogen.numerics.quantise import ModelDigest, integer_parts
from cryptogen.paths import data_folder, secret_of
from cryptogen.protocols import ENCRYPTED_CACHE, PREPROCESSED, store_name
from cryptogen.weights import Checkpoint, load
from cryptogen.weights.canonical import canonicalise

from . import messages
from .known_rows import known_rows
from .material import POOLS, READY_BYTES, attention_bytes
from .offer import make_offer, pair_of, public_plan, send_offer, server_name
from .plans import find_plan

log = logging.getLogger("cryptogen.server")
Ready = Callable[[str, str], None]  # (address, fingerprint)
MOST_TOKENS = 1 << 16  # material that one client may keep here, in rows or logits
MOST_EXPONENTIALS = 1 << 21  # in pairs of rows: those of a text of 2,048
MOST_STRANGERS = 256  # connections that have not said who they are yet, each for 30 s at most
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds before the next try when no connection can be accepted
POLL = 0.5  # seconds between looks at the stop flag


class Server:
    """Serves one model.

        server = cryptogen.Server("path/to/model", access_token="a long secret")
        server.serve("0.0.0.0:7766")     # until Ctrl-C

    Args:
        model: Path of anything that `cryptogen.load` reads, or a `Checkpoint`.
        plan: The numeric plan, or its file. None takes the one beside the model
            (`cryptogen calibrate` puts it there), else the one shipped with this package.
        data_dir: Folder in which a folder `server` (mode 0700) holds the certificate, the lattice
            key and every client's material. None: `$CRYPTOGEN_DATA_DIR`, else
            `$XDG_DATA_HOME/cryptogen`, else `~/.local/share/cryptogen`.
        access_token: The access token that clients have to present. None lets in anybody who
            reaches the port.
        certificate: PEM file of a certificate with its chain, given together with `key`. None: a
            self-signed one, made on first use and kept in `data_dir`, whose fingerprint clients
            pin.
        key: PEM file of the certificate's key, which nobody but its owner may read (mode 0600).
        max_clients: Most clients connected at the same time, each served by a thread; default 8.
            One more is refused, which it sees as `PeerFailed`.
        idle_timeout: Seconds after which a connected client that asks for nothing is given up, 0.1
            to 1 000 000; default 1800. Its session is lost then, its material is not. In the middle
            of a step the limit is 600 s if that is less.
        cache_dir: Folder for the encrypted caches that clients save (`encrypted-cache` only). None
            keeps none.
        weights_cache: Folder for weights encoded for `encrypted-cache` and `recompute`, kept for
            later starts: GBs, as secret as the model. None encodes a layer when it is first used.
        system_prompt: A system message that stands before every text, for models with a chat
            template. Clients learn the number of its tokens and what the model makes of it, not the
            message. It is computed once, in the clear, and costs clients nothing but attention to
            it. Such a server speaks `preprocessed` only. None: there is none, and the head of the
            chat template, which clients know, is computed once.

    Raises:
        InputError: A certificate without its key, or a key without its certificate. A system
            prompt that is empty, for a model without a tokenizer, or with numbers outside the
            ranges of the plan; `ContextOverflow` if it fills the model's context.
        ChatTemplateError: A system prompt for a model without a chat template, or with one that
            refuses it.
        ConnectionFailed: One of the two cannot be read, or others may read the key.
        WeightsError: The model cannot be read, as `cryptogen.load` says; or `TokenizerError`.
        MissingPlan: The model has no plan. A given one raises `MissingFile` if it is not there,
            `PlanRejected` if it is for another model, `PlanError` if it cannot be read.
        StoreError: `weights_cache` cannot be made.
    """

    def __init__(
        self,
        model: str | Path | Checkpoint,
        plan: str | Path | NumericPlan | None = None,
        *,
        data_dir: str | Path | None = None,
        access_token: str | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        max_clients: int = 8,
        idle_timeout: float = 1800.0,
        cache_dir: str | Path | None = None,
        weights_cache: str | Path | None = None,
        system_prompt: str | None = None,
    ) -> None:
        if (certificate is None) != (key is None):
            raise InputError("a certificate and its key are needed together")
        checkpoint = model if isinstance(model, Checkpoint) else load(model)
        self.config = checkpoint.config
        self.plan = public_plan(find_plan(checkpoint, plan))
        self.folder = data_folder("server", data_dir)
        self._access_token, self._idle_timeout = access_token, idle_timeout
        self._places = threading.BoundedSemaphore(max_clients)
        self._strangers = threading.BoundedSemaphore(MOST_STRANGERS)
        self._max_clients = max_clients
        self._caches = None if cache_dir is None else Path(cache_dir)
        self._stop = threading.Event()
        if certificate is None or key is None:
            self._identity = _core.Identity.load_or_create(str(self.folder / "identity"))
        else:
            self._identity = _core.Identity.from_pem(str(certificate), str(key))
        self._secret = secret_of(self.folder)
        self._prepare_model(checkpoint, system_prompt)
        if weights_cache is not None:
            self._load_encoded(Path(weights_cache))

    def _load_encoded(self, folder: Path) -> None:
        start = time.monotonic()
        read, written, warnings = self._weights.load_encoded(self._checked_plan, str(folder))
        for warning in warnings:
            log.warning("weights cache: %s", warning)
        seconds = time.monotonic() - start
        log.info("weights cache %s: %d linear layers read, %d written, %.1f s", folder, read, written, seconds)

    def _prepare_model(self, checkpoint: Checkpoint, system_prompt: str | None) -> None:
        made = tables(self.plan)
        self._checked_plan = _core.CheckedPlan(self.plan.to_json(), made)
        digest = ModelDigest()
        parts = digest.of(integer_parts(canonicalise(checkpoint, keep=False), self.plan))
        self._weights = server_model(_core.ServerModelBuilder(self._checked_plan), parts)
        self._documents = {"plan": self.plan.to_json().encode()}
        tokenizer = checkpoint.tokenizer
        if tokenizer is not None:
            self._documents["tokenizer"] = tokenizer.to_json().encode()
            if tokenizer.chat is not None:
                self._documents["chat"] = tokenizer.chat.to_json().encode()
        digests = (digest.hex(), tables_digest(made))
        self._known = known_rows(checkpoint, self.plan, self._checked_plan, system_prompt)
        prefix = self._known.public if self._known else None
        self.offer = make_offer(self.config, checkpoint.stop, digests, self._documents, prefix)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate: tell it to clients over a channel they trust."""
        return self._identity.fingerprint

    def serve(self, address: str = ADDRESS, ready: Ready | None = None) -> None:
        """Accepts clients until `stop` or Ctrl-C. A client that fails ends its own connection only.

        Args:
            address: `host:port` to listen on; port 0 picks a free one. Default `127.0.0.1:7766`,
                which only this host reaches; `0.0.0.0:7766` is for all networks of the host.
            ready: Called as `ready(address, fingerprint)` when clients may come, with the port that
                was picked.

        Raises:
            AddressInUse: Another process listens there.
            ConnectionFailed: The address cannot be used on this host.
        """
        listener = _core.Listener(address, self._identity)
        if self._access_token is None:
            log.warning("no access token: anybody who reaches this port may use the model")
        self._stop.clear()
        if ready:
            ready(listener.address, self.fingerprint)
        refusals, pause = Seldom(log), 0.0
        while not self._stop.is_set():
            try:
                connection = listener.accept(POLL)
            except CryptogenError as error:  # no file left for it, for instance: at once it would be so again
                refusals.warning("a connection failed: %s", error)
                pause = min(max(2 * pause, SHORTEST_PAUSE), LONGEST_PAUSE)
                self._stop.wait(pause)
                continue
            pause = 0.0
            if connection is None:
                continue
            if not self._strangers.acquire(blocking=False):
                refusals.warning("a connection was refused: %d are waited for to say who they are", MOST_STRANGERS)
                continue
            # daemon: a busy client must not keep the process from ending; stores are crash-safe
            threading.Thread(target=self._client, args=(connection,), daemon=True).start()

    def stop(self) -> None:
        """Makes `serve` return; clients that are connected are served on."""
        self._stop.set()

    def _client(self, connection: _core.ServerConnection) -> None:
        """One client from handshake to goodbye."""
        name, wire, free = "a client", _Replaceable(connection), False
        try:
            try:
                name = connection.welcome(self._access_token)
            finally:
                self._strangers.release()
            free = self._places.acquire(blocking=False)  # not before: who has no access token holds none
            if not free:
                raise Busy(f"{self._max_clients} clients are connected already")
            log.info("%s: connected", name)
            self._session(name, wire)
            log.info("%s: done", name)
        # Text is logged, not the error: who keeps records would keep its frames, and in them a
        # connection that a client waits for the end of.
        except ConnectionLost as error:
            log.info("%s: gone (%s)", name, str(error))
        except CryptogenError as error:
            log.warning("%s: %s: %s", name, type(error).__name__, str(error))
            wire.send_failure(error)
        except Exception:
            log.exception("%s: internal error", name)
            wire.send_failure(CryptogenError("internal error"))
        finally:
            if free:
                self._places.release()

    def _session(self, client: str, wire: _Replaceable) -> None:
        connection: _core.ServerConnection = wire.current
        offer = replace(self.offer, server=server_name(self._secret, client))
        protocol = send_offer(connection, offer, self._documents)
        self.offer.check_protocol(protocol)
        plan_digest = self.offer.documents["plan"]
        connection.agree(self.offer.model, plan_digest, self.offer.tables)
        pair = pair_of(self.offer)
        store = self.folder / "stores" / client / store_name(pair, protocol)
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        endpoint = connection.open(
            self._checked_plan, str(store), client, self.offer.model, plan_digest, False, protocol
        )
        wire.current = endpoint
        backend = ServerBackend(endpoint, self._weights)
        cache = self._cache_file(client, pair) if protocol == ENCRYPTED_CACHE else None
        while True:
            endpoint.set_idle_timeout(self._idle_timeout)  # between two requests a person may be thinking
            message = messages.decode(endpoint.recv_control())
            endpoint.set_idle_timeout(min(self._idle_timeout, 600.0))
            if isinstance(message, messages.Bye):
                return
            if isinstance(message, messages.Forward) and protocol != PREPROCESSED:
                if message.rows > messages.LARGEST_BLOCK:  # their ciphertexts are planned for passes of so many
                    raise ProtocolViolation(f"forward: {message.rows} rows, at most {messages.LARGEST_BLOCK} expected")
            try:
                self._step(endpoint, backend, message, cache)
            except MaterialShort as error:  # the client finds the same, at the same point, and prepares more
                log.info("%s: %s", client, str(error))

    def _cache_file(self, client: str, pair: str) -> Path | None:
        """Where this client's cache is kept, one per model and plan."""
        if self._caches is None:
            return None
        folder = self._caches / client
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{pair}.cache"

    def _step(
        self, endpoint: _core.ServerEndpoint, backend: ServerBackend, message: messages.Message, cache: Path | None
    ) -> None:
        match message:
            case messages.Prepare():
                stock = endpoint.stock()
                for name in POOLS:
                    more, most = getattr(message, name), MOST_EXPONENTIALS if name == "exponentials" else MOST_TOKENS
                    if stock[name] + more > most:
                        raise Refused(f"prepare: {stock[name]} + {more} {name}, at most {most} are kept")
                endpoint.prepare(self._weights, message, None)
            case messages.Begin():
                if self._known is None or endpoint.length or endpoint.ready_rows:
                    raise ProtocolViolation("begin: an empty session and a prefix expected")
                endpoint.put_prefix(self._known.numbers)
            case messages.Extend(rows):
                if endpoint.length == 0 and self.offer.secret_rows:
                    raise ProtocolViolation("extend: a text begins behind the system prompt")
                if endpoint.length + endpoint.ready_rows + rows > self.config.context:
                    raise ProtocolViolation(f"extend: {rows} rows more than the context of {self.config.context}")
                # their attention material lies in memory until they are used
                if (ready := endpoint.ready_rows + rows) > messages.LARGEST_PASS:
                    if attention_bytes(self.config, endpoint.length, ready) > READY_BYTES:
                        raise ProtocolViolation(f"extend: {ready} rows would be ready, more than memory is kept for")
                endpoint.extend(rows)
            case messages.Logits(n):
                # they lie in memory until they are used, so no more than one pass can use
                if (ready := endpoint.ready_logits) + n > messages.LARGEST_BLOCK:
                    raise ProtocolViolation(f"logits: {ready} + {n} rows, at most {messages.LARGEST_BLOCK} are taken")
                endpoint.take_logits(n)
            case messages.Forward(rows, sampled):
                want = want_of(rows, sampled)
                if want is None:
                    raise ProtocolViolation(f"forward: sampled is {sampled}, expected 0, 1 or {rows}")
                parties: Backend[Any] = backend
                forward(parties, self.config, [0] * rows, want)  # only the number of tokens is known here
            case messages.Crop(rows):
                if not self.offer.secret_rows <= rows <= endpoint.length:
                    there = f"{self.offer.secret_rows} to {endpoint.length}"
                    raise ProtocolViolation(f"crop: {rows} rows to keep, expected {there}")
                endpoint.crop(rows)
            case messages.Reset():
                endpoint.reset()
            case messages.Save() | messages.Resume():
                self._keep(endpoint, message, cache)
            case messages.Counters():
                endpoint.send_control(endpoint.counters())

    def _keep(
        self, endpoint: _core.ServerEndpoint, message: messages.Save | messages.Resume, cache: Path | None
    ) -> None:
        """Saves or loads the cache. The client learns whether, the log why not."""
        binding, refused = f"{self.offer.model} {self.offer.documents['plan']}", None
        if isinstance(message, messages.Resume):
            endpoint.reset()
        try:
            if cache is None:
                raise CacheRejected("no cache is kept here for this protocol")
            if isinstance(message, messages.Save):
                endpoint.save_cache(str(cache), binding)
            else:
                endpoint.load_cache(str(cache), binding)
        except CacheRejected as error:
            log.warning("%s", error)
            refused = "no cache is kept here" if cache is None else "the saved cache cannot be used"
        endpoint.send_control(json.dumps({"refused": refused}))
        if refused is None and isinstance(message, messages.Resume):
            endpoint.send_shape()


class Seldom:
    """A log of what may happen many times a second: one line a second, which says how many there
    were."""

    def __init__(self, to: logging.Logger) -> None:
        self._to, self._next, self._left_out = to, 0.0, 0

    def warning(self, text: str, *values: object) -> None:
        """As `Logger.warning`."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        more = f" (and {self._left_out} times before)" if self._left_out else ""
        self._next, self._left_out = now + 1.0, 0
        self._to.warning(f"{text}{more}", *values)


class _Replaceable:
    """The connection, later the endpoint that took it over: where failures are reported."""

    def __init__(self, connection: _core.ServerConnection) -> None:
        self.current: Any = connection

    def send_failure(self, error: CryptogenError) -> None:
        """Tell the peer the kind of failure; the text only where it speaks of the peer's own
        request."""
        text = str(error) if isinstance(error, ProtocolViolation | Refused) else ""
        if isinstance(error, DiskFull):  # where and how much is the server's business
            text = "the server has no disk space left for material"
        try:
            self.current.send_failure(type(error).__name__, text[:200])
        except CryptogenError:
            pass  # the peer is gone: nobody to tell
