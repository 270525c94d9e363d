"""How the oracle decides what local truncation leaves open (`docs/protocols/arithmetic.md`, A1 and A2).

`TR(x, k)` is `floor((x+1)/2^k)` or that plus 1; `IDX(x, h, k)` is `floor((x+1)/2^h)` or that minus 1, mod `2^k`.
Shifts may be one integer or an array that broadcasts. Every call is one event of `x.size` outcomes in C order.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryptogen.errors import CryptogenError

Ints = NDArray[np.int64]
Shift = int | Ints


class ReplayError(CryptogenError):
    """A replayed value is not one of the two legal outcomes, or there are too few or too many values."""


class Rounding(Protocol):
    def truncate(self, x: Ints, k: Shift) -> Ints:
        """`TR(x, k)`, same shape as x."""
        ...

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        """`IDX(x, h, k)`, same shape as x, in `[0, 2^k)`."""
        ...


class Nearest:
    """Deterministic: round half up; the upper index."""

    def truncate(self, x: Ints, k: Shift) -> Ints:
        return (x + ((1 << np.asarray(k, dtype=np.int64)) >> 1)) >> k

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return ((x + 1) >> h) & ((1 << k) - 1)


class Random:
    """The distribution that uniform shares give: upper outcome with probability `((x+1) mod 2^k + 1)/2^k`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def truncate(self, x: Ints, k: Shift) -> Ints:
        if isinstance(k, int) and k == 0:
            return x
        return np.where(np.asarray(k) == 0, x, self._upper(x, k)) if not isinstance(k, int) else self._upper(x, k)

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return (self._upper(x, h) - 1) & ((1 << k) - 1)

    def _upper(self, x: Ints, k: Shift) -> Ints:
        """`floor((x+1)/2^k)` plus a Bernoulli: `floor((x + 2 + u)/2^k)` with `u` uniform in `[0, 2^k)`, k ≤ 32."""
        y = self._rng.integers(0, 1 << 32, size=x.shape, dtype=np.uint32).astype(np.int64)
        y >>= 32 - np.asarray(k, dtype=np.int64)
        y += x
        y += 2
        y >>= k
        return y


class Replay:
    """Outcomes that two parties got, as one stream of integers in the documented order (any chunking)."""

    def __init__(self, values: Iterable[ArrayLike]) -> None:
        self._chunks: Iterator[ArrayLike] = iter(values)
        self._rest: Ints = np.empty(0, dtype=np.int64)

    def truncate(self, x: Ints, k: Shift) -> Ints:
        low = (x + 1) >> k
        high = low + 1
        if isinstance(k, int):
            low, high = (x, x) if k == 0 else (low, high)
        else:
            low, high = np.where(k == 0, x, low), np.where(k == 0, x, high)
        return self._take(x, low, high, "truncation")

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        top = (x + 1) >> h
        mask = (1 << k) - 1
        return self._take(x, top & mask, (top - 1) & mask, "index")

    def finish(self) -> None:
        """Raises ReplayError unless every value was used."""
        left = self._rest.size + sum(np.size(np.asarray(chunk)) for chunk in self._chunks)
        if left:
            raise ReplayError(f"replay: 0 values expected to be left, {left} are")

    def _take(self, x: Ints, one: Ints, other: Ints, what: str) -> Ints:
        while self._rest.size < x.size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise ReplayError(f"replay: {x.size} values expected for a {what}, {self._rest.size} left")
            self._rest = np.concatenate([self._rest, np.asarray(chunk, dtype=np.int64).reshape(-1)])
        got, self._rest = self._rest[: x.size].reshape(x.shape), self._rest[x.size :]
        wrong = (got != one) & (got != other)
        if wrong.any():
            i = np.unravel_index(int(np.argmax(wrong)), x.shape)
            raise ReplayError(f"replay: {what} {i}: expected {one[i]} or {other[i]}, got {got[i]}")
        return got


class Recording:
    """Passes on another rounding's outcomes and keeps them, in order: input for `Replay`."""

    def __init__(self, inner: Rounding) -> None:
        self._inner = inner
        self.values: list[Ints] = []

    def truncate(self, x: Ints, k: Shift) -> Ints:
        return self._keep(self._inner.truncate(x, k))

    def index(self, x: Ints, h: Shift, k: int) -> Ints:
        return self._keep(self._inner.index(x, h, k))

    def _keep(self, y: Ints) -> Ints:
        self.values.append(y.copy())
        return y
