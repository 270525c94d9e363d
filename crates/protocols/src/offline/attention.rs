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

use cryptogen_he::{Combiner, Layout, MaskedCiphertext, Params, PublicKey, SecretKey, SeededCiphertext};
use cryptogen_mpc::party::Party;
use cryptogen_ot::{Channel, Role};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use self::packing::{add_scores, add_values, counts, encrypt, key_layout, lambdas, parse, value_layout};
use super::linear::{decrypted, hidden};
use super::pipeline::pipeline;
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
            let of = Turn { m, first: new.first, range: first..rows.min(first + ROWS) };
            match turn == P::ROLE {
                true => send_products(ch, keys, &of, cache, new, &mut out, rng)?,
                false => receive_products(ch, keys, &of, cache, &mut out)?,
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

/// One message of a turn: scores of a λ group with a block's keys, or sums of a λ group's values.
#[derive(Clone, Copy)]
enum Part<'a> {
    Scores(&'a Block, usize),
    Values(usize),
}

/// The messages of a turn for some query rows, in order; alike on both sides, whose caches have the same blocks.
fn parts<'a>(m: &ModelShape, cache: &'a EncryptedCache) -> Vec<Part<'a>> {
    let groups = |f: usize| 0..lambdas(m).div_ceil(f);
    let of_block =
        |block: &'a Block| groups(key_layout(m, block.packed).1).map(move |group| Part::Scores(block, group));
    let values = groups(value_layout(m).1).map(Part::Values);
    cache.blocks.iter().flat_map(of_block).chain(values).collect()
}

/// Where the products of a turn for query rows `range` go.
struct Turn<'a> {
    m: &'a ModelShape,
    first: usize,
    range: std::ops::Range<usize>,
}

impl Turn<'_> {
    fn results(&self) -> usize {
        self.range.len() * self.m.group()
    }

    fn layout(&self, part: Part<'_>) -> Layout {
        match part {
            Part::Scores(block, _) => key_layout(self.m, block.packed).0,
            Part::Values(_) => value_layout(self.m).0,
        }
    }

    /// Adds this party's shares `[results][N]` of one message.
    fn add(&self, part: Part<'_>, values: &[Fp], out: &mut Products) {
        match part {
            Part::Scores(block, group) => {
                add_scores(self.m, block, group, self.first, &self.range, values, out);
            }
            Part::Values(group) => add_values(self.m, group, &self.range, values, out),
        }
    }

    /// Combines the peer's ciphertexts with this party's queries or weights.
    fn combine(
        &self,
        params: &'static Params,
        cache: &EncryptedCache,
        new: &NewRows,
        part: Part<'_>,
    ) -> Result<Combiner> {
        let (m, d) = (self.m, self.m.head_dim);
        let mut combiner = Combiner::new(params, self.layout(part), self.results());
        let expand = |cts: &[SeededCiphertext]| cts.par_iter().map(|c| c.expand(params)).collect::<Vec<_>>();
        match part {
            Part::Scores(block, group) => {
                let f = key_layout(m, block.packed).1;
                let w = multipliers(m, &self.range, f, group, d, |row, layer, head, e| {
                    new.queries[row][(layer * m.heads + head) * d + e]
                });
                combiner.add_block(&expand(&block.keys[group * d..][..d]), &w)?;
            }
            Part::Values(group) => {
                let f = value_layout(m).1;
                for block in &cache.blocks {
                    let cts = expand(&block.values[group * block.rows..(group + 1) * block.rows]);
                    let w = multipliers(m, &self.range, f, group, block.rows, |row, layer, head, j| {
                        let (t, j) = (new.first + row, block.first + j);
                        if j > t {
                            return Fp::ZERO;
                        }
                        new.weights[row][(layer * m.heads + head) * (t + 1) + j]
                    });
                    combiner.add_block(&cts, &w)?;
                }
            }
        }
        Ok(combiner)
    }
}

/// This party's turn: sends one message while it makes the next ones.
fn send_products(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    turn: &Turn<'_>,
    cache: &EncryptedCache,
    new: &NewRows,
    out: &mut Products,
    rng: &mut Prg,
) -> Result<()> {
    pipeline(
        parts(turn.m, cache)
            .into_iter()
            .map(|part| Ok((part, turn.combine(keys.params, cache, new, part)?, Seed::random(rng)))),
        |(part, combiner, seed)| Ok((part, hidden(keys.peer, combiner, &seed)?)),
        |(part, (masks, bytes))| {
            ch.send(&bytes)?;
            turn.add(part, &masks, out);
            Ok(())
        },
    )
}

/// The peer's turn: its combinations of our ciphertexts, decrypted while the next ones come.
fn receive_products(
    ch: &mut dyn Channel,
    keys: &Keys<'_>,
    turn: &Turn<'_>,
    cache: &EncryptedCache,
    out: &mut Products,
) -> Result<()> {
    pipeline(
        parts(turn.m, cache)
            .into_iter()
            .map(|part| Ok((part, ch.recv(turn.results() * MaskedCiphertext::BYTES)?))),
        |(part, bytes)| Ok((part, decrypted(keys.params, keys.mine, turn.layout(part), &bytes)?)),
        |(part, values)| {
            turn.add(part, &values, out);
            Ok(())
        },
    )
}
