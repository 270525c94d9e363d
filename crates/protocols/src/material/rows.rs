//! What a forward pass takes: rows with all their material at a fixed position, and evaluations of
//! the output head.

use cryptogen_party::Party;
use cryptogen_ring::{Fp, Seed, Wiped, Word};
use zeroize::Zeroizing;

use super::exponentials::Exponentials;
use super::masks::MaskLabel;
use super::row_material::RowMaterial;
use crate::model::{Plan, Site};
use crate::share::local::{trunc, trunc_word};
use crate::share::Events;

/// Attention material of one row and layer, made when the row was given its position.
#[derive(Default)]
pub struct RowAttention {
    /// shares of `q_c·m_k,j + u·k_c,j`, `[heads][t+1]`
    pub score: Wiped<Fp>,
    /// shares of `Σ_j a_j·w_j + b_j·v_c,j`, `[heads·head_dim]`
    pub value: Wiped<Fp>,
    /// `[heads][t+1]`: the client's masks `a` of its weights; the server's weights `e'_s`, which
    /// are their own masks
    pub weight_mask: Wiped<Fp>,
    /// of every head and cached row
    pub exponentials: Exponentials,
}

/// A row with all its material, at a fixed position of the session.
pub struct Row<P: Party> {
    pub(crate) material: RowMaterial<P>,
    pub(crate) position: usize,
    pub(crate) attention: Vec<RowAttention>,
    /// of the row's look-ups so far, until its logits are computed
    pub(crate) events: Events,
}

impl<P: Party> Row<P> {
    /// The client's re-mask `r` of a site of a layer; behind activations see [`Row::remask_words`].
    pub(crate) fn remask(&self, plan: &Plan, site: Site) -> Vec<Fp> {
        self.material.expand_mask(MaskLabel::Remask, site.index(plan.model.layers), plan.linear(site).d_in)
    }

    /// The same behind an activation, modulo `2^64`.
    pub(crate) fn remask_words(&self, plan: &Plan, layer: usize) -> Vec<Word> {
        let site = Site::Down(layer);
        self.material.mask_words(MaskLabel::Remask, site.index(plan.model.layers), plan.linear(site).d_in)
    }

    /// The client's share `r'` of the input of a layer's matrix, `[d_in]`.
    pub fn input_share(&self, plan: &Plan, site: Site) -> Zeroizing<Vec<Fp>> {
        let shifts = &plan.linear(site).in_shift;
        let r = match site {
            Site::Down(layer) => {
                let r = self.remask_words(plan, layer);
                r.iter().zip(shifts).map(|(r, &k)| trunc_word::<P>(*r, k)).collect()
            }
            _ => self.remask(plan, site).iter().zip(shifts).map(|(r, &k)| trunc::<P>(*r, k)).collect(),
        };
        Zeroizing::new(r)
    }
}

/// Material for the logits of one row.
pub struct LogitsMaterial {
    pub(crate) seed: Seed,
    pub(crate) share: Wiped<Fp>,
}
