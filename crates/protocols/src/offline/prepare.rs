//! Makes rows' material: all that does not depend on a row's position. What `Linear` makes comes
//! first and for many rows at once, the rest from that, layer by layer.
//!
//! Functionality: `n` records, each with a seed, from which its masks are expanded, and with what
//! follows from them: shares of `Eᵀ·r` and `W·r'` (records of `linears`), then shares of products
//! and table keys of one row through all layers. Also logits (a seed and a share of `W·r'`) and
//! exponentials ([`exponentials`]).
//! Source: `docs/protocols/preprocessed.md` §3.6; steps in `docs/protocols/offline.md`.
//! Inputs: both fresh seeds; client its lattice keys, server the weights. The client carries its
//! share of `h`, `[n, d]`, over `F_p` at scale F, from layer to layer.
//! Cost: that of [`linear`], [`cross`], [`exponentials`] and the tables, and C→S a message with 2
//! bytes a key, without gates 10, for each batch of an activation's.
//! Material: makes it; rows spend as many records of `linears`.
//! Leaks: nothing. What the client sends does not depend on what it decrypts, and what it decrypts
//! it never judges: a server that makes results up would learn from that about the client's key.

mod tables;

use std::ops::Range;
use std::path::Path;

use cryptogen_ot::OtPair;
use cryptogen_party::{Channel, Party, Role};
use cryptogen_ring::trunc::trunc_client;
use cryptogen_ring::word::word_trunc_client;
use cryptogen_ring::{fp_from_bytes, fp_to_bytes, Fp, Prg, Seed};

use super::{cross, exponentials, linear, report, Progress};
use crate::error::{ProtocolError, Result};
use crate::material::{
    embed_masks, masks, masks_words, Held, LatticeKeys, Linears, MaskLabel, RowLayout, SEED_BYTES,
};
use crate::model::{matrices_of_row, Matrix, Plan, ServerModel, Site};

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
    /// What `Linear` makes for `n` rows, the first part of their records: seeds and shares of
    /// `Eᵀ·r` and, of all layers, of `W·r'`. The more rows at once, the fewer bytes each costs.
    ///
    /// # Errors
    /// Connection, store and interruption errors; nothing counts before the caller commits.
    pub fn linears(&mut self, n: usize, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<()> {
        let seeds = self.seeds(n, sink)?;
        let matrices = matrices_of_row(self.plan);
        let (made, random) = matrices.split_at(if self.products { matrices.len() } else { 1 });
        let steps = made.len() as u64;
        let layout = self.layout;
        let mut put = |matrix: Matrix, rows: Range<usize>, y: &[Fp]| {
            write_words(sink, layout.product(matrix) + 8 * rows.start, y, rows.len())
        };
        self.shares(made, &seeds, &mut put, |group| report(progress, "preparing linears", group, steps))?;
        for matrix in random {
            let d_out = matrix.shape(self.plan).0;
            let y = match P::ROLE {
                Role::Client => self.rng.fp_vec(n * d_out),
                Role::Server => vec![Fp::ZERO; n * d_out],
            };
            put(*matrix, 0..d_out, &y)?;
        }
        Ok(())
    }

    /// The material of as many rows as `linears` has.
    ///
    /// # Errors
    /// As [`Preparer::linears`].
    pub fn rows(&mut self, mut linears: Linears, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<()> {
        let (layers, parallel) = (self.plan.model.layers, self.plan.model.parallel);
        let steps = (layers + 1) as u64;
        let (seeds, mut h) = self.embedded(&mut linears, sink)?;
        for l in 0..layers {
            self.outputs(&mut linears, Site::Qkv(l), sink)?;
            self.norm(2 * l, &seeds, &h, sink)?;
            self.attention_product(l, &seeds, sink)?;
            let attended = self.outputs(&mut linears, Site::O(l), sink)?;
            if !parallel {
                add(&mut h, &attended);
            }
            self.norm(2 * l + 1, &seeds, &h, sink)?;
            let up = self.outputs(&mut linears, Site::Up(l), sink)?;
            self.activation(l, &up, &seeds, sink)?;
            if parallel {
                add(&mut h, &attended);
            }
            add(&mut h, &self.outputs(&mut linears, Site::Down(l), sink)?);
            report(progress, "preparing rows", l as u64 + 1, steps)?;
        }
        self.norm(2 * layers, &seeds, &h, sink)?;
        self.scalar_tables(&seeds, sink)?;
        report(progress, "preparing rows", steps, steps)
    }

    fn is_client(&self) -> bool {
        P::ROLE == Role::Client
    }

    /// A seed for each record, written at its start.
    fn seeds(&mut self, n: usize, sink: &mut dyn Sink) -> Result<Vec<Seed>> {
        let seeds: Vec<Seed> = (0..n).map(|_| Seed::random(self.rng)).collect();
        seeds.iter().enumerate().try_for_each(|(i, seed)| sink.write(i, 0, seed.expose()))?;
        Ok(seeds)
    }

    /// Copies seeds and shares of `Eᵀ·r`. Returns the seeds, and the client's share `[T, d]` of the
    /// first residual stream.
    fn embedded(&self, linears: &mut Linears, sink: &mut dyn Sink) -> Result<(Vec<Seed>, Vec<Fp>)> {
        let (mut seeds, mut h) = (vec![], vec![]);
        linears.take(0, |i, bytes, file| {
            sink.write(i, 0, bytes)?;
            let (seed, share) = bytes.split_first_chunk().ok_or_else(|| {
                ProtocolError::bug("bytes of a record of linears", "a seed and a share", bytes.len())
            })?;
            seeds.push(Seed::from_bytes(*seed));
            h.extend(self.truncated(share, file, |_| self.plan.embed.shift)?);
            Ok(())
        })?;
        Ok((seeds, h))
    }

    /// Copies the shares of a site. Returns, on the client, its truncated share `[T, d_out]`.
    fn outputs(&self, linears: &mut Linears, site: Site, sink: &mut dyn Sink) -> Result<Vec<Fp>> {
        let (spec, at) = (self.plan.linear(site), self.layout.linear(site));
        let mut y = vec![];
        linears.take(1 + site.index(self.plan.model.layers), |i, bytes, file| {
            sink.write(i, at, bytes)?;
            y.extend(self.truncated(bytes, file, |j| spec.out_shift(j))?);
            Ok(())
        })?;
        Ok(y)
    }

    /// The client's share after the truncation of every number; nothing on the server.
    fn truncated(&self, bytes: &[u8], file: &Path, shift: impl Fn(usize) -> u32) -> Result<Vec<Fp>> {
        if !self.is_client() {
            return Ok(vec![]);
        }
        let above = || ProtocolError::corrupt(file, "a number is above the modulus");
        let share = fp_from_bytes(bytes).ok_or_else(above)?;
        Ok(share.into_iter().enumerate().map(|(j, c)| trunc_client(c, shift(j))).collect())
    }

    /// `Linear` of some matrices for the rows of these seeds.
    fn shares(
        &mut self,
        matrices: &[Matrix],
        seeds: &[Seed],
        put: linear::Put<'_>,
        done: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let (plan, batch) = (self.plan, linear::Batch { plan: self.plan, matrices, rows: seeds.len() });
        match &self.keys.held {
            Held::Client { linear: key, .. } => {
                let input = |matrix, columns| linear_input_share(plan, matrix, columns, seeds);
                linear::client(self.ch, key, batch, input, self.rng, put, done)
            }
            Held::Server { linear: key, .. } => {
                let missing = || ProtocolError::caller("the server's weights", "a model", "none");
                let model = self.model.ok_or_else(missing)?;
                linear::server(self.ch, key, batch, model, self.rng, put, done)
            }
        }
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
    /// As [`Preparer::linears`].
    pub fn logits(&mut self, n: usize, sink: &mut dyn Sink) -> Result<()> {
        let seeds = self.seeds(n, sink)?;
        let mut put =
            |_, rows: Range<usize>, y: &[Fp]| write_words(sink, SEED_BYTES + 8 * rows.start, y, rows.len());
        self.shares(&[Matrix::Linear(Site::Head)], &seeds, &mut put, |_| Ok(()))
    }

    /// `n` records of exponentials of heads with so many primes.
    ///
    /// # Errors
    /// As [`Preparer::linears`].
    pub fn exponentials(&mut self, primes: usize, n: usize, sink: &mut dyn Sink) -> Result<()> {
        let (ch, rng, all) = (&mut *self.ch, &mut *self.rng, (primes, n));
        let keep: exponentials::Keep<'_> = &mut |first, records| sink.write_records(first, records);
        match &self.keys.held {
            Held::Client { slots, .. } => exponentials::client(ch, slots, all, rng, keep),
            Held::Server { params, slots, .. } => exponentials::server(ch, params, slots, all, rng, keep),
        }
    }
}

/// Bytes of a `logits` record: seed, share.
pub fn logits_record_bytes(plan: &Plan) -> usize {
    SEED_BYTES + 8 * plan.model.vocab
}

/// Writes `n` field elements into every record.
fn write_words(sink: &mut dyn Sink, offset: usize, words: &[Fp], n: usize) -> Result<()> {
    words.chunks(n).enumerate().try_for_each(|(i, words)| sink.write(i, offset, &fp_to_bytes(words)))
}

/// Client: `r'` of some columns of a matrix, `[T, columns]`.
fn linear_input_share(plan: &Plan, matrix: Matrix, columns: Range<usize>, seeds: &[Seed]) -> Vec<Fp> {
    let Matrix::Linear(site) = matrix else { return embed_masks(seeds, columns) };
    let spec = plan.linear(site);
    let index = if site == Site::Head { 0 } else { site.index(plan.model.layers) };
    let shifts = &spec.in_shift[columns.clone()];
    if matches!(site, Site::Down(_)) {
        let r = masks_words(seeds, MaskLabel::Remask, index, spec.d_in);
        let rows = r.chunks(spec.d_in).flat_map(|r| r[columns.clone()].iter().zip(shifts));
        return rows.map(|(r, &k)| word_trunc_client(*r, k)).collect();
    }
    let r = masks(seeds, MaskLabel::Remask, index, spec.d_in);
    let rows = r.chunks(spec.d_in).flat_map(|r| r[columns.clone()].iter().zip(shifts));
    rows.map(|(r, &k)| trunc_client(*r, k)).collect()
}

/// `h += y`: the residual stream.
fn add(h: &mut [Fp], y: &[Fp]) {
    h.iter_mut().zip(y).for_each(|(h, y)| *h += *y);
}

/// Repeats every element `n` times.
fn spread(x: &[Fp], n: usize) -> Vec<Fp> {
    x.iter().flat_map(|v| std::iter::repeat_n(*v, n)).collect()
}
