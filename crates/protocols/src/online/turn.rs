//! The steps of a pass in their order: each is taken once, in its turn.
//!
//! A step opens values under masks that belong to it alone, so it must not run again with the same
//! rows. What consumes table keys could not: keys move. But row 0 attends without one, and a linear
//! layer needs none, so every step of every layer takes its turn, before anything is sent.

use std::fmt;

use rayon::prelude::*;

use super::products::Side;
use super::Online;
use crate::error::{ProtocolError, Result};
use crate::material::{RowAttention, RowLayout};
use crate::model::{Plan, Site};

/// A step behind the embedding, which begins a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The norm in front of a linear layer.
    Norm(Site),
    /// A linear layer.
    Linear(Site),
    /// A layer's attention.
    Attention(usize),
    /// A layer's activation.
    Activation(usize),
    /// The output head.
    Logits,
}

impl Turn {
    /// The first step behind the embedding.
    pub(crate) const FIRST: Turn = Turn::Norm(Site::Qkv(0));

    /// The step after this one; none after the last one of a pass.
    fn next(self, layers: usize, sampled: bool) -> Option<Turn> {
        Some(match self {
            Turn::Norm(Site::Head) => Turn::Logits,
            Turn::Norm(site) => Turn::Linear(site),
            Turn::Linear(Site::Qkv(l)) => Turn::Attention(l),
            Turn::Attention(l) => Turn::Linear(Site::O(l)),
            Turn::Linear(Site::O(l)) => Turn::Norm(Site::Up(l)),
            Turn::Linear(Site::Up(l)) => Turn::Activation(l),
            Turn::Activation(l) => Turn::Linear(Site::Down(l)),
            Turn::Linear(Site::Down(l)) if l + 1 < layers => Turn::Norm(Site::Qkv(l + 1)),
            Turn::Linear(Site::Down(_)) if sampled => Turn::Norm(Site::Head),
            Turn::Linear(Site::Down(_) | Site::Head) | Turn::Logits => return None,
        })
    }

    /// Where in a row's record that lies which the step uses, but for the keys of activations,
    /// which it takes itself.
    fn material(self, plan: &Plan, layout: &RowLayout) -> Vec<usize> {
        match self {
            Turn::Norm(site) => {
                plan.norm_before(site).map(|norm| layout.norm_square(norm)).into_iter().collect()
            }
            Turn::Linear(site) => vec![layout.linear(site)],
            Turn::Attention(l) => vec![layout.attention_out(l)],
            Turn::Activation(l) => vec![layout.activation_product(l), layout.activation_deltas(l)],
            Turn::Logits => vec![],
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Turn::Norm(site) => write!(f, "the norm in front of {}", site.name()),
            Turn::Linear(site) => write!(f, "the linear layer {}", site.name()),
            Turn::Attention(layer) => write!(f, "the attention of layer {layer}"),
            Turn::Activation(layer) => write!(f, "the activation of layer {layer}"),
            Turn::Logits => write!(f, "the logits"),
        }
    }
}

impl<P: Side> Online<P> {
    /// Takes the turn of a step, which it has from then on, whether it succeeds or not.
    ///
    /// # Errors
    /// `Caller` if it is the turn of another step, or of none; those of the store.
    pub(crate) fn take_turn(&mut self, step: Turn) -> Result<()> {
        if self.turn != Some(step) {
            let expected = self.turn.map_or("the embedding".into(), |turn| turn.to_string());
            return Err(ProtocolError::caller("step of a pass", expected, step));
        }
        self.turn = step.next(self.plan.model.layers, !self.logits_now.is_empty());
        self.bring_material(step)
    }

    /// Reads what a step uses of the rows' material, and forgets what the step before has used: a
    /// pass holds the material of one step.
    fn bring_material(&mut self, step: Turn) -> Result<()> {
        if let Turn::Linear(Site::O(layer)) = step {
            self.active.iter_mut().for_each(|row| row.attention[layer] = RowAttention::default());
        }
        let offsets = step.material(&self.plan, &self.layout);
        self.active.par_iter_mut().try_for_each(|row| row.material.turn_to(&offsets))
    }

    /// Refuses what may not happen in the middle of a pass.
    ///
    /// # Errors
    /// `Caller` in a pass, and after one that failed.
    pub(crate) fn between_passes(&self, what: &'static str) -> Result<()> {
        match self.turn {
            Some(turn) => Err(ProtocolError::caller(what, turn, "none in the middle of a pass")),
            None => Ok(()),
        }
    }
}
