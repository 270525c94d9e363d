//! The local linear code: row `p` adds ten elements of the secret to output `p`.

use cryptogen_ring::kernels::FixedKey;

/// Elements of the secret's two parts. The numbers of terms are as these, so that all elements are
/// in equally many rows, and places are whole words of an AES block, less some bits.
const PARTS: [usize; 2] = [1 << 15, 1 << 13];
/// Elements of the secret.
pub(super) const SECRET: usize = PARTS[0] + PARTS[1];
/// Elements that a row adds, of the first part and in all.
const OF_FIRST: usize = 8;
const TERMS: usize = 10;
/// Rows whose places are in `TERMS` blocks of eight 16-bit words.
const ROWS: usize = 8;
/// Rows made at once: their places stay in the first-level cache.
const RUN: usize = 256;

/// Adds to every output, the rows from number `first` on, its terms of `secret`; numbers of rows
/// are multiples of 8. Which they are is public: it comes from the permutation of `code` and the
/// number of the row. Term `c` of row `8·g + r` is at the place that word `r` of block `10·g + c`
/// names, modulo `2^15` in the first part (`c < 8`) or modulo `2^13` in the second one.
pub(super) fn add(code: &FixedKey, secret: &[u128; SECRET], first: usize, outputs: &mut [u128]) {
    let (large, small) = secret.split_at(PARTS[0]);
    let large = large.try_into().expect("the first part");
    let small = small.try_into().expect("the second part");
    let mut blocks = [0u128; RUN / ROWS * TERMS];
    for (run, outputs) in outputs.chunks_mut(RUN).enumerate() {
        let start = (first + run * RUN) / ROWS * TERMS;
        blocks.iter_mut().enumerate().for_each(|(i, block)| *block = (start + i) as u128);
        code.mmo(&mut blocks);
        for (blocks, outputs) in blocks.as_chunks::<TERMS>().0.iter().zip(outputs.as_chunks_mut::<ROWS>().0) {
            let (lower, upper) = outputs.split_at_mut(ROWS / 2);
            add_half(large, small, &blocks.map(|block| block as u64), lower);
            add_half(large, small, &blocks.map(|block| (block >> 64) as u64), upper);
        }
    }
}

/// The rows whose places are in these halves of blocks.
#[inline(always)]
fn add_half(large: &[u128; PARTS[0]], small: &[u128; PARTS[1]], places: &[u64; TERMS], outputs: &mut [u128]) {
    let (of_large, of_small) = places.split_at(OF_FIRST);
    for (row, output) in outputs.iter_mut().enumerate() {
        let mut sum = *output;
        for place in of_large {
            sum ^= large[(place >> (16 * row)) as usize % PARTS[0]];
        }
        for place in of_small {
            sum ^= small[(place >> (16 * row)) as usize % PARTS[1]];
        }
        *output = sum;
    }
}
