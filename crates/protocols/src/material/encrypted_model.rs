//! The encrypted model as it lies with the client: which ciphertext holds what, and the file.
//!
//! The matrices: [`super::packing`]; the embedding, of which a pass needs single columns, is `Eᵀ`
//! in ciphertexts of its own: `F` tokens in each, slot κ, coefficient c of ciphertext k is
//! `E[k·F + κ][c]`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cryptogen_he::{Ciphertext, HeError, Layout, Params, SeededCiphertext, N};
use cryptogen_ring::Fp;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::packing::{slots, Packed};
use crate::error::{ProtocolError, Result};
use crate::model::{Plan, ServerModel, Site};

/// Where the embedding lies in the encrypted model.
#[derive(Clone, Copy, Debug)]
pub struct EmbedLayout {
    /// layout of its ciphertexts
    pub layout: Layout,
    /// coefficients of a slot, `C ≥ d`
    pub coefficients: usize,
    d: usize,
    vocab: usize,
    start: usize,
}

impl EmbedLayout {
    fn new(d: usize, vocab: usize, start: usize) -> EmbedLayout {
        let (layout, coefficients) = embed_slots(d);
        EmbedLayout { layout, coefficients, d, vocab, start }
    }

    /// Tokens in a ciphertext, `F`.
    pub fn slots(&self) -> usize {
        N / self.coefficients
    }

    /// The ciphertext of a token, and its slot there.
    pub fn place(&self, token: usize) -> (usize, usize) {
        (self.start + token / self.slots(), token % self.slots())
    }

    fn count(&self) -> usize {
        self.vocab.div_ceil(self.slots())
    }

    /// Message `[F][C]` of ciphertext `k`.
    fn message(&self, k: usize, embed: &[i32]) -> Vec<Fp> {
        let mut m = vec![Fp::ZERO; N];
        let tokens = k * self.slots()..self.vocab.min((k + 1) * self.slots());
        for (token, slot) in tokens.zip(m.chunks_mut(self.coefficients)) {
            let row = &embed[token * self.d..][..self.d];
            slot.iter_mut().zip(row).for_each(|(m, x)| *m = Fp::from_i64(i64::from(*x)));
        }
        m
    }
}

/// Layout of the embedding's ciphertexts and coefficients per slot. It follows from `d` alone, so a
/// forward pass need not lay out the whole model.
pub(crate) fn embed_slots(d: usize) -> (Layout, usize) {
    let coefficients = d.next_power_of_two().min(N);
    (slots(N / coefficients), coefficients)
}

/// How much of the model a client needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything.
    Whole,
    /// Head and embedding: where layers are computed on the client's ciphertexts.
    Ends,
}

/// Order and position of all matrices: the layers, the head, the embedding.
pub struct ModelLayout {
    /// the matrices of all layers
    pub layers: Packed,
    /// the output head
    pub head: Packed,
    /// the embedding
    pub embed: EmbedLayout,
    /// ciphertexts left out
    pub(crate) first: usize,
}

impl ModelLayout {
    /// Lays out the encrypted model of a plan.
    pub fn new(plan: &Plan) -> ModelLayout {
        ModelLayout::of(plan, Part::Whole)
    }

    /// Lays out a part of it.
    pub fn of(plan: &Plan, part: Part) -> ModelLayout {
        let matrix = |site: Site| {
            let l = plan.linear(site);
            (site, l.d_out, l.d_in)
        };
        let sites = (0..plan.model.layers).flat_map(Site::of_layer).map(matrix);
        let layers = Packed::new(&sites.collect::<Vec<_>>(), 0);
        let head = Packed::new(&[matrix(Site::Head)], layers.count());
        let embed = EmbedLayout::new(plan.model.d, plan.model.vocab, layers.count() + head.count());
        let first = if part == Part::Whole { 0 } else { layers.count() };
        ModelLayout { layers, head, embed, first }
    }

    /// Ciphertexts in all.
    pub fn count(&self) -> usize {
        self.end() - self.first
    }

    /// The number behind that of the last ciphertext.
    pub(crate) fn end(&self) -> usize {
        self.embed.start + self.embed.count()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        (self.count() * SeededCiphertext::BYTES) as u64
    }

    /// Names the places of all weights, hex: a file of another layout says something else.
    pub fn id(&self) -> String {
        let places = format!("{:?} {:?} {:?}", self.layers.groups, self.head.groups, self.embed);
        Sha256::digest(places).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Message of a ciphertext.
    pub(crate) fn message(&self, index: usize, model: &ServerModel) -> Vec<Fp> {
        if index >= self.embed.start {
            return self.embed.message(index - self.embed.start, &model.embed);
        }
        let packed = if index < self.layers.count() { &self.layers } else { &self.head };
        let (group, k) = packed.locate(index);
        let d_in = group.d_in();
        group.message(k, |site, row, column| i64::from(model.weight(site)[row * d_in + column]))
    }

    pub(crate) fn layout(&self, index: usize) -> Layout {
        match index {
            i if i >= self.embed.start => self.embed.layout,
            i if i >= self.layers.count() => self.head.locate(i).0.layout(),
            i => self.layers.locate(i).0.layout(),
        }
    }
}

/// The client's copy of the encrypted model.
pub struct EncryptedModel {
    file: File,
    path: PathBuf,
    /// where everything lies in the file
    pub layout: ModelLayout,
}

impl EncryptedModel {
    /// Opens a received model.
    ///
    /// # Errors
    /// A missing file or one of the wrong size.
    pub fn open(path: &Path, plan: &Plan, part: Part) -> Result<EncryptedModel> {
        let layout = ModelLayout::of(plan, part);
        let failed = |e: std::io::Error| ProtocolError::file(path, e);
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len != layout.bytes() {
            let reason = format!("expected {} bytes, got {len}", layout.bytes());
            return Err(ProtocolError::corrupt(path, reason));
        }
        Ok(EncryptedModel { file, path: path.into(), layout })
    }

    /// Reads ciphertexts and expands them.
    ///
    /// # Errors
    /// `File`, or `Corrupt`: what the server sent is not looked at before it is used.
    pub fn read(
        &self,
        params: &'static Params,
        layout: Layout,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<Ciphertext>> {
        let first = self.layout.first;
        if range.start < first {
            let expected = format!("{first} or a later one");
            return Err(ProtocolError::bug("ciphertext of the encrypted model", expected, range.start));
        }
        let failed = |e: std::io::Error| ProtocolError::file(&self.path, e);
        let corrupt = |e: HeError| ProtocolError::corrupt(&self.path, e);
        let buffer = || vec![0; SeededCiphertext::BYTES];
        range
            .into_par_iter()
            .map_init(buffer, |bytes, index| {
                let at = (index - first) * SeededCiphertext::BYTES;
                self.file.read_exact_at(bytes, at as u64).map_err(failed)?;
                let ct = SeededCiphertext::from_bytes(params, layout, bytes).map_err(corrupt)?;
                Ok(ct.expand(params))
            })
            .collect()
    }
}
