"""The exact rewrite of a checkpoint for integer backends: plain RMS norms, everything else folded
into matrices.

Every norm becomes `x̂ = h / √(mean(h²) + ε)`, without gain, bias or mean. In real arithmetic
nothing changes:
- gain γ: `W·(γ ⊙ x̂) = (W·diag γ)·x̂`, into the matrix that follows;
- LayerNorm's bias β: `W·(x̂ + β) = W·x̂ + W·β`, into the bias that follows (the head gets one);
- LayerNorm's mean: only norms read the residual stream and none of them sees its mean, so every
  writer (embedding, positions, `o`, `down`) may write centred rows, `(I − 11ᵀ/d)·y`; then the
  variance is the mean square;
- `1/√head_dim`: into the q rows of `qkv` (RoPE is linear, so it commutes);
- queries, keys and values of a head by powers of two, the other factor of their product by the
  inverse: matrices are rounded at one scale each, and a head's small values would lose most to it
  (as in Nagel et al. 2019, §4.1).
The fold is what SliceGPT (Ashkboos et al. 2024, §3.2) uses. Cost: a few passes over the weights,
some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.config import ModelConfig
from cryptogen.weights.checkpoint import Checkpoint
from cryptogen.weights.tensors import NUMBERS, Array, Made, filled

Wide = NDArray[np.float64]
LOG2_E = float(np.log2(np.e))  # queries are rounded times that (`numerics/quantise.py`)


@dataclass(frozen=True)
class Canonical:
    """Weights under plain RMS norms. Matrices are [d_out, d_in] float32, one per site of
    `config.linear_shapes()`."""

    config: ModelConfig
    tables: Mapping[str, Array]  # "embed" [vocab, d], and "pos" [context, d] if there are positions
    weight: Mapping[str, Array]  # site -> [d_out, d_in]; "head" is always present, tied or not
    bias: Mapping[str, Array | None]  # site -> [d_out]

    @property
    def embed(self) -> Array:
        """[vocab, d]."""
        return self.tables["embed"]

    @property
    def pos(self) -> Array | None:
        """[context, d]."""
        return self.tables.get("pos")


def canonicalise(checkpoint: Checkpoint, *, keep: bool = True) -> Canonical:
    """Rewrite a checkpoint; the float backend computes the same logits on either, up to float32
    rounding.

    Without `keep` nothing is held in memory: every matrix is read and rewritten when it is asked
    for, each time anew. It is then best taken with `blocks`, some rows at a time.
    """
    config, rewriting = checkpoint.config, _Rewriting(checkpoint)
    sites = config.linear_shapes()
    tables, weight = _Matrices(_table_shapes(config), rewriting.table), _Matrices(sites, rewriting.rows)
    made = Canonical(config, tables, weight, Made(sites, rewriting.bias))
    return Canonical(config, dict(made.tables), dict(made.weight), dict(made.bias)) if keep else made


def blocks(matrices: Mapping[str, Array], name: str) -> Iterator[Array]:
    """A matrix of `Canonical`, some rows at a time: a whole copy would be most of a server's
    memory."""
    if isinstance(matrices, _Matrices):
        yield from matrices.blocks(name)
    else:
        yield from _slices(matrices[name])


def row_peaks(matrix: Iterable[Array]) -> Array:
    """The largest |entry| of each row of a matrix that comes some rows at a time, [d_out]."""
    return np.concatenate([np.maximum(rows.max(axis=1), -rows.min(axis=1)) for rows in matrix])


class _Matrices(Made[Array]):
    """Matrices that are made some rows at a time."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], blocks: Callable[[str], Iterator[Array]]) -> None:
        super().__init__(shapes, lambda name: filled(shapes[name], blocks(name)))
        self.blocks = blocks


class _Rewriting:
    """Makes the rewritten matrices of a checkpoint. Holds the tensor that was read last, and no
    other."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._config = checkpoint, checkpoint.config
        self._centre = checkpoint.config.norm == "layer"
        self._last: tuple[str, Array] | None = None
        self._balances: dict[int, Balance] = {}

    def table(self, name: str) -> Iterator[Array]:
        """Rows of `embed` or `pos`."""
        for rows in _slices(self._tensor(name)):
            yield _centred(rows) if self._centre else rows

    def rows(self, site: str) -> Iterator[Array]:
        """Rows of a site's matrix."""
        layer, _, kind = site.rpartition(".")
        balance = self._layer_balance(layer) if kind in ("qkv", "o") else None
        at = 0
        for rows in self._plain(site):
            if balance is not None and kind == "qkv":
                rows *= balance.rows[at : at + len(rows), None]
            elif balance is not None:
                rows /= balance.lift
            at += len(rows)
            yield rows

    def bias(self, site: str) -> Array | None:
        """A site's bias, [d_out]."""
        config, vectors = self._config, self._checkpoint.tensors
        name, norm = f"{site}.bias", _norm_before(site)
        b: Wide | None = vectors[name].astype(np.float64) if name in vectors else None
        if norm is not None and f"{norm}.bias" in vectors:
            beta = vectors[f"{norm}.bias"].astype(np.float64)
            folded = np.concatenate([rows.astype(np.float64) @ beta for rows in _slices(self._source(site))])
            b = folded if b is None else b + folded
        elif b is not None and norm is None and self._centre:  # `o` and `down`
            b -= b.mean()
        if b is None:
            return None
        if not site.endswith(".qkv"):
            return b.astype(np.float32)
        b[: config.q_width] *= config.head_dim**-0.5
        return b.astype(np.float32) * self._layer_balance(site.rpartition(".")[0]).rows

    def _plain(self, site: str) -> Iterator[Array]:
        """Rows without the balance of heads."""
        config, w, norm, at = self._config, self._source(site), _norm_before(site), 0
        gain = None if norm is None else self._checkpoint.tensors[f"{norm}.gain"].astype(np.float64)  # [d_in]
        # `o` and `down` write the residual stream
        mean = w.mean(axis=0, dtype=np.float64) if self._centre and norm is None else None  # [d_in]
        for part in _slices(w):
            rows = part.astype(np.float64)
            if gain is not None:
                rows *= gain
            if mean is not None:
                rows -= mean
            if site.endswith(".qkv"):
                rows[: max(config.q_width - at, 0)] *= config.head_dim**-0.5
            at += len(rows)
            yield rows.astype(np.float32)

    def _layer_balance(self, layer: str) -> Balance:
        i = int(layer.rpartition(".")[2])
        if i not in self._balances:
            self._balances[i] = balance_of(self._config, row_peaks(self._plain(f"{layer}.qkv")))
        return self._balances[i]

    def _source(self, site: str) -> Array:
        return self._tensor(self._checkpoint.head_name if site == "head" else f"{site}.weight")

    def _tensor(self, name: str) -> Array:
        if self._last is None or self._last[0] != name:
            self._last = None  # gone before the next one comes
            self._last = (name, self._checkpoint.tensors[name])
        return self._last[1]


@dataclass(frozen=True)
class Balance:
    """Powers of two that make the heads of a layer equally large."""

    rows: Array  # [qkv_width], times the rows of qkv
    lift: Array  # [q_width], of the values: the columns of o are divided by it


def balance_of(config: ModelConfig, peaks: Array) -> Balance:
    """Of every key head: queries and keys about equally large, values as large as the matrix's
    largest entries. `peaks` [qkv_width]: the largest entry of each row."""
    largest, width = float(peaks.max()), config.head_dim
    balance = Balance(np.ones(config.qkv_width, np.float32), np.ones(config.q_width, np.float32))
    for g in range(config.kv_heads):
        q = slice(g * config.queries_per_kv_head * width, (g + 1) * config.queries_per_kv_head * width)
        k = slice(config.q_width + g * width, config.q_width + (g + 1) * width)
        v = slice(k.start + config.kv_width, k.stop + config.kv_width)
        of_q, of_k, of_v = (max(float(peaks[rows].max()), 2.0**-40) for rows in (q, k, v))
        turn = 2.0 ** round(np.log2(of_k / (of_q * LOG2_E)) / 2)
        balance.rows[q], balance.rows[k] = turn, 1 / turn
        balance.rows[v] = balance.lift[q] = 2.0 ** np.floor(np.log2(largest / of_v))
    return balance


def _norm_before(site: str) -> str | None:
    """The norm whose output enters a site, if one does."""
    if site == "head":
        return "final_norm"
    layer, _, name = site.rpartition(".")
    return {"qkv": f"{layer}.attn_norm", "up": f"{layer}.mlp_norm"}.get(name)


def _table_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    tables: dict[str, tuple[int, ...]] = {"embed": (config.vocab, config.d)}
    return tables if config.rope else tables | {"pos": (config.context, config.d)}


def _slices(matrix: Array) -> Iterator[Array]:
    """Some rows at a time."""
    step = max(NUMBERS // matrix.shape[1], 1)
    for i in range(0, len(matrix), step):
        yield matrix[i : i + step]


def _centred(rows: Array) -> Array:
    wide = rows.astype(np.float64)
    wide -= wide.mean(axis=1, keepdims=True)
    return wide.astype(np.float32)
