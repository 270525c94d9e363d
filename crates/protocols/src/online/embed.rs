//! The embedding of private tokens (A5.1): the product of the embedding and a unit vector.
//!
//! Functionality: token ids → shares of `h = TR(E[token] + P[t], shift)`, where `P` is there only
//! if the model has learned positions.
//! Source: `docs/protocols/preprocessed.md` §4.1.
//! Inputs: client `T` token ids; server `E`, at scale F + `embed.shift`, and `P` at the same.
//! Result: `h`, `[T, d]`, over `F_p` at scale F.
//! Cost: 1 message (C→S), `8·vocab` bytes per row.
//! Material: the client's mask `Embed`, `r`, and shares of `Eᵀ·r`.
//! Leaks: nothing. The unit vector is padded in every number.
//!
//! 1. C→S `x − r`, where `x` is 1 at the token and 0 elsewhere. The server adds `Eᵀ·(x − r)`, its
//!    share and `P[t]`; both truncate.

use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

use super::products::Side;
use super::{Online, Turn};
use crate::error::{ProtocolError, Result};
use crate::model::{Plan, ServerModel};
use crate::share::local::trunc;
use crate::share::{Cost, Kind, Opened, Opening, Tensor};

/// Rounds and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    Cost::of(&[(Role::Client, 8 * plan.model.vocab * rows)])
}

impl Online<Client> {
    /// Starts a forward pass over `tokens`, of which the last `sampled` rows will be sampled.
    pub fn embed(
        &mut self,
        ch: &mut dyn Channel,
        tokens: &[usize],
        sampled: usize,
    ) -> Result<Tensor<Client>> {
        let plan = self.plan.clone();
        let vocab = plan.model.vocab;
        if tokens.iter().any(|token| *token >= vocab) {
            return Err(ProtocolError::caller("token", format!("below {vocab}"), "a larger id"));
        }
        self.begin(tokens.len(), sampled)?;
        let mut message = Opening::new();
        for (row, &token) in self.active.iter().zip(tokens) {
            let mut unit = Zeroizing::new(vec![Fp::ZERO; vocab]);
            unit[token] = Fp::ONE;
            message.masked(&unit, &row.material.embed_mask(vocab));
        }
        message.send(ch)?;
        self.embedded(tokens.len(), vec![Fp::ZERO; tokens.len() * plan.model.d])
    }
}

impl Online<Server> {
    /// Starts a forward pass over `rows` rows, of which the last `sampled` will be sampled.
    pub fn embed(
        &mut self,
        ch: &mut dyn Channel,
        model: &ServerModel,
        rows: usize,
        sampled: usize,
    ) -> Result<Tensor<Server>> {
        self.begin(rows, sampled)?;
        let plan = self.plan.clone();
        let (d, vocab) = (plan.model.d, plan.model.vocab);
        let x = Opened::recv(ch, rows * vocab, 0)?.words(rows * vocab)?;
        let mut y = model.embed(&plan, &x);
        for (row, y) in self.active.iter().zip(y.chunks_mut(d)) {
            let position = model.positions.as_ref().map(|p| &p[row.position * d..(row.position + 1) * d]);
            y.iter_mut()
                .zip(position.unwrap_or_default())
                .for_each(|(y, p)| *y += Fp::from_i64(i64::from(*p)));
        }
        self.embedded(rows, y)
    }
}

impl<P: Side> Online<P> {
    /// Adds this party's shares of `Eᵀ·r` to `y` `[T, d]`, and truncates.
    fn embedded(&mut self, rows: usize, mut y: Vec<Fp>) -> Result<Tensor<P>> {
        let plan = self.plan.clone();
        for (row, y) in self.active.iter().zip(y.chunks_mut(plan.model.d)) {
            let share = row.material.words(self.layout.embed(), plan.model.d)?;
            y.iter_mut().zip(share).for_each(|(y, share)| *y = trunc::<P>(*y + share, plan.embed.shift));
        }
        self.trace.truncated(y.iter().copied());
        Ok(Tensor::new(Kind::Hidden, rows, y))
    }

    /// Takes the material of rows and logits of a forward pass.
    fn begin(&mut self, rows: usize, sampled: usize) -> Result<()> {
        self.between_passes("step of a pass")?;
        if rows == 0 {
            return Err(ProtocolError::caller("rows of a pass", "1 or more", 0));
        }
        if sampled > rows {
            return Err(ProtocolError::caller("rows with logits", format!("up to {rows}"), sampled));
        }
        if self.logits_ready.len() < sampled {
            return Err(ProtocolError::Short {
                what: "logits",
                needed: sampled as u64,
                available: self.logits_ready.len() as u64,
            });
        }
        self.activate(rows)?;
        self.logits_now = self.logits_ready.drain(..sampled).collect();
        self.turn = Some(Turn::FIRST);
        Ok(())
    }
}
