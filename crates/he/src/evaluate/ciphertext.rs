//! Ciphertexts: as the client sends them, and as the server computes with them.

use cryptogen_ring::{kernels, Fp};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::context::{Context, LIMBS, RESIDUE_BITS};
use super::encode::scaled;
use super::keys::SecretKey;
use super::noise::Noise;
use super::sample::uniform;
use crate::codec::{pack_bits, packed_bits, unpack_bits};
use crate::encode::Terms;
use crate::error::{check_length, HeError};
use crate::params::{LOG_N, N};
use crate::sample::{self, ERROR_OFFSET};

/// A fresh encryption `(b, a)`, `b = −a·s + e + round(q·m/t)`, `a` from a public seed. Transform
/// domain.
pub struct SeededCiphertext {
    seed: [u8; 32],
    b: Vec<u32>,
}

/// Which domain the polynomials of a ciphertext are in.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Transform,
    Coefficients,
}

/// Two polynomials `[LIMBS][N]`, `c_0 + c_1·s = (q/t)·m + e`.
#[derive(Clone)]
pub struct Ciphertext {
    pub(super) c: [Vec<u32>; 2],
    pub(super) domain: Domain,
    pub(super) noise: Noise,
}

impl SecretKey {
    /// Encrypts `N` slots. Errors: another number of slots.
    pub fn encrypt(
        &self,
        slots: &[Fp],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SeededCiphertext, HeError> {
        let context = self.context();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let a = uniform(context, LIMBS, &seed);
        let (error, message) = (sample::error(rng, N), scaled(context, slots)?);
        let mut b = vec![0; LIMBS * N];
        b.chunks_exact_mut(N).enumerate().for_each(|(limb, out)| {
            let q = context.modulus(limb);
            let r = message.residues(q);
            Terms::new(q)
                .add_offset(&error, ERROR_OFFSET)
                .add(q.neg(context.t_inverse[limb]), &r)
                .add_to(out);
            context.ntt(limb).forward(out, 0..LOG_N);
            kernels::multiply_add(q, &a[limb * N..(limb + 1) * N], self.negated(limb), out);
        });
        Ok(SeededCiphertext { seed, b })
    }
}

impl SeededCiphertext {
    /// Length of [`SeededCiphertext::to_bytes`].
    pub const BYTES: usize = 32 + packed_bits::<RESIDUE_BITS>(LIMBS * N);

    /// Seed, then the packed `b`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SeededCiphertext::BYTES);
        out.extend_from_slice(&self.seed);
        pack_bits::<RESIDUE_BITS>(&self.b, &mut out);
        out
    }

    /// The inverse, checked.
    pub fn from_bytes(context: &Context, bytes: &[u8]) -> Result<SeededCiphertext, HeError> {
        check_length("seeded ciphertext", SeededCiphertext::BYTES, bytes.len())?;
        let (seed, b) = bytes.split_at(32);
        let moduli: [u32; LIMBS] = core::array::from_fn(|i| context.modulus(i).value());
        let b = unpack_bits::<RESIDUE_BITS>(&moduli, N, "seeded ciphertext", b)?;
        Ok(SeededCiphertext { seed: seed.try_into().expect("split at 32"), b })
    }

    /// Expands the seed.
    pub fn expand(self, context: &Context) -> Ciphertext {
        let a = uniform(context, LIMBS, &self.seed);
        Ciphertext { c: [self.b, a], domain: Domain::Transform, noise: Noise::fresh() }
    }
}

impl Ciphertext {
    /// Length of [`Ciphertext::to_bytes`].
    pub const BYTES: usize = 8 + 2 * packed_bits::<RESIDUE_BITS>(LIMBS * N);
    /// Size in memory.
    pub const MEMORY: usize = 2 * 4 * LIMBS * N;

    /// An encryption of zero that hides nothing: the start of a sum.
    pub fn zero() -> Ciphertext {
        let zero = || vec![0; LIMBS * N];
        Ciphertext { c: [zero(), zero()], domain: Domain::Transform, noise: Noise::none() }
    }

    /// The tracked noise.
    pub fn noise(&self) -> Noise {
        self.noise
    }

    /// Adds a plaintext vector of `N` slots.
    pub fn add_plain(&mut self, context: &Context, slots: &[Fp]) -> Result<(), HeError> {
        let message = scaled(context, slots)?;
        let domain = self.domain;
        self.c[0].chunks_exact_mut(N).enumerate().for_each(|(limb, c)| {
            let q = context.modulus(limb);
            let mut m = Zeroizing::new(vec![0; N]);
            let r = message.residues(q);
            Terms::new(q).add(q.neg(context.t_inverse[limb]), &r).add_to(&mut m);
            if domain == Domain::Transform {
                context.ntt(limb).forward(&mut m, 0..LOG_N);
            }
            Terms::new(q).add(1, &m).add_to(c);
        });
        self.noise = self.noise.add_plain();
        Ok(())
    }

    /// Adds another ciphertext.
    pub fn add(&mut self, context: &Context, other: &Ciphertext) {
        self.transform(context);
        let other = other.transformed(context);
        for (c, o) in self.c.iter_mut().zip(&other.c) {
            c.chunks_exact_mut(N).zip(o.chunks_exact(N)).enumerate().for_each(|(limb, (c, o))| {
                Terms::new(context.modulus(limb)).add(1, o).add_to(c);
            });
        }
        self.noise = self.noise + other.noise;
    }

    /// Both polynomials packed, coefficients as they are in the transform domain, after the tracked
    /// noise.
    pub fn to_bytes(&self, context: &Context) -> Vec<u8> {
        let this = self.transformed(context);
        let mut out = Vec::with_capacity(Ciphertext::BYTES);
        out.extend_from_slice(&this.noise.to_bytes());
        this.c.iter().for_each(|c| pack_bits::<RESIDUE_BITS>(c, &mut out));
        out
    }

    /// The inverse, checked.
    pub fn from_bytes(context: &Context, bytes: &[u8]) -> Result<Ciphertext, HeError> {
        check_length("ciphertext", Ciphertext::BYTES, bytes.len())?;
        let (noise, rest) = bytes.split_at(8);
        let (c0, c1) = rest.split_at(packed_bits::<RESIDUE_BITS>(LIMBS * N));
        let moduli: [u32; LIMBS] = core::array::from_fn(|i| context.modulus(i).value());
        let limbs = |bytes| unpack_bits::<RESIDUE_BITS>(&moduli, N, "ciphertext", bytes);
        Ok(Ciphertext {
            c: [limbs(c0)?, limbs(c1)?],
            domain: Domain::Transform,
            noise: Noise::from_bytes(noise.try_into().expect("split at 8")),
        })
    }

    pub(super) fn limb(&self, component: usize, limb: usize) -> &[u32] {
        &self.c[component][limb * N..(limb + 1) * N]
    }

    /// Moves to the transform domain.
    pub(super) fn transform(&mut self, context: &Context) {
        if self.domain == Domain::Coefficients {
            for c in &mut self.c {
                let limbs = c.chunks_exact_mut(N).enumerate();
                limbs.for_each(|(limb, c)| context.ntt(limb).forward(c, 0..LOG_N));
            }
            self.domain = Domain::Transform;
        }
    }

    /// Moves to coefficients.
    pub(super) fn untransform(&mut self, context: &Context) {
        if self.domain == Domain::Transform {
            for c in &mut self.c {
                let limbs = c.chunks_exact_mut(N).enumerate();
                limbs.for_each(|(limb, c)| context.ntt(limb).inverse(c, 0..LOG_N));
            }
            self.domain = Domain::Coefficients;
        }
    }

    /// This ciphertext in the transform domain, copied only if it is not there.
    pub(super) fn transformed(&self, context: &Context) -> std::borrow::Cow<'_, Ciphertext> {
        match self.domain {
            Domain::Transform => std::borrow::Cow::Borrowed(self),
            Domain::Coefficients => {
                let mut copy = self.clone();
                copy.transform(context);
                std::borrow::Cow::Owned(copy)
            }
        }
    }
}
