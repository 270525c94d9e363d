//! Randomness of this parameter set: uniform residues from a public seed, and flooding.

use cryptogen_ring::{Modulus, Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::context::{Context, RESIDUE_BITS};
use crate::params::N;

/// 32-bit digits of flooding noise; its offset is half its range.
pub(super) const FLOOD_DIGITS: usize = 4;

/// Residues `[limbs][N]`, uniform, from a public seed.
pub(super) fn uniform(context: &Context, limbs: usize, seed: &[u8; 32]) -> Vec<u32> {
    let mut prg = Prg::new(&Seed::from_bytes(*seed));
    let mut out = Vec::with_capacity(limbs * N);
    (0..limbs).for_each(|limb| uniform_limb(context.modulus(limb), &mut prg, &mut out));
    out
}

/// Appends `N` residues; rejects 25-bit words above the prime.
fn uniform_limb(q: &Modulus, prg: &mut Prg, out: &mut Vec<u32>) {
    let end = out.len() + N;
    let mut bytes = [0u8; 8192];
    while out.len() < end {
        prg.fill_bytes(&mut bytes);
        let words = bytes
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) >> (32 - RESIDUE_BITS));
        let missing = end - out.len();
        out.extend(words.filter(|&word| word < q.value()).take(missing));
    }
}

/// `N` uniform 128-bit numbers as 32-bit digits.
pub(super) fn flood(rng: &mut (impl RngCore + CryptoRng)) -> [Zeroizing<Vec<u32>>; FLOOD_DIGITS] {
    core::array::from_fn(|_| {
        let mut bytes = Zeroizing::new(vec![0; 4 * N]);
        rng.fill_bytes(&mut bytes);
        Zeroizing::new(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    })
}
