//! One party's trees, grown from their roots as often as needed: nodes never leave the first-level
//! cache, and the second growth of a level costs less than its way to memory and back.
//!
//! A node is 128 bits, its least significant bit the bit `t`. Level `i` decides bit `i` of a leaf's
//! number: the left children of a level are its first half, the right ones its second. Of `T` trees
//! side by side node `j` of tree `i` stands at `j·T + i`, so that the few nodes of the first levels
//! fill the AES pipeline too.

use cryptogen_ring::kernels::{SPARE, TREES};
use zeroize::Zeroizing;

use crate::fixed_key::TreeHash;

/// `T` trees side by side, a divisor of [`TREES`]. Wiped on drop.
pub(super) struct Grove<const T: usize> {
    nodes: Zeroizing<Vec<u128>>,
    used: usize,
}

impl<const T: usize> Grove<T> {
    /// Room for trees of `k` levels; grows with need.
    pub(super) fn new(k: u32) -> Grove<T> {
        Grove { nodes: Zeroizing::new(vec![0; (T << k) + SPARE]), used: 0 }
    }

    /// Grows all trees by the levels whose correction words are given, `words[level][tree]`.
    pub(super) fn grow(&mut self, hash: &TreeHash, roots: &[u128; T], words: &[[u128; T]]) {
        if self.nodes.len() < (T << words.len()) + SPARE {
            // A new one, not a larger one: a reallocation would leave the old seeds behind.
            *self = Grove::new(words.len() as u32);
        }
        self.nodes[..T].copy_from_slice(roots);
        self.used = T;
        for words in words {
            hash.grow(&mut self.nodes, self.used, &core::array::from_fn(|i| words[i % T]));
            self.used *= 2;
        }
    }

    /// The nodes of the last level grown.
    pub(super) fn nodes(&self) -> &[u128] {
        &self.nodes[..self.used]
    }
}

impl Grove<TREES> {
    /// `⊕_j H(node j)` of each tree grown by `words`; the last level is not kept.
    pub(super) fn hash_sums(
        &mut self,
        hash: &TreeHash,
        roots: &[u128; TREES],
        words: &[[u128; TREES]],
    ) -> [u128; TREES] {
        match words.split_last() {
            None => hash.hash_sums(roots),
            Some((last, words)) => {
                self.grow(hash, roots, words);
                hash.grown_hash_sums(self.nodes(), last)
            }
        }
    }

    /// `Σ_j t[j]` of each tree grown by `words` and `last`; `sums[b]`: the sums over the leaves of
    /// both halves of block `b`. The leaves are not kept.
    pub(super) fn leaf_sums(
        &mut self,
        hash: &TreeHash,
        roots: &[u128; TREES],
        (words, last): (&[[u128; TREES]], &[u128; TREES]),
        sums: &mut [[[u64; 2]; TREES]],
    ) -> [u32; TREES] {
        self.grow(hash, roots, words);
        hash.grown_leaf_sums(self.nodes(), last, sums)
    }
}
