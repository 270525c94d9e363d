"""Matrix products modulo `p`, exact for every input.

They go through BLAS in float64 as long as every partial sum stays below 2^53, then in two halves,
then in limbs of 16 bits that are put together modulo p.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .field import FITS, Ints, largest, plus, times

EXACT = 1 << 53  # integers below are exact in float64
BLOCK = 4096  # output rows at a time: bounds the float64 copy of a matrix
SPLIT = 20  # low bits of the smaller half of a split operand
LIMBS = (0, 16, 32, 48)


def product(x: Ints, matrix: NDArray[np.int16]) -> Ints:
    """`y = x·Wᵀ`, [T, d_out], for x [T, d_in] and W [d_out, d_in]."""
    wild = np.abs(x.astype(np.float64)).sum(axis=1) * (1 << 15) >= FITS  # [T]
    tame = x if not wild.any() else np.where(wild[:, None], 0, x)
    y = np.empty((len(x), len(matrix)), dtype=np.int64)
    for i in range(0, len(matrix), BLOCK):
        block = matrix[i : i + BLOCK].T
        y[:, i : i + BLOCK] = matmul(tame, block.astype(np.float64), float(1 << 15))
        if wild.any():  # rare: the other rows should not pay for them
            y[wild, i : i + BLOCK] = matmul_wrapped(x[wild], block.astype(np.int64))
    return y


def matmul(x: Ints, w: NDArray[np.float64], peak: float) -> Ints:
    """`x @ w` for x [T, n] and integers w [n, m] of absolute value at most `peak`, which is below
    2^53."""
    most = float(np.abs(x.astype(np.float64)).sum(axis=1).max(initial=0.0))  # |x| of a row
    if most * peak < EXACT:
        return (x.astype(np.float64) @ w).astype(np.int64)
    n = len(w)
    high, low = x >> SPLIT, x & ((1 << SPLIT) - 1)
    if most * peak >= FITS or (most / 2**SPLIT + n) * peak >= EXACT or n * peak * 2**SPLIT >= EXACT:
        return matmul_wrapped(x, w.astype(np.int64))
    return ((high.astype(np.float64) @ w).astype(np.int64) << SPLIT) + (low.astype(np.float64) @ w).astype(np.int64)


def matmul_wrapped(x: Ints, w: Ints) -> Ints:
    """The same modulo p for operands of any size: limbs of 16 bits of x, and of w where it is
    large."""
    if largest(w) > 1 << 16:
        return _by_limbs(w, lambda limb: matmul_wrapped(x, limb))
    wide = w.astype(np.float64)  # a limb's sums stay below 2^16·2^16·n
    return _by_limbs(x, lambda limb: (limb.astype(np.float64) @ wide).astype(np.int64))


def _by_limbs(x: Ints, f: Callable[[Ints], Ints]) -> Ints:
    """`f(x)` of a linear f, from its four limbs of 16 bits; the highest one is signed."""
    parts = [f((x >> s) & 0xFFFF if s < 48 else x >> s) for s in LIMBS]
    shifted = [times(part, np.array(1 << s)) for part, s in zip(parts, LIMBS, strict=True)]
    return plus(plus(shifted[0], shifted[1]), plus(shifted[2], shifted[3]))


def scores_of(q: Ints, keys: Ints) -> Ints:
    """`s_{t,g,j} = Σ_e q_{t,g,e}·k_{j,g div group,e}`, [T, heads, L], for q [T, heads, e] and keys
    [L, kv_heads, e]."""
    rows, heads, width = q.shape
    group = heads // keys.shape[1]
    s = np.empty((rows, heads, len(keys)), dtype=np.int64)
    for kv in range(keys.shape[1]):
        columns = slice(kv * group, (kv + 1) * group)
        s[:, columns] = _exact(q[:, columns].reshape(-1, width), keys[:, kv].T).reshape(rows, group, -1)
    return s


def weighted_values(e: Ints, values: Ints) -> Ints:
    """`o_{t,g} = Σ_j e_{t,g,j}·v_{j,g div group}`, [T, heads, head_dim],
    for e [T, heads, L] and values [L, kv_heads, head_dim].
    """
    rows, heads, length = e.shape
    kv_heads, width = values.shape[1:]
    group = heads // kv_heads
    o = np.empty((rows, heads, width), dtype=np.int64)
    for kv in range(kv_heads):
        columns = slice(kv * group, (kv + 1) * group)
        o[:, columns] = _exact(e[:, columns].reshape(-1, length), values[:, kv]).reshape(rows, group, width)
    return o


def _exact(x: Ints, w: Ints) -> Ints:
    """`x @ w`, both any integers."""
    peak = largest(w)
    return matmul(x, w.astype(np.float64), peak) if peak < EXACT else matmul_wrapped(x, w)


def cat_rows(cache: Ints, rows: Ints) -> Ints:
    """The cache with rows appended; older rows are never touched."""
    return rows if not len(cache) else np.concatenate([cache, rows])
