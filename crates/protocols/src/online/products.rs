//! Where shares of `W·x`, of attention's scores and of its weighted values come from: all in which
//! protocols differ.
//!
//! Every other step of [`super`] is the same in all of them. The one of this crate,
//! [`super::preprocessed`], has prepared products of masks and only opens values; another may
//! compute online, with messages of its own. The opening of the client's weights rides in a message
//! that the caller sends anyway, so there a method is given that message under construction, or how
//! much the caller awaits of it.
//!
//! The two parties do different things, so each has a trait of its own; [`Side`] names it.

use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::{Fp, Wiped};

use super::preprocessed::Preprocessed;
use crate::error::Result;
use crate::material::Row;
use crate::model::{Plan, Prefix, ServerModel, Site};
use crate::share::qkv::NewRows;
use crate::share::{Opened, Opening};

/// A party with the trait by which it gets its products.
pub trait Side: Party {
    /// What this party asks of a protocol.
    type Products: Products<Self> + ?Sized;

    /// The state of `preprocessed`, the protocol of this crate.
    fn preprocessed(state: Preprocessed<Self>) -> Box<Self::Products>;
}

impl Side for Client {
    type Products = dyn ClientProducts;

    fn preprocessed(state: Preprocessed<Client>) -> Box<dyn ClientProducts> {
        Box::new(state)
    }
}

impl Side for Server {
    type Products = dyn ServerProducts;

    fn preprocessed(state: Preprocessed<Server>) -> Box<dyn ServerProducts> {
        Box::new(state)
    }
}

/// What a protocol keeps of the rows that have passed.
pub trait Products<P: Party>: Send {
    /// Rows so far (all layers agree between forward passes).
    fn length(&self) -> usize;

    /// Keeps the first `rows` rows; whether there was anything to drop.
    ///
    /// # Errors
    /// `Caller`, and nothing is dropped: more rows than there are, a pass in progress, a protocol
    /// that cannot forget rows.
    fn crop(&mut self, rows: usize) -> Result<bool>;

    /// Forgets all rows.
    fn reset(&mut self);
}

/// The client's part. `rows`: those of the pass, with their material.
pub trait ClientProducts: Products<Client> {
    /// An empty session gets `rows` rows of which this party's shares are 0.
    ///
    /// # Errors
    /// `Caller`, and nothing changes: a protocol that does not begin with known rows.
    fn put_prefix(&mut self, rows: usize) -> Result<()>;

    /// A linear layer. The client's share `y` of `W·x`, `[rows][d_out]`, is known from its
    /// material; whatever the server lacks of its own share is sent here.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn linear(&mut self, ch: &mut dyn Channel, site: Site, rows: &[Row<Client>], y: &[Fp]) -> Result<()>;

    /// Appends the new rows' keys and values; shares of the scores, `[entries]`. What the server
    /// opens of the new rows is read here.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        new: &NewRows,
    ) -> Result<Vec<Fp>>;

    /// Shares of the sums of values, `[pairs][head_dim]`, from those of the weights, `[entries]`.
    /// What is to be opened of the weights goes into `message`, which the caller sends.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        weights: &[Fp],
        message: &mut Opening,
    ) -> Result<Vec<Fp>>;
}

/// The server's part. `rows`: those of the pass, with their material.
pub trait ServerProducts: Products<Server> {
    /// An empty session gets the rows of a prefix, of which this party's shares are the numbers
    /// themselves.
    ///
    /// # Errors
    /// Those of the client's.
    fn put_prefix(&mut self, prefix: &Prefix) -> Result<()>;

    /// A linear layer: the server's share of `W·x`, `[rows][d_out]`, from `x − r'`, `[rows][d_in]`.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn linear(
        &mut self,
        ch: &mut dyn Channel,
        model: &ServerModel,
        site: Site,
        rows: &[Row<Server>],
        x: &[Fp],
    ) -> Result<Vec<Fp>>;

    /// Appends the new rows' keys and values; shares of the scores, `[entries]`. What is to be
    /// opened of the new rows is sent here.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        new: &NewRows,
    ) -> Result<Vec<Fp>>;

    /// Shares of the sums of values, `[pairs][head_dim]`, from those of the weights, `[entries]`,
    /// and the client's message `next`.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        weights: &[Fp],
        next: Awaited,
    ) -> Result<(Vec<Fp>, Opened)>;
}

/// The client's next message, as far as its caller fills it.
pub struct Awaited {
    pub(super) words: usize,
    pub(super) rotations: usize,
}

impl Awaited {
    /// Receives the message, which has `opened` words of a protocol's openings in front.
    ///
    /// # Errors
    /// Connection failures.
    pub fn recv(self, ch: &mut dyn Channel, opened: usize) -> Result<Opened> {
        Opened::recv(ch, opened + self.words, self.rotations)
    }
}

/// One layer's attention of the rows of a pass: its sizes, and which scores there are.
pub struct Call {
    pub(super) layer: usize,
    pub(super) positions: Vec<usize>,
    /// the (row, head) pairs that run the softmax, in order, with the row's position; row 0 is left
    /// out
    pub(super) pairs: Vec<(usize, usize, usize)>,
    /// start of each pair's (t+1) entries in flat per-(head, j) arrays
    pub(super) starts: Vec<usize>,
    pub(super) entries: usize,
    pub(super) d: usize,
}

impl Call {
    pub(super) fn new(plan: &Plan, layer: usize, positions: Vec<usize>) -> Call {
        let rows = positions.iter().enumerate().filter(|(_, t)| **t > 0);
        let pairs: Vec<_> = rows.flat_map(|(i, &t)| (0..plan.model.heads).map(move |g| (i, g, t))).collect();
        let mut entries = 0;
        let starts = pairs
            .iter()
            .map(|(_, _, t)| {
                let at = entries;
                entries += t + 1;
                at
            })
            .collect();
        Call { layer, positions, pairs, starts, entries, d: plan.model.head_dim }
    }

    /// Masks of the weights of these rows, `[entries]`: the client's `a`, the server's weights
    /// themselves (A9).
    pub(super) fn weight_masks<P: Party>(&self, rows: &[Row<P>]) -> Wiped<Fp> {
        let mut out = Vec::with_capacity(self.entries);
        for &(i, g, t) in &self.pairs {
            let masks = &rows[i].attention[self.layer].weight_mask;
            out.extend_from_slice(&masks[g * (t + 1)..(g + 1) * (t + 1)]);
        }
        Wiped::new(out)
    }

    /// Rows that run the softmax: their numbers among those of the pass.
    pub(super) fn softmax_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.positions.iter().enumerate().filter(|(_, t)| **t > 0).map(|(i, _)| i)
    }

    /// The layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Positions of the rows, one behind the other.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }
}
