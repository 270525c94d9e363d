//! `Linear(W)`: shares `y_c + y_s = W·r'` for many tokens at once.
//!
//! Functionality: client input `r'` `[T, d_in]`; outputs `y_c`, `y_s` `[T, d_out]`, `y_c` uniform. Source: design of the default protocol, `Linear`.
//! Messages C→S: `T·blocks` masked ciphertexts (150 KB each), up to 64 in a message. Leaks: nothing (flooded, re-randomised).
//!
//! 1. Client: `ct = Σ_k r'_k ⊙ Enc(W)_k − mask`, re-randomised, flooded, modulus-switched.
//! 2. Server: decrypts; both add up the slots of every row: `y_c[o] = Σ_κ mask[κ][o]`.

use cryptogen_he::{Combiner, Layout, MaskedCiphertext, Params, PublicKey, SecretKey, N};
use cryptogen_ot::Channel;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::model::{EncryptedModel, MatrixLayout};
use super::pipeline::pipeline;
use crate::cost::Cost;
use crate::error::Result;

/// Ciphertexts expanded at a time (0.46 MB each).
const EXPANDED: usize = 64;
/// Rows of a message (0.46 MB of sums each). All rows of a call are combined in one pass over the model.
const ROWS: usize = 64;

/// Messages and bytes of `rows` rows.
pub fn cost(m: &MatrixLayout, rows: usize) -> Cost {
    let messages = m.blocks * rows.div_ceil(ROWS);
    Cost { messages, client_bytes: m.blocks * rows * MaskedCiphertext::BYTES, server_bytes: 0 }
}

/// Client: returns `y_c` `[T, d_out]`. `r` is `[T, d_in]`. Sends a message while it makes the next one.
///
/// # Errors
/// Connection failures, unreadable encrypted model.
pub fn client(
    ch: &mut dyn Channel,
    params: &'static Params,
    server_key: &PublicKey,
    model: &EncryptedModel,
    m: &MatrixLayout,
    r: &[Fp],
    rng: &mut Prg,
) -> Result<Vec<Fp>> {
    let mut y = vec![Fp::ZERO; r.len() / m.d_in * m.d_out];
    for block in 0..m.blocks {
        let combiners = combined(params, model, m, block, r)?;
        let mut rows = y.chunks_mut(ROWS * m.d_out);
        pipeline(
            combiners.into_iter().map(|combiner| Ok((combiner, Seed::random(rng)))),
            |(combiner, seed)| hidden(server_key, combiner, &seed),
            |(masks, bytes)| {
                ch.send(&bytes)?;
                add_slots(m, block, &masks, rows.next().unwrap_or_default());
                Ok(())
            },
        )?;
    }
    Ok(y)
}

/// `Σ_k r'_k ⊙ Enc(W)_k` of one block, [`ROWS`] rows in each combiner.
fn combined(
    params: &'static Params,
    model: &EncryptedModel,
    m: &MatrixLayout,
    block: usize,
    r: &[Fp],
) -> Result<Vec<Combiner>> {
    let parts: Vec<&[Fp]> = r.chunks(ROWS * m.d_in).collect();
    let combiner = |r: &&[Fp]| Combiner::new(params, m.layout, r.len() / m.d_in);
    let mut combiners: Vec<Combiner> = parts.iter().map(combiner).collect();
    for k in (0..m.columns).step_by(EXPANDED) {
        let range = k..m.columns.min(k + EXPANDED);
        let cts = model.expanded(params, m, block, range.clone())?;
        for (combiner, r) in combiners.iter_mut().zip(&parts) {
            combiner.add_block(&cts, &weights(m, r, range.clone()))?;
        }
    }
    Ok(combiners)
}

/// Server: returns `y_s` `[T, d_out]`. Decrypts a message while it receives the next one.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn server(
    ch: &mut dyn Channel,
    params: &'static Params,
    key: &SecretKey,
    m: &MatrixLayout,
    rows: usize,
) -> Result<Vec<Fp>> {
    let mut y = vec![Fp::ZERO; rows * m.d_out];
    let firsts = (0..rows).step_by(ROWS);
    let places = (0..m.blocks).flat_map(|block| firsts.clone().map(move |first| (block, first)));
    pipeline(
        places.map(|(block, first)| {
            Ok((block, first, ch.recv(ROWS.min(rows - first) * MaskedCiphertext::BYTES)?))
        }),
        |(block, first, bytes)| Ok((block, first, decrypted(params, key, m.layout, &bytes)?)),
        |(block, first, values)| {
            let rows = values.len() / N;
            add_slots(m, block, &values, &mut y[first * m.d_out..][..rows * m.d_out]);
            Ok(())
        },
    )?;
    Ok(y)
}

/// Subtracts fresh uniform masks from combinations and hides what they are made of; returns the masks `[n][N]` and the message.
pub(crate) fn hidden(key: &PublicKey, combiner: Combiner, seed: &Seed) -> Result<(Vec<Fp>, Vec<u8>)> {
    let mut masks = vec![Fp::ZERO; combiner.results() * N];
    masks
        .par_chunks_mut(N)
        .enumerate()
        .for_each(|(i, mask)| Prg::new(&seed.derive("mask", i as u64)).fill_fp(mask));
    let params = combiner.params();
    let out = combiner.finish(key, &masks, &mut Prg::new(&seed.derive("combiner", 0)))?;
    let mut bytes = vec![0; out.len() * MaskedCiphertext::BYTES];
    bytes
        .par_chunks_mut(MaskedCiphertext::BYTES)
        .zip(&out)
        .for_each(|(bytes, ct)| bytes.copy_from_slice(&ct.to_bytes(params)));
    Ok((masks, bytes))
}

/// The messages of masked ciphertexts, `[n][N]`.
pub(crate) fn decrypted(
    params: &'static Params,
    key: &SecretKey,
    layout: Layout,
    bytes: &[u8],
) -> Result<Vec<Fp>> {
    let mut values = vec![Fp::ZERO; bytes.len() / MaskedCiphertext::BYTES * N];
    bytes.par_chunks(MaskedCiphertext::BYTES).zip(values.par_chunks_mut(N)).try_for_each(|(b, values)| {
        values.copy_from_slice(&key.decrypt(&MaskedCiphertext::from_bytes(params, b)?, layout));
        Ok::<_, crate::error::ProtocolError>(())
    })?;
    Ok(values)
}

/// Multipliers `[rows][k][F]` of a range of ciphertexts.
fn weights(m: &MatrixLayout, r: &[Fp], range: std::ops::Range<usize>) -> Vec<Fp> {
    let (f, n) = (m.slots(), range.len() * m.slots());
    let mut w = vec![Fp::ZERO; r.len() / m.d_in * n];
    for (row, w) in r.chunks(m.d_in).zip(w.chunks_mut(n)) {
        let row = &row[range.start * f..m.d_in.min(range.end * f)];
        w[..row.len()].copy_from_slice(row);
    }
    w
}

/// `y[t][block·C + c] += Σ_κ values[t][κ][c]`.
fn add_slots(m: &MatrixLayout, block: usize, values: &[Fp], y: &mut [Fp]) {
    let rows = m.block_rows.min(m.d_out - block * m.block_rows);
    values.par_chunks(N).zip(y.par_chunks_mut(m.d_out)).for_each(|(values, y)| {
        let y = &mut y[block * m.block_rows..][..rows];
        for slot in values.chunks(m.block_rows) {
            y.iter_mut().zip(slot).for_each(|(y, v)| *y += *v);
        }
    });
}
