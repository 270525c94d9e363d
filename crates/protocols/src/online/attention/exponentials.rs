//! Exponentials of scores (A5.5a, A5.5b): relative to their anchor, looked up, truncated; with the
//! range events they meet.

use std::iter::repeat_n;

use cryptogen_ot::Table;
use cryptogen_party::{Party, Role};
use cryptogen_ring::word::words_from_bytes;
use cryptogen_ring::{Fp, Word};

use super::Call;
use crate::error::{ProtocolError, Result};
use crate::material::{exp_shape, TableKeys};
use crate::model::Anchor;
use crate::online::products::Side;
use crate::online::tables::{line, look_up_all};
use crate::online::Online;
use crate::share::local::{index, join, lift, rotation, sub_public, trunc, trunc_word};

/// Exponentials prepared for opening: keys, rotation share and argument share of every (head, j).
pub(super) struct Exponentials {
    keys: Vec<TableKeys>,
    pub(super) rotations: Vec<u32>,
    pub(super) deltas: Vec<Word>,
}

impl<P: Side> Online<P> {
    /// This party's half of the exponentials of its scores `[entries]`.
    pub(super) fn exponentials(&mut self, call: &Call, layer: usize, scores: &[Fp]) -> Result<Exponentials> {
        let plan = self.plan.clone();
        let spec = &plan.attention[layer];
        let shape = exp_shape(&plan, layer);
        let heads = plan.model.heads;
        let malformed = || ProtocolError::bug("exponentials of a row", "one per score", "another number");
        let mut out = Exponentials {
            keys: Vec::with_capacity(self.active.len()),
            rotations: Vec::with_capacity(call.entries),
            deltas: Vec::with_capacity(call.entries),
        };
        let (mut reduced, mut indices) = (Vec::with_capacity(call.entries), Vec::with_capacity(call.entries));
        let mut scores = scores;
        for row in self.active.iter_mut().filter(|row| row.position > 0) {
            let per_head = row.position + 1;
            let keys = TableKeys::new(shape, 8, row.attention[layer].exp.take()?)?;
            if keys.len() != heads * per_head {
                return Err(malformed());
            }
            let (now, later) = scores.split_at_checked(keys.len()).ok_or_else(malformed)?;
            scores = later;
            for (n, ((front, alpha), s)) in keys.heads().zip(now).enumerate() {
                let head = &spec.heads[n / per_head];
                let beta = words_from_bytes(front).ok_or_else(malformed)?[0];
                let run = &now[n / per_head * per_head..][..per_head];
                let x = trunc::<P>(relative::<P>(*s, run, head.anchor), head.anchor.shift());
                let i = index::<P>(sub_public::<P>(x, head.offset), head.h, spec.k);
                out.rotations.push(rotation(i, alpha, spec.k));
                out.deltas.push(lift::<P>(sub_public::<P>(x, head.center)) - beta);
                reduced.push(x);
                indices.push(i);
            }
            out.keys.push(keys);
        }
        self.trace.truncated(reduced);
        self.trace.index(indices, spec.k);
        Ok(out)
    }

    /// This party's shares of `e'`, `[entries]`.
    pub(super) fn weights(
        &mut self,
        call: &Call,
        layer: usize,
        mine: Exponentials,
        deltas: &[Word],
        rotations: &[u32],
    ) -> Result<Vec<Fp>> {
        let plan = self.plan.clone();
        let spec = &plan.attention[layer];
        let rotations: Vec<u32> =
            mine.rotations.iter().zip(rotations).map(|(a, b)| join(*a, *b, spec.k)).collect();
        let tables: Vec<Vec<&Table>> =
            spec.heads.iter().map(|h| [h.a, h.b, h.g].map(|t| plan.look_up_table(t)).to_vec()).collect();
        let heads: Vec<usize> = call.pairs.iter().flat_map(|&(_, g, t)| repeat_n(g, t + 1)).collect();
        let sums = look_up_all::<P>(mine.keys, &rotations, &tables, |n| heads[n])?;
        let weights: Vec<Fp> = (sums.chunks_exact(6).zip(mine.deltas.iter().zip(deltas)).zip(&heads))
            .map(|((sums, (a, b)), g)| trunc_word::<P>(line(*a + *b, sums, 2), spec.heads[*g].e_shift))
            .collect();
        for (&(i, _, t), start) in call.pairs.iter().zip(&call.starts) {
            let guards = sums[6 * start..6 * (start + t + 1)].chunks_exact(6).map(|sums| sums[4]);
            self.add_events(i, t + 1, guards);
        }
        self.trace.truncated(weights.iter().copied());
        Ok(weights)
    }
}

/// This party's share of a score relative to the anchor of its run, which for [`Anchor::Both`] is
/// left doubled (A5.5a).
///
/// Of the anchor itself both shares would be 0, and those truncate wrongly: they add up to 0, not
/// to p (A1). So the parties shift all differences alike, by shares of 0 that give the nearest
/// outcomes: 0 and, at any offset, the upper index.
fn relative<P: Party>(s: Fp, run: &[Fp], anchor: Anchor) -> Fp {
    let (first, own) = (run[0], run[run.len() - 1]);
    let x = match anchor {
        Anchor::First => s - first,
        Anchor::Own => s - own,
        Anchor::Both => s + s - first - own,
    };
    match P::ROLE {
        Role::Client => x + Fp::new(ZERO_SHARE),
        Role::Server => x - Fp::new(ZERO_SHARE),
    }
}

/// The client's share of 0 in [`relative`]: far from both ends of the field, and such that the
/// anchor becomes exactly 0 and meets the lower of its two pieces, for every shift of A5.5a and
/// pieces of `2^3` and more. Calibration makes that piece right at 0.
const ZERO_SHARE: u64 = (1 << 63) + (1 << 14) + 2;

#[cfg(test)]
mod tests {
    use cryptogen_party::{Client, Server};

    use super::*;
    use crate::model::F;

    #[test]
    fn the_anchor_is_zero_and_meets_the_piece_before_it() {
        let scores = [Fp::from_i64(-77), Fp::from_i64(5)];
        for (anchor, at, shift) in [(Anchor::First, 0, F), (Anchor::Own, 1, F), (Anchor::Both, 0, F + 1)] {
            // The server's shares are 0: the scores are the client's, and all that is met is the
            // anchor itself.
            let run = if anchor == Anchor::Both { [scores[0]; 2] } else { scores };
            let client = trunc::<Client>(relative::<Client>(run[at], &run, anchor), shift);
            let server = trunc::<Server>(relative::<Server>(Fp::ZERO, &[Fp::ZERO; 2], anchor), shift);
            assert_eq!((client + server).to_i64(), 0);
            for h in 3..=16 {
                let offset = -(300 << h);
                let mine = index::<Client>(client, h, 9);
                let theirs = index::<Server>(sub_public::<Server>(server, offset), h, 9);
                assert_eq!(join(mine, theirs, 9), 299, "{anchor:?} {h}");
            }
        }
    }
}
