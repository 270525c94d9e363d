//! One party's end of a client–server pair: connection, keys, material store and session state together.
//!
//! Every public step has a counterpart that the peer must call at the same time; which step comes next is agreed by the callers
//! (Python sends small control messages). Steps: `open`, `send_model`/`receive_model`, `prepare`, `extend`, then forward passes.

mod crop;
mod rows;
mod saved;
mod stores;

use std::path::Path;
use std::sync::Arc;

use cryptogen_he::{ParamSet, Params, SecretKey};
use cryptogen_mpc::session::Phase;
use cryptogen_mpc::store::{Batch, Pool, Store};
use cryptogen_mpc::Connection;
use cryptogen_ot::OtPair;
use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::{Prg, Seed};

pub use rows::exponentials_needed;

use self::stores::{compare_stores, BatchSink};
use crate::error::{ProtocolError, Result};
use crate::hybrid::encoded::Encoded;
use crate::hybrid::{Hybrid, Protocol};
use crate::material::{EncryptedModel, Part, PartyKeys, SlotLayout};
use crate::model::{Plan, ServerModel};
use crate::offline::attention::EncryptedCache;
use crate::offline::model;
use crate::offline::prepare::{exponential_record_bytes, head_record_bytes, Preparer, Sink};
use crate::offline::{self, Progress};
use crate::online::{EmbedClient, Online};
use crate::share::Tensor;

/// The lattice parameters of `preprocessed`.
pub const PARAMETERS: ParamSet = ParamSet::N8192Q196;
/// Rows whose material is prepared at a time: the encrypted model is read once for all of them, and
/// a row's sums take 0.46 MB of the client's memory.
const ROWS_PREPARED_AT_ONCE: usize = 256;
/// Exponential tables prepared at a time.
const EXPONENTIALS_AT_ONCE: usize = 1 << 16;

/// Records left in each pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// material of one row each
    pub rows: u64,
    /// material for the logits of one row each
    pub logits: u64,
    /// exponentials, one per layer, head and pair of rows
    pub exponentials: u64,
}

struct Pools {
    rows: Pool,
    logits: Pool,
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
    protocol: Protocol,

    pools: Pools,
    online: Online<P>,
    cache: EncryptedCache,
    encrypted: Option<EncryptedModel>,
}

impl<P: Party> Endpoint<P> {
    /// Exchanges keys, runs the base oblivious transfers and compares the two stores.
    ///
    /// Both parties must mean the same `protocol`; for the paper's two, the server gets the evaluation keys that it lacks.
    /// With `resync`, stores whose cursors differ (after a crash) are both moved forward to the later one; without it they are refused.
    ///
    /// # Errors
    /// Connection failures; `Session(Mismatch)` for two protocols; `Store` with an explanation if the
    /// stores do not belong together; `Corrupt` for damaged keys.
    pub fn open(
        mut conn: Connection<P>,
        plan: Arc<Plan>,
        store: Store,
        key: SecretKey,
        resync: bool,
        protocol: Protocol,
    ) -> Result<Endpoint<P>> {
        conn.set_phase(Phase::Setup);
        let params = Params::get(PARAMETERS);
        let mut rng = Prg::new(&Seed::random(&mut rand_core::OsRng));
        let layout = Arc::new(SlotLayout::new(&plan));
        let pools = Pools {
            rows: store.pool(rows_pool(protocol), layout.record_bytes())?,
            logits: store.pool("logits", head_record_bytes(&plan))?,
            exponentials: store.pool("exponentials", exponential_record_bytes(&plan))?,
        };
        compare_stores(&mut conn, &store, resync, protocol, &mut rng)?;
        let keys = PartyKeys::exchange(&mut conn, params, key, &mut rng)?;
        let ot = OtPair::setup(P::ROLE, &mut conn, &mut rng)?;
        let mut online = Online::new(plan.clone(), layout.clone());
        if protocol.is_hybrid() {
            online.hybrid = Some(Hybrid::open(&mut conn, &plan, store.directory(), protocol, &mut rng)?);
        }
        Ok(Endpoint {
            conn,
            plan,
            layout,
            params,
            keys,
            ot,
            rng,
            protocol,

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

    /// The protocol of this connection.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the client needs of the encrypted model.
    fn part(&self) -> Part {
        if self.protocol.is_hybrid() {
            Part::Ends
        } else {
            Part::Whole
        }
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
            rows: self.pools.rows.available(),
            logits: self.pools.logits.available(),
            exponentials: self.pools.exponentials.available(),
        }
    }

    /// Starts a new session: an empty cache. Rows that were given a position but no token are lost.
    pub fn reset(&mut self) {
        let mut hybrid = self.online.hybrid.take();
        hybrid.iter_mut().for_each(Hybrid::reset);
        self.online = Online::new(self.plan.clone(), self.layout.clone());
        self.online.hybrid = hybrid;
        self.cache = EncryptedCache::default();
    }

    /// Makes material and commits it on both sides. Runs in chunks, so an interruption loses only the chunk in progress.
    ///
    /// # Errors
    /// Connection and store failures, interruption.
    pub fn prepare(&mut self, want: Stock, progress: Progress<'_>) -> Result<()> {
        self.conn.set_phase(Phase::Offline);
        let mut done = 0;
        for n in chunks(want.rows, ROWS_PREPARED_AT_ONCE) {
            let batch = self.pools.rows.begin_batch(n)?;
            self.fill(batch, |p, sink| {
                p.slots(n, sink, &mut |what, step, steps| {
                    progress(what, done * steps + step * n as u64, want.rows * steps)
                })
                .map(|_| ())
            })?;
            done += n as u64;
        }
        let mut done = 0;
        for n in chunks(want.logits, ROWS_PREPARED_AT_ONCE) {
            let batch = self.pools.logits.begin_batch(n)?;
            self.fill(batch, |p, sink| p.heads(n, sink).map(|_| ()))?;
            done += n as u64;
            offline::report(progress, "preparing logits", done, want.logits)?;
        }
        let mut done = 0;
        for n in chunks(want.exponentials, EXPONENTIALS_AT_ONCE) {
            let batch = self.pools.exponentials.begin_batch(n)?;
            self.fill(batch, |p, sink| p.exponentials(n, sink))?;
            done += n as u64;
            offline::report(progress, "preparing exponentials", done, want.exponentials)?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        batch: Batch,
        work: impl FnOnce(&mut Preparer<'_, P>, &mut dyn Sink) -> Result<()>,
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
            products: !self.protocol.is_hybrid(),
        };
        work(&mut preparer, &mut sink)?;
        // Both parties hold a complete batch before either commits; a crash in between is found when the stores are compared.
        self.conn.exchange(P::ROLE.turn(), &[1], 1)?;
        Ok(sink.batch.commit()?)
    }
}

impl Endpoint<Client> {
    /// Receives the encrypted model into a file and opens it.
    ///
    /// # Errors
    /// Connection failures, a full disk.
    pub fn receive_model(&mut self, path: &Path, progress: Progress<'_>) -> Result<()> {
        self.conn.set_phase(Phase::Setup);
        let part = self.part();
        model::receive(&mut self.conn, &self.plan, part, path, progress)?;
        self.open_model(path)
    }

    /// Opens an encrypted model that was received earlier; the whole model will do where a part is enough.
    ///
    /// # Errors
    /// An unreadable file or one of the wrong size.
    pub fn open_model(&mut self, path: &Path) -> Result<()> {
        let whole = || EncryptedModel::open(path, &self.plan, Part::Whole);
        self.encrypted = Some(match self.part() {
            Part::Whole => whole()?,
            Part::Ends => EncryptedModel::open(path, &self.plan, Part::Ends).or_else(|_| whole())?,
        });
        Ok(())
    }

    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures, no encrypted model.
    pub fn embed(&mut self, tokens: &[usize], heads: usize) -> Result<Tensor<Client>> {
        self.conn.set_phase(Phase::Online);
        let missing = || ProtocolError::caller("encrypted model", "one received or opened before", "none");
        let model = self.encrypted.as_ref().ok_or_else(missing)?;
        let from = EmbedClient { keys: &self.keys, model };
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
        let part = self.part();
        model::send(&mut self.conn, &self.keys.mine, &self.plan, part, weights, &mut self.rng, progress)
    }

    /// Uses weights of this model that were encoded for the paper's protocols, and encodes into them what they lack: all sessions
    /// of a model may share them. `preprocessed` has no use for them.
    pub fn share_encoded(&mut self, encoded: &Arc<Encoded>) {
        if let Some(hybrid) = &mut self.online.hybrid {
            hybrid.encoded = encoded.clone();
        }
    }

    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures.
    pub fn embed(&mut self, weights: &ServerModel, rows: usize, heads: usize) -> Result<Tensor<Server>> {
        self.conn.set_phase(Phase::Online);
        self.online.embed(&mut self.conn, &self.keys, weights, rows, heads)
    }
}

/// Material of rows in the paper's protocols lacks shares of `W·r'`: no other protocol can use them.
fn rows_pool(protocol: Protocol) -> &'static str {
    match protocol.is_hybrid() {
        true => "rows-online",
        false => "rows",
    }
}

fn chunks(total: u64, size: usize) -> impl Iterator<Item = usize> {
    let size = size as u64;
    (0..total.div_ceil(size)).map(move |i| size.min(total - i * size) as usize)
}
