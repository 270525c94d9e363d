//! Scores and sums of values of the default protocol: from openings and products of masks made offline.

use cryptogen_mpc::party::{Client, Party, Server};
use cryptogen_ring::Fp;
use rayon::prelude::*;

use super::Call;
use crate::error::Result;
use crate::hybrid::attention::NewRows;
use crate::material::Mask;
use crate::online::{LayerCache, Online};
use crate::wire::{Incoming, Opening};

/// Inner product of field elements with one reduction at the end.
fn dot(a: &[Fp], b: &[Fp]) -> Fp {
    let (mut lo, mut hi) = (0u128, 0u128);
    for (x, y) in a.iter().zip(b) {
        let p = u128::from(x.value()) * u128::from(y.value());
        lo += u128::from(p as u64);
        hi += p >> 64;
    }
    Fp::from_u128(lo) + Fp::from_u128(hi) * Fp::from_u128(1 << 64)
}

impl<P: Party> Online<P> {
    /// Appends new rows' keys and values; rows are immutable from here on.
    fn append(&mut self, layer: usize, new: &NewRows) {
        let cache = &mut self.cache[layer];
        cache.k.extend(new.keys.iter().flatten());
        cache.v.extend(new.values.iter().flatten());
    }

    /// This party's scores `[entries]` from its own shares and the openings, plus its share of the cross terms.
    fn scores(&self, call: &Call, layer: usize, score: impl Fn(usize, usize, usize) -> Fp + Sync) -> Vec<Fp> {
        let one = |&(i, g, t): &(usize, usize, usize)| -> Vec<Fp> {
            let material = &self.active[i].attention[layer].score[g * (t + 1)..(g + 1) * (t + 1)];
            (0..=t).zip(material).map(|(j, z)| score(i, g, j) + *z).collect()
        };
        call.pairs.par_iter().flat_map_iter(one).collect()
    }

    /// `Σ_j …` of every pair, `[pairs][head_dim]`: `term(cache, entry, column of the cached row)`, plus cross terms.
    fn sums(
        &self,
        call: &Call,
        layer: usize,
        term: impl Fn(&LayerCache, usize, usize) -> Fp + Sync,
    ) -> Vec<Fp> {
        let (m, d, cache) = (&self.plan.model, call.d, &self.cache[layer]);
        let mut o = vec![Fp::ZERO; call.pairs.len() * d];
        o.par_chunks_mut(d).enumerate().for_each(|(n, out)| {
            let ((i, g, t), start) = (call.pairs[n], call.starts[n]);
            let z = &self.active[i].attention[layer].value[g * d..(g + 1) * d];
            for (e, out) in out.iter_mut().enumerate() {
                let column = |j: usize| (j * m.kv_heads + g / m.group()) * d + e;
                let sum: Fp = (0..=t).map(|j| term(cache, start + j, column(j))).sum();
                *out = sum + z[e];
            }
        });
        o
    }

    /// This party's masks of its weights, `[entries]`.
    pub(super) fn weight_masks(&self, call: &Call, layer: usize) -> Vec<Fp> {
        let mut out = Vec::with_capacity(call.entries);
        for &(i, g, t) in &call.pairs {
            out.extend_from_slice(
                &self.active[i].attention[layer].weight_mask[g * (t + 1)..(g + 1) * (t + 1)],
            );
        }
        out
    }
}

impl Online<Client> {
    /// Reads the server's openings of the new rows (step 1) and computes scores.
    pub(super) fn opened_scores(
        &mut self,
        call: &Call,
        layer: usize,
        new: &NewRows,
        m1: &mut Incoming,
    ) -> Result<Vec<Fp>> {
        let m = &self.plan.model;
        let (n, heads, d, kv, group) = (new.keys.len(), m.heads, call.d, m.kv_dim(), m.group());
        let open_q = m1.words(n * m.q_dim())?;
        let (open_k, open_v) = (m1.words(n * kv)?, m1.words(n * kv)?);
        self.append(layer, new);
        self.cache[layer].open_k.extend(open_k);
        self.cache[layer].open_v.extend(open_v);
        let cache = &self.cache[layer];
        Ok(self.scores(call, layer, |i, g, j| {
            let q = &new.queries[i][g * d..(g + 1) * d];
            let open_q = &open_q[(i * heads + g) * d..][..d];
            let at = j * kv + g / group * d;
            let (k, open_k) = (&cache.k[at..at + d], &cache.open_k[at..at + d]);
            dot(q, k) + dot(q, open_k) + dot(open_q, k)
        }))
    }

    /// Sums of values, with the server's opening of its weights (step 3).
    pub(super) fn opened_values(&self, call: &Call, layer: usize, weights: &[Fp], open_e: &[Fp]) -> Vec<Fp> {
        self.sums(call, layer, |cache, n, at| {
            weights[n] * (cache.v[at] + cache.open_v[at]) + open_e[n] * cache.v[at]
        })
    }
}

impl Online<Server> {
    /// Opens the new rows to the client (step 1) and computes scores.
    pub(super) fn opened_scores(
        &mut self,
        call: &Call,
        layer: usize,
        new: &NewRows,
        m1: &mut Opening,
    ) -> Vec<Fp> {
        let m = &self.plan.model;
        let (q_dim, d, kv, group) = (m.q_dim(), call.d, m.kv_dim(), m.group());
        for (row, q) in self.active.iter().zip(&new.queries) {
            m1.masked(q, &row.slot.mask(Mask::Query, layer, q_dim));
        }
        for (row, k) in self.active.iter().zip(&new.keys) {
            m1.masked(k, &row.slot.mask(Mask::Key, layer, kv));
        }
        let mut value_masks = Vec::with_capacity(new.values.len() * kv);
        for (row, v) in self.active.iter().zip(&new.values) {
            let mask = row.slot.mask(Mask::Value, layer, kv);
            m1.masked(v, &mask);
            value_masks.extend(mask);
        }
        self.append(layer, new);
        self.cache[layer].open_v.extend(value_masks);
        let cache = &self.cache[layer];
        self.scores(call, layer, |i, g, j| {
            dot(&new.queries[i][g * d..(g + 1) * d], &cache.k[j * kv + g / group * d..][..d])
        })
    }

    /// Sums of values, with the client's opening of its weights (step 2).
    pub(super) fn opened_values(&self, call: &Call, layer: usize, weights: &[Fp], open_e: &[Fp]) -> Vec<Fp> {
        self.sums(call, layer, |cache, n, at| weights[n] * cache.v[at] + open_e[n] * cache.open_v[at])
    }
}
