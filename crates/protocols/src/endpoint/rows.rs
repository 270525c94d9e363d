//! Taking material from the store: of rows, at their positions, with attention material; for
//! logits.

use std::path::Path;

use cryptogen_mpc::session::Phase;
use cryptogen_mpc::store::Unread;
use cryptogen_party::{Party, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Seed, Wiped};

use super::{chunks, Endpoint};
use crate::error::{ProtocolError, Result};
use crate::material::{
    Deferred, Held, LogitsMaterial, MaskLabel, Row, RowAttention, RowMaterial, SEED_BYTES,
};
use crate::model::{Plan, Site};
use crate::offline::attention::{self, NewRows};
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
        let tables = exponentials_needed(&self.plan, first, n);
        let stock = self.stock();
        for (what, needed, available) in
            [("rows", n as u64, stock.rows), ("exponentials", tables, stock.exponentials)]
        {
            if available < needed {
                return Err(ProtocolError::Short { what, needed, available });
            }
        }
        let materials = self.take_material(n)?;
        // One run of tables per row and layer, in the order in which `assemble` uses them up.
        let m = &self.plan.model;
        let runs = (first.max(1)..first + n).flat_map(|t| std::iter::repeat_n(m.heads * (t + 1), m.layers));
        let bytes = self.pools.exponentials.record_bytes();
        let exponentials = self
            .pools
            .exponentials
            .take_unread(tables as usize, &runs.map(|n| n * bytes).collect::<Vec<_>>())?;
        if !self.protocol.prepared {
            let rows = assemble(&self.plan, first, materials, None, exponentials);
            self.online.add_rows(rows);
            return Ok(());
        }
        let new = self.new_rows(first, &materials)?;
        let (ch, m, cache, rng) = (&mut self.conn, &self.plan.model, &mut self.cache, &mut self.rng);
        let products = match &self.keys.held {
            Held::Client { slots, .. } => attention::client(ch, slots, m, cache, &new, rng)?,
            Held::Server { params, slots, .. } => attention::server(ch, params, slots, m, cache, &new, rng)?,
        };
        let rows = assemble(&self.plan, first, materials, Some((new, products)), exponentials);
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

    /// The client's share of a `qkv` output, known offline.
    fn qkv_share(&self, material: &RowMaterial<P>, layer: usize) -> Result<Vec<Fp>> {
        let l = self.plan.linear(Site::Qkv(layer));
        let share = material.words(self.layout.linear(Site::Qkv(layer)), l.d_out)?;
        Ok(share.into_iter().enumerate().map(|(i, c)| trunc::<P>(c, l.out_shift(i))).collect())
    }

    /// Inputs of the attention preparation: the client's shares, or the server's masks.
    fn new_rows(&mut self, first: usize, materials: &[RowMaterial<P>]) -> Result<NewRows> {
        let m = &self.plan.model;
        let mut new = NewRows { first, queries: vec![], keys: vec![], values: vec![], weights: vec![] };
        for (i, material) in materials.iter().enumerate() {
            let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
            for l in 0..m.layers {
                let (ql, kl, vl) = match P::ROLE {
                    Role::Client => split_qkv::<P>(&self.plan, first + i, &self.qkv_share(material, l)?),
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
            new.weights.push(self.rng.fp_vec(m.layers * m.heads * (first + i + 1)));
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

/// Exponential tables that `n` rows from position `first` on consume; row 0 needs none.
pub fn exponentials_needed(plan: &Plan, first: usize, n: usize) -> u64 {
    let per = (plan.model.layers * plan.model.heads) as u64;
    (first..first + n).filter(|t| *t > 0).map(|t| (t as u64 + 1) * per).sum()
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

/// Distributes a block's products (none where the protocol makes them online) and tables over its
/// rows and layers.
fn assemble<P: Party>(
    plan: &Plan,
    first: usize,
    materials: Vec<RowMaterial<P>>,
    made: Option<(NewRows, attention::Products)>,
    exponentials: Vec<Unread>,
) -> Vec<Row<P>> {
    let m = &plan.model;
    let mut exponentials = exponentials.into_iter();
    let mut rows = Vec::with_capacity(materials.len());
    for (i, material) in materials.into_iter().enumerate() {
        let t = first + i;
        let (entries, values) = (m.heads * (t + 1), m.q_dim());
        let attention = (0..m.layers)
            .map(|l| {
                let run = if t == 0 { None } else { exponentials.next() };
                let exp = run.map(Deferred::Stored).unwrap_or_default();
                match &made {
                    Some((new, products)) => RowAttention {
                        score: Wiped::new(products.scores[i][l * entries..(l + 1) * entries].to_vec()),
                        value: Wiped::new(products.values[i][l * values..(l + 1) * values].to_vec()),
                        weight_mask: Wiped::new(new.weights[i][l * entries..(l + 1) * entries].to_vec()),
                        exp,
                        ..RowAttention::default()
                    },
                    None => RowAttention { exp, ..RowAttention::default() },
                }
            })
            .collect();
        rows.push(Row { material, position: t, attention, events: Events::default() });
    }
    rows
}
