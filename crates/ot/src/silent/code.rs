//! The local linear code: row `p` adds ten elements of the secret to output `p`.

use cryptogen_ring::kernels::FixedKey;

/// Elements of the secret.
pub(super) const SECRET: usize = 1 << 15;
/// Elements that a row adds.
const TERMS: usize = 10;
/// Rows whose places are in `TERMS` blocks of eight 16-bit words.
const ROWS: usize = 8;
/// Rows made at once: their places stay in the first-level cache.
const RUN: usize = 256;

/// Adds to every output, the rows from number `first` on, its terms of `secret`; numbers of rows
/// are multiples of 8. Which they are is public: it comes from the permutation of `code` and the
/// number of the row. Place `c` of row `8·g + r` is word `r` of block `10·g + c`, modulo 2^15.
pub(super) fn add(code: &FixedKey, secret: &[u128; SECRET], first: usize, outputs: &mut [u128]) {
    let mut blocks = [0u128; RUN / ROWS * TERMS];
    for (run, outputs) in outputs.chunks_mut(RUN).enumerate() {
        let start = (first + run * RUN) / ROWS * TERMS;
        blocks.iter_mut().enumerate().for_each(|(i, block)| *block = (start + i) as u128);
        code.mmo(&mut blocks);
        for (blocks, outputs) in blocks.as_chunks::<TERMS>().0.iter().zip(outputs.as_chunks_mut::<ROWS>().0) {
            let (lower, upper) = outputs.split_at_mut(ROWS / 2);
            add_half(secret, &blocks.map(|block| block as u64), lower);
            add_half(secret, &blocks.map(|block| (block >> 64) as u64), upper);
        }
    }
}

/// The rows whose places are in these halves of blocks.
#[inline(always)]
fn add_half(secret: &[u128; SECRET], places: &[u64; TERMS], outputs: &mut [u128]) {
    for (row, output) in outputs.iter_mut().enumerate() {
        let mut sum = *output;
        for place in places {
            sum ^= secret[(place >> (16 * row)) as usize % SECRET];
        }
        *output = sum;
    }
}
