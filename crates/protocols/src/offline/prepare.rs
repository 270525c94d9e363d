//! Makes rows' material: all that does not depend on a row's position. The linear layers all at
//! once, the rest layer by layer.
//!
//! Functionality: `n` records, each with a seed, from which its masks are expanded, and with what
//! follows from them: shares of `W·r'`, shares of products and table keys of one row through all
//! layers. Also logits (a seed and a share of `W·r'`) and exponentials (a payload share and a key).
//! Source: `docs/protocols/preprocessed.md` §3.6; steps in `docs/protocols/offline.md`.
//! Inputs: both fresh seeds; client its lattice keys, server the weights. The client carries its
//! share of `h`, `[n, d]`, over `F_p` at scale F, from layer to layer.
//! Cost: that of [`linear`], [`cross`] and the tables, and C→S a message with `2·ff` bytes per row
//! for each layer's rotations.
//! Material: spends none; makes it.
//! Leaks: nothing. What the client sends does not depend on what it decrypts, and what it decrypts
//! it never judges: a server that makes results up would learn from that about the client's key.

mod tables;

use cryptogen_ot::OtPair;
use cryptogen_party::{Channel, Party, Role};
use cryptogen_ring::trunc::trunc_client;
use cryptogen_ring::word::word_trunc_client;
use cryptogen_ring::{fp_to_bytes, Fp, Prg, Seed};

use rayon::prelude::*;

use super::{cross, linear, report, Progress};
use crate::error::{ProtocolError, Result};
use crate::material::{exp_shape, masks, masks_words, Held, LatticeKeys, MaskLabel, RowLayout, SEED_BYTES};
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
    /// layout of a record
    pub layout: &'a RowLayout,
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

impl<P: Party> Preparer<'_, P> {
    /// Makes the material of `n` rows.
    ///
    /// # Errors
    /// Connection, store and interruption errors; nothing counts before the caller commits.
    pub fn rows(&mut self, n: usize, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<()> {
        let seeds: Vec<Seed> = (0..n).map(|_| Seed::random(self.rng)).collect();
        for (i, seed) in seeds.iter().enumerate() {
            sink.write(i, 0, seed.expose())?;
        }
        let (layers, packed) = (self.plan.model.layers, Matrices::of_layers(self.plan));
        let steps = (packed.len() + layers + 1) as u64;
        let mut h = self.embed(&seeds, sink)?;
        // Masks go into every linear layer, so none waits for another.
        let y = self.linear(&packed, &seeds, |group| report(progress, "preparing rows", group, steps))?;
        for (i, y) in y.chunks(packed.width()).enumerate() {
            sink.write(i, self.layout.linear(Site::Qkv(0)), &fp_to_bytes(y))?;
        }
        for l in 0..layers {
            self.norm(2 * l, &seeds, &h, sink)?;
            self.attention_product(l, &seeds, sink)?;
            add(&mut h, &self.outputs(&packed, &y, Site::O(l)));
            self.norm(2 * l + 1, &seeds, &h, sink)?;
            let up = self.outputs(&packed, &y, Site::Up(l));
            self.activation(l, &up, &seeds, sink)?;
            add(&mut h, &self.outputs(&packed, &y, Site::Down(l)));
            report(progress, "preparing rows", steps - (layers - l) as u64, steps)?;
        }
        self.norm(2 * layers, &seeds, &h, sink)?;
        self.scalar_tables(&seeds, sink)?;
        report(progress, "preparing rows", steps, steps)
    }

    fn is_client(&self) -> bool {
        P::ROLE == Role::Client
    }

    /// Shares of `Eᵀ·r`. Returns the client's share `[T, d]` of the first residual stream.
    fn embed(&mut self, seeds: &[Seed], sink: &mut dyn Sink) -> Result<Vec<Fp>> {
        let y = self.shares(&Matrices::embedding(self.plan), seeds, |_| Ok(()))?;
        write_words(sink, self.layout.embed(), &y, self.plan.model.d)?;
        Ok(match P::ROLE {
            Role::Client => y.into_iter().map(|c| trunc_client(c, self.plan.embed.shift)).collect(),
            Role::Server => vec![],
        })
    }

    /// `Linear` of all layers: this party's shares, `[T, width]`.
    fn linear(
        &mut self,
        packed: &Matrices,
        seeds: &[Seed],
        done: impl FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Fp>> {
        if self.products {
            return self.shares(packed, seeds, done);
        }
        let n = seeds.len() * packed.width();
        Ok(match P::ROLE {
            Role::Client => self.rng.fp_vec(n),
            Role::Server => vec![Fp::ZERO; n],
        })
    }

    /// Shares of `W·r'` of some matrices.
    fn shares(
        &mut self,
        matrices: &Matrices,
        seeds: &[Seed],
        done: impl FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Fp>> {
        let (plan, batch) = (self.plan, linear::Batch { plan: self.plan, matrices, rows: seeds.len() });
        match &self.keys.held {
            Held::Client { linear: key, .. } => {
                let input = |matrix: Matrix| match matrix {
                    Matrix::Embed => masks(seeds, MaskLabel::Embed, 0, plan.model.vocab),
                    Matrix::Linear(site) => linear_input_share(plan, site, seeds),
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

    /// On the client, the truncated share `[T, d_out]` of a site.
    fn outputs(&self, packed: &Matrices, y: &[Fp], site: Site) -> Vec<Fp> {
        if !self.is_client() {
            return vec![];
        }
        let (spec, place) = (self.plan.linear(site), packed.place(Matrix::Linear(site)));
        y.par_chunks(packed.width())
            .flat_map_iter(|y| {
                y[place.clone()].iter().enumerate().map(|(i, c)| trunc_client(*c, spec.out_shift(i)))
            })
            .collect()
    }

    /// Shares of `Σ_i x_i ⊙ y_i`: the client passes `x`, the server `y`.
    fn cross(&mut self, terms: &[Vec<Fp>]) -> Result<Vec<Fp>> {
        match &self.keys.held {
            Held::Client { slots, .. } => cross::client(self.ch, slots, terms, self.rng),
            Held::Server { params, slots, .. } => cross::server(self.ch, params, slots, terms, self.rng),
        }
    }

    /// Products of a norm: `Σ h'_c·u'` and `h_c·v + b·u`.
    fn norm(&mut self, norm: usize, seeds: &[Seed], h: &[Fp], sink: &mut dyn Sink) -> Result<()> {
        let d = self.plan.model.d;
        let spec = &self.plan.norms[norm];
        let (square, product) = match P::ROLE {
            Role::Client => {
                let truncated = h.iter().map(|h| trunc_client(*h, spec.pre_shift)).collect();
                let scale = masks(seeds, MaskLabel::NormScalar, norm, 1);
                (truncated, vec![h.to_vec(), spread(&scale, d)])
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

    /// Material for the logits of `n` rows: records of a seed and a share.
    ///
    /// # Errors
    /// As [`Preparer::rows`].
    pub fn logits(&mut self, n: usize, sink: &mut dyn Sink) -> Result<()> {
        let seeds: Vec<Seed> = (0..n).map(|_| Seed::random(self.rng)).collect();
        let y = self.shares(&Matrices::head(self.plan), &seeds, |_| Ok(()))?;
        for (i, (seed, y)) in seeds.iter().zip(y.chunks(self.plan.model.vocab)).enumerate() {
            sink.write(i, 0, seed.expose())?;
            sink.write(i, seed.expose().len(), &fp_to_bytes(y))?;
        }
        Ok(())
    }
}

/// Bytes of a `logits` record: seed, share.
pub fn logits_record_bytes(plan: &Plan) -> usize {
    SEED_BYTES + 8 * plan.model.vocab
}

/// Bytes of an exponential record: payload share, key.
pub fn exponential_record_bytes(plan: &Plan) -> usize {
    8 + exp_shape(plan, 0).record_bytes()
}

/// Writes `n` field elements into every record.
fn write_words(sink: &mut dyn Sink, offset: usize, words: &[Fp], n: usize) -> Result<()> {
    words.chunks(n).enumerate().try_for_each(|(i, words)| sink.write(i, offset, &fp_to_bytes(words)))
}

/// Client: `r'` of a site, `[T, d_in]`.
fn linear_input_share(plan: &Plan, site: Site, seeds: &[Seed]) -> Vec<Fp> {
    let spec = plan.linear(site);
    let index = if site == Site::Head { 0 } else { site.index(plan.model.layers) };
    let shifts = spec.in_shift.iter().cycle();
    if matches!(site, Site::Down(_)) {
        let r = masks_words(seeds, MaskLabel::Remask, index, spec.d_in);
        return r.iter().zip(shifts).map(|(r, &k)| word_trunc_client(*r, k)).collect();
    }
    let r = masks(seeds, MaskLabel::Remask, index, spec.d_in);
    r.iter().zip(shifts).map(|(r, &k)| trunc_client(*r, k)).collect()
}

/// `h += y`: the residual stream.
fn add(h: &mut [Fp], y: &[Fp]) {
    h.iter_mut().zip(y).for_each(|(h, y)| *h += *y);
}

/// Repeats every element `n` times.
fn spread(x: &[Fp], n: usize) -> Vec<Fp> {
    x.iter().flat_map(|v| std::iter::repeat_n(*v, n)).collect()
}
