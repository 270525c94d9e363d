"""What a model's activations look like on public text: the ranges that calibration turns into
windows and shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.backends.float import FloatBackend
from cryptogen.models.config import ModelConfig
from cryptogen.models.decoder import forward
from cryptogen.numerics.anchors import ANCHORS, anchor_rows
from cryptogen.weights.canonical import Canonical

Array = NDArray[Any]
ROWS = 128  # of scores at a time


@dataclass
class Extent:
    """Range and mean absolute value of everything added."""

    low: float = 0.0
    high: float = 0.0
    total: float = 0.0
    count: int = 0

    def add(self, values: Array) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.total += float(np.abs(values).sum(dtype=np.float64))
        self.count += values.size

    def merge(self, other: Extent) -> None:
        """As if everything that the other has seen had been added here."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total, self.count = self.total + other.total, self.count + other.count

    @property
    def largest(self) -> float:
        return max(-self.low, self.high)

    @property
    def mean(self) -> float:
        return self.total / max(self.count, 1)


@dataclass
class Rows:
    """Per-row figures, one array per window."""

    chunks: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, values: NDArray[np.float64]) -> None:
        self.chunks.append(values)

    def merge(self, other: Rows) -> None:
        self.chunks += other.chunks

    @property
    def all(self) -> NDArray[np.float64]:
        return np.concatenate(self.chunks)


@dataclass
class Anchored:
    """Scores of one head relative to one anchor (A5.5a), over rows ≥ 1. Nats."""

    low: float = np.inf
    high: float = -np.inf
    chunks: list[Array] = field(default_factory=list)  # log Σ_j exp(x_j) of each row

    def add(self, level: Array, low: Array, high: Array, log_sum: Array) -> Array:
        """Each row's smallest and largest score and log Σ exp [n]; all relative to `level` [n].
        Returns the rows' log Σ exp, which belong into `chunks`."""
        self.low, self.high = min(self.low, float((low - level).min())), max(self.high, float((high - level).max()))
        return (log_sum - level).astype(np.float32)

    def merge(self, other: Anchored) -> None:
        """As if everything that the other has seen had been added here."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.chunks += other.chunks

    @property
    def log_sum(self) -> Array:
        return np.concatenate([np.zeros(0, np.float32), *self.chunks])


@dataclass
class Scores:
    """One query head, over rows ≥ 1 (row 0 attends only to itself)."""

    by_anchor: dict[str, Anchored] = field(default_factory=lambda: {anchor: Anchored() for anchor in ANCHORS})
    pairs: int = 0
    absolute: float = 0.0  # Σ |s|

    def add(self, scores: Array) -> None:
        """`scores` [T, T] of one window from position 0, masked entries −inf. A few rows at a time:
        they fit into a processor's cache, and what lies behind the diagonal is not looked at."""
        parts: dict[str, list[Array]] = {anchor: [] for anchor in ANCHORS}
        for start in range(1, len(scores), ROWS):
            rows = scores[start : start + ROWS, : start + ROWS]  # [≤ ROWS, L]
            seen = np.isfinite(rows)
            high, low = rows.max(axis=1), np.where(seen, rows, np.inf).min(axis=1)
            log_sum = np.log(np.exp(rows - high[:, None]).sum(axis=1)) + high
            own = np.arange(start, start + len(rows))
            for anchor in ANCHORS:
                level = np.take_along_axis(rows, anchor_rows(anchor, own), axis=1).mean(axis=1)
                parts[anchor].append(self.by_anchor[anchor].add(level, low, high, log_sum))
            self.pairs += int(seen.sum())
            self.absolute += float(np.abs(rows, where=seen, out=np.zeros_like(rows)).sum(dtype=np.float64))
        for anchor, found in parts.items():
            if found:
                self.by_anchor[anchor].chunks.append(np.concatenate(found))

    def merge(self, other: Scores) -> None:
        """As if everything that the other has seen had been added here."""
        for anchor, seen in other.by_anchor.items():
            self.by_anchor[anchor].merge(seen)
        self.pairs, self.absolute = self.pairs + other.pairs, self.absolute + other.absolute


class Observation:
    """Everything that `calibrate` wants to know, gathered by running the float model on the
    rewritten weights."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.embed = Extent()
        self.h = {site: Extent() for site in config.norm_sites()}  # input of a norm
        self.mean_square = {site: Rows() for site in config.norm_sites()}
        self.x = {site: Extent() for site in config.norm_sites()}  # output of a norm
        self.y = {site: np.zeros(d_out) for site, (d_out, _) in config.linear_shapes().items()}  # Σ |output|
        self.gate = [Extent() for _ in range(config.layers)]  # input of the activation
        self.neurons = [np.zeros(config.ff) for _ in range(config.layers)]  # largest |input| of each
        self.argument = [Extent() for _ in range(config.layers)]  # what its slope multiplies: u, or gate·up
        self.act = [Extent() for _ in range(config.layers)]
        self.values = [[Extent() for _ in range(config.kv_heads)] for _ in range(config.layers)]
        self.scores = [[Scores() for _ in range(config.heads)] for _ in range(config.layers)]
        self.tokens = 0
        self._head = 0

    def run(self, model: Canonical, window: Sequence[int]) -> None:
        """One sequence from position 0."""
        backend = FloatBackend(model, observe=self._see)
        forward(backend, self.config, window, "all")
        self.tokens += len(window)

    def merge(self, other: Observation, ordinary: bool = True) -> None:
        """As if everything that the other has seen had been run here. If it was no ordinary text,
        only the ends of its mean squares count: how they are spread is asked of ordinary rows."""
        if not ordinary:
            for rows in other.mean_square.values():
                rows.chunks = [np.array([rows.all.min(), rows.all.max()])]
        self.embed.merge(other.embed)
        for name in ("h", "mean_square", "x"):
            for site, part in getattr(other, name).items():
                getattr(self, name)[site].merge(part)
        self.y = {site: total + other.y[site] for site, total in self.y.items()}
        for i in range(self.config.layers):
            for name in ("gate", "argument", "act"):
                getattr(self, name)[i].merge(getattr(other, name)[i])
            self.neurons[i] = np.maximum(self.neurons[i], other.neurons[i])
            for mine, theirs in zip(self.values[i], other.values[i], strict=True):
                mine.merge(theirs)
            for ours, scores in zip(self.scores[i], other.scores[i], strict=True):
                ours.merge(scores)
        self.tokens += other.tokens

    def _see(self, name: str, value: Array) -> None:
        layer, _, kind = name.rpartition(".")
        i = int(layer.split(".")[1]) if layer else 0
        if name == "embed":
            self.embed.add(value)
        elif name in self.h:
            self.h[name].add(value)
            square = np.mean(value.astype(np.float64) ** 2, axis=1)  # [T]
            self.mean_square[name].add(square)
            self.x[name].add(value / np.sqrt(square + self.config.norm_eps)[:, None].astype(np.float32))
        elif name in self.y:
            self.y[name] += np.abs(value).sum(axis=0, dtype=np.float64)
            if kind == "up":
                gate, up = value[:, : self.config.ff], value[:, self.config.ff :]
                self.gate[i].add(gate)
                self.neurons[i] = np.maximum(self.neurons[i], np.abs(gate).max(axis=0))
                self.argument[i].add(gate * (up if self.config.gated else gate))
            elif kind == "qkv":
                self._see_values(i, value)
        elif kind == "act":
            self.act[i].add(value)
        elif kind == "scores":
            self.scores[i][self._head].add(value)
            self._head = (self._head + 1) % self.config.heads

    def _see_values(self, layer: int, qkv: Array) -> None:
        v = qkv[:, -self.config.kv_width :].reshape(len(qkv), self.config.kv_heads, -1)  # [T, kv_heads, head_dim]
        for g, extent in enumerate(self.values[layer]):
            extent.add(v[:, g])


def observe(
    model: Canonical, windows: Iterable[Sequence[int]], progress: Callable[[int], None] | None = None
) -> Observation:
    """Runs every window (at least two tokens each) from position 0. `progress` is told how many are
    done."""
    seen = Observation(model.config)
    for n, window in enumerate(windows, 1):
        seen.run(model, window)
        if progress:
            progress(n)
    return seen
