"""Canonical float weights → integers (`docs/protocols/arithmetic.md`, A5)."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.canonical import Canonical

from .document import PlanError
from .pieces import F
from .plan import MAX_WEIGHT_BITS, Plan

WEIGHT_LIMIT = 1 << 15  # |W| stays below
ROWS = 4096  # rounded at a time: float64 copies of a whole embedding would be most of a server's memory


@dataclass(frozen=True)
class IntegerModel:
    """What the server computes with. Matrices [d_out, d_in] int16 at scale 2^weight_bits, the rest int64."""

    embed: NDArray[np.int64]  # [vocab, d], scale F + shift
    pos: NDArray[np.int64] | None  # [context, d]
    matrices: dict[str, NDArray[np.int16]]
    biases: dict[str, NDArray[np.int64]]  # [d_out], scale F + weight_bits; absent where there is none
    weight_bits: dict[str, int]

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


def weight_bits(matrix: NDArray[np.float32]) -> int:
    """The largest `f_w ≤ 14` with `|round(W·2^f_w)| < 2^15`. Raises PlanError if even `f_w = 0` overflows."""
    largest = max(float(matrix.max(initial=0.0)), -float(matrix.min(initial=0.0)))
    for bits in range(MAX_WEIGHT_BITS, -1, -1):
        if round(largest * 2.0**bits) < WEIGHT_LIMIT:
            return bits
    raise PlanError("weights", f"entries below {WEIGHT_LIMIT}", largest)


def quantise(model: Canonical, plan: Plan, *, consume: bool = False) -> IntegerModel:
    """Rounds every weight to the scales of the plan. `consume`: takes the matrices out of `model`, to save memory.

    Raises PlanError if they do not fit the model.
    """
    bits = {site: linear.out_shift for site, linear in plan.linears.items()}
    bits["head"] = plan.logit_bits - F
    matrices, biases = {}, {}
    for site, (d_in, d_out) in plan.model.sites().items():
        weight = model.weight.pop(site) if consume else model.weight[site]
        if weight.shape != (d_out, d_in):
            raise PlanError(site, (d_out, d_in), weight.shape)
        matrices[site] = np.empty((d_out, d_in), np.int16)
        for i in range(0, d_out, ROWS):
            scaled = np.rint(weight[i : i + ROWS].astype(np.float64) * 2.0 ** bits[site])
            if (largest := float(np.abs(scaled).max())) >= WEIGHT_LIMIT:
                raise PlanError(f"{site}: weight", f"below 2^15 at {bits[site]} fractional bits", largest)
            matrices[site][i : i + ROWS] = scaled
        if (bias := model.bias[site]) is not None:
            biases[site] = integers(bias, F + bits[site])
    scale = F + plan.embed.shift
    pos = None if model.pos is None else integers(model.pos, scale)
    return IntegerModel(integers(model.embed, scale), pos, matrices, biases, bits)


def integers(values: NDArray[np.float32], bits: int) -> NDArray[np.int64]:
    """`round(values · 2^bits)`."""
    out = np.empty(values.shape, np.int64)
    for i in range(0, len(values), ROWS):
        out[i : i + ROWS] = np.rint(values[i : i + ROWS].astype(np.float64) * 2.0**bits)
    return out
