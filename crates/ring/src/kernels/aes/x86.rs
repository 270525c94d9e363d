//! The vector variants: 256 and 512 bits from one body, the intrinsics by name.

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use super::{Isa, Zeroize, TREES};

/// Vectors in flight: as many as hide the latency of the AES instruction.
const FLIGHT: usize = 8;

/// Whether the vector variants of `isa` can run.
pub(super) fn available(isa: Isa) -> bool {
    isa.is_available() && is_x86_feature_detected!("vaes")
}

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
            keys[$i] = number(_mm_xor_si128(prefix, word));
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
fn number(x: __m128i) -> u128 {
    let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(x, x)) as u64;
    (high as u128) << 64 | _mm_cvtsi128_si64(x) as u64 as u128
}

macro_rules! variant {
    ($variant:ident, $features:literal, $vector:ident, $lanes:literal, $broadcast:ident, $load:ident, $store:ident,
     $xor:ident, $and:ident, $add64:ident, $shr64:ident, $shl32:ident, $sar32:ident, $shuffle32:ident,
     $shl_bytes:ident, $round:ident, $last:ident) => {
        pub(in super::super) mod $variant {
            use super::*;

            const GROUP: usize = FLIGHT * $lanes;
            type Vectors = [$vector; FLIGHT];

            #[inline]
            #[target_feature(enable = $features)]
            fn load(blocks: &[u128; GROUP]) -> Vectors {
                // SAFETY: vector `i < FLIGHT` lies inside the array; unaligned access.
                core::array::from_fn(|i| unsafe { $load(blocks.as_ptr().add(i * $lanes).cast()) })
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store(vectors: Vectors, blocks: &mut [u128; GROUP]) {
                for (i, x) in vectors.into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { $store(blocks.as_mut_ptr().add(i * $lanes).cast(), x) };
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn broadcast(x: u128) -> $vector {
                $broadcast(block(x))
            }

            /// `MMO` of each block.
            #[inline]
            #[target_feature(enable = $features)]
            fn hash(keys: &[$vector; 11], input: Vectors) -> Vectors {
                let mut state = input.map(|x| $xor(x, keys[0]));
                for key in &keys[1..10] {
                    state = state.map(|x| $round(x, *key));
                }
                core::array::from_fn(|i| $xor($last(state[i], keys[10]), input[i]))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn sigma(x: $vector) -> $vector {
                $xor($shuffle32::<0b11_10_11_10>(x), $shl_bytes::<8>(x))
            }

            /// All ones where the block's least significant bit is 1.
            #[inline]
            #[target_feature(enable = $features)]
            fn mask(x: $vector) -> $vector {
                $sar32::<31>($shl32::<31>($shuffle32::<0>(x)))
            }

            /// Left and right children of one group of parents.
            #[inline]
            #[target_feature(enable = $features)]
            fn children(keys: &[$vector; 11], x: Vectors, words: &Vectors) -> (Vectors, Vectors) {
                let hashes = hash(keys, x.map(|x| sigma(x)));
                let left: Vectors = core::array::from_fn(|i| $xor(hashes[i], $and(mask(x[i]), words[i])));
                (left, core::array::from_fn(|i| $xor(left[i], x[i])))
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn mmo(keys: &[u128; 11], blocks: &mut [u128]) {
                let keys = keys.map(|key| broadcast(key));
                let (groups, rest) = blocks.as_chunks_mut::<GROUP>();
                for blocks in groups {
                    store(hash(&keys, load(blocks)), blocks);
                }
                if !rest.is_empty() {
                    let mut padded = [0; GROUP];
                    padded[..rest.len()].copy_from_slice(rest);
                    store(hash(&keys, load(&padded)), &mut padded);
                    rest.copy_from_slice(&padded[..rest.len()]);
                    padded.zeroize();
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn grow(keys: &[u128; 11], nodes: &mut [u128], words: &[u128; TREES]) {
                let keys = keys.map(|key| broadcast(key));
                let mut repeated = [0; GROUP];
                repeated.chunks_exact_mut(TREES).for_each(|chunk| chunk.copy_from_slice(words));
                let words = load(&repeated);
                let (parents, right) = nodes.split_at_mut(nodes.len() / 2);
                let (groups, rest) = parents.as_chunks_mut::<GROUP>();
                let (right_groups, right_rest) = right.as_chunks_mut::<GROUP>();
                for (parents, right) in groups.iter_mut().zip(right_groups) {
                    let (l, r) = children(&keys, load(parents), &words);
                    store(l, parents);
                    store(r, right);
                }
                if !rest.is_empty() {
                    let mut padded = [[0; GROUP]; 2];
                    padded[0][..rest.len()].copy_from_slice(rest);
                    let (l, r) = children(&keys, load(&padded[0]), &words);
                    store(l, &mut padded[0]);
                    store(r, &mut padded[1]);
                    rest.copy_from_slice(&padded[0][..rest.len()]);
                    right_rest.copy_from_slice(&padded[1][..rest.len()]);
                    padded.zeroize();
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn hash_sums(keys: &[u128; 11], nodes: &[u128]) -> [u128; TREES] {
                let keys = keys.map(|key| broadcast(key));
                let mut sums = [broadcast(0); FLIGHT];
                let (groups, rest) = nodes.as_chunks::<GROUP>();
                for nodes in groups {
                    let hashes = hash(&keys, load(nodes).map(|x| sigma(x)));
                    sums = core::array::from_fn(|i| $xor(sums[i], hashes[i]));
                }
                let mut all = [0; GROUP];
                store(sums, &mut all);
                let mut padded = [0; GROUP];
                padded[..rest.len()].copy_from_slice(rest);
                store(hash(&keys, load(&padded).map(|x| sigma(x))), &mut padded);
                let mut out = [0; TREES];
                for (i, hash) in all.iter().chain(&padded[..rest.len()]).enumerate() {
                    out[i % TREES] ^= hash;
                }
                all.zeroize();
                padded.zeroize();
                out
            }

            #[target_feature(enable = $features)]
            pub(in super::super) fn converted_sums(
                keys: &[u128; 11],
                nodes: &[u128],
                tweak: u128,
            ) -> [[u128; 2]; TREES] {
                let keys = keys.map(|key| broadcast(key));
                let low_word = broadcast(0x0000_0000_ffff_ffff_0000_0000_ffff_ffff);
                // Words of 32 bits, so that lanes of 64 do not overflow.
                let mut sums = [[broadcast(0); FLIGHT]; 2];
                let (groups, rest) = nodes.as_chunks::<GROUP>();
                for nodes in groups {
                    let values = hash(&keys, load(nodes).map(|x| $xor(x, broadcast(tweak))));
                    for (i, x) in values.into_iter().enumerate() {
                        sums[0][i] = $add64(sums[0][i], $and(x, low_word));
                        sums[1][i] = $add64(sums[1][i], $shr64::<32>(x));
                    }
                }
                let mut padded = [[0; GROUP]; 3];
                store(sums[0], &mut padded[0]);
                store(sums[1], &mut padded[1]);
                padded[2][..rest.len()].copy_from_slice(rest);
                let values = hash(&keys, load(&padded[2]).map(|x| $xor(x, broadcast(tweak))));
                store(values, &mut padded[2]);
                let mut out = [[0; 2]; TREES];
                let mut add = |i: usize, x: u128, shift: u32| {
                    out[i % TREES][0] += (x as u64 as u128) << shift;
                    out[i % TREES][1] += (x >> 64) << shift;
                };
                padded[0].iter().enumerate().for_each(|(i, x)| add(i, *x, 0));
                padded[1].iter().enumerate().for_each(|(i, x)| add(i, *x, 32));
                padded[2][..rest.len()].iter().enumerate().for_each(|(i, x)| add(i, *x, 0));
                padded.zeroize();
                out
            }
        }
    };
}

variant!(
    avx2,
    "avx2,vaes",
    __m256i,
    2,
    _mm256_broadcastsi128_si256,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    _mm256_xor_si256,
    _mm256_and_si256,
    _mm256_add_epi64,
    _mm256_srli_epi64,
    _mm256_slli_epi32,
    _mm256_srai_epi32,
    _mm256_shuffle_epi32,
    _mm256_bslli_epi128,
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
variant!(
    avx512,
    "avx512f,avx512bw,vaes",
    __m512i,
    4,
    _mm512_broadcast_i32x4,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    _mm512_xor_si512,
    _mm512_and_si512,
    _mm512_add_epi64,
    _mm512_srli_epi64,
    _mm512_slli_epi32,
    _mm512_srai_epi32,
    _mm512_shuffle_epi32,
    _mm512_bslli_epi128,
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);
