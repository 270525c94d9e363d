//! Transposition of a 128 × 128 bit matrix, the inner step of IKNP.

/// Transposes in place: bit `j` of word `i` ↔ bit `i` of word `j`. Seven rounds of block swaps
/// (Hacker's Delight, §7-3).
pub(crate) fn transpose128(rows: &mut [u128; 128]) {
    swap_blocks::<64>(rows, 0x0000_0000_0000_0000_ffff_ffff_ffff_ffff);
    swap_blocks::<32>(rows, 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff);
    swap_blocks::<16>(rows, 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff);
    swap_blocks::<8>(rows, 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff);
    swap_blocks::<4>(rows, 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f);
    swap_blocks::<2>(rows, 0x3333_3333_3333_3333_3333_3333_3333_3333);
    swap_blocks::<1>(rows, 0x5555_5555_5555_5555_5555_5555_5555_5555);
}

/// Swaps the upper right with the lower left `W × W` block of every `2W × 2W` block.
#[inline(always)]
fn swap_blocks<const W: usize>(rows: &mut [u128; 128], low: u128) {
    for pair in rows.chunks_exact_mut(2 * W) {
        let (upper, lower) = pair.split_at_mut(W);
        for (a, b) in upper.iter_mut().zip(lower) {
            let t = ((*a >> W) ^ *b) & low;
            *b ^= t;
            *a ^= t << W;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        let mut x = 0x9e37_79b9_7f4a_7c15_u128;
        let mut rows = [0u128; 128];
        for row in &mut rows {
            x = x.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x1234_5678_9abc_def1);
            *row = x ^ (x >> 61);
        }
        let before = rows;
        transpose128(&mut rows);
        for (i, row) in rows.iter().enumerate() {
            for (j, old) in before.iter().enumerate() {
                assert_eq!(row >> j & 1, old >> i & 1);
            }
        }
    }
}
