//! A4: a positive scalar function (1/rms, 1/σ) of shared values, for a batch of rows.
//!
//! Functionality: shares of `m` → shares of `ρ = SCALAR(m)`. Source: `docs/protocols/arithmetic.md` A4.
//! Messages ride on those of the caller: (1) each party's rotations and arguments of both ranges, (2) with two ranges,
//! each party's masked fine value. Material: one key per range. Leaks: nothing (all openings are one-time padded).

use cryptogen_mpc::party::Party;
use cryptogen_ot::TableKey;
use cryptogen_ring::{Fp, Word};

use super::tables::{index, join, lift, line, look_up, rotation, trunc, trunc_word, Lookup};
use crate::error::Result;
use crate::plan::{Plan, Range, Scalar};
use crate::trace::Trace;
use crate::wire::{Incoming, Opening};

/// Material of one scalar: keys with the party's shares of their payloads.
pub struct ScalarKeys {
    pub hi: TableKey,
    pub hi_beta: Word,
    /// payload share that multiplies the fine value; unused without a fine range
    pub fine_beta: Word,
    pub lo: Option<(TableKey, Word)>,
}

struct Argument {
    key: TableKey,
    rotation: u32,
    delta: Word,
    reduced: Fp,
    index: u32,
}

/// After the local part of step 1: everything is ready to be opened.
pub struct Started<'a> {
    specs: Vec<&'a Scalar>,
    hi: Vec<Argument>,
    lo: Vec<Argument>,
    fine_beta: Vec<Word>,
}

/// Words and rotations of the first message for `n` scalars.
pub fn first_message(spec: &Scalar, n: usize) -> (usize, usize) {
    let ranges = 1 + usize::from(spec.lo.is_some());
    (ranges * n, ranges * n)
}

/// Bytes of the first message of each party for `n` scalars.
pub(crate) fn first_bytes(spec: &Scalar, n: usize) -> usize {
    let (words, rotations) = first_message(spec, n);
    8 * words + 2 * rotations
}

/// Words of the second message for `n` scalars.
pub fn second_message(spec: &Scalar, n: usize) -> usize {
    if spec.lo.is_some() {
        n
    } else {
        0
    }
}

/// Step 1, local: truncate, index, subtract the masks. `specs`, `m`, `keys` run over the batch; all specs must
/// agree on having a fine range.
pub fn start<'a, P: Party>(specs: Vec<&'a Scalar>, m: &[Fp], keys: Vec<ScalarKeys>) -> Started<'a> {
    let argument = |r: &Range, m: Fp, key: TableKey, beta: Word| {
        let reduced = trunc::<P>(m, r.mu);
        let i = index::<P>(reduced, r.h, r.k);
        Argument {
            rotation: rotation(i, key.alpha(), r.k),
            key,
            delta: lift::<P>(reduced) - beta,
            reduced,
            index: i,
        }
    };
    let mut out = Started { hi: vec![], lo: vec![], fine_beta: vec![], specs };
    for ((spec, &m), k) in out.specs.iter().zip(m).zip(keys) {
        out.hi.push(argument(&spec.hi, m, k.hi, k.hi_beta));
        if let (Some(range), Some((key, beta))) = (&spec.lo, k.lo) {
            out.lo.push(argument(range, m, key, beta));
        }
        out.fine_beta.push(k.fine_beta);
    }
    out
}

impl<'a> Started<'a> {
    /// Logs the truncations and indices of step 1.
    pub(crate) fn log(&self, trace: &mut Trace) {
        for range in [&self.hi, &self.lo] {
            trace.truncated(range.iter().map(|a| a.reduced));
        }
        if let Some(spec) = self.specs.first() {
            trace.index(self.hi.iter().map(|a| a.index), spec.hi.k);
            trace.index(self.lo.iter().map(|a| a.index), spec.lo.as_ref().map_or(0, |r| r.k));
        }
    }

    /// Appends this party's part of message 1.
    pub fn push(&self, message: &mut Opening) {
        for range in [&self.hi, &self.lo] {
            message.differences(&range.iter().map(|a| a.delta).collect::<Vec<_>>());
            message.rotations(&range.iter().map(|a| a.rotation).collect::<Vec<_>>());
        }
    }

    /// Step 2: with the peer's message 1, look up both ranges.
    pub fn evaluate<P: Party>(self, plan: &'a Plan, peer: &mut Incoming) -> Result<Evaluated<'a>> {
        let (specs, n, two) = (self.specs, self.hi.len(), !self.lo.is_empty());
        let mut values = Vec::with_capacity(n + self.lo.len());
        let mut select = Vec::with_capacity(self.lo.len());
        for (fine, range) in [(false, self.hi), (true, self.lo)] {
            let words = peer.ring_words(range.len())?;
            let rotations = peer.rotations(range.len())?;
            let mut lookups = Vec::with_capacity(range.len());
            let mut deltas = Vec::with_capacity(range.len());
            for (i, a) in range.into_iter().enumerate() {
                let spec = specs[i];
                let r = if fine { spec.lo.as_ref().unwrap_or(&spec.hi) } else { &spec.hi };
                // A table more where there is no Z: scalars are few.
                let tables = [r.a, r.b, r.z.unwrap_or(r.b)].map(|t| plan.look_up_table(t));
                deltas.push((a.delta + words[i], a.key.shape().m()));
                lookups.push(Lookup { rotation: join(a.rotation, rotations[i], r.k), key: a.key, tables });
            }
            let sums = look_up::<P>(lookups)?;
            values.extend(deltas.iter().zip(&sums).map(|(&(delta, m), sums)| line(delta, sums, m)));
            if two && !fine {
                // Z·1 and Z·β of the fine value, of keys with three payloads.
                select.extend(sums.iter().map(|sums| (sums[6], sums[8])));
            }
        }
        let fine = values.split_off(n);
        let masked = fine.iter().zip(&self.fine_beta).map(|(y, b)| *y - *b).collect();
        Ok(Evaluated { specs, coarse: values, select, masked })
    }
}

/// Between the two messages: coarse value, selector shares, masked fine value.
pub struct Evaluated<'a> {
    specs: Vec<&'a Scalar>,
    coarse: Vec<Word>,
    select: Vec<(Word, Word)>,
    masked: Vec<Word>,
}

impl Evaluated<'_> {
    /// Appends this party's part of message 2 (nothing with a single range).
    pub fn push(&self, message: &mut Opening) {
        message.differences(&self.masked);
    }

    /// Step 3: select and truncate. Returns shares of `ρ`.
    pub fn finish<P: Party>(self, peer: &mut Incoming) -> Result<Vec<Fp>> {
        let theirs = peer.ring_words(self.masked.len())?;
        let mut rho = Vec::with_capacity(self.specs.len());
        for (i, spec) in self.specs.iter().enumerate() {
            let mut y = self.coarse[i];
            if let Some((z, z_beta)) = self.select.get(i) {
                y += (self.masked[i] + theirs[i]) * *z + *z_beta;
            }
            rho.push(trunc_word::<P>(y, spec.out_shift));
        }
        Ok(rho)
    }
}
