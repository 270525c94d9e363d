//! The encrypted model: the server's integer weights under the server's own key, sent to a client once per model.
//!
//! With it the client computes `Enc(W·r − mask)` for its own masks, any number of tokens at a time, without rotations or
//! key switching (`docs/decisions/0002-encrypted-model.md`; design of the default protocol, `Linear`, with the roles exchanged).
//!
//! A matrix `[d_out, d_in]` is cut into blocks of `C = min(N, 2^⌈log d_out⌉)` output rows; a ciphertext of `F = N/C` slots holds `F` input
//! columns: slot κ, coefficient c of ciphertext (block, k) is `W[block·C + c][k·F + κ]`. The embedding is `Eᵀ`: its columns are tokens.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cryptogen_he::{Ciphertext, Layout, Params, SecretKey, SeededCiphertext, N};
use cryptogen_ot::Channel;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use super::{report, Progress};
use crate::cost::Cost;
use crate::error::{ProtocolError, Result};
use crate::online::ServerModel;
use crate::plan::{Plan, Site};

/// Ciphertexts per message: about 6 MB.
const BATCH: usize = 32;

/// Where one matrix lies in the encrypted model.
#[derive(Clone, Copy)]
pub struct MatrixLayout {
    pub layout: Layout,
    /// output rows per block, `C`
    pub block_rows: usize,
    pub blocks: usize,
    /// ciphertexts per block, `⌈d_in / F⌉`
    pub columns: usize,
    pub d_in: usize,
    pub d_out: usize,
    start: usize,
}

impl MatrixLayout {
    fn new(d_out: usize, d_in: usize, start: usize) -> MatrixLayout {
        let block_rows = d_out.next_power_of_two().min(N);
        let f = N / block_rows;
        MatrixLayout {
            layout: slots(f),
            block_rows,
            blocks: d_out.div_ceil(block_rows),
            columns: d_in.div_ceil(f),
            d_in,
            d_out,
            start,
        }
    }

    /// Input columns per ciphertext, `F`.
    pub fn slots(&self) -> usize {
        N / self.block_rows
    }

    fn count(&self) -> usize {
        self.blocks * self.columns
    }

    /// Message `[F][C]` of ciphertext (block, k).
    fn message(&self, block: usize, k: usize, entry: impl Fn(usize, usize) -> i64) -> Vec<Fp> {
        let mut m = vec![Fp::ZERO; N];
        for slot in 0..self.slots() {
            let column = k * self.slots() + slot;
            for c in 0..self.block_rows {
                let row = block * self.block_rows + c;
                if row < self.d_out && column < self.d_in {
                    m[slot * self.block_rows + c] = Fp::from_i64(entry(row, column));
                }
            }
        }
        m
    }
}

/// The layout of `f` slots; `f` is a power of two up to N.
pub(crate) fn slots(f: usize) -> Layout {
    Layout::new(f.trailing_zeros()).expect("a power of two up to N")
}

/// How much of the model a client needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// Head and embedding: where layers are computed on the client's ciphertexts.
    Ends,
}

/// Order and position of all matrices: the layers, the head, the embedding.
pub struct ModelLayout {
    sites: Vec<MatrixLayout>,
    pub embed: MatrixLayout,
    layers: usize,
    /// ciphertexts left out
    first: usize,
}

impl ModelLayout {
    /// Lays out the encrypted model of a plan.
    pub fn new(plan: &Plan) -> ModelLayout {
        ModelLayout::of(plan, Part::Whole)
    }

    /// Lays out a part of it.
    pub fn of(plan: &Plan, part: Part) -> ModelLayout {
        let layers = plan.model.layers;
        let mut start = 0;
        let mut sites = vec![];
        for site in (0..layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let l = plan.linear(site);
            let m = MatrixLayout::new(l.d_out, l.d_in, start);
            start += m.count();
            sites.push(m);
        }
        let first = match part {
            Part::Whole => 0,
            Part::Ends => sites[Site::Head.index(layers)].start,
        };
        ModelLayout { sites, embed: MatrixLayout::new(plan.model.d, plan.model.vocab, start), layers, first }
    }

    /// The layout of a site's matrix.
    pub fn site(&self, site: Site) -> &MatrixLayout {
        &self.sites[site.index(self.layers)]
    }

    /// Ciphertexts in all.
    pub fn count(&self) -> usize {
        self.end() - self.first
    }

    fn end(&self) -> usize {
        self.embed.start + self.embed.count()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        (self.count() * SeededCiphertext::BYTES) as u64
    }

    fn locate(&self, index: usize) -> (Option<Site>, &MatrixLayout, usize) {
        let sites = (0..self.layers).flat_map(Site::of_layer).chain([Site::Head]);
        for (site, m) in sites.zip(&self.sites) {
            if index < m.start + m.count() {
                return (Some(site), m, index - m.start);
            }
        }
        (None, &self.embed, index - self.embed.start)
    }
}

/// Messages and bytes of the model.
pub fn cost(plan: &Plan, part: Part) -> Cost {
    let layout = ModelLayout::of(plan, part);
    Cost { messages: layout.count().div_ceil(BATCH), client_bytes: 0, server_bytes: layout.bytes() as usize }
}

/// Server: encrypts and sends the model, in bounded memory.
///
/// # Errors
/// Connection failures; interruption.
pub fn send(
    ch: &mut dyn Channel,
    key: &SecretKey,
    plan: &Plan,
    part: Part,
    model: &ServerModel,
    rng: &mut Prg,
    progress: Progress<'_>,
) -> Result<()> {
    let layout = ModelLayout::of(plan, part);
    let (first, end) = (layout.first, layout.end());
    for start in (first..end).step_by(BATCH) {
        let seed = Seed::random(rng);
        let batch: Result<Vec<Vec<u8>>> = (start..end.min(start + BATCH))
            .into_par_iter()
            .map(|index| {
                let (site, m, i) = layout.locate(index);
                let (block, k) = (i / m.columns, i % m.columns);
                let message = match site {
                    Some(site) => {
                        let w = model.weight(site);
                        m.message(block, k, |row, column| i64::from(w[row * m.d_in + column]))
                    }
                    None => m.message(block, k, |row, column| i64::from(model.embed[column * m.d_out + row])),
                };
                let mut rng = Prg::new(&seed.derive("encrypted model", index as u64));
                Ok(key.encrypt(&message, m.layout, &mut rng)?.to_bytes())
            })
            .collect();
        let batch = batch?;
        ch.send(&batch.concat())?;
        let done = start + batch.len() - first;
        report(progress, "encrypting the model", done as u64, layout.count() as u64)?;
    }
    Ok(())
}

/// Client: receives the encrypted model into `path`, which appears only when it is whole.
///
/// # Errors
/// Connection failures, a full disk (nothing is left behind), interruption.
pub fn receive(
    ch: &mut dyn Channel,
    plan: &Plan,
    part: Part,
    path: &Path,
    progress: Progress<'_>,
) -> Result<()> {
    let layout = ModelLayout::of(plan, part);
    let total = layout.count();
    let partial = path.with_extension("partial");
    let file_error = |e: std::io::Error| ProtocolError::File {
        path: partial.display().to_string(),
        reason: e.to_string(),
    };
    let mut run = || -> Result<()> {
        let file =
            OpenOptions::new().create(true).truncate(true).write(true).open(&partial).map_err(file_error)?;
        let mut out = BufWriter::new(file);
        for start in (0..total).step_by(BATCH) {
            let n = total.min(start + BATCH) - start;
            out.write_all(&ch.recv(n * SeededCiphertext::BYTES)?).map_err(file_error)?;
            report(progress, "receiving the encrypted model", (start + n) as u64, total as u64)?;
        }
        let file = out.into_inner().map_err(|e| file_error(e.into_error()))?;
        file.sync_all().map_err(file_error)?;
        std::fs::rename(&partial, path).map_err(file_error)
    };
    let result = run();
    if result.is_err() {
        // Best effort: the error being reported matters more than a left-over file.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

/// The client's copy of the encrypted model.
pub struct EncryptedModel {
    file: File,
    path: PathBuf,
    pub layout: ModelLayout,
}

impl EncryptedModel {
    /// Opens a received model.
    ///
    /// # Errors
    /// A missing file or one of the wrong size.
    pub fn open(path: &Path, plan: &Plan, part: Part) -> Result<EncryptedModel> {
        let layout = ModelLayout::of(plan, part);
        let error = |reason: String| ProtocolError::File { path: path.display().to_string(), reason };
        let file = File::open(path).map_err(|e| error(e.to_string()))?;
        let len = file.metadata().map_err(|e| error(e.to_string()))?.len();
        if len != layout.bytes() {
            return Err(error(format!("expected {} bytes, got {len}", layout.bytes())));
        }
        Ok(EncryptedModel { file, path: path.into(), layout })
    }

    /// Reads ciphertexts `k` of a block and expands them.
    ///
    /// # Errors
    /// Unreadable or malformed ciphertexts.
    pub fn expanded(
        &self,
        params: &'static Params,
        m: &MatrixLayout,
        block: usize,
        k: std::ops::Range<usize>,
    ) -> Result<Vec<Ciphertext>> {
        let start = m.start.checked_sub(self.layout.first);
        let start = start.ok_or_else(|| ProtocolError::MissingWeights("of a layer, on the client".into()))?;
        let failed = |e: std::io::Error| ProtocolError::File {
            path: self.path.display().to_string(),
            reason: e.to_string(),
        };
        let buffer = || vec![0; SeededCiphertext::BYTES];
        k.into_par_iter()
            .map_init(buffer, |bytes, k| {
                let at = (start + block * m.columns + k) * SeededCiphertext::BYTES;
                self.file.read_exact_at(bytes, at as u64).map_err(failed)?;
                Ok(SeededCiphertext::from_bytes(params, m.layout, bytes)?.expand(params))
            })
            .collect()
    }
}
