//! `Linear(W)`: shares `y_c + y_s = W·r'` for many tokens at once.
//!
//! Functionality: client input `r'` `[T, d_in]`; outputs `y_c`, `y_s` `[T, d_out]`, `y_c` uniform. Source: design of the default protocol, `Linear`.
//! One message C→S of `T·blocks` masked ciphertexts (172 KB each). Leaks: nothing (flooded, re-randomised).
//!
//! 1. Client: `ct = Σ_k r'_k ⊙ Enc(W)_k − mask`, re-randomised, flooded, modulus-switched.
//! 2. Server: decrypts; both add up the slots of every row: `y_c[o] = Σ_κ mask[κ][o]`.

use cryptogen_he::{Combiner, MaskedCiphertext, Params, PublicKey, SecretKey, N};
use cryptogen_ot::Channel;
use cryptogen_ring::{Fp, Prg};
use rayon::prelude::*;

use super::model::{EncryptedModel, MatrixLayout};
use crate::cost::Cost;
use crate::error::Result;

/// Ciphertexts expanded at a time (0.46 MB each).
const EXPANDED: usize = 64;
/// Rows combined at a time (0.9 MB of accumulator each).
const ROWS: usize = 64;

/// Messages and bytes of `rows` rows.
pub fn cost(m: &MatrixLayout, rows: usize) -> Cost {
    let messages = m.blocks * rows.div_ceil(ROWS);
    Cost { messages, client_bytes: m.blocks * rows * MaskedCiphertext::BYTES, server_bytes: 0 }
}

/// Client: returns `y_c` `[T, d_out]`. `r` is `[T, d_in]`.
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
    let rows = r.len() / m.d_in;
    let mut y = vec![Fp::ZERO; rows * m.d_out];
    for block in 0..m.blocks {
        for first in (0..rows).step_by(ROWS) {
            let n = ROWS.min(rows - first);
            let mut combiner = Combiner::new(params, m.layout, n);
            for k in (0..m.columns).step_by(EXPANDED) {
                let range = k..m.columns.min(k + EXPANDED);
                let cts: Vec<_> = model
                    .read(params, m, block, range.clone())?
                    .into_par_iter()
                    .map(|c| c.expand(params))
                    .collect();
                combiner.add_block(&cts, &weights(m, &r[first * m.d_in..(first + n) * m.d_in], range))?;
            }
            let masks = send(ch, server_key, combiner, n, rng)?;
            for (t, mask) in masks.chunks(N).enumerate() {
                add_slots(m, block, mask, &mut y[(first + t) * m.d_out..][..m.d_out]);
            }
        }
    }
    Ok(y)
}

/// Server: returns `y_s` `[T, d_out]`.
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
    for block in 0..m.blocks {
        for first in (0..rows).step_by(ROWS) {
            let n = ROWS.min(rows - first);
            for (t, values) in receive(ch, params, key, m.layout, n)?.iter().enumerate() {
                add_slots(m, block, values, &mut y[(first + t) * m.d_out..][..m.d_out]);
            }
        }
    }
    Ok(y)
}

/// Masks `n` combinations with fresh uniform values and sends them; returns the masks, `[n][N]`.
pub(crate) fn send(
    ch: &mut dyn Channel,
    key: &PublicKey,
    combiner: Combiner,
    n: usize,
    rng: &mut Prg,
) -> Result<Vec<Fp>> {
    let masks = rng.fp_vec(n * N);
    let out = combiner.finish(key, &masks, rng)?;
    ch.send(&out.iter().flat_map(MaskedCiphertext::to_bytes).collect::<Vec<_>>())?;
    Ok(masks)
}

/// Receives and decrypts `n` masked ciphertexts, `[n][N]`.
pub(crate) fn receive(
    ch: &mut dyn Channel,
    params: &'static Params,
    key: &SecretKey,
    layout: cryptogen_he::Layout,
    n: usize,
) -> Result<Vec<Vec<Fp>>> {
    let bytes = ch.recv(n * MaskedCiphertext::BYTES)?;
    bytes
        .par_chunks(MaskedCiphertext::BYTES)
        .map(|b| {
            let ct = MaskedCiphertext::from_bytes(params, b)?;
            Ok(key.decrypt(&ct, layout))
        })
        .collect()
}

/// Multipliers `[rows][k][F]` of a range of ciphertexts.
fn weights(m: &MatrixLayout, r: &[Fp], range: std::ops::Range<usize>) -> Vec<Fp> {
    let f = m.slots();
    let mut w = Vec::with_capacity(r.len() / m.d_in * range.len() * f);
    for row in r.chunks(m.d_in) {
        for i in range.start * f..range.end * f {
            w.push(row.get(i).copied().unwrap_or(Fp::ZERO));
        }
    }
    w
}

/// `y[block·C + c] += Σ_κ values[κ][c]`.
fn add_slots(m: &MatrixLayout, block: usize, values: &[Fp], y: &mut [Fp]) {
    let rows = m.block_rows.min(m.d_out - block * m.block_rows);
    let y = &mut y[block * m.block_rows..][..rows];
    for slot in values.chunks(m.block_rows) {
        for (y, v) in y.iter_mut().zip(slot) {
            *y += *v;
        }
    }
}
