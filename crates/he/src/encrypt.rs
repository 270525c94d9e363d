//! Symmetric encryption. Half of a fresh ciphertext is a public seed, so about 200 KB travel for
//! `N` field elements.

use cryptogen_ring::Fp;
use rand_core::{CryptoRng, RngCore};

use crate::codec::{pack, packed_bytes, unpack};
use crate::encode::Scaled;
use crate::error::{check_length, HeError};
use crate::keys::SecretKey;
use crate::params::{Layout, Params, LIMBS, N};

/// A fresh ciphertext `(b, a)`, `b = −a·s + e + round(q·m/t)`, with `a` still a seed. `b` and `a`
/// are in the partial domain of the layout, where multiplication by a vector is one scalar product
/// per slot.
#[derive(Clone)]
pub struct SeededCiphertext {
    pub(crate) layout: Layout,
    pub(crate) seed: [u8; 32],
    pub(crate) b: Vec<u32>,
}

/// A ciphertext with both components, `[LIMBS][N]` each, in the partial domain of the layout.
#[derive(Clone)]
pub struct Ciphertext {
    pub(crate) layout: Layout,
    pub(crate) b: Vec<u32>,
    pub(crate) a: Vec<u32>,
}

impl SecretKey {
    /// Encrypts `message`, `[F][C]` row-major of the layout. Error: a length other than `N`.
    pub fn encrypt(
        &self,
        message: &[Fp],
        layout: Layout,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SeededCiphertext, HeError> {
        check_length("message", N, message.len())?;
        let params = self.params();
        let scaled = Scaled::new(params, layout, message);
        let (seed, b) = params.ring().encrypt(self.negated(), &scaled, layout.log_f(), rng);
        Ok(SeededCiphertext { layout, seed, b })
    }
}

impl SeededCiphertext {
    /// Length of [`SeededCiphertext::to_bytes`].
    pub const BYTES: usize = 32 + packed_bytes(LIMBS * N);

    /// Seed, then the packed `b`. The layout is not included: both parties know it from the
    /// protocol.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SeededCiphertext::BYTES);
        out.extend_from_slice(&self.seed);
        pack(&self.b, &mut out);
        out
    }

    /// The inverse of [`SeededCiphertext::to_bytes`], checked.
    pub fn from_bytes(params: &Params, layout: Layout, bytes: &[u8]) -> Result<SeededCiphertext, HeError> {
        check_length("seeded ciphertext", SeededCiphertext::BYTES, bytes.len())?;
        let (seed, b) = bytes.split_at(32);
        let b = unpack(params.ring(), "seeded ciphertext", b)?;
        Ok(SeededCiphertext { layout, seed: seed.try_into().expect("split at 32"), b })
    }

    /// The slots and coefficients of the message.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Expands the seed.
    pub fn expand(&self, params: &Params) -> Ciphertext {
        Ciphertext { layout: self.layout, b: self.b.clone(), a: params.ring().uniform(&self.seed) }
    }
}

impl Ciphertext {
    /// The slots and coefficients of the message.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}
