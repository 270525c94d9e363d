//! Cached rows from one layout to another: between the paper's inner and outer encodings, and
//! everything in between.
//!
//! Functionality: `len` rows of keys or values of a layer, encrypted in one layout → the same in
//! another.
//! Source: CryptoGen (arXiv 2602.08798), heterogeneous SIMD encodings. Two ways, both tested,
//! neither used by a session: all phases share one layout (decision 0010). [`Conversion::why`]
//! gives the prices.
//! Inputs: server the ciphertexts, client its secret key; values `[len][kv_heads][head_dim]` over
//! `F_p`, at scale F.
//! Cost: by the parties 2 messages, 205 KB per ciphertext before and after; by the server alone
//! none.
//! Material: none.
//! Leaks: nothing. Uniformly masked and flooded one way, ciphertexts the other.
//!
//! *By the parties* ([`client`], [`server`]): a refresh that writes another order.
//! 1. S→C the ciphertexts of the old layout, masked in every slot.
//! 2. C→S the same values in the new layout, encrypted. The server adds its masks in the new
//!    layout.
//!
//! *By the server alone* ([`Rotations`]): `out_j = Σ_{i, step} mask_{i,step,j} ⊙ rot_step(in_i)`. A
//! Galois key per distance, and the one product that the parameters have room for: what comes out
//! can be returned or refreshed, but not multiplied.

use std::collections::{BTreeMap, BTreeSet};

use cryptogen_he::evaluate::{Ciphertext, Context, Evaluator, MaskedCiphertext, Noise, Plaintext};
use cryptogen_he::evaluate::{SecretKey, SeededCiphertext, N, ROW};
use cryptogen_party::{Channel, Role};
use cryptogen_ring::{Fp, Prg};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::attention::cost::price;
use super::exchange::{self, Slots};
use super::layout::CacheLayout;
use crate::error::{ProtocolError, Result};
use crate::share::Cost;

/// Of the keys (or values) of `len` rows of one layer. Public.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    from: CacheLayout,
    to: CacheLayout,
    len: usize,
}

/// A ciphertext of a layout, `[block][pack]`, and a slot in it.
type Place = (usize, usize);

fn place(l: &CacheLayout, token: usize, head: usize, e: usize) -> Place {
    let (t, f) = (l.tokens(), l.features());
    (token / t * l.packs() + e / f, l.slot(token % t, head, e % f))
}

impl Conversion {
    /// Between two layouts of the same heads.
    ///
    /// # Errors
    /// Layouts of different heads.
    pub fn new(from: CacheLayout, to: CacheLayout, len: usize) -> Result<Conversion> {
        let heads = |l: &CacheLayout| (l.kv_heads, l.head_dim);
        if heads(&from) != heads(&to) {
            let text = |(n, dim): (usize, usize)| format!("{n} key heads of {dim} features");
            let (expected, actual) = (text(heads(&from)), text(heads(&to)));
            return Err(ProtocolError::caller("layout to convert to", expected, actual));
        }
        Ok(Conversion { from, to, len })
    }

    /// Ciphertexts before and after; none where nothing changes.
    pub fn ciphertexts(&self) -> (usize, usize) {
        match self.from.tokens() == self.to.tokens() {
            true => (0, 0),
            false => (self.from.ciphertexts(self.len), self.to.ciphertexts(self.len)),
        }
    }

    /// Where every value was and where it goes.
    fn places(&self) -> impl Iterator<Item = (Place, Place)> + '_ {
        let (heads, dim) = (self.from.kv_heads, self.from.head_dim);
        let all = (0..self.len).flat_map(move |t| (0..heads * dim).map(move |i| (t, i / dim, i % dim)));
        all.map(|(t, head, e)| (place(&self.from, t, head, e), place(&self.to, t, head, e)))
    }

    /// A share in the new layout.
    fn rearrange(&self, old: &[Slots]) -> Vec<Slots> {
        let mut new: Vec<Slots> =
            (0..self.to.ciphertexts(self.len)).map(|_| Zeroizing::new(vec![Fp::ZERO; N])).collect();
        self.places().for_each(|((i, from), (j, to))| new[j][to] = old[i][from]);
        new
    }

    /// Messages and bytes of the way by the parties.
    pub fn cost(&self) -> Cost {
        match self.ciphertexts() {
            (0, _) => Cost::default(),
            (before, after) => Cost::of(&[
                (Role::Server, before * MaskedCiphertext::BYTES),
                (Role::Client, after * SeededCiphertext::BYTES),
            ]),
        }
    }

    /// What both ways cost.
    pub fn why(&self) -> String {
        let (before, after) = self.ciphertexts();
        let parties = before as u64 * price::OUTPUT + after as u64 * price::INPUT;
        let ms = |micros: u64| micros as f64 / 1e3;
        let alone = match Rotations::new(self) {
            Ok(r) => format!(
                "{} rotations with {} keys and {} products with masks, {:.1} ms, and a refresh of {after} before the next product",
                r.rotations(), r.steps().len(), r.products(), ms(r.micros()),
            ),
            Err(error) => format!("impossible ({error})"),
        };
        format!(
            "T = {} to {}, {} rows: by the parties {before} ciphertexts out and {after} in, {:.1} ms; by the server alone {alone}.",
            self.from.tokens(), self.to.tokens(), self.len, ms(parties),
        )
    }
}

/// The client of the way by the parties.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub fn client(ch: &mut dyn Channel, key: &SecretKey, rng: &mut Prg, conversion: &Conversion) -> Result<()> {
    let (before, after) = conversion.ciphertexts();
    if before == 0 {
        return Ok(());
    }
    // 1.
    let new = conversion.rearrange(&exchange::decrypt(ch, key, before)?);
    // 2.
    exchange::encrypt(ch, key, rng, after, |i| new[i].clone())
}

/// The server: fresh ciphertexts in the new layout.
///
/// # Errors
/// Connection failures, malformed ciphertexts, another number of ciphertexts, more noise than can be returned.
pub fn server(
    ch: &mut dyn Channel,
    evaluator: &Evaluator<'_>,
    rng: &mut Prg,
    conversion: &Conversion,
    ciphertexts: &[Ciphertext],
) -> Result<Vec<Ciphertext>> {
    let (before, after) = conversion.ciphertexts();
    if before == 0 {
        return Ok(ciphertexts.to_vec());
    }
    check_count(before, ciphertexts.len())?;
    // 1.
    let masks = exchange::mask(ch, evaluator, rng, &ciphertexts.iter().collect::<Vec<_>>())?;
    // 2.
    let masks = conversion.rearrange(&masks);
    exchange::receive(ch, after, |i| masks[i].clone())
}

fn check_count(expected: usize, actual: usize) -> Result<()> {
    match expected == actual {
        true => Ok(()),
        false => Err(ProtocolError::caller("ciphertexts to convert", expected, actual)),
    }
}

/// The way by the server alone.
pub struct Rotations {
    /// for an input and a step, the slots of each output that it fills
    moves: Vec<BTreeMap<usize, BTreeMap<usize, Vec<usize>>>>,
    outputs: usize,
}

impl Rotations {
    /// # Errors
    /// Values that would have to change the half of the slots, which no rotation does.
    pub fn new(conversion: &Conversion) -> Result<Rotations> {
        let mut moves = vec![
            BTreeMap::<usize, BTreeMap<usize, Vec<usize>>>::new();
            conversion.from.ciphertexts(conversion.len)
        ];
        for ((input, from), (output, to)) in conversion.places() {
            if from / ROW != to / ROW {
                let (expected, actual) = ("values that stay in their half", format!("slot {from} to {to}"));
                return Err(ProtocolError::caller("slots of a conversion by rotations", expected, actual));
            }
            let step = (from + ROW - to) % ROW;
            moves[input].entry(step).or_default().entry(output).or_default().push(to);
        }
        Ok(Rotations { moves, outputs: conversion.to.ciphertexts(conversion.len) })
    }

    /// Galois keys that it needs.
    pub fn steps(&self) -> BTreeSet<usize> {
        self.moves.iter().flat_map(|m| m.keys().copied()).filter(|step| *step > 0).collect()
    }

    /// Hoisted rotations.
    pub fn rotations(&self) -> usize {
        self.moves.iter().flat_map(BTreeMap::keys).filter(|step| **step > 0).count()
    }

    /// Products with masks, each encoded for this call.
    pub fn products(&self) -> usize {
        self.moves.iter().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    /// Modelled microseconds.
    fn micros(&self) -> u64 {
        self.rotations() as u64 * price::HOISTED + self.products() as u64 * price::MASK
    }

    /// The noise of the noisiest output, from inputs with that noise.
    pub fn noise(&self, input: Noise) -> Noise {
        let mut outputs = vec![Noise::none(); self.outputs];
        for (step, filled) in self.moves.iter().flatten() {
            let moved = if *step == 0 { input } else { input.switched() };
            filled.keys().for_each(|&j| outputs[j] = outputs[j] + moved.times_plain());
        }
        let worst = |a: Noise, b: Noise| if b > a { b } else { a };
        outputs.into_iter().fold(Noise::none(), worst)
    }

    /// Ciphertexts `[block][pack]` of the new layout.
    ///
    /// # Errors
    /// Before any work: another number of ciphertexts, noise that could not be hidden afterwards. Missing keys.
    pub fn apply(&self, evaluator: &Evaluator<'_>, inputs: &[Ciphertext]) -> Result<Vec<Ciphertext>> {
        check_count(self.moves.len(), inputs.len())?;
        let worst =
            inputs.iter().map(Ciphertext::noise).fold(Noise::none(), |a, b| if b > a { b } else { a });
        let noise = self.noise(worst);
        if !noise.fits() {
            let (out, input) = (noise.bits(), worst.bits());
            let actual = format!("{out:.0} bits from inputs of {input:.0} bits: refresh them first");
            let (what, expected) = ("noise of a conversion by rotations", "what flooding can hide");
            return Err(ProtocolError::caller(what, expected, actual));
        }
        let context = Context::get();
        let mut outputs = vec![Ciphertext::zero(); self.outputs];
        for (ct, moves) in inputs.iter().zip(&self.moves) {
            let hoisted = evaluator.hoist(ct);
            let one = |step: usize| Ok(hoisted.rotate(step)?);
            let rotated = moves.par_iter().map(|(step, _)| one(*step)).collect::<Result<Vec<_>>>()?;
            outputs.par_iter_mut().enumerate().try_for_each(|(j, output)| {
                let terms =
                    moves.values().zip(&rotated).filter_map(|(filled, ct)| Some((filled.get(&j)?, ct)));
                let (slots, cts): (Vec<_>, Vec<_>) = terms.unzip();
                if cts.is_empty() {
                    return Ok(());
                }
                let masks =
                    slots.into_iter().map(|slots| mask(context, slots)).collect::<Result<Vec<_>>>()?;
                output.add(context, &evaluator.dot_plain(&cts, &masks.iter().collect::<Vec<_>>())?);
                Ok::<(), ProtocolError>(())
            })?;
        }
        Ok(outputs)
    }
}

/// 1 at these slots, 0 elsewhere.
fn mask(context: &Context, slots: &[usize]) -> Result<Plaintext> {
    let mut mask = vec![Fp::ZERO; N];
    slots.iter().for_each(|&slot| mask[slot] = Fp::ONE);
    Ok(Plaintext::encode(context, &mask)?)
}
