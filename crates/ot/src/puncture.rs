//! Punctured trees: from base transfers to "all seeds but one", the set-up of [`crate::extension`].
//!
//! Functionality, for each of 32 blocks of 4 base transfers: the holder gets 16 random seeds, the
//! other party, whose choices were `c`, all of them but the one at `Δ = ¬c`.
//! Source: Roy, "SoftSpokenOT", CRYPTO 2022, §5 (semi-honest); trees of Goldreich, Goldwasser and
//! Micali.
//! Cost: one message of 4096 bytes from the holder. Leaks: nothing. Errors: the channel's.
//!
//! 1. The holder grows a tree of depth 4 from a random root. Level `l` belongs to base transfer
//!    `3 − l` of the block: it sends the XOR of the level's left children and that of the right
//!    ones, each under one of the two base keys.
//! 2. The other party knows every node of a level but the one on the path of `Δ`, hence all
//!    children but two, and of those two the one off the path by the sum of its side.
//!
//! Its seeds come in the order `y = x ⊕ Δ`: the unknown one is always first, so nothing depends on
//! where it was.

use zeroize::Zeroizing;

use crate::base::BASE_OTS;
use crate::bits;
use crate::fixed_key;

/// Base transfers in a block, the depth of its tree.
pub(crate) const DEPTH: usize = 4;
/// Seeds of a block.
pub(crate) const LEAVES: usize = 1 << DEPTH;
/// Blocks.
pub(crate) const BLOCKS: usize = BASE_OTS / DEPTH;
/// Bytes of the holder's message: two sums for each base transfer.
pub(crate) const MESSAGE_BYTES: usize = BASE_OTS * 32;

/// Seeds of all blocks, one after the other.
pub(crate) type Seeds = Zeroizing<Vec<u128>>;

/// Left and right child; the tweaks keep them apart.
fn children(node: u128) -> [u128; 2] {
    let mut pair = [0; 2];
    fixed_key::stream(&[node], 0, &mut pair[..1]);
    fixed_key::stream(&[node], 1, &mut pair[1..]);
    pair
}

/// Step 1, from the roots and both keys of each base transfer: the message and all seeds.
pub(crate) fn hold(roots: &[u128; BLOCKS], pairs: &[[[u8; 16]; 2]]) -> (Vec<u8>, Seeds) {
    let mut message = vec![0; MESSAGE_BYTES];
    let mut seeds = Zeroizing::new(Vec::with_capacity(BLOCKS * LEAVES));
    for (block, root) in roots.iter().enumerate() {
        let mut nodes = Zeroizing::new(vec![*root]);
        for level in 0..DEPTH {
            let transfer = block * DEPTH + DEPTH - 1 - level;
            let next = Zeroizing::new(nodes.iter().flat_map(|node| children(*node)).collect::<Vec<_>>());
            for (side, key) in pairs[transfer].iter().enumerate() {
                let sum = next.iter().skip(side).step_by(2).fold(0, |sum, child| sum ^ child);
                let at = (2 * transfer + side) * 16;
                let masked = sum ^ u128::from_le_bytes(*key);
                message[at..at + 16].copy_from_slice(&masked.to_le_bytes());
            }
            nodes = next;
        }
        seeds.extend_from_slice(&nodes);
    }
    (message, seeds)
}

/// Step 2, from our choices and the chosen keys: all seeds in the order `y = x ⊕ ¬choices`; the
/// first of a block is 0.
pub(crate) fn puncture(message: &[u8], choices: u128, chosen: &[[u8; 16]]) -> Seeds {
    let mut seeds = Zeroizing::new(Vec::with_capacity(BLOCKS * LEAVES));
    let word =
        |at: usize| u128::from_le_bytes(message[16 * at..16 * at + 16].try_into().expect("sixteen bytes"));
    for block in 0..BLOCKS {
        let mut nodes = Zeroizing::new(vec![0u128]);
        for level in 0..DEPTH {
            let transfer = block * DEPTH + DEPTH - 1 - level;
            // The choice is the side off the path.
            let off = bits::mask((choices >> transfer) as u8);
            let [left, right] = [word(2 * transfer), word(2 * transfer + 1)];
            let mut missing = left ^ (off & (left ^ right)) ^ u128::from_le_bytes(chosen[transfer]);
            let mut next = Zeroizing::new(vec![0; 2 * nodes.len()]);
            for (y, node) in nodes.iter().enumerate().skip(1) {
                let [left, right] = children(*node);
                let swap = !off & (left ^ right);
                (next[2 * y], next[2 * y + 1]) = (left ^ swap, right ^ swap);
                missing ^= next[2 * y + 1];
            }
            next[1] = missing;
            nodes = next;
        }
        seeds.extend_from_slice(&nodes);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptogen_ring::{Prg, Seed};
    use rand_core::RngCore;

    #[test]
    fn all_seeds_but_one_are_known() {
        let mut rng = Prg::new(&Seed::from_bytes([3; 32]));
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        let pairs: Vec<[[u8; 16]; 2]> =
            (0..BASE_OTS).map(|_| [0; 2].map(|_| random().to_le_bytes())).collect();
        for choices in [0, u128::MAX, random(), random()] {
            let chosen: Vec<[u8; 16]> =
                (0..BASE_OTS).map(|j| pairs[j][(choices >> j) as usize & 1]).collect();
            let (message, held) = hold(&core::array::from_fn(|_| random()), &pairs);
            let punctured = puncture(&message, choices, &chosen);
            for block in 0..BLOCKS {
                let delta = (!choices >> (DEPTH * block)) as usize % LEAVES;
                for y in 0..LEAVES {
                    let expected = if y == 0 { 0 } else { held[block * LEAVES + (y ^ delta)] };
                    assert_eq!(punctured[block * LEAVES + y], expected);
                }
            }
        }
    }
}
