//! Silent extension: many random correlated transfers from few, in one direction, with a message
//! that is shorter than they are.
//!
//! Functionality: from a reserve of correlations `q_i`, `t_i = q_i ⊕ r_i·Δ` with random `r_i`,
//! which it fills up again, the sender gets `n` new `q_i` and the receiver the `r_i` and `t_i`.
//! Source: Yang, Weng, Lan, Zhang, Wang, "Ferret: Fast Extension for Correlated OT with Small
//! Communication", CCS 2020, with regular noise and the consistency check of its figure 7;
//! single-point correlations by correlated trees: Guo, Yang, Wang, Zhang, Xie, Liu, Zhao,
//! "Half-Tree", EUROCRYPT 2023, §4. Assumption: learning parity with noise for the local linear
//! code of `code` and these numbers (`crates/ot/params`), and that of the trees, see
//! [`crate::dpf`].
//! Cost, in groves of 1024 transfers of which 992 are new: 448 bytes each and 32 from the sender,
//! 48 from the receiver. About 41 groves serve for the secret and the check.
//! Leaks: nothing to a receiver, nor to a sender that follows the protocol; one that deviates can
//! guess where the noise of single trees is, with probability `2^-7` or less each, and is caught
//! if it guesses wrong.
//! Errors: [`OtError::Inconsistent`](crate::OtError::Inconsistent) for a sender that deviates.
//!
//! The last bit of `Δ` is taken as 1 here, that of every `q_i` is 0, hence that of `t_i` is `r_i`.
//!
//! 1. A tree of 256 leaves spends 8 correlations. Its first two nodes are `q` and `q ⊕ Δ` of the
//!    first one; a node `x` has the children `H(x)` and `H(x) ⊕ x`, so all nodes of a level add up
//!    to `Δ`. For every further level the sender sends the sum of the left children, masked by the
//!    level's `q`. The receiver, whose path is `α = ¬r`, bit by bit, so gets the sum of the side
//!    off the path, and all leaves but that at `α`, which it takes as the sum of all others:
//!    `w_j = v_j ⊕ [j = α]·Δ`.
//! 2. Check: only now the receiver draws a seed for weights, uniform elements of the field of
//!    `2^128` elements: `ψ_m` for each 128 leaves, `χ_j` for each place in them. It sends the sum
//!    `x = Σ ψ_m·χ_j` over its noise, masked by the choices of 128 correlations, and the sender
//!    answers the hash of `Σ ψ_m·χ_j·v_mj ⊕ Σ ξ^i·q_i ⊕ x·Δ`, which must be that of
//!    `Σ ψ_m·χ_j·w_mj ⊕ Σ ξ^i·t_i`, `ξ` the field's generator.
//! 3. `q_p = v_p ⊕ Σ_c s_{p,c}`, ten elements of a secret of 40 960 correlations at the public
//!    places of row `p` of the code; the receiver the same with `w` and the secret's `t`. So the
//!    choices are `A·r ⊕ e`, `e` the noise of weight 1 in every 256.
//!
//! Why 2 suffices: an error in a word moves the sum of one side, and with it leaves whose places
//! depend on `α`, so that all of a sender's leaves fit at most two places `α` of a tree with an
//! error: it is caught with probability `1 − 2^-7` (one tree). Two different vectors of leaves have
//! the same sum with probability at most `2^-127`.

mod code;
#[cfg(test)]
mod tests;
mod trees;

use cryptogen_party::Role;
use cryptogen_ring::kernels::{carryless_multiply_add, carryless_reduce, FixedKey};
use cryptogen_ring::{Prg, Seed};
use rand_core::RngCore;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::bits;
use crate::fixed_key::{silent_tag, Tag, TreeHash};
use code::SECRET;
pub(crate) use trees::LEAVES;
use trees::{SPENT, WORDS};

/// Correlations that mask the check.
const MASK: usize = 128;
/// Groves in one extension at most: what the estimates of the assumption are for.
const MAX_GROVES: usize = 768;
/// Correlations kept between extensions.
pub(crate) const RESERVE: usize = spent(MAX_GROVES);
/// New transfers in one extension at most.
pub(crate) const MAX_NEW: usize = MAX_GROVES * (LEAVES - SPENT) - SECRET - MASK;
/// Leaves that share a weight `ψ`.
const PLACES: usize = 128;
/// Bytes of the receiver's seed and masked sum.
pub(crate) const CHALLENGE_BYTES: usize = 32 + 16;
/// Bytes of the sender's answer.
pub(crate) const PROOF_BYTES: usize = 32;

/// Groves for `n` new transfers: they also replace what they spend.
pub(crate) const fn groves(n: usize) -> usize {
    (n + SECRET + MASK).div_ceil(LEAVES - SPENT)
}

/// Correlations that `groves` groves spend.
const fn spent(groves: usize) -> usize {
    SECRET + SPENT * groves + MASK
}

/// Bytes of the sender's first message for `n` transfers.
pub(crate) const fn message_bytes(n: usize) -> usize {
    groves(n) * WORDS * 16
}

/// One party's end of one direction: the reserve. Wiped on drop.
pub(crate) struct Reserve(Zeroizing<Vec<u128>>);

/// Names an extension: `n ≤` [`MAX_NEW`] new transfers of a direction, the first of them number
/// `first` of the session's.
pub(crate) struct Order {
    pub(crate) session: [u8; 32],
    pub(crate) sender: Role,
    pub(crate) first: u64,
    pub(crate) n: usize,
}

/// An extension under way: outputs, so far leaves, and what was taken from the reserve.
struct Growth {
    tag: Tag,
    code: FixedKey,
    leaves: Zeroizing<Vec<u128>>,
    secret: Zeroizing<Vec<u128>>,
    mask: Zeroizing<Vec<u128>>,
    n: usize,
}

/// The sender's, before the check.
pub(crate) struct Sown {
    growth: Growth,
    delta: Zeroizing<u128>,
}

/// The receiver's, before the check.
pub(crate) struct Reaped(Growth);

impl Reserve {
    /// From [`RESERVE`] words of a sender.
    pub(crate) fn of_sender(q: &[u128]) -> Reserve {
        Reserve(Zeroizing::new(q.iter().map(|q| q & !1).collect()))
    }

    /// From [`RESERVE`] words and choices of a receiver.
    pub(crate) fn of_receiver(t: &[u128], choice: impl Fn(usize) -> u8) -> Reserve {
        Reserve(Zeroizing::new(t.iter().enumerate().map(|(i, t)| t & !1 | choice(i) as u128).collect()))
    }

    /// Takes what an extension spends, the words of its trees apart, and makes room for leaves.
    fn take(&mut self, order: &Order) -> (Growth, Zeroizing<Vec<u128>>) {
        let groves = groves(order.n);
        let rest = self.0.len() - spent(groves);
        let taken = |range: core::ops::Range<usize>| Zeroizing::new(self.0[rest..][range].to_vec());
        let secret = taken(0..SECRET);
        let of_trees = taken(SECRET..SECRET + SPENT * groves);
        let mask = taken(SECRET + SPENT * groves..spent(groves));
        self.0[rest..].zeroize();
        self.0.truncate(rest);
        let (tag, code) = silent_tag(&order.session, order.sender, order.first);
        let leaves = Zeroizing::new(vec![0; groves * LEAVES]);
        (Growth { tag, code, leaves, secret, mask, n: order.n }, of_trees)
    }

    /// Step 1 of the sender: its message of [`message_bytes`]`(n)`.
    pub(crate) fn sow(&mut self, order: &Order, delta: u128) -> (Vec<u8>, Sown) {
        let (mut growth, q) = self.take(order);
        let (delta, tag) = (delta | 1, growth.tag);
        let mut message = vec![0; message_bytes(order.n)];
        (growth.leaves.par_chunks_exact_mut(LEAVES))
            .zip(message.par_chunks_exact_mut(WORDS * 16))
            .zip(q.par_chunks_exact(SPENT))
            .enumerate()
            .for_each_init(TreeHash::new, |hash, (grove, ((leaves, words), q))| {
                trees::grow(hash, (tag, grove), (q, delta), leaves, words);
            });
        (message, Sown { growth, delta: Zeroizing::new(delta) })
    }

    /// Step 1 of the receiver, from the sender's message of [`message_bytes`]`(n)`.
    pub(crate) fn reap(&mut self, order: &Order, message: &[u8]) -> Reaped {
        let (mut growth, t) = self.take(order);
        let tag = growth.tag;
        (growth.leaves.par_chunks_exact_mut(LEAVES))
            .zip(message.par_chunks_exact(WORDS * 16))
            .zip(t.par_chunks_exact(SPENT))
            .enumerate()
            .for_each_init(TreeHash::new, |hash, (grove, ((leaves, words), t))| {
                trees::grow_punctured(hash, (tag, grove), t, leaves, words);
            });
        Reaped(growth)
    }

    /// Step 3 of either party: the new words. What was spent is replaced.
    fn finish(&mut self, growth: Growth) -> Zeroizing<Vec<u128>> {
        let Growth { code, mut leaves, secret, n, .. } = growth;
        let secret = secret.first_chunk().expect("a whole secret");
        leaves.par_chunks_exact_mut(LEAVES).enumerate().for_each(|(grove, leaves)| {
            code::add(&code, secret, grove * LEAVES, leaves);
        });
        let missing = RESERVE - self.0.len();
        self.0.extend_from_slice(&leaves[n..n + missing]);
        leaves[n..].zeroize();
        leaves.truncate(n);
        leaves
    }
}

impl Growth {
    /// The sums of step 2, `Σ ψ_m·χ_j·v_mj` with the correlations that mask it, and over the last
    /// bits in place of the leaves, not masked.
    fn check(&self, seed: [u8; 32]) -> (u128, u128) {
        let mut rng = Prg::new(&Seed::from_bytes(seed));
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        let places: Vec<u128> = (0..PLACES).map(|_| random()).collect();
        let weights: Vec<u128> = (0..self.leaves.len() / PLACES).map(|_| random()).collect();
        let sums = (self.leaves.par_chunks_exact(PLACES).zip(&weights))
            .with_min_len(64)
            .fold(Sums::new, |mut sums, (leaves, weight)| {
                sums.add(leaves, *weight);
                sums
            })
            .reduce(Sums::new, Sums::merge);
        let (mut sum, mut noise) = ([0; 2], [0; 2]);
        for (j, place) in places.iter().enumerate() {
            carryless_multiply_add(
                &[carryless_reduce(sums.leaves[j])],
                *place,
                core::slice::from_mut(&mut sum),
            );
            carryless_multiply_add(&[sums.noise[j]], *place, core::slice::from_mut(&mut noise));
        }
        let mask =
            self.mask.iter().rev().fold(0, |sum, word| carryless_reduce([sum << 1, sum >> 127]) ^ word);
        (carryless_reduce(sum) ^ mask, carryless_reduce(noise))
    }
}

impl Sown {
    /// Step 2 of the sender: the answer.
    pub(crate) fn prove(&self, challenge: &[u8; CHALLENGE_BYTES]) -> [u8; PROOF_BYTES] {
        let (seed, noise) = challenge.split_first_chunk().expect("a seed and a sum");
        let noise = u128::from_le_bytes(noise.try_into().expect("sixteen bytes"));
        let mut shift = [[0; 2]];
        carryless_multiply_add(&[noise], *self.delta, &mut shift);
        digest(self.growth.tag, self.growth.check(*seed).0 ^ carryless_reduce(shift[0]))
    }

    /// Step 3: the words `q`, last bits 0.
    pub(crate) fn finish(self, reserve: &mut Reserve) -> Zeroizing<Vec<u128>> {
        reserve.finish(self.growth)
    }
}

impl Reaped {
    /// Step 2 of the receiver: the challenge, made of a fresh `seed`, and the answer to it.
    pub(crate) fn challenge(&self, seed: [u8; 32]) -> ([u8; CHALLENGE_BYTES], [u8; PROOF_BYTES]) {
        let (sum, noise) = self.0.check(seed);
        let choices = self.0.mask.iter().rev().fold(0, |bits, t| bits << 1 | t & 1);
        let mut challenge = [0; CHALLENGE_BYTES];
        challenge[..32].copy_from_slice(&seed);
        challenge[32..].copy_from_slice(&(noise ^ choices).to_le_bytes());
        (challenge, digest(self.0.tag, sum))
    }

    /// Step 3: the words `t`, whose last bits are the choices.
    pub(crate) fn finish(self, reserve: &mut Reserve) -> Zeroizing<Vec<u128>> {
        reserve.finish(self.0)
    }
}

fn digest(tag: Tag, sum: u128) -> [u8; PROOF_BYTES] {
    Sha256::new()
        .chain_update(b"cryptogen silent transfers")
        .chain_update(tag)
        .chain_update(sum.to_le_bytes())
        .finalize()
        .into()
}

/// For each place `Σ_m ψ_m·v_mj`, not reduced, and the same over last bits. Wiped on drop.
struct Sums {
    leaves: Zeroizing<Vec<[u128; 2]>>,
    noise: Zeroizing<Vec<u128>>,
}

impl Sums {
    fn new() -> Sums {
        Sums { leaves: Zeroizing::new(vec![[0; 2]; PLACES]), noise: Zeroizing::new(vec![0; PLACES]) }
    }

    fn add(&mut self, leaves: &[u128], weight: u128) {
        carryless_multiply_add(leaves, weight, &mut self.leaves);
        for (noise, leaf) in self.noise.iter_mut().zip(leaves) {
            *noise ^= bits::mask(*leaf as u8) & weight;
        }
    }

    fn merge(mut self, other: Sums) -> Sums {
        for (sum, other) in self.leaves.iter_mut().zip(other.leaves.iter()) {
            *sum = [sum[0] ^ other[0], sum[1] ^ other[1]];
        }
        self.noise.iter_mut().zip(other.noise.iter()).for_each(|(sum, other)| *sum ^= other);
        self
    }
}
