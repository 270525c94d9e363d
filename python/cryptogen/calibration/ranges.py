"""Windows and shifts of one function, from the range of its argument."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptogen.numerics.plan import Range, Scalar

FINE_BITS = 6  # bits of an argument below its segment index, where there are that many
NORM_K, SIGMA_K = (12, 13, 14), (14, 15, 16)
NORM_BITS = (8, 12)  # of ρ at the end of the window: at least, and wished for
NORM_MARGIN = 8.0  # mean squares this far beyond the calibrated ones, on both sides, still have a good index
# a piece j of 1/x is wrong by 1/(2(j + 1))², of 1/√x by a bit less
LEAST_INDEX, GOOD_INDEX = 8, 32
TOP_BITS = 16  # of y at the end of the window, so that rounding slopes to integers does not matter


@dataclass
class TableSet:
    """Numbers tables; equal functions share them."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def add(self, tables: int, **function: Any) -> list[int]:
        """Ids of the `tables` tables of a function, in the order in which `pieces.make` returns
        them."""
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
        return min(FINE_BITS, self.bits - self.k - 1)

    @property
    def mu(self) -> int:
        """At least 1: a truncated share can be lifted without fail."""
        return self.bits - self.k - self.h

    def index(self, value: float) -> float:
        return value / 2.0 ** (self.bits - self.k)

    def pieces(self, low: float, high: float) -> list[int] | None:
        """First piece that answers for values above `low` alone, and the first that answers for
        `high`; None if there is none between."""
        last = (1 << self.k) - 1
        first, end = min(math.ceil(self.index(low)), last), min(math.floor(self.index(high)) - 1, last)
        return [first, end] if first < end else None


@dataclass(frozen=True)
class Ranges:
    """The windows of a positive function: the coarse one, and below it, if need be, a fine one."""

    coarse: Window
    fine: Window | None
    low: int  # pieces of the last window that are guard

    @property
    def below(self) -> int | None:
        """Coarse pieces that the fine range answers for: met only by arguments inside it, less one
        for rounding."""
        if self.fine is None:
            return None
        return max((1 << (self.coarse.k - (self.coarse.bits - self.fine.bits))) - 2, 0)


def ranges(smallest: float, largest: float, k: int, two: bool = False) -> Ranges:
    """Windows whose lower half reaches to `largest` (the upper half is guard) and in which
    `smallest` has a good index.

    Where that asks for more than two ranges of k bits, `smallest` gets a coarser index: 2^(2k − 3)
    below the end of the window it is 1. Half of it is still good, what is smaller is guard. `two`:
    with a fine range in any case.
    """
    coarse = Window(max(bits_for(largest) + 1, k + 2), k)
    index = coarse.index(smallest)
    if index >= GOOD_INDEX and not two:
        return Ranges(coarse, None, max(int(index / 2), 1))
    # the coarse range answers from index 2^(k − gap) on, so a wide gap trades its precision there
    # away
    most = k - 4 if index * 2.0 ** (k - 4) >= LEAST_INDEX else k - 3
    gap = min(max(bits_for(GOOD_INDEX / index), 4), most, coarse.bits - k - 2)
    fine = Window(coarse.bits - gap, k)
    return Ranges(coarse, fine, max(int(fine.index(smallest) / 2), 1))


def _scalar(found: Ranges, out_shift: int, add: Callable[[Window, dict[str, Any]], list[int]]) -> Scalar:
    """`add` makes a window's tables, given the parameters that say where its guards are."""
    coarse, fine = found.coarse, found.fine
    ids = add(coarse, {"low": found.low if fine is None else 0, "fine": 0, "below": found.below})
    hi = Range(coarse.mu, coarse.h, coarse.k, ids[0], ids[1], ids[2], ids[3] if len(ids) > 3 else None)
    if fine is None:
        return Scalar(hi, None, out_shift)
    ids = add(fine, {"low": found.low, "fine": 1, "below": None})
    return Scalar(hi, Range(fine.mu, fine.h, fine.k, ids[0], ids[1], ids[2], None), out_shift)


def rsqrt(
    tables: TableSet,
    smallest: float,
    largest: float,
    unit: float,
    eps: float,
    most: int = 32,
    gap: tuple[float, float] | None = None,
) -> tuple[Scalar, int]:
    """`ρ = 2^r / √(m/unit + eps)` for m calibrated in [smallest, largest], but not in `gap`;
    returns the scalar and r.

    r: 12 bits of ρ at the largest m that is not in the guard, more below; fewer if r would exceed
    `most`. What ρ lacks in precision, all of a row's numbers lack. The fewest index bits that reach
    everything.
    """
    smallest, largest = smallest / NORM_MARGIN, largest * NORM_MARGIN
    tried = [ranges(smallest, largest, k) for k in NORM_K]
    found = next((t for t in tried if (t.fine or t.coarse).index(smallest) >= LEAST_INDEX), tried[-1])
    root = math.sqrt(largest / unit + eps)
    least, wished = (math.ceil(bits + math.log2(root)) for bits in NORM_BITS)
    r = min(max(min(wished, most), least, NORM_BITS[0]), 32)
    out_shift = max(TOP_BITS - math.floor(r - math.log2(root)), 1)

    def add(w: Window, guard: dict[str, Any]) -> list[int]:
        one = unit / 2.0**w.mu  # the argument of a mean square of 1
        numerator = 2.0 ** (r + out_shift) * math.sqrt(one)
        n = 3 if guard["below"] is None else 4
        between = w.pieces(*gap) if gap else None
        return tables.add(n, kind="rsqrt", k=w.k, h=w.h, numerator=numerator, eps=eps * one, gap=between, **guard)

    return _scalar(found, out_shift, add), r


def reciprocal(tables: TableSet, found: Ranges, r: int) -> Scalar:
    """`ρ = 2^r / σ`. The tables depend on the windows' shapes alone, so heads share them."""
    out_shift = min(max(TOP_BITS + found.coarse.bits - r, 1), 32)
    scale = r + out_shift

    def add(w: Window, guard: dict[str, Any]) -> list[int]:
        n = 3 if guard["below"] is None else 4
        return tables.add(n, kind="reciprocal", k=w.k, h=w.h, bits=scale - w.mu, **guard)

    return _scalar(found, out_shift, add)
