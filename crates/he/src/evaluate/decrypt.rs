//! Decryption of what comes back.

use cryptogen_ring::{kernels, Fp, P};
use zeroize::Zeroizing;

use super::context::{OUTPUT_LIMBS, SCALE_BITS};
use super::encode::slots;
use super::keys::SecretKey;
use super::mask::MaskedCiphertext;
use crate::encode::Terms;
use crate::params::{LOG_N, N};

impl SecretKey {
    /// The `N` slots. Correct while the sender tracked its noise; a ciphertext made differently
    /// decrypts to something else, without an error.
    pub fn decrypt(&self, ciphertext: &MaskedCiphertext) -> Zeroizing<Vec<Fp>> {
        let half = 1u128 << (SCALE_BITS - 1);
        let scaled = self.scaled_phase(ciphertext);
        slots(
            self.context(),
            Zeroizing::new(scaled.iter().map(|&x| Fp::from_u128((x + half) >> SCALE_BITS)).collect()),
        )
    }

    /// `t·(c_0 + c_1·s)/q'` modulo a multiple of `t`, with 60 fractional bits: with
    /// `x̂_i = x·(q'/q_i)^{−1} mod q_i` it is `Σ_i t·x̂_i/q_i` modulo `t`.
    pub(super) fn scaled_phase(&self, ciphertext: &MaskedCiphertext) -> Zeroizing<Vec<u128>> {
        let context = self.context();
        let mut sums = Zeroizing::new(vec![0u128; N]);
        let mut product = Zeroizing::new(vec![0; N]);
        for limb in 0..OUTPUT_LIMBS {
            let (q, ntt) = (context.modulus(limb), context.ntt(limb));
            let range = limb * N..(limb + 1) * N;
            let mut c1 = ciphertext.c[1][range.clone()].to_vec();
            ntt.forward(&mut c1, 0..LOG_N);
            kernels::multiply(q, &c1, self.negated(limb), &mut product);
            ntt.inverse(&mut product, 0..LOG_N);
            let gadget = context.gadget[limb];
            let mut hat = Zeroizing::new(vec![0; N]);
            Terms::new(q).add(gadget, &ciphertext.c[0][range]).add(q.neg(gadget), &product).add_to(&mut hat);
            let scale = context.scale[limb];
            sums.iter_mut().zip(hat.iter()).for_each(|(sum, &x)| *sum += scale * x as u128);
        }
        debug_assert!(sums.iter().all(|x| x >> SCALE_BITS < 5 * P as u128));
        sums
    }
}
