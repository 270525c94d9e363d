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
use zeroize::{Zeroize, Zeroizing};

use super::products::{Awaited, Call, ClientProducts, Products, ServerProducts};
use crate::error::{ProtocolError, Result};
use crate::material::{MaskLabel, Row, RowLayout};
use crate::model::{Plan, Prefix, ServerModel, Site};
use crate::share::qkv::NewRows;
use crate::share::{Opened, Opening};

/// Cached rows of one layer, `[rows][kv_dim]` each. `k`, `v`: this party's shares. `open_k`,
/// `open_v`: what the server opened (client side); the server keeps its value masks in `open_v`
/// instead. Of rows of a prefix the client's numbers are all 0, the server's `open_v` is its `v`.
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

    /// `Σ_j e_j·v_j + f_j·w_j` of every pair, `[pairs][head_dim]`, plus cross terms; `e`, `f` by
    /// entry, `w` what `open_v` of the cache holds.
    fn sums(&self, call: &Call, rows: &[Row<P>], scales: impl Fn(usize) -> [Fp; 2] + Sync) -> Vec<Fp> {
        let (m, d, cache) = (&self.plan.model, call.d, &self.cache[call.layer]);
        let mut o = vec![Fp::ZERO; call.pairs.len() * d];
        let one = |sums: &mut Zeroizing<Vec<Sum>>, (n, out): (usize, &mut [Fp])| {
            let ((i, g, t), start) = (call.pairs[n], call.starts[n]);
            sums.clear();
            sums.resize(d, Sum::default());
            for j in 0..=t {
                let at = (j * m.kv_heads + g / m.queries_per_kv_head()) * d;
                let [e, f] = scales(start + j);
                for ((sum, v), w) in sums.iter_mut().zip(&cache.v[at..at + d]).zip(&cache.open_v[at..at + d])
                {
                    sum.add(e, *v);
                    sum.add(f, *w);
                }
            }
            let z = &rows[i].attention[call.layer].value[g * d..(g + 1) * d];
            for ((out, sum), z) in out.iter_mut().zip(sums.iter()).zip(z) {
                *out = sum.reduce() + *z;
            }
        };
        o.par_chunks_mut(d).enumerate().for_each_init(|| Zeroizing::new(Vec::new()), one);
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
        self.cache[call.layer].open_k.extend(open_k);
        self.cache[call.layer].open_v.extend(open_v);
        let cache = &self.cache[call.layer];
        Ok(self.own_scores(call, rows, |i, g, j| {
            let q = &new.queries[i][g * d..(g + 1) * d];
            let open_q = &open_q[(i * heads + g) * d..][..d];
            let at = j * kv + g / group * d;
            let (k, open_k) = (&cache.k[at..at + d], &cache.open_k[at..at + d]);
            dot(q, k) + dot(q, open_k) + dot(open_q, k)
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
        Ok(self.sums(call, rows, |n| [weights[n], weights[n]]))
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
            dot(&new.queries[i][g * d..(g + 1) * d], &cache.k[j * kv + g / group * d..][..d])
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
        Ok((self.sums(call, rows, |n| [weights[n], open_e[n]]), opened))
    }
}
