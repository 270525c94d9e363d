//! Stored records, and their one and only use: inner products of the expanded vectors with public
//! tables (step 5).
//!
//! Record, little endian: `α_b` 2 bytes · tag of its batch 8 · number of its tree 4 · root 16 · per
//! level the correction word 16 · per half and given payload the final word 8 · our share of every
//! drawn payload 8.

use core::num::Wrapping;

use cryptogen_party::Role;
use cryptogen_ring::kernels::{Table, MAX_TABLES};
use cryptogen_ring::Word;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::tree::Grove;
use super::{TableBatch, TableShape, DOMAIN_BITS, MAX_WORDS};
use crate::error::OtError;
use crate::fixed_key::{Tag, NUMBER_BYTES, TAG_BYTES};

const TAG: usize = 2;
const NUMBER: usize = TAG + TAG_BYTES;
const ROOT: usize = NUMBER + NUMBER_BYTES;
const WORDS: usize = ROOT + 16;
const LEVELS: usize = *DOMAIN_BITS.end() as usize;

/// Offset of the final words.
const fn finals_at(shape: TableShape) -> usize {
    WORDS + 16 * shape.depth() as usize
}

/// `Δ_b` of the connection that made a record, as long as its transfers are below `2^32`.
#[cfg(test)]
pub(super) fn record_delta(record: &[u8]) -> u128 {
    let number = u32::from_le_bytes(record[NUMBER..ROOT].try_into().expect("a number's bytes"));
    u128::from_le_bytes(record[ROOT..WORDS].try_into().expect("sixteen bytes")) ^ (number as u128) << 1
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

    pub(super) fn set_name(&mut self, i: usize, tag: Tag, number: u32) {
        self.put(i, TAG, &tag);
        self.put(i, NUMBER, &number.to_le_bytes());
    }

    pub(super) fn set_root(&mut self, i: usize, seed: u128) {
        self.put(i, ROOT, &seed.to_le_bytes());
    }

    pub(super) fn set_correction(&mut self, i: usize, level: u32, word: u128) {
        self.put(i, WORDS + 16 * level as usize, &word.to_le_bytes());
    }

    /// A word behind the levels: those of [`TableShape::words`].
    pub(super) fn set_word(&mut self, i: usize, number: usize, word: Word) {
        self.put(i, finals_at(self.shape) + 8 * number, &word.0.to_le_bytes());
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
    #[zeroize(skip)]
    tag: Tag,
    #[zeroize(skip)]
    number: u32,
    root: u128,
    // Correction words are public to both parties, but a key is wiped as a whole.
    words: [[u128; 1]; LEVELS],
    finals: [Word; MAX_WORDS],
}

impl TableKey {
    /// Parses a record of [`TableBatch`].
    ///
    /// # Errors
    /// [`OtError::Size`] for a wrong length, [`OtError::Record`] for values that no record of this
    /// shape has.
    pub fn from_record(shape: TableShape, record: &[u8]) -> Result<TableKey, OtError> {
        let expected = shape.record_bytes();
        if record.len() != expected {
            return Err(OtError::Size { what: "record bytes", expected, actual: record.len() });
        }
        let word = |at: usize| u128::from_le_bytes(record[at..at + 16].try_into().expect("sixteen bytes"));
        let alpha = u16::from_le_bytes([record[0], record[1]]);
        if alpha as usize >= shape.size() {
            return Err(OtError::Record("index outside the domain"));
        }
        let mut key = TableKey {
            shape,
            alpha,
            tag: record[TAG..NUMBER].try_into().expect("a tag's bytes"),
            number: u32::from_le_bytes(record[NUMBER..ROOT].try_into().expect("a number's bytes")),
            root: word(ROOT),
            words: [[0]; LEVELS],
            finals: [Wrapping(0); MAX_WORDS],
        };
        for (level, words) in key.words[..shape.depth() as usize].iter_mut().enumerate() {
            *words = [word(WORDS + 16 * level)];
        }
        for (word, bytes) in
            key.finals[..shape.finals()].iter_mut().zip(record[finals_at(shape)..].as_chunks().0)
        {
            *word = Wrapping(u64::from_le_bytes(*bytes));
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

    /// `Σ_j v^{(ℓ)}[j]·T[(j+d) mod 2^k]` for each table `T` and payload `ℓ`, our share,
    /// `[tables][m]`. See [`TableKey::dot_into`].
    ///
    /// # Errors
    /// Those of [`TableKey::dot_into`].
    pub fn dot(self, role: Role, d: u32, tables: &[&Table]) -> Result<Vec<Word>, OtError> {
        let mut out = vec![Wrapping(0); tables.len() * self.shape.m()];
        self.dot_into(role, d, tables, &mut DotScratch::new(), &mut out)?;
        Ok(out)
    }

    /// `out[i·m + ℓ] = Σ_j v^{(ℓ)}[j]·T_i[(j+d) mod 2^k]` modulo `2^64`, our share: the peer's
    /// added, the result is `β^{(ℓ)}·T_i[(α+d) mod 2^k]`. Tables are public, with `2^k` entries, at
    /// most [`MAX_TABLES`] of them. Expands the key once: `2^{k−1}·(1 + 2⌈m/2⌉)` AES calls, with
    /// drawn payloads `2^k·(1 + ⌈m/2⌉)`.
    ///
    /// # Errors
    /// [`OtError::Size`] if a table or `out` has the wrong length, [`OtError::Range`] if there are
    /// too many tables.
    pub fn dot_into(
        self,
        role: Role,
        d: u32,
        tables: &[&Table],
        scratch: &mut DotScratch,
        out: &mut [Word],
    ) -> Result<(), OtError> {
        self.check(tables, out.len())?;
        let (m, first) = (self.shape.m(), d as usize & (self.shape.size() - 1));
        let (shape, grove) = (self.shape, &mut scratch.grove);
        let words = &self.words[..shape.depth() as usize];
        grove.rekey(self.tag, &[self.number], words.len());
        grove.grow(&[self.root], words);
        for pair in 0..shape.pairs() {
            let mut sums = Zeroizing::new([[0; 2]; MAX_TABLES]);
            for half in 0..shape.halves() {
                // Drawn payloads have no final word, and an odd number leaves half of a block
                // unused.
                let word = |payload: usize| match payload < shape.corrected() {
                    true => self.finals[shape.word(half, payload)].0,
                    false => 0,
                };
                let finals = [word(2 * pair), word(2 * pair + 1)];
                let (block, first) = (shape.block(half, pair), first + (half << shape.depth()));
                grove.dot((block, finals), tables, first, &mut sums[..tables.len()]);
            }
            for (values, out) in sums.iter().zip(out.chunks_exact_mut(m)) {
                for (payload, value) in (2 * pair..m).zip(values) {
                    out[payload] = if role == Role::Client { Wrapping(*value) } else { -Wrapping(*value) };
                }
            }
        }
        Ok(())
    }

    fn check(&self, tables: &[&Table], out: usize) -> Result<(), OtError> {
        if tables.len() > MAX_TABLES {
            return Err(OtError::Range { what: "tables", min: 0, max: MAX_TABLES, actual: tables.len() });
        }
        let expected = tables.len() * self.shape.m();
        if out != expected {
            return Err(OtError::Size { what: "results", expected, actual: out });
        }
        let expected = self.shape.size();
        match tables.iter().find(|table| table.len() != expected) {
            Some(table) => Err(OtError::Size { what: "table entries", expected, actual: table.len() }),
            None => Ok(()),
        }
    }
}

/// Reusable working memory of [`TableKey::dot_into`], `16·2^k` bytes for the largest `k` met.
/// Wiped on drop.
pub struct DotScratch {
    grove: Grove<1>,
}

impl DotScratch {
    /// Small; grows with the keys.
    pub fn new() -> DotScratch {
        DotScratch { grove: Grove::new(*DOMAIN_BITS.start()) }
    }
}

impl Default for DotScratch {
    fn default() -> DotScratch {
        DotScratch::new()
    }
}
