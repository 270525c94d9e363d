"""What the server tells a new client: everything public about its model. The client checks all of
it.

1. S→C offer: shape, digests (integer weights, tables, documents), stop tokens, prefix.
2. C→S which documents it lacks: the plan, the tokenizer, the chat template (it keeps them, by
   digest); which protocol it will use.
3. S→C those documents, compressed, in pieces below the limit of a control message.
4. Both: `agree` on the digests; the client's tables are its own, made from the plan.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cryptogen.errors import CryptogenError, InputError, ProtocolViolation, UnknownProtocol
from cryptogen.models.config import ModelConfig
from cryptogen.numerics.plan import NumericPlan
from cryptogen.paths import write_private
from cryptogen.protocols import PREPROCESSED, check_protocol

from .messages import parse_object
from .prefix import Prefix

VERSION = 5
DOCUMENTS = ("plan", "tokenizer", "chat")
LARGEST_DOCUMENT = 64 << 20
PIECE = 600_000  # compressed bytes per control message (limit 1 MiB, base64 adds a third)


class Wire(Protocol):
    """A connection or an endpoint."""

    def send_control(self, json: str) -> None: ...
    def recv_control(self) -> str: ...


@dataclass(frozen=True)
class Offer:
    """The public description of a served model."""

    config: ModelConfig
    model: str  # SHA-256 of the integer weights
    tables: str
    stop: frozenset[int]
    documents: dict[str, str]  # name → SHA-256
    prefix: Prefix | None  # rows that texts may begin with for nothing, or that all stand behind
    server: str = "0" * 64  # what this server calls itself to this client: see `server_name`

    @property
    def secret_rows(self) -> int:
        """Rows that every text stands behind and of which the client knows the number alone."""
        return self.prefix.rows if self.prefix and self.prefix.secret else 0

    def check_protocol(self, protocol: str) -> None:
        """Refuses a protocol in which the server's system prompt would be left out.
        `InputError`."""
        if self.secret_rows and protocol != PREPROCESSED:
            raise InputError(
                f"protocol {protocol}: this server puts a system prompt of its own before every text, "
                f"which only {PREPROCESSED} can"
            )

    def to_json(self) -> str:
        return json.dumps(
            {
                "version": VERSION,
                "config": self.config.as_dict(),
                "model": self.model,
                "tables": self.tables,
                "stop": sorted(self.stop),
                "documents": self.documents,
                "prefix": asdict(self.prefix) if self.prefix else None,
                "server": self.server,
            }
        )

    @staticmethod
    def from_json(text: str) -> Offer:
        """`ProtocolViolation` unless every field is there and well-formed."""
        value = parse_object(text)
        names = {"version", "config", "model", "tables", "stop", "documents", "prefix", "server"}
        if set(value) != names or value["version"] != VERSION:
            got = str(value.get("version"))[:20]
            raise ProtocolViolation(f"offer: version {got}, expected {VERSION} with {sorted(names)}")
        try:
            config = ModelConfig.from_dict(value["config"])
        except (CryptogenError, TypeError, AttributeError) as e:
            raise ProtocolViolation(f"offer: {e}") from None
        documents = value["documents"]
        if not isinstance(documents, dict) or not {"plan"} <= set(documents) <= set(DOCUMENTS):
            raise ProtocolViolation(f"offer: documents expected: plan, maybe others; got {str(documents)[:40]}")
        if "chat" in documents and "tokenizer" not in documents:
            raise ProtocolViolation("offer: a chat template without a tokenizer")
        for name in ("model", "tables", "server"):
            _digest(name, value[name])
        for name, digest in documents.items():
            _digest(name, digest)
        stop = value["stop"]
        if not isinstance(stop, list) or len(stop) > 64 or any(not _token(t, config) for t in stop):
            raise ProtocolViolation("offer: stop is not a list of at most 64 token ids")
        prefix = _prefix(value["prefix"], config)
        return Offer(config, value["model"], value["tables"], frozenset(stop), documents, prefix, value["server"])


def public_plan(plan: NumericPlan) -> NumericPlan:
    """The plan without the record of its calibration, which the protocol does not need."""
    return replace(plan, statistics={})


def server_name(secret: bytes, client: str) -> str:
    """What a server calls itself to a client, whatever certificate, address or name of a host leads
    to it: HMAC-SHA256 of the client's name. The client's material belongs to that name. Nobody who
    has not seen it can take it: other clients are told other ones."""
    return hmac.new(secret, client.encode(), hashlib.sha256).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_offer(
    config: ModelConfig,
    stop: frozenset[int],
    digests: tuple[str, str],
    documents: dict[str, bytes],
    prefix: Prefix | None,
) -> Offer:
    """`digests`: of the integer weights and of the tables."""
    return Offer(config, *digests, stop, {name: sha256(data) for name, data in documents.items()}, prefix)


def send_offer(wire: Wire, offer: Offer, documents: dict[str, bytes]) -> str:
    """The server's side of steps 1 to 3. Returns the protocol that the client chose."""
    wire.send_control(offer.to_json())
    answer = parse_object(wire.recv_control())
    wanted = answer.get("want")
    try:
        protocol = check_protocol(answer.get("protocol"))
    except UnknownProtocol as error:
        raise ProtocolViolation(str(error)) from None
    if not isinstance(wanted, list) or len(wanted) > len(documents) or any(name not in documents for name in wanted):
        raise ProtocolViolation(f"wanted documents {str(wanted)[:40]}, expected some of {sorted(documents)}")
    for name in wanted:
        packed = zlib.compress(documents[name], 6)
        pieces = [packed[i : i + PIECE] for i in range(0, len(packed), PIECE)]
        for i, piece in enumerate(pieces):
            data = base64.b64encode(piece).decode()
            wire.send_control(json.dumps({"document": name, "left": len(pieces) - 1 - i, "data": data}))
    return protocol


def pair_of(offer: Offer) -> str:
    """The name, in a client's folder at the server, of what belongs to this model and plan."""
    return sha256(f"{offer.model} {offer.documents['plan']}".encode())[:32]


def receive_offer(wire: Wire, cache: Path, protocol: str = PREPROCESSED) -> tuple[Offer, dict[str, bytes]]:
    """The client's side of steps 1 to 3; documents are kept in `cache` under their digest."""
    offer = Offer.from_json(wire.recv_control())
    offer.check_protocol(protocol)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {name: data for name, digest in offer.documents.items() if (data := _cached(cache / digest, digest))}
    wanted = [name for name in offer.documents if name not in found]
    wire.send_control(json.dumps({"want": wanted, "protocol": protocol}))
    for name in wanted:
        data = _receive(wire, name)
        if sha256(data) != offer.documents[name]:
            raise ProtocolViolation(f"{name}: SHA-256 {offer.documents[name]} announced, {sha256(data)} received")
        write_private(cache / offer.documents[name], data)
        found[name] = data
    return offer, found


def _cached(path: Path, digest: str) -> bytes | None:
    data = path.read_bytes() if path.exists() else None
    return data if data is not None and sha256(data) == digest else None


def _receive(wire: Wire, name: str) -> bytes:
    unpack, out, before = zlib.decompressobj(), bytearray(), LARGEST_DOCUMENT // PIECE + 2
    while before:
        piece = parse_object(wire.recv_control())
        left, data = piece.get("left"), piece.get("data")
        if piece.get("document") != name or not isinstance(left, int) or not isinstance(data, str):
            raise ProtocolViolation(f"a piece of the {name} expected")
        if not 0 <= left < before:
            raise ProtocolViolation(f"{name}: {left} pieces left, fewer than {before} expected")
        try:
            out += unpack.decompress(base64.b64decode(data, validate=True), LARGEST_DOCUMENT + 1 - len(out))
        except (ValueError, zlib.error):
            raise ProtocolViolation(f"{name}: a piece is not compressed data") from None
        if len(out) > LARGEST_DOCUMENT:
            raise ProtocolViolation(f"{name}: more than {LARGEST_DOCUMENT} bytes")
        before = left
    return bytes(out)


def _digest(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ProtocolViolation(f"offer: {name} is not a SHA-256 in hexadecimal digits")


def _prefix(value: Any, config: ModelConfig) -> Prefix | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"rows", "digest"}:
        raise ProtocolViolation("offer: prefix is not null, nor rows with a digest")
    rows, digest = value["rows"], value["digest"]
    if type(rows) is not int or not 0 < rows < config.context:
        raise ProtocolViolation(f"offer: prefix of {str(rows)[:20]} rows, expected 1 to {config.context - 1}")
    if digest is not None:
        _digest("prefix", digest)
    return Prefix(rows, digest)


def _token(value: Any, config: ModelConfig) -> bool:
    return type(value) is int and 0 <= value < config.vocab
