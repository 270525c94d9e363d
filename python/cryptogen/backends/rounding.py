"""How the oracle decides what local truncation leaves open (`docs/protocols/arithmetic.md`, A1, A2,
A6, A8 and A9).

Numbers are signed representatives modulo p, int64; those modulo `2^64` are int64 as they are.
`TR(x, k)` is `floor((x+1)/2^k)` or that plus 1; `IDX(x, h, k)` is `floor((x+1)/2^h)` or that minus
1, mod `2^k`; leading bits are `floor(2^24·x/p)` or that plus 1. Shifts may be one integer or an
array that broadcasts. Every call is one event of `x.size` outcomes in C order.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryptogen.errors import ReplayError
from cryptogen.numerics.pieces import F

from .exponential import TINY, Powers, signed
from .field import Ints, P, Unsigned, add_field, from_field, largest, minus, reduced, sub_field, to_field

Shift = int | Ints
Outcome = Callable[[Ints, Unsigned, Ints], Ints]  # (x, client's share, shift) → what two parties get
Test = Callable[[Ints], NDArray[np.bool_]]
LEADING_BITS = 24
STEP = P >> LEADING_BITS  # numbers with the same leading bits, (p − 1)/2^24
LARGE = 1 << 40  # below, shares wrap the wrong way with probability 2^-24 at most


class Rounding(Protocol):
    """`ordered`: whether it matters in which order values are asked for."""

    ordered: bool

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        """`TR(x, k)`, same shape as x: A1, shares over `F_p`. `off`: how many units two parties'
        shares of x may be off by (A5.3)."""
        ...

    def truncate_word(self, x: Ints, k: Shift) -> Ints:
        """`TR(x, k)` of shares modulo `2^64` (A6), a number modulo p."""
        ...

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        """`IDX(x, h, k)`, same shape as x, in `[0, 2^k)`."""
        ...

    def lift(self, x: Ints) -> Ints:
        """A6 of a share that no truncation has made, a number modulo `2^64`."""
        ...

    def leading(self, x: Ints, off: int = 0) -> Ints:
        """A8: the leading 24 bits of x, same shape, in `[−2^23, 2^23)`. `off`: as in `truncate`."""
        ...

    def fraction(self, x: Ints) -> Ints:
        """A9: the F low bits of the client's share of x, fixed before x is known; same shape."""
        ...

    def exponential(self, v: Powers) -> Ints:
        """A9: V truncated by its shift, same shape as x, a number modulo p."""
        ...


class Nearest:
    """Deterministic: round half up; the upper index; shares always wrap the way they nearly always
    do; fractions of clients' shares are 0."""

    ordered = False

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        return (x + ((1 << np.asarray(k, dtype=np.int64)) >> 1)) >> k

    truncate_word = truncate

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return ((x + 1) >> h) & ((1 << k) - 1)

    def lift(self, x: Ints) -> Ints:
        return x

    def leading(self, x: Ints, off: int = 0) -> Ints:
        low, rest = _leading_floor(x)
        return _signed(low + (rest >= STEP // 2))

    def fraction(self, x: Ints) -> Ints:
        return np.zeros_like(x)

    def exponential(self, v: Powers) -> Ints:
        cut = v.cut()
        y = v.shifted(cut, (np.int64(1) << cut) >> 1)
        if v.rare.any():
            y[v.rare] = [signed((e.value() + (1 << e.shift >> 1)) >> e.shift) for e in v.exactly()]
        return y


class Random:
    """What uniform shares give: the upper outcome with probability `((x+1) mod 2^k + 1)/2^k`, and
    wrong wraps; of leading bits with the probability that the rest is of a step.

    Where a wrong wrap is likelier than `2^-24` shares are drawn and the parties' formulas applied;
    below, a 32-bit number decides, and a wrong wrap does not happen. So it is with exponentials.
    """

    ordered = False

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        return self._repaired(self._upper(x, k), x, k, truncated_shares, P)

    def truncate_word(self, x: Ints, k: Shift) -> Ints:
        return self._repaired(self._upper(x, k), x, k, truncated_word_shares, 1 << 64)

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return self._repaired(self._upper(x, h) - 1, x, h, index_shares, P) & ((1 << k) - 1)

    def lift(self, x: Ints) -> Ints:
        return self._repaired(x, x, 0, lifted_shares, P)

    def leading(self, x: Ints, off: int = 0) -> Ints:
        low, rest = _leading_floor(x)
        place = self._rng.integers(0, (1 << 32) - 1, size=x.shape, dtype=np.uint32).astype(np.int64) << 8
        return _signed(low + (rest + place >= STEP))  # a step is 2^8·(2^32 − 1)

    def fraction(self, x: Ints) -> Ints:
        return self._rng.integers(0, 1 << F, size=x.shape, dtype=np.uint16).astype(np.int64)

    def exponential(self, v: Powers) -> Ints:
        cut = v.cut()
        added = self._rng.integers(0, 1 << 32, size=v.x.shape, dtype=np.uint32).astype(np.int64)
        added <<= TINY - 32
        added >>= TINY - cut  # uniform below 2^cut
        y = v.shifted(cut, added)
        if v.rare.any():
            y[v.rare] = self._drawn(v)
        return y

    def _drawn(self, v: Powers) -> list[int]:
        """The rare exponentials, of shares that are drawn."""
        n = int(v.rare.sum())
        wraps = self._rng.random(n) * P < np.abs(v.x[v.rare].astype(np.float64))
        found = []
        for e, wrapped in zip(v.exactly(), wraps.tolist(), strict=True):
            client = int.from_bytes(self._rng.bytes(e.modulus.bit_length() // 8 + 8), "little") % e.modulus
            found.append(e.truncated(e.value(wrapped), client))
        return found

    def _upper(self, x: Ints, k: Shift) -> Ints:
        """`floor((x+1)/2^k)` plus a Bernoulli, `floor((x + 2 + u)/2^k)` `u` uniform below
        `2^k ≤ 2^32`; x for k = 0."""
        y = self._rng.integers(0, 1 << 32, size=x.shape, dtype=np.uint32).astype(np.int64)
        y >>= 32 - np.asarray(k, dtype=np.int64)
        y += x
        y += 2
        y >>= k
        return y if np.min(k) > 0 else np.where(np.asarray(k) == 0, x, y)

    def _repaired(self, y: Ints, x: Ints, k: Shift, outcome: Outcome, modulus: int) -> Ints:
        """`y` with the outcomes of drawn shares where x is large; the client's is uniform modulo
        `modulus`."""
        if largest(x) < LARGE:
            return y
        large = (x >= LARGE) | (x <= -LARGE)
        shifts = np.broadcast_to(np.asarray(k, dtype=np.int64), x.shape)[large]
        client = self._rng.integers(0, modulus - 1, size=len(shifts), dtype=np.uint64, endpoint=True)
        y = y.copy()
        y[large] = outcome(x[large], client, shifts)
        return y


def truncated_shares(x: Ints, client: Unsigned, k: Ints) -> Ints:
    """A1 with the client's share given: `(c >> k) + (s >> k) − (p >> k) + 1`, and x for k = 0."""
    server, shift = sub_field(to_field(x), client), k.astype(np.uint64)
    low = add_field(client >> shift, server >> shift)
    cut = np.where(k == 0, np.uint64(0), (np.uint64(P) >> shift) - np.uint64(1))
    return from_field(sub_field(low, cut))


def truncated_word_shares(x: Ints, client: Unsigned, k: Ints) -> Ints:
    """A6, out: `(c >> k) + (s >> k) − 2^(64−k) + 1` modulo p; `c + s − 2^64` for k = 0."""
    server, shift = x.astype(np.uint64) - client, k.astype(np.uint64)
    low = add_field(reduced(client >> shift), reduced(server >> shift))
    cut = (np.uint64(1) << (np.uint64(64) - np.maximum(shift, 1))) - np.uint64(1)
    cut = np.where(k == 0, np.uint64(2**64 - P), cut)
    return from_field(sub_field(low, cut))


def index_shares(x: Ints, client: Unsigned, h: Ints) -> Ints:
    """A2 with the client's share given, not yet modulo `2^k`."""
    server, shift = sub_field(to_field(x), client), h.astype(np.uint64)
    index: Ints = ((client >> shift) + (server >> shift) - (np.uint64(P) >> shift)).astype(np.int64)
    return index


def lifted_shares(x: Ints, client: Unsigned, _: Ints) -> Ints:
    """A6, in: `c + s − p` modulo `2^64`."""
    return (client + sub_field(to_field(x), client) - np.uint64(P)).astype(np.int64)


class Replay:
    """Outcomes that two parties got, as one stream of integers in the documented order (any
    chunking)."""

    ordered = True

    def __init__(self, values: Iterable[ArrayLike]) -> None:
        self._chunks: Iterator[ArrayLike] = iter(values)
        self._rest: Ints = np.empty(0, dtype=np.int64)

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        return self._truncated(x, k, P, off)

    def truncate_word(self, x: Ints, k: Shift) -> Ints:
        return self._truncated(x, k, 1 << 64)

    def _truncated(self, x: Ints, k: Shift, modulus: int, off: int = 0) -> Ints:
        k = np.broadcast_to(np.asarray(k, dtype=np.int64), x.shape)

        def floor(x: Ints) -> Ints:
            return np.where(k == 0, from_field(to_field(x)), _next_floor(x, k))  # of a word any int64

        low = floor(x)
        step = from_field(reduced(np.uint64(modulus - 1) >> k.astype(np.uint64)))

        def wrong(got: Ints) -> NDArray[np.bool_]:
            """Shares with the other wrap differ by `modulus >> k`, and a carry or `off`."""
            away = minus(got, low)
            near = [np.abs(minus(away, sign * step)) <= 2 + (off >> k) + (off > 0) for sign in (-1, 1)]
            return ~(near[0] | near[1])

        if off:
            return self._take(x, floor(x - off), floor(x + off) + (k > 0), wrong, "product", between=True)
        return self._take(x, low, low + (k > 0), wrong, "truncation")

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        top, mask = _next_floor(x, np.asarray(h, dtype=np.int64)), (1 << k) - 1
        step = (np.uint64(P) >> np.asarray(h, dtype=np.uint64)).astype(np.int64)  # h ≥ 1

        def wrong(got: Ints) -> NDArray[np.bool_]:
            away = [(got - top + sign * step + 2) & mask for sign in (-1, 0, 1)]
            return (away[0] > 3) & (away[1] > 3) & (away[2] > 3)

        return self._take(x, top & mask, (top - 1) & mask, wrong, "index")

    def lift(self, x: Ints) -> Ints:
        return self._take(x, x, x, lambda got: np.abs(got - x) != 2**64 - P, "lifted share")  # ±p modulo 2^64

    def leading(self, x: Ints, off: int = 0) -> Ints:
        (low, _), (high, _) = _leading_floor(x - off), _leading_floor(x + off)
        low, high = _signed(low), _signed(high + 1)
        return self._take(x, low, high, lambda got: np.ones_like(got, dtype=np.bool_), "logit", between=off > 0)

    def fraction(self, x: Ints) -> Ints:
        got = self._next(x.shape, "fraction")
        bound = np.broadcast_to(np.int64((1 << F) - 1), x.shape)
        return _refused(got, (got < 0) | (got > bound), 0 * bound, bound, "fraction")

    def exponential(self, v: Powers) -> Ints:
        """Any that shares of V modulo Q can give, also where x is large and its own shares may wrap
        the wrong way."""
        got = self._next(v.x.shape, "exponential")
        low = v.shifted(v.cut(), 0)
        high = low + 1
        if v.rare.any():
            low[v.rare] = high[v.rare] = self._possible(v, got[v.rare].tolist())
        return _refused(got, (got != low) & (got != high), low, high, "exponential")

    def _possible(self, v: Powers, got: list[int]) -> list[int]:
        """Of the rare exponentials what came, if it can be, or else something that can."""
        found = []
        for e, value in zip(v.exactly(), got, strict=True):
            outcomes = e.outcomes(wrapped=False)
            if abs(e.x) >= LARGE:
                outcomes |= e.outcomes(wrapped=True)
            found.append(value if value in outcomes else min(outcomes))
        return found

    def finish(self) -> None:
        """Raises ReplayError unless every value was used."""
        left = self._rest.size + sum(np.size(np.asarray(chunk)) for chunk in self._chunks)
        if left:
            raise ReplayError(f"replay: 0 values expected to be left, {left} are")

    def _take(self, x: Ints, one: Ints, other: Ints, impossible: Test, what: str, between: bool = False) -> Ints:
        """The next outcomes: `one` or `other`, or what lies `between`; for large x whatever is not
        `impossible`."""
        got = self._next(x.shape, what)
        wrong = (got < one) | (got > other) if between else (got != one) & (got != other)
        if wrong.any() and largest(x) >= LARGE:
            wrong &= ~((x >= LARGE) | (x <= -LARGE)) | impossible(got)
        return _refused(got, wrong, one, other, what)

    def _next(self, shape: tuple[int, ...], what: str) -> Ints:
        """The next values of the stream."""
        size = math.prod(shape)
        while self._rest.size < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise ReplayError(f"replay: {size} values expected for a {what}, {self._rest.size} left")
            self._rest = np.concatenate([self._rest, np.asarray(chunk, dtype=np.int64).reshape(-1)])
        got, self._rest = self._rest[:size].reshape(shape), self._rest[size:]
        return got


def _refused(got: Ints, wrong: NDArray[np.bool_], one: Ints, other: Ints, what: str) -> Ints:
    """`got`, or a ReplayError about the first that is `wrong`."""
    if wrong.any():
        i = np.unravel_index(int(np.argmax(wrong)), got.shape)
        raise ReplayError(f"replay: {what} {i}: expected {one[i]} or {other[i]}, got {got[i]}")
    return got


def _next_floor(x: Ints, k: Ints) -> Ints:
    """`floor((x + 1)/2^k)`, although `x + 1` may overflow."""
    last = (np.int64(1) << k) - 1
    floor: Ints = (x >> k) + ((x & last) == last)
    return floor


def _leading_floor(x: Ints) -> tuple[Ints, Ints]:
    """`floor(2^24·x/p)` of signed representatives, and what x is above the first number of which
    that is so."""
    low = (x - (x > 0)) // STEP  # 2^24·x ≥ q·p = q·(2^24·STEP + 1): for q > 0 that is x > q·STEP
    return low, x - low * STEP


def _signed(z: Ints) -> Ints:
    """Integers modulo `2^24` as signed representatives."""
    half = 1 << (LEADING_BITS - 1)
    return ((z + half) & (2 * half - 1)) - half


class Recording:
    """Passes on another rounding's outcomes and keeps them, in order: input for `Replay`."""

    ordered = True

    def __init__(self, inner: Rounding) -> None:
        self._inner = inner
        self.values: list[Ints] = []

    def truncate(self, x: Ints, k: Shift, off: int = 0) -> Ints:
        return self._keep(self._inner.truncate(x, k, off))

    def truncate_word(self, x: Ints, k: Shift) -> Ints:
        return self._keep(self._inner.truncate_word(x, k))

    def lift(self, x: Ints) -> Ints:
        return self._keep(self._inner.lift(x))

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return self._keep(self._inner.index(x, h, k))

    def leading(self, x: Ints, off: int = 0) -> Ints:
        return self._keep(self._inner.leading(x, off))

    def fraction(self, x: Ints) -> Ints:
        return self._keep(self._inner.fraction(x))

    def exponential(self, v: Powers) -> Ints:
        return self._keep(self._inner.exponential(v))

    def _keep(self, y: Ints) -> Ints:
        self.values.append(y.copy())
        return y
