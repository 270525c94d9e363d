//! How the rows of attention material lie in ciphertexts.
//!
//! All layers and key heads are numbered together, `λ = layer·kv_heads + head`, and share ciphertexts:
//! *keys* of a block of R rows: slots λ, coefficients j (`C ≥ R`), one ciphertext per component e;
//! *values*: slots λ, coefficients e (`C ≥ head_dim`), one ciphertext per row j. `C` is the least power of two that also keeps the noise of
//! the sums within its bound.

use cryptogen_he::noise::max_products;
use cryptogen_he::{Layout, Params, SecretKey, SeededCiphertext, N};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::{Block, NewRows, Products};
use crate::error::Result;
use crate::offline::model::slots;
use crate::plan::ModelShape;

/// Slots × coefficients for `columns` numbers per λ when `terms` ciphertexts are summed. There are no more slots than the noise allows.
fn layout(columns: usize, terms: usize) -> (Layout, usize, usize) {
    let mut c = columns.next_power_of_two();
    while c < N && (terms * (N / c)) as u64 > max_products() {
        c *= 2;
    }
    (slots(N / c), N / c, c)
}

/// Layout of the keys of a block of `rows` rows: a score sums over the components.
pub(super) fn key_layout(m: &ModelShape, rows: usize) -> (Layout, usize, usize) {
    layout(rows, m.head_dim)
}

/// Layout of values: an output sums over all rows of a session.
pub(super) fn value_layout(m: &ModelShape) -> (Layout, usize, usize) {
    layout(m.head_dim, m.context)
}

pub(super) fn lambdas(m: &ModelShape) -> usize {
    m.layers * m.kv_heads
}

/// Ciphertexts of a block's keys and values.
pub(super) fn counts(m: &ModelShape, rows: usize) -> (usize, usize) {
    let (_, f, _) = key_layout(m, rows);
    let (_, fv, _) = value_layout(m);
    (lambdas(m).div_ceil(f) * m.head_dim, lambdas(m).div_ceil(fv) * rows)
}

/// Encrypts this party's new keys and values, `[groups][e]` then `[groups][row]`.
pub(super) fn encrypt(key: &SecretKey, m: &ModelShape, new: &NewRows, rng: &mut Prg) -> Result<Vec<u8>> {
    let (rows, d) = (new.keys.len(), m.head_dim);
    let (n_keys, n_values) = counts(m, rows);
    let seed = Seed::random(rng);
    let parts: Result<Vec<Vec<u8>>> = (0..n_keys + n_values)
        .into_par_iter()
        .map(|i| {
            let mut message = vec![Fp::ZERO; N];
            let is_key = i < n_keys;
            let (per_group, i_in) = if is_key { (d, i) } else { (rows, i - n_keys) };
            let (lay, f, c) = if is_key { key_layout(m, rows) } else { value_layout(m) };
            let (group, inner) = (i_in / per_group, i_in % per_group);
            for slot in 0..f.min(lambdas(m) - group * f) {
                let lambda = group * f + slot;
                if is_key {
                    for j in 0..rows {
                        message[slot * c + j] = new.keys[j][lambda * d + inner];
                    }
                } else {
                    message[slot * c..slot * c + d]
                        .copy_from_slice(&new.values[inner][lambda * d..(lambda + 1) * d]);
                }
            }
            let mut rng = Prg::new(&seed.derive("cache", i as u64));
            Ok(key.encrypt(&message, lay, &mut rng)?.to_bytes())
        })
        .collect();
    Ok(parts?.concat())
}

pub(super) fn parse(params: &'static Params, bytes: &[u8], lay: Layout) -> Result<Vec<SeededCiphertext>> {
    bytes
        .par_chunks(SeededCiphertext::BYTES)
        .map(|b| Ok(SeededCiphertext::from_bytes(params, lay, b)?))
        .collect()
}

pub(super) fn add_scores(
    m: &ModelShape,
    block: &Block,
    group: usize,
    first: usize,
    range: &std::ops::Range<usize>,
    values: &[Fp],
    out: &mut Products,
) {
    let (_, f, c) = key_layout(m, block.packed);
    let g = m.group();
    for (mi, values) in values.chunks(N).enumerate() {
        let (row, member) = (range.start + mi / g, mi % g);
        let t = first + row;
        for slot in 0..f.min(lambdas(m) - group * f) {
            let lambda = group * f + slot;
            let head = (lambda / m.kv_heads) * m.heads + (lambda % m.kv_heads) * g + member;
            for j in 0..block.rows.min((t + 1).saturating_sub(block.first)) {
                out.scores[row][head * (t + 1) + block.first + j] += values[slot * c + j];
            }
        }
    }
}

pub(super) fn add_values(
    m: &ModelShape,
    group: usize,
    range: &std::ops::Range<usize>,
    values: &[Fp],
    out: &mut Products,
) {
    let (_, f, c) = value_layout(m);
    let (g, d) = (m.group(), m.head_dim);
    for (mi, values) in values.chunks(N).enumerate() {
        let (row, member) = (range.start + mi / g, mi % g);
        for slot in 0..f.min(lambdas(m) - group * f) {
            let lambda = group * f + slot;
            let head = (lambda / m.kv_heads) * m.heads + (lambda % m.kv_heads) * g + member;
            for e in 0..d {
                out.values[row][head * d + e] += values[slot * c + e];
            }
        }
    }
}
