//! Butterflies over `F_p`.

#[cfg(target_arch = "x86_64")]
mod x86;

use core::ops::Range;

use crate::field::Fp;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{forward as forward_avx512, inverse as inverse_avx512};

#[inline(always)]
pub(super) fn forward(table: &[Fp], a: &mut [Fp], levels: Range<u32>) {
    for level in levels {
        let half = a.len() >> (level + 1);
        for (block, &w) in a.chunks_exact_mut(2 * half).zip(&table[1 << level..]) {
            let (low, high) = block.split_at_mut(half);
            for (u, v) in low.iter_mut().zip(high) {
                let t = *v * w;
                (*u, *v) = (*u + t, *u - t);
            }
        }
    }
}

#[inline(always)]
pub(super) fn inverse(table: &[Fp], scale: Fp, a: &mut [Fp], levels: Range<u32>) {
    for level in levels.rev() {
        let half = a.len() >> (level + 1);
        for (block, &w) in a.chunks_exact_mut(2 * half).zip(&table[1 << level..]) {
            let (low, high) = block.split_at_mut(half);
            for (u, v) in low.iter_mut().zip(high) {
                (*u, *v) = (*u + *v, (*u - *v) * w);
            }
        }
    }
    if scale != Fp::ONE {
        a.iter_mut().for_each(|x| *x *= scale);
    }
}
