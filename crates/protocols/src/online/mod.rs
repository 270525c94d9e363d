//! The online phase: one-time-padded messages and plain integer arithmetic, one functionality per file.
//!
//! A forward pass works on `T` *active* rows at once (a prompt, or one new token). Every row owns a slot of prepared
//! material; rows that have passed live on in the key/value cache, which is never changed, only appended to.

pub mod activation;
pub mod attention;
pub mod embed;
mod events;
mod linear;
pub mod logits;
pub mod norm;
pub mod scalar;
pub mod tables;

use std::collections::VecDeque;
use std::sync::Arc;

use cryptogen_party::Party;
use cryptogen_ring::{Fp, Word};
use zeroize::{Zeroize, Zeroizing};

pub use embed::EmbedClient;

use crate::error::{ProtocolError, Result};
use crate::hybrid::Hybrid;
use crate::material::{mask, HeadSlot, Mask, Row, SlotLayout};
use crate::model::{Plan, Site};
use crate::share::local::{trunc, trunc_word};
use crate::share::{Cost, Events, Kind, Tensor, Trace};

/// Messages and bytes of a forward pass over rows at `positions`, of which the last `sampled` get logits.
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
    [embed::cost(rows)].into_iter().chain(layers).chain([head_cost(plan, sampled)]).sum()
}

/// The final norm and the output head; a pass that samples no row stops in front of them.
pub(crate) fn head_cost(plan: &Plan, sampled: usize) -> Cost {
    match sampled {
        0 => Cost::default(),
        _ => {
            [norm::cost(plan, 2 * plan.model.layers, sampled), logits::cost(plan, sampled)].into_iter().sum()
        }
    }
}

/// Cached rows of one layer, `[rows][kv_dim]` each. `k`, `v`: this party's shares. `open_k`, `open_v`: what the server opened
/// (client side); the server keeps its value masks in `open_v` instead.
#[derive(Default)]
pub(crate) struct LayerCache {
    pub k: Vec<Fp>,
    pub v: Vec<Fp>,
    pub open_k: Vec<Fp>,
    pub open_v: Vec<Fp>,
}

impl Drop for LayerCache {
    fn drop(&mut self) {
        for v in [&mut self.k, &mut self.v, &mut self.open_k, &mut self.open_v] {
            v.as_mut_slice().zeroize();
        }
    }
}

/// One party's state of a generation session.
pub struct Online<P: Party> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) layout: Arc<SlotLayout>,
    pub(crate) ready: VecDeque<Row<P>>,
    pub(crate) heads: VecDeque<HeadSlot>,
    pub(crate) active: Vec<Row<P>>,
    pub(crate) head_now: Vec<HeadSlot>,
    /// events of rows that left without being sampled
    pub(crate) pending: Events,
    pub(crate) cache: Vec<LayerCache>,
    /// the paper's protocols; `None`: `preprocessed`
    pub(crate) hybrid: Option<Hybrid<P>>,
    /// outcomes of truncations, in test builds
    pub trace: Trace,
}

impl<P: Party> Online<P> {
    /// An empty session.
    pub fn new(plan: Arc<Plan>, layout: Arc<SlotLayout>) -> Online<P> {
        let cache = (0..plan.model.layers).map(|_| LayerCache::default()).collect();
        Online {
            plan,
            layout,
            ready: VecDeque::new(),
            heads: VecDeque::new(),
            active: vec![],
            head_now: vec![],
            pending: Events::default(),
            cache,
            hybrid: None,
            trace: Trace::default(),
        }
    }

    /// State of the paper's protocols, if the session runs one of them.
    pub fn hybrid(&self) -> Option<&Hybrid<P>> {
        self.hybrid.as_ref()
    }

    /// Rows in the cache so far (all layers agree between forward passes).
    pub fn length(&self) -> usize {
        match &self.hybrid {
            Some(hybrid) => hybrid.cache_shape().len(),
            None => self.cache[0].k.len() / self.plan.model.kv_dim(),
        }
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
    pub fn add_heads(&mut self, heads: Vec<HeadSlot>) {
        self.heads.extend(heads);
    }

    /// Evaluations of the output head that are ready.
    pub fn ready_logits(&self) -> usize {
        self.heads.len()
    }

    /// Starts a forward pass over the next `n` rows. A pass that failed half-way leaves the session unusable: its rows
    /// are gone and so is the alignment of the cache.
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
        let expected = if kind == Kind::Input(Site::Head) { self.head_now.len() } else { self.active.len() };
        if x.rows != expected {
            return Err(ProtocolError::caller("rows of a step", expected, x.rows));
        }
        Ok(())
    }

    /// The client's re-mask `r` of a site for an active row (head: of the evaluation in progress); behind activations see
    /// [`Online::remask_words`].
    pub(crate) fn remask(&self, row: usize, site: Site) -> Vec<Fp> {
        let n = self.plan.linear(site).d_in;
        match site {
            Site::Head => mask(&self.head_now[row].seed, Mask::Remask, 0, n),
            _ => self.active[row].slot.mask(Mask::Remask, site.index(self.plan.model.layers), n),
        }
    }

    /// The same behind an activation, modulo `2^64`.
    pub(crate) fn remask_words(&self, row: usize, layer: usize) -> Vec<Word> {
        let site = Site::Down(layer);
        let (n, index) = (self.plan.linear(site).d_in, site.index(self.plan.model.layers));
        self.active[row].slot.mask_words(Mask::Remask, index, n)
    }

    /// The client's share `r'` of an input of a linear layer.
    pub(crate) fn entered(&self, row: usize, site: Site) -> Zeroizing<Vec<Fp>> {
        let shifts = &self.plan.linear(site).in_shift;
        let r = match site {
            Site::Down(layer) => {
                let r = self.remask_words(row, layer);
                r.iter().zip(shifts).map(|(r, &k)| trunc_word::<P>(*r, k)).collect()
            }
            _ => self.remask(row, site).iter().zip(shifts).map(|(r, &k)| trunc::<P>(*r, k)).collect(),
        };
        Zeroizing::new(r)
    }

    /// Logs the client's share `r'` of the inputs of a linear layer.
    pub(crate) fn log_remask(&mut self, site: Site, rows: usize) {
        if !Trace::RECORDS {
            return; // The masks are not worth expanding again.
        }
        for row in 0..rows {
            let r = self.entered(row, site);
            self.trace.truncated(r.iter().copied());
        }
    }
}
