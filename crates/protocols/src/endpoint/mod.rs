//! One party's end of a client–server pair: connection, keys, material store and session state
//! together.
//!
//! Every public step has a counterpart that the peer must call at the same time; which step comes
//! next is agreed by the callers (Python sends small control messages). Steps: `open`, `prepare`,
//! `put_prefix` if there is a known one, `extend`, then forward passes.
//!
//! In a child of the process that opened it an endpoint refuses all of them (`Forked`): most before
//! they compute anything, steps of a pass at their first message.

mod crop;
mod prefix;
mod rows;
mod stores;

use std::path::Path;
use std::sync::Arc;

use cryptogen_he::{ParamSet, Params, N};
use cryptogen_mpc::session::Phase;
use cryptogen_mpc::store::{Batch, Pool, Store};
use cryptogen_mpc::Connection;
use cryptogen_ot::OtPair;
use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::{Prg, Seed};

pub use rows::{exponential_bytes, exponentials_needed};

use self::stores::{compare_stores, BatchSink};
use crate::error::{ProtocolError, Result};
use crate::material::{exponential_record_bytes, Deferred, LatticeKeys, Linears, RowLayout};
use crate::model::{Plan, ServerModel};
use crate::offline::attention::EncryptedCache;
use crate::offline::prepare::{logits_record_bytes, Preparer, Sink};
use crate::offline::{self, Progress};
use crate::online::preprocessed::Preprocessed;
use crate::online::products::Side;
use crate::online::Online;
use crate::share::Tensor;

/// The lattice parameters of `preprocessed`.
pub const PARAMETERS: ParamSet = ParamSet::N8192Q196;
/// Rows whose records of `linears` are made at a time: the more, the fewer bytes each costs, and
/// the more ciphertexts the server holds.
const LINEARS_AT_ONCE: usize = 1024;
/// Rows whose material is made at a time, and whose logits'.
const ROWS_PREPARED_AT_ONCE: usize = 256;
/// Ciphertexts of records of exponentials that are made at a time, of each prime.
const EXPONENTIALS_AT_ONCE: usize = 32;

/// Records left in each pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// what `Linear` makes for one row each, of which its material is made
    pub linears: u64,
    /// material of one row each
    pub rows: u64,
    /// material for the logits of one row each
    pub logits: u64,
    /// exponentials of one pair of rows each, a new one and any up to it: of all heads of all
    /// layers
    pub exponentials: u64,
}

/// What both parties must know of a protocol beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, between the parties and on the command line.
    pub name: &'static str,
    /// Whether its products are prepared: every row has shares of `W·r'` in its material, and
    /// attention material. Otherwise they come from messages online, whatever these are.
    pub prepared: bool,
}

impl Protocol {
    /// The default: correlations made offline, one-time-padded vectors online.
    pub const PREPROCESSED: Protocol = Protocol { name: "preprocessed", prepared: true };

    /// The pools of what `Linear` makes for rows, and of their material. Without shares of `W·r'`
    /// these are of no use to a protocol that needs them.
    fn row_pools(self) -> [&'static str; 2] {
        match self.prepared {
            true => ["linears", "rows"],
            false => ["linears-online", "rows-online"],
        }
    }
}

struct Pools {
    linears: Pool,
    rows: Pool,
    logits: Pool,
    /// one for each number of primes that heads have
    exponentials: Vec<ExponentialPool>,
}

/// Exponentials of heads with so many primes, a record for each head and pair of rows.
struct ExponentialPool {
    primes: usize,
    /// such heads of all layers: records that a pair of rows spends
    heads: u64,
    pool: Pool,
}

impl ExponentialPool {
    fn open<P: Party>(store: &Store, plan: &Plan, primes: usize) -> Result<ExponentialPool> {
        let heads = heads_with(plan, primes) as u64;
        let pool = store.pool(&format!("exponentials-{primes}"), exponential_record_bytes::<P>(primes))?;
        Ok(ExponentialPool { primes, heads, pool })
    }

    /// Pairs of rows for which there are records.
    fn pairs(&self) -> u64 {
        self.pool.available() / self.heads
    }
}

/// A party with an open connection, agreed keys and a matching store.
pub struct Endpoint<P: Side> {
    conn: Connection<P>,
    plan: Arc<Plan>,
    layout: Arc<RowLayout>,
    keys: LatticeKeys<P>,
    ot: OtPair,
    rng: Prg,
    protocol: Protocol,

    pools: Pools,
    online: Online<P>,
    cache: EncryptedCache,
}

impl<P: Side> Endpoint<P> {
    /// Exchanges keys, runs the base oblivious transfers and compares the two stores. The session's
    /// protocol is the default one.
    ///
    /// With `resync`, stores whose cursors differ (after a crash) are both moved forward to the
    /// later one; without it they are refused.
    ///
    /// # Errors
    /// Connection failures; `Session(Mismatch)` for two protocols; `Store` with an explanation if
    /// the stores do not belong together.
    pub fn open(conn: Connection<P>, plan: Arc<Plan>, store: Store, resync: bool) -> Result<Endpoint<P>> {
        let layout = Arc::new(RowLayout::new(&plan));
        let products = P::preprocessed(Preprocessed::new(plan.clone(), layout));
        let opened = |_: &mut _, _: &_, _: &mut _| Ok((products, ()));
        Endpoint::open_with(conn, plan, store, resync, Protocol::PREPROCESSED, opened).map(|(e, ())| e)
    }

    /// The same for another `protocol`, which both parties must mean. `products` opens its state:
    /// it is given the connection, the store's folder and a generator, after everything else has
    /// been agreed. What it returns besides is the caller's.
    ///
    /// # Errors
    /// Those of [`Endpoint::open`] and of `products`.
    pub fn open_with<T>(
        mut conn: Connection<P>,
        plan: Arc<Plan>,
        store: Store,
        resync: bool,
        protocol: Protocol,
        products: impl FnOnce(&mut Connection<P>, &Path, &mut Prg) -> Result<(Box<P::Products>, T)>,
    ) -> Result<(Endpoint<P>, T)> {
        conn.set_phase(Phase::Setup);
        let params = Params::get(PARAMETERS);
        let mut rng = Prg::new(&Seed::random(&mut rand_core::OsRng));
        let layout = Arc::new(RowLayout::new(&plan));
        let [linears, rows] = protocol.row_pools();
        let counts = plan.prime_counts().into_iter();
        let exponentials = counts.map(|primes| ExponentialPool::open::<P>(&store, &plan, primes));
        let pools = Pools {
            linears: store.pool(linears, layout.linears_bytes())?,
            rows: store.pool(rows, layout.record_bytes())?,
            logits: store.pool("logits", logits_record_bytes(&plan))?,
            exponentials: exponentials.collect::<Result<_>>()?,
        };
        compare_stores(&mut conn, &store, resync, protocol, &mut rng)?;
        let keys = LatticeKeys::exchange(&mut conn, params, &mut rng)?;
        let ot = OtPair::setup(P::ROLE, &mut conn, &mut rng)?;
        let (products, kept) = products(&mut conn, store.directory(), &mut rng)?;
        let online = Online::new(plan.clone(), layout.clone(), products);
        let endpoint = Endpoint {
            conn,
            plan,
            layout,
            keys,
            ot,
            rng,
            protocol,

            pools,
            online,
            cache: EncryptedCache::default(),
        };
        Ok((endpoint, kept))
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

    /// The plan that both parties agreed on.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
            linears: self.pools.linears.available(),
            rows: self.pools.rows.available(),
            logits: self.pools.logits.available(),
            exponentials: self.pools.exponentials.iter().map(ExponentialPool::pairs).min().unwrap_or(0),
        }
    }

    /// Starts a new session: an empty cache. Rows that were given a position but no token are lost.
    pub fn reset(&mut self) {
        self.online.reset();
        self.cache = EncryptedCache::default();
    }

    /// Makes material and commits it on both sides: `linears` first, of which `rows` spend one
    /// each, and as many exponentials at least. Runs in chunks, so an interruption loses only the
    /// chunk in progress, and the records of `linears` that it was made of. The server brings its
    /// `weights`.
    ///
    /// # Errors
    /// Connection and store failures, interruption; `Short` if rows lack `linears`.
    pub fn prepare(
        &mut self,
        want: Stock,
        weights: Option<&ServerModel>,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.conn.check_home()?;
        self.conn.set_phase(Phase::Offline);
        let mut done = 0;
        for n in chunks(want.linears, LINEARS_AT_ONCE) {
            let batch = self.pools.linears.begin_batch(n)?;
            let mut part = part(progress, done, n, want.linears);
            self.fill(batch, weights, |p, sink| p.linears(n, sink, &mut part))?;
            done += n as u64;
        }
        let (needed, available) = (want.rows, self.pools.linears.available());
        if available < needed {
            return Err(ProtocolError::Short { what: "linears", needed, available });
        }
        let mut done = 0;
        for n in chunks(want.rows, ROWS_PREPARED_AT_ONCE) {
            let batch = self.pools.rows.begin_batch(n)?;
            let pieces = self.pools.linears.take_unread(n, &self.layout.linears_pieces().repeat(n))?;
            let pieces = pieces.into_iter().map(Deferred::Stored).collect();
            let linears = Linears::from_pieces(&self.layout, pieces)?;
            let mut part = part(progress, done, n, want.rows);
            self.fill(batch, weights, |p, sink| p.rows(linears, sink, &mut part))?;
            done += n as u64;
        }
        let mut done = 0;
        for n in chunks(want.logits, ROWS_PREPARED_AT_ONCE) {
            let batch = self.pools.logits.begin_batch(n)?;
            self.fill(batch, weights, |p, sink| p.logits(n, sink))?;
            done += n as u64;
            offline::report(progress, "preparing logits", done, want.logits)?;
        }
        self.prepare_exponentials(want.exponentials, progress)
    }

    /// Makes exponentials for so many pairs of rows more, at least: records fill whole ciphertexts.
    /// Where an interruption has left one pool ahead of another, only what lacks is made.
    fn prepare_exponentials(&mut self, want: u64, progress: Progress<'_>) -> Result<()> {
        let pairs = self.stock().exponentials.saturating_add(want);
        let lacking = |pool: &ExponentialPool| {
            let records = pairs.saturating_mul(pool.heads).saturating_sub(pool.pool.available());
            (pool.primes, records.div_ceil(N as u64))
        };
        let lacking: Vec<(usize, u64)> = self.pools.exponentials.iter().map(lacking).collect();
        let all = lacking.iter().map(|(primes, n)| *primes as u64 * n).sum();
        let mut done = 0;
        for (i, (primes, ciphertexts)) in lacking.into_iter().enumerate() {
            for n in chunks(ciphertexts, EXPONENTIALS_AT_ONCE) {
                let batch = self.pools.exponentials[i].pool.begin_batch(n * N)?;
                self.fill(batch, None, |p, sink| p.exponentials(primes, n * N, sink))?;
                done += (primes * n) as u64;
                offline::report(progress, "preparing exponentials", done, all)?;
            }
        }
        Ok(())
    }

    fn fill(
        &mut self,
        batch: Batch,
        weights: Option<&ServerModel>,
        work: impl FnOnce(&mut Preparer<'_, P>, &mut dyn Sink) -> Result<()>,
    ) -> Result<()> {
        let mut sink = BatchSink { batch };
        let mut preparer = Preparer {
            ch: &mut self.conn,
            plan: &self.plan,
            layout: &self.layout,
            keys: &self.keys,
            ot: &mut self.ot,
            model: weights,
            rng: &mut self.rng,
            products: self.protocol.prepared,
        };
        work(&mut preparer, &mut sink)?;
        // Both parties hold a complete batch before either commits; a crash in between is found
        // when the stores are compared.
        self.conn.exchange(P::ROLE.turn(), &[1], 1)?;
        Ok(sink.batch.commit()?)
    }
}

impl Endpoint<Client> {
    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures, a token that the model does not have.
    pub fn embed(&mut self, tokens: &[usize], sampled: usize) -> Result<Tensor<Client>> {
        self.conn.check_home()?;
        self.conn.set_phase(Phase::Online);
        self.online.embed(&mut self.conn, tokens, sampled)
    }
}

impl Endpoint<Server> {
    /// Starts a forward pass. See [`Online::embed`].
    ///
    /// # Errors
    /// `Short`, connection failures.
    pub fn embed(&mut self, weights: &ServerModel, rows: usize, sampled: usize) -> Result<Tensor<Server>> {
        self.conn.check_home()?;
        self.conn.set_phase(Phase::Online);
        self.online.embed(&mut self.conn, weights, rows, sampled)
    }
}

/// Heads of all layers that have so many primes.
fn heads_with(plan: &Plan, primes: usize) -> usize {
    (0..plan.model.layers).map(|layer| plan.heads_with(layer, primes).count()).sum()
}

/// The progress of `n` of `all` records, of which `done` are there.
fn part<'a>(
    progress: &'a mut dyn FnMut(&str, u64, u64) -> bool,
    done: u64,
    n: usize,
    all: u64,
) -> impl FnMut(&str, u64, u64) -> bool + 'a {
    move |what, step, steps| progress(what, done * steps + step * n as u64, all * steps)
}

fn chunks(total: u64, size: usize) -> impl Iterator<Item = usize> {
    let size = size as u64;
    (0..total.div_ceil(size)).map(move |i| size.min(total - i * size) as usize)
}
