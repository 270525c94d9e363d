//! The variant of 512-bit vectors: four products of halves instead of one of 64 bits, which a
//! vector does not have, and still three times the speed. AVX2 has neither comparisons nor minima
//! of unsigned 64-bit numbers and gains nothing over one by one.
//!
//! Between levels residues are any 64-bit numbers. A sum or difference of two is right after one
//! correction by `2^64 mod p = 2^32 − 1` if the second one is below `p`.

use core::arch::x86_64::*;
use core::ops::Range;

use super::{forward as portable_forward, inverse as portable_inverse, Fp};
use crate::field::P;

const LANES: usize = 8;
type V = __m512i;

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[Fp; LANES]) -> V {
    // SAFETY: `Fp` is a transparent `u64`, and the pointer is to a whole vector; unaligned access.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Stores canonical residues, or any between levels: the last pass corrects.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [Fp; LANES], v: V) {
    // SAFETY: as above; every 64-bit pattern is a valid `u64`.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(x: u64) -> V {
    _mm512_set1_epi64(x as i64)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn epsilon() -> V {
    splat(0xFFFF_FFFF)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn canonical(x: V) -> V {
    _mm512_min_epu64(x, _mm512_sub_epi64(x, splat(P)))
}

/// `x + y` for a canonical `y`.
#[inline]
#[target_feature(enable = "avx512f")]
fn add(x: V, y: V) -> V {
    let sum = _mm512_add_epi64(x, y);
    _mm512_mask_add_epi64(sum, _mm512_cmplt_epu64_mask(sum, y), sum, epsilon())
}

/// `x − y` for a canonical `y`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sub(x: V, y: V) -> V {
    let difference = _mm512_sub_epi64(x, y);
    _mm512_mask_sub_epi64(difference, _mm512_cmplt_epu64_mask(x, y), difference, epsilon())
}

/// `x·y`, any numbers; see [`Fp::from_u128`].
#[inline]
#[target_feature(enable = "avx512f")]
fn mul(x: V, y: V) -> V {
    let (x1, y1) = (_mm512_srli_epi64::<32>(x), _mm512_srli_epi64::<32>(y));
    let (low, high) = (_mm512_mul_epu32(x, y), _mm512_mul_epu32(x1, y1));
    let middle = _mm512_add_epi64(_mm512_mul_epu32(x1, y), _mm512_srli_epi64::<32>(low));
    let other = _mm512_add_epi64(_mm512_mul_epu32(x, y1), _mm512_and_si512(middle, epsilon()));
    let high = _mm512_add_epi64(high, _mm512_srli_epi64::<32>(middle));
    let high = _mm512_add_epi64(high, _mm512_srli_epi64::<32>(other));
    let low = _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64::<32>(other));
    // low + 2^64·(high mod 2^32) + 2^96·(high / 2^32), 2^64 = 2^32 − 1 and 2^96 = −1.
    let folded = sub(low, _mm512_srli_epi64::<32>(high));
    add(folded, _mm512_mul_epu32(high, epsilon()))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn forward_pair(u: V, v: V, w: V) -> (V, V) {
    let t = canonical(mul(v, w));
    (add(u, t), sub(u, t))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn inverse_pair(u: V, v: V, w: V) -> (V, V) {
    let v = canonical(v);
    (add(u, v), mul(sub(u, v), w))
}

/// `(a, b)` with one block of 8 each to `(u, v)` with the halves of the blocks, and back.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange4(a: V, b: V) -> (V, V) {
    (_mm512_shuffle_i64x2::<0b01_00_01_00>(a, b), _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b))
}

/// The same for the halves of blocks of 4, and of 2.
#[inline]
#[target_feature(enable = "avx512f")]
fn exchange2(u: V, v: V) -> (V, V) {
    let low = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0);
    let high = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    (_mm512_permutex2var_epi64(u, low, v), _mm512_permutex2var_epi64(u, high, v))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn exchange1(u: V, v: V) -> (V, V) {
    (_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v))
}

/// Even and odd elements to two vectors in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave(u: V, v: V) -> (V, V) {
    let low = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    let high = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    (_mm512_permutex2var_epi64(u, low, v), _mm512_permutex2var_epi64(u, high, v))
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx512f")]
fn separate(a: V, b: V) -> (V, V) {
    let even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    let odd = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
    (_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b))
}

/// `M` factors from `at` on, `8/M` times each.
#[inline]
#[target_feature(enable = "avx512f")]
fn repeat<const M: usize>(table: &[Fp], at: usize) -> V {
    let w: &[Fp; M] = table[at..].first_chunk().expect("a table of as many factors as blocks");
    load(&core::array::from_fn(|i| w[i * M / LANES]))
}

/// The vectors at the same place of the four quarters of a block.
fn quarters(block: &mut [Fp]) -> impl Iterator<Item = [&mut [Fp; LANES]; 4]> {
    let quarter = block.len() / 4;
    let (low, high) = block.split_at_mut(2 * quarter);
    let ((x0, x1), (x2, x3)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    let low = x0.as_chunks_mut().0.iter_mut().zip(x1.as_chunks_mut().0);
    let high = x2.as_chunks_mut().0.iter_mut().zip(x3.as_chunks_mut().0);
    low.zip(high).map(|((x0, x1), (x2, x3))| [x0, x1, x2, x3])
}

/// The two vectors of a pair.
fn pairs(a: &mut [Fp]) -> impl Iterator<Item = (&mut [Fp; LANES], &mut [Fp; LANES])> {
    a.chunks_exact_mut(2 * LANES).map(|pair| {
        let (x, y) = pair.split_at_mut(LANES);
        (x.first_chunk_mut().expect("a vector"), y.first_chunk_mut().expect("a vector"))
    })
}

/// How many levels from the first on have blocks whose halves are whole vectors.
fn long_levels(len: usize, levels: &Range<u32>) -> u32 {
    levels.clone().take_while(|level| (len >> (level + 1)).is_multiple_of(LANES)).count() as u32
}

#[target_feature(enable = "avx512f")]
pub(in super::super) fn forward(table: &[Fp], a: &mut [Fp], levels: Range<u32>) {
    if a.len() < 2 * LANES {
        return portable_forward(table, a, levels);
    }
    let long = levels.start + long_levels(a.len(), &levels);
    let mut level = levels.start;
    while level < long {
        let half = a.len() >> (level + 1);
        if level + 1 < long {
            let factors = table[1 << level..].iter().zip(table[2 << level..].as_chunks().0);
            for (block, (w, [wu, wv])) in a.chunks_exact_mut(2 * half).zip(factors) {
                let [w, wu, wv] = [w, wu, wv].map(|w| splat(w.value()));
                for [x0, x1, x2, x3] in quarters(block) {
                    let (u0, v0) = forward_pair(load(x0), load(x2), w);
                    let (u1, v1) = forward_pair(load(x1), load(x3), w);
                    let (u0, u1) = forward_pair(u0, u1, wu);
                    let (v0, v1) = forward_pair(v0, v1, wv);
                    store(x0, u0);
                    store(x1, u1);
                    store(x2, v0);
                    store(x3, v1);
                }
            }
            level += 2;
        } else {
            for (block, w) in a.chunks_exact_mut(2 * half).zip(&table[1 << level..]) {
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                    let (u, v) = forward_pair(load(x), load(y), splat(w.value()));
                    store(x, u);
                    store(y, v);
                }
            }
            level += 1;
        }
    }
    let len = a.len();
    if level < levels.end && len.is_power_of_two() {
        let runs = |half: usize| (level..levels.end).contains(&((len / half).ilog2() - 1));
        for (i, (x, y)) in pairs(a).enumerate() {
            let (mut u, mut v) = exchange4(load(x), load(y));
            if runs(4) {
                (u, v) = forward_pair(u, v, repeat::<2>(table, len / 8 + 2 * i));
            }
            (u, v) = exchange2(u, v);
            if runs(2) {
                (u, v) = forward_pair(u, v, repeat::<4>(table, len / 4 + 4 * i));
            }
            (u, v) = exchange1(u, v);
            if runs(1) {
                (u, v) = forward_pair(u, v, repeat::<8>(table, len / 2 + 8 * i));
            }
            let (a, b) = interleave(canonical(u), canonical(v));
            store(x, a);
            store(y, b);
        }
    } else {
        let (whole, rest) = a.as_chunks_mut();
        // Without a level of vectors nothing has left the canonical range.
        debug_assert!(rest.is_empty() || long == levels.start);
        whole.iter_mut().for_each(|x| store(x, canonical(load(x))));
        portable_forward(table, a, level..levels.end);
    }
}

#[target_feature(enable = "avx512f")]
pub(in super::super) fn inverse(table: &[Fp], scale: Fp, a: &mut [Fp], levels: Range<u32>) {
    let len = a.len();
    let mut level = levels.start + long_levels(len, &levels);
    if len < 2 * LANES || level == levels.start {
        return portable_inverse(table, scale, a, levels);
    }
    if level < levels.end && len.is_power_of_two() {
        let runs = |half: usize| (level..levels.end).contains(&((len / half).ilog2() - 1));
        for (i, (x, y)) in pairs(a).enumerate() {
            let (mut u, mut v) = separate(load(x), load(y));
            if runs(1) {
                (u, v) = inverse_pair(u, v, repeat::<8>(table, len / 2 + 8 * i));
            }
            (u, v) = exchange1(u, v);
            if runs(2) {
                (u, v) = inverse_pair(u, v, repeat::<4>(table, len / 4 + 4 * i));
            }
            (u, v) = exchange2(u, v);
            if runs(4) {
                (u, v) = inverse_pair(u, v, repeat::<2>(table, len / 8 + 2 * i));
            }
            let (a, b) = exchange4(u, v);
            store(x, a);
            store(y, b);
        }
    } else {
        portable_inverse(table, Fp::ONE, a, level..levels.end);
    }
    while level > levels.start {
        if level > levels.start + 1 {
            level -= 2;
            let half = len >> (level + 1);
            let factors = table[1 << level..].iter().zip(table[2 << level..].as_chunks().0);
            for (block, (w, [wu, wv])) in a.chunks_exact_mut(2 * half).zip(factors) {
                let [w, wu, wv] = [w, wu, wv].map(|w| splat(w.value()));
                for [x0, x1, x2, x3] in quarters(block) {
                    let (u0, u1) = inverse_pair(load(x0), load(x1), wu);
                    let (v0, v1) = inverse_pair(load(x2), load(x3), wv);
                    let (u0, v0) = inverse_pair(u0, v0, w);
                    let (u1, v1) = inverse_pair(u1, v1, w);
                    store(x0, u0);
                    store(x1, u1);
                    store(x2, v0);
                    store(x3, v1);
                }
            }
        } else {
            level -= 1;
            let half = len >> (level + 1);
            for (block, w) in a.chunks_exact_mut(2 * half).zip(&table[1 << level..]) {
                let (low, high) = block.split_at_mut(half);
                for (x, y) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                    let (u, v) = inverse_pair(load(x), load(y), splat(w.value()));
                    store(x, u);
                    store(y, v);
                }
            }
        }
    }
    // Some level was of whole vectors, so the length is one of them, too.
    let scale = splat(scale.value());
    a.as_chunks_mut().0.iter_mut().for_each(|x| store(x, canonical(mul(load(x), scale))));
}
