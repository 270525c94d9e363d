//! Stored records, and their one and only use: inner products of the expanded vectors with public tables (step 5).
//!
//! Record, little endian: `α_b` 2 bytes · root 16 · per level the correction word 16 (its least significant bit is `t^L`) ·
//! the bits `t^R` 2 (level `i` in bit `i`) · per payload the final word 8.

use cryptogen_ring::Fp;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::tree::Correction;
use super::{TableBatch, TableShape, DOMAIN_BITS, MAX_PAYLOADS};
use crate::bits;
use crate::channel::Role;
use crate::error::OtError;
use crate::fixed_key::{Buffers, CHUNK};

const ROOT: usize = 2;
const WORDS: usize = ROOT + 16;
const LEVELS: usize = *DOMAIN_BITS.end() as usize;

/// Offset of the bits `t^R`; the final words follow.
const fn right_bits_at(k: u32) -> usize {
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

    pub(super) fn set_correction(&mut self, i: usize, level: u32, correction: &Correction) {
        self.put(i, WORDS + 16 * level as usize, &correction.left.to_le_bytes());
        let at = i * self.shape.record_bytes() + right_bits_at(self.shape.k()) + level as usize / 8;
        self.bytes[at] |= (correction.right as u8 & 1) << (level % 8);
    }

    pub(super) fn set_final(&mut self, i: usize, payload: usize, word: Fp) {
        self.put(i, right_bits_at(self.shape.k()) + 2 + 8 * payload, &word.to_le_bytes());
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
    left: [u128; LEVELS],
    right: [u128; LEVELS],
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
        if word(ROOT) & 1 == 1 {
            return Err(OtError::Record("root seed with its bit set"));
        }
        let right_bits = &record[right_bits_at(k)..right_bits_at(k) + 2];
        if u32::from(u16::from_le_bytes([right_bits[0], right_bits[1]])) >> k != 0 {
            return Err(OtError::Record("bits beyond the last level"));
        }
        let (alpha, root) = (alpha, word(ROOT));
        let mut key = TableKey {
            shape,
            alpha,
            root,
            left: [0; LEVELS],
            right: [0; LEVELS],
            finals: [Fp::ZERO; MAX_PAYLOADS],
        };
        for level in 0..k as usize {
            let correction = Correction::new(word(WORDS + 16 * level), bits::get(right_bits, level));
            (key.left[level], key.right[level]) = (correction.left, correction.right);
        }
        let finals = record[right_bits_at(k) + 2..].chunks_exact(8);
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
    /// `2^(k+1) + 2^k·(payloads used)` AES calls.
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
        let mask = self.shape.size() - 1;
        scratch.sums.clear();
        scratch.sums.resize(terms.len(), (0, 0));
        self.expand_parents(role, scratch);
        let DotScratch { nodes, leaves, selected, values, sums, buffers, .. } = scratch;
        let (left, right) = (self.left[self.shape.k() as usize - 1], self.right[self.shape.k() as usize - 1]);

        for (c, parents) in nodes[..self.shape.size() / 2].chunks(CHUNK / 2).enumerate() {
            let n = 2 * parents.len();
            for (i, parent) in parents.iter().enumerate() {
                buffers.set(i, parent & !1);
            }
            buffers.children(parents.len(), |i, l, r| {
                let t = bits::mask(parents[i] as u8);
                let (l, r) = (l ^ (t & left), r ^ (t & right));
                (leaves[2 * i], leaves[2 * i + 1]) = (l & !1, r & !1);
                selected[2 * i] = (l as i64 & 1).wrapping_neg();
                selected[2 * i + 1] = (r as i64 & 1).wrapping_neg();
            });
            let start = (c * CHUNK + d as usize) & mask;
            for payload in (0..self.shape.m()).filter(|payload| used >> payload & 1 == 1) {
                buffers.convert(&leaves[..n], payload, values);
                for ((_, table), sum) in terms.iter().zip(sums.iter_mut()).filter(|((l, _), _)| *l == payload)
                {
                    // The rotated table wraps at most once within a chunk.
                    let head = n.min(table.len() - start);
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

    /// The nodes of level `k − 1`, corrected, `t` in the least significant bit, to `scratch.nodes`.
    fn expand_parents(&self, role: Role, scratch: &mut DotScratch) {
        let DotScratch { nodes, next, buffers, .. } = scratch;
        if nodes.len() < self.shape.size() / 2 {
            // Not `resize`: a reallocation would leave the old seeds behind.
            for buffer in [&mut *nodes, &mut *next] {
                buffer.zeroize();
                *buffer = vec![0; self.shape.size() / 2];
            }
        }
        nodes[0] = self.root | role.index() as u128;
        for level in 0..self.shape.k() as usize - 1 {
            let (left, right) = (self.left[level], self.right[level]);
            for (parents, children) in nodes[..1 << level].chunks(CHUNK).zip(next.chunks_mut(2 * CHUNK)) {
                for (i, parent) in parents.iter().enumerate() {
                    buffers.set(i, parent & !1);
                }
                buffers.children(parents.len(), |i, l, r| {
                    let t = bits::mask(parents[i] as u8);
                    children[2 * i] = l ^ (t & left);
                    children[2 * i + 1] = r ^ (t & right);
                });
            }
            core::mem::swap(nodes, next);
        }
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
    nodes: Vec<u128>,
    next: Vec<u128>,
    leaves: [u128; CHUNK],
    selected: [i64; CHUNK],
    values: [u64; CHUNK],
    sums: Vec<(i128, i64)>,
    buffers: Buffers,
}

impl DotScratch {
    /// Empty; grows with the first key.
    pub fn new() -> DotScratch {
        DotScratch {
            nodes: Vec::new(),
            next: Vec::new(),
            leaves: [0; CHUNK],
            selected: [0; CHUNK],
            values: [0; CHUNK],
            sums: Vec::new(),
            buffers: Buffers::new(),
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
        self.nodes.zeroize();
        self.next.zeroize();
        self.leaves.zeroize();
        self.selected.zeroize();
        self.values.zeroize();
        self.sums.iter_mut().for_each(|(value, count)| {
            value.zeroize();
            count.zeroize();
        });
    }
}
