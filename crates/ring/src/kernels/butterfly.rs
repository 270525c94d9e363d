//! Harvey's lazy butterflies ("Faster arithmetic for number-theoretic transforms", 2014): between
//! levels the residues are only kept below `4q` (forward) or `2q` (inverse).

#[cfg(target_arch = "x86_64")]
mod x86;

use core::ops::Range;

use crate::modulus::{Factor, Modulus};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[inline(always)]
pub(super) fn forward(q: &Modulus, values: &[u32], quotients: &[u32], a: &mut [u32], levels: Range<u32>) {
    for level in levels {
        let (m, half) = (1usize << level, a.len() >> (level + 1));
        let twiddles = values[m..2 * m].iter().zip(&quotients[m..2 * m]);
        let twiddles = twiddles.map(|(&value, &quotient)| Factor { value, quotient });
        match half {
            1 => short::<2>(a, twiddles, |u, v, w| forward_pair(q, u, v, w)),
            2 => short::<4>(a, twiddles, |u, v, w| forward_pair(q, u, v, w)),
            4 => short::<8>(a, twiddles, |u, v, w| forward_pair(q, u, v, w)),
            _ => long(a, half, twiddles, |u, v, w| forward_pair(q, u, v, w)),
        }
    }
    for x in a {
        *x = q.below_q(q.below_2q(*x));
    }
}

#[inline(always)]
pub(super) fn inverse(
    q: &Modulus,
    values: &[u32],
    quotients: &[u32],
    scale: Factor,
    a: &mut [u32],
    levels: Range<u32>,
) {
    for level in levels.rev() {
        let (m, half) = (1usize << level, a.len() >> (level + 1));
        let twiddles = values[m..2 * m].iter().zip(&quotients[m..2 * m]);
        let twiddles = twiddles.map(|(&value, &quotient)| Factor { value, quotient });
        match half {
            1 => short::<2>(a, twiddles, |u, v, w| inverse_pair(q, u, v, w)),
            2 => short::<4>(a, twiddles, |u, v, w| inverse_pair(q, u, v, w)),
            4 => short::<8>(a, twiddles, |u, v, w| inverse_pair(q, u, v, w)),
            _ => long(a, half, twiddles, |u, v, w| inverse_pair(q, u, v, w)),
        }
    }
    for x in a {
        *x = q.mul_factor(*x, scale);
    }
}

/// `(u + w·v, u − w·v)`; in and out below `4q`.
#[inline(always)]
fn forward_pair(q: &Modulus, u: u32, v: u32, w: Factor) -> (u32, u32) {
    let (u, t) = (q.below_2q(u), q.mul_lazy(v, w));
    (u + t, u + 2 * q.value() - t)
}

/// `(u + v, (u − v)·w)`; in and out below `2q`.
#[inline(always)]
fn inverse_pair(q: &Modulus, u: u32, v: u32, w: Factor) -> (u32, u32) {
    (q.below_2q(u + v), q.mul_lazy(u + 2 * q.value() - v, w))
}

/// Blocks long enough for vectors: one twiddle factor each.
#[inline(always)]
fn long(
    a: &mut [u32],
    half: usize,
    twiddles: impl Iterator<Item = Factor>,
    pair: impl Fn(u32, u32, Factor) -> (u32, u32),
) {
    for (block, w) in a.chunks_exact_mut(2 * half).zip(twiddles) {
        let (low, high) = block.split_at_mut(half);
        for (u, v) in low.iter_mut().zip(high) {
            (*u, *v) = pair(*u, *v, w);
        }
    }
}

/// Blocks of a few elements, unrolled.
#[inline(always)]
fn short<const BLOCK: usize>(
    a: &mut [u32],
    twiddles: impl Iterator<Item = Factor>,
    pair: impl Fn(u32, u32, Factor) -> (u32, u32),
) {
    let (blocks, _) = a.as_chunks_mut::<BLOCK>();
    for (block, w) in blocks.iter_mut().zip(twiddles) {
        for j in 0..BLOCK / 2 {
            (block[j], block[j + BLOCK / 2]) = pair(block[j], block[j + BLOCK / 2], w);
        }
    }
}
