"""Windows and shifts of one function, from the range of its argument."""

import math
from dataclasses import dataclass, field
from typing import Any

from .plan import Range, Scalar

FINE_BITS = 6  # bits of an argument below its segment index, where there are that many
NORM_K, SIGMA_K = 12, 14
LEAST_INDEX, GOOD_INDEX = 8, 32  # a piece j of 1/x is wrong by 1/(2(j + 1))², of 1/√x by a bit less
TOP_BITS = 16  # of y at the end of the window, so that rounding slopes to integers does not matter


@dataclass
class TableSet:
    """Numbers tables; equal functions share them."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def add(self, tables: int, **function: Any) -> list[int]:
        """Ids of the `tables` tables of a function, in the order in which `pieces.make` returns them."""
        for known in self.functions:
            if {k: v for k, v in known.items() if k != "tables"} == function:
                return list(known["tables"])
        ids = list(range(self.count, self.count + tables))
        self.count += tables
        self.functions.append({**function, "tables": ids})
        return ids


def bits_for(value: float) -> int:
    """Smallest n with 2^n ≥ value."""
    return math.ceil(math.log2(value)) if value > 0 else 0


@dataclass(frozen=True)
class Window:
    """`[0, 2^bits)` of a positive argument, split for `k` index bits."""

    bits: int
    k: int

    @property
    def h(self) -> int:
        return min(FINE_BITS, self.bits - self.k)

    @property
    def mu(self) -> int:
        return self.bits - self.k - self.h

    def index(self, value: float) -> float:
        return value / 2.0 ** (self.bits - self.k)


def window(largest: float, k: int, margin: int = 2) -> Window:
    """Covers `2^margin` times the largest calibrated value; at least one bit below the index."""
    return Window(max(bits_for(largest) + margin, k + 1), k)


def fine_window(coarse: Window, smallest: float) -> Window | None:
    """The second range: `gap` bits narrower, so that `smallest` has a good index; None if the coarse one has.

    The coarse range answers from index 2^(k − gap) − 1 on, so a gap beyond k − 4 trades its precision there away.
    """
    index = coarse.index(smallest)
    if index >= LEAST_INDEX:
        return None
    widest = coarse.k - (4 if index * 2 ** (coarse.k - 4) >= LEAST_INDEX else 3)
    gap = min(max(bits_for(GOOD_INDEX / index), 4), widest, coarse.bits - coarse.k - 1)
    return Window(coarse.bits - gap, coarse.k) if gap > 0 else None


def below(coarse: Window, fine: Window | None) -> int | None:
    """Coarse pieces that the fine range answers for: those met only by arguments inside it, less one for rounding."""
    return None if fine is None else max((1 << (coarse.k - (coarse.bits - fine.bits))) - 2, 0)


def _scalar(coarse: Window, fine: Window | None, out_shift: int, make: Any) -> Scalar:
    first = below(coarse, fine)
    ids = make(coarse, first)
    hi = Range(coarse.mu, coarse.h, coarse.k, ids[0], ids[1], ids[2] if len(ids) > 2 else None)
    if fine is None:
        return Scalar(hi, None, out_shift)
    ids = make(fine, None)
    return Scalar(hi, Range(fine.mu, fine.h, fine.k, ids[0], ids[1], None), out_shift)


def rsqrt(tables: TableSet, smallest: float, largest: float, unit: float, eps: float) -> tuple[Scalar, int]:
    """`ρ = 2^r / √(m/unit + eps)` for m calibrated in [smallest, largest]; returns the scalar and r.

    r: 8 bits of ρ at the end of the window, 9 at the largest calibrated m, more below.
    """
    coarse = window(largest, NORM_K)
    fine = fine_window(coarse, smallest)
    root = math.sqrt(2.0**coarse.bits / unit + eps)
    r = min(max(math.ceil(8 + math.log2(root)), 8), 32)
    out_shift = max(TOP_BITS - math.floor(r - math.log2(root)), 0)

    def make(w: Window, first: int | None) -> list[int]:
        n, one = 2 if first is None else 3, unit / 2.0**w.mu  # one: the argument of a mean square of 1
        numerator = 2.0 ** (r + out_shift) * math.sqrt(one)
        return tables.add(n, kind="rsqrt", k=w.k, h=w.h, numerator=numerator, eps=eps * one, below=first)

    return _scalar(coarse, fine, out_shift, make), r


def reciprocal(tables: TableSet, coarse: Window, fine: Window | None, r: int) -> Scalar:
    """`ρ = 2^r / σ`. The tables depend on the windows' shapes alone, so heads share them."""
    out_shift = min(max(TOP_BITS + coarse.bits - r, 0), 32)
    scale = r + out_shift

    def make(w: Window, first: int | None) -> list[int]:
        return tables.add(2 if first is None else 3, kind="reciprocal", k=w.k, h=w.h, bits=scale - w.mu, below=first)

    return _scalar(coarse, fine, out_shift, make)
