"""The lattice-estimator's verdict on a named parameter set (Albrecht, Player, Scott 2015;
github.com/malb/lattice-estimator).

Primal (usvp, bdd), dual and hybrid attacks with the estimator's default cost model (MATZOV); the
algebraic and BKW attacks need far more samples than a ring element gives and are left out. The
attacker gets 2·N samples: a public key and a ciphertext.

Needs SageMath or its PyPI packages, and the estimator's folder on the path; minutes per set:

    python3 -m venv sage && sage/bin/pip install passagemath-standard-no-symbolics passagemath-modules passagemath-symbolics
    git clone https://github.com/malb/lattice-estimator && git -C lattice-estimator checkout 27a581b
    PYTHONPATH=lattice-estimator sage/bin/python crates/he/params/estimate.py N8192Q196 >
    crates/he/params/N8192Q196.txt
"""

import sys
from math import log2, prod

from estimator import LWE, ND

# The modulus that keys and ciphertexts are used with; for N8192Q192P22 including the special prime.
PRIMES = {
    "N4096Q84": [268369921, 268271617, 268238849],
    "N8192Q196": [268369921, 268271617, 268238849, 268189697, 268091393, 268042241, 267943937],
    "N8192Q192P22": [
        16957441, 17006593, 17252353, 17367041, 17416193, 17448961, 17907713, 18006017, 4079617,
    ],
}


def main(name: str) -> None:
    primes, n = PRIMES[name], int(name[1 : name.index("Q")])
    print(f"{name}: ring dimension {n}, log2 q = {log2(prod(primes)):.2f}, secret uniform ternary, error centred binomial eta = 21")
    print(f"primes {' '.join(map(str, primes))}")
    print("lattice-estimator 27a581b (2026-06-06)", flush=True)
    parameters = LWE.Parameters(
        n=n, q=prod(primes), Xs=ND.Uniform(-1, 1), Xe=ND.CenteredBinomial(21), m=2 * n, tag=name
    )
    results = LWE.estimate(parameters, deny_list=("arora-gb", "bkw"))
    print(f"smallest: 2^{min(log2(float(cost['rop'])) for cost in results.values()):.1f} operations")


if __name__ == "__main__":
    main(sys.argv[1])
