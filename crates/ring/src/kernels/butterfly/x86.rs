//! The vector variants: 256 and 512 bits from one body.
//!
//! Two levels are done per load while blocks are long, and those whose blocks are shorter than a
//! vector together, on pairs of vectors whose elements are exchanged in registers. Shoup's product
//! takes any 32-bit number, and `16q < 2^32`, so forward residues grow by `2q` a level and are
//! corrected only when they would pass `16q`; inverse ones stay below `4q` between passes.

use core::ops::Range;

use super::super::vector::{narrow, wide};
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
