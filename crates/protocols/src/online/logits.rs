//! The output head (A5.8, A8): the server sends the leading bits of its shares of the logits, and
//! its shares of the rows' range events (A7).
//!
//! Functionality: `x − r'` with the server → the client learns the leading 24 bits of `W·x + b` of
//! every sampled row, rounded up or down as its own share has it, and how many range events the row
//! has had.
//! Source: `docs/protocols/preprocessed.md` §4.6.
//! Inputs: server `x − r'`, `[rows, d]`, at scale F, with `W` and `b` of the head; both their
//! shares of events, one integer modulo `2^64` a row. Result: logits `[rows, vocab]`, integers of
//! 24 bits at scale F + `f_w` + `logit_shift` − 40 ([`Plan::logit_shift`]).
//! Cost: 1 message (S→C), `3·vocab + 8` bytes per sampled row: all logits, then the events.
//! Material: a `logits` record per sampled row, with a share of `W·r'`.
//! Leaks: to the client, by design, the logits, and how many look-ups met a guard, of this row and
//! those before it that nobody sampled; neither which look-ups they were nor where in a table.

use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::trunc::{join_leading, LEADING_BITS};
use cryptogen_ring::word::words_to_bytes;
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

use super::linear::add_bias;
use super::products::Side;
use super::{Online, Turn};
use crate::error::Result;
use crate::model::{Plan, ServerModel, Site};
use crate::share::local::leading;
use crate::share::{Cost, Kind, Opened, Tensor};

/// Bytes of a logit.
const BYTES: usize = LEADING_BITS as usize / 8;

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    Cost::of(&[(Role::Server, (BYTES * plan.model.vocab + 8) * rows)])
}

impl<P: Side> Online<P> {
    /// The leading bits of this party's shares `y` of logits.
    fn leading(&mut self, y: impl Iterator<Item = Fp>) -> Vec<u32> {
        let scale = Fp::from_u128(1 << self.plan.logit_shift());
        let bits: Vec<u32> = y.map(|y| leading::<P>(y * scale)).collect();
        self.trace.index(bits.iter().copied(), LEADING_BITS);
        bits
    }
}

impl Online<Client> {
    /// Returns the logits `[rows, vocab]` as integers of 24 bits at scale F + `f_w` + `logit_shift`
    /// − 40, and the range events of each row.
    pub fn logits(&mut self, ch: &mut dyn Channel, x: &Tensor<Client>) -> Result<(Vec<i64>, Vec<u64>)> {
        self.check(x, Kind::Input(Site::Head))?;
        self.take_turn(Turn::Logits)?;
        let n = self.plan.model.vocab * x.rows;
        let mut message = Opened::recv_bytes(ch, BYTES * n + 8 * x.rows)?;
        let (theirs, their_events) = (message.leading(n)?, message.ring_words(x.rows)?);
        self.log_remask(Site::Head, x.rows);
        let material = std::mem::take(&mut self.logits_now);
        let mine = self.leading(material.iter().flat_map(|m| m.share.iter().copied()));
        let events = self.release_events(x.rows);
        Ok((
            mine.into_iter().zip(theirs).map(|(c, s)| join_leading(c, s)).collect(),
            events.iter().zip(&their_events).map(|(a, b)| (*a + *b).0).collect(),
        ))
    }
}

impl Online<Server> {
    /// Sends the server's part; returns nothing.
    pub fn logits(&mut self, ch: &mut dyn Channel, model: &ServerModel, x: &Tensor<Server>) -> Result<()> {
        self.check(x, Kind::Input(Site::Head))?;
        self.take_turn(Turn::Logits)?;
        let vocab = self.plan.model.vocab;
        // Wiped: the bits that do not travel are no one's business.
        let mut y = Zeroizing::new(model.multiply(&self.plan, Site::Head, &x.data, x.rows));
        for (row, material) in y.chunks_mut(vocab).zip(std::mem::take(&mut self.logits_now)) {
            row.iter_mut().zip(material.share.iter()).for_each(|(v, s)| *v += *s);
            add_bias(row, model.bias(Site::Head));
        }
        self.trace.truncated(x.data.iter().copied());
        let bits = self.leading(y.iter().copied());
        let mut message = Vec::with_capacity(BYTES * bits.len() + 8 * x.rows);
        bits.iter().for_each(|bits| message.extend_from_slice(&bits.to_le_bytes()[..BYTES]));
        message.extend(words_to_bytes(&self.release_events(x.rows)));
        Ok(ch.send(&message)?)
    }
}
