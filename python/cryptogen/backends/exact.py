"""Integer products that are exact although BLAS computes them in float64: every partial sum stays below 2^53."""

import numpy as np
from numpy.typing import NDArray

from .rounding import Ints

EXACT = 1 << 53  # integers below are exact in float64
BLOCK = 4096  # output rows at a time: bounds the float64 copy of a matrix
SPLIT = 20  # low bits of the smaller half of a split operand


def product(x: Ints, matrix: NDArray[np.int16]) -> Ints:
    """`y = x·Wᵀ` exactly, [T, d_out], for x [T, d_in] and W [d_out, d_in]."""
    y = np.empty((len(x), len(matrix)), dtype=np.int64)
    for i in range(0, len(matrix), BLOCK):
        y[:, i : i + BLOCK] = matmul(x, matrix[i : i + BLOCK].T.astype(np.float64), 1 << 15)
    return y


def matmul(x: Ints, w: NDArray[np.float64], peak: float, row_sum: float | None = None) -> Ints:
    """`x @ w` exactly for x [T, n], w [n, m] with entries of absolute value at most `peak`.

    `row_sum`: largest `Σ_n |x|` of a row, if the caller knows a better bound than `n·max|x|`.
    Splits x in two halves when one product would pass 2^53; raises OverflowError when even that does not help.
    """
    largest, n = int(np.abs(x).max(initial=0)), len(w)
    if (largest * n if row_sum is None else row_sum) * peak < EXACT:
        return (x.astype(np.float64) @ w).astype(np.int64)
    high, low = x >> SPLIT, x & ((1 << SPLIT) - 1)
    if ((largest >> SPLIT) + 1) * n * peak >= EXACT or n * peak * 2**SPLIT >= EXACT:
        raise OverflowError(f"{n} products of {largest} and {peak} do not fit; below 2^{53 + SPLIT} expected")
    return ((high.astype(np.float64) @ w).astype(np.int64) << SPLIT) + (low.astype(np.float64) @ w).astype(np.int64)


def scores_of(q: Ints, keys: Ints) -> Ints:
    """`s_{t,g,j} = Σ_e q_{t,g,e}·k_{j,g div group,e}`, [T, heads, L], for q [T, heads, e] and keys [L, kv_heads, e]."""
    rows, heads, width = q.shape
    group = heads // keys.shape[1]
    s = np.empty((rows, heads, len(keys)), dtype=np.int64)
    for kv in range(keys.shape[1]):
        columns = slice(kv * group, (kv + 1) * group)
        k = keys[:, kv].T.astype(np.float64)  # [e, L]
        flat = matmul(q[:, columns].reshape(-1, width), k, float(np.abs(k).max()))
        s[:, columns] = flat.reshape(rows, group, -1)
    return s


def weighted_values(e: Ints, values: Ints) -> Ints:
    """`o_{t,g} = Σ_j e_{t,g,j}·v_{j,g div group}`, [T, heads, head_dim],
    for e [T, heads, L] and values [L, kv_heads, head_dim].
    """
    rows, heads, length = e.shape
    kv_heads, width = values.shape[1:]
    group = heads // kv_heads
    o = np.empty((rows, heads, width), dtype=np.int64)
    row_sum = float(np.abs(e).sum(axis=2).max())
    for kv in range(kv_heads):
        columns = slice(kv * group, (kv + 1) * group)
        v = values[:, kv].astype(np.float64)  # [L, head_dim]
        flat = matmul(e[:, columns].reshape(-1, length), v, float(np.abs(v).max()), row_sum)
        o[:, columns] = flat.reshape(rows, group, width)
    return o


def cat_rows(cache: Ints, rows: Ints) -> Ints:
    """The cache with rows appended; older rows are never touched."""
    return rows if not len(cache) else np.concatenate([cache, rows])
