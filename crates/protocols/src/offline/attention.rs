//! Attention material for rows at known positions, from the peer's encrypted masks: the persistent
//! encrypted KV cache.
//!
//! Functionality: for every new row `t`, head and cached row `j ≤ t`, shares of `q_c·m_k + u·k_c`
//! and, summed over `j`, of `a_j·w_j + b_j·v_c,j`: the cross terms of `online/attention.rs`.
//! Source: `docs/protocols/preprocessed.md` §3.5; CryptoGen's slot-aware concatenation (a new block
//! of rows is appended, older ciphertexts never change).
//! Inputs: client `q_c`, `k_c`, `v_c`, rotated, and masks `a` of the weights; server the masks `u`,
//! `m_k`, `w`, `b` of the same. Queries `[rows][layers·heads·head_dim]`, keys and values
//! `[rows][layers·kv_heads·head_dim]`, weights `[rows][layers][heads][t + 1]`, over `F_p`; `q_c`,
//! `k_c`, `v_c` are shares at scale F.
//! Cost: 2 messages, one each way, and in each direction one per 64 rows and group of ciphertexts
//! that is combined; bytes are alike in both: 200 736 for each ciphertext of the new rows, 149 504
//! for each combination.
//! Material: spends none; makes the products of [`crate::material::RowAttention`]. Keeps the peer's
//! ciphertexts for rows to come.
//! Leaks: nothing. Combinations are masked, re-randomised and flooded.
//!
//! Both parties run the same protocol in both directions: each encrypts keys and values, and
//! combines the peer's with its own queries and weight masks. The sums of the two results are what
//! is wanted.
//!
//! 1. Both encrypt the new rows' keys and values and exchange them.
//! 2. Client: combinations for its queries, of which a row has one per head of a key head; sends
//!    them masked; the server decrypts.
//! 3. The same with the roles exchanged.

mod packing;

use cryptogen_he::{Combiner, MaskedCiphertext, Params, PublicKey, SecretKey, SeededCiphertext};
use cryptogen_party::{Channel, Party, Role};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use self::packing::{add_scores, add_values, counts, encrypt, parse, query, Group};
use super::linear::mask_and_flood;
use super::pipeline::pipeline;
use crate::error::Result;
use crate::material::decrypt_all;
use crate::model::ModelShape;
use crate::share::Cost;

/// Query rows combined at a time.
const ROWS: usize = 64;

/// This party's inputs for a block of new rows.
pub struct NewRows {
    /// position of the first row
    pub first: usize,
    /// `[rows][layers·heads·head_dim]`
    pub queries: Vec<Vec<Fp>>,
    /// `[rows][layers·kv_heads·head_dim]`
    pub keys: Vec<Vec<Fp>>,
    /// alike
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
    /// Forgets rows `rows…`; both parties must do it alike. Values are encrypted row by row, so
    /// dropped rows are removed. Keys are encrypted block by block, so dropped rows stay inside
    /// their ciphertexts; later products that touch them are masked like all others, and both
    /// parties ignore them.
    pub fn crop(&mut self, rows: usize) {
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

/// Messages and bytes of a block of `rows` rows behind earlier blocks that were made for `before`
/// rows each.
pub fn cost(m: &ModelShape, before: &[usize], rows: usize) -> Cost {
    let (n_keys, n_values) = counts(m, rows);
    let groups: Vec<Group> = (before.iter().chain([&rows]).flat_map(|rows| Group::of_keys(m, *rows)))
        .chain(Group::of_values(m))
        .collect();
    let blocks = (0..rows).step_by(ROWS).map(|first| ROWS.min(rows - first) * m.queries_per_kv_head());
    let results: usize = blocks.flat_map(|queries| groups.iter().map(move |g| g.results(queries))).sum();
    let bytes = (n_keys + n_values) * SeededCiphertext::BYTES + results * MaskedCiphertext::BYTES;
    let messages = 2 + 2 * rows.div_ceil(ROWS) * groups.len();
    Cost { messages, client_bytes: bytes, server_bytes: bytes }
}

/// Keys of this connection.
pub struct Keys<'a> {
    /// parameters of both keys
    pub params: &'static Params,
    /// this party's secret key
    pub mine: &'a SecretKey,
    /// the peer's public key
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
        keys: parse(keys.params, k, Group::of_keys(m, rows)[0].layout())?,
        values: parse(keys.params, v, Group::of_values(m)[0].layout())?,
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

/// One message of a turn: scores of a λ group with a block's keys, or sums of a λ group's values.
/// With the number of the group.
#[derive(Clone, Copy)]
enum Part<'a> {
    Scores(&'a Block, Group, usize),
    Values(Group, usize),
}

impl Part<'_> {
    fn group(&self) -> &Group {
        match self {
            Part::Scores(_, group, _) | Part::Values(group, _) => group,
        }
    }
}

/// The messages of a turn for some query rows, in order; alike on both sides, whose caches have the
/// same blocks.
fn parts<'a>(m: &ModelShape, cache: &'a EncryptedCache) -> Vec<Part<'a>> {
    let of_block = |block: &'a Block| {
        let groups = Group::of_keys(m, block.packed).into_iter().enumerate();
        groups.map(move |(i, group)| Part::Scores(block, group, i))
    };
    let values = Group::of_values(m).into_iter().enumerate().map(|(i, group)| Part::Values(group, i));
    cache.blocks.iter().flat_map(of_block).chain(values).collect()
}

/// Where the products of a turn for query rows `range` go.
struct Turn<'a> {
    m: &'a ModelShape,
    first: usize,
    range: std::ops::Range<usize>,
}

impl Turn<'_> {
    fn queries(&self) -> usize {
        self.range.len() * self.m.queries_per_kv_head()
    }

    /// Adds this party's shares `[results][N]` of one message.
    fn add(&self, part: Part<'_>, values: &[Fp], out: &mut Products) {
        match part {
            Part::Scores(block, group, _) => {
                add_scores(self.m, (block, &group), self.first, &self.range, values, out);
            }
            Part::Values(group, _) => add_values(self.m, &group, &self.range, values, out),
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
        let (m, d, group, queries) = (self.m, self.m.head_dim, part.group(), self.queries());
        let mut combiner = Combiner::new(params, group.layout(), group.results(queries));
        let expand = |cts: &[SeededCiphertext]| cts.par_iter().map(|c| c.expand(params)).collect::<Vec<_>>();
        match part {
            Part::Scores(block, _, i) => {
                let w = group.multipliers(queries, d, |q, lambda, e| {
                    let (row, head) = query(m, q, lambda);
                    new.queries[self.range.start + row][head * d + e]
                });
                combiner.add_block(&expand(&block.keys[i * d..][..d]), &w)?;
            }
            Part::Values(_, i) => {
                for block in &cache.blocks {
                    let cts = expand(&block.values[i * block.rows..][..block.rows]);
                    let w = group.multipliers(queries, block.rows, |q, lambda, j| {
                        let (row, head) = query(m, q, lambda);
                        let row = self.range.start + row;
                        let (t, j) = (new.first + row, block.first + j);
                        if j > t {
                            return Fp::ZERO;
                        }
                        new.weights[row][head * (t + 1) + j]
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
        |(part, combiner, seed)| Ok((part, mask_and_flood(keys.peer, combiner, &seed)?)),
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
            .map(|part| Ok((part, ch.recv(part.group().results(turn.queries()) * MaskedCiphertext::BYTES)?))),
        |(part, bytes)| Ok((part, decrypt_all(keys.params, keys.mine, part.group().layout(), &bytes)?)),
        |(part, values)| {
            turn.add(part, &values, out);
            Ok(())
        },
    )
}
