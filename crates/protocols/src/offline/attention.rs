//! Attention material for rows at known positions, from the client's encrypted shares: the
//! persistent encrypted KV cache.
//!
//! Functionality: for every new row `t`, head and cached row `j ≤ t`, shares of `q_c·m_k + u·k_c`
//! and, summed over `j`, of `a_j·w_j + b_j·v_c,j`: the cross terms of `online/attention.rs`.
//! Source: `docs/protocols/preprocessed.md` §3.5; CryptoGen's slot-aware concatenation (a new block
//! of rows is appended, older ciphertexts never change).
//! Inputs: client `q_c`, `k_c`, `v_c`, rotated, and masks `a` of its weights; server the masks `u`,
//! `m_k`, `w` of the same and, as `b`, its shares of the weights: its material alone determines
//! them, so they need no masks of their own. Queries `[rows][layers·heads·head_dim]`, keys and
//! values `[rows][layers·kv_heads·head_dim]`, weights `[rows][layers][heads][t + 1]`, over `F_p`;
//! `q_c`, `k_c`, `v_c` are shares at scale F.
//! Cost: C→S a message for every 32 ciphertexts of the new rows' keys, of their values and of their
//! queries, and for each group of weights one per 32 cached rows; S→C one per group of weights, and
//! for each group of queries and of every block's keys one per 32 results, of values one per 64.
//! Bytes: 200 736 for each ciphertext there, [`RESULT_BYTES`] for each result back.
//! Rows of a prefix (`endpoint/prefix.rs`) are cached rows of which the client's shares are 0 and
//! the server's masks are the keys and values themselves: they enter `q_c·m_k` and `a·w`, and
//! nothing of them is encrypted.
//! Material: spends none; makes the products of [`crate::material::RowAttention`]. The server keeps
//! the client's encrypted keys and values, and its own masks of them, for rows to come.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! Each product has one factor of the client's, which it encrypts, and one of the server's, which
//! multiplies the ciphertext.
//!
//! 1. C→S `Enc(k_c)`, `Enc(v_c)` of the new rows, which stay, and `Enc(q_c)`, which does not.
//! 2. C→S `Enc(a)`, a few cached rows at a time; the server adds up `Σ_j Enc(a_j)·w_j` and returns
//!    it hidden.
//! 3. S→C `Enc(k_c)·u` for every block of keys, `Enc(q_c)·m_k` for every cached row, and
//!    `Σ_j Enc(v_c,j)·b_j`.

mod packing;

use std::ops::Range;
use std::sync::Arc;

use cryptogen_he::shares::{PublicKey, RESULT_BYTES};
use cryptogen_he::{Ciphertext, Combiner, Layout, Params, SecretKey, SeededCiphertext};
use cryptogen_party::Channel;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use self::packing::{encrypt_rows, encrypt_weights, query, Group};
use super::pipeline::{pipeline, pipeline_of};
use crate::error::Result;
use crate::material::{client_shares, hide};
use crate::model::{ModelShape, Prefix};
use crate::share::Cost;

/// Ciphertexts in a message of 6.4 MB.
const AT_ONCE: usize = 32;
/// Results in a message of scores: their sums take 0.46 MB each, and what they are multiplied with
/// about as much.
const SCORES: usize = 32;
/// Results in a message of outputs, for which all values are expanded anew.
const OUTPUTS: usize = 64;
/// Values that are expanded at a time, of 0.46 MB each.
const VALUES: usize = 32;
/// Messages of steps 2 and 3 in work at a time on the server: two keep more cores busy than each
/// has parts of its own.
const IN_WORK: usize = 2;

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
    /// `[rows][layers][heads][t+1]`, the client's masks or the server's own
    pub weights: Vec<Vec<Fp>>,
}

impl NewRows {
    /// The mask of the weight of cached row `j`; none of rows behind the query's own.
    fn weight(&self, m: &ModelShape, i: usize, lambda: usize, j: usize) -> Fp {
        let (row, head) = query(m, i, lambda);
        let t = self.first + row;
        match j <= t {
            true => self.weights[row][head * (t + 1) + j],
            false => Fp::ZERO,
        }
    }
}

/// Shares made for a block of new rows.
pub struct Products {
    /// `[rows][layers][heads][t+1]`
    pub scores: Vec<Vec<Fp>>,
    /// `[rows][layers·heads·head_dim]`
    pub values: Vec<Vec<Fp>>,
}

/// One block of rows.
struct Block {
    first: usize,
    /// rows that are still part of the session
    rows: usize,
    /// rows that the keys' ciphertexts were made for, which fixes their layout; none of a prefix
    packed: usize,
    /// on the server
    held: Option<Held>,
}

/// What the server keeps of a block: the client's encrypted keys and values, its own masks of the
/// same, `[rows][layers·kv_heads·head_dim]`.
struct Held {
    keys: Vec<Stored>,
    values: Vec<Stored>,
    key_masks: Vec<Vec<Fp>>,
    value_masks: Vec<Vec<Fp>>,
}

/// A ciphertext as it came, 28 bits for each of its numbers, which are checked.
struct Stored(Box<[u8]>);

impl Stored {
    fn expand(&self, params: &'static Params, layout: Layout) -> Result<Ciphertext> {
        Ok(SeededCiphertext::from_bytes(params, layout, &self.0)?.expand(params))
    }
}

/// The session's rows, appended block by block. On the server with the client's ciphertexts, which
/// are never decrypted there and never changed.
#[derive(Default)]
pub struct EncryptedCache {
    blocks: Vec<Block>,
}

impl EncryptedCache {
    /// An empty cache begins with `rows` rows, which are the server's alone.
    pub fn put_prefix(&mut self, rows: usize, prefix: Option<&Prefix>) {
        let held = prefix.map(|prefix| {
            let [key_masks, value_masks] = prefix.by_row();
            Held { keys: vec![], values: vec![], key_masks, value_masks }
        });
        self.blocks.push(Block { first: 0, rows, packed: 0, held });
    }

    /// Forgets rows `rows…`; both parties must do it alike. Values are encrypted row by row, so
    /// dropped rows are removed. Keys are encrypted block by block, so dropped rows stay inside
    /// their ciphertexts; later products that touch them are hidden like all others, and both
    /// parties ignore them.
    pub fn crop(&mut self, rows: usize) {
        self.blocks.retain(|block| block.first < rows);
        for block in self.blocks.iter_mut().filter(|block| block.first + block.rows > rows) {
            let (kept, before) = (rows - block.first, block.rows);
            block.rows = kept;
            if let Some(held) = &mut block.held {
                let all = core::mem::take(&mut held.values).into_iter().enumerate();
                held.values = all.filter(|(i, _)| i % before < kept).map(|(_, ct)| ct).collect();
                held.key_masks.truncate(kept);
                held.value_masks.truncate(kept);
            }
        }
    }

    /// How many rows each block was made for.
    fn packed(&self) -> impl Iterator<Item = usize> + '_ {
        self.blocks.iter().map(|block| block.packed)
    }

    fn held(&self) -> impl Iterator<Item = (&Block, &Held)> {
        self.blocks.iter().filter_map(|block| Some((block, block.held.as_ref()?)))
    }
}

/// A block of new rows of a session, as both parties know it.
struct Shape<'a> {
    m: &'a ModelShape,
    first: usize,
    rows: usize,
}

/// One of the four products: which of the client's numbers are encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The keys of the block with this number, for the server's queries.
    Keys(usize),
    /// The new rows' queries, for the server's keys of all rows.
    Queries,
    /// The values of all rows, for the server's weights.
    Values,
    /// The new rows' weights, for the server's values of all rows.
    Weights,
}

/// Results that leave in one message: some of a group of ciphertexts.
struct Part {
    kind: Kind,
    group: Group,
    /// the group's number among those of its kind
    index: usize,
    results: Range<usize>,
}

impl Shape<'_> {
    fn of<'a>(m: &'a ModelShape, new: &NewRows) -> Shape<'a> {
        Shape { m, first: new.first, rows: new.keys.len() }
    }

    /// Queries of a key head: a row has one for each of the heads that share it.
    fn queries(&self) -> usize {
        self.rows * self.m.queries_per_kv_head()
    }

    /// Rows with a key and a value, the new ones included.
    fn cached(&self) -> usize {
        self.first + self.rows
    }

    /// The messages of step 1, in order: kinds, and which of their ciphertexts.
    fn fresh(&self) -> Vec<(Kind, Range<usize>)> {
        let of = |kind| batches(self.groups(kind, self.rows).len() * self.each(kind)).map(move |n| (kind, n));
        [Kind::Keys(0), Kind::Values, Kind::Queries].into_iter().flat_map(of).collect()
    }

    /// New ciphertexts of each group: one per row for values, else one per component.
    fn each(&self, kind: Kind) -> usize {
        match kind {
            Kind::Values => self.rows,
            _ => self.m.head_dim,
        }
    }

    /// The groups of a kind's ciphertexts; keys' depend on the rows that their block was made for.
    fn groups(&self, kind: Kind, packed: usize) -> Vec<Group> {
        let m = self.m;
        match kind {
            // A score sums over components, an output over rows.
            Kind::Keys(_) => Group::all(m, packed, m.head_dim),
            Kind::Queries => Group::all(m, self.queries(), m.head_dim),
            Kind::Values => Group::all(m, m.head_dim, m.context),
            Kind::Weights => Group::all(m, self.queries(), m.context),
        }
    }

    /// Numbers of the server's that every `λ` of a kind is multiplied with.
    fn columns(&self, kind: Kind) -> usize {
        match kind {
            Kind::Keys(_) | Kind::Values => self.queries(),
            Kind::Queries => self.cached(),
            Kind::Weights => self.m.head_dim,
        }
    }

    /// The messages of one kind.
    fn parts(&self, kind: Kind, packed: usize) -> Vec<Part> {
        let at_once = match kind {
            // These sums are kept while ciphertexts come in.
            Kind::Weights => usize::MAX,
            Kind::Keys(_) | Kind::Queries => SCORES,
            Kind::Values => OUTPUTS,
        };
        let mut parts = vec![];
        for (index, group) in self.groups(kind, packed).into_iter().enumerate() {
            let all = group.results(self.columns(kind));
            for first in (0..all).step_by(at_once) {
                parts.push(Part {
                    kind,
                    group,
                    index,
                    results: first..all.min(first.saturating_add(at_once)),
                });
            }
        }
        parts
    }

    /// The messages of step 3, in order, for blocks that were made for `packed` rows each.
    fn products(&self, packed: impl Iterator<Item = usize>) -> Vec<Part> {
        let encrypted = packed.enumerate().filter(|(_, packed)| *packed > 0);
        let keys = encrypted.flat_map(|(block, packed)| self.parts(Kind::Keys(block), packed));
        keys.chain(self.parts(Kind::Queries, 0)).chain(self.parts(Kind::Values, 0)).collect()
    }

    /// Adds this party's shares `[results][N]` of one message.
    fn add(&self, part: &Part, cache: &EncryptedCache, values: &[Fp], out: &mut Products) {
        let (m, d) = (self.m, self.m.head_dim);
        part.group.each(part.results.clone(), self.columns(part.kind), values, |column, lambda, numbers| {
            // Scores of query `i` with cached row `j`, and component `e` of its output.
            let mut score = |i: usize, j: usize, x: Fp| {
                let (row, head) = query(m, i, lambda);
                let t = self.first + row;
                if j <= t {
                    out.scores[row][head * (t + 1) + j] += x;
                }
            };
            let mut output = |i: usize, e: usize, x: Fp| {
                let (row, head) = query(m, i, lambda);
                out.values[row][head * d + e] += x;
            };
            let numbers = numbers.iter().copied().enumerate();
            match part.kind {
                Kind::Keys(block) => {
                    let block = &cache.blocks[block];
                    numbers.take(block.rows).for_each(|(j, x)| score(column, block.first + j, x));
                }
                Kind::Queries => numbers.take(self.queries()).for_each(|(i, x)| score(i, column, x)),
                Kind::Values => numbers.take(d).for_each(|(e, x)| output(column, e, x)),
                Kind::Weights => numbers.take(self.queries()).for_each(|(i, x)| output(i, column, x)),
            }
        });
    }

    fn no_products(&self) -> Products {
        let m = self.m;
        Products {
            scores: (0..self.rows)
                .map(|i| vec![Fp::ZERO; m.layers * m.heads * (self.first + i + 1)])
                .collect(),
            values: vec![vec![Fp::ZERO; m.layers * m.q_dim()]; self.rows],
        }
    }
}

/// Messages and bytes of a block of `rows` rows behind `first` others, which came in blocks that
/// were made for `before` rows each, 0 of a prefix.
pub fn cost(m: &ModelShape, before: &[usize], first: usize, rows: usize) -> Cost {
    let shape = Shape { m, first, rows };
    let weights = shape.parts(Kind::Weights, 0);
    let fresh = shape.fresh();
    let there = fresh.iter().map(|(_, n)| n.len()).sum::<usize>() + weights.len() * shape.cached();
    let batches = weights.len() * shape.cached().div_ceil(AT_ONCE);
    let parts = shape.products(before.iter().copied().chain([rows]));
    let back: usize = weights.iter().chain(&parts).map(|part| part.results.len()).sum();
    Cost {
        messages: fresh.len() + batches + weights.len() + parts.len(),
        client_bytes: there * SeededCiphertext::BYTES,
        server_bytes: back * RESULT_BYTES,
    }
}

/// Client: encrypts, and takes its shares of what comes back.
///
/// # Errors
/// Connection failures, malformed results.
pub fn client(
    ch: &mut dyn Channel,
    key: &SecretKey,
    m: &ModelShape,
    cache: &mut EncryptedCache,
    new: &NewRows,
    rng: &mut Prg,
) -> Result<Products> {
    let shape = Shape::of(m, new);
    cache.blocks.push(Block { first: new.first, rows: shape.rows, packed: shape.rows, held: None });
    let (cache, mut out) = (&*cache, shape.no_products());
    // 1.
    pipeline(
        shape.fresh().into_iter().map(|(kind, which)| Ok((kind, which, Seed::random(rng)))),
        |(kind, which, seed)| encrypt_rows(key, &shape, new, kind, which, &seed),
        |bytes| Ok(ch.send(&bytes)?),
    )?;
    // 2.
    for part in shape.parts(Kind::Weights, 0) {
        pipeline(
            batches(shape.cached()).map(|rows| Ok((rows, Seed::random(rng)))),
            |(rows, seed)| encrypt_weights(key, &shape, new, &part.group, rows, &seed),
            |bytes| Ok(ch.send(&bytes)?),
        )?;
        let bytes = ch.recv(part.results.len() * RESULT_BYTES)?;
        shape.add(&part, cache, &client_shares(key, part.group.layout(), &bytes)?, &mut out);
    }
    // 3.
    pipeline(
        shape
            .products(cache.packed())
            .into_iter()
            .map(|part| Ok((ch.recv(part.results.len() * RESULT_BYTES)?, part))),
        |(bytes, part)| Ok((client_shares(key, part.group.layout(), &bytes)?, part)),
        |(shares, part)| {
            shape.add(&part, cache, &shares, &mut out);
            Ok(())
        },
    )?;
    Ok(out)
}

/// Server: multiplies what the client sends, and keeps what hides the results.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn server(
    ch: &mut dyn Channel,
    params: &'static Params,
    client_key: &PublicKey,
    m: &ModelShape,
    cache: &mut EncryptedCache,
    new: &NewRows,
    rng: &mut Prg,
) -> Result<Products> {
    let shape = Shape::of(m, new);
    // 1.
    let [mut keys, mut values, mut queries] = [(); 3].map(|()| vec![]);
    pipeline(
        shape
            .fresh()
            .into_iter()
            .map(|(kind, which)| Ok((kind, ch.recv(which.len() * SeededCiphertext::BYTES)?))),
        |(kind, bytes)| Ok((kind, stored(params, &bytes, shape.groups(kind, shape.rows)[0].layout())?)),
        |(kind, cts)| {
            match kind {
                Kind::Keys(_) => keys.extend(cts),
                Kind::Values => values.extend(cts),
                _ => queries.extend(cts),
            }
            Ok(())
        },
    )?;
    let held = Held { keys, values, key_masks: new.keys.clone(), value_masks: new.values.clone() };
    cache.blocks.push(Block { first: new.first, rows: shape.rows, packed: shape.rows, held: Some(held) });
    let (cache, mut out) = (&*cache, shape.no_products());
    // 2.
    let value_masks: Vec<&[Fp]> =
        cache.held().flat_map(|(_, held)| &held.value_masks).map(|v| &v[..]).collect();
    for part in shape.parts(Kind::Weights, 0) {
        let mut combiner = Combiner::new(params, part.group.layout(), part.results.len());
        let layout = part.group.layout();
        pipeline_of(
            IN_WORK,
            batches(shape.cached()).map(|rows| {
                let bytes = ch.recv(rows.len() * SeededCiphertext::BYTES)?;
                Ok((rows, bytes))
            }),
            |(rows, bytes)| Ok((rows, expand_all(params, layout, &bytes)?)),
            |(rows, cts)| {
                let masks = &value_masks[rows];
                let w =
                    part.group.multipliers(part.results.clone(), m.head_dim, masks.len(), |e, lambda, j| {
                        masks[j][lambda * m.head_dim + e]
                    });
                Ok(combiner.add_block(&cts, &w)?)
            },
        )?;
        let (shares, bytes) = hide(client_key, combiner, &Seed::random(rng))?;
        ch.send(&bytes)?;
        shape.add(&part, cache, &shares, &mut out);
    }
    // 3.
    let mut expanded = Expanded::default();
    pipeline_of(
        IN_WORK,
        shape.products(cache.packed()).into_iter().map(|part| {
            let cts = expanded.of(&part, params, shape.shared(cache, &queries, &part))?;
            Ok((part, cts, Seed::random(rng)))
        }),
        |(part, cts, seed)| {
            let combiner = shape.multiply(params, cache, &cts, new, &part)?;
            drop(cts);
            Ok((hide(client_key, combiner, &seed)?, part))
        },
        |((shares, bytes), part)| {
            ch.send(&bytes)?;
            shape.add(&part, cache, &shares, &mut out);
            Ok(())
        },
    )?;
    Ok(out)
}

/// Ciphertexts that all results of a group are made of, expanded for the last message: the next may
/// be of the same.
#[derive(Default)]
struct Expanded {
    of: Option<(Kind, usize)>,
    cts: Arc<Vec<Ciphertext>>,
}

impl Expanded {
    fn of(
        &mut self,
        part: &Part,
        params: &'static Params,
        stored: &[Stored],
    ) -> Result<Arc<Vec<Ciphertext>>> {
        if self.of != Some((part.kind, part.index)) {
            // Before others are there.
            (self.of, self.cts) = (None, Arc::default());
            self.cts = Arc::new(expand(params, part.group.layout(), stored)?);
            self.of = Some((part.kind, part.index));
        }
        Ok(Arc::clone(&self.cts))
    }
}

impl Shape<'_> {
    /// The ciphertexts that a message of scores is made of; of outputs there are too many to keep
    /// them expanded.
    fn shared<'a>(&self, cache: &'a EncryptedCache, queries: &'a [Stored], part: &Part) -> &'a [Stored] {
        let group = part.index * self.m.head_dim..(part.index + 1) * self.m.head_dim;
        match part.kind {
            Kind::Keys(block) => cache.blocks[block].held.as_ref().map_or(&[], |held| &held.keys[group]),
            Kind::Queries => &queries[group],
            Kind::Values | Kind::Weights => &[],
        }
    }

    /// Products of the client's ciphertexts with the server's masks: those of one message of step
    /// 3. `cts`: [`Shape::shared`].
    fn multiply(
        &self,
        params: &'static Params,
        cache: &EncryptedCache,
        cts: &[Ciphertext],
        new: &NewRows,
        part: &Part,
    ) -> Result<Combiner> {
        let (m, d, group, i) = (self.m, self.m.head_dim, &part.group, part.index);
        let columns = self.columns(part.kind);
        let multipliers = |inner: usize, pick: &(dyn Fn(usize, usize, usize) -> Fp + Sync)| {
            group.multipliers(part.results.clone(), columns, inner, pick)
        };
        let mut combiner = Combiner::new(params, group.layout(), part.results.len());
        match part.kind {
            Kind::Keys(_) => {
                let w = multipliers(d, &|i, lambda, e| {
                    let (row, head) = query(m, i, lambda);
                    new.queries[row][head * d + e]
                });
                combiner.add_block(cts, &w)?;
            }
            Kind::Queries => {
                let masks: Vec<&[Fp]> =
                    cache.held().flat_map(|(_, held)| &held.key_masks).map(|k| &k[..]).collect();
                let w = multipliers(d, &|j, lambda, e| masks[j][lambda * d + e]);
                combiner.add_block(cts, &w)?;
            }
            Kind::Values => {
                for (block, held) in cache.held().filter(|(block, _)| block.packed > 0) {
                    let values = &held.values[i * block.rows..][..block.rows];
                    for (n, values) in values.chunks(VALUES).enumerate() {
                        let first = block.first + n * VALUES;
                        let w =
                            multipliers(values.len(), &|i, lambda, j| new.weight(m, i, lambda, first + j));
                        combiner.add_block(&expand(params, group.layout(), values)?, &w)?;
                    }
                }
            }
            // Step 2 does these as their ciphertexts come.
            Kind::Weights => {}
        }
        Ok(combiner)
    }
}

/// Which of `n` ciphertexts travel together.
fn batches(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(AT_ONCE).map(move |first| first..n.min(first + AT_ONCE))
}

/// Ciphertexts of a message, checked and kept as they came.
fn stored(params: &'static Params, bytes: &[u8], layout: Layout) -> Result<Vec<Stored>> {
    bytes
        .par_chunks(SeededCiphertext::BYTES)
        .map(|bytes| {
            SeededCiphertext::from_bytes(params, layout, bytes)?;
            Ok(Stored(bytes.into()))
        })
        .collect()
}

fn expand(params: &'static Params, layout: Layout, cts: &[Stored]) -> Result<Vec<Ciphertext>> {
    cts.par_iter().map(|ct| ct.expand(params, layout)).collect()
}

/// The ciphertexts of a message.
fn expand_all(params: &'static Params, layout: Layout, bytes: &[u8]) -> Result<Vec<Ciphertext>> {
    let each = bytes.par_chunks(SeededCiphertext::BYTES);
    each.map(|bytes| Ok(SeededCiphertext::from_bytes(params, layout, bytes)?.expand(params))).collect()
}
