"""The legacy `.bin` format of llama2.c (export.py, version 0) and its tokenizer file.

Seven little-endian int32 (d, ff, layers, heads, kv heads, vocab, context; vocab negative when the
head is not tied), then float32 tensors in a fixed order, stacked over layers; q and k rows are
interleaved for RoPE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cryptogen.errors import InvalidConfig, MalformedFile, MissingFile, UnsupportedModel, WrongFileSize
from cryptogen.models.config import ModelConfig
from cryptogen.tokens.sentencepiece import Piece, bpe_from_pieces
from cryptogen.tokens.tokenizer import Tokenizer
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.rope import frequencies
from cryptogen.weights.tensors import Array, Stored, Tensors, half_rotated, read_numbers, stacked

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42": versions 1 and 2, other layouts
_BOS, _EOS = 1, 2  # fixed in run.c


def load_bin(path: Path) -> Checkpoint:
    """Read weights, and `tok{vocab}.bin` or `tokenizer.bin` beside them if present."""
    if not path.exists():
        raise MissingFile(path, "llama2.c weights")
    config = _read_config(path)
    stacks = _stacks(config)
    expected = _HEADER.size + 4 * sum(int(np.prod(shape)) for _, shape in stacks)
    if (actual := path.stat().st_size) != expected:
        raise WrongFileSize(path, expected, actual)
    raw, at = {}, _HEADER.size
    for name, shape in stacks:
        raw[name] = _Stack(path, shape, at)
        at += 4 * int(np.prod(shape))
    found = (path.with_name(n) for n in (f"tok{config.vocab}.bin", "tokenizer.bin"))
    tokenizer = next((read_tokenizer(p, config.vocab) for p in found if p.exists()), None)
    tensors = Tensors(_tensors(raw, config), path)
    return Checkpoint(config, tensors, tokenizer, path, _BOS, _EOS, frozenset({_BOS, _EOS}))


def _read_config(path: Path) -> ModelConfig:
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise WrongFileSize(path, _HEADER.size, len(header))
    d, ff, layers, heads, kv_heads, vocab, context = _HEADER.unpack(header)
    if d == _VERSIONED:
        raise UnsupportedModel("llama2.c export version", ff, ["0 (legacy)"])
    if heads < 1 or d % heads:
        raise InvalidConfig("n_heads", f"a divisor of dim = {d}", heads)
    return ModelConfig(
        layers=layers, d=d, heads=heads, kv_heads=kv_heads, head_dim=d // heads, ff=ff, gated=True, norm="rms",
        parallel=False, rope=frequencies(1e4, d // heads), unrotated=(), vocab=abs(vocab), context=context,
        norm_eps=1e-5, activation="silu", tied=vocab > 0,
    )  # fmt: skip


def _stacks(c: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of everything after the header, in file order."""
    n = c.layers
    stacks: list[tuple[str, tuple[int, ...]]] = [
        ("embed", (c.vocab, c.d)), ("attn_norm", (n, c.d)), ("q", (n, c.q_width, c.d)), ("k", (n, c.kv_width, c.d)),
        ("v", (n, c.kv_width, c.d)), ("o", (n, c.d, c.q_width)), ("mlp_norm", (n, c.d)), ("gate", (n, c.ff, c.d)),
        ("down", (n, c.d, c.ff)), ("up", (n, c.ff, c.d)), ("final_norm", (c.d,)),
        ("rope_cos", (c.context, c.head_dim // 2)), ("rope_sin", (c.context, c.head_dim // 2)),
    ]  # fmt: skip
    return stacks if c.tied else [*stacks, ("head", (c.vocab, c.d))]


@dataclass(frozen=True)
class _Stack:
    """Tensors of one kind, of all layers one behind the other."""

    path: Path
    shape: tuple[int, ...]
    offset: int

    def whole(self) -> Stored:
        return Stored(self.shape, partial(_numbers, self.path, self.shape, self.offset))

    def layer(self, i: int) -> Stored:
        shape = self.shape[1:]
        return Stored(shape, partial(_numbers, self.path, shape, self.offset + 4 * i * int(np.prod(shape))))


def _numbers(path: Path, shape: tuple[int, ...], offset: int) -> Array:
    return np.ascontiguousarray(read_numbers(path, "<f4", shape, offset), dtype=np.float32)


def _tensors(raw: dict[str, _Stack], c: ModelConfig) -> dict[str, Stored]:
    out = {"embed": raw["embed"].whole(), "final_norm.gain": raw["final_norm"].whole()}
    for i in range(c.layers):
        q, k = half_rotated(raw["q"].layer(i), c.heads), half_rotated(raw["k"].layer(i), c.kv_heads)
        out[f"layers.{i}.attn_norm.gain"] = raw["attn_norm"].layer(i)
        out[f"layers.{i}.mlp_norm.gain"] = raw["mlp_norm"].layer(i)
        out[f"layers.{i}.qkv.weight"] = stacked(q, k, raw["v"].layer(i))
        out[f"layers.{i}.o.weight"] = raw["o"].layer(i)
        out[f"layers.{i}.up.weight"] = stacked(raw["gate"].layer(i), raw["up"].layer(i))
        out[f"layers.{i}.down.weight"] = raw["down"].layer(i)
    if not c.tied:
        out["head.weight"] = raw["head"].whole()
    return out


def read_tokenizer(path: Path, vocab: int) -> Tokenizer:
    """`tokenizer.bin`: the longest piece's length, then per token a float32 score, an int32 length
    and its bytes."""
    data, at, pieces = path.read_bytes(), 4, []
    for token in range(vocab):
        if at + 8 > len(data):
            raise WrongFileSize(path, at + 8, len(data))
        score, size = struct.unpack_from("<fi", data, at)
        at += 8
        if size < 0 or at + size > len(data):
            raise MalformedFile(path, f"token {token}: length {size}, {len(data) - at} bytes left")
        try:
            text = data[at : at + size].decode("utf-8")
        except UnicodeDecodeError as e:
            raise MalformedFile(path, f"token {token} is not UTF-8") from e
        at += size
        special = token in (_BOS, _EOS)
        text = text.strip("\n") if special else text.replace(" ", "▁")  # written for printing: undo
        pieces.append(Piece(text, score, special))
    if at != len(data):
        raise WrongFileSize(path, at, len(data))
    return Tokenizer(bpe_from_pieces(pieces, unknown=0, bos=_BOS, space_prefix=True))
