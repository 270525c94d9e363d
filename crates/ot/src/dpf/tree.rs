//! One party's trees, grown from their roots as often as needed: nodes never leave the first-level cache, and the second
//! growth of a level costs less than its way to memory and back.
//!
//! A node is 128 bits, its least significant bit the bit `t`. Node `j` of tree `i` of `T` stands at `j·T + i`, so that the
//! few nodes of the first levels fill the AES pipeline too.

use cryptogen_ring::Fp;
use zeroize::Zeroizing;

use crate::bits;
use crate::fixed_key;

/// Nodes hashed at once: 8 KiB beside their parents.
const CHUNK: usize = 512;

/// `T` trees side by side. Wiped on drop.
pub(super) struct Grove<const T: usize> {
    nodes: Zeroizing<Vec<u128>>,
    hashes: Zeroizing<Vec<u128>>,
    width: usize,
}

impl<const T: usize> Grove<T> {
    /// Room for trees of `k` levels; grows with need.
    pub(super) fn new(k: u32) -> Grove<T> {
        let zeros = || Zeroizing::new(vec![0; T << k]);
        Grove { nodes: zeros(), hashes: zeros(), width: 0 }
    }

    /// Grows all trees by the levels whose correction words are given, `words[level][tree]`.
    pub(super) fn grow(&mut self, roots: &[u128; T], words: &[[u128; T]]) {
        if self.nodes.len() < T << words.len() {
            // A new one, not a larger one: a reallocation would leave the old seeds behind.
            *self = Grove::new(words.len() as u32);
        }
        self.nodes[..T].copy_from_slice(roots);
        self.width = 1;
        for words in words {
            self.hash();
            // From the end, so that children overwrite only nodes that have been read.
            for j in (0..self.width).rev() {
                let parents: [u128; T] = self.nodes[j * T..(j + 1) * T].try_into().expect("T nodes");
                let hashes = &self.hashes[j * T..(j + 1) * T];
                let (left, right) = self.nodes[2 * j * T..2 * (j + 1) * T].split_at_mut(T);
                for i in 0..T {
                    left[i] = hashes[i] ^ (bits::mask(parents[i] as u8) & words[i]);
                    right[i] = left[i] ^ parents[i];
                }
            }
            self.width *= 2;
        }
    }

    /// The nodes of the last level grown.
    pub(super) fn nodes(&self) -> &[u128] {
        &self.nodes[..self.width * T]
    }

    fn hash(&mut self) {
        let n = self.width * T;
        for (nodes, hashes) in self.nodes[..n].chunks(CHUNK).zip(self.hashes.chunks_mut(CHUNK)) {
            fixed_key::circular(nodes, &mut hashes[..nodes.len()]);
        }
    }

    /// `⊕_j H(node j)` of each tree.
    pub(super) fn hash_sums(&mut self) -> [u128; T] {
        self.hash();
        let mut sums = [0; T];
        for hashes in self.hashes[..self.width * T].chunks_exact(T) {
            sums.iter_mut().zip(hashes).for_each(|(sum, hash)| *sum ^= hash);
        }
        sums
    }

    /// `Σ_j t[j]` of each tree.
    pub(super) fn counts(&self) -> [u32; T] {
        let mut counts = [0; T];
        for nodes in self.nodes().chunks_exact(T) {
            counts.iter_mut().zip(nodes).for_each(|(count, node)| *count += *node as u32 & 1);
        }
        counts
    }

    /// `Σ_j Conv_ℓ(leaf j)` of each tree.
    pub(super) fn converted_sums(&mut self, payload: usize) -> [Fp; T] {
        // Halves are summed apart: at most 2^16 terms, so neither sum overflows.
        let mut sums = [[0u128; 2]; T];
        let n = self.width * T;
        for (leaves, values) in self.nodes[..n].chunks(CHUNK).zip(self.hashes.chunks_mut(CHUNK)) {
            let values = &mut values[..leaves.len()];
            fixed_key::convert(leaves, payload, values);
            for values in values.chunks_exact(T) {
                for ([low, high], value) in sums.iter_mut().zip(values) {
                    *low += *value as u64 as u128;
                    *high += *value >> 64;
                }
            }
        }
        sums.map(|[low, high]| Fp::from_u128(low) + Fp::from_u128(high) * Fp::from_u128(1 << 64))
    }

    /// The converted leaves `first..first + n` of a single tree, `n ≤` [`CHUNK`], with room for them.
    pub(super) fn convert(&mut self, first: usize, n: usize, payload: usize) -> (&[u128], &[u128]) {
        let leaves = &self.nodes[first..first + n];
        fixed_key::convert(leaves, payload, &mut self.hashes[..n]);
        (leaves, &self.hashes[..n])
    }
}
