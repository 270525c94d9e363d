//! Closed, named parameter sets: literal → checked → immutable.

use std::sync::OnceLock;

use cryptogen_ring::exponential::{self, MAX_PRIMES};
use cryptogen_ring::{FpNtt, Modulus, Ntt};

use crate::error::HeError;
use crate::modulo::Plain;
use crate::ring::Ring;
use crate::shares::{self, Conversion};

/// log2 of the ring dimension.
pub const LOG_N: u32 = 13;
/// Ring dimension: field elements in one ciphertext.
pub const N: usize = 1 << LOG_N;
/// Primes of the ciphertext modulus.
pub const LIMBS: usize = 7;

/// The named parameter sets. Evidence for each is in `crates/he/params/`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ParamSet {
    /// `N = 8192`, `log2 q = 196`, ternary secret, centred binomial error with `η = 21`
    /// (`σ = 3.24`), `t = p` or another prime of exponentials, on which security does not depend.
    N8192Q196,
}

/// The seven largest primes `≡ 1 mod 2N` below `2^28`.
pub(crate) const PRIMES: [u32; LIMBS] =
    [268369921, 268271617, 268238849, 268189697, 268091393, 268042241, 267943937];

/// Largest `log2 q` for 128 bits of classical security with a ternary secret:
/// HomomorphicEncryption.org security standard (Albrecht et al., 2018), table 1.
const MAX_LOG_Q: [(usize, u64); 5] = [(1024, 27), (2048, 54), (4096, 109), (8192, 218), (16384, 438)];

/// A checked parameter set with the constants that follow from it. One instance per set and
/// process.
pub struct Params {
    set: ParamSet,
    ring: Ring,
    pub(crate) fp: FpNtt,
    /// The plaintext moduli of exponentials, made when they are first used.
    plains: [OnceLock<Plain>; MAX_PRIMES],
}

impl Params {
    /// The constants of a set.
    pub fn get(set: ParamSet) -> &'static Params {
        static N8192Q196: OnceLock<Params> = OnceLock::new();
        match set {
            ParamSet::N8192Q196 => N8192Q196.get_or_init(|| {
                check(N, &PRIMES).expect("the named set passes its own checks");
                Params::new(set, &PRIMES)
            }),
        }
    }

    /// Which set this is.
    pub fn set(&self) -> ParamSet {
        self.set
    }

    /// The primes of `q`.
    pub fn primes(&self) -> [u32; LIMBS] {
        core::array::from_fn(|i| self.modulus(i).value())
    }

    /// `log2 q`.
    pub fn log_q(&self) -> f64 {
        self.primes().iter().map(|&q| (q as f64).log2()).sum()
    }

    /// The ring of keys and ciphertexts.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// One of the primes of exponentials as plaintext modulus.
    pub(crate) fn plain(&self, prime: usize) -> &Plain {
        self.plains[prime].get_or_init(|| Plain::new(exponential::PRIMES[prime], &self.primes()))
    }

    pub(crate) fn ntt(&self, limb: usize) -> &Ntt {
        self.ring.ntt(limb)
    }

    pub(crate) fn modulus(&self, limb: usize) -> &Modulus {
        self.ring.modulus(limb)
    }

    fn new(set: ParamSet, primes: &[u32; LIMBS]) -> Params {
        Params {
            set,
            ring: Ring::new(
                "N8192Q196",
                LOG_N,
                primes,
                Conversion::new(primes, shares::BITS, shares::PRODUCT_LIMBS),
            ),
            fp: FpNtt::new(LOG_N),
            plains: Default::default(),
        }
    }
}

/// Refuses what is weaker than 128 bits and what the transforms cannot use.
pub(crate) fn check(n: usize, primes: &[u32]) -> Result<(), HeError> {
    let limit = MAX_LOG_Q.iter().find(|(dimension, _)| *dimension == n).map_or(0, |&(_, bits)| bits);
    let bits = primes.iter().map(|&q| (q as f64).log2()).sum::<f64>().ceil() as u64;
    if bits > limit {
        return Err(HeError::Parameters {
            what: "log2 q for 128-bit security",
            expected: limit,
            actual: bits,
        });
    }
    for (i, &q) in primes.iter().enumerate() {
        let usable =
            q < 1 << 28 && (q as usize - 1).is_multiple_of(2 * n) && is_prime(q) && !primes[..i].contains(&q);
        if !usable {
            return Err(HeError::Parameters {
                what: "distinct primes 1 mod 2N below",
                expected: 1 << 28,
                actual: q as u64,
            });
        }
    }
    Ok(())
}

fn is_prime(q: u32) -> bool {
    q >= 2 && (2..).take_while(|d| d * d <= q).all(|d| !q.is_multiple_of(d))
}

/// How a message fills a ciphertext: `F = 2^log_f` slots of `C = N/F` coefficients, in memory
/// `[κ][c]` (row-major).
///
/// Multiplying by a vector `w` of `F` field elements multiplies slot κ by `w[κ]`. `F = 1` is a
/// ciphertext of `N` elements with scalar multipliers, `F = N` the usual SIMD (Hadamard) packing.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    log_f: u32,
}

impl Layout {
    /// `2^log_f` slots, `log_f ≤ 13`.
    pub fn new(log_f: u32) -> Result<Layout, HeError> {
        if log_f > LOG_N {
            return Err(HeError::Layout { expected: LOG_N, actual: log_f });
        }
        Ok(Layout { log_f })
    }

    /// log2 F.
    pub const fn log_f(self) -> u32 {
        self.log_f
    }

    /// F.
    pub const fn slots(self) -> usize {
        1 << self.log_f
    }

    /// C.
    pub const fn coefficients(self) -> usize {
        N >> self.log_f
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn the_named_set_is_within_the_table() {
        let params = Params::get(ParamSet::N8192Q196);
        assert_eq!(check(N, &params.primes()), Ok(()));
        assert!(params.log_q() < 196.0);
    }

    /// The lattice-estimator's report (`crates/he/params/estimate.py`) is about these primes and
    /// says 128 bits.
    pub(crate) fn check_report(report: &str, primes: &[u32]) {
        let primes: Vec<String> = primes.iter().map(u32::to_string).collect();
        assert!(report.contains(&format!("primes {}\n", primes.join(" "))));
        let smallest = report.lines().find_map(|l| l.strip_prefix("smallest: 2^")).expect("a conclusion");
        let bits: f64 = smallest.split_whitespace().next().and_then(|b| b.parse().ok()).expect("a number");
        assert!(bits >= 128.0, "{bits} bits");
    }

    #[test]
    fn the_committed_estimates_are_about_these_sets() {
        check_report(include_str!("../params/N8192Q196.txt"), &PRIMES);
        check_report(include_str!("../params/N4096Q84.txt"), &crate::linear::PRIMES);
    }

    #[test]
    fn weak_and_unusable_parameters_are_refused() {
        let weak = check(4096, &PRIMES);
        assert_eq!(
            weak,
            Err(HeError::Parameters { what: "log2 q for 128-bit security", expected: 109, actual: 196 })
        );
        assert!(check(5000, &PRIMES).is_err());
        assert!(check(N, &[PRIMES[0], PRIMES[0]]).is_err());
        assert!(check(N, &[268_369_921 - (1 << 14)]).is_err());
        assert!(Layout::new(14).is_err());
    }
}
