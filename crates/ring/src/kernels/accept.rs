//! Rejection sampling of residues.

use super::Isa;

/// Words that are taken at once.
const GROUP: usize = 16;

/// Shifts every word right by `spare_bits`, and writes those below `q` to `out`, in order, until it
/// is full. Returns how many. What is rejected shows in the time: only for public randomness.
pub fn accept(q: u32, spare_bits: u32, words: &[u8], out: &mut [u32]) -> usize {
    accept_on(Isa::best(), q, spare_bits, words, out)
}

/// The same by a given variant (portable if the machine lacks it), for tests and measurements.
pub fn accept_on(isa: Isa, q: u32, spare_bits: u32, words: &[u8], out: &mut [u32]) -> usize {
    assert!(spare_bits < 32, "no such shift");
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && isa.is_available() {
        // SAFETY: the features were detected on this machine.
        return unsafe { avx512(q, spare_bits, words, out) };
    }
    let _ = isa;
    portable(q, spare_bits, words, out)
}

fn portable(q: u32, spare_bits: u32, words: &[u8], out: &mut [u32]) -> usize {
    let mut n = 0;
    for group in words.as_chunks::<4>().0.chunks(GROUP) {
        // Every word is written, and counts if it is accepted: while there is room, nothing need be
        // predicted.
        match out[n..].first_chunk_mut::<GROUP>() {
            Some(out) => {
                let mut accepted = 0;
                for word in group {
                    let word = u32::from_le_bytes(*word) >> spare_bits;
                    out[accepted] = word;
                    accepted += (word < q) as usize;
                }
                n += accepted;
            }
            None => {
                let words = group.iter().map(|word| u32::from_le_bytes(*word) >> spare_bits);
                for (out, word) in out[n..].iter_mut().zip(words.filter(|word| *word < q)) {
                    *out = word;
                    n += 1;
                }
            }
        }
    }
    n
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(q: u32, spare_bits: u32, words: &[u8], out: &mut [u32]) -> usize {
    use super::vector::wide::{load_bytes, splat, store};
    use core::arch::x86_64::{
        _mm512_cmplt_epu32_mask, _mm512_maskz_compress_epi32, _mm512_srl_epi32, _mm_cvtsi32_si128,
    };
    let (modulus, shift) = (splat(q), _mm_cvtsi32_si128(spare_bits as i32));
    let (mut n, mut done) = (0, 0);
    for group in words.as_chunks::<{ 4 * GROUP }>().0 {
        let Some(out) = out[n..].first_chunk_mut::<GROUP>() else { break };
        let words = _mm512_srl_epi32(load_bytes(group), shift);
        let accepted = _mm512_cmplt_epu32_mask(words, modulus);
        store(out, _mm512_maskz_compress_epi32(accepted, words));
        n += accepted.count_ones() as usize;
        done += group.len();
    }
    n + portable(q, spare_bits, &words[done..], &mut out[n..])
}
