"""Estimates of learning parity with noise as `crates/ot/src/silent.rs` uses it: n samples of a
secret of k bits, one error in every block of n / t samples, ten bits of the secret in each sample.

Attacks on a code without structure, cost in bit operations:
- Pooled Gauss, statistical decoding (2.0), information sets with collisions (Stern, Dumer):
  Liu, Wang, Yang, Yu, "The Hardness of LPN over Any Integer Ring and Field for PCG Applications",
  EUROCRYPT 2024 (regular noise gives the attacker t parity checks: n - t samples, k - t bits).
- Information sets for regular noise, enumeration: Esser, Santini, "Not Just Regular Decoding",
  CRYPTO 2024, appendix A.1.
- Algebraic: Briaud, Oygarden, "A New Algebraic Approach to the Regular Syndrome Decoding Problem
  and Implications for PCG Constructions", EUROCRYPT 2023, hybrid over guessed samples without
  noise; and with the elimination in two steps (ePrint 2025/1476).
- Linearised quadratic equations after guesses: ePrint 2025/1284.
The formulas give the values of github.com/1234wangtr/Code_estimators at 41e013c for the instances
that `check` names.

Attacks on sparse samples: those that use x*k chosen bits of the secret only are a smaller instance
with the same rate of noise. Ours, not from a paper, so generous to the attacker: a choice of bits
that has as many samples of its own as bits is a trial, any number of such choices is to be had for
nothing, linear algebra costs 20 k^2 (Wiedemann), a list's element one operation; up to p wrong
samples are found by collisions (Stern). x is what a random choice allows; what removing the bits
in the fewest samples, one by one, leaves (tried at a sixteenth of the size); and what may exist by
a union bound, though then there are not many.

    python3 crates/ot/params/estimate.py > crates/ot/params/silent.txt
"""

from heapq import heapify, heappop, heappush
from math import ceil, comb, inf, lgamma, log, log2, sqrt
from random import Random

N, K, T = 256 * 3072, (1 << 15) + (1 << 13), 3072
# Of the two parts of the secret.
TERMS = (8, 2)


def log_comb(n: float, k: float) -> float:
    if k < 0 or k > n:
        return -inf
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)


def add(*logs: float) -> float:
    top = max(logs)
    return top + log2(sum(2 ** (x - top) for x in logs))


def gauss(n: int, k: int, t: int) -> float:
    return 2.8 * log2(k) - (log_comb(n - k, t) - log_comb(n, t))


def statistical_decoding(n: int, k: int, t: int) -> float:
    k -= int(gauss(n, k, t))
    return log2(k + 1) + 2 * t * log2((n - t + 1) / (n - k - t))


def collisions(n: int, k: int, t: int) -> float:
    def cost(p: int, l: int) -> float:
        lists = log_comb((k + l) // 2, p // 2)
        pairs = 2 * lists - l
        once = add(log2((n - k - l) * n / log2(n - k - l)), 1 + lists, 1 + pairs) + log2(n)
        chance = log_comb(n - k - l, t - p) - log_comb(n, t) + l + pairs
        return once - min(chance, 0)

    return min(cost(p, l) for p in range(0, 40, 2) for l in range(2, min(400, n - k - 2), 2))


def enumeration(n: int, k: int, t: int) -> float:
    block, k = n // t, k - t
    best = inf
    for p in range(0, 30, 2):
        of_lists = log2(comb(round(t / 2), p // 2)) + log2(max(k / t, 1e-9)) * (p / 2) if p else 0
        for l in range(ceil(of_lists * 0.5), max(round(of_lists * 1.5), 1)):
            v = (k + l) / t
            if v >= block:
                continue
            chance = 2 * log2(comb(t // 2, p // 2)) + log2(v / block) * p + log2(1 - v / block) * (t - p)
            lists = log2(comb(round(t / 2), p // 2)) + log2(v) * (p / 2)
            best = min(best, log2(n) + max(log2(n - k) * 2, 1 + lists, 2 * lists - l) - chance)
    return best


class Algebraic:
    """Sizes of systems of degree d with u of b samples removed in f blocks of t."""

    def __init__(self, n: int, k: int, t: int) -> None:
        self.n, self.k, self.t, self.b = n, k, t, n // t

    def series(self, f: int, u: int, of_checks: bool) -> list[int]:
        a = [comb(f, i) * (self.b - u - 1) ** i for i in range(5)]
        b = [comb(self.t - f, i) * (self.b - 1) ** i for i in range(5)]
        r = self.n - self.k - 2
        c = [(-1) ** i * comb(r + i, i) if of_checks else int(i == 0) for i in range(5)]
        ab = [sum(a[j] * b[i - j] for j in range(i + 1)) for i in range(5)]
        return [sum(ab[j] * c[i - j] for j in range(i + 1)) for i in range(5)]

    def up_to(self, f: int, u: int, degree: int, of_checks: bool) -> int:
        series = self.series(f, u, of_checks)
        return sum(series[1 if degree == 2 else 2 : degree + 1]) + (sum(series[1:2]) if degree > 2 else 0)

    def degree(self, f: int, u: int) -> int | None:
        """The smallest one at which the system is solved."""
        series = self.series(f, u, True)
        total = series[1] + series[2]
        for degree in (2, 3, 4):
            if degree > 2:
                total += series[degree]
            if total < 1:
                return degree
        return None

    def guessed(self, f: int, u: int) -> float:
        return -f * log2(1 - u / self.b)

    def grid(self, steps: int) -> list[tuple[int, int]]:
        fs = sorted({max(1, self.t * i // steps) for i in range(1, steps + 1)})
        us = sorted({max(1, (self.b - 1) * i // steps) for i in range(1, steps)})
        return [(f, u) for f in fs for u in us if f * u < self.k + 1]

    def one_step(self) -> float:
        best = inf
        for f, u in [(0, 0), *self.grid(100)]:
            if (degree := self.degree(f, u)) is not None:
                size = log2(self.up_to(f, u, degree, False))
                best = min(best, 2 * size + log2(3 * (self.k + 1 - f * u)) + self.guessed(f, u))
        return best

    def two_steps(self) -> float:
        best, grid = inf, self.grid(40)
        for f, u in grid:
            degree = self.degree(f, u)
            if degree is None or self.guessed(f, u) > best:
                continue
            for f1, u1 in grid:
                if f1 > f or u1 > u:
                    continue
                size = self.up_to(f1, u1, degree, False)
                left = max(self.up_to(f1, u1, degree, True), 1)
                made = max(size - left, 2)
                first = min(log2(5.64) + 2.8 * log2(size), log2(size) + 2 * log2(made) - log2(log2(made)))
                second = log2(5.64) + 2.8 * log2(min(left, made))
                best = min(best, add(max(first, 0) + self.guessed(f1, u1), max(second, 0) + self.guessed(f, u)))
        return best


def linearised(n: int, k: int, t: int, rate: float | None = None) -> float:
    """After u samples are guessed in some blocks, u + 1 in g others, and q blocks wholly. `rate`:
    that of the noise, where a block need not have any."""
    b = n // t
    parity = t if rate is None else 0
    rate = 1 / b if rate is None else rate
    n, k = b * t, k - (n - b * t)

    def cost(u: int, q: int, g: int) -> float | None:
        chance = log2(1 - (u + 1) * rate) * g + log2(1 - u * rate) * (t - q - g)
        n0 = k - parity - (u + 1) * g - (t - g - q) * u
        rest = max(n - k - (n - k) // (b - 1) * (b - u - 2), 1)
        elimination = log2(max(rest * (n - k) * (rest + n0), 1))
        if n0 <= 0:
            return elimination - chance
        m0 = (t - g - q) * (b - u - 2) * (b - u - 1) / 2 + g * (b - u - 2) * (b - u - 3) / 2
        w = (b - 1) * q
        v0 = n0 - w
        if v0 < 0 or v0 > max(sqrt(2 * m0) - 2, 0):
            return None
        if v0 == 0:
            return add(elimination, q * log2(b)) - chance
        once = log2(max(v0**4 * n0**2 / 8 / log2(max(v0**2 / 2, 2)), 1))
        each = log2(max(1.25 * (2 * v0**2 * w + v0 * w**2) + (2.5 * v0) ** 3 / log2(max(2.5 * v0, 2)), 1))
        return add(elimination, once, each + q * log2(b)) - chance

    best = inf
    for q in range(10):
        for u in range(b - 2):
            if (u + 1) * rate >= 1:
                break
            # The fewest guesses that leave few enough variables cost least.
            low, high = 0, t - q - 1
            if cost(u, q, high) is None:
                continue
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if cost(u, q, middle) is not None else (middle + 1, high)
            for g in range(low, min(low + 3, t - q)):
                best = min(best, cost(u, q, g) or inf)
    return best


def densest() -> float:
    """The smallest x for which x*k bits with as many samples of their own may exist."""

    def exists(x: float) -> bool:
        mean, need = N / K * x ** sum(TERMS), x
        excess = need * log(need / mean) - need + mean if mean < need else 0
        return excess <= -x * log(x) - (1 - x) * log(1 - x)

    return next(x / 1000 for x in range(300, 1000) if exists(x / 1000))


def greedy(scale: int = 16) -> float:
    """x when bits in the fewest samples are removed, with these samples, as long as others
    remain."""
    n, parts, random = N // scale, (4 * K // 5 // scale, K // 5 // scale), Random(1)
    k = sum(parts)
    samples = [
        [random.randrange(parts[0]) for _ in range(TERMS[0])]
        + [parts[0] + random.randrange(parts[1]) for _ in range(TERMS[1])]
        for _ in range(n)
    ]
    members: list[list[int]] = [[] for _ in range(k)]
    for i, sample in enumerate(samples):
        for bit in sample:
            members[bit].append(i)
    degree, alive, there = [len(m) for m in members], [True] * n, [True] * k
    queue = [(d, bit) for bit, d in enumerate(degree)]
    heapify(queue)
    bits = k
    while n >= bits:
        d, bit = heappop(queue)
        if not there[bit] or d != degree[bit]:
            continue
        there[bit], bits = False, bits - 1
        for i in members[bit]:
            if alive[i]:
                alive[i], n = False, n - 1
                for other in samples[i]:
                    degree[other] -= 1
                    if there[other]:
                        heappush(queue, (degree[other], other))
    return bits / k


def on_fewer_bits(x: float) -> float:
    k, rate, best = int(x * K), T / N, inf
    for p in range(0, 16, 2):
        for l in range(2, 140, 2):
            lists = log_comb((k + l) // 2, p // 2)
            chance = 2 * lists + p * log2(rate) + (k + l - p) * log2(1 - rate)
            best = min(best, add(log2(20) + 2 * log2(k), 1 + lists, 1 + 2 * lists - l) - min(chance, 0))
    return best


def check() -> None:
    """Values of the public estimator."""
    assert abs(gauss(649728 - 1269, 36288 - 1269, 1269) - 144.0) < 0.1
    assert abs(statistical_decoding(649728 - 1269, 36288 - 1269, 1269) - 217.9) < 0.1
    assert abs(enumeration(649728, 36288, 1269) - 135.7) < 0.1
    assert abs(linearised(649728, 36288, 1269) - 122.1) < 0.1
    assert abs(linearised(1048576, 32768, 2048) - 96.7) < 0.1
    assert abs(collisions(1024 - 57, 652 - 57, 57) - 92.3) < 0.5
    assert abs(Algebraic(1024, 652, 57).one_step() - 101.5) < 0.5
    assert abs(Algebraic(1024, 652, 57).two_steps() - 96.9) < 3


def main() -> None:
    check()
    print(f"n = {N}, k = {K}, t = {T}, regular noise, {TERMS[0]} + {TERMS[1]} terms a sample")
    algebraic = Algebraic(N, K, T)
    results = {
        "pooled Gauss": gauss(N - T, K - T, T),
        "statistical decoding": statistical_decoding(N - T, K - T, T),
        "information sets with collisions": collisions(N - T, K - T, T),
        "information sets, regular, enumeration": enumeration(N, K, T),
        "algebraic, degree 2 to 4": algebraic.one_step(),
        "algebraic, two steps": algebraic.two_steps(),
        "linearised after guesses": linearised(N, K, T),
        "sparse, linearised, best x": min(
            linearised(int(N * x ** sum(TERMS)), int(K * x), T, T / N)
            for x in (i / 100 for i in range(72, 101, 2))
            if N * x ** sum(TERMS) / T > 4
        ),
    }
    of_random = (K / N) ** (1 / (sum(TERMS) - 1))
    for name, x in (("random", of_random), ("greedy", greedy()), ("union bound", densest())):
        results[f"sparse, {name} x = {x:.3f}"] = on_fewer_bits(x)
    for name, value in results.items():
        print(f"{name}: 2^{value:.1f}")
    print(f"smallest: 2^{min(results.values()):.1f} operations")


if __name__ == "__main__":
    main()
