//! How rows of keys and values lie in the slots of the encrypted cache.
//!
//! Source: CryptoGen (arXiv 2602.08798), heterogeneous SIMD encodings and slot-aware concatenation.
//! A ciphertext holds `T` tokens of all key heads at once, and of every head `E'` of its features:
//! slot (x, h, e') = token x of the block, key head h < H', feature e' < E'; `T·H'·E' ≤ N`. A row
//! needs `packs = ⌈head_dim/E'⌉` ciphertexts, `T` consecutive tokens share them: token m lies in
//! block `m div T` at `x = m mod T`, and the cache has `packs·⌈L/T⌉` ciphertexts for keys and as
//! many for values. Small T is the paper's inner encoding (whole rows), large T its outer encoding
//! (a ciphertext per column); one family, so that both phases use the same cache. Diagonals are
//! what matrix kernels read off it by rotation.

use std::collections::BTreeSet;

use cryptogen_he::evaluate::{Lanes, Noise, N};
use cryptogen_protocols::model::ModelShape;
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

/// The paper's encodings of a matrix `[tokens, features]` in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Whole rows: all features of a token in one ciphertext.
    Inner,
    /// Some features of some tokens: between inner and outer.
    Mixed,
    /// Columns: one feature of many tokens.
    Outer,
    /// Generalised diagonals (Halevi–Shoup), made by rotation or by encrypting.
    Diagonal,
}

/// How rows meet the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryShape {
    /// One row at a time against a block.
    Row,
    /// T rows at a time against a block, diagonal by diagonal.
    Block,
}

/// The layout of a cache, computed from the public plan by both parties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheLayout {
    lanes: Lanes,
    /// E', a power of two
    features: usize,
    /// key heads of the model
    pub kv_heads: usize,
    /// query heads per key head: `members` of a lane
    pub group: usize,
    /// features of a head
    pub head_dim: usize,
    /// baby steps of the matrix kernels, a power of two that divides T
    babies: usize,
}

impl CacheLayout {
    /// `tokens` (a power of two) per ciphertext.
    ///
    /// # Errors
    /// Sizes that do not fit into a ciphertext.
    pub fn new(m: &ModelShape, tokens: usize) -> Result<CacheLayout> {
        let lanes = Lanes::new(tokens)?;
        let lane_heads = m.kv_heads.next_power_of_two();
        if lane_heads > lanes.count() {
            let expected = format!("up to {} with {} key heads", N / lane_heads.min(N), m.kv_heads);
            return Err(ProtocolError::caller("tokens of a cache ciphertext", expected, tokens));
        }
        let features = (lanes.count() / lane_heads).min(m.head_dim.next_power_of_two());
        let packs = m.head_dim.div_ceil(features);
        Ok(CacheLayout {
            lanes,
            features,
            kv_heads: m.kv_heads,
            group: m.queries_per_kv_head(),
            head_dim: m.head_dim,
            babies: babies(tokens, packs),
        })
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.lanes.n()
    }

    /// E'.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Ciphertexts of the keys (or values) of a block.
    pub fn packs(&self) -> usize {
        self.head_dim.div_ceil(self.features)
    }

    /// Baby steps of the matrix kernels; there are `T/babies` giant steps.
    pub fn babies(&self) -> usize {
        self.babies
    }

    /// Blocks of a cache of `len` rows.
    pub fn blocks(&self, len: usize) -> usize {
        len.div_ceil(self.tokens())
    }

    /// Ciphertexts of the keys (or values) of one layer.
    pub fn ciphertexts(&self, len: usize) -> usize {
        self.packs() * self.blocks(len)
    }

    /// The paper's name of this layout.
    pub fn encoding(&self) -> Encoding {
        match (self.packs(), self.features) {
            (1, _) => Encoding::Inner,
            (_, 1) => Encoding::Outer,
            _ => Encoding::Mixed,
        }
    }

    /// The slot of token `x` of a block, key head `head` and feature `e` of a pack.
    pub fn slot(&self, x: usize, head: usize, e: usize) -> usize {
        self.lanes.slot(x, head * self.features + e)
    }

    /// Rotation by `d` tokens.
    pub fn step(&self, d: usize) -> usize {
        self.lanes.step(d % self.tokens())
    }

    /// All rotations a cache needs keys for. Matrix kernels: babies forward, giants backward.
    pub fn steps(&self) -> BTreeSet<usize> {
        let (t, g) = (self.tokens(), self.babies);
        let giants = (1..t / g).map(|giant| t - giant * g);
        (1..g).chain(giants).map(|d| self.step(d)).collect()
    }

    /// The score of token `x` and key head `head` in a ciphertext of scores: each party adds up its
    /// shares of the features.
    pub fn score(&self, slots: &[Fp], x: usize, head: usize) -> Fp {
        (0..self.features).map(|e| slots[self.slot(x, head, e)]).sum()
    }

    /// Whether cached ciphertexts with this noise can go through a kernel and come back.
    pub fn survives(&self, shape: QueryShape, cached: Noise) -> bool {
        let fresh = Noise::fresh().add_plain();
        let (query, cached) = match shape {
            QueryShape::Row => (fresh, cached),
            QueryShape::Block => (fresh.switched(), cached.switched()),
        };
        let sum = |product: Noise, terms: usize| (0..terms).fold(Noise::none(), |sum, _| sum + product);
        let scores = sum(cached.times(query), self.packs()).switched();
        scores.fits() && sum(cached.times(fresh), self.terms(shape).max(self.babies)).switched().fits()
    }

    /// Products in one lazily scaled sum of values: as many as the noise of a full block allows, up
    /// to `TERMS`.
    pub fn terms(&self, shape: QueryShape) -> usize {
        let cached = match shape {
            QueryShape::Row => full_block(self.tokens()),
            QueryShape::Block => full_block(self.tokens()).switched(),
        };
        cached.most_products(Noise::fresh().add_plain()).clamp(1, TERMS)
    }

    /// Slots of one pack: `value(x, head, feature of the head)`.
    pub fn fill(&self, pack: usize, value: impl Fn(usize, usize, usize) -> Fp) -> Zeroizing<Vec<Fp>> {
        let mut slots = Zeroizing::new(vec![Fp::ZERO; N]);
        let first = pack * self.features;
        for x in 0..self.tokens() {
            for head in 0..self.kv_heads {
                for e in 0..self.features.min(self.head_dim - first) {
                    slots[self.slot(x, head, e)] = value(x, head, first + e);
                }
            }
        }
        slots
    }

    /// Slots with the same `value(x, head)` for every feature.
    pub fn replicate(&self, value: impl Fn(usize, usize) -> Fp) -> Zeroizing<Vec<Fp>> {
        let mut slots = Zeroizing::new(vec![Fp::ZERO; N]);
        for x in 0..self.tokens() {
            for head in 0..self.kv_heads {
                let value = value(x, head);
                for e in 0..self.features {
                    slots[self.slot(x, head, e)] = value;
                }
            }
        }
        slots
    }

    /// Slots of one pack with rows `[kv_dim]` at tokens `at..` of the block, zero elsewhere: what
    /// slot-aware concatenation adds.
    pub fn place(&self, pack: usize, at: usize, rows: &[&[Fp]]) -> Zeroizing<Vec<Fp>> {
        self.fill(pack, |x, head, e| match x.checked_sub(at).and_then(|i| rows.get(i)) {
            Some(row) => row[head * self.head_dim + e],
            None => Fp::ZERO,
        })
    }
}

/// Products in a sum of values at most: their operands are held at the same time.
const TERMS: usize = 16;

/// The noise of a block that was filled row by row.
fn full_block(tokens: usize) -> Noise {
    (0..tokens).fold(Noise::none(), |sum, _| sum + Noise::fresh().add_plain())
}

/// Baby steps for `tokens` diagonals: as many as giants or up to four times as many (keys are
/// rotated once for all members and query blocks, queries by giants for each), within the memory of
/// [`OPERANDS`] rotated ciphertexts.
fn babies(tokens: usize, packs: usize) -> usize {
    const OPERANDS: usize = 128;
    // A sum over the baby steps must not need to be cut.
    let most = full_block(tokens).switched().most_products(Noise::fresh().add_plain()).clamp(1, TERMS);
    let mut babies = 1;
    while 2 * babies <= tokens.min(most)
        && (babies * babies < tokens || babies * babies < 4 * tokens && 2 * babies * packs <= OPERANDS)
    {
        babies *= 2;
    }
    babies
}
