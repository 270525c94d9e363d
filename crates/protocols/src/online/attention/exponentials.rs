//! Exponentials of scores (A5.5a, A9): relative to their anchor, as a product of one factor of each
//! party modulo every prime, brought back to `F_p`.

use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_ring::exponential::{factors_server, multiply_add, weight_client, MAX_PRIMES};
use cryptogen_ring::{Fp, Wiped};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::Call;
use crate::error::{ProtocolError, Result};
use crate::material::HeadFactors;
use crate::model::{Anchor, F};
use crate::online::products::Side;
use crate::online::Online;
use crate::share::local::trunc;
use crate::share::{Opened, Opening};

impl<P: Side> Online<P> {
    /// This party's shares of the scores relative to their anchors, `[entries]` at scale F.
    pub(super) fn relative_scores(&mut self, call: &Call, scores: &[Fp]) -> Result<Wiped<Fp>> {
        if scores.len() != call.entries {
            return Err(ProtocolError::bug("scores of a layer", call.entries, scores.len()));
        }
        let heads = &self.plan.attention[call.layer].heads;
        let mut out = Vec::with_capacity(call.entries);
        for (&(_, g, t), &at) in call.pairs.iter().zip(&call.starts) {
            out.extend(relative::<P>(&scores[at..=at + t], heads[g].anchor));
        }
        self.trace.truncated(out.iter().copied());
        Ok(Wiped::new(out))
    }

    /// What the material holds for every pair, in their order. It leaves once, before anything of
    /// these rows is opened.
    pub(super) fn factors(&mut self, call: &Call) -> Result<Vec<HeadFactors>> {
        let mut out = Vec::with_capacity(call.pairs.len());
        for i in call.softmax_rows() {
            let cached = call.positions[i] + 1;
            out.extend(self.active[i].attention[call.layer].exponentials.take::<P>(cached)?);
        }
        let heads = &self.plan.attention[call.layer].heads;
        let fits = |(f, &(_, g, t)): (&HeadFactors, &(usize, usize, usize))| {
            f.primes == heads[g].primes && f.words.len() == (t + 1) * HeadFactors::numbers::<P>(f.primes)
        };
        if out.len() != call.pairs.len() || !out.iter().zip(&call.pairs).all(fits) {
            return Err(ProtocolError::bug("exponentials of a layer", "those of its heads", "others"));
        }
        Ok(out)
    }
}

impl Online<Client> {
    /// Step 2: opens its scores under the shares `c` that its material fixed, which they are from
    /// then on.
    pub(super) fn fix_scores(
        &mut self,
        call: &Call,
        scores: &[Fp],
        factors: &[HeadFactors],
        message: &mut Opening,
    ) -> Result<()> {
        let x = self.relative_scores(call, scores)?;
        let mut fixed = Wiped::new(Vec::with_capacity(call.entries));
        for f in factors {
            let records = f.words.chunks_exact(HeadFactors::numbers::<Client>(f.primes));
            fixed.extend(records.map(|record| Fp::new(record[0])));
        }
        self.trace.fractions(fixed.iter().map(|c| c.value() & ((1 << F) - 1)));
        message.masked(&x, &fixed);
        Ok(())
    }

    /// Step 3: its shares of `e'`, `[entries]`, from the server's opened factors.
    pub(super) fn weights(
        &mut self,
        call: &Call,
        factors: Vec<HeadFactors>,
        opened: &mut Opened,
    ) -> Result<Wiped<Fp>> {
        let plan = self.plan.clone();
        let heads = &plan.attention[call.layer].heads;
        let (mut out, mut tasks) = (Wiped::zeros(call.entries), Vec::with_capacity(factors.len()));
        let mut rest = &mut out[..];
        for (f, &(_, g, t)) in factors.into_iter().zip(&call.pairs) {
            let (weights, others) = std::mem::take(&mut rest).split_at_mut(t + 1);
            rest = others;
            tasks.push((opened.residues(f.primes, t + 1)?, f, heads[g].shift, weights));
        }
        tasks.into_par_iter().for_each(|(opened, f, shift, weights)| {
            let n = f.primes;
            let mut z = Zeroizing::new([0; MAX_PRIMES]);
            let records = f.words.chunks_exact(HeadFactors::numbers::<Client>(n)).zip(opened.chunks_exact(n));
            for (weight, (record, epsilon)) in weights.iter_mut().zip(records) {
                let (a, w) = record[1..].split_at(n);
                for (i, z) in z[..n].iter_mut().enumerate() {
                    *z = multiply_add(i, w[i], a[i], epsilon[i]);
                }
                *weight = weight_client(&z[..n], shift);
            }
        });
        self.trace.truncated(out.iter().copied());
        Ok(out)
    }
}

impl Online<Server> {
    /// Its shares of `e'`, `[entries]`, which its material alone determines.
    pub(super) fn weights(&mut self, call: &Call) -> Wiped<Fp> {
        let weights = call.weight_masks(&self.active);
        self.trace.fractions(std::iter::repeat_n(0, call.entries));
        self.trace.truncated(weights.iter().copied());
        weights
    }

    /// Step 3: opens its factors for its shares `x` of the scores, `[entries]`, under `masks`.
    pub(super) fn open_factors(&self, call: &Call, x: &[Fp], masks: &[HeadFactors], message: &mut Opening) {
        let heads = &self.plan.attention[call.layer].heads;
        let factors: Vec<Wiped<u64>> = (call.pairs.par_iter().zip(&call.starts))
            .map(|(&(_, g, t), &at)| {
                let n = heads[g].primes;
                let mut factors = Wiped::zeros((t + 1) * n);
                for (x, factors) in x[at..=at + t].iter().zip(factors.chunks_exact_mut(n)) {
                    factors_server(*x, heads[g].bottom, factors);
                }
                factors
            })
            .collect();
        for (factors, masks) in factors.iter().zip(masks) {
            message.masked_residues(masks.primes, factors, &masks.words);
        }
    }
}

/// This party's shares of the scores of a query `[t + 1]` relative to their anchor (A5.5a).
///
/// Of the anchor itself both shares would be 0, and those truncate wrongly: they add up to 0, not
/// to p (A1). So the parties shift all differences alike, by shares of 0 that give the nearest
/// outcome, 0.
fn relative<P: Party>(run: &[Fp], anchor: Anchor) -> impl Iterator<Item = Fp> + '_ {
    let level: Fp = anchor.rows(run.len() - 1).map(|j| run[j]).sum();
    run.iter().map(move |s| {
        let x = *s * Fp::new(anchor.factor()) - level;
        let shifted = match P::ROLE {
            Role::Client => x + Fp::new(ZERO_SHARE),
            Role::Server => x - Fp::new(ZERO_SHARE),
        };
        trunc::<P>(shifted, anchor.shift())
    })
}

/// The client's share of 0 in [`relative`]: far from both ends of the field, and such that the
/// anchor becomes exactly 0, for every shift of A5.5a.
const ZERO_SHARE: u64 = (1 << 63) + (1 << 14) + 2;

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Anchor; 5] = [Anchor::First, Anchor::Own, Anchor::Both, Anchor::Spread, Anchor::OwnSpread];

    #[test]
    fn the_anchor_is_zero() {
        for anchor in ALL {
            // All scores that an anchor is made of are alike, and all others are not. The server's
            // shares are 0: the scores are the client's.
            let mut scores = vec![Fp::from_i64(-77); 20];
            let rows: Vec<usize> = anchor.rows(19).collect();
            assert_eq!(rows.len() as u64, anchor.factor());
            rows.iter().for_each(|j| scores[*j] = Fp::from_i64(5 << 20));
            let client: Vec<Fp> = relative::<Client>(&scores, anchor).collect();
            let server: Vec<Fp> = relative::<Server>(&[Fp::ZERO; 20], anchor).collect();
            for (j, (c, s)) in client.iter().zip(&server).enumerate() {
                let expected = if rows.contains(&j) { 0 } else { -(5 << 8) - 1 };
                assert!([expected, expected + 1].contains(&(*c + *s).to_i64()), "{anchor:?}, row {j}");
                assert!(expected != 0 || *c + *s == Fp::ZERO, "{anchor:?}, row {j}");
            }
        }
    }

    #[test]
    fn anchors_are_where_the_note_says() {
        let rows = |anchor: Anchor, t| anchor.rows(t).collect::<Vec<_>>();
        assert_eq!(rows(Anchor::Both, 5), [5, 0]);
        assert_eq!(rows(Anchor::Spread, 17), [2, 4, 6, 8, 10, 12, 14, 17]);
        assert_eq!(rows(Anchor::Spread, 1), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(rows(Anchor::OwnSpread, 9), [9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 9]);
    }
}
