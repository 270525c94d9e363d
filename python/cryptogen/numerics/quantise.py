"""Canonical float weights → integers (`docs/protocols/arithmetic.md`, A5)."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import PlanError
from cryptogen.weights.canonical import LOG2_E, Canonical

from .pieces import F
from .plan import MAX_WEIGHT_BITS, ModelShape, NumericPlan

WEIGHT_LIMIT = 1 << 15  # |W| stays below
ROWS = 4096  # rounded at a time: float64 copies of a whole embedding would be most of a server's memory


@dataclass(frozen=True)
class IntegerModel:
    """What the server computes with. Matrices [d_out, d_in] int16, each row at the plan's scale;
    the rest int64."""

    embed: NDArray[np.int64]  # [vocab, d], scale F + shift
    pos: NDArray[np.int64] | None  # [context, d]
    matrices: dict[str, NDArray[np.int16]]
    biases: dict[str, NDArray[np.int64]]  # [d_out], 2^F times the rows' scales; absent where there is none

    def digest(self) -> str:
        """SHA-256 over names, shapes and contents, hex."""
        digest = hashlib.sha256()
        matrices, biases = sorted(self.matrices.items()), sorted(self.biases.items())
        arrays = [("embed", self.embed), ("pos", self.pos), *matrices, *biases]
        for name, array in arrays:
            if array is not None:
                digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def row_factors(shape: ModelShape, site: str) -> NDArray[np.float64]:
    """What a matrix's rows are multiplied by before they are rounded, [d_out]: queries by log2(e),
    because the parties' exponentials are powers of two (A5.5)."""
    _, d_out = shape.sites()[site]
    factors = np.ones(d_out)
    if site.endswith(".qkv"):
        factors[: shape.q_dim] = LOG2_E
    return factors


def weight_bits(matrix: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of each row, times its factor, the largest `f_w ≤ 15` with `|round(W·2^f_w)| < 2^15`. Raises
    PlanError if 0 is too much."""
    peaks = np.maximum(matrix.max(axis=1, initial=0.0), -matrix.min(axis=1, initial=0.0))
    largest = peaks.astype(np.float64) * factors
    scales = 2.0 ** np.arange(MAX_WEIGHT_BITS + 1)
    bits: NDArray[np.int64] = (np.rint(largest[:, None] * scales) < WEIGHT_LIMIT).sum(axis=1) - 1
    if bits.min() < 0:
        raise PlanError("weights", f"entries below {WEIGHT_LIMIT}", float(largest.max()))
    return bits


def quantise(model: Canonical, plan: NumericPlan, *, consume: bool = False) -> IntegerModel:
    """Rounds every weight to the scales of the plan. `consume`: takes the matrices out of `model`,
    to save memory.

    Raises PlanError if they do not fit the model.
    """
    bits = {site: np.array(linear.out_shift)[:, None] for site, linear in plan.linears.items()}  # [1 or d_out, 1]
    bits["head"] = np.array([[plan.logit_bits - F]])
    matrices, biases = {}, {}
    for site, (d_in, d_out) in plan.model.sites().items():
        weight = model.weight.pop(site) if consume else model.weight[site]
        if weight.shape != (d_out, d_in):
            raise PlanError(site, (d_out, d_in), weight.shape)
        matrices[site] = np.empty((d_out, d_in), np.int16)
        scales = row_factors(plan.model, site)[:, None] * 2.0 ** bits[site]  # [d_out, 1]
        for i in range(0, d_out, ROWS):
            scaled = np.rint(weight[i : i + ROWS].astype(np.float64) * scales[i : i + ROWS])
            if (largest := float(np.abs(scaled).max())) >= WEIGHT_LIMIT:
                raise PlanError(f"{site}: weight", "below 2^15 at the scale of its row", largest)
            matrices[site][i : i + ROWS] = scaled
        if (bias := model.bias[site]) is not None:
            biases[site] = np.rint(bias.astype(np.float64) * 2.0**F * scales[:, 0]).astype(np.int64)
    scale = F + plan.embed.shift
    pos = None if model.pos is None else integers(model.pos, scale)
    return IntegerModel(integers(model.embed, scale), pos, matrices, biases)


def integers(values: NDArray[np.float32], bits: int) -> NDArray[np.int64]:
    """`round(values · 2^bits)`."""
    out = np.empty(values.shape, np.int64)
    for i in range(0, len(values), ROWS):
        out[i : i + ROWS] = np.rint(values[i : i + ROWS].astype(np.float64) * 2.0**bits)
    return out
