"""tokenizer.model: SentencePiece's own file, a protocol buffer (sentencepiece_model.proto)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import tokenizers

from cryptogen.errors import MalformedFile, UnsupportedModel
from cryptogen.tokens.sentencepiece import Piece, bpe_from_pieces

_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


def read_model(path: Path, add_bos: bool, first_only: bool) -> tokenizers.Tokenizer:
    """`add_bos`: texts begin with the begin-of-sequence token, if there is one. `first_only`: as in
    `bpe_from_pieces`.

    Raises:
        MalformedFile: Not such a file.
        UnsupportedModel: Another kind than BPE, or one that rewrites text before.
    """
    try:
        parts = list(_fields(path.read_bytes()))
        pieces = [_piece(bytes_of(value)) for number, value in parts if number == 1]
        trainer = dict(_fields(b"".join(bytes_of(value) for number, value in parts if number == 2)))
        normalizer = dict(_fields(b"".join(bytes_of(value) for number, value in parts if number == 3)))
    except (IndexError, ValueError, struct.error) as e:
        raise MalformedFile(path, f"not a SentencePiece model ({e})") from None
    if not pieces:
        raise MalformedFile(path, "not a SentencePiece model (it has no pieces)")
    if (kind := trainer.get(3, 1)) != _BPE:
        raise UnsupportedModel("tokenizer.model model_type", kind, ["2 (BPE)"])
    if normalizer.get(2, b"") != b"":
        raise UnsupportedModel("tokenizer.model normalizer", bytes_of(normalizer.get(1, b"")).decode(), ["identity"])
    if normalizer.get(4, 1) not in (0, False):
        raise UnsupportedModel("tokenizer.model remove_extra_whitespaces", True, [False])
    control = {p.text: i for i, p in enumerate(pieces) if p.special}
    bos = trainer.get(41, 1)
    named = isinstance(bos, int) and 0 <= bos < len(pieces) and pieces[bos].text in control
    unknown = trainer.get(40, 0)
    return bpe_from_pieces(
        pieces,
        unknown if isinstance(unknown, int) else 0,
        bos if add_bos and named and isinstance(bos, int) else None,
        bool(normalizer.get(3, 1)),
        first_only,
    )


def bytes_of(value: int | bytes) -> bytes:
    """A field's bytes; `ValueError` if it is a number."""
    if isinstance(value, int):
        raise ValueError("bytes expected, a number found")
    return value


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", bytes_of(fields.get(2, bytes(4))))
    kind = fields.get(3, 1)
    return Piece(bytes_of(fields[1]).decode(), score, kind in (_UNKNOWN, _CONTROL), kind == _USER)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field of a message: a whole number, or bytes."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        match tag & 7:
            case 0:
                value, at = _number(data, at)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _number(data, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"field of kind {kind}")
        if at + size > len(data):
            raise ValueError(f"{size} bytes expected, {len(data) - at} left")
        yield tag >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number in pieces of 7 bits, and where it ends."""
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
