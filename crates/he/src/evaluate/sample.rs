//! Randomness of this parameter set: uniform residues from a public seed, and flooding.

use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::context::Context;
use crate::params::N;
use crate::sample;

/// 32-bit digits of flooding noise; its offset is half its range.
pub(super) const FLOOD_DIGITS: usize = 4;

/// Residues `[limbs][N]` of the first primes of `q·P`, uniform, from a public seed.
pub(super) fn uniform(context: &Context, limbs: usize, seed: &[u8; 32]) -> Vec<u32> {
    sample::uniform((0..limbs).map(|limb| context.modulus(limb)), N, seed)
}

/// `N` uniform 128-bit numbers as 32-bit digits.
pub(super) fn flood(rng: &mut (impl RngCore + CryptoRng)) -> [Zeroizing<Vec<u32>>; FLOOD_DIGITS] {
    core::array::from_fn(|_| {
        let mut bytes = Zeroizing::new(vec![0; 4 * N]);
        rng.fill_bytes(&mut bytes);
        Zeroizing::new(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    })
}
