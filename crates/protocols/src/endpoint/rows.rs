//! Taking material from the store: of rows, at their positions, with attention material; for
//! logits.

use std::path::Path;

use cryptogen_he::N;
use cryptogen_mpc::session::Phase;
use cryptogen_party::{Client, Party, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Seed, Wiped};
use rayon::prelude::*;

use super::{chunks, heads_with, Endpoint, ExponentialPool};
use crate::error::{ProtocolError, Result};
use crate::material::{
    exponential_record_bytes, Deferred, Exponentials, Held, LogitsMaterial, MaskLabel, Row, RowAttention,
    RowMaterial, Run, SEED_BYTES,
};
use crate::model::{Plan, Site};
use crate::offline::attention::{self, NewRows};
use crate::offline::exponentials;
use crate::online::products::Side;
use crate::share::local::trunc;
use crate::share::qkv::split_qkv;
use crate::share::Events;

/// Rows given a position at a time.
const ROWS_AT_ONCE: usize = 64;

impl<P: Side> Endpoint<P> {
    /// Gives the next `n` rows of the session their positions and makes their attention material.
    ///
    /// # Errors
    /// `Caller` beyond the context and in the middle of a pass, `Short` if the store lacks rows or
    /// exponentials (nothing is spent then), connection failures.
    pub fn extend(&mut self, n: usize) -> Result<()> {
        self.conn.check_home()?;
        self.online.between_passes("new rows")?;
        let (rows, context) = (self.online.positions().saturating_add(n), self.plan.model.context);
        if rows > context {
            return Err(ProtocolError::caller("rows of a session", format!("up to {context}"), rows));
        }
        self.conn.set_phase(Phase::Offline);
        for n in chunks(n as u64, ROWS_AT_ONCE) {
            self.extend_block(n)?;
        }
        Ok(())
    }

    fn extend_block(&mut self, n: usize) -> Result<()> {
        let first = self.online.positions();
        let pairs = exponentials_needed(first, n);
        let stock = self.stock();
        for (what, needed, available) in
            [("rows", n as u64, stock.rows), ("exponentials", pairs, stock.exponentials)]
        {
            if available < needed {
                return Err(ProtocolError::Short { what, needed, available });
            }
        }
        let materials = self.take_material(n)?;
        let exponentials = self.take_exponentials(first, n)?;
        let weights = self.weights(first, &exponentials)?;
        if !self.protocol.prepared {
            let rows = assemble(&self.plan, first, materials, exponentials, weights, None);
            self.online.add_rows(rows);
            return Ok(());
        }
        let new = self.new_rows(first, &materials, weights)?;
        let (ch, m, cache, rng) = (&mut self.conn, &self.plan.model, &mut self.cache, &mut self.rng);
        let products = match &self.keys.held {
            Held::Client { slots, .. } => attention::client(ch, slots, m, cache, &new, rng)?,
            Held::Server { params, slots, .. } => attention::server(ch, params, slots, m, cache, &new, rng)?,
        };
        let rows = assemble(&self.plan, first, materials, exponentials, new.weights, Some(products));
        self.online.add_rows(rows);
        Ok(())
    }

    /// Takes the material of `n` rows.
    fn take_material(&mut self, n: usize) -> Result<Vec<RowMaterial<P>>> {
        let lengths = self.layout.pieces();
        let mut pieces = self.pools.rows.take_unread(n, &lengths.repeat(n))?.into_iter();
        let material = |_| {
            let pieces = pieces.by_ref().take(lengths.len()).map(Deferred::Stored).collect();
            RowMaterial::<P>::from_pieces(&self.layout, pieces)
        };
        (0..n).map(material).collect()
    }

    /// Takes the exponentials of `n` rows from position `first` on, `[rows][layers]`, of which row
    /// 0 has none.
    fn take_exponentials(&mut self, first: usize, n: usize) -> Result<Vec<Vec<Exponentials>>> {
        let layers = self.plan.model.layers;
        let mut runs: Vec<Vec<Vec<Run>>> = (0..n).map(|_| (0..layers).map(|_| vec![]).collect()).collect();
        for ExponentialPool { primes, pool, .. } in &self.pools.exponentials {
            let heads: Vec<Vec<usize>> =
                (0..layers).map(|layer| self.plan.heads_with(layer, *primes).collect()).collect();
            let of_row = |t| (0..layers).map(move |layer| (t, layer));
            let places = || {
                let all = (first.max(1)..first + n).flat_map(of_row);
                all.filter(|(_, layer)| !heads[*layer].is_empty())
            };
            let records: Vec<usize> = places().map(|(t, layer)| heads[layer].len() * (t + 1)).collect();
            let lengths: Vec<usize> = records.iter().map(|n| n * pool.record_bytes()).collect();
            let taken = pool.take_unread(records.iter().sum(), &lengths)?;
            for ((t, layer), unread) in places().zip(taken) {
                let (heads, records) = (heads[layer].clone(), Deferred::Stored(unread));
                runs[t - first][layer].push(Run { primes: *primes, heads, records });
            }
        }
        Ok(runs.into_iter().map(|row| row.into_iter().map(Exponentials::new).collect()).collect())
    }

    /// What the attention material has of the rows' weights, `[rows][layers][heads][t+1]`: the
    /// client's masks, if its products are prepared; the server's weights themselves, which follow
    /// from its exponentials.
    fn weights(&mut self, first: usize, exponentials: &[Vec<Exponentials>]) -> Result<Vec<Vec<Fp>>> {
        let (plan, m) = (&self.plan, &self.plan.model);
        let rows = exponentials.iter().enumerate();
        match P::ROLE {
            Role::Client if !self.protocol.prepared => Ok(rows.map(|_| vec![]).collect()),
            Role::Client => {
                Ok(rows.map(|(i, _)| self.rng.fp_vec(m.layers * m.heads * (first + i + 1))).collect())
            }
            Role::Server => exponentials
                .par_iter()
                .enumerate()
                .map(|(i, row)| {
                    let mut weights = vec![];
                    for (layer, exponentials) in row.iter().enumerate() {
                        weights.extend_from_slice(
                            &exponentials.weights(&plan.attention[layer].heads, first + i + 1)?,
                        );
                    }
                    Ok(weights)
                })
                .collect(),
        }
    }

    /// The client's share of a `qkv` output, known offline.
    fn qkv_share(&self, material: &RowMaterial<P>, layer: usize) -> Result<Vec<Fp>> {
        let l = self.plan.linear(Site::Qkv(layer));
        let share = material.look(self.layout.linear(Site::Qkv(layer)), l.d_out)?;
        Ok(share.into_iter().enumerate().map(|(i, c)| trunc::<P>(c, l.out_shift(i))).collect())
    }

    /// Inputs of the attention preparation: the client's shares, or the server's masks.
    fn new_rows(&self, first: usize, materials: &[RowMaterial<P>], weights: Vec<Vec<Fp>>) -> Result<NewRows> {
        let m = &self.plan.model;
        let mut new = NewRows { first, queries: vec![], keys: vec![], values: vec![], weights };
        for (i, material) in materials.iter().enumerate() {
            let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
            for l in 0..m.layers {
                let (ql, kl, vl) = match P::ROLE {
                    Role::Client => split_qkv::<P>(&self.plan, l, first + i, &self.qkv_share(material, l)?),
                    Role::Server => (
                        material.expand_mask(MaskLabel::Query, l, m.q_dim()),
                        material.expand_mask(MaskLabel::Key, l, m.kv_dim()),
                        material.expand_mask(MaskLabel::Value, l, m.kv_dim()),
                    ),
                };
                q.extend(ql);
                k.extend(kl);
                v.extend(vl);
            }
            new.queries.push(q);
            new.keys.push(k);
            new.values.push(v);
        }
        Ok(new)
    }

    /// Takes material for the logits of `n` rows.
    ///
    /// # Errors
    /// `Short`, store failures.
    pub fn take_logits(&mut self, n: usize) -> Result<()> {
        self.conn.check_home()?;
        let available = self.pools.logits.available();
        if available < n as u64 {
            return Err(ProtocolError::Short { what: "logits", needed: n as u64, available });
        }
        let (vocab, file) = (self.plan.model.vocab, self.pools.logits.path());
        let records = self.pools.logits.take(n)?;
        let material = records.iter().map(|record| parse_logits(record.bytes(), vocab, &file));
        self.online.add_logits(material.collect::<Result<_>>()?);
        Ok(())
    }
}

/// Exponentials that `n` rows from position `first` on spend, in pairs of rows; row 0 needs none.
pub fn exponentials_needed(first: usize, n: usize) -> u64 {
    (first..first + n).filter(|t| *t > 0).map(|t| t as u64 + 1).sum()
}

/// Bytes of the exponentials of a pair of rows: in the store of the client, whose records are the
/// longer ones, and in the messages of both parties that make whole ciphertexts of them.
pub fn exponential_bytes(plan: &Plan) -> (usize, f64) {
    let bytes = |primes| {
        let (heads, cost) = (heads_with(plan, primes), exponentials::cost(primes, N));
        let sent = (cost.client_bytes + cost.server_bytes) as f64 / N as f64;
        (heads * exponential_record_bytes::<Client>(primes), heads as f64 * sent)
    };
    let each = plan.prime_counts().into_iter().map(bytes);
    each.fold((0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
}

fn parse_logits(bytes: &[u8], vocab: usize, file: &Path) -> Result<LogitsMaterial> {
    let end = SEED_BYTES + 8 * vocab;
    let parts = bytes.split_first_chunk::<SEED_BYTES>().filter(|_| bytes.len() == end);
    let (seed, share) =
        parts.ok_or_else(|| ProtocolError::bug("bytes of material for logits", end, bytes.len()))?;
    let above = || ProtocolError::corrupt(file, "a number is above the modulus");
    Ok(LogitsMaterial {
        seed: Seed::from_bytes(*seed),
        share: Wiped::new(fp_from_bytes(share).ok_or_else(above)?),
    })
}

/// Distributes a block's material over its rows and layers: exponentials, `[rows][layers]`,
/// weights, `[rows][layers][heads][t+1]`, and products, where the protocol prepares them. Row by
/// row: what all rows have of a long text would not fit twice.
fn assemble<P: Party>(
    plan: &Plan,
    first: usize,
    materials: Vec<RowMaterial<P>>,
    exponentials: Vec<Vec<Exponentials>>,
    weights: Vec<Vec<Fp>>,
    products: Option<attention::Products>,
) -> Vec<Row<P>> {
    let layers = plan.model.layers;
    let (scores, values) = products.map(|p| (p.scores, p.values)).unwrap_or_default();
    let [mut scores, mut values, mut weights] = [scores, values, weights].map(Vec::into_iter);
    let row = |(i, (material, exponentials)): (usize, (_, Vec<Exponentials>))| {
        let next = |of_rows: &mut std::vec::IntoIter<Vec<Fp>>| Wiped::new(of_rows.next().unwrap_or_default());
        let of_row = [next(&mut scores), next(&mut values), next(&mut weights)];
        let attention = exponentials.into_iter().enumerate().map(|(l, exponentials)| {
            let of_layer = |all: &Wiped<Fp>| {
                let n = all.len() / layers;
                Wiped::new(all[l * n..(l + 1) * n].to_vec())
            };
            let [score, value, weight_mask] = [0, 1, 2].map(|i| of_layer(&of_row[i]));
            RowAttention { score, value, weight_mask, exponentials }
        });
        Row { material, position: first + i, attention: attention.collect(), events: Events::default() }
    };
    materials.into_iter().zip(exponentials).enumerate().map(row).collect()
}
