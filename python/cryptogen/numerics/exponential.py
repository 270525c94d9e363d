"""Public constants of exponentials of shares (`docs/protocols/arithmetic.md`, A9).

`2^y` of a shared `y` is a product of two factors that each party computes alone, modulo some of
these primes. Source: Kelkar, Le, Raykova, Seth, *Secure Poisson Regression*, USENIX Security 2022;
several primes at once (CRT) are this project's.
"""

import math

import numpy as np

from .pieces import F, IntTable

PRIMES = (
    18446744069414584321, 3603109844542291969, 2663848877152141313,
    18446744073709436929, 18446744073709305857, 18446744073708797953,
)  # fmt: skip
MANTISSA_BITS = 10  # t: of a factor's mantissa
MODULI = tuple(math.prod(PRIMES[:n]) for n in range(len(PRIMES) + 1))  # Q of the first n
MODULUS_BITS = tuple(q.bit_length() - 1 for q in MODULI)  # floor(log2 Q)
LEAST_PRIMES = 2
RESULT_BITS = 58  # log2 of Q over the unit of a result, at least: its shares must be wide enough to be lifted
FAILURE_BITS = 30  # the truncation of a score at its anchor, or at the calibrated top, fails with 2^-30 at most
MAX_ANCHOR_BITS = 24  # of the result of a score at its anchor
_CUBIC = (1308915, 3792916, 11674113, 16775963)  # 2^24·2^z on [0, 1), highest power first


def mantissas() -> IntTable:
    """`m(φ) ≈ 2^(t + φ/2^F)`, [2^F], in `[2^t, 2^(t+1)]`: the integer cubic that both parties
    compute, relative error at most 5.5e-4."""
    phi = np.arange(1 << F, dtype=np.int64)
    u = np.full(1 << F, _CUBIC[0], dtype=np.int64)
    for c in _CUBIC[1:]:
        u = c + ((u * phi) >> F)
    return (u + (1 << 13)) >> 14
