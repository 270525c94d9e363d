"""From a file's tensors to those of a `Checkpoint`: names, the order of rows, and constants by
which a family multiplies, which are folded into the weights as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.config import ModelConfig
from cryptogen.weights.reader import TensorReader
from cryptogen.weights.rope import Rotation, head_rows
from cryptogen.weights.tensors import Stored, adjusted, stacked, transposed


@dataclass(frozen=True)
class Names:
    """What a file calls the tensors of a decoder, without `.weight` and `.bias`; `{}` is the number
    of the layer."""

    embed: str
    attn_norm: str
    mlp_norm: str
    qkv: tuple[str, ...]  # one matrix, or queries, keys and values
    o: str
    up: tuple[str, ...]  # one matrix, or gate and up
    down: str
    final_norm: str
    heads: tuple[str, ...] = ("lm_head",)  # of which the file has one, unless tied
    pos: str = ""
    prefixes: tuple[str, ...] = ("",)  # of all but the head; the first under which there is an embedding


@dataclass(frozen=True)
class Layout:
    """How a file holds the decoder of a configuration."""

    config: ModelConfig
    names: Names
    tied: bool  # the file's head is its embedding
    biased: frozenset[str] = frozenset()  # of norm, qkv, o, up, down, head: those that have biases
    rotation: Rotation = field(default_factory=lambda: Rotation(()))
    interleaved: bool = False  # pairs that turn are neighbours
    grouped: bool = False  # qkv has the queries of a key head, its key and its value, then the next key head's
    transposed: bool = False  # matrices are [d_in, d_out]
    first_position: int = 0  # rows of positions that no token has
    score_scale: float | None = None  # of scores, if not head_dim^-1/2
    embed_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and MLP add
    logit_scale: float = 1.0
    gain: float = 0.0  # is added to the gains of norms

    def tensors(self, reader: TensorReader) -> dict[str, Stored]:
        """All that a `Checkpoint` of this configuration needs. `MissingTensor`,
        `TensorMismatch`."""
        c, n = self.config, self.names
        prefix = next((p for p in n.prefixes if f"{p}{n.embed}.weight" in reader), n.prefixes[0])
        embed = reader.take(f"{prefix}{n.embed}.weight", c.vocab, c.d)
        out = {"embed": adjusted(embed, self.embed_scale)}
        if n.pos:
            positions = reader.take(f"{prefix}{n.pos}.weight", c.context + self.first_position, c.d)
            out["pos"] = adjusted(positions, rows=np.arange(c.context) + self.first_position)
        for site, name in self._norms():
            out[f"{site}.gain"] = adjusted(reader.take(f"{prefix}{name}.weight", c.d), offset=self.gain)
            if "norm" in self.biased:
                out[f"{site}.bias"] = reader.take(f"{prefix}{name}.bias", c.d)
        for i in range(c.layers):
            for kind, parts in (("qkv", n.qkv), ("o", (n.o,)), ("up", n.up), ("down", (n.down,))):
                site, names = f"layers.{i}.{kind}", [prefix + part.format(i) for part in parts]
                out |= self._linear(reader, site, kind, names)
        if c.tied:
            for head in n.heads:
                reader.skip(f"{head}.weight")  # some files repeat the embedding
        else:
            out |= self._head(reader, embed)
        return out

    def _norms(self) -> Iterator[tuple[str, str]]:
        for i in range(self.config.layers):
            yield f"layers.{i}.attn_norm", self.names.attn_norm.format(i)
            yield f"layers.{i}.mlp_norm", self.names.mlp_norm.format(i)
        yield "final_norm", self.names.final_norm

    def _linear(self, reader: TensorReader, site: str, kind: str, names: list[str]) -> dict[str, Stored]:
        c = self.config
        d_out, d_in = c.linear_shapes()[site]
        split = {"qkv": (c.q_width, c.kv_width, c.kv_width), "up": (c.ff, c.ff)}
        widths = (d_out,) if len(names) == 1 else split[kind]
        rows, scale = (self._order(), self._scales()) if kind == "qkv" else (None, np.ones(1, np.float32))
        if kind in ("o", "down"):
            scale = scale * np.float32(self.residual_scale)

        def matrix(name: str, width: int) -> Stored:
            if self.transposed:
                return transposed(reader.take(f"{name}.weight", d_in, width))
            return reader.take(f"{name}.weight", width, d_in)

        def joined(part: Callable[[str, int], Stored]) -> Stored:
            parts = [part(name, width) for name, width in zip(names, widths, strict=True)]
            return adjusted(stacked(*parts) if len(parts) > 1 else parts[0], scale, rows)

        out = {f"{site}.weight": joined(matrix)}
        if kind in self.biased:
            out[f"{site}.bias"] = joined(lambda name, width: reader.take(f"{name}.bias", width))
        return out

    def _head(self, reader: TensorReader, embed: Stored) -> dict[str, Stored]:
        c, scale = self.config, self.logit_scale
        name = next((head for head in self.names.heads if f"{head}.weight" in reader), self.names.heads[0])
        if self.tied:
            reader.skip(f"{name}.weight")
        weight = embed if self.tied else reader.take(f"{name}.weight", c.vocab, c.d)
        out = {"head.weight": adjusted(weight, scale)}
        if "head" in self.biased:
            out["head.bias"] = adjusted(reader.take(f"{name}.bias", c.vocab), scale)
        return out

    def _order(self) -> NDArray[np.int64] | None:
        """Where the file has each row of q | k | v, [qkv_width]; None if in this order."""
        c = self.config
        rows = np.arange(c.qkv_width)
        if self.grouped:
            of_group = rows.reshape(c.kv_heads, c.queries_per_kv_head + 2, c.head_dim)
            rows = np.concatenate([of_group[:, part].reshape(-1) for part in (np.s_[:-2], -2, -1)])
        turned = rows[: c.q_width + c.kv_width].reshape(-1, c.head_dim)
        order = head_rows(c.head_dim, self.rotation.width, self.interleaved) if c.rope else np.arange(c.head_dim)
        rows = np.concatenate([turned[:, order].reshape(-1), rows[c.q_width + c.kv_width :]])
        return None if np.array_equal(rows, np.arange(c.qkv_width)) else rows

    def _scales(self) -> NDArray[np.float32]:
        """What rows of q | k | v, in this package's order, are multiplied by, [qkv_width]."""
        c = self.config
        head, scales = np.ones((2, c.head_dim // 2)), np.ones(c.qkv_width)
        head[:, : len(self.rotation.frequencies)] = self.rotation.scale
        scales[: c.q_width + c.kv_width] = np.tile(head.reshape(-1), c.heads + c.kv_heads) if c.rope else 1.0
        if self.score_scale is not None:
            scales[: c.q_width] *= self.score_scale * c.head_dim**0.5
        return scales.astype(np.float32)
