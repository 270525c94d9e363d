//! What multiply-adds can reach at most on this machine.

/// Elements of a chain: 12 vectors of the widest variant.
pub const CHAIN: usize = 96;

/// `ROWS × LANES` elements are a dozen vectors of a variant: enough to hide the latency, few enough
/// to stay in registers.
#[inline(always)]
pub(super) fn multiply_add<const ROWS: usize, const LANES: usize>(acc: &mut [u64; CHAIN], w: u32, n: usize) {
    for part in acc.chunks_exact_mut(ROWS * LANES) {
        let mut sums = [[0u64; LANES]; ROWS];
        sums.as_flattened_mut().copy_from_slice(part);
        for _ in 0..n {
            for row in &mut sums {
                for s in row {
                    *s = s.wrapping_add(*s as u32 as u64 * w as u64);
                }
            }
        }
        part.copy_from_slice(sums.as_flattened());
    }
}

/// The same with the vectors written out: LLVM keeps only some of 12 wide ones in registers, and
/// the limit would be that of spills.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn multiply_add_avx512(acc: &mut [u64; CHAIN], w: u32, n: usize) {
    use super::vector::wide::{add64, even_products, load64, splat, store64};
    let (parts, w) = (acc.as_chunks_mut::<8>().0, splat(w));
    let mut sums: [_; CHAIN / 8] = core::array::from_fn(|i| load64(&parts[i]));
    for _ in 0..n {
        for s in &mut sums {
            *s = add64(*s, even_products(*s, w));
        }
    }
    parts.iter_mut().zip(sums).for_each(|(part, s)| store64(part, s));
}
