//! The output head (A5.8): the server sends its shares of the logits and of the rows' range events
//! (A7).
//!
//! Functionality: `x − r'` with the server → the client learns `W·x + b` of every sampled row, not
//! truncated, and how many range events the row has had.
//! Source: `docs/protocols/preprocessed.md` §4.6.
//! Inputs: server `x − r'`, `[rows, d]`, at scale F, with `W` and `b` of the head; both their
//! shares of events, one integer modulo `2^64` a row. Result: logits `[rows, vocab]` at scale F +
//! `f_w`.
//! Cost: 1 message (S→C), `8·(vocab + 1)` bytes per sampled row: all logits, then the events.
//! Material: a head record per sampled row, with a share of `W·r'`.
//! Leaks: to the client, by design, the logits, and how many look-ups met a guard, of this row and
//! those before it that nobody sampled; neither which look-ups they were nor where in a table.

use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::fp_to_bytes;
use cryptogen_ring::word::words_to_bytes;

use super::linear::add_bias;
use super::Online;
use crate::error::Result;
use crate::model::{Plan, ServerModel, Site};
use crate::share::{Cost, Kind, Opened, Tensor};

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    Cost::of(&[(Role::Server, 8 * (plan.model.vocab + 1) * rows)])
}

impl Online<Client> {
    /// Returns the logits `[rows, vocab]` as integers at scale `F + f_w`, and the range events of
    /// each row.
    pub fn logits(&mut self, ch: &mut dyn Channel, x: &Tensor<Client>) -> Result<(Vec<i64>, Vec<u64>)> {
        self.check(x, Kind::Input(Site::Head))?;
        let vocab = self.plan.model.vocab;
        let mut message = Opened::recv(ch, (vocab + 1) * x.rows, 0)?;
        let (theirs, their_events) = (message.words(vocab * x.rows)?, message.ring_words(x.rows)?);
        self.log_remask(Site::Head, x.rows);
        let heads = std::mem::take(&mut self.head_now);
        let mine = heads.iter().flat_map(|h| h.share.iter());
        let events = self.release_events(x.rows);
        Ok((
            mine.zip(&theirs).map(|(a, b)| (*a + *b).to_i64()).collect(),
            events.iter().zip(&their_events).map(|(a, b)| (*a + *b).0).collect(),
        ))
    }
}

impl Online<Server> {
    /// Sends the server's shares; returns nothing.
    pub fn logits(&mut self, ch: &mut dyn Channel, model: &ServerModel, x: &Tensor<Server>) -> Result<()> {
        self.check(x, Kind::Input(Site::Head))?;
        let vocab = self.plan.model.vocab;
        let mut y = model.multiply(&self.plan, Site::Head, &x.data, x.rows);
        for (row, head) in y.chunks_mut(vocab).zip(std::mem::take(&mut self.head_now)) {
            row.iter_mut().zip(head.share.iter()).for_each(|(v, s)| *v += *s);
            add_bias(row, model.bias(Site::Head));
        }
        self.trace.truncated(x.data.iter().copied());
        let mut message = fp_to_bytes(&y);
        message.extend(words_to_bytes(&self.release_events(x.rows)));
        Ok(ch.send(&message)?)
    }
}
