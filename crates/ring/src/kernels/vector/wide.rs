//! 512 bits.

use super::*;

pub(in super::super) const LANES: usize = 16;
pub(in super::super) type V = __m512i;

arithmetic!("avx512f");

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn load(x: &[u32; LANES]) -> V {
    // SAFETY: the pointer is to a whole vector; unaligned access.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn store(x: &mut [u32; LANES], v: V) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn load64(x: &[u64; LANES / 2]) -> V {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn store64(x: &mut [u64; LANES / 2], v: V) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn load_bytes(x: &[u8; 4 * LANES]) -> V {
    // SAFETY: as above.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Elements of 64 bits, two vectors.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn load_wide(x: &[u64; LANES]) -> [V; 2] {
    let [a, b] = x.as_chunks().0 else { unreachable!("two vectors") };
    [load64(a), load64(b)]
}

/// `y` where `x > bound`, 0 elsewhere; below `2^31`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn where_greater(x: V, bound: V, y: V) -> V {
    _mm512_maskz_mov_epi32(_mm512_cmpgt_epi32_mask(x, bound), y)
}

/// The same for elements of 64 bits, in the order of those.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn where_greater64(a: V, b: V, bound: u64, y: V) -> V {
    let bound = splat64(bound);
    let (a, b) = (_mm512_cmpgt_epu64_mask(a, bound), _mm512_cmpgt_epu64_mask(b, bound));
    _mm512_maskz_mov_epi32(a as u16 | (b as u16) << 8, y)
}

/// The elements of the block from `first` on at the positions `from`; `None` if some are elsewhere.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn permuted(from: V, first: u32, block: V) -> Option<V> {
    let inside = _mm512_cmplt_epu32_mask(sub(from, splat(first)), splat(LANES as u32));
    (inside == 0xFFFF).then(|| _mm512_permutexvar_epi32(from, block))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn splat(x: u32) -> V {
    _mm512_set1_epi32(x as i32)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn add(x: V, y: V) -> V {
    _mm512_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn sub(x: V, y: V) -> V {
    _mm512_sub_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn min(x: V, y: V) -> V {
    _mm512_min_epu32(x, y)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn low(x: V, y: V) -> V {
    _mm512_mullo_epi32(x, y)
}

/// 64-bit products of the even elements.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn even_products(x: V, y: V) -> V {
    _mm512_mul_epu32(x, y)
}

/// Of 64-bit elements.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn add64(x: V, y: V) -> V {
    _mm512_add_epi64(x, y)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn splat64(x: u64) -> V {
    _mm512_set1_epi64(x as i64)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn shift64(x: V, by: u32) -> V {
    _mm512_srl_epi64(x, _mm_set_epi64x(0, by as i64))
}

/// High halves of 64-bit elements: those of `even` to even places, of `odd` to odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn high_halves(even: V, odd: V) -> V {
    _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn low_halves(even: V, odd: V) -> V {
    _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xAAAA, odd)
}

/// High halves of the products with `y`, whose odd elements are `odd`'s even ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn high(x: V, y: V, odd: V) -> V {
    let (even, odd) = (_mm512_mul_epu32(x, y), _mm512_mul_epu32(odd_to_even(x), odd));
    high_halves(even, odd)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn odd_to_even(x: V) -> V {
    _mm512_srli_epi64::<32>(x)
}

/// `(a, b)` with one block of 16 each to `(u, v)` with the halves of the blocks, and back.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn exchange8(a: V, b: V) -> (V, V) {
    (_mm512_shuffle_i64x2::<0b01_00_01_00>(a, b), _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b))
}

/// The same for the halves of blocks of 8: quarters 1 and 3 of `u` for quarters 0 and 2 of `v`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn exchange4(u: V, v: V) -> (V, V) {
    let low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    (_mm512_permutex2var_epi64(u, low, v), _mm512_permutex2var_epi64(u, high, v))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn exchange2(u: V, v: V) -> (V, V) {
    (_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn exchange1(u: V, v: V) -> (V, V) {
    (
        _mm512_mask_shuffle_epi32::<0b10_10_00_00>(u, 0xAAAA, v),
        _mm512_mask_shuffle_epi32::<0b11_11_01_01>(v, 0x5555, u),
    )
}

/// Even and odd elements to two vectors in order.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn interleave(u: V, v: V) -> (V, V) {
    let low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    let high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    (_mm512_permutex2var_epi32(u, low, v), _mm512_permutex2var_epi32(u, high, v))
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn separate(a: V, b: V) -> (V, V) {
    let even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    let odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    (_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b))
}

/// The factors from `at` on, eight times each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn repeat8(w: &[u32], at: usize) -> V {
    let both = _mm512_set1_epi64((w[at] as u64 | (w[at + 1] as u64) << 32) as i64);
    _mm512_permutexvar_epi32(_mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0), both)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn repeat4(w: &[u32], at: usize) -> V {
    let w: &[u32; 4] = w[at..].first_chunk().expect("a table of as many factors as blocks");
    // SAFETY: the pointer is to four 32-bit numbers; unaligned access.
    let w = _mm512_castsi128_si512(unsafe { _mm_loadu_si128(w.as_ptr().cast()) });
    _mm512_permutexvar_epi32(_mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0), w)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn repeat2(w: &[u32], at: usize) -> V {
    let w: &[u32; 8] = w[at..].first_chunk().expect("a table of as many factors as blocks");
    // SAFETY: the pointer is to eight 32-bit numbers; unaligned access.
    let w = _mm512_castsi256_si512(unsafe { _mm256_loadu_si256(w.as_ptr().cast()) });
    _mm512_permutexvar_epi32(_mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0), w)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(in super::super) fn repeat1(w: &[u32], at: usize) -> V {
    load(w[at..].first_chunk().expect("a table of as many factors as blocks"))
}
