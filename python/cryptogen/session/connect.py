"""How a client's session opens: who answers, what it serves, and which store belongs to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryptogen import _core
from cryptogen.errors import (
    ChatTemplateError,
    ConnectionFailed,
    DiskFull,
    MaterialMismatch,
    PlanError,
    ProtocolViolation,
    StoreError,
)
from cryptogen.numerics.plan import ModelShape, NumericPlan, tables, tables_digest
from cryptogen.paths import KnownServers, client_id, data_folder
from cryptogen.protocols import store_name
from cryptogen.tokens import ChatTemplate, Tokenizer

from .offer import Offer, pair_of, receive_offer
from .trust import Trust


@dataclass(frozen=True)
class Opened:
    """A session that both parties have agreed on."""

    endpoint: _core.ClientEndpoint
    offer: Offer
    numeric_plan: NumericPlan
    checked_plan: _core.CheckedPlan
    tokenizer: Tokenizer | None
    record: Path  # of a saved session with this server, if there is one


class Connector:
    """Whom a client calls, and what it keeps on disk for that."""

    def __init__(
        self, address: str, trust: Trust, data_dir: str | Path | None, name: str | None, resync: bool, protocol: str
    ) -> None:
        self._address, self._trust, self._resync, self._protocol = address, trust, resync, protocol
        self._folder = data_folder("client", data_dir)
        self._name = name or client_id(self._folder)
        self._known = KnownServers(self._folder)

    def open(self) -> Opened:
        """Errors: `ConnectionFailed`, `WrongFingerprint`, `WrongAccessToken`, `VersionMismatch`,
        `AgreementMismatch`, `MaterialMismatch`, `StoreError`, `StoreLocked`, `ProtocolViolation`,
        `PlanError`."""
        if not re.fullmatch(r".+:[0-9]{1,5}", self._address):
            raise ConnectionFailed(f"server {self._address[:80]!r}: host:port expected, such as server.example:7766")
        fingerprint = self._trust.pinned(self._address, self._known)
        try:
            connection = _core.ClientConnection.connect(self._address, fingerprint, self._trust.ca_file)
        except ConnectionFailed as error:
            if self._address in str(error):
                raise
            raise ConnectionFailed(f"{self._address}: {error}") from None
        connection.hello(self._name, self._trust.access_token)
        if fingerprint is not None:
            self._known.put(self._address, fingerprint)  # the server has just proved to own it
        shown = fingerprint or f"certified:{self._address}"
        # One folder per server: what the client does not ask for says which documents it has.
        of_peer = hashlib.sha256(shown.encode()).hexdigest()[:32]
        offer, documents = receive_offer(connection, self._folder / "documents" / of_peer, self._protocol)
        numeric, made = _received_plan(offer, documents["plan"])
        model, digest = offer.model, offer.documents["plan"]
        connection.agree(model, digest, tables_digest(made))
        checked = _core.CheckedPlan(numeric.to_json(), made)
        stores = self._folder / "stores"
        stores.mkdir(exist_ok=True, mode=0o700)
        peer, earlier = f"server:{offer.server}", self._store_of(shown, offer)
        if (stores / earlier).exists() and not (stores / self._store_of(peer, offer)).exists():
            peer = shown  # what versions before this one went by: its material is used on
        name = self._store_of(peer, offer)
        try:
            endpoint = connection.open(checked, str(stores / name), peer, model, digest, self._resync, self._protocol)
        except MaterialMismatch as error:
            raise MaterialMismatch(f"{error} (after a crash: resync; {self._anew(stores / name, offer)})") from None
        except StoreError as error:
            if isinstance(error, DiskFull):
                raise
            raise StoreError(f"{error} ({self._anew(stores / name, offer)})") from None
        record = self._folder / "sessions" / f"{name}.json"
        return Opened(endpoint, offer, numeric, checked, _tokenizer(documents), record)

    def _store_of(self, peer: str, offer: Offer) -> str:
        """The folder of the material for a model of a peer's. The peer is the server that made it,
        whatever certificate or address leads to it (`server_name`)."""
        whole = f"{peer} {self._name} {offer.model} {offer.documents['plan']}"
        return store_name(hashlib.sha256(whole.encode()).hexdigest()[:32], self._protocol)

    def _anew(self, store: Path, offer: Offer) -> str:
        """How to lose this pair's material and no other's: both parties' part of it has to go."""
        theirs = store_name(pair_of(offer), self._protocol)
        return (
            f"if a store is lost or damaged, start this pair anew: remove {store} here and "
            f"stores/{self._name}/{theirs} in the server's folder"
        )


def _received_plan(offer: Offer, document: bytes) -> tuple[NumericPlan, list[NDArray[np.int64]]]:
    """The server's plan and its tables, which this client makes itself."""
    try:
        plan = NumericPlan.from_json(document.decode())
        if plan.model != (expected := ModelShape.of(offer.config)):
            raise PlanError("model", expected, plan.model)
        return plan, tables(plan)
    except (UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise ProtocolViolation(f"the server's plan cannot be read ({type(error).__name__})") from None


def _tokenizer(documents: Mapping[str, bytes]) -> Tokenizer | None:
    if "tokenizer" not in documents:
        return None
    text = documents["tokenizer"].decode("utf-8", errors="replace")
    chat = documents.get("chat")
    try:
        template = ChatTemplate.from_json(chat.decode("utf-8", errors="replace")) if chat is not None else None
    except ChatTemplateError as error:
        raise ProtocolViolation(f"the server's {error}") from None
    return Tokenizer.from_json(text, source="the server's tokenizer").with_chat(template)
