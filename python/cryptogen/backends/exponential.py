"""A9 of `docs/protocols/arithmetic.md`: powers of two of shared exponents, as the two parties
compute them.

Of a score x (scale 2^F) the parties hold shares modulo Q of `V = m(φ_c)·m(φ_s)·2^(E_c + E_s)`. If V
is an integer below Q, as it nearly always is, int64 is enough; the rest is computed with Python's
integers.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryptogen.numerics.exponential import MANTISSA_BITS, MODULI, MODULUS_BITS, mantissas
from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import Attention

from .field import Ints, P

MASK = (1 << F) - 1
SURE_BITS = 24  # below 2^-24 of Q, shares of V wrap the wrong way with probability 2^-24 at most
WORD_BITS = 61  # of results that are computed in int64
TINY = 54  # what V is shifted down by more is 0 but for probability 2^-32
_MANTISSAS = mantissas()


class HeadPowers:
    """The public constants of the exponentials of one layer's heads, an array [G] each."""

    def __init__(self, attention: Attention) -> None:
        heads = attention.heads
        self.primes, self.bottom, self.shift = (
            np.array([getattr(h, name) for h in heads], dtype=np.int64) for name in ("primes", "bottom", "shift")
        )
        sure = np.array(MODULUS_BITS, dtype=np.int64)[self.primes] - SURE_BITS
        # V is below 2^(exponent + 2t + 2)
        self.largest = np.minimum(sure, self.shift + WORD_BITS) - 2 * MANTISSA_BITS - 2

    def of(self, x: Ints, fraction: Ints, head: NDArray[np.int64] | int) -> "Powers":
        """Of scores x [N] of one head, or of the heads [N], given the F low bits of the client's
        shares."""
        y = x + (self.bottom[head] << F)
        y -= fraction
        exponent = y >> F
        y &= MASK
        mantissa = _MANTISSAS.take(fraction)
        mantissa *= _MANTISSAS.take(y)
        rare = (exponent < 0) | (exponent > self.largest[head])
        constants = np.broadcast_arrays(x, self.primes[head], self.bottom[head], self.shift[head])[1:]
        return Powers(x, fraction, mantissa, exponent, rare, *constants)


class Powers(NamedTuple):
    """`V = mantissa·2^exponent` of scores x, element by element; modulo Q where `rare`, and where
    the shares of x wrap the wrong way another one."""

    x: Ints
    fraction: Ints
    mantissa: Ints
    exponent: Ints
    rare: NDArray[np.bool_]
    primes: Ints
    bottom: Ints
    shift: Ints

    def cut(self) -> Ints:
        """By how many bits each V is shifted down; no more than leaves nothing of it."""
        return np.asarray(np.clip(self.shift - self.exponent, 0, TINY))

    def shifted(self, cut: Ints, added: Ints | int) -> Ints:
        """`floor((V + added·2^exponent)/2^shift)`, `added` below `2^cut`; where `rare` anything."""
        up = np.clip(self.exponent - self.shift, 0, WORD_BITS - 2 * MANTISSA_BITS - 2)
        return np.asarray(((self.mantissa << up) + added) >> cut)

    def exactly(self) -> Iterator["Exact"]:
        """The rare ones, in C order."""
        rare = np.broadcast_to(self.rare, self.x.shape)
        columns = (self.x, self.fraction, self.primes, self.bottom, self.shift)
        for x, fraction, primes, bottom, shift in zip(*(c[rare].tolist() for c in columns), strict=True):
            yield Exact(x, fraction, primes, bottom, shift)


class Exact(NamedTuple):
    """One score, of any size."""

    x: int
    fraction: int
    primes: int
    bottom: int
    shift: int

    @property
    def modulus(self) -> int:
        """Q."""
        return MODULI[self.primes]

    def value(self, wrapped: bool = False) -> int:
        """V modulo Q; of shares of x that wrap the way they nearly never do, if `wrapped` (A1)."""
        y = self.x + (self.bottom << F) - self.fraction
        if wrapped:
            y += P if self.x < 0 else -P
        exponent, fraction = divmod(y, 1 << F)
        mantissa = int(_MANTISSAS[self.fraction]) * int(_MANTISSAS[fraction])
        return mantissa * _power(exponent, self.primes) % self.modulus

    def truncated(self, value: int, client: int) -> int:
        """The result, given V and the client's share modulo Q."""
        server = (value - client) % self.modulus
        return signed((client >> self.shift) + ((server - self.modulus) >> self.shift) + 1)

    def outcomes(self, wrapped: bool) -> set[int]:
        """All results that shares of V can give."""
        value = self.value(wrapped)
        floors = (value >> self.shift, (value - self.modulus) >> self.shift)
        return {signed(floor + up) for floor in floors for up in (0, 1)}


@lru_cache(1 << 16)
def _power(exponent: int, primes: int) -> int:
    """`2^exponent` modulo Q; the exponent may be negative."""
    return pow(2, exponent, MODULI[primes])


def signed(x: int) -> int:
    """The representative modulo p in (−p/2, p/2)."""
    x %= P
    return x - P if x > P // 2 else x
