//! Scores and sums of values of `preprocessed`: from openings and products of masks made offline.

use cryptogen_party::{Client, Party, Server};
use cryptogen_ring::Fp;
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::Call;
use crate::error::Result;
use crate::material::Mask;
use crate::online::Online;
use crate::share::qkv::NewRows;
use crate::share::{Incoming, Opening};

/// A sum of products of field elements, low and high halves apart, reduced once at the end.
#[derive(Clone, Copy, Default, Zeroize)]
struct Sum {
    low: u128,
    high: u128,
}

impl Sum {
    #[inline(always)]
    fn add(&mut self, x: Fp, y: Fp) {
        let product = u128::from(x.value()) * u128::from(y.value());
        self.low += u128::from(product as u64);
        self.high += product >> 64;
    }

    fn reduce(&self) -> Fp {
        Fp::from_u128(self.low) + Fp::from_u128(self.high) * Fp::from_u128(1 << 64)
    }
}

fn dot(a: &[Fp], b: &[Fp]) -> Fp {
    let mut sum = Sum::default();
    a.iter().zip(b).for_each(|(x, y)| sum.add(*x, *y));
    sum.reduce()
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

    /// `Σ_j e_j·v_j + f_j·w_j` of every pair, `[pairs][head_dim]`, plus cross terms; `e`, `f` by entry, `w` what `open_v` of the cache holds.
    fn sums(&self, call: &Call, layer: usize, scales: impl Fn(usize) -> [Fp; 2] + Sync) -> Vec<Fp> {
        let (m, d, cache) = (&self.plan.model, call.d, &self.cache[layer]);
        let mut o = vec![Fp::ZERO; call.pairs.len() * d];
        let one = |sums: &mut Zeroizing<Vec<Sum>>, (n, out): (usize, &mut [Fp])| {
            let ((i, g, t), start) = (call.pairs[n], call.starts[n]);
            sums.clear();
            sums.resize(d, Sum::default());
            for j in 0..=t {
                let at = (j * m.kv_heads + g / m.group()) * d;
                let [e, f] = scales(start + j);
                for ((sum, v), w) in sums.iter_mut().zip(&cache.v[at..at + d]).zip(&cache.open_v[at..at + d])
                {
                    sum.add(e, *v);
                    sum.add(f, *w);
                }
            }
            let z = &self.active[i].attention[layer].value[g * d..(g + 1) * d];
            for ((out, sum), z) in out.iter_mut().zip(sums.iter()).zip(z) {
                *out = sum.reduce() + *z;
            }
        };
        o.par_chunks_mut(d).enumerate().for_each_init(|| Zeroizing::new(Vec::new()), one);
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
        self.sums(call, layer, |n| [weights[n] + open_e[n], weights[n]])
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
        self.sums(call, layer, |n| [weights[n], open_e[n]])
    }
}
