//! Punctured trees: from base transfers to "all seeds but one", the set-up of [`crate::extension`].
//!
//! Functionality, for each of 32 blocks of 4 base transfers: the holder gets 16 random seeds, the
//! other party, whose choices were `c`, all of them but the one at `Δ = ¬c`.
//! Source: Roy, "SoftSpokenOT", CRYPTO 2022, §5, with the check of the leaves against a holder that
//! deviates; trees of Goldreich, Goldwasser and Micali.
//! Cost: one message of 5152 bytes from the holder. Leaks: nothing to a holder that follows the
//! protocol; one that deviates can guess bits of `Δ`, and is caught when a guess is wrong.
//! Errors: [`OtError::Inconsistent`].
//!
//! 1. The holder grows a tree of depth 4 from a random root. Level `l` belongs to base transfer
//!    `3 − l` of the block: it sends the XOR of the level's left children and that of the right
//!    ones, each under one of the two base keys.
//! 2. The other party knows every node of a level but the one on the path of `Δ`, hence all
//!    children but two, and of those two the one off the path by the sum of its side.
//! 3. Sums that contradict each other would give other seeds for other `Δ`. So the holder adds, for
//!    each block, the XOR of the hashes of its seeds, and one hash over the hashes of all seeds.
//!    The other party completes the hash that it lacks by the XOR, and compares.
//!
//! Its seeds come in the order `y = x ⊕ Δ`: the unknown one is always first, so nothing depends on
//! where it was.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::base::BASE_OTS;
use crate::bits;
use crate::error::OtError;
use crate::fixed_key::{tag_of, TransferHash};

/// Base transfers in a block, the depth of its tree.
pub(crate) const DEPTH: usize = 4;
/// Seeds of a block.
pub(crate) const LEAVES: usize = 1 << DEPTH;
/// Blocks.
pub(crate) const BLOCKS: usize = BASE_OTS / DEPTH;
/// Bytes of the two sums of each base transfer.
const SUM_BYTES: usize = BASE_OTS * 32;
/// Bytes of the holder's message: the sums, and for the check one hash for each block and one over
/// all seeds.
pub(crate) const MESSAGE_BYTES: usize = SUM_BYTES + 32 * BLOCKS + 32;
/// In place of a first transfer: the trees have permutations of their own too.
const SETUP: u64 = u64::MAX;

/// Seeds of all blocks, one after the other.
pub(crate) type Seeds = Zeroizing<Vec<u128>>;

/// Left and right child; the tweaks keep them apart.
fn children(hash: &TransferHash, node: u128) -> [u128; 2] {
    let mut pair = [0; 2];
    hash.stream(&[node], 0, &mut pair[..1]);
    hash.stream(&[node], 1, &mut pair[1..]);
    pair
}

/// A hash of 256 bits.
type SeedHash = [u128; 2];

fn hash_of(session: &[u8; 32], block: usize, seed: u128) -> SeedHash {
    let digest = Sha256::new()
        .chain_update(b"cryptogen ot seed")
        .chain_update(session)
        .chain_update([block as u8])
        .chain_update(seed.to_le_bytes())
        .finalize();
    words(&digest)
}

fn words(bytes: &[u8]) -> SeedHash {
    core::array::from_fn(|i| {
        u128::from_le_bytes(bytes[16 * i..16 * i + 16].try_into().expect("sixteen bytes"))
    })
}

fn sum(a: SeedHash, b: &SeedHash) -> SeedHash {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

fn absorb(all: &mut Sha256, hashes: &[SeedHash]) {
    hashes.iter().flatten().for_each(|word| all.update(word.to_le_bytes()));
}

/// The holder's message and all seeds, from the roots and both keys of each base transfer.
pub(crate) fn hold(session: &[u8; 32], roots: &[u128; BLOCKS], pairs: &[[[u8; 16]; 2]]) -> (Vec<u8>, Seeds) {
    let hash = TransferHash::new(tag_of(session, SETUP));
    let mut message = vec![0; SUM_BYTES];
    let mut all = Sha256::new();
    let mut seeds = Zeroizing::new(Vec::with_capacity(BLOCKS * LEAVES));
    for (block, root) in roots.iter().enumerate() {
        let mut nodes = Zeroizing::new(vec![*root]);
        for level in 0..DEPTH {
            let transfer = block * DEPTH + DEPTH - 1 - level;
            let next =
                Zeroizing::new(nodes.iter().flat_map(|node| children(&hash, *node)).collect::<Vec<_>>());
            for (side, key) in pairs[transfer].iter().enumerate() {
                let sum = next.iter().skip(side).step_by(2).fold(0, |sum, child| sum ^ child);
                let at = (2 * transfer + side) * 16;
                let masked = sum ^ u128::from_le_bytes(*key);
                message[at..at + 16].copy_from_slice(&masked.to_le_bytes());
            }
            nodes = next;
        }
        seeds.extend_from_slice(&nodes);
        let hashes: Vec<SeedHash> = nodes.iter().map(|seed| hash_of(session, block, *seed)).collect();
        absorb(&mut all, &hashes);
        let missing = hashes.iter().fold([0; 2], sum);
        message.extend(missing.iter().flat_map(|word| word.to_le_bytes()));
    }
    message.extend_from_slice(&all.finalize());
    (message, seeds)
}

/// Steps 2 and 3 of the other party, from its choices and the chosen keys: all seeds in the order
/// `y = x ⊕ ¬choices`; the first of a block is 0.
///
/// # Errors
/// [`OtError::Inconsistent`] if the message is not one of [`hold`].
pub(crate) fn puncture(
    session: &[u8; 32],
    message: &[u8],
    choices: u128,
    chosen: &[[u8; 16]],
) -> Result<Seeds, OtError> {
    let hash = TransferHash::new(tag_of(session, SETUP));
    let mut all = Sha256::new();
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
                let [left, right] = children(&hash, *node);
                let swap = !off & (left ^ right);
                (next[2 * y], next[2 * y + 1]) = (left ^ swap, right ^ swap);
                missing ^= next[2 * y + 1];
            }
            next[1] = missing;
            nodes = next;
        }
        seeds.extend_from_slice(&nodes);

        let mut hashes = Zeroizing::new([[0; 2]; LEAVES]);
        hashes[0] = words(&message[SUM_BYTES + 32 * block..][..32]);
        for y in 1..LEAVES {
            hashes[y] = hash_of(session, block, nodes[y]);
            hashes[0] = sum(hashes[0], &hashes[y]);
        }
        in_order(&mut hashes, !choices >> (DEPTH * block));
        absorb(&mut all, hashes.as_slice());
    }
    if all.finalize().as_slice() != &message[MESSAGE_BYTES - 32..] {
        return Err(OtError::Inconsistent("seeds"));
    }
    Ok(seeds)
}

/// From the order `y = x ⊕ Δ` into that of `x`, without an index that depends on `Δ`.
fn in_order(hashes: &mut [SeedHash; LEAVES], delta: u128) {
    for bit in 0..DEPTH {
        let swap = bits::mask((delta >> bit) as u8);
        for low in (0..LEAVES).filter(|i| i >> bit & 1 == 0) {
            let (lower, upper) = hashes.split_at_mut(low | 1 << bit);
            for (a, b) in lower[low].iter_mut().zip(&mut upper[0]) {
                let difference = swap & (*a ^ *b);
                *a ^= difference;
                *b ^= difference;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptogen_ring::{Prg, Seed};
    use rand_core::RngCore;

    const SESSION: [u8; 32] = [7; 32];

    /// Base transfers with the given choices: both keys, and the chosen ones.
    fn base(choices: u128, mut random: impl FnMut() -> u128) -> (Vec<[[u8; 16]; 2]>, Vec<[u8; 16]>) {
        let pairs: Vec<[[u8; 16]; 2]> =
            (0..BASE_OTS).map(|_| [0; 2].map(|_| random().to_le_bytes())).collect();
        let chosen = (0..BASE_OTS).map(|j| pairs[j][(choices >> j) as usize & 1]).collect();
        (pairs, chosen)
    }

    #[test]
    fn all_seeds_but_one_are_known() {
        let mut rng = Prg::new(&Seed::from_bytes([3; 32]));
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        for choices in [0, u128::MAX, random(), random()] {
            let (pairs, chosen) = base(choices, &mut random);
            let (message, held) = hold(&SESSION, &core::array::from_fn(|_| random()), &pairs);
            assert_eq!(message.len(), MESSAGE_BYTES);
            let punctured = puncture(&SESSION, &message, choices, &chosen).expect("an honest holder");
            for block in 0..BLOCKS {
                let delta = (!choices >> (DEPTH * block)) as usize % LEAVES;
                for y in 0..LEAVES {
                    let expected = if y == 0 { 0 } else { held[block * LEAVES + (y ^ delta)] };
                    assert_eq!(punctured[block * LEAVES + y], expected);
                }
            }
        }
    }

    /// A sum is read by the half of all choices that selects it: spoiling one is a guess of one
    /// bit, and it is the only way past the check.
    #[test]
    fn contradicting_sums_are_a_guess_of_one_bit() {
        let mut rng = Prg::new(&Seed::from_bytes([4; 32]));
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        let choices = random();
        let (pairs, chosen) = base(choices, &mut random);
        let (message, _) = hold(&SESSION, &core::array::from_fn(|_| random()), &pairs);
        for transfer in 0..BASE_OTS {
            for side in 0..2 {
                let mut spoiled = message.clone();
                spoiled[(2 * transfer + side) * 16 + transfer % 16] ^= 1 << (transfer % 8);
                let read = (choices >> transfer) as usize & 1 == side;
                let result = puncture(&SESSION, &spoiled, choices, &chosen);
                assert_eq!(result.err(), read.then_some(OtError::Inconsistent("seeds")), "{transfer} {side}");
            }
        }
        for at in SUM_BYTES..MESSAGE_BYTES {
            let mut spoiled = message.clone();
            spoiled[at] ^= 1;
            let result = puncture(&SESSION, &spoiled, choices, &chosen);
            assert_eq!(result.err(), Some(OtError::Inconsistent("seeds")), "{at}");
        }
    }
}
