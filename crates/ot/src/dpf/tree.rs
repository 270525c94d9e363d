//! One party's trees while they grow: step 2 of the protocol, and the leaf sums of step 4.
//!
//! A node is 128 bits, its least significant bit the bit `t`, the rest the seed. While a level's correction word is not
//! known yet, its nodes stand uncorrected in memory, the bits `t` of their parents beside them; the next pass
//! corrects them on the way. So every level is one pass over memory.

use cryptogen_ring::Fp;

use crate::bits;
use crate::fixed_key::{Buffers, CHUNK};

/// The correction of one level: what a node with a parent of `t = 1` is XORed with, left or right child.
#[derive(Clone, Copy, Default)]
pub(super) struct Correction {
    pub(super) left: u128,
    pub(super) right: u128,
}

impl Correction {
    /// From the opened word, whose least significant bit is `t^L`, and the bit `t^R`.
    pub(super) fn new(word: u128, right_bit: u8) -> Correction {
        Correction { left: word, right: word & !1 | (right_bit & 1) as u128 }
    }
}

/// Expands level `level` of one tree, in place: `nodes[..2^level]` become `nodes[..2^(level+1)]`, uncorrected.
/// `bits` holds the bits `t` of the level above and is overwritten with those of this level. The root (level 0) is
/// already final, and `bits[0]` is its `t`. Returns the XOR of all left and of all right children.
pub(super) fn expand_level(
    nodes: &mut [u128],
    bits: &mut [u8],
    level: u32,
    correction: &Correction,
    buffers: &mut Buffers,
) -> [u128; 2] {
    let mut sums = [0; 2];
    let width = 1usize << level;
    // From the end, so that the children overwrite only nodes that have been read.
    for start in (0..width).step_by(CHUNK).rev() {
        let n = CHUNK.min(width - start);
        if level == 0 {
            buffers.set(0, nodes[0]);
        } else {
            let mut parents = [0; CHUNK / 2];
            parents[..n / 2].copy_from_slice(&bits[start / 2..(start + n) / 2]);
            for (i, node) in nodes[start..start + n].iter().enumerate() {
                let node = correct(*node, parents[i / 2], i, correction);
                bits[start + i] = node as u8 & 1;
                buffers.set(i, node & !1);
            }
        }
        let children = &mut nodes[2 * start..2 * (start + n)];
        buffers.children(n, |i, left, right| {
            children[2 * i] = left;
            children[2 * i + 1] = right;
            sums[0] ^= left;
            sums[1] ^= right;
        });
    }
    sums
}

/// Step 4: adds `Σ_j Conv_ℓ(s[j])` to `sums[ℓ]` for each payload and returns `Σ_j t[j]`.
pub(super) fn sum_leaves(
    nodes: &[u128],
    bits: &[u8],
    correction: &Correction,
    sums: &mut [Fp],
    buffers: &mut Buffers,
) -> u32 {
    let (mut leaves, mut values) = ([0; CHUNK], [0; CHUNK]);
    let mut count = 0;
    for (c, chunk) in nodes.chunks(CHUNK).enumerate() {
        for (i, node) in chunk.iter().enumerate() {
            let leaf = correct(*node, bits[(c * CHUNK + i) / 2], i, correction);
            count += leaf as u32 & 1;
            leaves[i] = leaf & !1;
        }
        for (payload, sum) in sums.iter_mut().enumerate() {
            buffers.convert(&leaves[..chunk.len()], payload, &mut values);
            *sum += Fp::from_u128(values[..chunk.len()].iter().map(|v| *v as u128).sum());
        }
    }
    count
}

#[inline(always)]
fn correct(node: u128, parent_bit: u8, index: usize, correction: &Correction) -> u128 {
    let word = if index % 2 == 0 { correction.left } else { correction.right };
    node ^ (bits::mask(parent_bit) & word)
}
