//! Five tests for every protocol: it equals the clear function (bit for bit, given the outcomes of the truncations); it does so
//! over material of an insecure ideal dealer, so online steps do not hide behind the offline phase; its cost is the
//! declared one; its transcript with fixed seeds is the recorded one; spoiled messages are errors and never panics.
//! Online messages are moreover uniform for fixed secrets.

mod attention_material;
mod channel;
mod clear;
mod cost;
mod crop;
mod dealer;
mod endpoint;
mod faults;
mod hybrid_attention;
mod hybrid_keys;
mod hybrid_linear;
mod hybrid_session;
mod ideal;
mod offline;
mod online;
mod plans;
mod prepare;
mod ranges;
mod steps;
mod tables;
mod tiny;
mod uniform;

use cryptogen_ring::{Fp, Prg, Seed, P};
use rand_core::RngCore;

/// A seeded generator: every test is reproducible.
fn rng(seed: u8) -> Prg {
    Prg::new(&Seed::from_bytes([seed; 32]))
}

/// A uniform integer of `[low, high)`, up to a negligible bias.
fn between(rng: &mut Prg, low: i64, high: i64) -> i64 {
    low + (rng.next_u64() % (high - low) as u64) as i64
}

/// `n` integers below `bound` in absolute value: mostly uniform, with both ends and the values around 0 among them.
fn integers(rng: &mut Prg, n: usize, bound: i64) -> Vec<i64> {
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
fn elements(rng: &mut Prg, n: usize) -> Vec<Fp> {
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
