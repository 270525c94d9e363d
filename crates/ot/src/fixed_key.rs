//! Everything that is hashed with fixed-key AES, in the ideal cipher model. `MMO(x) = π(x) ⊕ x`.
//!
//! The AES keys are public, and those of every batch of transfers differ: what an attacker computes
//! under the keys of one batch says nothing about another, so a bound `N·M/2^127` counts in `M` the
//! evaluations of one batch and not those of a connection (Guo, Katz, Wang, Yu: "Better Concrete
//! Security for Half-Gates Garbling (in the Multi-Instance Setting)", CRYPTO 2020).
//!
//! - `pads`: the tweakable hash TMMO, `H(i, x) = π(π(x) ⊕ i) ⊕ π(x)` (Guo, Katz, Wang, Yu:
//!   "Efficient and Secure Multiparty Computation from Fixed-Key Block Ciphers", S&P 2020, §7.4).
//!   Two AES calls.
//! - `grow`, `hash_sums`, `grown_hash_sums`: `H(x) = MMO(σ(x))`, `σ(a ‖ b) = (a ⊕ b) ‖ a`, circular
//!   correlation robust (the same, §7.3): the hash of the trees. One AES call.
//! - `grown_leaf_sums`, `dot`: `Conv_{ℓ,c}(s)` is the low (`ℓ` even) or high (odd) half of
//!   `MMO_C(s ⊕ b)`, `b` the number of the block of half `c` and pair `⌊ℓ/2⌋`, correlation robust
//!   (the same, §7.2): uniform modulo `2^64`. One AES call for two payloads.
//! - `stream`: block `i` of the stream of a seed, `MMO_S(s ⊕ i)`.

use cryptogen_ring::kernels::{FixedKey, Table, TREES};
use sha2::{Digest, Sha256};

/// Bits of a pad's label; several pads of one transfer differ in it.
pub(crate) const LABEL_BITS: u32 = 8;

/// Bytes of a [`Tag`].
pub(crate) const TAG_BYTES: usize = 8;
/// Names the permutations of a batch: half of each AES key. Public.
pub(crate) type Tag = [u8; TAG_BYTES];

/// The tag of the batch whose first transfer is `first`. `session` is a hash of what both parties
/// chose at random, so neither chooses the tag.
pub(crate) fn tag_of(session: &[u8; 32], first: u64) -> Tag {
    let digest = Sha256::new()
        .chain_update(b"cryptogen transfer batch")
        .chain_update(session)
        .chain_update(first.to_le_bytes())
        .finalize();
    *digest.first_chunk().expect("a digest of 32 bytes")
}

fn permutation(tag: Tag, purpose: &[u8; 8]) -> FixedKey {
    let mut key = [0; 16];
    key[..TAG_BYTES].copy_from_slice(&tag);
    key[TAG_BYTES..].copy_from_slice(purpose);
    FixedKey::new(&key)
}

/// The permutations of a batch's transfers.
pub(crate) struct TransferHash {
    hash: FixedKey,
    stream: FixedKey,
}

impl TransferHash {
    pub(crate) fn new(tag: Tag) -> TransferHash {
        TransferHash { hash: permutation(tag, b"transfer"), stream: permutation(tag, b"streams ") }
    }

    /// TMMO of each word in place; the tweak of word `i` is `(first + i)·2^8 + label`.
    pub(crate) fn pads(&self, words: &mut [u128], first: u64, label: u8) {
        let tweak = |i: usize| (first as u128 + i as u128) << LABEL_BITS | label as u128;
        let mut inner = zeroize::Zeroizing::new(words.to_vec());
        self.hash.mmo(&mut inner);
        for (i, (x, inner)) in words.iter_mut().zip(inner.iter_mut()).enumerate() {
            *inner ^= *x; // π(x)
            *x = *inner ^ tweak(i);
        }
        self.hash.mmo(words); // π(π(x) ⊕ i) ⊕ π(x) ⊕ i
        for (i, x) in words.iter_mut().enumerate() {
            *x ^= tweak(i);
        }
    }

    /// Block `counter` of every seed's stream.
    #[inline(always)]
    pub(crate) fn stream(&self, seeds: &[u128], counter: u64, blocks: &mut [u128]) {
        for (block, seed) in blocks.iter_mut().zip(seeds) {
            *block = seed ^ counter as u128;
        }
        self.stream.mmo(blocks);
    }
}

/// The permutations of a batch's trees.
pub(crate) struct TreeHash {
    tag: Tag,
    tree: FixedKey,
    convert: FixedKey,
}

impl TreeHash {
    pub(crate) fn new(tag: Tag) -> TreeHash {
        TreeHash { tag, tree: permutation(tag, b"    tree"), convert: permutation(tag, b"  leaves") }
    }

    /// What it was made from.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// One level of trees: see [`FixedKey::grow`].
    pub(crate) fn grow(&self, nodes: &mut [u128], n: usize, words: &[u128; TREES]) {
        self.tree.grow(nodes, n, words);
    }

    /// `⊕ H(node)` of each tree.
    pub(crate) fn hash_sums(&self, nodes: &[u128]) -> [u128; TREES] {
        self.tree.hash_sums(nodes)
    }

    /// The same over the children of `parents`.
    pub(crate) fn grown_hash_sums(&self, parents: &[u128], words: &[u128; TREES]) -> [u128; TREES] {
        self.tree.grown_hash_sums(parents, words)
    }

    /// Over the leaves of each tree, the children of `parents`: how many are odd; `sums[b]`: the
    /// sums of both halves of block `b`.
    pub(crate) fn grown_leaf_sums(
        &self,
        parents: &[u128],
        words: &[u128; TREES],
        sums: &mut [[[u64; 2]; TREES]],
    ) -> [u32; TREES] {
        self.tree.grown_leaf_sums(parents, words, &self.convert, sums)
    }

    /// Of one tree, inner products of the two payloads of a pair with tables from entry `first` on:
    /// see [`FixedKey::dot`].
    #[inline]
    pub(crate) fn dot(
        &self,
        leaves: &[u128],
        (block, finals): (usize, [u64; 2]),
        tables: &[&Table],
        first: usize,
        sums: &mut [[u64; 2]],
    ) {
        self.convert.dot(leaves, (block as u128, finals), tables, first, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_are_tmmo() {
        let hash = TransferHash::new(tag_of(&[1; 32], 2));
        let pi = |x: u128| {
            let mut block = [x];
            hash.hash.mmo(&mut block);
            block[0] ^ x
        };
        let mut words: Vec<u128> = (0..130).map(|i| i * 0x1234_5678_9abc_def0_1111).collect();
        let before = words.clone();
        hash.pads(&mut words, 1000, 3);
        for (i, (x, h)) in before.into_iter().zip(words).enumerate() {
            let tweak = (1000 + i as u128) * 256 + 3;
            assert_eq!(h, pi(pi(x) ^ tweak) ^ pi(x));
        }
    }

    #[test]
    fn every_batch_and_purpose_has_a_permutation_of_its_own() {
        let tags = [tag_of(&[1; 32], 0), tag_of(&[1; 32], 128), tag_of(&[2; 32], 0)];
        let mut values = Vec::new();
        for tag in tags {
            let (transfers, trees) = (TransferHash::new(tag), TreeHash::new(tag));
            for key in [transfers.hash, transfers.stream, trees.tree, trees.convert] {
                let mut block = [1 << 100];
                key.mmo(&mut block);
                values.push(block[0]);
            }
        }
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), 12);
    }
}
