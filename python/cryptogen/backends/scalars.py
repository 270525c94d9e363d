"""A3 and A4 of `docs/protocols/arithmetic.md` for many heads at once: a column per head, a norm being one head."""

import numpy as np
from numpy.typing import NDArray

from cryptogen.numerics.pieces import IntTable
from cryptogen.numerics.plan import Attention, Range, Scalar

from .rounding import Ints, Rounding

Flags = NDArray[np.bool_]


class RangeTables:
    """One range of G scalars: `y = A[j]·m + B[j]`, `m = TR(·, mu)`, `j = IDX(m, h, k)`."""

    def __init__(self, ranges: list[Range], tables: list[IntTable]) -> None:
        self.k = ranges[0].k
        self.mu = np.array([r.mu for r in ranges], dtype=np.int64)  # [G]
        self.h = np.array([r.h for r in ranges], dtype=np.int64)
        self.end = ((1 << self.k) - 1) << self.h  # the last piece stands for index −1
        self.a = [tables[r.a] for r in ranges]  # by reference: heads share tables
        self.b = [tables[r.b] for r in ranges]
        self.z = [None if r.z is None else tables[r.z] for r in ranges]

    def pick(self, which: list[IntTable], j: Ints) -> Ints:
        """`which[g][j[:, g]]`, [N, G]."""
        return np.stack([table[j[:, g]] for g, table in enumerate(which)], axis=1)

    def line(self, m: Ints, j: Ints) -> Ints:
        return self.pick(self.a, j) * m + self.pick(self.b, j)  # wraps harmlessly where Z discards it


class ScalarTables:
    """`ρ = SCALAR_g(m)` for m [N, G]. Events: TR hi, [TR lo], IDX hi, [IDX lo], TR y, each [N, G] in C order."""

    def __init__(self, scalars: list[Scalar], tables: list[IntTable]) -> None:
        self._hi = RangeTables([s.hi for s in scalars], tables)
        fine = [s.lo for s in scalars if s.lo is not None]
        self._lo = RangeTables(fine, tables) if fine else None
        self._out_shift = np.array([s.out_shift for s in scalars], dtype=np.int64)  # [G]

    def __call__(self, m: Ints, rounding: Rounding) -> tuple[Ints, Flags]:
        """ρ [N, G] and where m lies outside the window."""
        hi, lo = self._hi, self._lo
        m_hi = rounding.truncate(m, hi.mu)
        m_lo = rounding.truncate(m, lo.mu) if lo else m
        j_hi = rounding.index(m_hi, hi.h, hi.k)
        y = hi.line(m_hi, j_hi)
        outside = (m < 0) | (m_hi >= hi.end)
        if lo:
            j_lo = rounding.index(m_lo, lo.h, lo.k)
            z = hi.pick([t for t in hi.z if t is not None], j_hi)
            y = y + z * lo.line(m_lo, j_lo)
            outside |= (z == 1) & (m_lo >= lo.end)
            outside |= m_lo < 1 << lo.h
        else:
            outside |= m_hi < 1 << hi.h
        return rounding.truncate(y, self._out_shift), outside


class HeadTables:
    """The public constants of one layer's attention."""

    def __init__(self, attention: Attention, tables: list[IntTable]) -> None:
        heads = attention.heads
        self.scalar = ScalarTables([h.scalar for h in heads], tables)
        self.e_shift, self.o_shift, self._h, self._offset, self._center = (
            np.array([getattr(h, name) for h in heads], dtype=np.int64)
            for name in ("e_shift", "o_shift", "h", "offset", "center")
        )  # [G] each
        self._k = attention.k
        self._a = np.stack([tables[h.a] for h in heads])  # [G, 2^k]
        self._b = np.stack([tables[h.b] for h in heads])

    def exp(self, s: Ints, head: NDArray[np.intp], rounding: Rounding) -> tuple[Ints, Flags]:
        """`PWL(s)` of scores s [N] of the heads `head` [N], and where s lies outside its head's window."""
        x, h = s - self._offset[head], self._h[head]
        j = rounding.index(x, h, self._k)
        y = self._a[head, j] * (s - self._center[head]) + self._b[head, j]
        return y, (x < 1 << h) | (x >= 1 << (h + self._k))
