//! Ciphertexts on their way back: minus a uniform mask, re-randomised, flooded, and small.

use cryptogen_ring::{kernels, Fp, Prg};
use zeroize::Zeroizing;

use super::ciphertext::Ciphertext;
use super::context::{Context, LIMBS, OUTPUT_LIMBS, RESIDUE_BITS};
use super::encode::scaled;
use super::evaluator::{count, Evaluator};
use super::noise::FLOOD_BITS;
use super::sample;
use crate::codec::{pack_bits, packed_bits, unpack_bits};
use crate::encode::Terms;
use crate::error::{check_length, HeError};
use crate::params::{LOG_N, N};
use crate::sample::{error, ternary, ERROR_OFFSET, TERNARY_OFFSET};

/// A result for the owner of the secret key: two polynomials of four limbs, coefficients.
pub struct MaskedCiphertext {
    pub(super) c: [Vec<u32>; 2],
}

impl MaskedCiphertext {
    /// Length of [`MaskedCiphertext::to_bytes`].
    pub const BYTES: usize = 2 * packed_bits::<RESIDUE_BITS>(OUTPUT_LIMBS * N);

    /// `c_0`, then `c_1`, packed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MaskedCiphertext::BYTES);
        self.c.iter().for_each(|c| pack_bits::<RESIDUE_BITS>(c, &mut out));
        out
    }

    /// The inverse, checked.
    pub fn from_bytes(context: &Context, bytes: &[u8]) -> Result<MaskedCiphertext, HeError> {
        check_length("masked ciphertext", MaskedCiphertext::BYTES, bytes.len())?;
        let moduli: [u32; OUTPUT_LIMBS] = core::array::from_fn(|i| context.modulus(i).value());
        let (c0, c1) = bytes.split_at(MaskedCiphertext::BYTES / 2);
        let limbs = |bytes| unpack_bits::<RESIDUE_BITS>(&moduli, N, "masked ciphertext", bytes);
        Ok(MaskedCiphertext { c: [limbs(c0)?, limbs(c1)?] })
    }
}

impl Evaluator<'_> {
    /// `Enc(m − masks)`: an encryption of zero under the public key makes the second polynomial
    /// pseudorandom, flooding hides the noise by 40 bits. Uniform masks are the caller's
    /// responsibility. Errors: too much noise, another number of slots.
    pub fn mask(&self, ct: &Ciphertext, masks: &[Fp], rng: &mut Prg) -> Result<MaskedCiphertext, HeError> {
        ct.noise.check("a ciphertext to return")?;
        let mut hidden = ct.clone();
        hidden.untransform(self.context);
        self.hide(&mut hidden, masks, true, rng)?;
        count(&self.counters.masked, 1);
        Ok(self.shrink(hidden))
    }

    /// Adds `u·pk + (e_1, e_2) + (flooding − mask, 0)` to coefficients. Only tests pass
    /// `flood = false`.
    pub(super) fn hide(
        &self,
        ct: &mut Ciphertext,
        masks: &[Fp],
        flood: bool,
        rng: &mut Prg,
    ) -> Result<(), HeError> {
        let context = self.context;
        let mask = scaled(context, masks)?;
        let (u, e1, e2) = (ternary(rng, N), error(rng, N), error(rng, N));
        let digits = sample::flood(rng);
        let public = &self.keys.public;
        let [c0, c1] = &mut ct.c;
        c0.chunks_exact_mut(N).zip(c1.chunks_exact_mut(N)).enumerate().for_each(|(limb, (c0, c1))| {
            let (q, ntt, range) = (context.modulus(limb), context.ntt(limb), limb * N..(limb + 1) * N);
            let mut u_full = Zeroizing::new(vec![0; N]);
            Terms::new(q).add_offset(&u, TERNARY_OFFSET).add_to(&mut u_full);
            ntt.forward(&mut u_full, 0..LOG_N);
            let mut zero = Zeroizing::new(vec![0; N]);
            kernels::multiply(q, &public.b[range.clone()], &u_full, &mut zero);
            ntt.inverse(&mut zero, 0..LOG_N);
            let r = mask.residues(q);
            // −Δ·mask = +r·t^{−1}.
            let mut terms =
                Terms::new(q).add(1, &zero).add_offset(&e1, ERROR_OFFSET).add(context.t_inverse[limb], &r);
            if flood {
                let power = |digit: usize| q.pow(2, 32 * digit as u64);
                terms = (0..digits.len()).fold(terms, |t, digit| t.add(power(digit), &digits[digit]));
                terms = terms.constant(q.neg(q.pow(2, FLOOD_BITS as u64)));
            }
            terms.add_to(c0);
            kernels::multiply(q, &public.a[range], &u_full, &mut zero);
            ntt.inverse(&mut zero, 0..LOG_N);
            Terms::new(q).add(1, &zero).add_offset(&e2, ERROR_OFFSET).add_to(c1);
        });
        Ok(())
    }

    /// Drops limbs one by one from the last, with rounding: `c ← round(c/q_l)`.
    pub(super) fn shrink(&self, ct: Ciphertext) -> MaskedCiphertext {
        let context = self.context;
        let c = ct.c.map(|mut c| {
            for last in (OUTPUT_LIMBS..LIMBS).rev() {
                let (rest, dropped) = c.split_at_mut(last * N);
                for (limb, out) in rest.chunks_exact_mut(N).enumerate() {
                    let (q, l) = (context.modulus(limb), context.modulus(last));
                    kernels::drop_limb(q, l, context.drop[last][limb], &dropped[..N], out);
                }
            }
            c.truncate(OUTPUT_LIMBS * N);
            c
        });
        MaskedCiphertext { c }
    }
}
