//! Stored records, and their one and only use: inner products of the expanded vectors with public tables (step 5).
//!
//! Record, little endian: `α_b` 2 bytes · root 16 · per level the correction word 16 · per payload the final word 8.

use cryptogen_ring::Fp;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::tree::Grove;
use super::{TableBatch, TableShape, DOMAIN_BITS, MAX_PAYLOADS};
use crate::channel::Role;
use crate::error::OtError;
use crate::fixed_key;

const ROOT: usize = 2;
const WORDS: usize = ROOT + 16;
const LEVELS: usize = *DOMAIN_BITS.end() as usize;
/// Leaves worked on at once: small enough for the first-level cache.
const CHUNK: usize = 128;

/// Offset of the final words.
const fn finals_at(k: u32) -> usize {
    WORDS + 16 * k as usize
}

/// The records of a batch under construction.
pub(super) struct RecordWriter {
    shape: TableShape,
    bytes: Zeroizing<Vec<u8>>,
}

impl RecordWriter {
    pub(super) fn new(shape: TableShape, n: usize) -> RecordWriter {
        RecordWriter { shape, bytes: Zeroizing::new(vec![0; n * shape.record_bytes()]) }
    }

    fn put(&mut self, i: usize, offset: usize, bytes: &[u8]) {
        let at = i * self.shape.record_bytes() + offset;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn set_indices(&mut self, shares: &[u16]) {
        let mask = (self.shape.size() - 1) as u16;
        for (i, share) in shares.iter().enumerate() {
            self.put(i, 0, &(share & mask).to_le_bytes());
        }
    }

    pub(super) fn set_root(&mut self, i: usize, seed: u128) {
        self.put(i, ROOT, &seed.to_le_bytes());
    }

    pub(super) fn set_correction(&mut self, i: usize, level: u32, word: u128) {
        self.put(i, WORDS + 16 * level as usize, &word.to_le_bytes());
    }

    pub(super) fn set_final(&mut self, i: usize, payload: usize, word: Fp) {
        self.put(i, finals_at(self.shape.k()) + 8 * payload, &word.to_le_bytes());
    }

    pub(super) fn finish(self) -> TableBatch {
        TableBatch { shape: self.shape, bytes: self.bytes }
    }
}

/// One party's key of one table. Single use: [`TableKey::dot`] consumes it. Wiped on drop.
#[derive(ZeroizeOnDrop)]
pub struct TableKey {
    #[zeroize(skip)]
    shape: TableShape,
    alpha: u16,
    root: u128,
    // Correction words are public to both parties, but a key is wiped as a whole.
    words: [[u128; 1]; LEVELS],
    finals: [Fp; MAX_PAYLOADS],
}

impl TableKey {
    /// Parses a record of [`TableBatch`].
    ///
    /// # Errors
    /// [`OtError::Size`] for a wrong length, [`OtError::Record`] for values that no record of this shape has.
    pub fn from_record(shape: TableShape, record: &[u8]) -> Result<TableKey, OtError> {
        let expected = shape.record_bytes();
        if record.len() != expected {
            return Err(OtError::Size { what: "record bytes", expected, actual: record.len() });
        }
        let (k, m) = (shape.k(), shape.m());
        let word = |at: usize| u128::from_le_bytes(record[at..at + 16].try_into().expect("sixteen bytes"));
        let alpha = u16::from_le_bytes([record[0], record[1]]);
        if alpha as usize >= shape.size() {
            return Err(OtError::Record("index outside the domain"));
        }
        let mut key = TableKey {
            shape,
            alpha,
            root: word(ROOT),
            words: [[0]; LEVELS],
            finals: [Fp::ZERO; MAX_PAYLOADS],
        };
        for (level, words) in key.words[..k as usize].iter_mut().enumerate() {
            *words = [word(WORDS + 16 * level)];
        }
        let finals = record[finals_at(k)..].chunks_exact(8);
        for (element, bytes) in key.finals[..m].iter_mut().zip(finals) {
            *element = Fp::from_le_bytes(bytes.try_into().expect("eight bytes"))
                .ok_or(OtError::Record("final word outside the field"))?;
        }
        Ok(key)
    }

    /// The shape the key was read with.
    pub fn shape(&self) -> TableShape {
        self.shape
    }

    /// Our additive share of the index, below `2^k`.
    pub fn alpha(&self) -> u32 {
        self.alpha as u32
    }

    /// `Σ_j v^{(ℓ)}[j]·T[(j+d) mod 2^k]` for each term `(ℓ, T)`, our share. See [`TableKey::dot_into`].
    ///
    /// # Errors
    /// Those of [`TableKey::dot_into`].
    pub fn dot(self, role: Role, d: u32, terms: &[(usize, &[i64])]) -> Result<Vec<Fp>, OtError> {
        let mut out = vec![Fp::ZERO; terms.len()];
        self.dot_into(role, d, terms, &mut DotScratch::new(), &mut out)?;
        Ok(out)
    }

    /// `out[i] = Σ_j v^{(ℓ)}[j]·T[(j+d) mod 2^k]` for each term `(ℓ, T)`, our share: the peer's added, the result is
    /// `β^{(ℓ)}·T[(α+d) mod 2^k]`. `T` is public with `2^k` entries, `|entry| < 2^46` (then the 128-bit sums cannot
    /// overflow; larger entries give a wrong result). Expands the key once and only the payloads that some term uses:
    /// `2^k·(1 + payloads used)` AES calls.
    ///
    /// # Errors
    /// [`OtError::Size`] if a table or `out` has the wrong length, [`OtError::Range`] if a payload does not exist.
    pub fn dot_into(
        self,
        role: Role,
        d: u32,
        terms: &[(usize, &[i64])],
        scratch: &mut DotScratch,
        out: &mut [Fp],
    ) -> Result<(), OtError> {
        let used = self.check_terms(terms, out.len())?;
        let size = self.shape.size();
        let DotScratch { grove, converted, values, selected, sums } = scratch;
        sums.clear();
        sums.resize(terms.len(), (0, 0));
        grove.grow(&[self.root], &self.words[..self.shape.k() as usize]);
        for first in (0..size).step_by(CHUNK) {
            let n = CHUNK.min(size - first);
            let start = (first + d as usize) & (size - 1);
            // The rotated table wraps at most once within a chunk.
            let head = n.min(size - start);
            for payload in (0..self.shape.m()).filter(|payload| used >> payload & 1 == 1) {
                let leaves = &grove.nodes()[first..first + n];
                fixed_key::convert(leaves, payload, &mut converted[..n]);
                for (i, (leaf, value)) in leaves.iter().zip(converted.iter()).enumerate() {
                    values[i] = fixed_key::reduce(*value);
                    selected[i] = (*leaf as i64 & 1).wrapping_neg();
                }
                for ((_, table), sum) in terms.iter().zip(sums.iter_mut()).filter(|((l, _), _)| *l == payload)
                {
                    accumulate(&values[..head], &selected[..head], &table[start..start + head], sum);
                    accumulate(&values[head..n], &selected[head..n], &table[..n - head], sum);
                }
            }
        }
        for (((payload, _), (value, count)), out) in terms.iter().zip(sums.iter()).zip(out) {
            let share = Fp::from_i128(*value) + self.finals[*payload] * Fp::from_i64(*count);
            *out = if role == Role::Client { share } else { -share };
        }
        Ok(())
    }

    /// Checks the caller's sizes; bit `ℓ` of the result is set if some term uses payload `ℓ`.
    fn check_terms(&self, terms: &[(usize, &[i64])], out: usize) -> Result<u32, OtError> {
        if out != terms.len() {
            return Err(OtError::Size { what: "results", expected: terms.len(), actual: out });
        }
        let mut used = 0;
        for (payload, table) in terms {
            if *payload >= self.shape.m() {
                let max = self.shape.m() - 1;
                return Err(OtError::Range { what: "payload", min: 0, max, actual: *payload });
            }
            if table.len() != self.shape.size() {
                let expected = self.shape.size();
                return Err(OtError::Size { what: "table entries", expected, actual: table.len() });
            }
            used |= 1 << payload;
        }
        Ok(used)
    }
}

/// Adds `Σ x·T` and `Σ t·T` (`t` as a mask) to the sums.
#[inline(always)]
fn accumulate(values: &[u64], selected: &[i64], table: &[i64], sum: &mut (i128, i64)) {
    let (mut value, mut count) = *sum;
    for ((x, t), entry) in values.iter().zip(selected).zip(table) {
        value = value.wrapping_add((*x as i128).wrapping_mul(*entry as i128));
        count = count.wrapping_add(entry & t);
    }
    *sum = (value, count);
}

/// Reusable working memory of [`TableKey::dot_into`], `16·2^k` bytes for the largest `k` met. Wiped on drop.
pub struct DotScratch {
    grove: Grove<1>,
    converted: [u128; CHUNK],
    values: [u64; CHUNK],
    selected: [i64; CHUNK],
    sums: Vec<(i128, i64)>,
}

impl DotScratch {
    /// Small; grows with the keys.
    pub fn new() -> DotScratch {
        let grove = Grove::new(*DOMAIN_BITS.start());
        DotScratch {
            grove,
            converted: [0; CHUNK],
            values: [0; CHUNK],
            selected: [0; CHUNK],
            sums: Vec::new(),
        }
    }
}

impl Default for DotScratch {
    fn default() -> DotScratch {
        DotScratch::new()
    }
}

impl Drop for DotScratch {
    fn drop(&mut self) {
        self.converted.zeroize();
        self.values.zeroize();
        self.selected.zeroize();
        self.sums.iter_mut().for_each(|(value, count)| {
            value.zeroize();
            count.zeroize();
        });
    }
}
