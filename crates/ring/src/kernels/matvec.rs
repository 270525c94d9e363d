//! The online linear layer: weights of 16 bits, or 8, times field elements. `x = lo + 2^32·hi` with
//! signed 32-bit halves, so a product is at most `2^46`, and fewer than `2^17` of them fit a 64-bit
//! accumulator.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::field::{Fp, P};

/// Longest row whose sums provably fit: of a vocabulary of 131 071 tokens.
pub const MAX_D_IN: usize = (1 << 17) - 1;
/// Inputs that share one pass over a row of weights.
const TILE: usize = 4;

/// `T` input vectors of length `d_in`, split in signed halves. Wiped on drop: the input may be a
/// share.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SplitInput {
    d_in: usize,
    lo: Vec<i32>,
    hi: Vec<i32>,
}

impl SplitInput {
    /// From `[T][d_in]` row-major; panics unless `0 < d_in < 2^17` divides the length.
    pub fn new(x: &[Fp], d_in: usize) -> SplitInput {
        assert!(
            0 < d_in && d_in <= MAX_D_IN && x.len().is_multiple_of(d_in),
            "{} values are not rows of {d_in}",
            x.len()
        );
        let (lo, hi) = x.iter().map(|&x| split(x)).unzip();
        SplitInput { d_in, lo, hi }
    }

    /// `T`.
    pub fn count(&self) -> usize {
        self.lo.len() / self.d_in
    }
}

/// `x ≡ lo + 2^32·hi`. The representative is taken in `[−(p+1)/2, (p−3)/2]`, for which `hi` cannot
/// overflow.
#[inline(always)]
fn split(x: Fp) -> (i32, i32) {
    let x = x.value();
    let signed = if x >= P / 2 { x.wrapping_sub(P) } else { x } as i64;
    let lo = signed as i32;
    (lo, ((signed - lo as i64) >> 32) as i32)
}

#[inline(always)]
pub(super) fn rows<W: Copy + Into<i64>>(w: &[W], x: &SplitInput, out: &mut [Fp]) {
    let (d_in, count) = (x.d_in, x.count());
    let rows = w.len() / d_in;
    assert!(w.len() == rows * d_in && out.len() == rows * count, "matrix shapes disagree");
    if count == 0 {
        return;
    }
    for (row, y) in w.chunks_exact(d_in).zip(out.chunks_exact_mut(count)) {
        let mut t = 0;
        while t + TILE <= count {
            y[t..t + TILE].copy_from_slice(&dots::<W, TILE>(row, x, t));
            t += TILE;
        }
        while t < count {
            y[t] = dots::<W, 1>(row, x, t)[0];
            t += 1;
        }
    }
}

#[inline(always)]
fn dots<W: Copy + Into<i64>, const T: usize>(row: &[W], x: &SplitInput, first: usize) -> [Fp; T] {
    let n = row.len();
    let lo: [&[i32]; T] = core::array::from_fn(|t| &x.lo[(first + t) * n..(first + t + 1) * n]);
    let hi: [&[i32]; T] = core::array::from_fn(|t| &x.hi[(first + t) * n..(first + t + 1) * n]);
    let (mut lo_sum, mut hi_sum) = ([0i64; T], [0i64; T]);
    for (i, &w) in row.iter().enumerate() {
        let w: i64 = w.into();
        for t in 0..T {
            lo_sum[t] += w * lo[t][i] as i64;
            hi_sum[t] += w * hi[t][i] as i64;
        }
    }
    core::array::from_fn(|t| Fp::from_i128(lo_sum[t] as i128 + ((hi_sum[t] as i128) << 32)))
}
