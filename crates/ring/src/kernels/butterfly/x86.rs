//! The vector variants: 256 and 512 bits from one body.
//!
//! Two levels are done per load while blocks are long, and those whose blocks are shorter than a vector together, on pairs of
//! vectors whose elements are exchanged in registers. Shoup's product takes any 32-bit number, and `16q < 2^32`, so forward
//! residues grow by `2q` a level and are corrected only when they would pass `16q`; inverse ones stay below `4q` between passes.

use core::arch::x86_64::*;
use core::ops::Range;

use super::{forward as portable_forward, inverse as portable_inverse, Factor, Modulus};

#[macro_use]
mod passes;

/// Values and quotients.
type Tables<'a> = (&'a [u32], &'a [u32]);

/// How many levels from the first on have blocks whose halves are whole vectors.
fn long_levels(len: usize, levels: &Range<u32>, lanes: usize) -> u32 {
    let long = levels.clone().take_while(|level| (len >> (level + 1)).is_multiple_of(lanes));
    long.count() as u32
}

/// For each block of `level` its factor, and those of its two halves in the next level.
fn factors(w: Tables<'_>, level: u32) -> impl Iterator<Item = [(u32, u32); 3]> + use<'_> {
    let m = 1usize << level;
    let first = w.0[m..2 * m].iter().zip(&w.1[m..2 * m]);
    let second = w.0[2 * m..4 * m].as_chunks().0.iter().zip(w.1[2 * m..4 * m].as_chunks().0);
    first.zip(second).map(|((value, quotient), (&[a, b], &[c, d]))| [(*value, *quotient), (a, c), (b, d)])
}

/// The vectors at the same place of the four quarters of a block.
fn quarters<const LANES: usize>(block: &mut [u32]) -> impl Iterator<Item = [&mut [u32; LANES]; 4]> {
    let quarter = block.len() / 4;
    let (low, high) = block.split_at_mut(2 * quarter);
    let ((x0, x1), (x2, x3)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    let low = x0.as_chunks_mut().0.iter_mut().zip(x1.as_chunks_mut().0);
    let high = x2.as_chunks_mut().0.iter_mut().zip(x3.as_chunks_mut().0);
    low.zip(high).map(|((x0, x1), (x2, x3))| [x0, x1, x2, x3])
}

/// An element's quotient is its neighbour's.
#[inline(always)]
fn same<T>(quotient: T) -> T {
    quotient
}

/// What the bodies below need of 512-bit vectors.
mod wide {
    use super::*;

    pub(super) const LANES: usize = 16;
    pub(super) type V = __m512i;

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(x: &[u32; LANES]) -> V {
        // SAFETY: the pointer is to a whole vector; unaligned access.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn store(x: &mut [u32; LANES], v: V) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn splat(x: u32) -> V {
        _mm512_set1_epi32(x as i32)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn add(x: V, y: V) -> V {
        _mm512_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn sub(x: V, y: V) -> V {
        _mm512_sub_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn min(x: V, y: V) -> V {
        _mm512_min_epu32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn low(x: V, y: V) -> V {
        _mm512_mullo_epi32(x, y)
    }

    /// High halves of the products with `y`, whose odd elements are `odd`'s even ones.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn high(x: V, y: V, odd: V) -> V {
        let (even, odd) = (_mm512_mul_epu32(x, y), _mm512_mul_epu32(odd_to_even(x), odd));
        _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn odd_to_even(x: V) -> V {
        _mm512_srli_epi64::<32>(x)
    }

    /// `(a, b)` with one block of 16 each to `(u, v)` with the halves of the blocks, and back.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn exchange8(a: V, b: V) -> (V, V) {
        (_mm512_shuffle_i64x2::<0b01_00_01_00>(a, b), _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b))
    }

    /// The same for the halves of blocks of 8: quarters 1 and 3 of `u` for quarters 0 and 2 of `v`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn exchange4(u: V, v: V) -> (V, V) {
        let low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
        let high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
        (_mm512_permutex2var_epi64(u, low, v), _mm512_permutex2var_epi64(u, high, v))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn exchange2(u: V, v: V) -> (V, V) {
        (_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn exchange1(u: V, v: V) -> (V, V) {
        (
            _mm512_mask_shuffle_epi32::<0b10_10_00_00>(u, 0xAAAA, v),
            _mm512_mask_shuffle_epi32::<0b11_11_01_01>(v, 0x5555, u),
        )
    }

    /// Even and odd elements to two vectors in order.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn interleave(u: V, v: V) -> (V, V) {
        let low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        let high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
        (_mm512_permutex2var_epi32(u, low, v), _mm512_permutex2var_epi32(u, high, v))
    }

    /// The inverse of [`interleave`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn separate(a: V, b: V) -> (V, V) {
        let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
        let odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        (_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b))
    }

    /// The factors from `at` on, eight times each.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn repeat8(w: &[u32], at: usize) -> V {
        let both = _mm512_set1_epi64((w[at] as u64 | (w[at + 1] as u64) << 32) as i64);
        _mm512_permutexvar_epi32(_mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0), both)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn repeat4(w: &[u32], at: usize) -> V {
        let w: &[u32; 4] = w[at..].first_chunk().expect("a table of as many factors as blocks");
        // SAFETY: the pointer is to four 32-bit numbers; unaligned access.
        let w = _mm512_castsi128_si512(unsafe { _mm_loadu_si128(w.as_ptr().cast()) });
        _mm512_permutexvar_epi32(_mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0), w)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn repeat2(w: &[u32], at: usize) -> V {
        let w: &[u32; 8] = w[at..].first_chunk().expect("a table of as many factors as blocks");
        // SAFETY: the pointer is to eight 32-bit numbers; unaligned access.
        let w = _mm512_castsi256_si512(unsafe { _mm256_loadu_si256(w.as_ptr().cast()) });
        _mm512_permutexvar_epi32(_mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0), w)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn repeat1(w: &[u32], at: usize) -> V {
        load(w[at..].first_chunk().expect("a table of as many factors as blocks"))
    }
}

/// The same of 256-bit vectors.
mod narrow {
    use super::*;

    pub(super) const LANES: usize = 8;
    pub(super) type V = __m256i;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn load(x: &[u32; LANES]) -> V {
        // SAFETY: the pointer is to a whole vector; unaligned access.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn store(x: &mut [u32; LANES], v: V) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn splat(x: u32) -> V {
        _mm256_set1_epi32(x as i32)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn add(x: V, y: V) -> V {
        _mm256_add_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn sub(x: V, y: V) -> V {
        _mm256_sub_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn min(x: V, y: V) -> V {
        _mm256_min_epu32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn low(x: V, y: V) -> V {
        _mm256_mullo_epi32(x, y)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn high(x: V, y: V, odd: V) -> V {
        let (even, odd) = (_mm256_mul_epu32(x, y), _mm256_mul_epu32(odd_to_even(x), odd));
        _mm256_blend_epi32::<0xAA>(odd_to_even(even), odd)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn odd_to_even(x: V) -> V {
        _mm256_srli_epi64::<32>(x)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn exchange4(a: V, b: V) -> (V, V) {
        (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn exchange2(u: V, v: V) -> (V, V) {
        (_mm256_unpacklo_epi64(u, v), _mm256_unpackhi_epi64(u, v))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn exchange1(u: V, v: V) -> (V, V) {
        (
            _mm256_blend_epi32::<0xAA>(u, _mm256_slli_epi64::<32>(v)),
            _mm256_blend_epi32::<0xAA>(odd_to_even(u), v),
        )
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn interleave(u: V, v: V) -> (V, V) {
        exchange4(_mm256_unpacklo_epi32(u, v), _mm256_unpackhi_epi32(u, v))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn separate(a: V, b: V) -> (V, V) {
        let (u, v) = exchange4(a, b);
        let (u, v) = (_mm256_castsi256_ps(u), _mm256_castsi256_ps(v));
        let (even, odd) =
            (_mm256_shuffle_ps::<0b10_00_10_00>(u, v), _mm256_shuffle_ps::<0b11_01_11_01>(u, v));
        (_mm256_castps_si256(even), _mm256_castps_si256(odd))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn repeat4(w: &[u32], at: usize) -> V {
        let both = _mm256_set1_epi64x((w[at] as u64 | (w[at + 1] as u64) << 32) as i64);
        _mm256_permutevar8x32_epi32(both, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn repeat2(w: &[u32], at: usize) -> V {
        let w: &[u32; 4] = w[at..].first_chunk().expect("a table of as many factors as blocks");
        // SAFETY: the pointer is to four 32-bit numbers; unaligned access.
        let w = _mm256_castsi128_si256(unsafe { _mm_loadu_si128(w.as_ptr().cast()) });
        _mm256_permutevar8x32_epi32(w, _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn repeat1(w: &[u32], at: usize) -> V {
        load(w[at..].first_chunk().expect("a table of as many factors as blocks"))
    }
}

variant!(
    avx512,
    "avx512f",
    wide,
    [
        (8, exchange8, repeat8, same),
        (4, exchange4, repeat4, same),
        (2, exchange2, repeat2, same),
        (1, exchange1, repeat1, odd_to_even)
    ],
    [
        (1, exchange1, repeat1, odd_to_even),
        (2, exchange2, repeat2, same),
        (4, exchange4, repeat4, same),
        (8, exchange8, repeat8, same)
    ]
);
variant!(
    avx2,
    "avx2",
    narrow,
    [(4, exchange4, repeat4, same), (2, exchange2, repeat2, same), (1, exchange1, repeat1, odd_to_even)],
    [(1, exchange1, repeat1, odd_to_even), (2, exchange2, repeat2, same), (4, exchange4, repeat4, same)]
);
