"""Integer tables of the piecewise-linear and piecewise-quadratic functions
(`docs/protocols/arithmetic.md`, A2–A4).

A segment index made by local truncation is stochastic: piece `j` answers for
`[offset + j·2^h, offset + (j+2)·2^h)`. Each piece is therefore fitted on that double interval so
that the two candidate pieces, weighted by how often each is met, have no bias: a chord shifted
towards the curve, or the parabola of the least squares under these weights. Source: this project's;
see `docs/protocols/arithmetic.md`, A3. Everything is float64 numpy
and depends on the arguments alone; both parties compute the tables and compare digests.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.models.functions import ACTIVATIONS

F = 12
MAX_ENTRY = 1 << 46
SHIFT = 5 / 6  # of the way from the chord to the curve
STEPS = 32  # samples of an interval for a parabola

NET_SHIFT, NET_K = 32, 12  # the net of a scalar (A4): of its argument so many bits are cut off, then looked up
NET_H, NET_INSIDE = 10, 2  # shift of its index, at least; log2 of the segments that a window has

IntTable = NDArray[np.int64]
Floats = NDArray[np.float64]


def fit(fn: Callable[[Floats], Floats], offset: int, center: int, h: int, k: int) -> tuple[IntTable, IntTable]:
    """Tables `A`, `B` [2^k] with `A[j]·(x − center) + B[j] ≈ fn(x)`; `x` and `fn` are in integer
    units.

    `B` is computed with the rounded `A`, so rounding `A` costs nothing in the middle of the double
    interval.
    """
    x = offset + np.arange(2**k + 2, dtype=np.float64) * 2.0**h  # [2^k + 2] interval ends
    y = fn(x)
    left, mid, right = y[:-2], y[1:-1], y[2:]
    slope = np.rint((right - left) / 2.0 ** (h + 1))  # [2^k]
    chord = (left + right) / 2
    value = chord + (mid - chord) * SHIFT
    return slope.astype(np.int64), np.rint(value - slope * (x[1:-1] - center)).astype(np.int64)


def fit_quadratic(fn: Callable[[Floats], Floats], offset: int, h: int, k: int) -> tuple[IntTable, IntTable, IntTable]:
    """Tables `A`, `B`, `C` [2^k] with `A[j]·x² + B[j]·x + C[j] ≈ fn(x)`; `x` and `fn` are in
    integer units.

    Least squares with the weight `1 − |s|` at `middle + s·2^h`: so often a piece is met there.
    `B` makes up for the rounding of `A`, and `C` for both.
    """
    step = 2.0**h
    middle = offset + (np.arange(2**k, dtype=np.float64) + 1) * step  # [2^k]
    samples = [(i / STEPS, (1 - abs(i) / STEPS) / STEPS) for i in range(1 - STEPS, STEPS)]
    second = sum(w * s**2 for s, w in samples)  # moments; the weights add up to 1
    fourth = sum(w * s**4 for s, w in samples)
    mean, slope, bend = (np.zeros_like(middle) for _ in range(3))  # fn in 1, s and s² − second
    for s, w in samples:
        y = fn(middle + s * step)
        mean += w * y
        slope += (w * s / second) * y
        bend += (w * (s**2 - second) / (fourth - second**2)) * y
    a = np.rint(bend / step**2)
    b = np.rint(slope / step - 2 * a * middle)
    c = np.rint(mean - a * (middle**2 + second * step**2) - b * middle)
    return a.astype(np.int64), b.astype(np.int64), c.astype(np.int64)


def _activation(f: dict[str, Any]) -> list[IntTable]:
    """An activation around 0. Pieces of degree 2, of plain activations, of `2^(2F + bits) ·
    act(x/2^F)`: `A` at scale `2^bits`, `B` at `2^(bits + F)`, `C` at `2^(bits + 2F)`. Of degree 1,
    of gated ones, of `2^(F + bits) · act(x/2^F)`: `A` at scale `2^bits`, `B` at `2^(bits + F)`.

    Guard 0: none. 1: the outer quarters of the window, where values are right, but those beyond the
    window are met too.
    2: nothing, for neurons that need none in a layer where others do.
    """
    act, k, h = ACTIVATIONS[f["kind"]], f["k"], f["h"]
    start = -(1 << (k + h - 1))
    if f["degree"] == 2:
        tables = list(fit_quadratic(lambda x: 2.0 ** (2 * F + f["bits"]) * act(x / 2**F), start, h, k))
    else:
        tables = list(fit(lambda x: 2.0 ** (F + f["bits"]) * act(x / 2**F), start, 0, h, k))
    quarter = 1 << k >> 2 if f["guard"] == 1 else 0
    guard = _guard(k, 0, quarter) | _guard(k, (1 << k) - quarter, 1 << k)
    return [*tables, guard] if f["guard"] else tables


def _guard(k: int, start: int, end: int) -> IntTable:
    """1 on pieces start…end − 1."""
    j = np.arange(1 << k)
    return ((j >= start) & (j < end)).astype(np.int64)


def _positive(fn: Callable[[Floats], Floats], f: dict[str, Any]) -> list[IntTable]:
    """A range of 1/x or 1/√x on `[0, (2^k − 1)·2^h)`, constant below the first interval end.

    The lower index of `x < 2^h` is −1 mod 2^k, so the last piece answers for it. Guard: pieces
    below `low`, where the chords are coarse, that last piece, and the upper half, which is right,
    but numbers beyond are met there too. In a coarse range the first `below` pieces and the last
    one are cleared, the fine range answers, and the selector `Z` is appended; a fine range has no
    upper guard. `gap`, of norms: pieces start…end − 1 are guard, too.
    """
    h, k, first = f["h"], f["k"], 2.0 ** f["h"]
    a, b = fit(lambda x: fn(np.maximum(x, first)), 0, 0, h, k)
    a[-1], b[-1] = 0, np.rint(fn(np.array([first]))[0])
    guard = _guard(k, 0, f["low"]) | _guard(k, 1 << k if f["fine"] else 1 << (k - 1), 1 << k)
    guard[-1] = 1
    if gap := f.get("gap"):
        guard |= _guard(k, *gap)
    if f["below"] is None:
        return [a, b, guard]
    z = _guard(k, 0, f["below"])
    z[-1] = 1
    return [*(np.where(z == 1, 0, table) for table in (a, b, guard)), z]


def _reciprocal(f: dict[str, Any]) -> list[IntTable]:
    """`2^bits / x`."""
    return _positive(lambda x: 2.0 ** f["bits"] / x, f)


def _rsqrt(f: dict[str, Any]) -> list[IntTable]:
    """`numerator / √(x + eps)`, `eps` and `numerator` already in units of `x` and of the output."""
    return _positive(lambda x: f["numerator"] / np.sqrt(x + f["eps"]), f)


def _rotary(f: dict[str, Any]) -> list[IntTable]:
    """`round(2^bits · cos|sin(t·f_i))` [positions·pairs], position-major, `f_i` the frequency of a
    pair (RoFormer, Su et al. 2021)."""
    angle = np.arange(f["positions"])[:, None] * np.array(f["frequencies"], dtype=np.float64)  # [positions, pairs]
    turned = np.cos(angle) if f["kind"] == "rope_cos" else np.sin(angle)
    return [np.rint(2.0 ** f["bits"] * turned).astype(np.int64).reshape(-1)]


MAKERS: dict[str, Callable[[dict[str, Any]], list[IntTable]]] = {
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "rope_cos": _rotary,
    "rope_sin": _rotary,
    **{name: _activation for name in ACTIVATIONS},
}


def make(function: dict[str, Any]) -> list[IntTable]:
    """The tables of one checked entry of the plan's `functions`, in the order of its `tables`
    ids."""
    return MAKERS[function["kind"]](function)


def net() -> IntTable:
    """The selector K of a scalar's net (A4), [2^NET_K]: 1 on the pieces that answer for arguments
    inside the window alone, and on the last, which answers for small ones, too."""
    inside = np.zeros(1 << NET_K, dtype=np.int64)
    inside[: (1 << NET_INSIDE) - 1] = inside[-1] = 1
    return inside
