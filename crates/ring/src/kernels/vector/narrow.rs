//! 256 bits; what is not said here is said of the wide ones.

use super::*;

pub(in super::super) const LANES: usize = 8;
pub(in super::super) type V = __m256i;

arithmetic!("avx2");

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn load(x: &[u32; LANES]) -> V {
    // SAFETY: the pointer is to a whole vector; unaligned access.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn store(x: &mut [u32; LANES], v: V) {
    // SAFETY: as above.
    unsafe { _mm256_storeu_si256(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn load_wide(x: &[u64; LANES]) -> [V; 2] {
    let [a, b] = x.as_chunks::<4>().0 else { unreachable!("two vectors") };
    // SAFETY: the pointers are to whole vectors; unaligned access.
    [a, b].map(|x| unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn where_greater(x: V, bound: V, y: V) -> V {
    _mm256_and_si256(_mm256_cmpgt_epi32(x, bound), y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn where_greater64(a: V, b: V, bound: u64, y: V) -> V {
    // Signed comparison, of numbers moved by 2^63.
    let sign = splat64(1 << 63);
    let bound = _mm256_xor_si256(splat64(bound), sign);
    let [a, b] = [a, b].map(|x| _mm256_cmpgt_epi64(_mm256_xor_si256(x, sign), bound));
    _mm256_and_si256(separate(a, b).0, y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn permuted(from: V, first: u32, block: V) -> Option<V> {
    let offset = sub(from, splat(first));
    let inside = _mm256_cmpeq_epi32(min(offset, splat(LANES as u32 - 1)), offset);
    (_mm256_movemask_epi8(inside) == -1).then(|| _mm256_permutevar8x32_epi32(block, from))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn splat(x: u32) -> V {
    _mm256_set1_epi32(x as i32)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn add(x: V, y: V) -> V {
    _mm256_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn sub(x: V, y: V) -> V {
    _mm256_sub_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn min(x: V, y: V) -> V {
    _mm256_min_epu32(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn low(x: V, y: V) -> V {
    _mm256_mullo_epi32(x, y)
}

/// 64-bit products of the even elements.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn even_products(x: V, y: V) -> V {
    _mm256_mul_epu32(x, y)
}

/// Of 64-bit elements.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn add64(x: V, y: V) -> V {
    _mm256_add_epi64(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn splat64(x: u64) -> V {
    _mm256_set1_epi64x(x as i64)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn shift64(x: V, by: u32) -> V {
    _mm256_srl_epi64(x, _mm_set_epi64x(0, by as i64))
}

/// High halves of 64-bit elements: those of `even` to even places, of `odd` to odd ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn high_halves(even: V, odd: V) -> V {
    _mm256_blend_epi32::<0xAA>(odd_to_even(even), odd)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn low_halves(even: V, odd: V) -> V {
    _mm256_blend_epi32::<0xAA>(even, _mm256_slli_epi64::<32>(odd))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn high(x: V, y: V, odd: V) -> V {
    let (even, odd) = (_mm256_mul_epu32(x, y), _mm256_mul_epu32(odd_to_even(x), odd));
    high_halves(even, odd)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn odd_to_even(x: V) -> V {
    _mm256_srli_epi64::<32>(x)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn exchange4(a: V, b: V) -> (V, V) {
    (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn exchange2(u: V, v: V) -> (V, V) {
    (_mm256_unpacklo_epi64(u, v), _mm256_unpackhi_epi64(u, v))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn exchange1(u: V, v: V) -> (V, V) {
    (_mm256_blend_epi32::<0xAA>(u, _mm256_slli_epi64::<32>(v)), _mm256_blend_epi32::<0xAA>(odd_to_even(u), v))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn interleave(u: V, v: V) -> (V, V) {
    exchange4(_mm256_unpacklo_epi32(u, v), _mm256_unpackhi_epi32(u, v))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn separate(a: V, b: V) -> (V, V) {
    let (u, v) = exchange4(a, b);
    let (u, v) = (_mm256_castsi256_ps(u), _mm256_castsi256_ps(v));
    let (even, odd) = (_mm256_shuffle_ps::<0b10_00_10_00>(u, v), _mm256_shuffle_ps::<0b11_01_11_01>(u, v));
    (_mm256_castps_si256(even), _mm256_castps_si256(odd))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn repeat4(w: &[u32], at: usize) -> V {
    let both = _mm256_set1_epi64x((w[at] as u64 | (w[at + 1] as u64) << 32) as i64);
    _mm256_permutevar8x32_epi32(both, _mm256_set_epi32(1, 1, 1, 1, 0, 0, 0, 0))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn repeat2(w: &[u32], at: usize) -> V {
    let w: &[u32; 4] = w[at..].first_chunk().expect("a table of as many factors as blocks");
    // SAFETY: the pointer is to four 32-bit numbers; unaligned access.
    let w = _mm256_castsi128_si256(unsafe { _mm_loadu_si128(w.as_ptr().cast()) });
    _mm256_permutevar8x32_epi32(w, _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn repeat1(w: &[u32], at: usize) -> V {
    load(w[at..].first_chunk().expect("a table of as many factors as blocks"))
}
