//! Butterflies over `F_p`, and the order of those modulo other wide primes.

#[cfg(target_arch = "x86_64")]
mod x86;

use core::ops::Range;

use crate::field::Fp;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{forward as forward_avx512, inverse as inverse_avx512};

/// The levels of a transform one after another, whatever the numbers `a` and the factors of `table`
/// are: `butterfly(u, v, w)` is `(u + v·w, u − v·w)` forward, `(u + v, (u − v)·w)` back.
#[inline(always)]
pub(crate) fn levels<T: Copy, W: Copy>(
    table: &[W],
    a: &mut [T],
    levels: impl Iterator<Item = u32>,
    butterfly: impl Fn(T, T, W) -> (T, T),
) {
    for level in levels {
        let half = a.len() >> (level + 1);
        for (block, &w) in a.chunks_exact_mut(2 * half).zip(&table[1 << level..]) {
            let (low, high) = block.split_at_mut(half);
            low.iter_mut().zip(high).for_each(|(u, v)| (*u, *v) = butterfly(*u, *v, w));
        }
    }
}

#[inline(always)]
pub(super) fn forward(table: &[Fp], a: &mut [Fp], levels: Range<u32>) {
    self::levels(table, a, levels, |u, v, w| {
        let t = v * w;
        (u + t, u - t)
    });
}

#[inline(always)]
pub(super) fn inverse(table: &[Fp], scale: Fp, a: &mut [Fp], levels: Range<u32>) {
    self::levels(table, a, levels.rev(), |u, v, w| (u + v, (u - v) * w));
    if scale != Fp::ONE {
        a.iter_mut().for_each(|x| *x *= scale);
    }
}
