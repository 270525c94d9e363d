//! How the rows of attention material lie in ciphertexts.
//!
//! All layers and key heads are numbered together, `λ = layer·kv_heads + head`, and share
//! ciphertexts: *keys* of a block of R rows: slots λ, coefficients j (`C ≥ R`), one ciphertext per
//! component e; *values*: slots λ, coefficients e (`C ≥ head_dim`), one ciphertext per row j. `C`
//! is the least power of two that also keeps the noise of the sums within its bound. More λ than
//! slots are several groups; a group that leaves slots free (the last one) holds copies of its λ,
//! and a combination serves as many queries.

use cryptogen_he::noise::max_products;
use cryptogen_he::{Layout, Params, SecretKey, SeededCiphertext, N};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::{Block, NewRows, Products};
use crate::error::Result;
use crate::material::packing::slots;
use crate::model::ModelShape;

/// Slots and coefficients of a ciphertext, and the numbers `λ` of its slots: a group of them, as
/// often as it fits.
#[derive(Clone, Copy)]
pub(super) struct Group {
    slots: usize,
    coefficients: usize,
    /// λ of the first slot
    first: usize,
    lambdas: usize,
}

impl Group {
    /// The groups of all λ for `columns` numbers of each when `terms` ciphertexts are summed. There
    /// are no more slots than the noise allows.
    fn all(m: &ModelShape, columns: usize, terms: usize) -> Vec<Group> {
        let mut coefficients = columns.next_power_of_two();
        while coefficients < N && (terms * (N / coefficients)) as u64 > max_products() {
            coefficients *= 2;
        }
        let (slots, all) = (N / coefficients, m.layers * m.kv_heads);
        let group = |first: usize| Group { slots, coefficients, first, lambdas: slots.min(all - first) };
        (0..all).step_by(slots).map(group).collect()
    }

    /// Of the keys of a block of `rows` rows: a score sums over the components.
    pub(super) fn of_keys(m: &ModelShape, rows: usize) -> Vec<Group> {
        Group::all(m, rows, m.head_dim)
    }

    /// Of values: an output sums over all rows of a session.
    pub(super) fn of_values(m: &ModelShape) -> Vec<Group> {
        Group::all(m, m.head_dim, m.context)
    }

    pub(super) fn layout(&self) -> Layout {
        slots(self.slots)
    }

    /// Queries that one combination serves.
    fn copies(&self) -> usize {
        self.slots / self.lambdas
    }

    /// Combinations for `queries` queries of each λ.
    pub(super) fn results(&self, queries: usize) -> usize {
        queries.div_ceil(self.copies())
    }

    /// Slots in use: `(slot, copy, λ)`.
    fn used(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let Group { first, lambdas, .. } = *self;
        (0..self.copies() * lambdas).map(move |slot| (slot, slot / lambdas, first + slot % lambdas))
    }

    /// Message with `number(λ, coefficient)` in the first `columns` coefficients of every slot.
    fn message(&self, columns: usize, number: impl Fn(usize, usize) -> Fp) -> Vec<Fp> {
        let mut message = vec![Fp::ZERO; N];
        for (slot, _, lambda) in self.used() {
            let values = &mut message[slot * self.coefficients..][..columns];
            values.iter_mut().enumerate().for_each(|(c, value)| *value = number(lambda, c));
        }
        message
    }

    /// Multipliers `[results][inner][slots]`, `pick(query, λ, inner)`.
    pub(super) fn multipliers(
        &self,
        queries: usize,
        inner: usize,
        pick: impl Fn(usize, usize, usize) -> Fp + Sync,
    ) -> Vec<Fp> {
        let mut w = vec![Fp::ZERO; self.results(queries) * inner * self.slots];
        w.par_chunks_mut(inner * self.slots).enumerate().for_each(|(result, w)| {
            for (x, w) in w.chunks_mut(self.slots).enumerate() {
                for (slot, copy, lambda) in self.used() {
                    let query = result * self.copies() + copy;
                    if query < queries {
                        w[slot] = pick(query, lambda, x);
                    }
                }
            }
        });
        w
    }

    /// Calls `visit(query, λ, coefficients)` for everything in the decrypted results
    /// `[results][N]`.
    fn each(&self, queries: usize, values: &[Fp], mut visit: impl FnMut(usize, usize, &[Fp])) {
        for (result, values) in values.chunks(N).enumerate() {
            for (slot, copy, lambda) in self.used() {
                let query = result * self.copies() + copy;
                if query < queries {
                    visit(query, lambda, &values[slot * self.coefficients..][..self.coefficients]);
                }
            }
        }
    }
}

/// Which query the `i`-th is, and of which head: (row, head among all layers' heads) for λ. Rows
/// have one for each head of a key head.
pub(super) fn query(m: &ModelShape, i: usize, lambda: usize) -> (usize, usize) {
    let g = m.queries_per_kv_head();
    (i / g, lambda / m.kv_heads * m.heads + lambda % m.kv_heads * g + i % g)
}

/// Ciphertexts of a block's keys and values.
pub(super) fn counts(m: &ModelShape, rows: usize) -> (usize, usize) {
    (Group::of_keys(m, rows).len() * m.head_dim, Group::of_values(m).len() * rows)
}

/// Encrypts this party's new keys and values, `[groups][e]` then `[groups][row]`.
pub(super) fn encrypt(key: &SecretKey, m: &ModelShape, new: &NewRows, rng: &mut Prg) -> Result<Vec<u8>> {
    let (rows, d) = (new.keys.len(), m.head_dim);
    let seed = Seed::random(rng);
    let (of_keys, of_values) = (Group::of_keys(m, rows), Group::of_values(m));
    let keys = of_keys.iter().flat_map(|group| (0..d).map(move |e| (group, true, e)));
    let values = of_values.iter().flat_map(|group| (0..rows).map(move |row| (group, false, row)));
    let parts: Result<Vec<Vec<u8>>> = keys
        .chain(values)
        .collect::<Vec<_>>()
        .into_par_iter()
        .enumerate()
        .map(|(i, (group, is_key, inner))| {
            let message = match is_key {
                true => group.message(rows, |lambda, j| new.keys[j][lambda * d + inner]),
                false => group.message(d, |lambda, e| new.values[inner][lambda * d + e]),
            };
            let mut rng = Prg::new(&seed.derive("cache", i as u64));
            Ok(key.encrypt(&message, group.layout(), &mut rng)?.to_bytes())
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
    (block, group): (&Block, &Group),
    first: usize,
    range: &std::ops::Range<usize>,
    values: &[Fp],
    out: &mut Products,
) {
    group.each(range.len() * m.queries_per_kv_head(), values, |i, lambda, scores| {
        let (row, head) = query(m, i, lambda);
        let t = first + range.start + row;
        let n = block.rows.min((t + 1).saturating_sub(block.first));
        let out = &mut out.scores[range.start + row][head * (t + 1)..][..t + 1];
        out.iter_mut().skip(block.first).zip(&scores[..n]).for_each(|(out, score)| *out += *score);
    });
}

pub(super) fn add_values(
    m: &ModelShape,
    group: &Group,
    range: &std::ops::Range<usize>,
    values: &[Fp],
    out: &mut Products,
) {
    group.each(range.len() * m.queries_per_kv_head(), values, |i, lambda, sums| {
        let (row, head) = query(m, i, lambda);
        let out = &mut out.values[range.start + row][head * m.head_dim..][..m.head_dim];
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += *sum);
    });
}
