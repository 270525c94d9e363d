//! The parameter set of the online ciphertexts with the constants that follow from it.
//!
//! Three bases of primes: `q` (ciphertexts), `P` (one prime, key switching) and `A` (auxiliary, for
//! products of ciphertexts: a second operand is scaled from `q` to `A`, the product is scaled back;
//! Kim–Polyakov–Zucca, ASIACRYPT 2021, "HPSOVERQ").

use std::sync::OnceLock;

use cryptogen_ring::modulus::Factor;
use cryptogen_ring::{Fp, FpNtt, Modulus, Ntt, P};

use super::ROW;
use crate::params::{LOG_N, N, PRIMES as AUXILIARY_PRIMES};

/// Primes of `q`.
pub(super) const LIMBS: usize = 8;
/// Primes of `q` and the special prime.
pub(super) const EXTENDED: usize = LIMBS + 1;
/// Primes of `A`.
pub(super) const AUX: usize = 7;
/// Primes that are left in a ciphertext on its way back.
pub(super) const OUTPUT_LIMBS: usize = 4;
/// Bits of a residue on the wire.
pub(super) const RESIDUE_BITS: usize = 25;
/// Fixed-point bits of the scaling in decryption.
pub(super) const SCALE_BITS: u32 = 60;
/// Fixed-point bits of `1/q_i` and of `1/a_j` when a number is reconstructed from its residues.
pub(super) const INVERSE_BITS_Q: u32 = 56;
pub(super) const INVERSE_BITS_AUX: u32 = 59;

/// Eight primes `≡ 1 mod 2N` just above `2^24`, and the special prime, as large as 128 bits of
/// security allow.
pub(super) const PRIMES: [u32; EXTENDED] =
    [16957441, 17006593, 17252353, 17367041, 17416193, 17448961, 17907713, 18006017, 4079617];

/// Weights that take residues of one basis to one prime of another.
pub(super) struct Conversion {
    /// Factors of the source residues, `[source]`: `x̂_i = x_i·hat_i`.
    pub hats: Vec<Factor>,
    /// `[source]` numbers for the rounded sum that comes last, with its shift.
    pub rounding: Vec<u32>,
    pub shift: u32,
    /// `[target][source + 1]`: weights of `x̂` and of the rounded sum.
    pub weights: Vec<Vec<u32>>,
}

/// The constants; one instance per process.
pub struct Context {
    /// `q`, then the special prime.
    ntts: Vec<Ntt>,
    aux: Vec<Ntt>,
    pub(super) fp: FpNtt,
    pub(super) q_mod_t: Fp,
    /// `t^{−1} mod q_i`.
    pub(super) t_inverse: [u32; LIMBS],
    /// `P mod q_i` and `P^{−1} mod q_i`.
    pub(super) special: [u32; LIMBS],
    pub(super) special_inverse: [Factor; LIMBS],
    /// `q_l^{−1} mod q_i` at `[l][i]` for `i < l`.
    pub(super) drop: Vec<Vec<Factor>>,
    /// Of the output limbs: `(q'/q_i)^{−1} mod q_i` and `floor(2^60·t/q_i)`.
    pub(super) gadget: [u32; OUTPUT_LIMBS],
    pub(super) scale: [u128; OUTPUT_LIMBS],
    /// The same number: `q → A`. Rounded from `q` to `A`: `x ↦ round(A/q·x)`. The same number:
    /// `A → q`.
    pub(super) extend: Conversion,
    pub(super) to_aux: Conversion,
    pub(super) from_aux: Conversion,
    /// `(q·A) → q`: `x ↦ round(t/A·x)`, from the residues modulo `A`; plus `own[i]·x_i`.
    pub(super) down: Conversion,
    pub(super) own: [u32; LIMBS],
    /// Position of a slot in the transform's output, `[N]`, row-major.
    pub(super) slots: Vec<u32>,
}

impl Context {
    /// The parameter set `N8192Q192P22`.
    pub fn get() -> &'static Context {
        static CONTEXT: OnceLock<Context> = OnceLock::new();
        CONTEXT.get_or_init(Context::new)
    }

    /// log2 of the largest modulus that a key is used with, `q·P`.
    pub fn log_q(&self) -> f64 {
        PRIMES.iter().map(|&q| (q as f64).log2()).sum()
    }

    /// Transform of prime `i` of `q`, or of the special prime.
    pub(super) fn ntt(&self, limb: usize) -> &Ntt {
        &self.ntts[limb]
    }

    pub(super) fn modulus(&self, limb: usize) -> &Modulus {
        self.ntts[limb].modulus()
    }

    pub(super) fn aux_ntt(&self, limb: usize) -> &Ntt {
        &self.aux[limb]
    }

    /// Positions `to[i] = from` with `σ(a)[i] = a[from]` in the transform domain, for the
    /// automorphism that rotates by `step`.
    pub(super) fn permutation(&self, step: usize) -> Vec<u32> {
        let element = power_of_three(step);
        (0..N as u32).map(|i| position(exponent(i) as u64 * element % (2 * N as u64))).collect()
    }

    fn new() -> Context {
        let q: [Modulus; LIMBS] = core::array::from_fn(|i| Modulus::new(PRIMES[i]));
        let aux: [Modulus; AUX] = AUXILIARY_PRIMES.map(Modulus::new);
        let special = PRIMES[LIMBS];
        let ntts: Vec<Ntt> = PRIMES.iter().map(|&q| Ntt::new(Modulus::new(q), LOG_N)).collect();
        let output = &PRIMES[..OUTPUT_LIMBS];
        Context {
            ntts,
            aux: aux.iter().map(|&a| Ntt::new(a, LOG_N)).collect(),
            fp: FpNtt::new(LOG_N),
            q_mod_t: PRIMES[..LIMBS].iter().fold(Fp::ONE, |product, &q| product * Fp::new(q as u64)),
            t_inverse: core::array::from_fn(|i| q[i].inv(q[i].reduce(P))),
            special: core::array::from_fn(|i| q[i].reduce(special as u64)),
            special_inverse: core::array::from_fn(|i| q[i].factor(q[i].inv(q[i].reduce(special as u64)))),
            drop: (0..LIMBS)
                .map(|l| (0..l).map(|i| q[i].factor(q[i].inv(q[i].reduce(PRIMES[l] as u64)))).collect())
                .collect(),
            gadget: core::array::from_fn(|i| q[i].inv(product_without(&q[i], output, i))),
            scale: core::array::from_fn(|i| ((P as u128) << SCALE_BITS) / output[i] as u128),
            extend: reconstruct(&q, &aux, INVERSE_BITS_Q),
            to_aux: scaled(&q, &aux, 1),
            from_aux: reconstruct(&aux, &q, INVERSE_BITS_AUX),
            down: Conversion {
                // x̂_j is taken modulo q·A here, not modulo A.
                hats: (0..AUX)
                    .map(|j| {
                        let a = &aux[j];
                        let others =
                            a.mul(product_without(a, &AUXILIARY_PRIMES, j), product(a, &PRIMES[..LIMBS]));
                        a.factor(a.inv(others))
                    })
                    .collect(),
                ..scaled(&aux, &q, P)
            },
            own: core::array::from_fn(|i| {
                q[i].mul(q[i].reduce(P), q[i].inv(product(&q[i], &AUXILIARY_PRIMES)))
            }),
            slots: (0..N)
                .map(|slot| {
                    let e = power_of_three(slot % ROW);
                    position(if slot < ROW { e } else { 2 * N as u64 - e })
                })
                .collect(),
        }
    }
}

/// `x ↦ x` for `|x|` below half the source modulus: `x = Σ x̂_i·(Q/q_i) − v·Q` with
/// `v = round(Σ x̂_i/q_i)`.
fn reconstruct(source: &[Modulus], target: &[Modulus], bits: u32) -> Conversion {
    let primes: Vec<u32> = source.iter().map(Modulus::value).collect();
    Conversion {
        hats: hats(source, &primes),
        rounding: primes.iter().map(|&q| ((1u64 << bits) / q as u64) as u32).collect(),
        shift: bits,
        weights: target
            .iter()
            .map(|b| {
                let each = (0..source.len()).map(|i| product_without(b, &primes, i));
                each.chain([b.neg(product(b, &primes))]).collect()
            })
            .collect(),
    }
}

/// `x ↦ round(factor·B/Q·x) mod B` (`Q` the source, `B` the target): `Σ x̂_i·(factor·B/q_i)`, whole
/// parts modulo each target prime, fractions in one rounded sum.
fn scaled(source: &[Modulus], target: &[Modulus], factor: u64) -> Conversion {
    let primes: Vec<u32> = source.iter().map(Modulus::value).collect();
    let targets: Vec<u32> = target.iter().map(Modulus::value).collect();
    // factor·B mod q_i; it is a multiple of b_j, hence floor(factor·B/q_i) ≡ −(that)/q_i modulo
    // b_j.
    let rest = |i: usize| source[i].mul(source[i].reduce(factor), product(&source[i], &targets));
    Conversion {
        hats: hats(source, &primes),
        rounding: (0..source.len()).map(|i| (((rest(i) as u64) << 32) / primes[i] as u64) as u32).collect(),
        shift: 32,
        weights: target
            .iter()
            .map(|b| {
                let whole =
                    |i: usize| b.neg(b.mul(b.reduce(rest(i) as u64), b.inv(b.reduce(primes[i] as u64))));
                (0..source.len()).map(whole).chain([1]).collect()
            })
            .collect(),
    }
}

/// `(Q/q_i)^{−1} mod q_i`.
fn hats(source: &[Modulus], primes: &[u32]) -> Vec<Factor> {
    source.iter().enumerate().map(|(i, q)| q.factor(q.inv(product_without(q, primes, i)))).collect()
}

fn product(q: &Modulus, factors: &[u32]) -> u32 {
    factors.iter().fold(1, |product, &f| q.mul(product, q.reduce(f as u64)))
}

fn product_without(q: &Modulus, factors: &[u32], left_out: usize) -> u32 {
    let others = factors.iter().enumerate().filter(|(i, _)| *i != left_out);
    others.fold(1, |product, (_, &f)| q.mul(product, q.reduce(f as u64)))
}

/// `3^step mod 2N`.
fn power_of_three(step: usize) -> u64 {
    (0..step % ROW).fold(1, |power, _| power * 3 % (2 * N as u64))
}

/// The root's exponent at a position of the transform's output, and back.
fn exponent(position: u32) -> u32 {
    2 * (position.reverse_bits() >> (32 - LOG_N)) + 1
}

fn position(exponent: u64) -> u32 {
    (((exponent - 1) / 2) as u32).reverse_bits() >> (32 - LOG_N)
}
