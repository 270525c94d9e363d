//! Everything that is hashed with fixed-key AES, in the ideal cipher model. `MMO(x) = π(x) ⊕ x`.
//!
//! The AES keys are public. Those of every batch of transfers differ: what an attacker computes
//! under the keys of one batch says nothing about another, so a bound `N·M/2^127` counts in `M` the
//! evaluations of one batch and not those of a connection. In trees those of every level of every
//! tree differ, so that no input is hashed twice under one key, wherever a peer that deviates moves
//! the nodes. Both: Guo, Katz, Wang, Weng, Yu, "Better Concrete Security for Half-Gates Garbling
//! (in the Multi-Instance Setting)", CRYPTO 2020, the hash `π_i(σ(x)) ⊕ σ(x)` with the tweak `i` as
//! the key.
//!
//! - `pads`: the tweakable hash TMMO, `H(i, x) = π(π(x) ⊕ i) ⊕ π(x)` (Guo, Katz, Wang, Yu:
//!   "Efficient and Secure Multiparty Computation from Fixed-Key Block Ciphers", S&P 2020, §7.4).
//!   Two AES calls.
//! - `grow`, `hash_sums`, `grown_hash_sums`: `H(x) = MMO(σ(x))`, `σ(a ‖ b) = (a ⊕ b) ‖ a`: the hash
//!   of the trees, under the key of tree and level tweakable circular correlation robust (as
//!   above). One AES call.
//! - `grown_leaf_sums`, `dot`: `Conv_{ℓ,c}(s)` is the low (`ℓ` even) or high (odd) half of
//!   `MMO(s ⊕ b)` under the key of the tree's leaves, `b` the number of the block of half `c` and
//!   pair `⌊ℓ/2⌋`, correlation robust (S&P 2020, §7.2): uniform modulo `2^64`. One AES call for two
//!   payloads.
//! - `stream`: block `i` of the stream of a seed, `MMO_S(s ⊕ i)`.

use cryptogen_party::Role;
use cryptogen_ring::kernels::{FixedKey, FixedKeys, Keys, Table, TREES};
use sha2::{Digest, Sha256};

/// Bits of a pad's label; several pads of one transfer differ in it.
pub(crate) const LABEL_BITS: u32 = 8;

/// Bytes of a [`Tag`].
pub(crate) const TAG_BYTES: usize = 8;
/// Names the permutations of a batch: half of each AES key. Public.
pub(crate) type Tag = [u8; TAG_BYTES];
/// Bytes of the number that names the permutations of a tree in its batch. Public.
pub(crate) const NUMBER_BYTES: usize = 4;

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

/// The tag of the trees of a silent extension, and the permutation that its code is made of:
/// `sender` names the direction, `first` the first new transfer.
pub(crate) fn silent_tag(session: &[u8; 32], sender: Role, first: u64) -> (Tag, FixedKey) {
    let digest = Sha256::new()
        .chain_update(b"cryptogen silent extension")
        .chain_update(session)
        .chain_update([sender.index() as u8])
        .chain_update(first.to_le_bytes())
        .finalize();
    let tag = *digest.first_chunk().expect("a digest of 32 bytes");
    (tag, FixedKey::new(digest.last_chunk().expect("a digest of 32 bytes")))
}

fn aes_key(tag: Tag, purpose: &[u8; 8]) -> [u8; 16] {
    let mut key = [0; 16];
    key[..TAG_BYTES].copy_from_slice(&tag);
    key[TAG_BYTES..].copy_from_slice(purpose);
    key
}

/// The purpose of the permutation of one level of tree `number`.
fn level_of_tree(number: u32, level: u8) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [a, b, c, d, level, 0, 0, 0]
}

/// The permutations of a batch's transfers.
pub(crate) struct TransferHash {
    hash: FixedKey,
    stream: FixedKey,
}

impl TransferHash {
    pub(crate) fn new(tag: Tag) -> TransferHash {
        let permutation = |purpose| FixedKey::new(&aes_key(tag, purpose));
        TransferHash { hash: permutation(b"transfer"), stream: permutation(b"streams ") }
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

/// The permutations of `T` trees side by side, 1 or [`TREES`]: one for the nodes of each level of
/// each tree, the leaves included.
pub(crate) struct TreeHash<const T: usize> {
    /// tree by tree in a level, level by level
    keys: Vec<FixedKeys>,
}

impl<const T: usize> TreeHash<T> {
    /// Of no tree.
    pub(crate) const fn new() -> TreeHash<T> {
        TreeHash { keys: Vec::new() }
    }

    /// From here on those of the trees `numbers` of the batch `tag`, for so many levels.
    pub(crate) fn rekey(&mut self, tag: Tag, numbers: &[u32; T], levels: usize) {
        let key = |i: usize| aes_key(tag, &level_of_tree(numbers[i % T], (i / T) as u8));
        let first = core::array::from_fn(|i| u128::from_le_bytes(key(i)));
        let step = u64::from_le_bytes(level_of_tree(0, (TREES / T) as u8));
        FixedKeys::schedule(&mut self.keys, (levels * T).div_ceil(TREES), first, step);
    }

    fn level(&self, level: usize) -> Keys<'_> {
        let keys = &self.keys[level * T / TREES];
        match T {
            TREES => Keys::four(keys),
            _ => Keys::one(keys, level * T % TREES),
        }
    }

    /// The nodes of `level` become those of the next one: see [`Keys::grow`].
    pub(crate) fn grow(&self, level: usize, nodes: &mut [u128], n: usize, words: &[u128; TREES]) {
        self.level(level).grow(nodes, n, words);
    }

    /// `⊕ H(node)` of each tree, over the nodes of `level`.
    pub(crate) fn hash_sums(&self, level: usize, nodes: &[u128]) -> [u128; TREES] {
        self.level(level).hash_sums(nodes)
    }

    /// The same over their children.
    pub(crate) fn grown_hash_sums(
        &self,
        level: usize,
        parents: &[u128],
        words: &[u128; TREES],
    ) -> [u128; TREES] {
        self.level(level).grown_hash_sums(parents, words, self.level(level + 1))
    }

    /// Over the leaves of each tree, the children of the nodes of `level`: how many are odd;
    /// `sums[b]`: the sums of both halves of block `b`.
    pub(crate) fn grown_leaf_sums(
        &self,
        level: usize,
        parents: &[u128],
        words: &[u128; TREES],
        sums: &mut [[[u64; 2]; TREES]],
    ) -> [u32; TREES] {
        self.level(level).grown_leaf_sums(parents, words, self.level(level + 1), sums)
    }

    /// Of the leaves, which are the nodes of `level`, inner products of the two payloads of a pair
    /// with tables from entry `first` on: see [`Keys::dot`].
    #[inline]
    pub(crate) fn dot(
        &self,
        (level, leaves): (usize, &[u128]),
        (block, finals): (usize, [u64; 2]),
        tables: &[&Table],
        first: usize,
        sums: &mut [[u64; 2]],
    ) {
        self.level(level).dot(leaves, (block as u128, finals), tables, first, sums);
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

    /// The one thing that keeps a peer from making us hash one node twice.
    #[test]
    fn every_level_of_every_tree_has_a_permutation_of_its_own() {
        let tags = [tag_of(&[1; 32], 0), tag_of(&[1; 32], 128), tag_of(&[2; 32], 0)];
        let numbers = [0, 1, 255, 256, 1 << 24, u32::MAX];
        let mut values = Vec::new();
        let x = 1 << 100;
        for tag in tags {
            let transfers = TransferHash::new(tag);
            for key in [transfers.hash, transfers.stream] {
                let mut block = [x];
                key.mmo(&mut block);
                values.push(block[0]);
            }
            for number in numbers {
                let mut tree = TreeHash::<1>::new();
                tree.rekey(tag, &[number], 16);
                values.extend((0..16).map(|level| tree.hash_sums(level, &[x])[0]));
            }
            // Side by side they are the same.
            let mut trees = TreeHash::<TREES>::new();
            trees.rekey(tag, numbers.first_chunk().expect("four"), 16);
            let ours = &values[values.len() - 16 * numbers.len()..];
            for level in 0..16 {
                let sums = trees.hash_sums(level, &[x; TREES]);
                assert_eq!(sums, core::array::from_fn(|tree| ours[16 * tree + level]), "{level}");
            }
        }
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), tags.len() * (2 + 16 * numbers.len()));
    }
}
