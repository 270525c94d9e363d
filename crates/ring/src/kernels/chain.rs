//! What multiply-adds can reach at most on this machine.

/// Elements of a chain: 12 vectors of the widest variant.
pub const CHAIN: usize = 96;

/// `ROWS × LANES` elements are a dozen vectors of a variant: enough to hide the latency, few enough to stay in registers.
#[inline(always)]
pub(super) fn multiply_add<const ROWS: usize, const LANES: usize>(acc: &mut [u64; CHAIN], w: u32, n: usize) {
    for part in acc.chunks_exact_mut(ROWS * LANES) {
        let mut sums = [[0u64; LANES]; ROWS];
        sums.as_flattened_mut().copy_from_slice(part);
        for _ in 0..n {
            for r in 0..ROWS {
                for lane in 0..LANES {
                    let low = sums[r][lane] as u32;
                    sums[r][lane] = sums[r][lane].wrapping_add(low as u64 * w as u64);
                }
            }
        }
        part.copy_from_slice(sums.as_flattened());
    }
}
