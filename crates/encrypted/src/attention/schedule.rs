//! Which products of ciphertexts a call needs, in which order: the same list for both parties and
//! both phases.
//!
//! A *product* pairs a query (a row, or a block of T rows) with a block of T cached tokens, for one
//! member of every head message. Slot x of it belongs to one (row, cached token) pair:
//! - vector: the row, and token x of the block;
//! - matrix, diagonal `δ = G·g + b`: row `x − G·g` of the query block and token `x + b` of the
//!   cached block, both modulo T.
//!
//! Scores have one output ciphertext per product, the sum over packs of (query) ⊙ (keys); the
//! weights come back as one input ciphertext per product; with the values they give an output per
//! (query, window of blocks, member, giant step G, pack).
//!
//! Order: queries in batches (their operands are held in memory), blocks in windows (so are
//! theirs), then query, block, member, diagonal.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::layout::{CacheLayout, QueryShape};

/// Operands of queries held at a time, about 1 MB each.
const OPERANDS: usize = 64;

/// A product, see the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// row, or block of rows
    pub query: usize,
    /// block of the cache
    pub block: usize,
    /// query head of a head group
    pub member: usize,
    /// giant step of the diagonal, 0 for a row
    pub giant: usize,
    /// baby step of the diagonal, 0 for a row
    pub baby: usize,
}

/// The products of one query with a window of blocks: one message.
pub struct Message {
    /// row, or block of rows
    pub query: usize,
    /// in the order of their ciphertexts
    pub products: Vec<Product>,
}

impl Message {
    /// Outputs of the values, `(member, giant)`, each of `packs` ciphertexts.
    pub fn outputs(&self) -> Vec<(usize, usize)> {
        let all: BTreeSet<_> = self.products.iter().map(|p| (p.member, p.giant)).collect();
        all.into_iter().collect()
    }
}

/// Blocks whose operands are held together, and the queries that meet them.
pub struct Window {
    /// blocks of the cache
    pub blocks: Range<usize>,
    /// a message per query that meets one of them
    pub messages: Vec<Message>,
}

/// Queries whose operands are held together.
pub struct Batch {
    /// rows, or blocks of rows
    pub queries: Vec<usize>,
    /// in the order of their blocks
    pub windows: Vec<Window>,
}

/// New rows at positions `first..first + rows`, whose keys and values are in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// layout of the cache
    pub layout: CacheLayout,
    /// by rows, or by blocks of rows
    pub shape: QueryShape,
    /// position of the first new row
    pub first: usize,
    /// number of new rows
    pub rows: usize,
}

impl Schedule {
    /// Rows, or blocks of rows.
    fn queries(&self) -> usize {
        match self.shape {
            QueryShape::Row => self.rows,
            QueryShape::Block => self.layout.blocks(self.rows),
        }
    }

    /// Rows of a query.
    pub fn rows_of(&self, query: usize) -> Range<usize> {
        match self.shape {
            QueryShape::Row => query..query + 1,
            QueryShape::Block => {
                let t = self.layout.tokens();
                query * t..self.rows.min((query + 1) * t)
            }
        }
    }

    /// Baby steps.
    pub fn babies(&self) -> usize {
        match self.shape {
            QueryShape::Row => 1,
            QueryShape::Block => self.layout.babies(),
        }
    }

    /// Giant steps.
    pub fn giants(&self) -> usize {
        match self.shape {
            QueryShape::Row => 1,
            QueryShape::Block => self.layout.tokens() / self.layout.babies(),
        }
    }

    /// Rotations of queries, one per giant step: backward.
    pub fn giant_steps(&self) -> Vec<usize> {
        let t = self.layout.tokens();
        (0..self.giants()).map(|g| self.layout.step(t - g * self.babies())).collect()
    }

    /// Rotations of cached blocks, one per baby step: forward.
    pub fn baby_steps(&self) -> Vec<usize> {
        (0..self.babies()).map(|b| self.layout.step(b)).collect()
    }

    /// The row to which slot `x` belongs after giant step `giant`, if there is one.
    pub fn row(&self, query: usize, giant: usize, x: usize) -> Option<usize> {
        let t = self.layout.tokens();
        let row = match self.shape {
            QueryShape::Row => query,
            QueryShape::Block => query * t + (x + t - giant * self.babies()) % t,
        };
        // Row 0 attends to itself alone and needs no product.
        (row < self.rows && self.first + row > 0).then_some(row)
    }

    /// The (row, cached token) pair of a slot; none where the token is later than the row.
    pub fn pair(&self, p: &Product, x: usize) -> Option<(usize, usize)> {
        let t = self.layout.tokens();
        let token = p.block * t + (x + p.baby) % t;
        let row = self.row(p.query, p.giant, x)?;
        (token <= self.first + row).then_some((row, token))
    }

    /// Products of a query with a block that have any pair.
    fn products(&self, query: usize, block: usize) -> Vec<Product> {
        let last = self.first + self.rows_of(query).end - 1;
        if block * self.layout.tokens() > last {
            return vec![];
        }
        let (members, giants, babies) = (self.layout.group, self.giants(), self.babies());
        let all = (0..giants).flat_map(|giant| (0..babies).map(move |baby| (giant, baby)));
        let needed: Vec<(usize, usize)> = all
            .filter(|&(giant, baby)| {
                let p = Product { query, block, member: 0, giant, baby };
                (0..self.layout.tokens()).any(|x| self.pair(&p, x).is_some())
            })
            .collect();
        let of_member =
            |member| needed.iter().map(move |&(giant, baby)| Product { query, block, member, giant, baby });
        (0..members).flat_map(of_member).collect()
    }

    /// Everything to do, in order.
    pub fn batches(&self) -> Vec<Batch> {
        let layout = &self.layout;
        let at_once = (OPERANDS / (layout.packs() * layout.group * self.giants())).max(1);
        let window = (layout.terms(self.shape) / self.babies()).max(1);
        let blocks = layout.blocks(self.first + self.rows);
        // Row 0 alone is the only query without products.
        let queries: Vec<usize> =
            (0..self.queries()).filter(|q| self.first + self.rows_of(*q).end > 1).collect();
        queries
            .chunks(at_once)
            .map(|queries| {
                let windows = (0..blocks).step_by(window).map(|first| {
                    let blocks = first..blocks.min(first + window);
                    let messages = queries.iter().map(|&query| Message {
                        query,
                        products: blocks.clone().flat_map(|b| self.products(query, b)).collect(),
                    });
                    let messages = messages.filter(|g| !g.products.is_empty()).collect();
                    Window { blocks, messages }
                });
                let windows = windows.filter(|w| !w.messages.is_empty()).collect();
                Batch { queries: queries.to_vec(), windows }
            })
            .collect()
    }

    /// The number of an entry.
    pub fn entry(&self, heads: usize, row: usize, head: usize, token: usize) -> usize {
        // Rows before this one have t + 1 entries each, t from max(first, 1) on.
        let (low, high) = (self.first.max(1), self.first + row);
        let before = (low + high + 1) * high.saturating_sub(low) / 2;
        heads * before + head * (high + 1) + token
    }

    /// The number of a row (not row 0 of the cache) among those that run the softmax.
    pub fn softmax_row(&self, row: usize) -> usize {
        row.saturating_sub(usize::from(self.first == 0))
    }
}
