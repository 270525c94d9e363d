//! The vector variants: 256 and 512 bits from one body, the intrinsics by name.

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use super::super::aes::x86::{block, number};
use super::{Isa, Zeroize, BLOCK};

/// Vectors in flight: as many as hide the latency of the AES instruction.
const FLIGHT: usize = 8;

/// Whether the vector variants of `isa` can run.
pub(super) fn available(isa: Isa) -> bool {
    isa.is_available() && is_x86_feature_detected!("aes") && is_x86_feature_detected!("vaes")
}

/// The key schedule; panics without AES instructions.
pub(super) fn round_keys(key: &[u8; 32]) -> [u128; 15] {
    assert!(is_x86_feature_detected!("aes"), "no AES instructions");
    // SAFETY: the feature was detected on this machine.
    unsafe { expand(key) }
}

/// The blocks from `counter` on.
pub(super) fn fill(isa: Isa, keys: &[u128; 15], counter: u64, out: &mut [u8]) {
    assert!(available(isa), "no AES instructions on vectors");
    // SAFETY: the features were detected on this machine.
    match isa {
        Isa::Avx512 => unsafe { avx512::fill(keys, counter, out) },
        _ => unsafe { avx2::fill(keys, counter, out) },
    }
}

/// FIPS 197, §5.2, for eight words.
#[target_feature(enable = "aes")]
fn expand(key: &[u8; 32]) -> [u128; 15] {
    let half = |from: usize| u128::from_le_bytes(key[from..from + 16].try_into().expect("half a key"));
    let mut keys = [0; 15];
    (keys[0], keys[1]) = (half(0), half(16));
    macro_rules! rounds {
        ($($i:literal $constant:literal),*) => { $(
            let assist = _mm_aeskeygenassist_si128::<$constant>(block(keys[$i - 1]));
            // Every second key takes the word without rotation or constant.
            let word = if $i % 2 == 0 { _mm_shuffle_epi32::<0xff>(assist) } else { _mm_shuffle_epi32::<0xaa>(assist) };
            let last = block(keys[$i - 2]);
            let pairs = _mm_xor_si128(last, _mm_slli_si128::<4>(last));
            let prefix = _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs));
            keys[$i] = number(_mm_xor_si128(prefix, word));
        )* };
    }
    rounds!(2 0x01, 3 0x00, 4 0x02, 5 0x00, 6 0x04, 7 0x00, 8 0x08, 9 0x00, 10 0x10, 11 0x00, 12 0x20, 13 0x00, 14 0x40);
    keys
}

macro_rules! variant {
    ($variant:ident, $features:literal, $vector:ident, $lanes:literal, $broadcast:ident, $store:ident, $xor:ident, $add:ident,
     $first:expr, $round:ident, $last:ident) => {
        mod $variant {
            use super::*;

            /// Bytes of the vectors in flight.
            const GROUP: usize = FLIGHT * $lanes * BLOCK;

            #[target_feature(enable = $features)]
            pub(super) fn fill(keys: &[u128; 15], counter: u64, out: &mut [u8]) {
                let keys: [$vector; 15] = keys.map(|key| $broadcast(block(key)));
                let mut counters = $add($broadcast(block(counter as u128)), $first);
                let step = $broadcast(block($lanes));
                let (groups, rest) = out.as_chunks_mut::<GROUP>();
                for group in groups {
                    encrypt(&keys, &mut counters, step, group);
                }
                if !rest.is_empty() {
                    let mut padded = [0; GROUP];
                    encrypt(&keys, &mut counters, step, &mut padded);
                    rest.copy_from_slice(&padded[..rest.len()]);
                    padded.zeroize();
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn encrypt(keys: &[$vector; 15], counters: &mut $vector, step: $vector, out: &mut [u8; GROUP]) {
                let mut state = [*counters; FLIGHT];
                for x in &mut state {
                    *x = $xor(*counters, keys[0]);
                    *counters = $add(*counters, step);
                }
                for key in &keys[1..14] {
                    state = state.map(|x| $round(x, *key));
                }
                for (out, x) in out.as_chunks_mut::<{ $lanes * BLOCK }>().0.iter_mut().zip(state) {
                    // SAFETY: the pointer is to as many bytes as a vector has; unaligned access.
                    unsafe { $store(out.as_mut_ptr().cast(), $last(x, keys[14])) };
                }
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
    _mm256_storeu_si256,
    _mm256_xor_si256,
    _mm256_add_epi64,
    _mm256_set_epi64x(0, 1, 0, 0),
    _mm256_aesenc_epi128,
    _mm256_aesenclast_epi128
);
variant!(
    avx512,
    "avx512f,vaes",
    __m512i,
    4,
    _mm512_broadcast_i32x4,
    _mm512_storeu_si512,
    _mm512_xor_si512,
    _mm512_add_epi64,
    _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0),
    _mm512_aesenc_epi128,
    _mm512_aesenclast_epi128
);
