//! Negacyclic number-theoretic transforms, modulo a 28-bit prime ([`Ntt`]), over `F_p` ([`FpNtt`])
//! and modulo other wide primes ([`WideNtt`]).
//!
//! The forward transform is decimation in bit-reversed order (Longa–Naehrig, CANS 2016, Algorithm
//! 1). Its first `levels` levels split `Z_q[X]/(X^n + 1)` into `F = 2^levels` contiguous blocks
//! `Z_q[X]/(X^C − ζ_κ)`, `C = n/F`: the *partial domain* `[κ][c]`. The twiddle factors of those
//! levels do not depend on `n`, hence
//! * one table serves every length, and
//! * the same call on `[F][batch]` transforms `batch` vectors of length `F` at once.

use core::ops::Range;

use crate::field::{Fp, P};
use crate::kernels::{self, field_transform};
use crate::modulus::{Factor, Modulus};
use crate::wide::{WideFactor, WideModulus};

/// Twiddle factors modulo one prime for lengths up to `2^log_n`.
pub struct Ntt {
    modulus: Modulus,
    log_n: u32,
    /// `ψ^brv(i)` at index `i`, and the inverses; values and Shoup quotients apart.
    forward: Twiddles,
    inverse: Twiddles,
    /// `2^−k` at index `k`.
    halves: Vec<Factor>,
}

pub(crate) struct Twiddles {
    pub(crate) values: Vec<u32>,
    pub(crate) quotients: Vec<u32>,
}

impl Ntt {
    /// Tables for a prime `q ≡ 1 mod 2^(log_n+1)`; panics otherwise (parameters are fixed, not an
    /// input).
    pub fn new(modulus: Modulus, log_n: u32) -> Ntt {
        let q = modulus.value();
        assert!((q - 1).trailing_zeros() > log_n, "no root of unity of order 2^{} modulo {q}", log_n + 1);
        // The first element of full 2-power order; its 2^log_n-th power is −1.
        let psi = (2..q)
            .map(|g| modulus.pow(g, ((q - 1) >> (log_n + 1)) as u64))
            .find(|&root| modulus.pow(root, 1 << log_n) == q - 1)
            .expect("a prime field has a generator");
        let table = |root: u32| {
            let powers = bit_reversed_powers(log_n, 1, |x| modulus.mul(x, root));
            let quotients = powers.iter().map(|&w| modulus.factor(w).quotient).collect();
            Twiddles { values: powers, quotients }
        };
        let half = modulus.inv(2);
        Ntt {
            modulus,
            log_n,
            forward: table(psi),
            inverse: table(modulus.inv(psi)),
            halves: (0..=log_n as u64).map(|k| modulus.factor(modulus.pow(half, k))).collect(),
        }
    }

    /// The prime.
    pub fn modulus(&self) -> &Modulus {
        &self.modulus
    }

    /// Runs the given levels, `0..levels` being coefficients → partial domain and `levels..log2(n)`
    /// partial → full. Residues are canonical on entry and on return. Panics if the length is not a
    /// multiple of `2^levels.end`.
    pub fn forward(&self, a: &mut [u32], levels: Range<u32>) {
        self.check(a.len(), &levels);
        kernels::ntt_forward(&self.modulus, &self.forward.values, &self.forward.quotients, a, levels);
    }

    /// The inverse of [`Ntt::forward`] with the same levels.
    pub fn inverse(&self, a: &mut [u32], levels: Range<u32>) {
        self.check(a.len(), &levels);
        let scale = self.halves[levels.len()];
        kernels::ntt_inverse(&self.modulus, &self.inverse.values, &self.inverse.quotients, scale, a, levels);
    }

    fn check(&self, len: usize, levels: &Range<u32>) {
        assert!(
            levels.end <= self.log_n && levels.start <= levels.end && len.is_multiple_of(1 << levels.end),
            "levels {levels:?} do not fit a transform of length {len}"
        );
    }
}

/// Twiddle factors in `F_p` for lengths up to `2^log_n`.
pub struct FpNtt {
    log_n: u32,
    forward: Vec<Fp>,
    inverse: Vec<Fp>,
}

impl FpNtt {
    /// Tables for `log_n ≤ 31`.
    pub fn new(log_n: u32) -> FpNtt {
        let psi = Fp::root_of_unity(log_n + 1);
        let table = |root: Fp| bit_reversed_powers(log_n, Fp::ONE, |x| x * root);
        FpNtt { log_n, forward: table(psi), inverse: table(psi.inv()) }
    }

    /// Coefficients → partial domain with `2^levels` blocks.
    pub fn forward(&self, a: &mut [Fp], levels: u32) {
        self.check(a.len(), levels);
        kernels::fp_ntt_forward(&self.forward, a, 0..levels);
    }

    /// The inverse of [`FpNtt::forward`].
    pub fn inverse(&self, a: &mut [Fp], levels: u32) {
        self.check(a.len(), levels);
        // 2^−k: times 2^k it is −(p − 1).
        let scale = Fp::new(P - ((P - 1) >> levels));
        kernels::fp_ntt_inverse(&self.inverse, scale, a, 0..levels);
    }

    fn check(&self, len: usize, levels: u32) {
        assert!(
            levels <= self.log_n && len.is_multiple_of(1 << levels),
            "{levels} levels do not fit a transform of length {len}"
        );
    }
}

/// Twiddle factors modulo a wide prime for the whole transform of length `2^log_n`.
pub struct WideNtt {
    modulus: WideModulus,
    log_n: u32,
    forward: Vec<WideFactor>,
    inverse: Vec<WideFactor>,
    /// `2^−log_n`.
    scale: WideFactor,
}

impl WideNtt {
    /// Tables for a prime `q ≡ 1 mod 2^(log_n+1)`; panics otherwise (parameters are fixed, not an
    /// input).
    pub fn new(modulus: WideModulus, log_n: u32) -> WideNtt {
        let q = modulus.value();
        assert!((q - 1).trailing_zeros() > log_n, "no root of unity of order 2^{} modulo {q}", log_n + 1);
        let psi = (2..q)
            .map(|g| modulus.pow(g, (q - 1) >> (log_n + 1)))
            .find(|&root| modulus.pow(root, 1 << log_n) == q - 1)
            .expect("a prime field has a generator");
        let table = |root: u64| {
            let powers = bit_reversed_powers(log_n, 1, |x| modulus.mul(x, root));
            powers.into_iter().map(|w| modulus.factor(w)).collect()
        };
        let (forward, inverse) = (table(psi), table(modulus.inv(psi)));
        WideNtt { modulus, log_n, forward, inverse, scale: modulus.factor(modulus.inv(1 << log_n)) }
    }

    /// The prime.
    pub fn modulus(&self) -> &WideModulus {
        &self.modulus
    }

    /// Coefficients → full domain, canonical numbers.
    pub fn forward(&self, a: &mut [u64]) {
        let q = &self.modulus;
        field_transform::levels(&self.forward, a, self.levels(a.len()), |u, v, w| {
            let t = q.mul_factor(v, w);
            (q.add(u, t), q.sub(u, t))
        });
    }

    /// The inverse of [`WideNtt::forward`].
    pub fn inverse(&self, a: &mut [u64]) {
        let q = &self.modulus;
        field_transform::levels(&self.inverse, a, self.levels(a.len()).rev(), |u, v, w| {
            (q.add(u, v), q.mul_factor(q.sub(u, v), w))
        });
        a.iter_mut().for_each(|x| *x = q.mul_factor(*x, self.scale));
    }

    fn levels(&self, len: usize) -> Range<u32> {
        assert!(len == 1 << self.log_n, "a transform of length 2^{} got {len} numbers", self.log_n);
        0..self.log_n
    }
}

/// `root^brv(i)` at index `i < 2^log_n`.
fn bit_reversed_powers<T: Copy>(log_n: u32, one: T, times_root: impl Fn(T) -> T) -> Vec<T> {
    let n = 1usize << log_n;
    let mut table = vec![one; n];
    let mut power = one;
    for i in 0..n {
        let reversed = if log_n == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - log_n) };
        table[reversed] = power;
        power = times_root(power);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exponential::{self, PRIMES};
    use rand::{rngs::StdRng, Rng, SeedableRng};

    const LOG_N: u32 = 7;
    const N: usize = 1 << LOG_N;

    fn ntt() -> Ntt {
        Ntt::new(Modulus::new(268_369_921), LOG_N)
    }

    /// `a·b mod X^n + 1` by the definition.
    fn schoolbook(q: &Modulus, a: &[u32], b: &[u32]) -> Vec<u32> {
        let n = a.len();
        let mut out = vec![0; n];
        for (i, &x) in a.iter().enumerate() {
            for (j, &y) in b.iter().enumerate() {
                let t = q.mul(x, y);
                let k = (i + j) % n;
                out[k] = if i + j < n { q.add(out[k], t) } else { q.sub(out[k], t) };
            }
        }
        out
    }

    fn random(rng: &mut StdRng, q: u32, n: usize) -> Vec<u32> {
        (0..n).map(|_| rng.gen_range(0..q)).collect()
    }

    #[test]
    fn full_transform_multiplies() {
        let (t, mut rng) = (ntt(), StdRng::seed_from_u64(1));
        let q = *t.modulus();
        let (mut a, mut b) = (random(&mut rng, q.value(), N), random(&mut rng, q.value(), N));
        let expected = schoolbook(&q, &a, &b);
        t.forward(&mut a, 0..LOG_N);
        t.forward(&mut b, 0..LOG_N);
        let mut c: Vec<u32> = a.iter().zip(&b).map(|(&x, &y)| q.mul(x, y)).collect();
        t.inverse(&mut c, 0..LOG_N);
        assert_eq!(c, expected);
    }

    #[test]
    fn partial_domain_multiplies_by_a_vector() {
        // A polynomial in Y = X^C times a polynomial in X is a scalar per block.
        let (t, mut rng) = (ntt(), StdRng::seed_from_u64(2));
        let q = *t.modulus();
        for levels in 0..=LOG_N {
            let (f, c) = (1usize << levels, N >> levels);
            let mut w = random(&mut rng, q.value(), f);
            let mut a = random(&mut rng, q.value(), N);
            let mut spread = vec![0; N];
            w.iter().enumerate().for_each(|(i, &x)| spread[i * c] = x);
            let expected = schoolbook(&q, &a, &spread);
            t.forward(&mut w, 0..levels);
            t.forward(&mut a, 0..levels);
            a.chunks_exact_mut(c)
                .zip(&w)
                .for_each(|(block, &w)| block.iter_mut().for_each(|x| *x = q.mul(*x, w)));
            t.inverse(&mut a, 0..levels);
            assert_eq!(a, expected, "{levels} levels");
        }
    }

    #[test]
    fn ranges_of_levels_compose() {
        let (t, mut rng) = (ntt(), StdRng::seed_from_u64(3));
        let a = random(&mut rng, t.modulus().value(), N);
        let mut whole = a.clone();
        t.forward(&mut whole, 0..LOG_N);
        for split in 0..=LOG_N {
            let mut parts = a.clone();
            t.forward(&mut parts, 0..split);
            t.forward(&mut parts, split..LOG_N);
            assert_eq!(parts, whole);
            t.inverse(&mut parts, split..LOG_N);
            t.inverse(&mut parts, 0..split);
            assert_eq!(parts, a);
        }
    }

    #[test]
    fn field_transform_multiplies_blocks() {
        let t = FpNtt::new(LOG_N);
        let mut prg = crate::Prg::new(&crate::Seed::from_bytes([3; 32]));
        for levels in 0..=LOG_N {
            let (f, c) = (1usize << levels, N >> levels);
            let (a, w) = (prg.fp_vec(N), prg.fp_vec(f));
            let mut expected = vec![Fp::ZERO; N];
            for (i, &x) in a.iter().enumerate() {
                for (j, &y) in w.iter().enumerate() {
                    let k = i + j * c;
                    expected[k % N] += if k < N { x * y } else { -(x * y) };
                }
            }
            let (mut fa, mut fw) = (a.clone(), w.clone());
            t.forward(&mut fa, levels);
            t.forward(&mut fw, levels);
            fa.chunks_exact_mut(c).zip(&fw).for_each(|(block, &w)| block.iter_mut().for_each(|x| *x *= w));
            t.inverse(&mut fa, levels);
            assert_eq!(fa, expected);
        }
    }

    #[test]
    fn wide_transform_multiplies() {
        let mut prg = crate::Prg::new(&crate::Seed::from_bytes([4; 32]));
        for (i, &prime) in PRIMES.iter().enumerate() {
            let q = WideModulus::new(prime);
            let t = WideNtt::new(q, LOG_N);
            let mut random = || (0..N).map(|_| exponential::uniform(i, &mut prg)).collect::<Vec<_>>();
            let (mut a, mut b) = (random(), random());
            a[..3].copy_from_slice(&[0, prime - 1, prime - 1]);
            b[..3].fill(prime - 1);
            let mut expected = vec![0; N];
            for (i, &x) in a.iter().enumerate() {
                for (j, &y) in b.iter().enumerate() {
                    let (k, xy) = ((i + j) % N, q.mul(x, y));
                    expected[k] = if i + j < N { q.add(expected[k], xy) } else { q.sub(expected[k], xy) };
                }
            }
            t.forward(&mut a);
            t.forward(&mut b);
            a.iter_mut().zip(&b).for_each(|(a, &b)| *a = q.mul(*a, b));
            t.inverse(&mut a);
            assert_eq!(a, expected);
        }
    }

    #[test]
    fn wide_transform_modulo_p_is_the_one_over_the_field() {
        let (fp, wide) = (FpNtt::new(LOG_N), WideNtt::new(WideModulus::new(P), LOG_N));
        let mut a = crate::Prg::new(&crate::Seed::from_bytes([5; 32])).fp_vec(N);
        let values = |a: &[Fp]| a.iter().map(|x| x.value()).collect::<Vec<_>>();
        let mut b = values(&a);
        fp.forward(&mut a, LOG_N);
        wide.forward(&mut b);
        assert_eq!(values(&a), b);
    }
}
