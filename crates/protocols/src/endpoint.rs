//! One party's end of a client–server pair: connection, keys, material store and session state together.
//!
//! Every public step has a counterpart that the peer must call at the same time; which step comes next is agreed by the callers
//! (Python sends small control messages). Steps: `open`, `send_model`/`receive_model`, `prepare`, `extend`, then forward passes.

use std::path::Path;
use std::sync::Arc;

use cryptogen_he::{ParamSet, Params, SecretKey};
use cryptogen_mpc::party::{Client, Party, Server};
use cryptogen_mpc::session::Phase;
use cryptogen_mpc::store::{Batch, Pool, Store, StoreState};
use cryptogen_mpc::Connection;
use cryptogen_ot::{Channel, OtPair, Role};
use cryptogen_ring::{fp_from_bytes, Fp, Prg, Seed};
use serde_json::{json, Value};
use zeroize::Zeroizing;

use crate::error::{ProtocolError, Result};
use crate::material::{Mask, Slot, SlotLayout, SEED_BYTES};
use crate::offline::attention::{self, EncryptedCache, Keys, NewRows};
use crate::offline::keys::PartyKeys;
use crate::offline::model::{self, EncryptedModel};
use crate::offline::prepare::{exponential_record_bytes, head_record_bytes, Preparer, Sink};
use crate::offline::Progress;
use crate::online::attention::{rotation_safe, split_qkv};
use crate::online::tables::trunc;
use crate::online::{HeadSlot, Online, Row, RowAttention, ServerModel};
use crate::plan::{Plan, Site};

/// The lattice parameters of the default protocol.
pub const PARAMETERS: ParamSet = ParamSet::N8192Q196;
/// Slots prepared at a time, which bounds memory.
const SLOTS_AT_ONCE: usize = 128;
/// Exponential tables prepared at a time.
const EXPONENTIALS_AT_ONCE: usize = 1 << 16;
/// Rows given a position at a time.
const ROWS_AT_ONCE: usize = 64;

/// Records left in each pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    pub slots: u64,
    pub heads: u64,
    pub exponentials: u64,
}

struct Pools {
    slots: Pool,
    heads: Pool,
    exponentials: Pool,
}

/// A party with an open connection, agreed keys and a matching store.
pub struct Endpoint<P: Party> {
    conn: Connection<P>,
    plan: Arc<Plan>,
    layout: Arc<SlotLayout>,
    params: &'static Params,
    keys: PartyKeys<P>,
    ot: OtPair,
    rng: Prg,

    pools: Pools,
    online: Online<P>,
    cache: EncryptedCache,
    encrypted: Option<EncryptedModel>,
}

impl<P: Party> Endpoint<P> {
    /// Exchanges keys, runs the base oblivious transfers and compares the two stores.
    ///
    /// With `resync`, stores whose cursors differ (after a crash) are both moved forward to the later one; without it they are refused.
    ///
    /// # Errors
    /// Connection failures; `Store` with an explanation if the stores do not belong together.
    pub fn open(
        mut conn: Connection<P>,
        plan: Arc<Plan>,
        store: Store,
        key: SecretKey,
        resync: bool,
    ) -> Result<Endpoint<P>> {
        conn.set_phase(Phase::Setup);
        let params = Params::get(PARAMETERS);
        let mut rng = Prg::new(&Seed::random(&mut rand_core::OsRng));
        let layout = Arc::new(SlotLayout::new(&plan));
        let pools = Pools {
            slots: store.pool("slots", layout.record_bytes())?,
            heads: store.pool("heads", head_record_bytes(&plan))?,
            exponentials: store.pool("exponentials", exponential_record_bytes(&plan))?,
        };
        compare_stores(&mut conn, &store, resync, &mut rng)?;
        let keys = PartyKeys::exchange(&mut conn, params, key, &mut rng)?;
        let ot = OtPair::setup(P::ROLE, &mut conn, &mut rng)?;
        let online = Online::new(plan.clone(), layout.clone());
        Ok(Endpoint {
            conn,
            plan,
            layout,
            params,
            keys,
            ot,
            rng,

            pools,
            online,
            cache: EncryptedCache::default(),
            encrypted: None,
        })
    }

    /// The connection, for control messages and counters.
    pub fn connection(&mut self) -> &mut Connection<P> {
        &mut self.conn
    }

    /// The session state and the channel, for one online step.
    pub fn online(&mut self) -> (&mut Online<P>, &mut dyn Channel) {
        self.conn.set_phase(Phase::Online);
        (&mut self.online, &mut self.conn)
    }

    /// Read access to the session state.
    pub fn state(&self) -> &Online<P> {
        &self.online
    }

    /// Test builds: the log of truncation shares.
    #[cfg(any(test, feature = "insecure-trace"))]
    pub fn insecure_trace(&mut self) -> Vec<u64> {
        self.online.trace.insecure_take()
    }

    /// Records left.
    pub fn stock(&self) -> Stock {
        Stock {
            slots: self.pools.slots.available(),
            heads: self.pools.heads.available(),
            exponentials: self.pools.exponentials.available(),
        }
    }

    /// Starts a new session: an empty cache. Rows that were given a position but no token are lost.
    pub fn reset(&mut self) {
        self.online = Online::new(self.plan.clone(), self.layout.clone());
        self.cache = EncryptedCache::default();
    }

    /// Makes material and commits it on both sides. Runs in chunks, so an interruption loses only the chunk in progress.
    ///
    /// # Errors
    /// Connection and store failures, interruption.
    pub fn prepare(&mut self, want: Stock, progress: Progress<'_>) -> Result<()> {
        self.conn.set_phase(Phase::Offline);
        let mut done = 0;
        for n in chunks(want.slots, SLOTS_AT_ONCE) {
            let batch = self.pools.slots.begin_batch(n)?;
            let total = want.slots;
            let layers = self.plan.model.layers as u64 + 1;
            self.fill(batch, &mut |p, sink| {
                p.slots(n, sink, &mut |what, d, _| {
                    progress(what, done * layers + d * n as u64, total * layers)
                })
                .map(|_| ())
            })?;
            done += n as u64;
        }
        let mut done = 0;
        for n in chunks(want.heads, SLOTS_AT_ONCE) {
            let batch = self.pools.heads.begin_batch(n)?;
            self.fill(batch, &mut |p, sink| p.heads(n, sink).map(|_| ()))?;
            done += n as u64;
            super::offline::report(progress, "preparing the output head", done, want.heads)?;
        }
        let mut done = 0;
        for n in chunks(want.exponentials, EXPONENTIALS_AT_ONCE) {
            let batch = self.pools.exponentials.begin_batch(n)?;
            self.fill(batch, &mut |p, sink| p.exponentials(n, sink))?;
            done += n as u64;
            super::offline::report(progress, "preparing attention tables", done, want.exponentials)?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        batch: Batch,
        work: &mut dyn FnMut(&mut Preparer<'_, P>, &mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let mut sink = BatchSink { batch };
        let mut preparer = Preparer {
            ch: &mut self.conn,
            plan: &self.plan,
            layout: &self.layout,
            keys: &self.keys,
            ot: &mut self.ot,
            model: self.encrypted.as_ref(),
            rng: &mut self.rng,
        };
        work(&mut preparer, &mut sink)?;
        // Both parties hold a complete batch before either commits; a crash in between is found when the stores are compared.
        self.conn.exchange(P::ROLE.turn(), &[1], 1)?;
        Ok(sink.batch.commit()?)
    }

    /// Gives the next `n` rows of the session their positions and makes their attention material.
    ///
    /// # Errors
    /// `Shape` beyond the context, `Short` if the store lacks slots or tables (nothing is spent then), connection failures.
    pub fn extend(&mut self, n: usize) -> Result<()> {
        let (rows, context) = (self.online.positions().saturating_add(n), self.plan.model.context);
        if rows > context {
            return Err(ProtocolError::Shape {
                what: "rows of a session",
                expected: format!("up to {context}"),
                got: rows.to_string(),
            });
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
            [("token slots", n as u64, stock.slots), ("attention tables", tables, stock.exponentials)]
        {
            if available < needed {
                return Err(ProtocolError::Short { what, needed, available });
            }
        }
        let slots = self.take_slots(first, n)?;
        let exponentials = self.pools.exponentials.take_block(tables as usize)?.into_bytes();
        let new = self.new_rows(first, &slots)?;
        let keys = Keys { params: self.params, mine: &self.keys.mine, peer: &self.keys.peer };
        let products = attention::extend::<P>(
            &mut self.conn,
            &keys,
            &self.plan.model,
            &mut self.cache,
            &new,
            &mut self.rng,
        )?;
        let rows = assemble(&self.plan, first, slots, new, products, &exponentials);
        self.online.add_rows(rows);
        Ok(())
    }

    /// Takes `n` usable slots; the client also refuses those whose rotated queries or keys would not truncate safely.
    fn take_slots(&mut self, first: usize, n: usize) -> Result<Vec<Slot<P>>> {
        let mut slots: Vec<Slot<P>> = Vec::with_capacity(n);
        while slots.len() < n {
            let need = n - slots.len();
            let available = self.pools.slots.available();
            if available < need as u64 {
                return Err(ProtocolError::Short { what: "token slots", needed: need as u64, available });
            }
            let mut fresh = Vec::with_capacity(need);
            for record in self.pools.slots.take(need)? {
                let slot = Slot::<P>::from_record(&self.layout, record.into_bytes())?;
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
        Ok(share.into_iter().map(|c| trunc::<P>(c, l.out_shift)).collect())
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
                        slot.mask(Mask::Query, l, m.q_dim()),
                        slot.mask(Mask::Key, l, m.kv_dim()),
                        slot.mask(Mask::Value, l, m.kv_dim()),
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

    /// Takes material for `n` evaluations of the output head.
    ///
    /// # Errors
    /// `Short`, store failures.
    pub fn take_heads(&mut self, n: usize) -> Result<()> {
        let mut taken = 0;
        while taken < n {
            let available = self.pools.heads.available();
            if available < (n - taken) as u64 {
                return Err(ProtocolError::Short {
                    what: "output heads",
                    needed: (n - taken) as u64,
                    available,
                });
            }
            let vocab = self.plan.model.vocab;
            let mut heads = vec![];
            for record in self.pools.heads.take(n - taken)? {
                let bytes = record.bytes();
                if bytes.last() == Some(&1) {
                    heads.push(parse_head(bytes, vocab)?);
                }
            }
            taken += heads.len();
            self.online.add_heads(heads);
        }
        Ok(())
    }
}

impl Endpoint<Client> {
    /// Receives the encrypted model into a file and opens it.
    ///
    /// # Errors
    /// Connection failures, a full disk.
    pub fn receive_model(&mut self, path: &Path, progress: Progress<'_>) -> Result<()> {
        self.conn.set_phase(Phase::Setup);
        model::receive(&mut self.conn, &self.plan, path, progress)?;
        self.open_model(path)
    }

    /// Opens an encrypted model that was received earlier.
    ///
    /// # Errors
    /// An unreadable file or one of the wrong size.
    pub fn open_model(&mut self, path: &Path) -> Result<()> {
        self.encrypted = Some(EncryptedModel::open(path, &self.plan)?);
        Ok(())
    }

    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures, no encrypted model.
    pub fn embed(&mut self, tokens: &[usize], heads: usize) -> Result<crate::online::Tensor<Client>> {
        self.conn.set_phase(Phase::Online);
        let model =
            self.encrypted.as_ref().ok_or_else(|| ProtocolError::MissingWeights("encrypted model".into()))?;
        let from = crate::online::EmbedClient { keys: &self.keys, model };
        self.online.embed(&mut self.conn, &from, tokens, heads, &mut self.rng)
    }
}

impl Endpoint<Server> {
    /// Encrypts and sends the model.
    ///
    /// # Errors
    /// Connection failures, interruption.
    pub fn send_model(&mut self, weights: &ServerModel, progress: Progress<'_>) -> Result<()> {
        self.conn.set_phase(Phase::Setup);
        model::send(&mut self.conn, &self.keys.mine, &self.plan, weights, &mut self.rng, progress)
    }

    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures.
    pub fn embed(
        &mut self,
        weights: &ServerModel,
        rows: usize,
        heads: usize,
    ) -> Result<crate::online::Tensor<Server>> {
        self.conn.set_phase(Phase::Online);
        self.online.embed(&mut self.conn, &self.keys, weights, rows, heads)
    }
}

/// Exponential tables that `n` rows from position `first` on consume; row 0 needs none.
pub fn exponentials_needed(plan: &Plan, first: usize, n: usize) -> u64 {
    let per = (plan.model.layers * plan.model.heads) as u64;
    (first..first + n).filter(|t| *t > 0).map(|t| (t as u64 + 1) * per).sum()
}

fn chunks(total: u64, size: usize) -> impl Iterator<Item = usize> {
    let size = size as u64;
    (0..total.div_ceil(size)).map(move |i| size.min(total - i * size) as usize)
}

fn parse_head(bytes: &[u8], vocab: usize) -> Result<HeadSlot> {
    let malformed = ProtocolError::Malformed { what: "stored output head" };
    let mut seed = [0; SEED_BYTES];
    seed.copy_from_slice(
        bytes.get(..SEED_BYTES).ok_or(ProtocolError::Malformed { what: "stored output head" })?,
    );
    let share = bytes.get(SEED_BYTES..SEED_BYTES + 8 * vocab).and_then(fp_from_bytes).ok_or(malformed)?;
    Ok(HeadSlot { seed: Seed::from_bytes(seed), share: Zeroizing::new(share) })
}

/// Distributes a block's products and tables over its rows and layers.
fn assemble<P: Party>(
    plan: &Plan,
    first: usize,
    slots: Vec<Slot<P>>,
    new: NewRows,
    products: attention::Products,
    exponentials: &[u8],
) -> Vec<Row<P>> {
    let m = &plan.model;
    let record = exponential_record_bytes(plan);
    let mut at = 0;
    let mut rows = Vec::with_capacity(slots.len());
    for (i, slot) in slots.into_iter().enumerate() {
        let t = first + i;
        let (entries, values) = (m.heads * (t + 1), m.q_dim());
        let tables = if t == 0 { 0 } else { entries * record };
        let attention = (0..m.layers)
            .map(|l| {
                at += tables;
                RowAttention {
                    score: products.scores[i][l * entries..(l + 1) * entries].to_vec(),
                    value: products.values[i][l * values..(l + 1) * values].to_vec(),
                    weight_mask: new.weights[i][l * entries..(l + 1) * entries].to_vec(),
                    exp: Zeroizing::new(exponentials[at - tables..at].to_vec()),
                }
            })
            .collect();
        rows.push(Row { slot, position: t, attention });
    }
    rows
}

struct BatchSink {
    batch: Batch,
}

impl Sink for BatchSink {
    fn write(&mut self, record: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        Ok(self.batch.write(record, offset, bytes)?)
    }
    fn write_records(&mut self, first: usize, bytes: &[u8]) -> Result<()> {
        Ok(self.batch.write_records(first, bytes)?)
    }
}

/// Store ids and cursors must agree; the server names a new pair of stores.
fn compare_stores<P: Party>(
    conn: &mut Connection<P>,
    store: &Store,
    resync: bool,
    rng: &mut Prg,
) -> Result<()> {
    let mine = json!({"state": store.state(), "resync": resync, "propose": Store::new_store_id(rng)});
    let theirs = match P::ROLE {
        Role::Client => {
            conn.send_control(&mine)?;
            conn.recv_control()?
        }
        Role::Server => {
            let theirs = conn.recv_control()?;
            conn.send_control(&mine)?;
            theirs
        }
    };
    let malformed = || ProtocolError::Malformed { what: "store state" };
    let their_state: StoreState = serde_json::from_value(theirs.get("state").cloned().ok_or_else(malformed)?)
        .map_err(|_| malformed())?;
    let both_new = store.state().store_id.is_none() && their_state.store_id.is_none();
    if both_new {
        let proposal = if P::ROLE == Role::Server { &mine } else { &theirs };
        let id = proposal.get("propose").and_then(Value::as_str).ok_or_else(malformed)?;
        return Ok(store.set_store_id(id)?);
    }
    if resync || theirs.get("resync").and_then(Value::as_bool) == Some(true) {
        return Ok(store.resync(&their_state)?);
    }
    Ok(store.state().compare(&their_state)?)
}
