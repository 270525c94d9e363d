"""Reference backend: the decoder in float32 numpy, with a KV cache. Everything else is measured
against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.config import ModelConfig
from cryptogen.models.functions import ACTIVATIONS
from cryptogen.weights.canonical import Canonical
from cryptogen.weights.checkpoint import Checkpoint

Array = NDArray[np.float32]
Observer = Callable[[str, Array], None]


class FloatBackend:
    """Implements `Backend[Array]` on an ordinary `Checkpoint` or on the rewritten `Canonical`
    weights.

    `observe(name, value)`, if given, sees every intermediate value (for calibration): `embed` [T,
    d], each norm site's *input* [T, d], each linear site's output [T, d_out], `layers.{i}.scores`
    once per query head, in order, [T, L] with masked entries −inf, `layers.{i}.rope` the rotated
    q | k [T, q_width + kv_width], `layers.{i}.act` [T, ff].
    """

    def __init__(self, model: Checkpoint | Canonical, observe: Observer | None = None) -> None:
        self.config: ModelConfig = model.config
        self._model, self._weights = model, _Weights(model)
        self._observe = observe or (lambda name, value: None)
        self._start = self._end = 0  # rows of the current call
        self._keys: list[Array] = [_no_rows(self.config) for _ in range(self.config.layers)]
        self._values: list[Array] = [_no_rows(self.config) for _ in range(self.config.layers)]

    @property
    def position(self) -> int:
        return self._end

    def embed(self, tokens: Sequence[int], sampled: int) -> Array:
        self._start, self._end = self._end, self._end + len(tokens)
        h: Array = self._weights.embed[np.asarray(tokens)]  # [T, d]
        if (pos := self._weights.pos) is not None:
            h = h + pos[self._start : self._end]
        self._observe("embed", h)
        return h

    def crop(self, rows: int) -> None:
        """Forgets all rows but the first `rows`."""
        self._end = min(self._end, rows)
        self._keys = [keys[:rows] for keys in self._keys]
        self._values = [values[:rows] for values in self._values]

    def norm(self, h: Array, site: str) -> Array:
        self._observe(site, h)
        gain, bias = self._weights.norm(site)
        wide = h.astype(np.float64)  # the residual stream has rows 10^4 times larger than others
        if self._weights.centred:
            wide -= wide.mean(axis=-1, keepdims=True)
        x = wide / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + self.config.norm_eps)
        if gain is not None:
            x *= gain
        if bias is not None:
            x += bias
        return np.asarray(x, dtype=np.float32)  # [T, d]

    def linear(self, x: Array, site: str) -> Array:
        weight, bias = self._weights.linear(site)
        y = x @ weight.T  # [T, d_out]
        if bias is not None:
            y += bias
        self._observe(site, y)
        return y

    def attention(self, qkv: Array, layer: int) -> Array:
        c, rows = self.config, len(qkv)
        q, k, v = np.split(qkv, [c.q_width, c.q_width + c.kv_width], axis=-1)
        q, k = q.reshape(rows, c.heads, c.head_dim), k.reshape(rows, c.kv_heads, c.head_dim)
        if c.rotates(layer):
            q, k = (rotate(x, self._start, c.rope) for x in (q, k))
            self._observe(f"layers.{layer}.rope", np.concatenate([q.reshape(rows, -1), k.reshape(rows, -1)], axis=1))
        self._keys[layer] = np.concatenate([self._keys[layer], k])  # [L, kv_heads, head_dim]
        self._values[layer] = np.concatenate([self._values[layer], v.reshape(k.shape)])
        hidden = np.arange(self._end)[None, :] > np.arange(self._start, self._end)[:, None]  # [T, L]
        out = np.empty((rows, c.heads, c.head_dim), dtype=np.float32)
        for g in range(c.heads):
            kv = g // c.queries_per_kv_head
            keys, values = self._keys[layer][:, kv], self._values[layer][:, kv]
            scores = (q[:, g] @ keys.T) * self._weights.score_scale  # [T, L]
            scores[hidden] = -np.inf
            self._observe(f"layers.{layer}.scores", scores)
            e = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, g] = (e / e.sum(axis=-1, keepdims=True)) @ values
        return out.reshape(rows, c.q_width)  # [T, q_width]

    def activation(self, u: Array, layer: int) -> Array:
        act = ACTIVATIONS[self.config.activation]
        x = act(u[:, : self.config.ff]) * u[:, self.config.ff :] if self.config.gated else act(u)
        self._observe(f"layers.{layer}.act", x)
        return x  # [T, ff]

    def add(self, h: Array, y: Array) -> Array:
        return h + y

    def last(self, h: Array) -> Array:
        return h[-1:]

    def logits(self, x: Array) -> Array:
        return self.linear(x, "head")


def rotate(x: NDArray[Any], start: int, rope: Sequence[float]) -> Array:
    """RoPE in the half-rotation layout: rows `start…` of x [T, heads, head_dim], pairs (i, i +
    head_dim/2).

    `x'_i = x_i cos φ − x_{i+n} sin φ`, `x'_{i+n} = x_{i+n} cos φ + x_i sin φ`, `φ = t·rope_i`,
    n = head_dim/2 (Su et al. 2021).
    """
    cos, sin = rope_table(start, start + len(x), rope)  # [T, n]
    cos, sin = cos[:, None, :], sin[:, None, :]
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).astype(np.float32)


def rope_table(start: int, stop: int, rope: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cos φ and sin φ of positions start..stop−1, float64, [stop − start, head_dim/2] each."""
    angle = np.arange(start, stop, dtype=np.float64)[:, None] * np.array(rope)
    return np.cos(angle), np.sin(angle)


class _Weights:
    """One view on both kinds of weights: what differs is the norm, the score scale and where the
    biases are."""

    def __init__(self, model: Checkpoint | Canonical) -> None:
        self._model = model
        canonical = isinstance(model, Canonical)
        self.centred = not canonical and model.config.norm == "layer"
        self.score_scale = np.float32(1.0 if canonical else model.config.head_dim**-0.5)
        # A pass reads every tensor: an ordinary checkpoint's stay in memory.
        self._tensors: Mapping[str, Array] = {} if isinstance(model, Canonical) else model.held

    @property
    def embed(self) -> Array:
        return self._model.embed if isinstance(self._model, Canonical) else self._tensors["embed"]

    @property
    def pos(self) -> Array | None:
        return self._model.pos if isinstance(self._model, Canonical) else self._tensors.get("pos")

    def norm(self, site: str) -> tuple[Array | None, Array | None]:
        if isinstance(self._model, Canonical):
            return None, None
        return self._tensors[f"{site}.gain"], self._tensors.get(f"{site}.bias")

    def linear(self, site: str) -> tuple[Array, Array | None]:
        if isinstance(self._model, Canonical):
            return self._model.weight[site], self._model.bias[site]
        if site == "head":
            return self._tensors[self._model.head_name], self._tensors.get("head.bias")
        return self._tensors[f"{site}.weight"], self._tensors.get(f"{site}.bias")


def _no_rows(config: ModelConfig) -> Array:
    return np.empty((0, config.kv_heads, config.head_dim), dtype=np.float32)
