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
            for row in &mut sums {
                for s in row {
                    *s = s.wrapping_add(*s as u32 as u64 * w as u64);
                }
            }
        }
        part.copy_from_slice(sums.as_flattened());
    }
}
