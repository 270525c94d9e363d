//! The encrypted KV cache: one object for prompt and generation, appended to in place, never
//! decrypted.
//!
//! Source: CryptoGen (arXiv 2602.08798), unified encrypted KV cache and slot-aware concatenation.
//! The client sends new rows already at their offset in a block, so appending is one addition of
//! ciphertexts. The server holds the ciphertexts ([`EncryptedCache`]); what both need to know,
//! lengths and how many ciphertexts were added up in a block, is public ([`CacheShape`]).

mod file;

use std::ops::Range;

use cryptogen_he::evaluate::{Ciphertext, Context, Noise};
use cryptogen_party::Role;
use cryptogen_protocols::error::PlanError;
use cryptogen_protocols::{ProtocolError, Result};

pub use file::Binding;

use super::layout::{CacheLayout, QueryShape};

/// New rows that lie in one block: `rows` of the call at tokens `at..` of the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// number of the block
    pub block: usize,
    /// its first token that is new
    pub at: usize,
    /// rows of the call
    pub rows: Range<usize>,
}

/// Length of one layer, and per block the ciphertexts added up since it was last re-encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LayerShape {
    length: usize,
    terms: Vec<u32>,
}

/// The public part of the cache, kept alike by both parties.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheShape {
    layout: CacheLayout,
    reserve: u32,
    matrix: bool,
    layers: Vec<LayerShape>,
    refreshed: u64,
    refreshed_always: u64,
}

impl CacheShape {
    /// An empty cache. Its blocks are re-encrypted ([`super::refresh`]) when their noise would not
    /// survive the next product. `reserve`: bits of noise kept free besides, 0 unless one wants to
    /// see refreshes.
    ///
    /// # Errors
    /// A layout (or reserve) whose products would not survive even with fresh ciphertexts.
    pub fn new(layout: CacheLayout, layers: usize, reserve: u32) -> Result<CacheShape> {
        let matrix = layout.survives(QueryShape::Block, Noise::fresh().add_plain());
        let layers = vec![LayerShape::default(); layers];
        let shape = CacheShape { layout, reserve, matrix, layers, refreshed: 0, refreshed_always: 0 };
        if !shape.survives(1) {
            return Err(ProtocolError::Plan(PlanError::Unfit {
                what: "noise of products with fresh cache ciphertexts",
                expected: "one that can be hidden and decrypted".into(),
                actual: format!("{} ciphertexts of {} tokens summed", layout.packs(), layout.tokens()),
            }));
        }
        Ok(shape)
    }

    /// How rows lie in ciphertexts.
    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Rows in the cache (between passes all layers agree).
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |l| l.length)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of one layer, which during a pass may be ahead of the others.
    pub fn length(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(0, |l| l.length)
    }

    /// Ciphertexts of all layers, keys and values.
    pub fn ciphertexts(&self) -> usize {
        self.layers.iter().map(|l| 2 * self.layout.ciphertexts(l.length)).sum()
    }

    /// Ciphertexts re-encrypted so far, and how many it would have been after every append.
    pub fn refreshes(&self) -> (u64, u64) {
        (self.refreshed, self.refreshed_always)
    }

    /// Forgets all rows. The counters stay.
    pub fn clear(&mut self) {
        self.layers.fill(LayerShape::default());
    }

    /// Where the next `rows` rows of a layer will lie.
    pub fn pieces(&self, layer: usize, rows: usize) -> Vec<Piece> {
        let (t, first) = (self.layout.tokens(), self.length(layer));
        let mut pieces = vec![];
        let mut row = 0;
        while row < rows {
            let at = (first + row) % t;
            let n = (t - at).min(rows - row);
            pieces.push(Piece { block: (first + row) / t, at, rows: row..row + n });
            row += n;
        }
        pieces
    }

    /// Whether a block that is a sum of so many fresh ciphertexts survives every kernel that may
    /// come next.
    fn survives(&self, terms: u32) -> bool {
        let fresh = Noise::fresh().add_plain();
        let mut noise = (0..terms).fold(Noise::none(), |sum, _| sum + fresh);
        for _ in 0..2 * self.reserve {
            noise = noise + noise;
        }
        let kernels = [(QueryShape::Row, true), (QueryShape::Block, self.matrix)];
        kernels.into_iter().all(|(shape, used)| !used || self.layout.survives(shape, noise))
    }

    /// Blocks that would be re-encrypted after appending `rows` rows to a layer.
    pub fn after_append(&self, layer: usize, rows: usize) -> Vec<usize> {
        let due = |piece: &Piece| {
            let terms = self.layers.get(layer).and_then(|l| l.terms.get(piece.block)).copied().unwrap_or(0);
            !self.survives(terms + 1)
        };
        self.pieces(layer, rows).iter().filter(|p| due(p)).map(|p| p.block).collect()
    }

    /// Appends `rows` rows to a layer; returns the blocks to re-encrypt now.
    pub fn append(&mut self, layer: usize, rows: usize) -> Vec<usize> {
        let (pieces, due, packs) =
            (self.pieces(layer, rows), self.after_append(layer, rows), self.layout.packs());
        let Some(shape) = self.layers.get_mut(layer) else { return vec![] };
        shape.length += rows;
        for piece in &pieces {
            shape.terms.resize(shape.terms.len().max(piece.block + 1), 0);
            shape.terms[piece.block] =
                if due.contains(&piece.block) { 1 } else { shape.terms[piece.block] + 1 };
        }
        self.refreshed += 2 * (packs * due.len()) as u64;
        self.refreshed_always += 2 * (packs * pieces.len()) as u64;
        due
    }

    /// The noise that a block's ciphertexts have.
    pub fn noise(&self, layer: usize, block: usize) -> Noise {
        let terms = self.layers.get(layer).and_then(|l| l.terms.get(block)).copied().unwrap_or(0);
        (0..terms).fold(Noise::none(), |sum, _| sum + Noise::fresh().add_plain())
    }
}

/// The server's ciphertexts of one layer, `[block][pack]`.
#[derive(Default)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<Vec<Ciphertext>>,
    pub(super) values: Vec<Vec<Ciphertext>>,
}

/// The server's cache.
pub struct EncryptedCache {
    shape: CacheShape,
    layers: Vec<LayerCache>,
}

impl EncryptedCache {
    /// An empty cache.
    pub fn new(shape: CacheShape) -> EncryptedCache {
        let layers = shape.layers.iter().map(|_| LayerCache::default()).collect();
        EncryptedCache { shape, layers }
    }

    /// The public part.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Rows in the cache.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.shape.clear();
        self.layers.iter_mut().for_each(|l| *l = LayerCache::default());
    }

    /// Memory of the ciphertexts, bytes.
    pub fn memory(&self) -> usize {
        let count = |c: &[Vec<Ciphertext>]| c.iter().map(Vec::len).sum::<usize>();
        self.layers.iter().map(|l| (count(&l.keys) + count(&l.values)) * Ciphertext::MEMORY).sum()
    }

    pub(super) fn layer(&self, layer: usize) -> Result<&LayerCache> {
        self.layers.get(layer).ok_or_else(|| no_layer(layer, self.layers.len()))
    }

    /// Adds encrypted rows, `[pieces][packs]` keys and as many values, each at its offset; returns
    /// the blocks to re-encrypt now.
    pub(super) fn append(
        &mut self,
        layer: usize,
        rows: usize,
        keys: Vec<Ciphertext>,
        values: Vec<Ciphertext>,
    ) -> Result<Vec<usize>> {
        let (pieces, packs) = (self.shape.pieces(layer, rows), self.shape.layout.packs());
        let layers = self.layers.len();
        let cache = self.layers.get_mut(layer).ok_or_else(|| no_layer(layer, layers))?;
        for (blocks, new) in [(&mut cache.keys, keys), (&mut cache.values, values)] {
            let mut new = new.into_iter();
            for piece in &pieces {
                let new: Vec<Ciphertext> = new.by_ref().take(packs).collect();
                match blocks.get_mut(piece.block) {
                    Some(block) => {
                        block.iter_mut().zip(&new).for_each(|(block, new)| block.add(Context::get(), new));
                    }
                    None => blocks.push(new),
                }
            }
        }
        Ok(self.shape.append(layer, rows))
    }

    /// The ciphertexts of blocks of a layer, keys then values of each, for re-encryption.
    pub(super) fn blocks_mut(&mut self, layer: usize, blocks: &[usize]) -> Vec<&mut Ciphertext> {
        let Some(cache) = self.layers.get_mut(layer) else { return vec![] };
        let (keys, values) = (cache.keys.iter_mut(), cache.values.iter_mut());
        let both = keys.zip(values).enumerate().filter(|(b, _)| blocks.contains(b));
        both.flat_map(|(_, (k, v))| k.iter_mut().chain(v)).collect()
    }
}

fn no_layer(layer: usize, layers: usize) -> ProtocolError {
    ProtocolError::bug("layer of the cache", format!("below {layers}"), layer)
}

/// What a party keeps of the cache.
pub(crate) enum Cache {
    Client(CacheShape),
    Server(EncryptedCache),
}

impl Cache {
    pub(crate) fn new(role: Role, shape: CacheShape) -> Cache {
        match role {
            Role::Client => Cache::Client(shape),
            Role::Server => Cache::Server(EncryptedCache::new(shape)),
        }
    }

    pub(crate) fn shape(&self) -> &CacheShape {
        match self {
            Cache::Client(shape) => shape,
            Cache::Server(cache) => cache.shape(),
        }
    }

    /// The client's part.
    pub(crate) fn shape_mut(&mut self) -> Result<&mut CacheShape> {
        match self {
            Cache::Client(shape) => Ok(shape),
            Cache::Server(_) => Err(ProtocolError::bug("cache", "the client's", "the server's")),
        }
    }

    /// The server's part.
    pub(crate) fn encrypted_mut(&mut self) -> Result<&mut EncryptedCache> {
        match self {
            Cache::Client(_) => Err(ProtocolError::bug("cache", "the server's", "the client's")),
            Cache::Server(cache) => Ok(cache),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Cache::Client(shape) => shape.clear(),
            Cache::Server(cache) => cache.clear(),
        }
    }
}
