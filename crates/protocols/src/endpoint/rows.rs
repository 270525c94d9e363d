//! Taking material from the store: of rows, at their positions, with attention material; for
//! logits.

use std::path::Path;

use cryptogen_mpc::session::Phase;
use cryptogen_mpc::store::Unread;
use cryptogen_party::{Party, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Seed, Wiped};

use super::{chunks, Endpoint};
use crate::error::{ProtocolError, Result};
use crate::material::{Deferred, Held, LogitsMaterial, MaskLabel, Row, RowAttention, Slot, SEED_BYTES};
use crate::model::{Plan, Site};
use crate::offline::attention::{self, NewRows};
use crate::online::products::Side;
use crate::share::local::trunc;
use crate::share::qkv::{rotation_safe, split_qkv};
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
        let slots = self.take_slots(first, n)?;
        // One run of tables per row and layer, in the order in which `assemble` uses them up.
        let m = &self.plan.model;
        let runs = (first.max(1)..first + n).flat_map(|t| std::iter::repeat_n(m.heads * (t + 1), m.layers));
        let bytes = self.pools.exponentials.record_bytes();
        let exponentials = self
            .pools
            .exponentials
            .take_unread(tables as usize, &runs.map(|n| n * bytes).collect::<Vec<_>>())?;
        if !self.protocol.prepared {
            let rows = assemble(&self.plan, first, slots, None, exponentials);
            self.online.add_rows(rows);
            return Ok(());
        }
        let new = self.new_rows(first, &slots)?;
        let (ch, m, cache, rng) = (&mut self.conn, &self.plan.model, &mut self.cache, &mut self.rng);
        let products = match &self.keys.held {
            Held::Client { slots, .. } => attention::client(ch, slots, m, cache, &new, rng)?,
            Held::Server { params, slots, .. } => attention::server(ch, params, slots, m, cache, &new, rng)?,
        };
        let rows = assemble(&self.plan, first, slots, Some((new, products)), exponentials);
        self.online.add_rows(rows);
        Ok(())
    }

    /// Takes `n` usable slots; the client also refuses those whose rotated queries or keys would
    /// not truncate safely.
    fn take_slots(&mut self, first: usize, n: usize) -> Result<Vec<Slot<P>>> {
        let mut slots: Vec<Slot<P>> = Vec::with_capacity(n);
        while slots.len() < n {
            let need = n - slots.len();
            let available = self.pools.rows.available();
            if available < need as u64 {
                return Err(ProtocolError::Short { what: "rows", needed: need as u64, available });
            }
            let mut fresh = Vec::with_capacity(need);
            let lengths = self.layout.pieces();
            let mut pieces = self.pools.rows.take_unread(need, &lengths.repeat(need))?.into_iter();
            for _ in 0..need {
                let pieces = pieces.by_ref().take(lengths.len()).map(Deferred::Stored).collect();
                let slot = Slot::<P>::from_pieces(&self.layout, pieces)?;
                if slot.usable(&self.layout) {
                    fresh.push(slot);
                }
            }
            let verdict = match P::ROLE {
                Role::Client => {
                    let mut position = first + slots.len();
                    let mut verdict = Vec::with_capacity(fresh.len());
                    for slot in &fresh {
                        let safe = self.rotations_safe(slot, position)?;
                        position += usize::from(safe);
                        verdict.push(u8::from(safe));
                    }
                    self.conn.send_bytes(&verdict)?;
                    verdict
                }
                Role::Server => self.conn.recv_bytes(fresh.len())?,
            };
            slots.extend(fresh.into_iter().zip(verdict).filter(|(_, v)| *v == 1).map(|(s, _)| s));
        }
        Ok(slots)
    }

    fn rotations_safe(&self, slot: &Slot<P>, position: usize) -> Result<bool> {
        for l in 0..self.plan.model.layers {
            if self.plan.rope.is_some() && !rotation_safe(&self.plan, l, position, &self.qkv_share(slot, l)?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The client's share of a `qkv` output, known offline.
    fn qkv_share(&self, slot: &Slot<P>, layer: usize) -> Result<Vec<Fp>> {
        let l = self.plan.linear(Site::Qkv(layer));
        let share = slot.words(self.layout.linear(Site::Qkv(layer)), l.d_out)?;
        Ok(share.into_iter().enumerate().map(|(i, c)| trunc::<P>(c, l.out_shift(i))).collect())
    }

    /// Inputs of the attention preparation: the client's shares, or the server's masks.
    fn new_rows(&mut self, first: usize, slots: &[Slot<P>]) -> Result<NewRows> {
        let m = &self.plan.model;
        let mut new = NewRows { first, queries: vec![], keys: vec![], values: vec![], weights: vec![] };
        for (i, slot) in slots.iter().enumerate() {
            let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
            for l in 0..m.layers {
                let (ql, kl, vl) = match P::ROLE {
                    Role::Client => split_qkv::<P>(&self.plan, first + i, &self.qkv_share(slot, l)?),
                    Role::Server => (
                        slot.expand_mask(MaskLabel::Query, l, m.q_dim()),
                        slot.expand_mask(MaskLabel::Key, l, m.kv_dim()),
                        slot.expand_mask(MaskLabel::Value, l, m.kv_dim()),
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
        let mut taken = 0;
        while taken < n {
            let available = self.pools.logits.available();
            if available < (n - taken) as u64 {
                return Err(ProtocolError::Short { what: "logits", needed: (n - taken) as u64, available });
            }
            let vocab = self.plan.model.vocab;
            let mut material = vec![];
            for record in self.pools.logits.take(n - taken)? {
                let bytes = record.bytes();
                if bytes.last() == Some(&1) {
                    material.push(parse_logits(bytes, vocab, &self.pools.logits.path())?);
                }
            }
            taken += material.len();
            self.online.add_logits(material);
        }
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
    let parts = bytes.get(..end).and_then(|bytes| bytes.split_first_chunk::<SEED_BYTES>());
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
    slots: Vec<Slot<P>>,
    made: Option<(NewRows, attention::Products)>,
    exponentials: Vec<Unread>,
) -> Vec<Row<P>> {
    let m = &plan.model;
    let mut exponentials = exponentials.into_iter();
    let mut rows = Vec::with_capacity(slots.len());
    for (i, slot) in slots.into_iter().enumerate() {
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
                    },
                    None => RowAttention { exp, ..RowAttention::default() },
                }
            })
            .collect();
        rows.push(Row { slot, position: t, attention, events: Events::default() });
    }
    rows
}
