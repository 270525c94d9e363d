//! Slots as polynomials: messages, and plaintexts to multiply by.

use cryptogen_ring::{kernels, Fp, Modulus};
use zeroize::Zeroizing;

use super::context::{Context, LIMBS};
use crate::error::{check_length, HeError};
use crate::params::{LOG_N, N};

/// Coefficients modulo `t` of the polynomial with these slots.
pub(super) fn coefficients(context: &Context, slots: &[Fp]) -> Result<Zeroizing<Vec<Fp>>, HeError> {
    check_length("slots", N, slots.len())?;
    let mut out = Zeroizing::new(vec![Fp::ZERO; N]);
    slots.iter().zip(&context.slots).for_each(|(&x, &at)| out[at as usize] = x);
    context.fp.inverse(&mut out, LOG_N);
    Ok(out)
}

/// The inverse of [`coefficients`].
pub(super) fn slots(context: &Context, mut coefficients: Zeroizing<Vec<Fp>>) -> Zeroizing<Vec<Fp>> {
    context.fp.forward(&mut coefficients, LOG_N);
    Zeroizing::new(context.slots.iter().map(|&at| coefficients[at as usize]).collect())
}

/// A message on its way into a ciphertext: `r = [q·m]_t`, from which `round(q·m/t) ≡ −r·t^{−1}` modulo every prime of `q`.
pub(super) struct Scaled(Zeroizing<Vec<Fp>>);

impl Scaled {
    pub(super) fn new(context: &Context, slots: &[Fp]) -> Result<Scaled, HeError> {
        let mut m = coefficients(context, slots)?;
        m.iter_mut().for_each(|x| *x *= context.q_mod_t);
        Ok(Scaled(m))
    }

    /// `r mod q_i`, which times `−t^{−1}` is the scaled message.
    pub(super) fn residues(&self, q: &Modulus) -> Zeroizing<Vec<u32>> {
        let mut out = Zeroizing::new(vec![0; N]);
        kernels::centred_residues(q, &self.0, &mut out);
        out
    }
}

/// A vector of slots to multiply ciphertexts by, in the transform domain: `[LIMBS][N]`, 262 KB. Wiped on drop.
pub struct Plaintext {
    pub(super) limbs: Zeroizing<Vec<u32>>,
}

impl Plaintext {
    /// Size in memory.
    pub const BYTES: usize = 4 * LIMBS * N;

    /// Encodes `N` slots. The polynomial modulo `t` is lifted to `(−t/2, t/2)`.
    pub fn encode(context: &Context, slots: &[Fp]) -> Result<Plaintext, HeError> {
        let m = coefficients(context, slots)?;
        let mut limbs = Zeroizing::new(vec![0; LIMBS * N]);
        limbs.chunks_exact_mut(N).enumerate().for_each(|(i, out)| {
            kernels::centred_residues(context.modulus(i), &m, out);
            context.ntt(i).forward(out, 0..LOG_N);
        });
        Ok(Plaintext { limbs })
    }

    pub(super) fn limb(&self, i: usize) -> &[u32] {
        &self.limbs[i * N..(i + 1) * N]
    }
}
