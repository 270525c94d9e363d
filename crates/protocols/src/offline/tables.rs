//! `Table`: keys for secret look-ups, made in bounded batches.
//!
//! Functionality: shares of payloads, or nothing where they are drawn → keys that expand to shares
//! of `[j = α]·(1, β, …)` modulo `2^64`, and shares of `α` and of drawn payloads, which are uniform
//! and known to nobody.
//! Source: `docs/protocols/preprocessed.md` §3.4; Half-Tree (EUROCRYPT 2023); see
//! `cryptogen_ot::dpf`.
//! Inputs: both their shares of given payloads, `[n][payloads]`, modulo `2^64`, at the scale of
//! what they pad.
//! Cost: `2k + 7` messages a batch of `2^25` leaves, with drawn payloads `2k + 9`; bytes from each
//! party about `0.5(k + 1) + 16(k − 1) + 40m` a key, with drawn payloads `0.5(k + 1) + 16k + 16`,
//! and 19 000 a batch, and `k(k − 1)/16` more a key from the server. Few keys: `3.9(k + 1)` and
//! 576. Once for a connection, with the first batch of 32 768 transfers or more,
//! `cryptogen_ot::RESERVE_COST`.
//! Material: spends `k + 1` transfers a key in each direction; makes the keys.
//! Leaks: nothing.
//!
//! Symmetric; the batch size only bounds memory.

use cryptogen_ot::{generate, OtPair, TableShape};
use cryptogen_party::{Channel, Party};
use cryptogen_ring::{Prg, Word};

use crate::error::Result;
use crate::share::Cost;

/// Leaves of a batch, or fewer where that is more transfers than one extension makes: its rounds
/// cost little against its work even over 80 ms, and it takes about 80 MB of memory.
const LEAVES: usize = 1 << 25;

/// Messages and bytes of `n` tables, but for `cryptogen_ot::RESERVE_COST`.
pub fn cost(shape: TableShape, n: usize) -> Cost {
    let batch = batch(shape);
    let batches = (0..n).step_by(batch).map(|first| cryptogen_ot::cost(shape, batch.min(n - first)));
    batches
        .map(|c| Cost { messages: c.messages, client_bytes: c.client_bytes, server_bytes: c.server_bytes })
        .sum()
}

/// Tables made at a time.
fn batch(shape: TableShape) -> usize {
    (LEAVES >> shape.k()).clamp(1, shape.max_batch())
}

/// Where the records of a batch go: `keep(channel, first, records)`, after the client's last
/// message of the batch.
pub type Keep<'a> = &'a mut dyn FnMut(&mut dyn Channel, usize, &mut [u8]) -> Result<()>;

/// Makes `n` tables with shares `betas` of their given payloads, `[n][payloads]`, and hands the
/// records of every batch to `keep`.
///
/// # Errors
/// Connection failures, malformed messages, whatever `keep` returns.
pub fn make<P: Party>(
    ch: &mut dyn Channel,
    ot: &mut OtPair,
    (shape, n): (TableShape, usize),
    betas: &[Word],
    rng: &mut Prg,
    keep: Keep<'_>,
) -> Result<()> {
    let payloads = shape.given();
    let batch = batch(shape);
    for first in (0..n).step_by(batch) {
        let count = batch.min(n - first);
        let betas = &betas[first * payloads..(first + count) * payloads];
        let tables = generate(ch, ot, shape, count, betas, rng)?;
        keep(ch, first, &mut tables.into_bytes())?;
    }
    Ok(())
}
