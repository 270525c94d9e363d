//! The secret key; the public one is in [`crate::shares`].

use cryptogen_ring::Wiped;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::error::HeError;
use crate::params::{Params, N};
use crate::sample;

/// The ternary secret `s`. Wiped on drop; deliberately neither `Debug` nor `Clone`.
pub struct SecretKey {
    params: &'static Params,
    /// `−s` in the full domain, `[LIMBS][N]`.
    negated: Wiped<u32>,
}

impl SecretKey {
    /// A uniform ternary secret.
    pub fn generate(params: &'static Params, rng: &mut (impl RngCore + CryptoRng)) -> SecretKey {
        SecretKey { params, negated: params.ring().negated(&sample::ternary(rng, N)) }
    }

    /// The parameter set of the key.
    pub fn params(&self) -> &'static Params {
        self.params
    }

    /// `−s` in the full domain, `[LIMBS][N]`.
    pub(crate) fn negated(&self) -> &[u32] {
        &self.negated
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
