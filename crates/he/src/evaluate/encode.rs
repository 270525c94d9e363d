//! Slots as polynomials: messages, and plaintexts to multiply by.

use cryptogen_ring::{kernels, Fp, P};
use zeroize::Zeroizing;

use super::context::{Context, LIMBS};
use crate::encode::Scaled;
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

/// A message on its way into a ciphertext.
pub(super) fn scaled(context: &Context, slots: &[Fp]) -> Result<Scaled, HeError> {
    Ok(Scaled::of(coefficients(context, slots)?, context.q_mod_t))
}

/// A vector of slots to multiply ciphertexts by, in the transform domain: `[LIMBS][N]`, 262 KB.
/// Wiped on drop.
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
            kernels::centred_residues(context.modulus(i), P, kernels::integers(&m), out);
            context.ntt(i).forward(out, 0..LOG_N);
        });
        Ok(Plaintext { limbs })
    }

    /// Names the parameters that an encoding belongs to.
    pub const PARAMETERS: &str = "N8192Q192P22";

    /// Residues of the transform domain, four bytes each: [`Plaintext::BYTES`]. As secret as what
    /// was encoded.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(Plaintext::BYTES));
        self.limbs.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        out
    }

    /// The inverse, checked.
    pub fn from_bytes(context: &Context, bytes: &[u8]) -> Result<Plaintext, HeError> {
        check_length("plaintext", Plaintext::BYTES, bytes.len())?;
        let words = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        let limbs = Zeroizing::new(words.collect::<Vec<u32>>());
        for (limb, x) in limbs.chunks_exact(N).enumerate() {
            let modulus = context.modulus(limb).value();
            if let Some(index) = x.iter().position(|&x| x >= modulus) {
                return Err(HeError::Residue { what: "plaintext", index, modulus });
            }
        }
        Ok(Plaintext { limbs })
    }

    pub(super) fn limb(&self, i: usize) -> &[u32] {
        &self.limbs[i * N..(i + 1) * N]
    }
}
