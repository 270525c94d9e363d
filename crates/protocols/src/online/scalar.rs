//! A positive scalar function (1/rms, 1/σ) of shared values, for a batch (A4): a part of norm and
//! attention.
//!
//! Functionality: shares of `m` → shares of `ρ = SCALAR(m)`, 0 outside of its window, and of its
//! range events.
//! Source: `docs/protocols/preprocessed.md` §4.2; A4.
//! Inputs: client `m_c`, server `m_s`, one number a scalar, over `F_p` at the scale of `h'²` or of
//! `e'`. Result: `ρ` over `F_p` at a scale of the plan.
//! Cost: no message of its own. (1) In the caller's, from each party 10 bytes per range, rotation
//! and argument, and 2 for the net; (2) the masked coarse value, 8, if it shall be 0 outside, and
//! with two ranges 16 more: masked fine value and masked guard of the fine range.
//! Material: a key per range and one for the net; of two ranges that of the coarse one has payloads
//! for the argument, the fine value and its guard; that of the net has one for the coarse value.
//! Leaks: nothing. All that is opened is one-time padded.

use cryptogen_ot::TableKey;
use cryptogen_party::{Party, Role};
use cryptogen_ring::{Fp, Word};
use zeroize::Zeroizing;

use super::tables::{line, look_up, Lookup};
use crate::error::Result;
use crate::material::{
    hi_masks, hi_shape, lo_shape, net_shape, RowMaterial, ScalarLabels, ScalarPlaces, HI_MASKS,
};
use crate::model::{Plan, Range, Scalar, NET_BITS, NET_SHIFT};
use crate::share::local::{index, join, lift, rotation, trunc, trunc_word};
use crate::share::{Opened, Opening, Trace};

/// Material of one scalar: keys with the party's shares of their payloads.
pub struct ScalarKeys {
    /// key of the only or coarse range
    pub hi: TableKey,
    /// payload share that pads its argument
    pub hi_beta: Word,
    /// payload shares that multiply the fine value and the guard of the fine range; unused without
    /// one
    pub fine_betas: [Word; 2],
    /// key of the fine range, and the payload share that pads its argument
    pub lo: Option<(TableKey, Word)>,
    /// key of the net, and the payload share that pads the coarse value
    pub net: (TableKey, Word),
}

/// A row's keys of the `n` scalars number `index`, all of one class, with their payload shares.
/// They leave once.
///
/// # Errors
/// Those of the row's material.
pub(crate) fn scalar_keys<P: Party>(
    material: &mut RowMaterial<P>,
    spec: &Scalar,
    at: ScalarPlaces,
    [hi, lo, net]: ScalarLabels,
    (index, n): (usize, usize),
) -> Result<Vec<ScalarKeys>> {
    let words = material.mask_words(hi, index, HI_MASKS * n);
    let [of_lo, of_net] = [lo, net].map(|what| material.mask_words(what, index, n));
    let key = |i: usize| {
        let [hi_beta, fine_betas @ ..] = hi_masks(&words, i);
        let lo = match lo_shape(spec) {
            Some(shape) => Some((material.table(shape, at.lo, i)?, of_lo[i])),
            None => None,
        };
        let net = (material.table(net_shape(), at.net, i)?, of_net[i]);
        Ok(ScalarKeys { hi: material.table(hi_shape(spec), at.hi, i)?, hi_beta, fine_betas, lo, net })
    };
    (0..n).map(key).collect()
}

struct Argument {
    key: TableKey,
    rotation: u32,
    delta: Word,
    reduced: Fp,
    index: u32,
}

/// What a scalar is whose argument lies outside of its window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// 0: what it would multiply is garbage or means nothing, and no later row shall meet that
    Zero,
    /// arbitrary: in front of the head, where logits shall be absurd, for the client to see it (A8)
    Arbitrary,
}

/// Whether a scalar's argument is inside of its window at all.
struct Inside {
    key: TableKey,
    beta: Word,
    rotation: u32,
    reduced: Fp,
    index: u32,
}

/// After the local part of step 1: everything is ready to be opened.
pub struct Started<'a> {
    specs: Vec<&'a Scalar>,
    outside: Outside,
    hi: Vec<Argument>,
    lo: Vec<Argument>,
    net: Vec<Inside>,
    fine_betas: Vec<[Word; 2]>,
}

/// Words and rotations of the first message for `n` scalars.
pub fn first_message(spec: &Scalar, n: usize) -> (usize, usize) {
    let ranges = 1 + usize::from(spec.lo.is_some());
    (ranges * n, (ranges + 1) * n)
}

/// Bytes of the first message of each party for `n` scalars.
pub(crate) fn first_bytes(spec: &Scalar, n: usize) -> usize {
    let (words, rotations) = first_message(spec, n);
    8 * words + 2 * rotations
}

/// Words of the second message of each party for `n` scalars.
pub fn second_message(spec: &Scalar, outside: Outside, n: usize) -> usize {
    (usize::from(outside == Outside::Zero) + if spec.lo.is_some() { 2 } else { 0 }) * n
}

/// Step 1, local: truncate, index, subtract the masks. `specs`, `m`, `keys` run over the batch; all
/// specs must agree on having a fine range.
pub fn start<'a, P: Party>(
    specs: Vec<&'a Scalar>,
    outside: Outside,
    m: &[Fp],
    keys: Vec<ScalarKeys>,
) -> Started<'a> {
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
    let inside = |spec: &Scalar, m: Fp, (key, beta): (TableKey, Word)| {
        let reduced = trunc::<P>(m * Fp::new(1 << spec.net_lift()), NET_SHIFT);
        let i = index::<P>(reduced, spec.net_segment(), NET_BITS);
        Inside { rotation: rotation(i, key.alpha(), NET_BITS), key, beta, reduced, index: i }
    };
    let mut out = Started { hi: vec![], lo: vec![], net: vec![], fine_betas: vec![], specs, outside };
    for ((spec, &m), k) in out.specs.iter().zip(m).zip(keys) {
        out.hi.push(argument(&spec.hi, m, k.hi, k.hi_beta));
        if let (Some(range), Some((key, beta))) = (&spec.lo, k.lo) {
            out.lo.push(argument(range, m, key, beta));
        }
        out.net.push(inside(spec, m, k.net));
        out.fine_betas.push(k.fine_betas);
    }
    out
}

impl<'a> Started<'a> {
    /// Logs the truncations and indices of step 1.
    pub(crate) fn log(&self, trace: &mut Trace) {
        for range in [&self.hi, &self.lo] {
            trace.truncated(range.iter().map(|a| a.reduced));
        }
        trace.truncated(self.net.iter().map(|a| a.reduced));
        if let Some(spec) = self.specs.first() {
            trace.index(self.hi.iter().map(|a| a.index), spec.hi.k);
            trace.index(self.lo.iter().map(|a| a.index), spec.lo.as_ref().map_or(0, |r| r.k));
            trace.index(self.net.iter().map(|a| a.index), NET_BITS);
        }
    }

    /// Appends this party's part of message 1.
    pub fn push(&self, message: &mut Opening) {
        for range in [&self.hi, &self.lo] {
            message.differences(&range.iter().map(|a| a.delta).collect::<Vec<_>>());
            message.rotations(&range.iter().map(|a| a.rotation).collect::<Vec<_>>());
        }
        message.rotations(&self.net.iter().map(|a| a.rotation).collect::<Vec<_>>());
    }

    /// Step 2: with the peer's message 1, look up all ranges and the net.
    pub fn evaluate<P: Party>(self, plan: &'a Plan, peer: &mut Opened) -> Result<Evaluated<'a>> {
        let (specs, n, two) = (self.specs, self.hi.len(), !self.lo.is_empty());
        let mut values = Vec::with_capacity(n + self.lo.len());
        let mut guards = Zeroizing::new(Vec::with_capacity(n + self.lo.len()));
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
                let tables = [r.a, r.b, r.z.unwrap_or(r.b), r.g].map(|t| plan.look_up_table(t));
                deltas.push((a.delta + words[i], a.key.shape().m()));
                lookups.push(Lookup { rotation: join(a.rotation, rotations[i], r.k), key: a.key, tables });
            }
            let sums = look_up::<P, 4>(lookups)?;
            for (&(delta, m), sums) in deltas.iter().zip(&sums) {
                values.push(line(delta, sums, m));
                guards.push(sums[3 * m]);
                if two && !fine {
                    // Z·1 and Z times the payloads of the fine value and its guard, behind that of
                    // the argument.
                    select.push(Select { z: sums[2 * m], z_betas: [sums[2 * m + 2], sums[2 * m + 3]] });
                }
            }
        }
        let (fine, fine_guards) = (values.split_off(n), Zeroizing::new(guards.split_off(n)));
        let mask = |shares: &[Word], payload: usize| -> Vec<Word> {
            shares.iter().zip(&self.fine_betas).map(|(y, betas)| *y - betas[payload]).collect()
        };
        let masked_fine = [mask(&fine, 0), mask(&fine_guards, 1)];
        let masked_coarse = match self.outside {
            Outside::Zero => values.iter().zip(&self.net).map(|(y, a)| *y - a.beta).collect(),
            Outside::Arbitrary => vec![],
        };
        let (tables, rotations) = ([plan.net()], peer.rotations(n)?);
        let joined = |(a, theirs): (Inside, u32)| Lookup {
            rotation: join(a.rotation, theirs, NET_BITS),
            key: a.key,
            tables,
        };
        let inside = look_up::<P, 1>(self.net.into_iter().zip(rotations).map(joined).collect())?;
        for (guard, inside) in guards.iter_mut().zip(&inside) {
            *guard += constant::<P>(1) - inside[0];
        }
        Ok(Evaluated { specs, coarse: values, inside, guards, select, masked_coarse, masked_fine })
    }
}

/// Shares of `Z[j]` and of its products with the masks of what it selects.
struct Select {
    z: Word,
    z_betas: [Word; 2],
}

/// Between the two messages: coarse values, shares of K and of its products with their masks,
/// guards, selector shares; masked coarse values, if K multiplies them, and fine values and guards.
pub struct Evaluated<'a> {
    specs: Vec<&'a Scalar>,
    coarse: Vec<Word>,
    inside: Vec<Vec<Word>>,
    guards: Zeroizing<Vec<Word>>,
    select: Vec<Select>,
    masked_coarse: Vec<Word>,
    masked_fine: [Vec<Word>; 2],
}

impl Evaluated<'_> {
    /// Appends this party's part of message 2.
    pub fn push(&self, message: &mut Opening) {
        message.differences(&self.masked_coarse);
        self.masked_fine.iter().for_each(|masked| {
            message.differences(masked);
        });
    }

    /// Step 3: select and truncate. Returns shares of `ρ` and of the range events of every scalar.
    pub fn finish<P: Party>(mut self, peer: &mut Opened) -> Result<(Vec<Fp>, Zeroizing<Vec<Word>>)> {
        let mut open = |masked: &[Word]| -> Result<Vec<Word>> {
            let theirs = peer.ring_words(masked.len())?;
            Ok(masked.iter().zip(theirs).map(|(mine, theirs)| *mine + theirs).collect())
        };
        // Less 1, so that nothing becomes exactly 0 when it is truncated, never 1.
        let less = constant::<P>(1);
        for ((y, k), opened) in self.coarse.iter_mut().zip(&self.inside).zip(open(&self.masked_coarse)?) {
            *y = opened * k[0] + k[1];
        }
        self.coarse.iter_mut().for_each(|y| *y -= less);
        for (payload, (masked, sums)) in
            self.masked_fine.iter().zip([&mut self.coarse, &mut *self.guards]).enumerate()
        {
            for ((sum, select), opened) in sums.iter_mut().zip(&self.select).zip(open(masked)?) {
                *sum += opened * select.z + select.z_betas[payload];
            }
        }
        let rho = self.coarse.iter().zip(&self.specs).map(|(y, spec)| trunc_word::<P>(*y, spec.out_shift));
        Ok((rho.collect(), self.guards))
    }
}

/// This party's share of a public number: the server's is all of it.
fn constant<P: Party>(x: u64) -> Word {
    match P::ROLE {
        Role::Client => Word::default(),
        Role::Server => std::num::Wrapping(x),
    }
}
