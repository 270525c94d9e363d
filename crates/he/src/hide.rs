//! Linear combinations of the client's ciphertexts, turned into two shares by a full-width mask.
//!
//! **Function.** For a combination with phase `S_0 + S_1·s = (q/t)·m + e` the evaluator draws small
//! `v` and `e_2` and sends `c_1 = S_1 + a·v + e_2` alone, `(b, a)` being the key owner's public key.
//! With `c_0 = S_0 + b·v`, which it keeps, the shares are `round(c_0·t/q)` and
//! `round(c_1·s·t/q)`: they add up to `m` modulo `t`.
//! **Hides.** The key owner learns `c_1` and nothing else, which is pseudorandom by RLWE with the
//! secret `v`, whatever ciphertexts it had sent. (Think of a mask uniform modulo the whole of `q`
//! that is subtracted from `c_0` before it is sent: then what is sent of `c_0` is zero, if the mask
//! is `c_0` itself.) There is no statistical distance, so nothing adds up, and no flooding.
//! **Correct** but with a small probability, see [`crate::noise`]: a coefficient in which the two
//! roundings disagree is wrong by one.
//! **Cost.** 22 transforms for a result, `14·N` bytes.

use cryptogen_ring::modulus::Factor;
use cryptogen_ring::{kernels, Fp, Modulus, Prg, Seed, P};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::codec::{pack, packed_bytes, unpack};
use crate::combine::Combiner;
use crate::encode::Terms;
use crate::error::HeError;
use crate::keys::{PublicKey, SecretKey};
use crate::params::{Layout, Params, HIDDEN_LIMBS, LIMBS, LOG_N, N};
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};

/// Fixed-point bits of the scaling to a share.
const FRACTION: u32 = 96;

/// A hidden result: `c_1` modulo the first [`HIDDEN_LIMBS`] primes, coefficients.
pub struct Hidden(Vec<u32>);

impl Hidden {
    /// Length of [`Hidden::to_bytes`].
    pub const BYTES: usize = packed_bytes(HIDDEN_LIMBS);

    /// 28 bits a residue.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Hidden::BYTES);
        pack(&self.0, &mut out);
        out
    }

    /// The inverse of [`Hidden::to_bytes`].
    ///
    /// # Errors
    /// Another length, a residue that is not below its prime.
    pub fn from_bytes(params: &Params, bytes: &[u8]) -> Result<Hidden, HeError> {
        Ok(Hidden(unpack(params, HIDDEN_LIMBS, "hidden result", bytes)?))
    }
}

/// Scaling of a polynomial modulo the first primes of `q`, `q'` their product, by `t/q'`.
///
/// With `x̂_i = x·(q'/q_i)^{−1} mod q_i` one has `t·x/q' = Σ_i t·x̂_i/q_i` modulo `t`.
pub(crate) struct Scaling {
    /// `(q'/q_i)^{−1} mod q_i`
    gadget: Vec<Factor>,
    /// `floor(t/q_i)`
    whole: Vec<Fp>,
    /// `floor(2^96·(t mod q_i)/q_i)`
    fraction: Vec<u128>,
}

impl Scaling {
    /// Of the product of `moduli`.
    pub(crate) fn new(moduli: &[Modulus]) -> Scaling {
        let gadget = |q: &Modulus| {
            let others = moduli.iter().map(Modulus::value).filter(|&other| other != q.value());
            q.factor(q.inv(others.fold(1, |product, other| q.mul(product, q.reduce(other as u64)))))
        };
        let q = |modulus: &Modulus| modulus.value() as u64;
        Scaling {
            gadget: moduli.iter().map(gadget).collect(),
            whole: moduli.iter().map(|m| Fp::new(P / q(m))).collect(),
            fraction: moduli.iter().map(|m| ((P % q(m)) as u128) * (1 << FRACTION) / q(m) as u128).collect(),
        }
    }

    /// `round(t·x/q')` modulo `t` of `x` `[limbs][N]`, coefficients.
    fn round(&self, moduli: &[&Modulus], x: &[u32]) -> Vec<Fp> {
        let mut whole = vec![Fp::ZERO; N];
        let mut fraction = Zeroizing::new(vec![1u128 << (FRACTION - 1); N]);
        for (i, x) in x.chunks_exact(N).enumerate() {
            for ((whole, fraction), &x) in whole.iter_mut().zip(fraction.iter_mut()).zip(x) {
                let hat = moduli[i].mul_factor(x, self.gadget[i]);
                *whole += self.whole[i] * Fp::new(hat as u64);
                *fraction += self.fraction[i] * hat as u128;
            }
        }
        for (whole, fraction) in whole.iter_mut().zip(fraction.iter()) {
            *whole += Fp::new((fraction >> FRACTION) as u64);
        }
        whole
    }
}

impl Combiner {
    /// The evaluator's shares `[M][N]` (each `[F][C]`) of the combinations, and what their owner
    /// makes its own from.
    pub fn hide(self, key: &PublicKey, seed: &Seed) -> (Vec<Fp>, Vec<Hidden>) {
        let mut shares = vec![Fp::ZERO; self.results() * N];
        let hidden = shares
            .par_chunks_mut(N)
            .enumerate()
            .map(|(m, share)| {
                let (mine, hidden) = self.hide_one(m, key, &mut Prg::new(&seed.derive("hide", m as u64)));
                share.copy_from_slice(&mine);
                hidden
            })
            .collect();
        (shares, hidden)
    }

    fn hide_one(&self, m: usize, key: &PublicKey, rng: &mut Prg) -> (Vec<Fp>, Hidden) {
        let (params, layout) = (self.params(), self.layout());
        let lf = layout.log_f();
        let (v, e2) = (sample::ternary(rng), sample::error(rng));
        let (mut c0, mut c1) = (Zeroizing::new(vec![0; LIMBS * N]), vec![0; LIMBS * N]);
        let mut v_full = Zeroizing::new(vec![0; N]);
        for limb in 0..LIMBS {
            let (q, ntt, range) = (params.modulus(limb), params.ntt(limb), limb * N..(limb + 1) * N);
            v_full.fill(0);
            Terms::new(q).add_offset(&v, TERNARY_OFFSET).add_to(&mut v_full);
            ntt.forward(&mut v_full, 0..LOG_N);
            let add = |key: &[u32], component: usize, out: &mut [u32]| {
                kernels::multiply(q, key, &v_full, out);
                ntt.inverse(out, lf..LOG_N);
                Terms::new(q).add(1, self.sum(limb, component, m)).add_to(out);
                ntt.inverse(out, 0..lf);
            };
            add(&key.b[range.clone()], 0, &mut c0[range.clone()]);
            add(&key.a[range.clone()], 1, &mut c1[range.clone()]);
            Terms::new(q).add_offset(&e2, ERROR_OFFSET).add_to(&mut c1[range]);
        }
        // c_1 loses its last primes: `c ← round(c/q_l)`.
        for last in (HIDDEN_LIMBS..LIMBS).rev() {
            let (rest, dropped) = c1.split_at_mut(last * N);
            for (limb, out) in rest.chunks_exact_mut(N).enumerate() {
                let (q, l) = (params.modulus(limb), params.modulus(last));
                kernels::drop_limb(q, l, params.drop[last][limb], &dropped[..N], out);
            }
        }
        c1.truncate(HIDDEN_LIMBS * N);
        let moduli: Vec<&Modulus> = params.moduli().collect();
        let mut share = params.whole.round(&moduli, &c0);
        params.fp.forward(&mut share, lf);
        (share, Hidden(c1))
    }
}

impl SecretKey {
    /// The key owner's share `[F][C]` of a result that has been hidden from it.
    pub fn share(&self, hidden: &Hidden, layout: Layout) -> Vec<Fp> {
        let params = self.params();
        let mut product = Zeroizing::new(vec![0; HIDDEN_LIMBS * N]);
        for limb in 0..HIDDEN_LIMBS {
            let (q, ntt, range) = (params.modulus(limb), params.ntt(limb), limb * N..(limb + 1) * N);
            let mut c1 = hidden.0[range.clone()].to_vec();
            ntt.forward(&mut c1, 0..LOG_N);
            let product = &mut product[range];
            // −c_1·s, and the sign turned.
            let mut negative = Zeroizing::new(vec![0; N]);
            kernels::multiply(q, &c1, self.negated(limb), &mut negative);
            ntt.inverse(&mut negative, 0..LOG_N);
            Terms::new(q).add(q.neg(1), &negative).add_to(product);
        }
        let moduli: Vec<&Modulus> = params.moduli().take(HIDDEN_LIMBS).collect();
        let mut share = params.hidden.round(&moduli, &product);
        params.fp.forward(&mut share, layout.log_f());
        share
    }
}
