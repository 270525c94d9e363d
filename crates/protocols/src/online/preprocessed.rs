//! The products of `preprocessed`: from openings, and products of masks made offline.
//!
//! Linear layers (A5.3): the server multiplies `x − r'` itself and adds its prepared share of
//! `W·r'`. Attention: steps 1 and 4 of [`super::attention`], over a cache of shares and openings
//! that is never changed, only appended to.

use std::marker::PhantomData;
use std::sync::Arc;

use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::Fp;
use rayon::prelude::*;
use zeroize::Zeroize;

use super::products::{Awaited, Call, ClientProducts, Products, ServerProducts};
use crate::error::{ProtocolError, Result};
use crate::material::{MaskLabel, Row, RowLayout};
use crate::model::{Plan, Prefix, ServerModel, Site};
use crate::share::qkv::NewRows;
use crate::share::{Opened, Opening};

/// Cached rows of one layer, `[rows][kv_dim]` each. `k`, `v`: this party's shares. `open_k`,
/// `open_v`: on the client its share and what the server opened together, the row less the server's
/// mask; the server keeps its value masks in `open_v` instead. Of rows of a prefix the client's
/// numbers are all 0, the server's `open_v` is its `v`.
#[derive(Default)]
struct LayerCache {
    k: Vec<Fp>,
    v: Vec<Fp>,
    open_k: Vec<Fp>,
    open_v: Vec<Fp>,
}

impl Drop for LayerCache {
    fn drop(&mut self) {
        for v in [&mut self.k, &mut self.v, &mut self.open_k, &mut self.open_v] {
            v.as_mut_slice().zeroize();
        }
    }
}

impl LayerCache {
    /// Wipes what lies beyond `len` numbers. The server has no `open_k`.
    fn crop(&mut self, len: usize) {
        for v in [&mut self.k, &mut self.v, &mut self.open_k, &mut self.open_v] {
            if let Some(dropped) = v.get_mut(len..) {
                dropped.zeroize();
            }
            v.truncate(len);
        }
    }
}

/// A sum of products of field elements, `low + 2^128·high`, reduced once at the end.
#[derive(Clone, Copy, Default, Zeroize)]
struct Sum {
    low: u128,
    high: u64,
}

impl Sum {
    #[inline(always)]
    fn add(&mut self, x: Fp, y: Fp) {
        let (low, carry) = self.low.overflowing_add(u128::from(x.value()) * u128::from(y.value()));
        self.low = low;
        self.high += u64::from(carry);
    }

    fn add_all(mut self, a: &[Fp], b: &[Fp]) -> Sum {
        a.iter().zip(b).for_each(|(x, y)| self.add(*x, *y));
        self
    }

    fn reduce(&self) -> Fp {
        // 2^96 = −1 modulo p.
        Fp::from_u128(self.low) - Fp::from_u128(u128::from(self.high) << 32)
    }
}

/// Components of an output that are summed at once, in registers.
const COMPONENTS: usize = 2;

/// Adds `Σ_j scales[j]·rows[j][i]` to `sums`, for rows that begin `stride` numbers apart.
fn add_rows<const N: usize>(sums: &mut [Sum; N], scales: &[Fp], rows: &[Fp], stride: usize) {
    for (scale, row) in scales.iter().zip(rows.chunks(stride)) {
        let row: &[Fp; N] = row.first_chunk().expect("a row has all components");
        sums.iter_mut().zip(row).for_each(|(sum, x)| sum.add(*scale, *x));
    }
}

/// One party's state: its cache of rows.
pub struct Preprocessed<P: Party> {
    plan: Arc<Plan>,
    layout: Arc<RowLayout>,
    cache: Vec<LayerCache>,
    _party: PhantomData<P>,
}

impl<P: Party> Preprocessed<P> {
    /// An empty cache.
    pub fn new(plan: Arc<Plan>, layout: Arc<RowLayout>) -> Preprocessed<P> {
        let cache = (0..plan.model.layers).map(|_| LayerCache::default()).collect();
        Preprocessed { plan, layout, cache, _party: PhantomData }
    }

    /// Appends new rows' keys and values; rows are immutable from here on.
    fn append(&mut self, layer: usize, new: &NewRows) {
        let cache = &mut self.cache[layer];
        cache.k.extend(new.keys.iter().flatten());
        cache.v.extend(new.values.iter().flatten());
    }

    /// This party's scores `[entries]` from its own shares and the openings, plus its share of the
    /// cross terms.
    fn own_scores(
        &self,
        call: &Call,
        rows: &[Row<P>],
        score: impl Fn(usize, usize, usize) -> Fp + Sync,
    ) -> Vec<Fp> {
        let one = |&(i, g, t): &(usize, usize, usize)| -> Vec<Fp> {
            let material = &rows[i].attention[call.layer].score[g * (t + 1)..(g + 1) * (t + 1)];
            (0..=t).zip(material).map(|(j, z)| score(i, g, j) + *z).collect()
        };
        call.pairs.par_iter().flat_map_iter(one).collect()
    }

    /// `Σ_j e_j·x_j` of every pair, `[pairs][head_dim]`, summed over `terms` of weights `e`,
    /// `[entries]`, and cached rows `x`, plus cross terms.
    fn sums(&self, call: &Call, rows: &[Row<P>], terms: &[(&[Fp], &[Fp])]) -> Vec<Fp> {
        let (m, d) = (&self.plan.model, call.d);
        let mut o = vec![Fp::ZERO; call.pairs.len() * d];
        o.par_chunks_mut(d).enumerate().for_each(|(n, out)| {
            let ((i, g, t), start) = (call.pairs[n], call.starts[n]);
            let head = g / m.queries_per_kv_head() * d;
            let z = &rows[i].attention[call.layer].value[g * d..(g + 1) * d];
            let of_components = |e: usize, out: &mut [Fp], sums: &mut [Sum]| {
                for ((out, sum), z) in out.iter_mut().zip(sums).zip(&z[e..]) {
                    *out = sum.reduce() + *z;
                    sum.zeroize();
                }
            };
            let (whole, rest) = out.as_chunks_mut::<COMPONENTS>();
            let at = whole.len() * COMPONENTS;
            for (c, out) in whole.iter_mut().enumerate() {
                let mut sums = [Sum::default(); COMPONENTS];
                for (e, x) in terms {
                    add_rows(&mut sums, &e[start..=start + t], &x[head + c * COMPONENTS..], m.kv_dim());
                }
                of_components(c * COMPONENTS, out, &mut sums);
            }
            for (c, out) in rest.iter_mut().enumerate() {
                let mut sums = [Sum::default()];
                for (e, x) in terms {
                    add_rows(&mut sums, &e[start..=start + t], &x[head + at + c..], m.kv_dim());
                }
                of_components(at + c, core::slice::from_mut(out), &mut sums);
            }
        });
        o
    }
}

impl<P: Party> Products<P> for Preprocessed<P> {
    fn length(&self) -> usize {
        self.cache[0].k.len() / self.plan.model.kv_dim()
    }

    fn crop(&mut self, rows: usize) -> Result<bool> {
        let (width, length) = (self.plan.model.kv_dim(), self.length());
        let whole = self.cache.iter().all(|c| c.k.len() == length * width);
        if rows > length || !whole {
            let expected = format!("up to {length}, between two passes");
            return Err(ProtocolError::caller("rows to keep", expected, rows));
        }
        if rows == length {
            return Ok(false);
        }
        for layer in &mut self.cache {
            layer.crop(rows * width);
        }
        Ok(true)
    }

    fn reset(&mut self) {
        self.cache.fill_with(LayerCache::default);
    }
}

impl ClientProducts for Preprocessed<Client> {
    fn put_prefix(&mut self, rows: usize) -> Result<()> {
        let zeros = vec![Fp::ZERO; rows * self.plan.model.kv_dim()];
        for cache in &mut self.cache {
            for numbers in [&mut cache.k, &mut cache.v, &mut cache.open_k, &mut cache.open_v] {
                numbers.extend(&zeros);
            }
        }
        Ok(())
    }

    /// Nothing: the server has its share of `W·r'` from the offline phase.
    fn linear(&mut self, _: &mut dyn Channel, _: Site, _: &[Row<Client>], _: &[Fp]) -> Result<()> {
        Ok(())
    }

    /// Reads the server's openings of the new rows (step 1).
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        new: &NewRows,
    ) -> Result<Vec<Fp>> {
        let m = &self.plan.model;
        let (n, heads, d, kv, group) = (new.keys.len(), m.heads, call.d, m.kv_dim(), m.queries_per_kv_head());
        let mut m1 = Opened::recv(ch, n * (m.q_dim() + 2 * kv), 0)?;
        let open_q = m1.words(n * m.q_dim())?;
        let (open_k, open_v) = (m1.words(n * kv)?, m1.words(n * kv)?);
        self.append(call.layer, new);
        let shown = |rows: &[Vec<Fp>], opened: Vec<Fp>| -> Vec<Fp> {
            rows.iter().flatten().zip(opened).map(|(x, opened)| *x + opened).collect()
        };
        self.cache[call.layer].open_k.extend(shown(&new.keys, open_k));
        self.cache[call.layer].open_v.extend(shown(&new.values, open_v));
        let cache = &self.cache[call.layer];
        Ok(self.own_scores(call, rows, |i, g, j| {
            let q = &new.queries[i][g * d..(g + 1) * d];
            let open_q = &open_q[(i * heads + g) * d..][..d];
            let at = j * kv + g / group * d;
            let (k, open_k) = (&cache.k[at..at + d], &cache.open_k[at..at + d]);
            Sum::default().add_all(q, open_k).add_all(open_q, k).reduce()
        }))
    }

    /// Opens its weights (step 4). The server's are masks of the material, so that their products
    /// with the client's values are part of it.
    fn values(
        &mut self,
        _: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        weights: &[Fp],
        message: &mut Opening,
    ) -> Result<Vec<Fp>> {
        message.masked(weights, &call.weight_masks(rows));
        // Its weights times its own values and times what the server opened of its.
        Ok(self.sums(call, rows, &[(weights, &self.cache[call.layer].open_v)]))
    }
}

impl ServerProducts for Preprocessed<Server> {
    fn put_prefix(&mut self, prefix: &Prefix) -> Result<()> {
        for (layer, cache) in self.cache.iter_mut().enumerate() {
            let [keys, values] = prefix.layer(layer);
            cache.k.extend(keys.iter());
            cache.v.extend(values.iter());
            cache.open_v.extend(values.iter());
        }
        Ok(())
    }

    /// `W·(x − r')` and the material's shares of `W·r'`.
    fn linear(
        &mut self,
        _: &mut dyn Channel,
        model: &ServerModel,
        site: Site,
        rows: &[Row<Server>],
        x: &[Fp],
    ) -> Result<Vec<Fp>> {
        let d_out = self.plan.linear(site).d_out;
        let mut y = model.multiply(&self.plan, site, x, rows.len());
        y.par_chunks_mut(d_out).zip(rows).try_for_each(|(y, row)| {
            let share = row.material.words(self.layout.linear(site), d_out)?;
            y.iter_mut().zip(share).for_each(|(v, s)| *v += s);
            Ok::<_, ProtocolError>(())
        })?;
        Ok(y)
    }

    /// Opens the new rows to the client (step 1).
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        new: &NewRows,
    ) -> Result<Vec<Fp>> {
        let (m, layer) = (&self.plan.model, call.layer);
        let (q_dim, d, kv, group) = (m.q_dim(), call.d, m.kv_dim(), m.queries_per_kv_head());
        let mut message = Opening::new();
        for (row, q) in rows.iter().zip(&new.queries) {
            message.masked(q, &row.material.expand_mask(MaskLabel::Query, layer, q_dim));
        }
        for (row, k) in rows.iter().zip(&new.keys) {
            message.masked(k, &row.material.expand_mask(MaskLabel::Key, layer, kv));
        }
        let mut value_masks = Vec::with_capacity(new.values.len() * kv);
        for (row, v) in rows.iter().zip(&new.values) {
            let mask = row.material.expand_mask(MaskLabel::Value, layer, kv);
            message.masked(v, &mask);
            value_masks.extend(mask);
        }
        message.send(ch)?;
        self.append(layer, new);
        self.cache[layer].open_v.extend(value_masks);
        let cache = &self.cache[layer];
        Ok(self.own_scores(call, rows, |i, g, j| {
            let k = &cache.k[j * kv + g / group * d..][..d];
            Sum::default().add_all(&new.queries[i][g * d..(g + 1) * d], k).reduce()
        }))
    }

    /// Reads the client's opening of its weights (step 4), in front of `next`.
    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        weights: &[Fp],
        next: Awaited,
    ) -> Result<(Vec<Fp>, Opened)> {
        let mut opened = next.recv(ch, call.entries)?;
        let open_e = opened.words(call.entries)?;
        let cache = &self.cache[call.layer];
        Ok((self.sums(call, rows, &[(weights, &cache.v), (&open_e, &cache.open_v)]), opened))
    }
}
