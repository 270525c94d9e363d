//! Trees of 256 leaves, [`TREES`] side by side: the sender's, and the receiver's with one unknown
//! leaf. Node `j` of tree `i` stands at `j·TREES + i`, as in [`crate::dpf`].

use cryptogen_ring::kernels::TREES;

use crate::bits;
use crate::fixed_key::{Tag, TreeHash};

/// Levels of a tree.
pub(super) const LEVELS: usize = 8;
/// Leaves of the trees of one grove.
pub(crate) const LEAVES: usize = TREES << LEVELS;
/// Correlations that a grove spends: one for each level of each tree.
pub(super) const SPENT: usize = TREES * LEVELS;
/// Words that the sender sends for a grove: the first level needs none.
pub(super) const WORDS: usize = SPENT - TREES;

/// Side by side, one number for each tree.
type Each<T> = [T; TREES];

/// Grows the sender's trees of grove `number` from its correlations, level by level, into
/// `leaves`, and writes the words for the receiver.
pub(super) fn grow(
    hash: &mut TreeHash<TREES>,
    (tag, number): (Tag, usize),
    (q, delta): (&[u128], u128),
    leaves: &mut [u128],
    words: &mut [u8],
) {
    rekey(hash, tag, number);
    for i in 0..TREES {
        (leaves[i], leaves[TREES + i]) = (q[i], q[i] ^ delta);
    }
    for level in 1..LEVELS {
        let half = TREES << level;
        hash.grow(level - 1, leaves, half, &[0; TREES]);
        let left = sums(&leaves[..half]);
        for i in 0..TREES {
            let word = left[i] ^ q[level * TREES + i];
            words[((level - 1) * TREES + i) * 16..][..16].copy_from_slice(&word.to_le_bytes());
        }
    }
    leaves.iter_mut().for_each(|leaf| *leaf &= !1);
}

/// Grows the receiver's trees into `leaves`, without a branch or an index that depends on where
/// the unknown leaf `α` is: its bits are the flipped choices. What is computed from the unknown
/// node of a level is left where it is, and taken out of every sum that it is in.
pub(super) fn grow_punctured(
    hash: &mut TreeHash<TREES>,
    (tag, number): (Tag, usize),
    t: &[u128],
    leaves: &mut [u128],
    words: &[u8],
) {
    rekey(hash, tag, number);
    let mut path: Each<u32> = [0; TREES];
    for i in 0..TREES {
        let known = choice(t[i]);
        (leaves[i], leaves[TREES + i]) = (t[i] & !known, t[i] & known);
        path[i] = !known as u32 & 1;
    }
    for level in 1..LEVELS {
        let half = TREES << level;
        hash.grow(level - 1, leaves, half, &[0; TREES]);
        let (left, right) = leaves[..2 * half].split_at_mut(half);
        let missing = [sums(left), sums(right)];
        let (mut of_left, mut of_right): (Each<u128>, Each<u128>) = ([0; TREES], [0; TREES]);
        let mut turn: Each<u32> = [0; TREES];
        for i in 0..TREES {
            let word = &words[((level - 1) * TREES + i) * 16..][..16];
            let known = choice(t[level * TREES + i]);
            let sum = u128::from_le_bytes(word.try_into().expect("sixteen bytes")) ^ t[level * TREES + i];
            of_left[i] = (sum ^ missing[0][i]) & !known;
            of_right[i] = (sum ^ missing[1][i]) & known;
            turn[i] = !known as u32 & 1;
        }
        for (j, (left, right)) in left.chunks_exact_mut(TREES).zip(right.chunks_exact_mut(TREES)).enumerate()
        {
            for i in 0..TREES {
                let here = equal(j as u32, path[i]);
                left[i] ^= of_left[i] & here;
                right[i] ^= of_right[i] & here;
            }
        }
        (0..TREES).for_each(|i| path[i] |= turn[i] << level);
    }
    // All leaves of a tree add up to Δ, so those that are known to the unknown one and Δ.
    let all = sums(leaves);
    for (j, leaves) in leaves.chunks_exact_mut(TREES).enumerate() {
        for i in 0..TREES {
            let here = equal(j as u32, path[i]);
            leaves[i] = (leaves[i] ^ all[i] & here) & !1 | here & 1;
        }
    }
}

fn rekey(hash: &mut TreeHash<TREES>, tag: Tag, number: usize) {
    let numbers = core::array::from_fn(|i| (number * TREES + i) as u32);
    hash.rekey(tag, &numbers, LEVELS - 1);
}

/// The choice of a correlation, which is its last bit, as a mask.
#[inline(always)]
fn choice(t: u128) -> u128 {
    bits::mask(t as u8)
}

/// All ones where two numbers are equal, else 0.
#[inline(always)]
fn equal(a: u32, b: u32) -> u128 {
    ((((a ^ b) as u64).wrapping_sub(1) >> 63) as u128).wrapping_neg()
}

/// The XOR of the nodes of each tree.
fn sums(nodes: &[u128]) -> Each<u128> {
    let mut sums = [0; TREES];
    for nodes in nodes.chunks_exact(TREES) {
        (0..TREES).for_each(|i| sums[i] ^= nodes[i]);
    }
    sums
}
