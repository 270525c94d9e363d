//! Key switching and rotations. A polynomial is cut into its residues modulo the primes of `q`
//! (eight digits), each digit is multiplied by its part of the key modulo `q·P`, and the sum is
//! divided by `P` (Gentry–Halevi–Smart 2012, Bajard et al. 2016).

use cryptogen_ring::kernels;

use super::ciphertext::{Ciphertext, Domain};
use super::context::{Context, EXTENDED, LIMBS};
use super::evaluator::{count, Evaluator};
use super::keys::SwitchKey;
use super::ROW;
use crate::encode::Terms;
use crate::error::HeError;
use crate::params::{LOG_N, N};

/// A ciphertext with its second polynomial cut into digits once, for many rotations (Halevi–Shoup,
/// CRYPTO 2018).
pub struct Hoisted<'a> {
    evaluator: &'a Evaluator<'a>,
    ciphertext: Ciphertext,
    /// `[limb of q·P][digit][N]`, transform domain.
    digits: Vec<u32>,
}

impl Evaluator<'_> {
    /// Slots moved by `step` within each row. Errors: no key for this step.
    pub fn rotate(&self, ct: &Ciphertext, step: usize) -> Result<Ciphertext, HeError> {
        if step.is_multiple_of(ROW) {
            return Ok(ct.clone());
        }
        let key = self.keys.galois_key(step % ROW)?;
        let ct = ct.transformed(self.context);
        let coefficients = inverse(self.context, &ct.c[1]);
        let sums = self.switch(key, &coefficients, Some(&ct.c[1]));
        count(&self.counters.rotations, 1);
        Ok(self.finish_rotation(&ct, key, sums))
    }

    /// Prepares many rotations of one ciphertext.
    pub fn hoist(&self, ct: &Ciphertext) -> Hoisted<'_> {
        let ciphertext = ct.transformed(self.context).into_owned();
        let coefficients = inverse(self.context, &ciphertext.c[1]);
        let mut digits = vec![0; EXTENDED * LIMBS * N];
        digits.chunks_exact_mut(LIMBS * N).enumerate().for_each(|(limb, out)| {
            for (digit, out) in out.chunks_exact_mut(N).enumerate() {
                self.digit(&coefficients, Some(&ciphertext.c[1]), digit, limb, out);
            }
        });
        Hoisted { evaluator: self, ciphertext, digits }
    }

    /// One digit modulo one prime of `q·P`, transform domain. `transformed`: the same polynomial
    /// there, if it is known.
    fn digit(
        &self,
        coefficients: &[u32],
        transformed: Option<&[u32]>,
        digit: usize,
        limb: usize,
        out: &mut [u32],
    ) {
        let own = digit * N..(digit + 1) * N;
        match transformed {
            Some(c) if digit == limb => return out.copy_from_slice(&c[own]),
            _ if digit == limb => out.copy_from_slice(&coefficients[own]),
            _ => kernels::lift(
                self.context.modulus(limb),
                self.context.modulus(digit),
                &coefficients[own],
                out,
            ),
        }
        self.context.ntt(limb).forward(out, 0..LOG_N);
    }

    /// `Σ_digit digit·key` modulo `q·P`: `[EXTENDED][2][N]`, transform domain.
    pub(super) fn switch(
        &self,
        key: &SwitchKey,
        coefficients: &[u32],
        transformed: Option<&[u32]>,
    ) -> Vec<u32> {
        let (mut sums, mut digits) = (vec![0; EXTENDED * 2 * N], vec![0; LIMBS * N]);
        sums.chunks_exact_mut(2 * N).enumerate().for_each(|(limb, out)| {
            for (digit, out) in digits.chunks_exact_mut(N).enumerate() {
                self.digit(coefficients, transformed, digit, limb, out);
            }
            inner_product(self.context, key, limb, &digits, out);
        });
        sums
    }

    /// `round(x/P)` of both polynomials of `[EXTENDED][2][N]`, plus the first polynomial of the
    /// ciphertext, permuted.
    fn finish_rotation(&self, ct: &Ciphertext, key: &SwitchKey, mut sums: Vec<u32>) -> Ciphertext {
        let permutation = key.permutation.as_deref().expect("Galois keys carry one");
        let (sums, special) = sums.split_at_mut(2 * LIMBS * N);
        special.chunks_exact_mut(N).for_each(|x| self.context.ntt(LIMBS).inverse(x, 0..LOG_N));
        let mut c = [vec![0; LIMBS * N], vec![0; LIMBS * N]];
        let mut rest = vec![0; N];
        for (row, x) in sums.chunks_exact_mut(N).enumerate() {
            let (limb, component) = (row / 2, row % 2);
            let q = self.context.modulus(limb);
            let special = &special[component * N..(component + 1) * N];
            kernels::lift(q, self.context.modulus(LIMBS), special, &mut rest);
            self.context.ntt(limb).forward(&mut rest, 0..LOG_N);
            kernels::subtract_scale(q, self.context.special_inverse[limb], &rest, x);
            if component == 0 {
                Terms::new(q).add(1, ct.limb(0, limb)).add_to(x);
            }
            kernels::permute(permutation, x, &mut c[component][limb * N..(limb + 1) * N]);
        }
        Ciphertext { c, domain: Domain::Transform, noise: ct.noise.switched() }
    }

    /// `round(x/P)` of both polynomials of `[EXTENDED][2][N]`, from the transform domain to
    /// coefficients.
    pub(super) fn divide_to_coefficients(&self, mut sums: Vec<u32>) -> [Vec<u32>; 2] {
        let (sums, special) = sums.split_at_mut(2 * LIMBS * N);
        special.chunks_exact_mut(N).for_each(|x| self.context.ntt(LIMBS).inverse(x, 0..LOG_N));
        core::array::from_fn(|component| {
            let mut c = vec![0; LIMBS * N];
            c.chunks_exact_mut(N).enumerate().for_each(|(limb, out)| {
                let q = self.context.modulus(limb);
                out.copy_from_slice(&sums[(2 * limb + component) * N..][..N]);
                self.context.ntt(limb).inverse(out, 0..LOG_N);
                let (last, special) = (self.context.modulus(LIMBS), &special[component * N..][..N]);
                kernels::drop_limb(q, last, self.context.special_inverse[limb], special, out);
            });
            c
        })
    }
}

impl Hoisted<'_> {
    /// The ciphertext rotated by `step`. Errors: no key for this step.
    pub fn rotate(&self, step: usize) -> Result<Ciphertext, HeError> {
        if step.is_multiple_of(ROW) {
            return Ok(self.ciphertext.clone());
        }
        let evaluator = self.evaluator;
        let key = evaluator.keys.galois_key(step % ROW)?;
        let mut sums = vec![0; EXTENDED * 2 * N];
        sums.chunks_exact_mut(2 * N)
            .zip(self.digits.chunks_exact(LIMBS * N))
            .enumerate()
            .for_each(|(limb, (out, digits))| inner_product(evaluator.context, key, limb, digits, out));
        count(&evaluator.counters.hoisted_rotations, 1);
        Ok(evaluator.finish_rotation(&self.ciphertext, key, sums))
    }
}

/// `out[component] = Σ_digit digits[digit]·key[digit][component]` modulo one prime.
fn inner_product(context: &Context, key: &SwitchKey, limb: usize, digits: &[u32], out: &mut [u32]) {
    let x: Vec<&[u32]> = digits.chunks_exact(N).collect();
    let y = [&key.b, &key.a]
        .map(|key| (0..LIMBS).map(|digit| &key[(digit * EXTENDED + limb) * N..][..N]).collect::<Vec<_>>());
    let (b, a) = out.split_at_mut(N);
    kernels::multiply_sum(context.modulus(limb), &x, [&y[0], &y[1]], [b, a]);
}

/// Coefficients of a polynomial `[LIMBS][N]`.
pub(super) fn inverse(context: &Context, c: &[u32]) -> Vec<u32> {
    let mut out = c.to_vec();
    out.chunks_exact_mut(N).enumerate().for_each(|(limb, c)| context.ntt(limb).inverse(c, 0..LOG_N));
    out
}
