//! Everything that is hashed with fixed-key AES, in the ideal permutation model.
//! `MMO(x) = π(x) ⊕ x`.
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

use std::sync::LazyLock;

use cryptogen_ring::kernels::{FixedKey, Table, TREES};

/// Bits of a pad's label; several pads of one transfer differ in it.
pub(crate) const LABEL_BITS: u32 = 8;

// Public constants, nothing up the sleeve.
struct Permutations {
    hash: FixedKey,
    tree: FixedKey,
    convert: FixedKey,
    stream: FixedKey,
}

static PI: LazyLock<Permutations> = LazyLock::new(|| Permutations {
    hash: FixedKey::new(b"cryptogen hash  "),
    tree: FixedKey::new(b"cryptogen tree  "),
    convert: FixedKey::new(b"cryptogen conver"),
    stream: FixedKey::new(b"cryptogen stream"),
});

/// TMMO of each word in place; the tweak of word `i` is `(first + i)·2^8 + label`.
pub(crate) fn pads(words: &mut [u128], first: u64, label: u8) {
    let tweak = |i: usize| (first as u128 + i as u128) << LABEL_BITS | label as u128;
    let mut inner = zeroize::Zeroizing::new(words.to_vec());
    PI.hash.mmo(&mut inner);
    for (i, (x, inner)) in words.iter_mut().zip(inner.iter_mut()).enumerate() {
        *inner ^= *x; // π(x)
        *x = *inner ^ tweak(i);
    }
    PI.hash.mmo(words); // π(π(x) ⊕ i) ⊕ π(x) ⊕ i
    for (i, x) in words.iter_mut().enumerate() {
        *x ^= tweak(i);
    }
}

/// One level of trees: see [`FixedKey::grow`].
pub(crate) fn grow(nodes: &mut [u128], n: usize, words: &[u128; TREES]) {
    PI.tree.grow(nodes, n, words);
}

/// `⊕ H(node)` of each tree.
pub(crate) fn hash_sums(nodes: &[u128]) -> [u128; TREES] {
    PI.tree.hash_sums(nodes)
}

/// The same over the children of `parents`.
pub(crate) fn grown_hash_sums(parents: &[u128], words: &[u128; TREES]) -> [u128; TREES] {
    PI.tree.grown_hash_sums(parents, words)
}

/// Over the leaves of each tree, the children of `parents`: how many are odd; `sums[b]`: the sums
/// of both halves of block `b`.
pub(crate) fn grown_leaf_sums(
    parents: &[u128],
    words: &[u128; TREES],
    sums: &mut [[[u64; 2]; TREES]],
) -> [u32; TREES] {
    PI.tree.grown_leaf_sums(parents, words, &PI.convert, sums)
}

/// Of one tree, inner products of the two payloads of a pair with tables from entry `first` on: see
/// [`FixedKey::dot`].
#[inline]
pub(crate) fn dot(
    leaves: &[u128],
    (block, finals): (usize, [u64; 2]),
    tables: &[&Table],
    first: usize,
    sums: &mut [[u64; 2]],
) {
    PI.convert.dot(leaves, (block as u128, finals), tables, first, sums);
}

/// Block `counter` of every seed's stream.
#[inline(always)]
pub(crate) fn stream(seeds: &[u128], counter: u64, blocks: &mut [u128]) {
    for (block, seed) in blocks.iter_mut().zip(seeds) {
        *block = seed ^ counter as u128;
    }
    PI.stream.mmo(blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_are_tmmo() {
        let pi = |x: u128| {
            let mut block = [x];
            PI.hash.mmo(&mut block);
            block[0] ^ x
        };
        let mut words: Vec<u128> = (0..130).map(|i| i * 0x1234_5678_9abc_def0_1111).collect();
        let before = words.clone();
        pads(&mut words, 1000, 3);
        for (i, (x, h)) in before.into_iter().zip(words).enumerate() {
            let tweak = (1000 + i as u128) * 256 + 3;
            assert_eq!(h, pi(pi(x) ^ tweak) ^ pi(x));
        }
    }
}
