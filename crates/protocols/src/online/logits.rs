//! The output head (A5.8): the server sends its share of the logits, the client learns them.
//!
//! Message: 1 (S→C), `8·vocab` bytes per row. Material: one head slot per row. Leaks: the logits, to the client, by design.

use cryptogen_mpc::party::{Client, Server};
use cryptogen_ot::{Channel, Role};
use cryptogen_ring::{fp_from_bytes, fp_to_bytes};

use super::linear::add_bias;
use super::{Kind, Online, ServerModel, Tensor};
use crate::cost::Cost;
use crate::error::{ProtocolError, Result};
use crate::plan::{Plan, Site};

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    Cost::of(&[(Role::Server, 8 * plan.model.vocab * rows)])
}

impl Online<Client> {
    /// Returns the logits `[rows, vocab]` as integers at scale `F + f_w`.
    pub fn logits(&mut self, ch: &mut dyn Channel, x: &Tensor<Client>) -> Result<Vec<i64>> {
        self.check(x, Kind::Input(Site::Head))?;
        let vocab = self.plan.model.vocab;
        let theirs = fp_from_bytes(&ch.recv(8 * vocab * x.rows)?)
            .ok_or(ProtocolError::Malformed { what: "logits" })?;
        self.log_remask(Site::Head, x.rows);
        let heads = std::mem::take(&mut self.head_now);
        let mine = heads.iter().flat_map(|h| h.share.iter());
        Ok(mine.zip(&theirs).map(|(a, b)| (*a + *b).to_i64()).collect())
    }
}

impl Online<Server> {
    /// Sends the server's share; returns nothing.
    pub fn logits(&mut self, ch: &mut dyn Channel, model: &ServerModel, x: &Tensor<Server>) -> Result<()> {
        self.check(x, Kind::Input(Site::Head))?;
        let vocab = self.plan.model.vocab;
        let mut y = model.multiply(&self.plan, Site::Head, &x.data, x.rows);
        for (row, head) in y.chunks_mut(vocab).zip(std::mem::take(&mut self.head_now)) {
            row.iter_mut().zip(head.share.iter()).for_each(|(v, s)| *v += *s);
            add_bias(row, model.bias(Site::Head));
        }
        self.trace.truncated(x.data.iter().copied());
        Ok(ch.send(&fp_to_bytes(&y))?)
    }
}
