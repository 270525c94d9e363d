//! One party's shares in and out of slots, the same code for both parties.

use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::Fp;

use super::schedule::{Product, Schedule};
use crate::cache::Piece;
use crate::exchange::SlotShare;
use crate::layout::{CacheLayout, QueryShape};

/// Slots of ciphertext `i` of new keys (or values): `[piece][pack]`.
pub(super) fn row_slots(layout: &CacheLayout, rows: &[Vec<Fp>], pieces: &[Piece], i: usize) -> SlotShare {
    let piece = &pieces[i / layout.packs()];
    let rows: Vec<&[Fp]> = rows[piece.rows.clone()].iter().map(Vec::as_slice).collect();
    layout.place(i % layout.packs(), piece.at, &rows)
}

/// The first `n` weights and the rest.
pub(super) fn split(weights: &[Fp], n: usize) -> Result<(&[Fp], &[Fp])> {
    let short = || ProtocolError::bug("attention weights", format!("at least {n}"), weights.len());
    weights.split_at_checked(n).ok_or_else(short)
}

impl Schedule {
    fn heads(&self) -> usize {
        self.layout.kv_heads * self.layout.group
    }

    /// Scores `(row, head, cached token)` of the rows that run the softmax.
    pub fn entries(&self) -> usize {
        self.entry(self.heads(), self.rows, 0, 0)
    }

    /// Values `(row, head, feature)` of the rows that run the softmax.
    pub fn columns(&self) -> usize {
        self.softmax_row(self.rows) * self.heads() * self.layout.head_dim
    }

    /// Slots of ciphertext `i` of a message of queries: `[query][member][pack]`.
    pub(crate) fn query_slots(&self, rows: &[Vec<Fp>], queries: &[usize], i: usize) -> SlotShare {
        let (packs, group, d, t) =
            (self.layout.packs(), self.layout.group, self.layout.head_dim, self.layout.tokens());
        let (query, member, pack) = (queries[i / (packs * group)], i / packs % group, i % packs);
        self.layout.fill(pack, |x, head, e| {
            let row = match self.shape {
                QueryShape::Row => query,
                QueryShape::Block => query * t + x,
            };
            rows.get(row).map_or(Fp::ZERO, |q| q[(head * group + member) * d + e])
        })
    }

    /// Slots of the weights of a product.
    pub(crate) fn weight_slots(&self, p: &Product, weights: &[Fp]) -> SlotShare {
        let (heads, group) = (self.heads(), self.layout.group);
        self.layout.replicate(|x, head| match self.pair(p, x) {
            Some((row, token)) => weights[self.entry(heads, row, head * group + p.member, token)],
            None => Fp::ZERO,
        })
    }

    /// Takes the scores of a product out of its slots.
    pub(crate) fn take_scores(&self, p: &Product, slots: &[Fp], scores: &mut [Fp]) {
        let (heads, group) = (self.heads(), self.layout.group);
        for x in 0..self.layout.tokens() {
            let Some((row, token)) = self.pair(p, x) else { continue };
            for head in 0..self.layout.kv_heads {
                scores[self.entry(heads, row, head * group + p.member, token)] =
                    self.layout.score(slots, x, head);
            }
        }
    }

    /// Adds a ciphertext of values: output `(member, giant)` of a query, one pack of features.
    pub(crate) fn add_values(
        &self,
        query: usize,
        (member, giant): (usize, usize),
        pack: usize,
        slots: &[Fp],
        values: &mut [Fp],
    ) {
        let (l, heads) = (&self.layout, self.heads());
        let first = pack * l.features();
        for x in 0..l.tokens() {
            let Some(row) = self.row(query, giant, x) else { continue };
            for head in 0..l.kv_heads {
                let at = (self.softmax_row(row) * heads + head * l.group + member) * l.head_dim + first;
                for e in 0..l.features().min(l.head_dim - first) {
                    values[at + e] += slots[l.slot(x, head, e)];
                }
            }
        }
    }
}
