//! Where shares of `W·x`, of attention's scores and of its weighted values come from: all in which
//! protocols differ.
//!
//! Every other step of [`super`] is the same in all of them. The one of this crate,
//! [`super::preprocessed`], has prepared products of masks and only opens values; another may
//! compute online, with messages of its own. Openings ride in messages that the caller sends
//! anyway, so a method is given the caller's message under construction, or how much the caller
//! awaits of the peer's next one.
//!
//! The two parties do different things, so each has a trait of its own; [`Side`] names it.

use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_ring::Fp;

use super::preprocessed::Preprocessed;
use crate::error::Result;
use crate::material::Row;
use crate::model::{Plan, ServerModel, Site};
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
    /// A linear layer. The client's share `y` of `W·x`, `[rows][d_out]`, is known from its
    /// material; whatever the server lacks of its own share is sent here.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn linear(&mut self, ch: &mut dyn Channel, site: Site, rows: &[Row<Client>], y: &[Fp]) -> Result<()>;

    /// Appends the new rows' keys and values; shares of the scores, `[entries]`, and the message
    /// `next` of the server.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        new: &NewRows,
        next: Awaited,
    ) -> Result<(Vec<Fp>, Opened)>;

    /// Sends the message `before`, with whatever is to be opened of the weights `[entries]`; shares
    /// of the sums of values, `[pairs][head_dim]`, and the message `next` of the server.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Client>],
        weights: &[Fp],
        before: Opening,
        next: Awaited,
    ) -> Result<(Vec<Fp>, Opened)>;
}

/// The server's part. `rows`: those of the pass, with their material.
pub trait ServerProducts: Products<Server> {
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
    /// opened of the new rows goes into `message`.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn scores(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        new: &NewRows,
        message: &mut Opening,
    ) -> Result<Vec<Fp>>;

    /// Words by which the client opens its weights, at the end of the message that
    /// [`ServerProducts::values`] is given.
    fn opened_weights(&self, call: &Call) -> usize;

    /// Shares of the sums of values, `[pairs][head_dim]`, from those of the weights, `[entries]`.
    /// What is to be opened of the weights goes into `message`.
    ///
    /// # Errors
    /// Connection failures, malformed messages.
    fn values(
        &mut self,
        ch: &mut dyn Channel,
        call: &Call,
        rows: &[Row<Server>],
        weights: &[Fp],
        opened: &mut Opened,
        message: &mut Opening,
    ) -> Result<Vec<Fp>>;
}

/// The peer's next message, as far as its sender's caller fills it.
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

    /// The layer.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Positions of the rows, one behind the other.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }
}
