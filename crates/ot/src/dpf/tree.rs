//! One party's trees, grown from their roots as often as needed: nodes never leave the first-level
//! cache, and the second growth of a level costs less than its way to memory and back.
//!
//! A node is 128 bits, its least significant bit the bit `t`. Level `i` decides bit `i` of a leaf's
//! number: the left children of a level are its first half, the right ones its second. Of `T` trees
//! side by side node `j` of tree `i` stands at `j·T + i`, so that the few nodes of the first levels
//! fill the AES pipeline too.

use cryptogen_ring::kernels::{Table, SPARE, TREES};
use zeroize::Zeroizing;

use crate::fixed_key::{Tag, TreeHash};

/// `T` trees side by side, a divisor of [`TREES`]. Wiped on drop.
pub(super) struct Grove<const T: usize> {
    hash: TreeHash<T>,
    room: Zeroizing<Vec<u128>>,
    used: usize,
    level: usize,
}

impl<const T: usize> Grove<T> {
    /// Room for trees of `k` levels; grows with need.
    pub(super) fn new(k: u32) -> Grove<T> {
        Grove { hash: TreeHash::new(), room: room(T << k), used: 0, level: 0 }
    }

    /// The next trees are those with these numbers of the batch `tag`, and grow by at most `levels`
    /// levels.
    pub(super) fn rekey(&mut self, tag: Tag, numbers: &[u32; T], levels: usize) {
        self.hash.rekey(tag, numbers, levels + 1);
    }

    /// Grows all trees by the levels whose correction words are given, `words[level][tree]`.
    pub(super) fn grow(&mut self, roots: &[u128; T], words: &[[u128; T]]) {
        if self.room.len() < room_for(T << words.len()) {
            // A new one, not a larger one: a reallocation would leave the old seeds behind.
            self.room = room(T << words.len());
        }
        let start = start(&self.room);
        let nodes = &mut self.room[start..];
        nodes[..T].copy_from_slice(roots);
        (self.used, self.level) = (T, 0);
        for words in words {
            let words = core::array::from_fn(|i| words[i % T]);
            self.hash.grow(self.level, nodes, self.used, &words);
            self.used *= 2;
            self.level += 1;
        }
    }

    /// The nodes of the last level grown.
    pub(super) fn nodes(&self) -> &[u128] {
        &self.room[start(&self.room)..][..self.used]
    }

    /// Inner products over the nodes of the last level grown: see [`TreeHash::dot`].
    pub(super) fn dot(
        &self,
        payloads: (usize, [u64; 2]),
        tables: &[&Table],
        first: usize,
        sums: &mut [[u64; 2]],
    ) {
        self.hash.dot((self.level, self.nodes()), payloads, tables, first, sums);
    }
}

/// Blocks in a cache line.
const LINE: usize = 4;

fn room_for(nodes: usize) -> usize {
    nodes + SPARE + LINE
}

fn room(nodes: usize) -> Zeroizing<Vec<u128>> {
    Zeroizing::new(vec![0; room_for(nodes)])
}

/// The first block of `room` that begins a cache line: nodes across two lines take a tenth longer
/// to grow.
fn start(room: &[u128]) -> usize {
    room.as_ptr().align_offset(LINE * size_of::<u128>()).min(LINE)
}

impl Grove<TREES> {
    /// `⊕_j H(node j)` of each tree grown by `words`; the last level is not kept.
    pub(super) fn hash_sums(&mut self, roots: &[u128; TREES], words: &[[u128; TREES]]) -> [u128; TREES] {
        match words.split_last() {
            None => self.hash.hash_sums(0, roots),
            Some((last, words)) => {
                self.grow(roots, words);
                self.hash.grown_hash_sums(self.level, self.nodes(), last)
            }
        }
    }

    /// `Σ_j t[j]` of each tree grown by `words` and `last`; `sums[b]`: the sums over the leaves of
    /// both halves of block `b`. The leaves are not kept.
    pub(super) fn leaf_sums(
        &mut self,
        roots: &[u128; TREES],
        (words, last): (&[[u128; TREES]], &[u128; TREES]),
        sums: &mut [[[u64; 2]; TREES]],
    ) -> [u32; TREES] {
        self.grow(roots, words);
        self.hash.grown_leaf_sums(self.level, self.nodes(), last, sums)
    }
}
