"""The field `F_p`, `p = 2^64 − 2^32 + 1`, element by element: int64 arrays of signed
representatives in (−p/2, p/2).

Nearly always nothing wraps and int64 is enough; the largest operands decide whether it is. Exact
for every input.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Unsigned = NDArray[np.uint64]

P = 2**64 - 2**32 + 1
FITS = float(1 << 62)  # results below need no reduction, whatever float64 makes of their bound
_LOW = np.uint64(0xFFFF_FFFF)
_32 = np.uint64(32)
_P = np.uint64(P)


def to_field(x: Ints) -> Unsigned:
    """Signed representatives, or any int64, as numbers in [0, p)."""
    u: Unsigned = x.astype(np.uint64)
    return np.where(x < 0, u - np.uint64(2**64 - P), u)  # x + p = (x mod 2^64) − (2^64 − p)


def from_field(u: Unsigned) -> Ints:
    """Numbers in [0, p) as signed representatives in (−p/2, p/2)."""
    return np.where(u > np.uint64(P // 2), u + np.uint64(2**64 - P), u).astype(np.int64)


def add_field(a: Unsigned, b: Unsigned) -> Unsigned:
    """Modulo p."""
    total = a + b  # modulo 2^64
    total = np.where(total < a, total + _LOW, total)  # 2^64 = 2^32 − 1 modulo p
    return np.where(total >= _P, total - _P, total)


def sub_field(a: Unsigned, b: Unsigned) -> Unsigned:
    """Modulo p."""
    return np.where(a >= b, a - b, a - b - _LOW)  # a borrow is 2^64 = 2^32 − 1 modulo p


def mul_field(a: Unsigned, b: Unsigned) -> Unsigned:
    """Modulo p, by halves of 32 bits: `2^64 = 2^32 − 1` and `2^96 = −1`."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    low, mid, cross, high = a0 * b0, a0 * b1, a1 * b0, a1 * b1
    carry = (low >> _32) + (mid & _LOW) + (cross & _LOW)
    low = (low & _LOW) | (carry << _32)
    high = high + (mid >> _32) + (cross >> _32) + (carry >> _32)
    return sub_field(add_field(reduced(low), (high & _LOW) * _LOW % _P), high >> _32)


def reduced(u: Unsigned) -> Unsigned:
    """Any 64-bit number modulo p."""
    return np.where(u >= _P, u - _P, u)


def largest(x: Ints) -> float:
    """`max |x|`; 0 for nothing."""
    return max(-float(x.min(initial=0)), float(x.max(initial=0)))


def times(a: Ints, b: Ints) -> Ints:
    """`a·b` element by element, with broadcasting."""
    if largest(a) * largest(b) < FITS:
        return a * b
    return from_field(mul_field(to_field(a), to_field(b)))


def plus(a: Ints, b: Ints) -> Ints:
    """`a + b` element by element, with broadcasting."""
    if largest(a) + largest(b) < FITS:
        return a + b
    return from_field(add_field(to_field(a), to_field(b)))


def minus(a: Ints, b: Ints) -> Ints:
    """`a − b` element by element, with broadcasting."""
    return plus(a, -b)


def total(x: Ints, axis: int) -> Ints:
    """The sum along an axis."""
    if largest(x) * x.shape[axis] < FITS:
        return np.asarray(x.sum(axis=axis))
    u = to_field(np.moveaxis(x, axis, 0))
    low, high = (u & _LOW).sum(axis=0), (u >> _32).sum(axis=0)  # no carry: fewer than 2^32 terms
    return from_field(add_field(reduced(low), mul_field(reduced(high), np.array(1 << 32, dtype=np.uint64))))
