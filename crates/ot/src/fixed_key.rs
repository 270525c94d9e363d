//! Everything that is hashed with fixed-key AES, in the ideal permutation model.
//!
//! - `hash`: the tweakable hash TMMO, `H(i, x) = π(π(x) ⊕ i) ⊕ π(x)` (Guo, Katz, Wang, Yu: "Efficient and Secure
//!   Multiparty Computation from Fixed-Key Block Ciphers", S&P 2020, §7.4). Two AES calls.
//! - `children`: the length doubling generator `G(s) = π_L(s) ⊕ s ‖ π_R(s) ⊕ s` of the tree. Two AES calls.
//! - `convert`: `Conv_ℓ(s) = π_C(s ⊕ ℓ) ⊕ (s ⊕ ℓ) mod p`, bias below 2^-64. One AES call for each payload.
//!
//! All of them work on slices, so that eight blocks are in the AES pipeline.

use std::sync::LazyLock;

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128, Block};
use zeroize::Zeroize;

/// Blocks worked on at once: enough for the pipeline, small enough for the first-level cache.
pub(crate) const CHUNK: usize = 64;

/// Bits of a pad's label; several pads of one transfer differ in it.
pub(crate) const LABEL_BITS: u32 = 8;

// Public constants, nothing up the sleeve.
struct Permutations {
    hash: Aes128,
    left: Aes128,
    right: Aes128,
    convert: Aes128,
}

static PI: LazyLock<Permutations> = LazyLock::new(|| Permutations {
    hash: Aes128::new(b"cryptogen hash  ".into()),
    left: Aes128::new(b"cryptogen left  ".into()),
    right: Aes128::new(b"cryptogen right ".into()),
    convert: Aes128::new(b"cryptogen conver".into()),
});

/// Buffers of one chunk; wiped on drop because they hold seeds.
pub(crate) struct Buffers {
    input: [Block; CHUNK],
    first: [Block; CHUNK],
    second: [Block; CHUNK],
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        let zero = [Block::default(); CHUNK];
        Buffers { input: zero, first: zero, second: zero }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for block in self.input.iter_mut().chain(&mut self.first).chain(&mut self.second) {
            block.as_mut_slice().zeroize();
        }
    }
}

#[inline(always)]
fn load(block: &Block) -> u128 {
    u128::from_le_bytes((*block).into())
}

#[inline(always)]
fn store(x: u128) -> Block {
    x.to_le_bytes().into()
}

impl Buffers {
    /// Puts seed `i < CHUNK` (least significant bit clear) in place for [`Buffers::children`].
    #[inline(always)]
    pub(crate) fn set(&mut self, i: usize, seed: u128) {
        self.input[i] = store(seed);
    }

    /// `G` of the first `n` seeds; `emit(i, left, right)` gets the raw children, their bit `t` in the least significant
    /// place.
    #[inline(always)]
    pub(crate) fn children(&mut self, n: usize, mut emit: impl FnMut(usize, u128, u128)) {
        encrypt(&PI.left, &self.input[..n], &mut self.first[..n]);
        encrypt(&PI.right, &self.input[..n], &mut self.second[..n]);
        for (i, ((seed, left), right)) in
            self.input[..n].iter().zip(&self.first).zip(&self.second).enumerate()
        {
            emit(i, load(left) ^ load(seed), load(right) ^ load(seed));
        }
    }

    /// `Conv_ℓ` of at most [`CHUNK`] seeds. The values are congruent modulo `p` but only reduced below `2^64`.
    #[inline(always)]
    pub(crate) fn convert(&mut self, leaves: &[u128], payload: usize, values: &mut [u64; CHUNK]) {
        let n = leaves.len();
        for (block, leaf) in self.input[..n].iter_mut().zip(leaves) {
            *block = store(*leaf ^ payload as u128);
        }
        encrypt(&PI.convert, &self.input[..n], &mut self.first[..n]);
        for ((value, input), output) in values.iter_mut().zip(&self.input[..n]).zip(&self.first) {
            *value = reduce(load(output) ^ load(input));
        }
    }

    /// `H` of each word in place; the tweak of word `i` is `(first + i)·2^8 + label`.
    pub(crate) fn hash(&mut self, words: &mut [u128], first: u64, label: u8) {
        for (c, chunk) in words.chunks_mut(CHUNK).enumerate() {
            let n = chunk.len();
            for (block, x) in self.input.iter_mut().zip(chunk.iter()) {
                *block = store(*x);
            }
            encrypt(&PI.hash, &self.input[..n], &mut self.first[..n]);
            for (i, (input, inner)) in self.input[..n].iter_mut().zip(&self.first).enumerate() {
                let index = first as u128 + (c * CHUNK + i) as u128;
                *input = store(load(inner) ^ (index << LABEL_BITS | label as u128));
            }
            encrypt(&PI.hash, &self.input[..n], &mut self.second[..n]);
            for ((x, inner), outer) in chunk.iter_mut().zip(&self.first).zip(&self.second) {
                *x = load(inner) ^ load(outer);
            }
        }
    }
}

/// Congruent to `x` modulo `p = 2^64 − 2^32 + 1`, below `2^64`, without a branch on `x`.
#[inline(always)]
fn reduce(x: u128) -> u64 {
    // 2^64 = 2^32 − 1 and 2^96 = −1 modulo p.
    const EPSILON: u64 = 0xffff_ffff;
    let high = (x >> 64) as u64;
    let (difference, borrow) = (x as u64).overflowing_sub(high >> 32);
    let difference = difference.wrapping_sub((borrow as u64).wrapping_neg() & EPSILON);
    let (sum, carry) = difference.overflowing_add((high & EPSILON) * EPSILON);
    sum.wrapping_add((carry as u64).wrapping_neg() & EPSILON)
}

#[inline(always)]
fn encrypt(cipher: &Aes128, input: &[Block], output: &mut [Block]) {
    cipher.encrypt_blocks_b2b(input, output).expect("slices of one length");
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
    fn hash_is_tmmo() {
        let pi = |x: u128| {
            let mut block = store(x);
            PI.hash.encrypt_block(&mut block);
            load(&block)
        };
        let mut words: Vec<u128> = (0..130).map(|i| i * 0x1234_5678_9abc_def0_1111).collect();
        let before = words.clone();
        Buffers::new().hash(&mut words, 1000, 3);
        for (i, (x, h)) in before.into_iter().zip(words).enumerate() {
            let tweak = (1000 + i as u128) * 256 + 3;
            assert_eq!(h, pi(pi(x) ^ tweak) ^ pi(x));
        }
    }
}
