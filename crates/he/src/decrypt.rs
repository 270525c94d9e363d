//! Decryption of what comes back.

use cryptogen_ring::{kernels, Fp, P};
use zeroize::Zeroizing;

use crate::combine::MaskedCiphertext;
use crate::encode::Terms;
use crate::keys::SecretKey;
use crate::params::{Layout, LOG_N, N, OUTPUT_LIMBS, SCALE_BITS};

impl SecretKey {
    /// The message `[F][C]`, row-major. Correct under the conditions of [`crate::noise`], which the
    /// sender's code checks; a ciphertext made differently decrypts to something else, without an
    /// error.
    pub fn decrypt(&self, ciphertext: &MaskedCiphertext, layout: Layout) -> Vec<Fp> {
        let scaled = self.scaled_phase(ciphertext);
        let half = 1u128 << (SCALE_BITS - 1);
        let mut message: Vec<Fp> = scaled.iter().map(|&x| reduce((x + half) >> SCALE_BITS)).collect();
        self.params().fp.forward(&mut message, layout.log_f());
        message
    }

    /// `t·(c_0 + c_1·s)/q'` modulo a multiple of `t`, with 60 fractional bits; the error is below
    /// `2^−30`.
    ///
    /// With `x = c_0 + c_1·s` and `x̂_i = x·(q'/q_i)^{−1} mod q_i` one has
    /// `t·x/q' = Σ_i t·x̂_i/q_i` modulo `t`.
    pub(crate) fn scaled_phase(&self, ciphertext: &MaskedCiphertext) -> Zeroizing<Vec<u128>> {
        let params = self.params();
        let mut sums = Zeroizing::new(vec![0u128; N]);
        let mut product = Zeroizing::new(vec![0; N]);
        for limb in 0..OUTPUT_LIMBS {
            let (q, ntt) = (params.modulus(limb), params.ntt(limb));
            let range = limb * N..(limb + 1) * N;
            let mut c1 = ciphertext.c1[range.clone()].to_vec();
            ntt.forward(&mut c1, 0..LOG_N);
            kernels::multiply(q, &c1, self.negated(limb), &mut product);
            ntt.inverse(&mut product, 0..LOG_N);
            let gadget = params.gadget[limb].value;
            let mut hat = Zeroizing::new(vec![0; N]);
            Terms::new(q).add(gadget, &ciphertext.c0[range]).add(q.neg(gadget), &product).add_to(&mut hat);
            let scale = params.scale[limb];
            sums.iter_mut().zip(hat.iter()).for_each(|(sum, &x)| *sum += scale * x as u128);
        }
        sums
    }
}

/// A number below `3·p` plus rounding, modulo `p`.
fn reduce(x: u128) -> Fp {
    debug_assert!(x < 4 * P as u128);
    Fp::from_u128(x)
}
