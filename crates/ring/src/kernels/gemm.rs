//! Integer matrix product modulo a 28-bit prime: a few tiles of `CR` columns of `x` are packed for
//! the caches (rows of `x` often lie a multiple of the page size apart and would evict each other),
//! four rows of `w` are multiplied with a tile in registers. Products have 56 bits, so 255 of them
//! fit a 64-bit accumulator.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::modulus::Modulus;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

const MR: usize = 4;
const DEPTH: usize = 255;
const TILES: usize = 8;

#[inline(always)]
pub(super) fn gemm<const CR: usize>(q: &Modulus, w: &[u32], x: &[&[u32]], out: &mut [u32], stride: usize) {
    let k = x.len();
    if k == 0 {
        return;
    }
    let (rows, columns) = (check(w, x, out, stride), x[0].len());
    let most = DEPTH.min(k);
    let mut panel = vec![[0u32; CR]; TILES * most];
    for c0 in (0..columns).step_by(TILES * CR) {
        for k0 in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - k0);
            pack(&x[k0..k0 + depth], c0, &mut panel, most);
            for (tile, c) in (c0..columns).step_by(CR).take(TILES).enumerate() {
                let x = &panel[tile * most..tile * most + depth];
                let width = CR.min(columns - c);
                let mut m = 0;
                while m + MR <= rows {
                    let acc = products::<MR, CR>(&w[m * k + k0..], k, x);
                    store(q, &acc, &mut out[m * stride + c..], stride, width);
                    m += MR;
                }
                while m < rows {
                    let acc = products::<1, CR>(&w[m * k + k0..], k, x);
                    store(q, &acc, &mut out[m * stride + c..], stride, width);
                    m += 1;
                }
            }
        }
    }
}

/// The number of rows, if the shapes fit; panics otherwise.
#[inline(always)]
fn check(w: &[u32], x: &[&[u32]], out: &[u32], stride: usize) -> usize {
    let (rows, columns) = (w.len() / x.len(), x[0].len());
    assert!(w.len() == rows * x.len() && x.iter().all(|r| r.len() == columns), "matrix shapes disagree");
    assert!(
        columns <= stride && (rows == 0 || out.len() >= (rows - 1) * stride + columns),
        "output too short"
    );
    rows
}

/// Copies `CR` columns from `c0` on, and the next ones, into tiles of `most` rows.
#[inline(always)]
fn pack<const CR: usize>(x: &[&[u32]], c0: usize, panel: &mut [[u32; CR]], most: usize) {
    for (j, row) in x.iter().enumerate() {
        for (tile, part) in row[c0..].chunks(CR).take(TILES).enumerate() {
            // A copy of constant length is a few moves, any other a call.
            match part.first_chunk::<CR>() {
                Some(full) => panel[tile * most + j] = *full,
                None => panel[tile * most + j][..part.len()].copy_from_slice(part),
            }
        }
    }
}

/// `R × CR` sums over the depth of the tile; row `r` of the weights starts at `r·k`.
#[inline(always)]
fn products<const R: usize, const CR: usize>(w: &[u32], k: usize, panel: &[[u32; CR]]) -> [[u64; CR]; R] {
    let mut acc = [[0u64; CR]; R];
    let rows: [&[u32]; R] = core::array::from_fn(|r| &w[r * k..r * k + panel.len()]);
    for (i, x) in panel.iter().enumerate() {
        for r in 0..R {
            let factor = rows[r][i] as u64;
            for c in 0..CR {
                acc[r][c] += factor * x[c] as u64;
            }
        }
    }
    acc
}

/// `out[i] += constant + Σ_j w[j]·x[j][i] mod q` for a handful of rows: nothing is worth packing.
#[inline(always)]
pub(super) fn weighted_sum<const CR: usize>(
    q: &Modulus,
    w: &[u32],
    x: &[&[u32]],
    constant: u32,
    out: &mut [u32],
) {
    assert!(w.len() == x.len() && x.len() <= 15 && x.iter().all(|r| r.len() == out.len()), "shapes disagree");
    let whole = out.len() / CR * CR;
    for start in (0..whole).step_by(CR) {
        let mut acc = [constant as u64; CR];
        for (&w, row) in w.iter().zip(x) {
            let row: &[u32; CR] = row[start..].first_chunk().expect("within the whole chunks");
            for c in 0..CR {
                acc[c] += w as u64 * row[c] as u64;
            }
        }
        let y: &mut [u32; CR] = out[start..].first_chunk_mut().expect("within the whole chunks");
        for c in 0..CR {
            y[c] = q.reduce(acc[c] + y[c] as u64);
        }
    }
    weighted_rest(q, w, x, constant, &mut out[whole..], whole);
}

/// The elements of [`weighted_sum`] from `whole` on.
fn weighted_rest(q: &Modulus, w: &[u32], x: &[&[u32]], constant: u32, out: &mut [u32], whole: usize) {
    for (i, out) in out.iter_mut().enumerate() {
        let sum: u64 = w.iter().zip(x).map(|(&w, row)| w as u64 * row[whole + i] as u64).sum();
        *out = q.reduce(sum + constant as u64 + *out as u64);
    }
}

/// Columns of the rows that are summed at a time: the sums stay in the first-level cache, and every
/// row is read in pieces long enough for the hardware to fetch ahead (rows lie a multiple of the
/// page size apart, so reading all of them abreast is slow).
const BLOCK: usize = 512;

#[inline(always)]
pub(super) fn multiply_sum(q: &Modulus, x: &[&[u32]], y: [&[&[u32]]; 2], out: [&mut [u32]; 2]) {
    let [out0, out1] = out;
    let n = out0.len();
    check_sums(x, y, n, out1.len());
    let mut sums = [[0u64; BLOCK]; 2];
    for start in (0..n).step_by(BLOCK) {
        let width = BLOCK.min(n - start);
        sums.iter_mut().for_each(|s| s[..width].fill(0));
        for (i, x) in x.iter().enumerate() {
            // A product has 56 bits; what is left after a reduction is one summand more.
            if i > 0 && i % DEPTH == 0 {
                sums.iter_mut().flatten().for_each(|s| *s = q.reduce(*s) as u64);
            }
            let x = &x[start..start + width];
            for (sums, y) in sums.iter_mut().zip(y) {
                for ((s, &x), &y) in sums.iter_mut().zip(x).zip(&y[i][start..start + width]) {
                    *s += x as u64 * y as u64;
                }
            }
        }
        for (out, sums) in [&mut *out0, &mut *out1].into_iter().zip(&sums) {
            for (o, &s) in out[start..start + width].iter_mut().zip(sums) {
                *o = q.reduce(s);
            }
        }
    }
}

/// Panics unless every row and both outputs are of one length.
fn check_sums(x: &[&[u32]], y: [&[&[u32]]; 2], n: usize, other: usize) {
    assert!(other == n && x.len() == y[0].len() && x.len() == y[1].len(), "shapes disagree");
    assert!(x.iter().chain(y[0]).chain(y[1]).all(|r| r.len() == n), "lengths disagree");
}

#[inline(always)]
pub(super) fn rounded_sum<const CR: usize>(w: &[u32], x: &[&[u32]], shift: u32, out: &mut [u32]) {
    assert!(w.len() == x.len() && x.iter().all(|r| r.len() == out.len()), "shapes disagree");
    assert!((1..=60).contains(&shift), "no such shift");
    let half = 1u64 << (shift - 1);
    let whole = out.len() / CR * CR;
    for start in (0..whole).step_by(CR) {
        let mut acc = [half; CR];
        for (&w, row) in w.iter().zip(x) {
            let row: &[u32; CR] = row[start..].first_chunk().expect("within the whole chunks");
            for c in 0..CR {
                acc[c] += w as u64 * row[c] as u64;
            }
        }
        for c in 0..CR {
            out[start + c] = (acc[c] >> shift) as u32;
        }
    }
    rounded_rest(w, x, shift, &mut out[whole..], whole);
}

/// The elements of [`rounded_sum`] from `whole` on.
fn rounded_rest(w: &[u32], x: &[&[u32]], shift: u32, out: &mut [u32], whole: usize) {
    for (i, out) in out.iter_mut().enumerate() {
        let sum: u64 = w.iter().zip(x).map(|(&w, row)| w as u64 * row[whole + i] as u64).sum();
        *out = ((sum + (1 << (shift - 1))) >> shift) as u32;
    }
}

#[inline(always)]
fn store<const R: usize, const CR: usize>(
    q: &Modulus,
    acc: &[[u64; CR]; R],
    out: &mut [u32],
    stride: usize,
    width: usize,
) {
    for (r, sums) in acc.iter().enumerate() {
        let row = &mut out[r * stride..r * stride + width];
        if let Ok(row) = <&mut [u32; CR]>::try_from(&mut *row) {
            for c in 0..CR {
                row[c] = q.reduce(sums[c] + row[c] as u64);
            }
        } else {
            for (y, &s) in row.iter_mut().zip(sums) {
                *y = q.reduce(s + *y as u64);
            }
        }
    }
}
