//! One party's trees, grown from their roots as often as needed: nodes never leave the first-level cache, and the second
//! growth of a level costs less than its way to memory and back.
//!
//! A node is 128 bits, its least significant bit the bit `t`. Level `i` decides bit `i` of a leaf's number: the left
//! children of a level are its first half, the right ones its second. Of `T` trees side by side node `j` of tree `i` stands
//! at `j·T + i`, so that the few nodes of the first levels fill the AES pipeline too.

use core::num::Wrapping;

use cryptogen_ring::kernels::TREES;
use cryptogen_ring::Word;
use zeroize::Zeroizing;

use crate::fixed_key;

/// `T` trees side by side, a divisor of [`TREES`]. Wiped on drop.
pub(super) struct Grove<const T: usize> {
    nodes: Zeroizing<Vec<u128>>,
    used: usize,
}

impl<const T: usize> Grove<T> {
    /// Room for trees of `k` levels; grows with need.
    pub(super) fn new(k: u32) -> Grove<T> {
        Grove { nodes: Zeroizing::new(vec![0; T << k]), used: 0 }
    }

    /// Grows all trees by the levels whose correction words are given, `words[level][tree]`.
    pub(super) fn grow(&mut self, roots: &[u128; T], words: &[[u128; T]]) {
        if self.nodes.len() < T << words.len() {
            // A new one, not a larger one: a reallocation would leave the old seeds behind.
            *self = Grove::new(words.len() as u32);
        }
        self.nodes[..T].copy_from_slice(roots);
        self.used = T;
        for words in words {
            self.used *= 2;
            fixed_key::grow(&mut self.nodes[..self.used], &core::array::from_fn(|i| words[i % T]));
        }
    }

    /// The nodes of the last level grown.
    pub(super) fn nodes(&self) -> &[u128] {
        &self.nodes[..self.used]
    }
}

impl Grove<TREES> {
    /// `⊕_j H(node j)` of each tree.
    pub(super) fn hash_sums(&self) -> [u128; TREES] {
        fixed_key::hash_sums(self.nodes())
    }

    /// `Σ_j t[j]` of each tree.
    pub(super) fn counts(&self) -> [u32; TREES] {
        let mut counts = [0; TREES];
        for nodes in self.nodes().chunks_exact(TREES) {
            counts.iter_mut().zip(nodes).for_each(|(count, node)| *count += *node as u32 & 1);
        }
        counts
    }

    /// `Σ_j Conv_ℓ(leaf j)` of each tree for the two payloads `ℓ` of a pair.
    pub(super) fn converted_sums(&self, pair: usize) -> [[Word; 2]; TREES] {
        fixed_key::converted_sums(self.nodes(), pair).map(|tree| tree.map(Wrapping))
    }
}
