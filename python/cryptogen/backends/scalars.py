"""A3 and A4 of `docs/protocols/arithmetic.md` for many heads at once: a column per head, a norm
being one head."""

import numpy as np

from cryptogen.numerics.pieces import NET_K, NET_SHIFT, IntTable, net
from cryptogen.numerics.plan import Range, Scalar

from .field import Ints, times
from .rounding import Rounding


class RangeTables:
    """One range of G scalars: `y = A[j]·m + B[j]` modulo 2^64, `m = TR(·, mu)`,
    `j = IDX(m, h, k)`."""

    def __init__(self, ranges: list[Range], tables: list[IntTable]) -> None:
        self.k = ranges[0].k
        self.mu = np.array([r.mu for r in ranges], dtype=np.int64)  # [G]
        self.h = np.array([r.h for r in ranges], dtype=np.int64)
        self.a = [tables[r.a] for r in ranges]  # by reference: heads share tables
        self.b = [tables[r.b] for r in ranges]
        self.g = [tables[r.g] for r in ranges]
        self.z = [tables[r.z] for r in ranges if r.z is not None]

    def pick(self, which: list[IntTable], j: Ints) -> Ints:
        """`which[g][j[:, g]]`, [N, G]."""
        return np.stack([table[j[:, g]] for g, table in enumerate(which)], axis=1)

    def line(self, m: Ints, j: Ints) -> Ints:
        return self.pick(self.a, j) * m + self.pick(self.b, j)


class ScalarTables:
    """`ρ = SCALAR_g(m)` for m [N, G]. Events: TR hi, [TR lo], TR net, IDX hi, [IDX lo], IDX net,
    TR y, each [N, G] in C order. `cleared`: whether it is 0 outside of the window."""

    def __init__(self, scalars: list[Scalar], tables: list[IntTable], cleared: bool = True) -> None:
        self._cleared = cleared
        self._hi = RangeTables([s.hi for s in scalars], tables)
        fine = [s.lo for s in scalars if s.lo is not None]
        self._lo = RangeTables(fine, tables) if fine else None
        self._out_shift = np.array([s.out_shift for s in scalars], dtype=np.int64)  # [G]
        self._net = net()
        self._net_factors = np.int64(1) << np.array([s.net_lift for s in scalars], dtype=np.int64)  # [G]
        self._net_h = np.array([s.net_h for s in scalars], dtype=np.int64)  # [G]

    def __call__(self, m: Ints, rounding: Rounding) -> tuple[Ints, Ints]:
        """ρ and range events, [N, G]."""
        hi, lo = self._hi, self._lo
        m_hi = rounding.truncate(m, hi.mu)
        m_lo = rounding.truncate(m, lo.mu) if lo else m
        m_net = rounding.truncate(times(m, self._net_factors), NET_SHIFT)
        j_hi = rounding.index(m_hi, hi.h, hi.k)
        j_lo = rounding.index(m_lo, lo.h, lo.k) if lo else j_hi
        inside = self._net[rounding.index(m_net, self._net_h, NET_K)]
        y, events = hi.line(m_hi, j_hi), hi.pick(hi.g, j_hi) + 1 - inside
        if self._cleared:
            y = inside * y
        if lo:
            z = hi.pick(hi.z, j_hi)
            y = y + z * lo.line(m_lo, j_lo)
            events = events + z * lo.pick(lo.g, j_lo)
        return rounding.truncate_word(y - 1, self._out_shift), events

    def outside(self, m: Ints, g: int) -> float:
        """By which factor the values m [N] of column g lie outside the window's good part; 1 if
        they do not."""
        hi, lo = self._hi, self._lo
        largest = 2.0 ** (int(hi.mu[g]) + int(hi.h[g]) + hi.k - 1)
        last = lo or hi
        least = np.argmin(last.g[g]) * 2.0 ** int(last.mu[g] + last.h[g])  # the first piece that is no guard
        above, below = float(m.max()) / largest, least / max(float(m.min()), 1.0)
        return max(above, below, 1.0)
