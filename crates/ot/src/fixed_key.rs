//! Everything that is hashed with fixed-key AES, in the ideal permutation model. `MMO(x) = π(x) ⊕ x`.
//!
//! - `pads`: the tweakable hash TMMO, `H(i, x) = π(π(x) ⊕ i) ⊕ π(x)` (Guo, Katz, Wang, Yu: "Efficient and Secure
//!   Multiparty Computation from Fixed-Key Block Ciphers", S&P 2020, §7.4). Two AES calls.
//! - `grow`, `hash_sums`: `H(x) = MMO(σ(x))`, `σ(a ‖ b) = (a ⊕ b) ‖ a`, circular correlation robust (the same, §7.3): the hash of the
//!   trees. One AES call.
//! - `convert`: `Conv_ℓ(s) = MMO_C(s ⊕ ℓ)`, correlation robust (the same, §7.2), reduced modulo `p` with a bias below 2^-64.
//!   One AES call for each payload.
//! - `stream`: block `i` of the stream of a seed, `MMO_S(s ⊕ i)`.

use std::sync::LazyLock;

use cryptogen_ring::kernels::{FixedKey, TREES};

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
pub(crate) fn grow(nodes: &mut [u128], words: &[u128; TREES]) {
    PI.tree.grow(nodes, words);
}

/// `⊕ H(node)` of each tree.
pub(crate) fn hash_sums(nodes: &[u128]) -> [u128; TREES] {
    PI.tree.hash_sums(nodes)
}

/// The sums of the low and of the high halves of `Conv_ℓ`, not reduced, over the leaves of each tree.
pub(crate) fn converted_sums(leaves: &[u128], payload: usize) -> [[u128; 2]; TREES] {
    PI.convert.converted_sums(leaves, payload as u128)
}

/// `values[i] = MMO_C(leaves[i] ⊕ payload)`, to be read modulo `p`.
#[inline(always)]
pub(crate) fn convert(leaves: &[u128], payload: usize, values: &mut [u128]) {
    for (value, leaf) in values.iter_mut().zip(leaves) {
        *value = leaf ^ payload as u128;
    }
    PI.convert.mmo(values);
}

/// Block `counter` of every seed's stream.
#[inline(always)]
pub(crate) fn stream(seeds: &[u128], counter: u64, blocks: &mut [u128]) {
    for (block, seed) in blocks.iter_mut().zip(seeds) {
        *block = seed ^ counter as u128;
    }
    PI.stream.mmo(blocks);
}

/// Congruent to `x` modulo `p = 2^64 − 2^32 + 1`, below `2^64`, without a branch on `x`.
#[inline(always)]
pub(crate) fn reduce(x: u128) -> u64 {
    // 2^64 = 2^32 − 1 and 2^96 = −1 modulo p.
    const EPSILON: u64 = 0xffff_ffff;
    let high = (x >> 64) as u64;
    let (difference, borrow) = (x as u64).overflowing_sub(high >> 32);
    let difference = difference.wrapping_sub((borrow as u64).wrapping_neg() & EPSILON);
    let (sum, carry) = difference.overflowing_add((high & EPSILON) * EPSILON);
    sum.wrapping_add((carry as u64).wrapping_neg() & EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptogen_ring::Fp;

    #[test]
    fn reduction_is_congruent() {
        for hi in [0, 1, u64::MAX, 0xffff_ffff, 1 << 32, 0x1234_5678_9abc_def0] {
            for lo in [0, 1, u64::MAX, 0xffff_fffe, 0xffff_ffff_0000_0001, 77] {
                let x = (hi as u128) << 64 | lo as u128;
                assert_eq!(Fp::new(reduce(x)), Fp::from_u128(x));
            }
        }
    }

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
