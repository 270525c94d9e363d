//! Fills slots: all material that does not depend on a row's position. The linear layers all at
//! once, the rest layer by layer.
//!
//! Functionality: `n` slots, each with a seed, from which its masks are expanded, and with what
//! follows from them: shares of `W·r'`, shares of products and table keys of one row through all
//! layers. Also logits (a seed and a share of `W·r'`) and exponentials (a payload share and a key).
//! Source: `docs/protocols/preprocessed.md` §3.6; steps in `docs/protocols/offline.md`.
//! Inputs: both fresh seeds; client its lattice keys, server the weights. The client carries its
//! share of `h`, `[n, d]`, over `F_p` at scale F, from layer to layer.
//! Cost: that of [`linear`], [`cross`] and the tables, and C→S a message with `2·ff` bytes per slot
//! for each layer's rotations and one with a byte per slot for the verdicts.
//! Material: spends none; makes it.
//! Leaks: to the server which slots the client found unusable, and so that the others' truncations
//! are safe.
//!
//! The client checks every truncation whose input share it knows (A1) and marks slots that would
//! fail; both parties skip them.

mod tables;

use cryptogen_ot::OtPair;
use cryptogen_party::{Channel, Party, Role};
use cryptogen_ring::trunc::{trunc_client, trunc_is_safe};
use cryptogen_ring::word::{word_trunc_client, word_trunc_is_safe};
use cryptogen_ring::{fp_to_bytes, Fp, Prg, Seed};

use rayon::prelude::*;

use super::{cross, linear, report, Progress};
use crate::error::{ProtocolError, Result};
use crate::material::{exp_shape, masks, masks_words, Held, LatticeKeys, MaskLabel, SlotLayout, SEED_BYTES};
use crate::model::{Matrices, Matrix, Plan, ServerModel, Site};

/// Where records go: `write(record, offset, bytes)`.
pub trait Sink {
    /// Writes part of a record.
    ///
    /// # Errors
    /// Those of the store.
    fn write(&mut self, record: usize, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Writes whole consecutive records.
    ///
    /// # Errors
    /// Those of the store.
    fn write_records(&mut self, first: usize, bytes: &[u8]) -> Result<()>;
}

/// Everything a party needs to prepare material.
pub struct Preparer<'a, P: Party> {
    /// the connection to the peer
    pub ch: &'a mut dyn Channel,
    /// what is computed
    pub plan: &'a Plan,
    /// layout of a slot
    pub layout: &'a SlotLayout,
    /// lattice keys of the connection
    pub keys: &'a LatticeKeys<P>,
    /// transfers of the connection
    pub ot: &'a mut OtPair,
    /// the server's weights
    pub model: Option<&'a ServerModel>,
    /// for seeds, masks and noise
    pub rng: &'a mut Prg,
    /// Whether linear layers get shares of `W·r'`. Without, the client's share is any uniform one
    /// and the server's comes online.
    pub products: bool,
}

/// Values that only the client knows while slots are filled.
struct ClientState {
    /// `[T, d]`: the client's share of the residual stream
    h: Vec<Fp>,
    good: Vec<bool>,
}

impl<P: Party> Preparer<'_, P> {
    /// Fills `n` slots. Returns, on both sides, which of them are usable.
    ///
    /// # Errors
    /// Connection, store and interruption errors; nothing counts before the caller commits.
    pub fn slots(&mut self, n: usize, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<Vec<bool>> {
        let seeds: Vec<Seed> = (0..n).map(|_| Seed::random(self.rng)).collect();
        for (i, seed) in seeds.iter().enumerate() {
            sink.write(i, 0, seed.expose())?;
        }
        let (layers, packed) = (self.plan.model.layers, Matrices::of_layers(self.plan));
        let steps = (packed.len() + layers + 1) as u64;
        let mut state = self.embed(&seeds, sink)?;
        // Masks go into every linear layer, so none waits for another.
        let y = self.linear(&packed, &seeds, &mut state.good, |group| {
            report(progress, "preparing rows", group, steps)
        })?;
        for (i, y) in y.chunks(packed.width()).enumerate() {
            sink.write(i, self.layout.linear(Site::Qkv(0)), &fp_to_bytes(y))?;
        }
        for l in 0..layers {
            self.outputs(&packed, &y, Site::Qkv(l), &mut state.good);
            self.norm(2 * l, &seeds, &mut state, sink)?;
            self.attention_product(l, &seeds, sink)?;
            let o = self.outputs(&packed, &y, Site::O(l), &mut state.good);
            self.residual(&mut state, &o);
            self.norm(2 * l + 1, &seeds, &mut state, sink)?;
            let up = self.outputs(&packed, &y, Site::Up(l), &mut state.good);
            self.activation(l, &up, &seeds, sink)?;
            let down = self.outputs(&packed, &y, Site::Down(l), &mut state.good);
            self.residual(&mut state, &down);
            report(progress, "preparing rows", steps - (layers - l) as u64, steps)?;
        }
        self.norm(2 * layers, &seeds, &mut state, sink)?;
        self.scalar_tables(&seeds, sink)?;
        report(progress, "preparing rows", steps, steps)?;
        self.agree_on_good(n, &state, self.layout.usable(), sink)
    }

    fn is_client(&self) -> bool {
        P::ROLE == Role::Client
    }

    /// Shares of `Eᵀ·r`, and the client's share of the first residual stream.
    fn embed(&mut self, seeds: &[Seed], sink: &mut dyn Sink) -> Result<ClientState> {
        let mut state = ClientState { h: vec![], good: vec![true; seeds.len()] };
        let y = self.shares(&Matrices::embedding(self.plan), seeds, &mut state.good, |_| Ok(()))?;
        write_words(sink, self.layout.embed(), &y, self.plan.model.d)?;
        if self.is_client() {
            let embed = &self.plan.embed;
            state.h = y;
            truncate(&mut state.h, &mut state.good, self.plan.model.d, |_| (embed.bound, embed.shift));
        }
        Ok(state)
    }

    fn residual(&self, state: &mut ClientState, y: &[Fp]) {
        for (h, y) in state.h.iter_mut().zip(y) {
            *h += *y;
        }
    }

    /// `Linear` of all layers: this party's shares, `[T, width]`.
    fn linear(
        &mut self,
        packed: &Matrices,
        seeds: &[Seed],
        good: &mut [bool],
        done: impl FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Fp>> {
        if self.products {
            return self.shares(packed, seeds, good, done);
        }
        let n = seeds.len() * packed.width();
        if !self.is_client() {
            return Ok(vec![Fp::ZERO; n]);
        }
        for site in (0..self.plan.model.layers).flat_map(Site::of_layer) {
            linear_input_share(self.plan, site, seeds, good);
        }
        Ok(self.rng.fp_vec(n))
    }

    /// Shares of `W·r'` of some matrices.
    fn shares(
        &mut self,
        matrices: &Matrices,
        seeds: &[Seed],
        good: &mut [bool],
        done: impl FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Fp>> {
        let (plan, batch) = (self.plan, linear::Batch { plan: self.plan, matrices, rows: seeds.len() });
        match &self.keys.held {
            Held::Client { linear: key, .. } => {
                let input = |matrix: Matrix| match matrix {
                    Matrix::Embed => masks(seeds, MaskLabel::Embed, 0, plan.model.vocab),
                    Matrix::Linear(site) => linear_input_share(plan, site, seeds, good),
                };
                linear::client(self.ch, key, batch, input, self.rng, done)
            }
            Held::Server { linear: key, .. } => {
                let missing = || ProtocolError::caller("the server's weights", "a model", "none");
                let model = self.model.ok_or_else(missing)?;
                linear::server(self.ch, key, batch, model, self.rng, done)
            }
        }
    }

    /// On the client, the truncated share `[T, d_out]` of a site; slots where that could fail are
    /// marked.
    fn outputs(&self, packed: &Matrices, y: &[Fp], site: Site, good: &mut [bool]) -> Vec<Fp> {
        if !self.is_client() {
            return vec![];
        }
        let (spec, place) = (self.plan.linear(site), packed.place(Matrix::Linear(site)));
        let mut out = Vec::with_capacity(good.len() * spec.d_out);
        y.chunks(packed.width()).for_each(|y| out.extend_from_slice(&y[place.clone()]));
        truncate(&mut out, good, spec.d_out, |i| (spec.out_bound, spec.out_shift(i)));
        out
    }

    /// Shares of `Σ_i x_i ⊙ y_i`: the client passes `x`, the server `y`.
    fn cross(&mut self, terms: &[Vec<Fp>]) -> Result<Vec<Fp>> {
        match &self.keys.held {
            Held::Client { slots, .. } => cross::client(self.ch, slots, terms, self.rng),
            Held::Server { params, slots, .. } => cross::server(self.ch, params, slots, terms, self.rng),
        }
    }

    /// Products of a norm: `Σ h'_c·u'` and `h_c·v + b·u`.
    fn norm(
        &mut self,
        norm: usize,
        seeds: &[Seed],
        state: &mut ClientState,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let d = self.plan.model.d;
        let spec = &self.plan.norms[norm];
        let (square, product) = match P::ROLE {
            Role::Client => {
                for (h, good) in state.h.chunks(d).zip(&mut state.good) {
                    *good &= spec.pre_shift == 0 || h.iter().all(|c| trunc_is_safe(*c, spec.h_bound));
                }
                let truncated = state.h.iter().map(|h| trunc_client(*h, spec.pre_shift)).collect();
                let scale = masks(seeds, MaskLabel::NormScalar, norm, 1);
                (truncated, vec![state.h.clone(), spread(&scale, d)])
            }
            Role::Server => {
                let scale = masks(seeds, MaskLabel::NormScale, norm, 1);
                let input = masks(seeds, MaskLabel::NormInput, norm, d);
                (masks(seeds, MaskLabel::NormSquare, norm, d), vec![spread(&scale, d), input])
            }
        };
        let z = self.cross(&[square])?;
        for (i, z) in z.chunks(d).enumerate() {
            let sum: Fp = z.iter().copied().sum();
            sink.write(i, self.layout.norm_square(norm), &sum.to_le_bytes())?;
        }
        let z = self.cross(&product)?;
        write_words(sink, self.layout.norm_product(norm), &z, d)
    }

    /// `a₂·v₂ + b₂·u₂` of an attention output.
    fn attention_product(&mut self, layer: usize, seeds: &[Seed], sink: &mut dyn Sink) -> Result<()> {
        let m = &self.plan.model;
        let q_dim = m.q_dim();
        let vector = masks(seeds, MaskLabel::AttentionOut, layer, q_dim);
        let scalar = spread(&masks(seeds, MaskLabel::AttentionScale, layer, m.heads), m.head_dim);
        let terms = match P::ROLE {
            Role::Client => [vector, scalar],
            Role::Server => [scalar, vector],
        };
        let z = self.cross(&terms)?;
        write_words(sink, self.layout.attention_out(layer), &z, q_dim)
    }

    /// The client's verdict on every record, kept in each record's `offset` byte by both.
    fn agree_on_good(
        &mut self,
        n: usize,
        state: &ClientState,
        offset: usize,
        sink: &mut dyn Sink,
    ) -> Result<Vec<bool>> {
        let good: Vec<bool> = match P::ROLE {
            Role::Client => {
                self.ch.send(&state.good.iter().map(|g| u8::from(*g)).collect::<Vec<_>>())?;
                state.good.clone()
            }
            Role::Server => self
                .ch
                .recv(n)?
                .into_iter()
                .map(|b| match b {
                    0 => Ok(false),
                    1 => Ok(true),
                    other => Err(ProtocolError::peer("slot verdict", "0 or 1", other)),
                })
                .collect::<Result<_>>()?,
        };
        for (i, good) in good.iter().enumerate() {
            sink.write(i, offset, &[u8::from(*good)])?;
        }
        Ok(good)
    }

    /// Material for the logits of `n` rows: records of a seed and a share.
    ///
    /// # Errors
    /// As [`Preparer::slots`].
    pub fn logits(&mut self, n: usize, sink: &mut dyn Sink) -> Result<Vec<bool>> {
        let seeds: Vec<Seed> = (0..n).map(|_| Seed::random(self.rng)).collect();
        let mut state = ClientState { h: vec![], good: vec![true; n] };
        let y = self.shares(&Matrices::head(self.plan), &seeds, &mut state.good, |_| Ok(()))?;
        for (i, (seed, y)) in seeds.iter().zip(y.chunks(self.plan.model.vocab)).enumerate() {
            sink.write(i, 0, seed.expose())?;
            sink.write(i, seed.expose().len(), &fp_to_bytes(y))?;
        }
        self.agree_on_good(n, &state, logits_record_bytes(self.plan) - 1, sink)
    }
}

/// Bytes of a `logits` record: seed, share, verdict.
pub fn logits_record_bytes(plan: &Plan) -> usize {
    SEED_BYTES + 8 * plan.model.vocab + 1
}

/// Bytes of an exponential record: payload share, key.
pub fn exponential_record_bytes(plan: &Plan) -> usize {
    8 + exp_shape(plan, 0).record_bytes()
}

/// Writes `n` field elements into every record.
fn write_words(sink: &mut dyn Sink, offset: usize, words: &[Fp], n: usize) -> Result<()> {
    words.chunks(n).enumerate().try_for_each(|(i, words)| sink.write(i, offset, &fp_to_bytes(words)))
}

/// Client: `r'` of a site, `[T, d_in]`; slots whose truncation of it could fail are marked.
fn linear_input_share(plan: &Plan, site: Site, seeds: &[Seed], good: &mut [bool]) -> Vec<Fp> {
    let spec = plan.linear(site);
    let index = if site == Site::Head { 0 } else { site.index(plan.model.layers) };
    if !matches!(site, Site::Down(_)) {
        let mut r = masks(seeds, MaskLabel::Remask, index, spec.d_in);
        truncate(&mut r, good, spec.d_in, |j| (spec.in_bound, spec.in_shift[j]));
        return r;
    }
    let r = masks_words(seeds, MaskLabel::Remask, index, spec.d_in);
    for (r, good) in r.chunks(spec.d_in).zip(good) {
        *good &= r.iter().all(|r| word_trunc_is_safe(*r, spec.in_bound));
    }
    r.iter().zip(spec.in_shift.iter().cycle()).map(|(r, &k)| word_trunc_client(*r, k)).collect()
}

/// Truncates the client's shares `[T, n]` in place by the bound and shift of each column; a row
/// that could fail is not good.
fn truncate(shares: &mut [Fp], good: &mut [bool], n: usize, of: impl Fn(usize) -> (u64, u32) + Sync) {
    shares.par_chunks_mut(n).zip(good).for_each(|(row, good)| {
        for (j, c) in row.iter_mut().enumerate() {
            let (bound, shift) = of(j);
            *good &= trunc_is_safe(*c, bound);
            *c = trunc_client(*c, shift);
        }
    });
}

/// Repeats every element `n` times.
fn spread(x: &[Fp], n: usize) -> Vec<Fp> {
    x.iter().flat_map(|v| std::iter::repeat_n(*v, n)).collect()
}
