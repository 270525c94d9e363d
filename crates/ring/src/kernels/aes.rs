//! AES-128 under a public, fixed key as a permutation `π`: what trees and transfers are hashed with.
//!
//! Portable: the `aes` crate (which uses the AES instructions where they exist, one block at a time). With VAES, two or
//! four blocks share an instruction.

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128, Block};

use super::Isa;

/// Blocks worked on at once by the portable variant.
const CHUNK: usize = 64;

/// A public key of the fixed-key permutation `π`.
pub struct FixedKey {
    cipher: Aes128,
    #[cfg(target_arch = "x86_64")]
    round_keys: Option<[u128; 11]>,
}

impl FixedKey {
    /// `π` under `key`, a public constant.
    pub fn new(key: &[u8; 16]) -> FixedKey {
        FixedKey {
            cipher: Aes128::new(key.into()),
            #[cfg(target_arch = "x86_64")]
            round_keys: x86::round_keys(key),
        }
    }

    /// Matyas–Meyer–Oseas: each block `x`, little endian, becomes `π(x) ⊕ x`.
    pub fn mmo(&self, blocks: &mut [u128]) {
        self.mmo_on(Isa::best(), blocks);
    }

    /// The same by a given variant (portable if the machine lacks it), for tests and measurements.
    pub fn mmo_on(&self, isa: Isa, blocks: &mut [u128]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.round_keys {
            if x86::mmo(isa, keys, blocks) {
                return;
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = isa;
        let mut encrypted = [Block::default(); CHUNK];
        for blocks in blocks.chunks_mut(CHUNK) {
            let encrypted = &mut encrypted[..blocks.len()];
            for (block, x) in encrypted.iter_mut().zip(blocks.iter()) {
                *block = x.to_le_bytes().into();
            }
            self.cipher.encrypt_blocks(encrypted);
            for (x, block) in blocks.iter_mut().zip(encrypted.iter()) {
                *x ^= u128::from_le_bytes((*block).into());
            }
        }
        encrypted.iter_mut().for_each(|block| zeroize::Zeroize::zeroize(block.as_mut_slice()));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::*;
    use std::arch::is_x86_feature_detected;

    use super::Isa;

    /// The key schedule, if the machine has AES instructions.
    pub(super) fn round_keys(key: &[u8; 16]) -> Option<[u128; 11]> {
        // SAFETY: the feature was detected on this machine.
        is_x86_feature_detected!("aes").then(|| unsafe { expand(u128::from_le_bytes(*key)) })
    }

    /// FIPS 197, §5.2.
    #[target_feature(enable = "aes")]
    fn expand(key: u128) -> [u128; 11] {
        let mut keys = [key; 11];
        macro_rules! rounds {
            ($($i:literal $constant:literal),*) => { $(
                let last = block(keys[$i - 1]);
                let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(last));
                let pairs = _mm_xor_si128(last, _mm_slli_si128::<4>(last));
                let prefix = _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs));
                keys[$i] = word_of(_mm_xor_si128(prefix, word));
            )* };
        }
        rounds!(1 0x01, 2 0x02, 3 0x04, 4 0x08, 5 0x10, 6 0x20, 7 0x40, 8 0x80, 9 0x1b, 10 0x36);
        keys
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn block(x: u128) -> __m128i {
        _mm_set_epi64x((x >> 64) as i64, x as i64)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn word_of(x: __m128i) -> u128 {
        let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(x, x)) as u64;
        (high as u128) << 64 | _mm_cvtsi128_si64(x) as u64 as u128
    }

    /// Whether a vector variant did the work.
    pub(super) fn mmo(isa: Isa, keys: &[u128; 11], blocks: &mut [u128]) -> bool {
        let vaes = isa.is_available() && is_x86_feature_detected!("vaes");
        match isa {
            // SAFETY: the features were detected on this machine.
            Isa::Avx512 if vaes => unsafe { mmo_512(keys, blocks) },
            Isa::Avx2 if vaes => unsafe { mmo_256(keys, blocks) },
            _ => return false,
        }
        true
    }

    /// Vectors in flight: as many as hide the latency of the AES instruction.
    const FLIGHT: usize = 8;

    macro_rules! mmo {
        ($name:ident, $features:literal, $vector:ident, $lanes:literal, $broadcast:ident, $load:ident, $store:ident,
         $xor:ident, $round:ident, $last:ident) => {
            #[target_feature(enable = $features)]
            fn $name(keys: &[u128; 11], blocks: &mut [u128]) {
                const GROUP: usize = FLIGHT * $lanes;
                #[inline]
                #[target_feature(enable = $features)]
                fn group(keys: &[$vector; 11], blocks: &mut [u128; GROUP]) {
                    let at = blocks.as_mut_ptr().cast::<$vector>();
                    // SAFETY: vector `i < FLIGHT` lies inside the array; unaligned access.
                    let input: [$vector; FLIGHT] =
                        core::array::from_fn(|i| unsafe { $load(at.add(i).cast()) });
                    let mut state = input.map(|x| $xor(x, keys[0]));
                    for key in &keys[1..10] {
                        state = state.map(|x| $round(x, *key));
                    }
                    for (i, (x, input)) in state.into_iter().zip(input).enumerate() {
                        let hashed = $xor($last(x, keys[10]), input);
                        // SAFETY: as above.
                        unsafe { $store(at.add(i).cast(), hashed) };
                    }
                }
                let keys = keys.map(|key| $broadcast(block(key)));
                let (groups, rest) = blocks.as_chunks_mut::<GROUP>();
                for blocks in groups {
                    group(&keys, blocks);
                }
                if !rest.is_empty() {
                    let mut padded = [0; GROUP];
                    padded[..rest.len()].copy_from_slice(rest);
                    group(&keys, &mut padded);
                    rest.copy_from_slice(&padded[..rest.len()]);
                    zeroize::Zeroize::zeroize(&mut padded);
                }
            }
        };
    }

    mmo!(
        mmo_256,
        "avx2,vaes",
        __m256i,
        2,
        _mm256_broadcastsi128_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_xor_si256,
        _mm256_aesenc_epi128,
        _mm256_aesenclast_epi128
    );
    mmo!(
        mmo_512,
        "avx512f,vaes",
        __m512i,
        4,
        _mm512_broadcast_i32x4,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_xor_si512,
        _mm512_aesenc_epi128,
        _mm512_aesenclast_epi128
    );
}
