//! Keys. The public key serves one purpose: encryptions of zero that hide a combination from the
//! owner of the secret key.

use cryptogen_ring::Wiped;
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec::{pack, packed_bytes, unpack};
use crate::error::{check_length, HeError};
use crate::params::{Params, LIMBS, N};
use crate::sample;

/// The ternary secret `s`. Wiped on drop; deliberately neither `Debug` nor `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey {
    #[zeroize(skip)]
    params: &'static Params,
    /// Coefficients plus 1, `[N]`.
    coefficients: Vec<u32>,
    /// `−s` in the full domain, `[LIMBS][N]`; wiped by itself.
    #[zeroize(skip)]
    negated: Wiped<u32>,
}

impl SecretKey {
    /// Length of [`SecretKey::to_bytes`].
    pub const BYTES: usize = N / 4;

    /// A uniform ternary secret.
    pub fn generate(params: &'static Params, rng: &mut (impl RngCore + CryptoRng)) -> SecretKey {
        SecretKey::from_coefficients(params, sample::ternary(rng, N))
    }

    /// Four coefficients in a byte, two bits each: the coefficient plus 1.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        pack_ternary(&self.coefficients)
    }

    /// The inverse of [`SecretKey::to_bytes`].
    pub fn from_bytes(params: &'static Params, bytes: &[u8]) -> Result<SecretKey, HeError> {
        check_length("secret key", SecretKey::BYTES, bytes.len())?;
        Ok(SecretKey::from_coefficients(params, unpack_ternary(bytes)?))
    }

    /// The parameter set of the key.
    pub fn params(&self) -> &'static Params {
        self.params
    }

    /// `−s` modulo one prime, full domain.
    pub(crate) fn negated(&self, limb: usize) -> &[u32] {
        &self.negated[limb * N..(limb + 1) * N]
    }

    /// `−s`, `[LIMBS][N]`.
    pub(crate) fn negated_all(&self) -> &[u32] {
        &self.negated
    }

    fn from_coefficients(params: &'static Params, coefficients: Zeroizing<Vec<u32>>) -> SecretKey {
        let negated = params.ring().negated(&coefficients);
        SecretKey { params, coefficients: coefficients.to_vec(), negated }
    }
}

/// Ternary coefficients plus 1, four in a byte.
pub(crate) fn pack_ternary(coefficients: &[u32]) -> Zeroizing<Vec<u8>> {
    let byte = |c: &[u32]| (c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6) as u8;
    Zeroizing::new(coefficients.chunks_exact(4).map(byte).collect())
}

/// The inverse of [`pack_ternary`], checked.
pub(crate) fn unpack_ternary(bytes: &[u8]) -> Result<Zeroizing<Vec<u32>>, HeError> {
    let pairs = bytes.iter().flat_map(|&b| [b & 3, b >> 2 & 3, b >> 4 & 3, b >> 6]);
    let coefficients = Zeroizing::new(pairs.map(|pair| pair as u32).collect::<Vec<_>>());
    match coefficients.iter().position(|&c| c > 2) {
        Some(index) => Err(HeError::SecretKey { index }),
        None => Ok(coefficients),
    }
}

/// `(b, a)` with `b = −a·s + e`, both in the full domain; `a` comes from a public seed.
pub struct PublicKey {
    seed: [u8; 32],
    /// `[LIMBS][N]` each.
    pub(crate) b: Vec<u32>,
    pub(crate) a: Vec<u32>,
}

impl PublicKey {
    /// Length of [`PublicKey::to_bytes`].
    pub const BYTES: usize = 32 + packed_bytes(LIMBS * N);

    /// A public key of `secret`.
    pub fn generate(secret: &SecretKey, rng: &mut (impl RngCore + CryptoRng)) -> PublicKey {
        let params = secret.params;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let a = params.ring().uniform(&seed);
        let b = params.ring().zero(&secret.negated, &a, rng);
        PublicKey { seed, b, a }
    }

    /// Seed, then the packed `b`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.seed.to_vec();
        pack(&self.b, &mut out);
        out
    }

    /// The inverse of [`PublicKey::to_bytes`], checked.
    pub fn from_bytes(params: &'static Params, bytes: &[u8]) -> Result<PublicKey, HeError> {
        check_length("public key", PublicKey::BYTES, bytes.len())?;
        let (seed, b) = bytes.split_at(32);
        let seed: [u8; 32] = seed.try_into().expect("split at 32");
        let b = unpack(params.ring(), "public key", b)?;
        Ok(PublicKey { seed, b, a: params.ring().uniform(&seed) })
    }
}
