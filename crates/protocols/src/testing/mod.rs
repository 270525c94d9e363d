//! What tests of this crate and of those above share: tiny models, their arithmetic in the clear,
//! two parties in one process.
//!
//! In test builds only.

pub mod channel;
pub mod clear;
pub mod sessions;
pub mod tiny;

use cryptogen_ring::{Fp, Prg, Seed, P};
use rand_core::RngCore;

/// A seeded generator: every test is reproducible.
pub fn rng(seed: u8) -> Prg {
    Prg::new(&Seed::from_bytes([seed; 32]))
}

/// A uniform integer of `[low, high)`, up to a negligible bias.
pub fn between(rng: &mut Prg, low: i64, high: i64) -> i64 {
    low + (rng.next_u64() % (high - low) as u64) as i64
}

/// `n` integers below `bound` in absolute value: mostly uniform, with both ends and the values
/// around 0 among them.
pub fn integers(rng: &mut Prg, n: usize, bound: i64) -> Vec<i64> {
    let extreme = [bound - 1, 1 - bound, 0, -1, 1];
    (0..n)
        .map(|_| {
            if rng.next_u64().is_multiple_of(4) {
                extreme[rng.next_u64() as usize % 5]
            } else {
                between(rng, 1 - bound, bound)
            }
        })
        .collect()
}

/// `n` field elements: mostly uniform, with the ends of the field among them.
pub fn elements(rng: &mut Prg, n: usize) -> Vec<Fp> {
    let extreme = [0, 1, P - 1, P / 2, P / 2 + 1].map(Fp::new);
    (0..n)
        .map(|_| {
            if rng.next_u64().is_multiple_of(4) {
                extreme[rng.next_u64() as usize % 5]
            } else {
                rng.fp_vec(1)[0]
            }
        })
        .collect()
}
