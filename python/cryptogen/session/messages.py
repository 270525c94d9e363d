"""What the client asks of the server: small JSON control messages, each followed by one step that
both sides take.

The server answers nothing unless it refuses, or the message says so. Parse, don't validate: an
unknown operation, a missing, extra or ill-typed field, or a number outside its range is a
`ProtocolViolation` and ends the session.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from cryptogen.errors import ProtocolViolation
from cryptogen.models.config import LARGEST

LARGEST_BATCH = 1 << 14  # linears, rows or logits per request
LARGEST_EXPONENTIALS = 1 << 18  # exponentials per request, in pairs of rows
LARGEST_BLOCK = 64  # rows sampled at once, and rows of a pass of the two protocols on ciphertexts
LARGEST_PASS = 128  # rows given a position, or computed, at once


@dataclass(frozen=True)
class Prepare:
    """Single-use material, not bound to a session: records of each pool. Rows spend `linears`."""

    linears: int
    rows: int
    logits: int
    exponentials: int
    op: ClassVar[str] = "prepare"
    limits: ClassVar[dict[str, tuple[int, int]]] = {
        "linears": (0, LARGEST_BATCH),
        "rows": (0, LARGEST_BATCH),
        "logits": (0, LARGEST_BATCH),
        "exponentials": (0, LARGEST_EXPONENTIALS),
    }


@dataclass(frozen=True)
class Begin:
    """An empty session begins with the rows of the server's prefix."""

    op: ClassVar[str] = "begin"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Extend:
    """Positions and attention material for the next rows of the session."""

    rows: int
    op: ClassVar[str] = "extend"
    limits: ClassVar[dict[str, tuple[int, int]]] = {"rows": (1, LARGEST_PASS)}


@dataclass(frozen=True)
class Logits:
    """Material for the logits of `n` rows, out of the store."""

    n: int
    op: ClassVar[str] = "logits"
    limits: ClassVar[dict[str, tuple[int, int]]] = {"n": (1, LARGEST_BLOCK)}


@dataclass(frozen=True)
class Forward:
    """One pass over `rows` new rows, logits of none (0), the last (1) or all of them."""

    rows: int
    sampled: int
    op: ClassVar[str] = "forward"
    limits: ClassVar[dict[str, tuple[int, int]]] = {"rows": (1, LARGEST_PASS), "sampled": (0, LARGEST_BLOCK)}


@dataclass(frozen=True)
class Crop:
    """The session keeps its first `rows` rows and forgets the others: drafted tokens that were not
    accepted."""

    rows: int
    op: ClassVar[str] = "crop"
    limits: ClassVar[dict[str, tuple[int, int]]] = {"rows": (0, LARGEST["context"])}


@dataclass(frozen=True)
class Reset:
    """A new session: empty cache."""

    op: ClassVar[str] = "reset"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Save:
    """The server saves the session's encrypted cache and answers whether it could."""

    op: ClassVar[str] = "save"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Resume:
    """A new session with the rows of the saved cache, if the server answers that it has one."""

    op: ClassVar[str] = "resume"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Counters:
    """The server's counters of operations, which it answers: public, they follow from the shape."""

    op: ClassVar[str] = "counters"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


@dataclass(frozen=True)
class Bye:
    """The client is done."""

    op: ClassVar[str] = "bye"
    limits: ClassVar[dict[str, tuple[int, int]]] = {}


Message = Prepare | Begin | Extend | Logits | Forward | Crop | Reset | Save | Resume | Counters | Bye
_KINDS: dict[str, type[Message]] = {
    "prepare": Prepare, "begin": Begin, "extend": Extend, "logits": Logits, "forward": Forward,
    "crop": Crop, "reset": Reset, "save": Save, "resume": Resume, "counters": Counters, "bye": Bye,
}  # fmt: skip


def encode(message: Message) -> str:
    return json.dumps({"op": message.op} | asdict(message))


def decode(text: str) -> Message:
    """Inverse of `encode`, for text from a peer. `ProtocolViolation`."""
    value = parse_object(text)
    op = value.pop("op", None)
    kind = _KINDS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise ProtocolViolation(f"unknown operation {str(op)[:20]!r}, expected one of {', '.join(_KINDS)}")
    names = {f.name for f in fields(kind)}
    if set(value) != names:
        raise ProtocolViolation(f"{op}: fields {sorted(map(str, value))[:8]}, expected {sorted(names)}")
    for name, (low, high) in kind.limits.items():
        number = value[name]
        if type(number) is not int or not low <= number <= high:
            raise ProtocolViolation(f"{op}: {name} is {str(number)[:20]}, expected an integer in {low}..{high}")
    return kind(**value)


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object from a peer. `ProtocolViolation` for anything else (deep nesting included)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolViolation("a control message is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolViolation(f"a control message is a {type(value).__name__}, expected an object")
    return value
