//! Products over `GF(2)[x]`, for hashes that are linear over bits: polynomials of degree below 128
//! as numbers, bit `i` the coefficient of `x^i`.

#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;

use super::Isa;

/// Adds to each of `sums` the product of its word with `factor`, not reduced: low and high half.
pub fn carryless_multiply_add(words: &[u128], factor: u128, sums: &mut [[u128; 2]]) {
    carryless_multiply_add_on(Isa::best(), words, factor, sums);
}

/// The same by a given variant (portable if the machine lacks the instruction), for tests.
pub fn carryless_multiply_add_on(isa: Isa, words: &[u128], factor: u128, sums: &mut [[u128; 2]]) {
    #[cfg(target_arch = "x86_64")]
    if isa > Isa::Portable && is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the feature was detected on this machine.
        return unsafe { x86::multiply_add(words, factor, sums) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    let halves = |x: u128| [x as u64, (x >> 64) as u64];
    let [f0, f1] = halves(factor);
    for (word, [low, high]) in words.iter().zip(sums) {
        let [w0, w1] = halves(*word);
        let middle = multiply(w0, f1) ^ multiply(w1, f0);
        *low ^= multiply(w0, f0) ^ middle << 64;
        *high ^= multiply(w1, f1) ^ middle >> 64;
    }
}

/// A product modulo `x^128 + x^7 + x^2 + x + 1`: an element of the field of `2^128` elements.
pub fn carryless_reduce([low, high]: [u128; 2]) -> u128 {
    let folded = |x: u128| x ^ x << 1 ^ x << 2 ^ x << 7;
    // What the shifts above push out at the top, at most 7 bits.
    let out = high >> 127 ^ high >> 126 ^ high >> 121;
    low ^ folded(high) ^ folded(out)
}

/// One product of 64-bit polynomials, in constant time by integer products: of the bits whose
/// places are equal modulo 5 at most 13 are set, so the sums of at most 13 ones at a place never
/// reach the next place of the same class, 5 bits above.
fn multiply(a: u64, b: u64) -> u128 {
    const CLASS: u128 = 0x2108_4210_8421_0842_1084_2108_4210_8421;
    let class = |x: u64, i: usize| u128::from(x) & CLASS << i;
    let mut sums = [0u128; 5];
    for i in 0..5 {
        for j in 0..5 {
            sums[(i + j) % 5] ^= class(a, i) * class(b, j);
        }
    }
    sums.into_iter().enumerate().fold(0, |all, (i, sum)| all | sum & CLASS << i)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::*;

    use super::super::aes::x86::block;

    #[target_feature(enable = "pclmulqdq")]
    pub(super) fn multiply_add(words: &[u128], factor: u128, sums: &mut [[u128; 2]]) {
        let factor = block(factor);
        for (word, [low, high]) in words.iter().zip(sums) {
            let word = load(word);
            let middle = _mm_xor_si128(
                _mm_clmulepi64_si128::<0x01>(word, factor),
                _mm_clmulepi64_si128::<0x10>(word, factor),
            );
            let below =
                _mm_xor_si128(_mm_clmulepi64_si128::<0x00>(word, factor), _mm_slli_si128::<8>(middle));
            let above =
                _mm_xor_si128(_mm_clmulepi64_si128::<0x11>(word, factor), _mm_srli_si128::<8>(middle));
            add(low, below);
            add(high, above);
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(word: &u128) -> __m128i {
        // SAFETY: sixteen readable bytes; no alignment is asked for.
        unsafe { _mm_loadu_si128(core::ptr::from_ref(word).cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn add(sum: &mut u128, term: __m128i) {
        let value = _mm_xor_si128(load(sum), term);
        // SAFETY: sixteen writable bytes; no alignment is asked for.
        unsafe { _mm_storeu_si128(core::ptr::from_mut(sum).cast(), value) }
    }
}
