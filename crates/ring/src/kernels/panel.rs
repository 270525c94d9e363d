//! Sums of element-wise products of many pairs of rows, modulo one prime. Both operands are
//! *panels*: cut into blocks of [`BLOCK`] columns, the rows of a tile lie side by side, so that a
//! tile of sums stays in registers, every operand is read once per tile, and no two rows evict each
//! other from the cache (whole rows lie a multiple of the page size apart).

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

use crate::modulus::Modulus;

/// Columns of a block: one cache line.
pub const BLOCK: usize = 16;
/// Rows of a full tile of the left operand and of the right one: eight sums of vectors fit 16
/// registers.
const LEFT: usize = 2;
const RIGHT: usize = 4;
/// Columns whose sums are made together.
const CR: usize = 4;
/// Products have 56 bits; what is left after a reduction is less than one of them.
const DEPTH: usize = 255;

/// The line of (row, `k`) in a block of a panel of `rows` rows and `depth` products, tiles of
/// `tile` rows.
#[inline(always)]
const fn line(rows: usize, depth: usize, tile: usize, row: usize, k: usize) -> usize {
    let first = row / tile * tile;
    let width = if rows - first < tile { rows - first } else { tile };
    first * depth + k * width + row - first
}

/// Where (row, `k`) of a left operand lies in a block, in lines.
pub const fn left_line(rows: usize, depth: usize, row: usize, k: usize) -> usize {
    line(rows, depth, LEFT, row, k)
}

/// Where (row, `k`) of a right operand lies in a block, in lines.
pub const fn right_line(rows: usize, depth: usize, row: usize, k: usize) -> usize {
    line(rows, depth, RIGHT, row, k)
}

/// A whole panel, tile by tile; a closure would not inherit the target features of its caller.
macro_rules! panel_product {
    ($(#[$attribute:meta])* $name:ident, $tile:ident) => {
        $(#[$attribute])*
        pub(super) fn $name(
            q: &Modulus,
            (left, left_rows): (&[u32], usize),
            (right, right_rows): (&[u32], usize),
            (depth, right_depth): (usize, usize),
            out: &mut [u32],
        ) {
            let (left, rest) = left.as_chunks::<BLOCK>();
            let (right, rest_right) = right.as_chunks::<BLOCK>();
            assert!(rest.is_empty() && rest_right.is_empty() && depth <= right_depth, "not panels");
            if left_rows == 0 || right_rows == 0 || depth == 0 {
                return out.fill(0);
            }
            let n = out.len() / (left_rows * right_rows);
            let blocks = n / BLOCK;
            assert!(out.len() == blocks * BLOCK * left_rows * right_rows, "output of another shape");
            assert!(left.len() == blocks * left_rows * depth, "left panel of another shape");
            assert!(right.len() == blocks * right_rows * right_depth, "right panel of another shape");
            let lefts = left.chunks_exact(left_rows * depth);
            let rights = right.chunks_exact(right_rows * right_depth);
            for (block, (left, right)) in lefts.zip(rights).enumerate() {
                for l in (0..left_rows).step_by(LEFT) {
                    let a = &left[l * depth..];
                    for r in (0..right_rows).step_by(RIGHT) {
                        let b = &right[r * right_depth..];
                        let place = Place { n, column: block * BLOCK, left: l, right: r, right_rows };
                        match (left_rows - l, right_rows - r) {
                            (1, 1) => $tile::<1, 1>(q, a, b, depth, &place, out),
                            (1, 2) => $tile::<1, 2>(q, a, b, depth, &place, out),
                            (1, 3) => $tile::<1, 3>(q, a, b, depth, &place, out),
                            (1, _) => $tile::<1, RIGHT>(q, a, b, depth, &place, out),
                            (_, 1) => $tile::<LEFT, 1>(q, a, b, depth, &place, out),
                            (_, 2) => $tile::<LEFT, 2>(q, a, b, depth, &place, out),
                            (_, 3) => $tile::<LEFT, 3>(q, a, b, depth, &place, out),
                            _ => $tile::<LEFT, RIGHT>(q, a, b, depth, &place, out),
                        }
                    }
                }
            }
        }
    };
}

panel_product!(
    #[inline(always)]
    portable,
    tile
);
#[cfg(target_arch = "x86_64")]
panel_product!(
    #[target_feature(enable = "avx2")]
    avx2,
    tile_avx2
);
#[cfg(target_arch = "x86_64")]
panel_product!(
    #[target_feature(enable = "avx512f")]
    avx512,
    tile_avx512
);

/// Where a tile's sums go: rows `(left + i)·right_rows + right + j` of length `n`, from `column`
/// on.
struct Place {
    n: usize,
    column: usize,
    left: usize,
    right: usize,
    right_rows: usize,
}

impl Place {
    /// The sums of columns `c..c + CR` of the tile's row (l, r), reduced.
    #[inline(always)]
    fn store(&self, l: usize, r: usize, c: usize, sums: &[u64; CR], out: &mut [u32]) {
        let row = (self.left + l) * self.right_rows + self.right + r;
        let out = &mut out[row * self.n + self.column + c..][..CR];
        out.iter_mut().zip(sums).for_each(|(o, &s)| *o = s as u32);
    }
}

#[inline(always)]
fn tile<const L: usize, const R: usize>(
    q: &Modulus,
    a: &[[u32; BLOCK]],
    b: &[[u32; BLOCK]],
    depth: usize,
    place: &Place,
    out: &mut [u32],
) {
    let (a, b) = (&a.as_chunks::<L>().0[..depth], &b.as_chunks::<R>().0[..depth]);
    for c in (0..BLOCK).step_by(CR) {
        let mut sums = [[[0u64; CR]; R]; L];
        for (a, b) in a.chunks(DEPTH).zip(b.chunks(DEPTH)) {
            for (a, b) in a.iter().zip(b) {
                for l in 0..L {
                    for r in 0..R {
                        for i in 0..CR {
                            sums[l][r][i] += a[l][c + i] as u64 * b[r][c + i] as u64;
                        }
                    }
                }
            }
            sums.iter_mut().flatten().flatten().for_each(|sum| *sum = q.reduce(*sum) as u64);
        }
        for (l, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(r, sums)| place.store(l, r, c, sums, out));
        }
    }
}

/// The same with the vectors written out: LLVM packs products of different rows into a vector
/// instead, which is eight times slower.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn tile_avx2<const L: usize, const R: usize>(
    q: &Modulus,
    a: &[[u32; BLOCK]],
    b: &[[u32; BLOCK]],
    depth: usize,
    place: &Place,
    out: &mut [u32],
) {
    let (a, b) = (&a.as_chunks::<L>().0[..depth], &b.as_chunks::<R>().0[..depth]);
    for c in (0..BLOCK).step_by(CR) {
        let mut sums = [[[0u64; CR]; R]; L];
        for (a, b) in a.chunks(DEPTH).zip(b.chunks(DEPTH)) {
            // Nothing but this loop touches the sums of a chunk, so they stay in registers.
            let mut acc = [[_mm256_setzero_si256(); R]; L];
            for (a, b) in a.iter().zip(b) {
                let a: [__m256i; L] = core::array::from_fn(|l| widened(&a[l], c));
                for r in 0..R {
                    let b = widened(&b[r], c);
                    for l in 0..L {
                        acc[l][r] = _mm256_add_epi64(acc[l][r], _mm256_mul_epu32(a[l], b));
                    }
                }
            }
            for l in 0..L {
                for r in 0..R {
                    let more = words(acc[l][r]);
                    // Below q and a reduced sum of at most 255 products of 56 bits: no overflow.
                    sums[l][r] = core::array::from_fn(|i| q.reduce(sums[l][r][i] + more[i]) as u64);
                }
            }
        }
        for (l, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(r, sums)| place.store(l, r, c, sums, out));
        }
    }
}

/// The same with a whole line in a vector; its odd columns have sums of their own, see
/// [`super::gemm`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn tile_avx512<const L: usize, const R: usize>(
    q: &Modulus,
    a: &[[u32; BLOCK]],
    b: &[[u32; BLOCK]],
    depth: usize,
    place: &Place,
    out: &mut [u32],
) {
    use super::vector::wide::*;
    let (a, b) = (&a.as_chunks::<L>().0[..depth], &b.as_chunks::<R>().0[..depth]);
    let (constants, zero) = (constants(q), splat(0));
    let mut sums = [[zero; R]; L];
    for (a, b) in a.chunks(DEPTH).zip(b.chunks(DEPTH)) {
        let mut acc = [[(zero, zero); R]; L];
        for (a, b) in a.iter().zip(b) {
            let a: [(V, V); L] = core::array::from_fn(|l| (load(&a[l]), odd_to_even(load(&a[l]))));
            for r in 0..R {
                let (even, odd) = (load(&b[r]), odd_to_even(load(&b[r])));
                for l in 0..L {
                    acc[l][r].0 = add64(acc[l][r].0, even_products(a[l].0, even));
                    acc[l][r].1 = add64(acc[l][r].1, even_products(a[l].1, odd));
                }
            }
        }
        for l in 0..L {
            for r in 0..R {
                // Canonical, plus less than 4q.
                let sum = add(sums[l][r], reduce(&constants, acc[l][r].0, acc[l][r].1));
                sums[l][r] = below(below(below(sum, constants.q4), constants.q2), constants.q);
            }
        }
    }
    for (l, sums) in sums.iter().enumerate() {
        for (r, &sum) in sums.iter().enumerate() {
            let row = (place.left + l) * place.right_rows + place.right + r;
            let out = out[row * place.n + place.column..].first_chunk_mut().expect("a block of a row");
            store(out, sum);
        }
    }
}

/// Four numbers of a line from `c` on, as 64-bit lanes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn widened(line: &[u32; BLOCK], c: usize) -> __m256i {
    let four: &[u32; CR] = line[c..].first_chunk().expect("c + 4 columns are in a block");
    // SAFETY: the pointer is to four 32-bit numbers, and the load needs no alignment.
    _mm256_cvtepu32_epi64(unsafe { _mm_loadu_si128(four.as_ptr().cast()) })
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn words(x: __m256i) -> [u64; CR] {
    let mut out = [0u64; CR];
    // SAFETY: the pointer is to four 64-bit numbers, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
    out
}
