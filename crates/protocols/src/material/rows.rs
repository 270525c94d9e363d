//! What a forward pass takes: rows with all their material at a fixed position, and evaluations of the output head.

use cryptogen_party::Party;
use cryptogen_ring::{Fp, Seed, Wiped};

use super::deferred::Deferred;
use super::slot::Slot;
use crate::share::Events;

/// Attention material of one row and layer, made when the row was given its position.
pub struct RowAttention {
    /// shares of `q_c·m_k,j + u·k_c,j`, `[heads][t+1]`
    pub score: Wiped<Fp>,
    /// shares of `Σ_j a_j·w_j + b_j·v_c,j`, `[heads·head_dim]`
    pub value: Wiped<Fp>,
    /// this party's masks of its weights, `a` or `b`, `[heads][t+1]`
    pub weight_mask: Wiped<Fp>,
    /// exponential tables, `[heads][t+1]` records of 8 bytes payload share and a key
    pub exp: Deferred,
}

/// A row with all its material, at a fixed position of the session.
pub struct Row<P: Party> {
    pub(crate) slot: Slot<P>,
    pub(crate) position: usize,
    pub(crate) attention: Vec<RowAttention>,
    /// of the row's look-ups so far, until its logits are computed
    pub(crate) events: Events,
}

/// Material of one evaluation of the output head.
pub struct HeadSlot {
    pub(crate) seed: Seed,
    pub(crate) share: Wiped<Fp>,
}
