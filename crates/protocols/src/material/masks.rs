//! Random masks of a row, derived from its material's seed by what each is for.

use std::ops::Range;

use cryptogen_ring::{Fp, Prg, Seed, Word};
use rayon::prelude::*;

/// What a random mask of a row is for; each is derived from the material's seed and used by one
/// step only.
#[derive(Clone, Copy, Debug)]
pub enum MaskLabel {
    /// Client: `r`, which hides the unit vector of its token, `[vocab]` (index: which 4096
    /// of them).
    Embed,
    /// Client: re-mask `r` in front of a linear layer (index: site), modulo `2^64` behind an
    /// activation.
    Remask,
    /// Client: opens its share of 1/rms (index: norm).
    NormScalar,
    /// Server: `h'`, opened for the sum of squares (index: norm).
    NormSquare,
    /// Server: `h`, opened for the product (index: norm).
    NormInput,
    /// Server: its share of 1/rms (index: norm).
    NormScale,
    /// Server: queries opened to the client (index: layer).
    Query,
    /// Server: keys opened to the client (index: layer).
    Key,
    /// Server: values opened to the client (index: layer).
    Value,
    /// Both: `o'`, opened for the product with `1/σ` (index: layer).
    AttentionOut,
    /// Both: `1/σ`, opened for the product with `o'` (index: layer).
    AttentionScale,
    /// Server: gate opened to the client (index: layer).
    Gate,
    /// Server: up, or the input of a plain activation, opened to the client (index: layer).
    Up,
    /// Server: up once more, modulo `2^64`, for the look-up (index: layer).
    UpPayload,
    /// Both: payload shares of a norm's only or coarse range, modulo `2^64` (index: norm).
    NormHi,
    /// The same of a norm's fine range (index: norm).
    NormLo,
    /// The same of a norm's net (index: norm).
    NormNet,
    /// The same of 1/σ, its only or coarse range (index: layer).
    SigmaHi,
    /// The same of the fine range of 1/σ (index: layer).
    SigmaLo,
    /// The same of the net of 1/σ (index: layer).
    SigmaNet,
    /// The same of a gated activation (index: layer).
    Activation,
}

/// Words of [`MaskLabel::NormHi`] or [`MaskLabel::SigmaHi`] for one scalar: payload shares, of
/// which one range alone uses the first.
pub(crate) const HI_MASKS: usize = 3;

/// Those of scalar `i`.
pub(crate) fn hi_masks(words: &[Word], i: usize) -> [Word; HI_MASKS] {
    core::array::from_fn(|payload| words[HI_MASKS * i + payload])
}

/// Labels of the payload shares of a kind of scalar: of the only or coarse range, of the fine one,
/// of the net.
pub(crate) type ScalarLabels = [MaskLabel; 3];
pub(crate) const NORM_LABELS: ScalarLabels = [MaskLabel::NormHi, MaskLabel::NormLo, MaskLabel::NormNet];
pub(crate) const SIGMA_LABELS: ScalarLabels = [MaskLabel::SigmaHi, MaskLabel::SigmaLo, MaskLabel::SigmaNet];

/// Numbers of an embedding's mask that are expanded together: a mask is as long as the vocabulary,
/// and those of many rows would fill the memory.
pub(crate) const EMBED_COLUMNS: usize = 4096;

/// Client: the mask of a row's unit vector.
pub(crate) fn embed_mask(seed: &Seed, vocab: usize) -> Vec<Fp> {
    let part =
        |start| expand_mask(seed, MaskLabel::Embed, start / EMBED_COLUMNS, EMBED_COLUMNS.min(vocab - start));
    (0..vocab).step_by(EMBED_COLUMNS).flat_map(part).collect()
}

/// The same of many rows, but only of up to [`EMBED_COLUMNS`] numbers from a multiple of it on.
pub(crate) fn embed_masks(seeds: &[Seed], columns: Range<usize>) -> Vec<Fp> {
    masks(seeds, MaskLabel::Embed, columns.start / EMBED_COLUMNS, columns.len())
}

/// Expands a mask of a row. `index`: site, norm or layer number, as documented on [`MaskLabel`].
pub fn expand_mask(seed: &Seed, what: MaskLabel, index: usize, n: usize) -> Vec<Fp> {
    masks(std::slice::from_ref(seed), what, index, n)
}

/// The same of many rows, one after another. Parallel over rows.
pub(crate) fn masks(seeds: &[Seed], what: MaskLabel, index: usize, n: usize) -> Vec<Fp> {
    expand(seeds, what, index, n, |prg, out| prg.fill_fp(out))
}

/// A mask of a row modulo `2^64`.
pub fn mask_words(seed: &Seed, what: MaskLabel, index: usize, n: usize) -> Vec<Word> {
    masks_words(std::slice::from_ref(seed), what, index, n)
}

/// The same of many rows, one after another. Parallel over rows.
pub(crate) fn masks_words(seeds: &[Seed], what: MaskLabel, index: usize, n: usize) -> Vec<Word> {
    expand(seeds, what, index, n, |prg, out| prg.fill_words(out))
}

fn expand<T: Copy + Default + Send>(
    seeds: &[Seed],
    what: MaskLabel,
    index: usize,
    n: usize,
    fill: impl Fn(&mut Prg, &mut [T]) + Sync,
) -> Vec<T> {
    let label = format!("{what:?}");
    let mut out = vec![T::default(); seeds.len() * n];
    let fill = |seed: &Seed, out: &mut [T]| {
        #[cfg(test)]
        if seed.expose().starts_with(&removed::mark(what)) {
            return; // zeros
        }
        fill(&mut Prg::new(&seed.derive(&label, index as u64)), out);
    };
    match seeds {
        [seed] => fill(seed, &mut out),
        _ => out.par_chunks_mut(n).zip(seeds).for_each(|(out, seed)| fill(seed, out)),
    }
    out
}

/// Test builds: seeds whose masks of one label are zeros, so that tests can see what it hides.
#[cfg(test)]
pub(crate) mod removed {
    use super::{MaskLabel, Seed};

    pub(super) fn mark(what: MaskLabel) -> [u8; 9] {
        let mut mark = *b"no mask: ";
        mark[8] = what as u8;
        mark
    }

    /// The seed without masks of this label.
    pub(crate) fn from(mut seed: [u8; 32], what: MaskLabel) -> Seed {
        seed[..9].copy_from_slice(&mark(what));
        Seed::from_bytes(seed)
    }
}
