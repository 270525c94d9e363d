//! Attention material for rows at known positions, from the peer's encrypted masks: the persistent encrypted KV cache.
//!
//! Functionality, for every query row t, head g and cached row `j ≤ t` (x of this party, y the peer's, encrypted by the peer):
//! shares of `query_t·key_j` and of `Σ_j weight_{t,j}·value_j`. Client: query `q_c`, key `k_c`, value `v_c`, weight mask `a`; server: the masks
//! of its queries, keys, values and weights. The two parties run the same protocol in both directions; the sums of the two results are
//! the cross terms of `online/attention.rs`. Source: design of the default protocol, "Attention material"; CryptoGen's slot-aware
//! concatenation (a new block of rows is appended, older ciphertexts never change).
//!
//! 1. Both encrypt the new rows' keys and values and exchange them.
//! 2. Client: combinations for its query rows, one per (row, head of the group); sends them masked; the server decrypts.
//! 3. The same with the roles exchanged.

mod packing;

use cryptogen_he::{Combiner, MaskedCiphertext, Params, PublicKey, SecretKey, SeededCiphertext};
use cryptogen_mpc::party::Party;
use cryptogen_ot::{Channel, Role};
use cryptogen_ring::{Fp, Prg};
use rayon::prelude::*;

use self::packing::{add_scores, add_values, counts, encrypt, key_layout, lambdas, parse, value_layout};
use super::linear::{receive, send};
use crate::cost::Cost;
use crate::error::Result;
use crate::plan::ModelShape;

/// Query rows combined at a time.
const ROWS: usize = 32;

/// This party's inputs for a block of new rows.
pub struct NewRows {
    pub first: usize,
    /// `[rows][layers·heads·head_dim]`
    pub queries: Vec<Vec<Fp>>,
    /// `[rows][layers·kv_heads·head_dim]`
    pub keys: Vec<Vec<Fp>>,
    pub values: Vec<Vec<Fp>>,
    /// `[rows][layers][heads][t+1]`
    pub weights: Vec<Vec<Fp>>,
}

/// Shares made for a block of new rows.
pub struct Products {
    /// `[rows][layers][heads][t+1]`
    pub scores: Vec<Vec<Fp>>,
    /// `[rows][layers·heads·head_dim]`
    pub values: Vec<Vec<Fp>>,
}

/// Encrypted keys and values of one block of the peer's rows.
struct Block {
    first: usize,
    /// rows that are still part of the session
    rows: usize,
    /// rows that the keys' ciphertexts were made for, which fixes their layout
    packed: usize,
    keys: Vec<SeededCiphertext>,
    values: Vec<SeededCiphertext>,
}

/// The peer's encrypted rows, appended block by block, never decrypted here and never changed.
#[derive(Default)]
pub struct EncryptedCache {
    blocks: Vec<Block>,
}

impl EncryptedCache {
    /// Forgets rows `rows…`; both parties must do it alike. Values have a ciphertext per row; a key's ciphertexts hold a block, whose last
    /// rows stay in them unread: what later products say about them is masked like all else, and neither party takes it.
    pub fn truncate(&mut self, rows: usize) {
        self.blocks.retain(|block| block.first < rows);
        for block in self.blocks.iter_mut().filter(|block| block.first + block.rows > rows) {
            let kept = rows - block.first;
            let mut values = Vec::with_capacity(block.values.len() / block.rows * kept);
            for (i, ciphertext) in block.values.drain(..).enumerate() {
                if i % block.rows < kept {
                    values.push(ciphertext);
                }
            }
            (block.rows, block.values) = (kept, values);
        }
    }
}

/// Messages and bytes of a block of `rows` rows behind earlier blocks that were made for `before` rows each.
pub fn cost(m: &ModelShape, before: &[usize], rows: usize) -> Cost {
    let (n_keys, n_values) = counts(m, rows);
    let of_keys = |rows: &usize| lambdas(m).div_ceil(key_layout(m, *rows).1);
    let results =
        before.iter().chain([&rows]).map(of_keys).sum::<usize>() + lambdas(m).div_ceil(value_layout(m).1);
    let bytes =
        (n_keys + n_values) * SeededCiphertext::BYTES + results * rows * m.group() * MaskedCiphertext::BYTES;
    let messages = 2 + 2 * rows.div_ceil(ROWS) * results;
    Cost { messages, client_bytes: bytes, server_bytes: bytes }
}

/// Keys of this connection.
pub struct Keys<'a> {
    pub params: &'static Params,
    pub mine: &'a SecretKey,
    pub peer: &'a PublicKey,
}

/// Runs the protocol for a block of new rows; symmetric.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn extend<P: Party>(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    m: &ModelShape,
    cache: &mut EncryptedCache,
    new: &NewRows,
    rng: &mut Prg,
) -> Result<Products> {
    let rows = new.keys.len();
    // 1.
    let (n_keys, n_values) = counts(m, rows);
    let mine = encrypt(keys.mine, m, new, rng)?;
    let theirs = ch.exchange(P::ROLE.turn(), &mine, (n_keys + n_values) * SeededCiphertext::BYTES)?;
    let (k, v) = theirs.split_at(n_keys * SeededCiphertext::BYTES);
    cache.blocks.push(Block {
        first: new.first,
        rows,
        packed: rows,
        keys: parse(keys.params, k, key_layout(m, rows).0)?,
        values: parse(keys.params, v, value_layout(m).0)?,
    });
    // 2. and 3.
    let mut out = Products {
        scores: (0..rows).map(|i| vec![Fp::ZERO; m.layers * m.heads * (new.first + i + 1)]).collect(),
        values: (0..rows).map(|_| vec![Fp::ZERO; m.layers * m.q_dim()]).collect(),
    };
    for turn in [Role::Client, Role::Server] {
        for first in (0..rows).step_by(ROWS) {
            let range = first..rows.min(first + ROWS);
            if turn == P::ROLE {
                combine_scores(ch, keys, m, cache, new, range.clone(), &mut out, rng)?;
                combine_values(ch, keys, m, cache, new, range, &mut out, rng)?;
            } else {
                decrypt_products(ch, keys, m, cache, new.first, range, &mut out)?;
            }
        }
    }
    Ok(out)
}

/// Multipliers `[M][inner][F]` of one λ group: `pick(row, layer, head, inner)` for every (row, head of the group) pair.
fn multipliers(
    m: &ModelShape,
    range: &std::ops::Range<usize>,
    f: usize,
    group: usize,
    inner: usize,
    pick: impl Fn(usize, usize, usize, usize) -> Fp + Sync,
) -> Vec<Fp> {
    let g = m.group();
    let mut w = vec![Fp::ZERO; range.len() * g * inner * f];
    w.par_chunks_mut(inner * f).enumerate().for_each(|(mi, w)| {
        let (row, member) = (range.start + mi / g, mi % g);
        for (x, slots) in w.chunks_mut(f).enumerate() {
            for (slot, w) in slots.iter_mut().enumerate().take(lambdas(m) - group * f) {
                let lambda = group * f + slot;
                *w = pick(row, lambda / m.kv_heads, (lambda % m.kv_heads) * g + member, x);
            }
        }
    });
    w
}

#[allow(clippy::too_many_arguments)]
fn combine_scores(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    m: &ModelShape,
    cache: &EncryptedCache,
    new: &NewRows,
    range: std::ops::Range<usize>,
    out: &mut Products,
    rng: &mut Prg,
) -> Result<()> {
    let d = m.head_dim;
    for block in &cache.blocks {
        let (lay, f, _) = key_layout(m, block.packed);
        for (group, cts) in block.keys.chunks(d).enumerate() {
            let cts: Vec<_> = cts.par_iter().map(|c| c.expand(keys.params)).collect();
            let w = multipliers(m, &range, f, group, d, |row, layer, head, e| {
                new.queries[row][(layer * m.heads + head) * d + e]
            });
            let n = range.len() * m.group();
            let mut combiner = Combiner::new(keys.params, lay, n);
            combiner.add_block(&cts, &w)?;
            let masks = send(ch, keys.peer, combiner, n, rng)?;
            add_scores(m, block, group, new.first, &range, &masks, out);
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn combine_values(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    m: &ModelShape,
    cache: &EncryptedCache,
    new: &NewRows,
    range: std::ops::Range<usize>,
    out: &mut Products,
    rng: &mut Prg,
) -> Result<()> {
    let (lay, f, _) = value_layout(m);
    let n = range.len() * m.group();
    for group in 0..lambdas(m).div_ceil(f) {
        let mut combiner = Combiner::new(keys.params, lay, n);
        for block in &cache.blocks {
            let cts = &block.values[group * block.rows..(group + 1) * block.rows];
            let cts: Vec<_> = cts.par_iter().map(|c| c.expand(keys.params)).collect();
            let w = multipliers(m, &range, f, group, block.rows, |row, layer, head, j| {
                let (t, j) = (new.first + row, block.first + j);
                if j > t {
                    return Fp::ZERO;
                }
                new.weights[row][(layer * m.heads + head) * (t + 1) + j]
            });
            combiner.add_block(&cts, &w)?;
        }
        let masks = send(ch, keys.peer, combiner, n, rng)?;
        add_values(m, group, &range, &masks, out);
    }
    Ok(())
}

/// The peer's turn: its combinations of our ciphertexts. `cache` has the same block structure as the peer's view of ours.
fn decrypt_products(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    m: &ModelShape,
    cache: &EncryptedCache,
    first: usize,
    range: std::ops::Range<usize>,
    out: &mut Products,
) -> Result<()> {
    let n = range.len() * m.group();
    for block in &cache.blocks {
        let (lay, f, _) = key_layout(m, block.packed);
        for group in 0..lambdas(m).div_ceil(f) {
            let values = receive(ch, keys.params, keys.mine, lay, n)?.concat();
            add_scores(m, block, group, first, &range, &values, out);
        }
    }
    let (lay, f, _) = value_layout(m);
    for group in 0..lambdas(m).div_ceil(f) {
        let values = receive(ch, keys.params, keys.mine, lay, n)?.concat();
        add_values(m, group, &range, &values, out);
    }
    Ok(())
}
