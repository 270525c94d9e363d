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
The fold is what SliceGPT (Ashkboos et al. 2024, §3.2) uses. Cost: one pass over the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.config import ModelConfig
from cryptogen.weights.checkpoint import Checkpoint

Array = NDArray[np.float32]
Wide = NDArray[np.float64]
ROWS = 4096  # rewritten at a time
LOG2_E = float(np.log2(np.e))  # queries are rounded times that (`numerics/quantise.py`)


@dataclass(frozen=True)
class Canonical:
    """Weights under plain RMS norms. Matrices are [d_out, d_in] float32, one per site of
    `config.linear_shapes()`."""

    config: ModelConfig
    embed: Array  # [vocab, d]
    pos: Array | None  # [context, d]
    weight: dict[str, Array]  # site -> [d_out, d_in]; "head" is always present, tied or not
    bias: dict[str, Array | None]  # site -> [d_out]


def canonicalise(checkpoint: Checkpoint) -> Canonical:
    """Rewrite a checkpoint; the float backend computes the same logits on either, up to float32
    rounding."""
    config, tensors = checkpoint.config, checkpoint.tensors
    centre = config.arch == "gpt2"
    weight: dict[str, Array] = {}
    bias: dict[str, Array | None] = {}
    for site in config.linear_shapes():
        w = checkpoint.head if site == "head" else tensors[f"{site}.weight"]
        stored = tensors.get(f"{site}.bias")
        b: Wide | None = None if stored is None else stored.astype(np.float64)
        gain: Wide | None = None  # [d_in]
        mean: Wide | None = None  # [d_in]
        scale: Wide | None = None  # [d_out]
        if (norm := _norm_before(site)) is not None:
            if (beta := tensors.get(f"{norm}.bias")) is not None:
                folded = np.concatenate([rows @ beta.astype(np.float64) for rows in _wide(w)])
                b = folded + (0.0 if b is None else b)
            gain = tensors[f"{norm}.gain"].astype(np.float64)
        elif centre:  # `o` and `down` write the residual stream
            mean = w.mean(axis=0, dtype=np.float64)
            b = None if b is None else b - b.mean()
        if site.endswith(".qkv"):
            scale = np.ones(config.qkv_width)
            scale[: config.q_width] = config.head_dim**-0.5
            b = None if b is None else b * scale
        weight[site] = np.empty(w.shape, np.float32)
        for i, rows in enumerate(_wide(w)):
            at = slice(i * ROWS, i * ROWS + len(rows))
            if gain is not None:
                rows *= gain
            if mean is not None:
                rows -= mean
            if scale is not None:
                rows *= scale[at, None]
            weight[site][at] = rows
        bias[site] = None if b is None else b.astype(np.float32)
    for i in range(config.layers):
        _balance(config, weight[f"layers.{i}.qkv"], bias[f"layers.{i}.qkv"], weight[f"layers.{i}.o"])
    pos = tensors.get("pos")
    embed = tensors["embed"]
    if centre:
        embed = _centred(embed)
        pos = None if pos is None else _centred(pos)
    return Canonical(config, embed, pos, weight, bias)


def _balance(config: ModelConfig, qkv: Array, bias: Array | None, o: Array) -> None:
    """Of every key head: queries and keys about equally large, values as large as the matrix's
    largest entries."""
    largest, width = float(np.abs(qkv).max()), config.head_dim
    for g in range(config.kv_heads):
        q = slice(g * config.queries_per_kv_head * width, (g + 1) * config.queries_per_kv_head * width)
        k = slice(config.q_width + g * width, config.q_width + (g + 1) * width)
        v = slice(k.start + config.kv_width, k.stop + config.kv_width)
        peak = {rows.start: max(float(np.abs(qkv[rows]).max()), 2.0**-40) for rows in (q, k, v)}
        turn = 2.0 ** round(np.log2(peak[k.start] / (peak[q.start] * LOG2_E)) / 2)
        lift = 2.0 ** np.floor(np.log2(largest / peak[v.start]))
        for rows, factor in ((q, turn), (k, 1 / turn), (v, lift)):
            qkv[rows] *= np.float32(factor)
            if bias is not None:
                bias[rows] *= np.float32(factor)
        o[:, q] /= np.float32(lift)


def _norm_before(site: str) -> str | None:
    """The norm whose output enters a site, if one does."""
    if site == "head":
        return "final_norm"
    layer, _, name = site.rpartition(".")
    return {"qkv": f"{layer}.attn_norm", "up": f"{layer}.mlp_norm"}.get(name)


def _wide(matrix: Array) -> Iterator[Wide]:
    """Float64 copies of some rows at a time: of a whole output matrix they would be most of a
    server's memory."""
    for i in range(0, len(matrix), ROWS):
        yield matrix[i : i + ROWS].astype(np.float64)


def _centred(matrix: Array) -> Array:
    return np.concatenate([(w - w.mean(axis=1, keepdims=True)).astype(np.float32) for w in _wide(matrix)])
