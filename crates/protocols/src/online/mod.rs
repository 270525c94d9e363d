//! The online phase: one-time-padded messages and plain integer arithmetic, one functionality per
//! file.
//!
//! A forward pass works on `T` *active* rows at once (a prompt, or one new token). Every row owns a
//! record of prepared material; rows that have passed live on in the key/value cache, which is
//! never changed, only appended to.

pub mod activation;
pub mod attention;
pub mod embed;
mod events;
mod linear;
pub mod logits;
pub mod norm;
pub mod preprocessed;
pub mod products;
pub mod scalar;
pub mod tables;
mod turn;

use std::collections::VecDeque;
use std::sync::Arc;

use cryptogen_party::{Client, Server};
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

use self::products::{Products, Side};
pub(crate) use self::turn::Turn;
use crate::error::{ProtocolError, Result};
use crate::material::{expand_mask, LogitsMaterial, MaskLabel, Row, RowLayout};
use crate::model::{Plan, Prefix, Site};
use crate::share::local::trunc;
use crate::share::{Cost, Events, Kind, Tensor, Trace};

/// Messages and bytes of a forward pass over rows at `positions`, of which the last `sampled` get
/// logits.
pub fn cost(plan: &Plan, positions: std::ops::Range<usize>, sampled: usize) -> Cost {
    let rows = positions.len();
    let layer = |l: usize| {
        [
            norm::cost(plan, 2 * l, rows),
            attention::cost(plan, l, positions.clone()),
            norm::cost(plan, 2 * l + 1, rows),
            activation::cost(plan, rows),
        ]
    };
    let layers = (0..plan.model.layers).flat_map(layer);
    [embed::cost(plan, rows)].into_iter().chain(layers).chain([head_cost(plan, sampled)]).sum()
}

/// The final norm and the output head; a pass that samples no row stops in front of them.
pub fn head_cost(plan: &Plan, sampled: usize) -> Cost {
    match sampled {
        0 => Cost::default(),
        _ => {
            [norm::cost(plan, 2 * plan.model.layers, sampled), logits::cost(plan, sampled)].into_iter().sum()
        }
    }
}

/// One party's state of a generation session.
pub struct Online<P: Side> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) layout: Arc<RowLayout>,
    pub(crate) ready: VecDeque<Row<P>>,
    pub(crate) logits_ready: VecDeque<LogitsMaterial>,
    pub(crate) active: Vec<Row<P>>,
    pub(crate) logits_now: Vec<LogitsMaterial>,
    /// the step of the pass in progress whose turn it is
    pub(crate) turn: Option<Turn>,
    /// events of rows that left without being sampled
    pub(crate) pending: Events,
    products: Box<P::Products>,
    /// outcomes of truncations, in test builds
    pub trace: Trace,
}

impl<P: Side> Online<P> {
    /// An empty session over a protocol's products.
    pub fn new(plan: Arc<Plan>, layout: Arc<RowLayout>, products: Box<P::Products>) -> Online<P> {
        Online {
            plan,
            layout,
            ready: VecDeque::new(),
            logits_ready: VecDeque::new(),
            active: vec![],
            logits_now: vec![],
            turn: None,
            pending: Events::default(),
            products,
            trace: Trace::default(),
        }
    }

    /// Forgets all rows and all material.
    pub fn reset(&mut self) {
        self.products.reset();
        self.ready.clear();
        self.logits_ready.clear();
        self.active.clear();
        self.logits_now.clear();
        self.turn = None;
        self.pending = Events::default();
        self.trace = Trace::default();
    }

    /// Keeps the first `rows` rows. If that is all of them, nothing changes; otherwise those that
    /// have a position but no token are dropped too.
    ///
    /// # Errors
    /// Those of `Products::crop`; `Caller` in the middle of a pass.
    pub(crate) fn crop(&mut self, rows: usize) -> Result<bool> {
        self.between_passes("rows to keep")?;
        let dropped = self.products.crop(rows)?;
        if dropped {
            self.ready.clear();
            self.settle_events();
            self.active.clear();
        }
        Ok(dropped)
    }

    /// Rows in the cache so far (all layers agree between forward passes), those of a prefix
    /// included.
    pub fn length(&self) -> usize {
        self.products.length()
    }

    /// Rows that have material and a position but no token yet.
    pub fn ready_rows(&self) -> usize {
        self.ready.len()
    }

    /// Positions taken so far, with or without a token.
    pub fn positions(&self) -> usize {
        self.length() + self.ready.len()
    }

    /// Adds rows made by the attention preparation.
    pub fn add_rows(&mut self, rows: Vec<Row<P>>) {
        self.ready.extend(rows);
    }

    /// Adds material for the output head.
    pub fn add_logits(&mut self, material: Vec<LogitsMaterial>) {
        self.logits_ready.extend(material);
    }

    /// Evaluations of the output head that are ready.
    pub fn ready_logits(&self) -> usize {
        self.logits_ready.len()
    }

    /// Starts a forward pass over the next `n` rows. A pass that failed half-way leaves the session
    /// unusable until a reset: its rows are gone and so is the alignment of the cache.
    pub(crate) fn activate(&mut self, n: usize) -> Result<()> {
        if self.ready.len() < n {
            return Err(ProtocolError::Short {
                what: "rows",
                needed: n as u64,
                available: self.ready.len() as u64,
            });
        }
        if self.ready.front().is_some_and(|r| r.position != self.length()) {
            let (expected, actual) = (self.ready[0].position, self.length());
            return Err(ProtocolError::caller("session position", expected, actual));
        }
        self.settle_events();
        self.active = self.ready.drain(..n).collect();
        Ok(())
    }

    /// Refuses an operand that is not what a step needs, or not of the rows in progress.
    pub(crate) fn check(&self, x: &Tensor<P>, kind: Kind) -> Result<()> {
        x.expect(kind)?;
        let expected =
            if kind == Kind::Input(Site::Head) { self.logits_now.len() } else { self.active.len() };
        if x.rows != expected {
            return Err(ProtocolError::caller("rows of a step", expected, x.rows));
        }
        Ok(())
    }

    /// The client's re-mask `r` of a site for an active row (head: of the evaluation in progress);
    /// behind activations see
    /// [`Row::remask_words`].
    pub(crate) fn remask(&self, row: usize, site: Site) -> Vec<Fp> {
        match site {
            Site::Head => {
                expand_mask(&self.logits_now[row].seed, MaskLabel::Remask, 0, self.plan.linear(site).d_in)
            }
            _ => self.active[row].remask(&self.plan, site),
        }
    }

    /// The client's share `r'` of an input of a linear layer.
    fn input_share(&self, row: usize, site: Site) -> Zeroizing<Vec<Fp>> {
        match site {
            Site::Head => {
                let (r, shifts) = (Zeroizing::new(self.remask(row, site)), &self.plan.linear(site).in_shift);
                Zeroizing::new(r.iter().zip(shifts).map(|(r, &k)| trunc::<P>(*r, k)).collect())
            }
            _ => self.active[row].input_share(&self.plan, site),
        }
    }

    /// Logs the client's share `r'` of the inputs of a linear layer.
    pub(crate) fn log_remask(&mut self, site: Site, rows: usize) {
        if !Trace::RECORDS {
            return; // The masks are not worth expanding again.
        }
        for row in 0..rows {
            let r = self.input_share(row, site);
            self.trace.truncated(r.iter().copied());
        }
    }
}

impl Online<Client> {
    /// An empty session begins with known rows. Errors: those of `ClientProducts::put_prefix`.
    pub(crate) fn put_prefix(&mut self, rows: usize) -> Result<()> {
        self.products.put_prefix(rows)
    }
}

impl Online<Server> {
    /// An empty session begins with known rows. Errors: those of `ServerProducts::put_prefix`.
    pub(crate) fn put_prefix(&mut self, prefix: &Prefix) -> Result<()> {
        self.products.put_prefix(prefix)
    }
}
