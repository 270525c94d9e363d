//! How the rows of attention material lie in ciphertexts.
//!
//! All layers and key heads are numbered together, `λ = layer·kv_heads + head`, and share
//! ciphertexts, slots λ: *keys* of a block of R rows: coefficients j (`C ≥ R`), one ciphertext per
//! component e; *values*: coefficients e (`C ≥ head_dim`), one ciphertext per row j; *queries*:
//! coefficients i (`C ≥ R·queries_per_kv_head`), one ciphertext per component e; *weights*:
//! coefficients i, one ciphertext per cached row j. `C` is the least power of two that also keeps
//! the noise of the sums within its bound. More λ than slots are several groups; a group that
//! leaves slots free (the last one) holds copies of its λ, and a result serves as many columns: the
//! server's numbers that a λ is multiplied with.

use std::ops::Range;

use cryptogen_he::noise::max_products;
use cryptogen_he::{Layout, SecretKey, N};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::{Kind, NewRows, Shape};
use crate::error::Result;
use crate::material::slots;
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
    /// The groups of all λ for `numbers` numbers of each when `terms` ciphertexts are summed. There
    /// are no more slots than the noise allows.
    pub(super) fn all(m: &ModelShape, numbers: usize, terms: usize) -> Vec<Group> {
        let mut coefficients = numbers.next_power_of_two();
        while coefficients < N && (terms * (N / coefficients)) as u64 > max_products() {
            coefficients *= 2;
        }
        let (slots, all) = (N / coefficients, m.layers * m.kv_heads);
        let group = |first: usize| Group { slots, coefficients, first, lambdas: slots.min(all - first) };
        (0..all).step_by(slots).map(group).collect()
    }

    pub(super) fn layout(&self) -> Layout {
        slots(self.slots)
    }

    /// Columns that one result serves.
    fn copies(&self) -> usize {
        self.slots / self.lambdas
    }

    /// Results for `columns` columns of each λ.
    pub(super) fn results(&self, columns: usize) -> usize {
        columns.div_ceil(self.copies())
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

    /// Multipliers `[results][inner][slots]` of some results for `columns` numbers of each λ,
    /// `pick(column, λ, inner)`.
    pub(super) fn multipliers(
        &self,
        results: Range<usize>,
        columns: usize,
        inner: usize,
        pick: impl Fn(usize, usize, usize) -> Fp + Sync,
    ) -> Vec<Fp> {
        let mut w = vec![Fp::ZERO; results.len() * inner * self.slots];
        w.par_chunks_mut(inner * self.slots).zip(results).for_each(|(w, result)| {
            for (x, w) in w.chunks_mut(self.slots).enumerate() {
                for (slot, copy, lambda) in self.used() {
                    let column = result * self.copies() + copy;
                    if column < columns {
                        w[slot] = pick(column, lambda, x);
                    }
                }
            }
        });
        w
    }

    /// Calls `visit(column, λ, coefficients)` for everything in shares `[results][N]`.
    pub(super) fn each(
        &self,
        results: Range<usize>,
        columns: usize,
        values: &[Fp],
        mut visit: impl FnMut(usize, usize, &[Fp]),
    ) {
        for (result, values) in results.zip(values.chunks(N)) {
            for (slot, copy, lambda) in self.used() {
                let column = result * self.copies() + copy;
                if column < columns {
                    visit(column, lambda, &values[slot * self.coefficients..][..self.coefficients]);
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

/// Encrypts some of the client's new keys, values or queries, which are `[groups][e]`,
/// `[groups][row]` and `[groups][e]`.
pub(super) fn encrypt_rows(
    key: &SecretKey,
    shape: &Shape<'_>,
    new: &NewRows,
    kind: Kind,
    which: Range<usize>,
    seed: &Seed,
) -> Result<Vec<u8>> {
    let (m, d, groups, each) = (shape.m, shape.m.head_dim, shape.groups(kind, shape.rows), shape.each(kind));
    let parts: Result<Vec<Vec<u8>>> = which
        .into_par_iter()
        .map(|i| {
            let (group, inner) = (&groups[i / each], i % each);
            let message = match kind {
                Kind::Keys(_) => group.message(shape.rows, |lambda, j| new.keys[j][lambda * d + inner]),
                Kind::Values => group.message(d, |lambda, e| new.values[inner][lambda * d + e]),
                _ => group.message(shape.queries(), |lambda, i| {
                    let (row, head) = query(m, i, lambda);
                    new.queries[row][head * d + inner]
                }),
            };
            let mut rng = Prg::new(&seed.derive("rows", i as u64));
            Ok(key.encrypt(&message, group.layout(), &mut rng)?.to_bytes())
        })
        .collect();
    Ok(parts?.concat())
}

/// Encrypts the client's masks of the weights of some cached rows, one ciphertext a row.
pub(super) fn encrypt_weights(
    key: &SecretKey,
    shape: &Shape<'_>,
    new: &NewRows,
    group: &Group,
    cached: Range<usize>,
    seed: &Seed,
) -> Result<Vec<u8>> {
    let parts: Result<Vec<Vec<u8>>> = cached
        .into_par_iter()
        .map(|j| {
            let message = group.message(shape.queries(), |lambda, i| new.weight(shape.m, i, lambda, j));
            let mut rng = Prg::new(&seed.derive("weights", j as u64));
            Ok(key.encrypt(&message, group.layout(), &mut rng)?.to_bytes())
        })
        .collect();
    Ok(parts?.concat())
}
