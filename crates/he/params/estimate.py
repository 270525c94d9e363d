"""Own estimate of the hardness of the RLWE samples of a parameter set (not the lattice-estimator).

Primal uSVP attack with the Bai-Galbraith embedding, dense ternary secret, geometric series assumption, success condition
of Alkim-Ducas-Poeppelmann-Schwabe (USENIX Security 2016, section 6.3):

    sigma_e * sqrt(beta) <= delta(beta)^(2*beta - d - 1) * (q^m * xi^n)^(1/d),   d = m + n + 1,   xi = sigma_e / sigma_s

minimised over beta and the number of samples m <= 2n (a ciphertext and the public key). The cost is core-SVP: one call of the SVP oracle in
dimension beta, 2^(0.292 beta) classically (sieving, Becker-Ducas-Gama-Laarhoven 2016) and 2^(0.265 beta) quantumly (Laarhoven
2015), all polynomial factors left out in the attacker's favour. The security tables of the HomomorphicEncryption.org standard
(2018) count 2^(0.292 beta + 16.4) operations a call and 8 d calls; that figure is the one to compare with "128 bits". Hybrid and
dual attacks are not modelled.

Usage: python3 estimate.py > N8192Q196.txt
"""

from math import e, log2, pi, prod, sqrt

N = 8192
PRIMES = [268369921, 268271617, 268238849, 268189697, 268091393, 268042241, 267943937]
LOG_Q = log2(prod(PRIMES))
SIGMA_E = sqrt(21 / 2)  # centred binomial, eta = 21
SIGMA_S = sqrt(2 / 3)  # uniform ternary


def log_delta(beta: int) -> float:
    """log2 of the root Hermite factor of BKZ-beta (Chen 2013)."""
    return log2((pi * beta) ** (1 / beta) * beta / (2 * pi * e)) / (2 * (beta - 1))


def succeeds(beta: int, m: int) -> bool:
    d = m + N + 1
    log_volume = (m * LOG_Q + N * log2(SIGMA_E / SIGMA_S)) / d
    return log2(SIGMA_E) + log2(beta) / 2 <= (2 * beta - d - 1) * log_delta(beta) + log_volume


def smallest_block_size() -> tuple[int, int]:
    low, high = 60, 4 * N
    samples = range(N // 4, 2 * N + 1, 64)
    while low < high:
        middle = (low + high) // 2
        if any(succeeds(middle, m) for m in samples):
            high = middle
        else:
            low = middle + 1
    return low, next(m for m in samples if succeeds(low, m))


def main() -> None:
    beta, m = smallest_block_size()
    print("N8192Q196: own core-SVP estimate of the primal uSVP attack (crates/he/params/estimate.py), not the lattice-estimator")
    print(f"ring dimension {N}, log2 q = {LOG_Q:.2f}, sigma_e = {SIGMA_E:.3f} (centred binomial 21), secret uniform ternary")
    print(f"primes {' '.join(map(str, PRIMES))}")
    print(f"smallest block size {beta} with {m} samples, root Hermite factor {2 ** log_delta(beta):.6f}")
    print(f"classical core-SVP 2^{0.292 * beta:.1f}, quantum core-SVP 2^{0.265 * beta:.1f}")
    cost = 0.292 * beta + 16.4 + log2(8 * (m + N + 1))
    print(f"classical cost as the HomomorphicEncryption.org standard counts it (8 d calls of 2^(0.292 beta + 16.4)): 2^{cost:.1f}")
    print("HomomorphicEncryption.org standard (2018), N = 8192, ternary secret, 128 bits classical: log2 q <= 218")


if __name__ == "__main__":
    main()
