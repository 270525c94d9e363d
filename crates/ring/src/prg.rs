//! Seeds and the pseudorandom generator they are expanded with: AES-256 in counter mode. Child
//! seeds come from HMAC-SHA-256 over a label and an index, so that one session seed gives
//! independent streams.

use core::num::Wrapping;

use hmac::{Hmac, Mac};
use rand_core::{CryptoRng, RngCore};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::field::{Fp, P};
use crate::kernels::CounterKey;
use crate::word::Word;

/// A 256-bit secret seed. Wiped on drop; deliberately neither `Debug` nor `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A fresh seed.
    pub fn random(rng: &mut (impl RngCore + CryptoRng)) -> Seed {
        let mut seed = Seed([0; 32]);
        rng.fill_bytes(&mut seed.0);
        seed
    }

    /// A seed from 32 bytes that are already uniform.
    pub fn from_bytes(bytes: [u8; 32]) -> Seed {
        Seed(bytes)
    }

    /// The bytes, for sending a seed that the other party is meant to have.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The child seed `HMAC-SHA-256(self, index ‖ label)`; different `(label, index)` give
    /// independent children.
    pub fn derive(&self, label: &str, index: u64) -> Seed {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&index.to_le_bytes());
        mac.update(label.as_bytes());
        let mut tag = mac.finalize().into_bytes();
        let mut child = Seed([0; 32]);
        child.0.copy_from_slice(&tag);
        tag.as_mut_slice().zeroize();
        child
    }
}

const BLOCK: usize = 16;
/// Blocks per refill: enough for the AES pipeline, small enough for the first-level cache.
const BLOCKS: usize = 64;
const BUFFER: usize = BLOCK * BLOCKS;

/// The stream `AES-256_seed(0) ‖ AES-256_seed(1) ‖ …`. Deterministic and the same on every machine.
pub struct Prg {
    key: CounterKey,
    counter: u64,
    buffer: [u8; BUFFER],
    used: usize,
}

impl Prg {
    /// The stream of `seed`, from its beginning.
    pub fn new(seed: &Seed) -> Prg {
        Prg { key: CounterKey::new(&seed.0), counter: 0, buffer: [0; BUFFER], used: BUFFER }
    }

    /// Fills `out` with independent uniform field elements (rejection of the `2^32 − 1` values
    /// above `p`).
    pub fn fill_fp(&mut self, out: &mut [Fp]) {
        let mut filled = 0;
        while filled < out.len() {
            if BUFFER - self.used < 8 {
                self.refill();
            }
            // Nearly always all of them are below p.
            let (words, out8) =
                (self.buffer[self.used..].first_chunk::<64>(), out[filled..].first_chunk_mut::<8>());
            if let (Some(words), Some(out)) = (words, out8) {
                let words = core::array::from_fn::<_, 8, _>(|i| u64::from_le_bytes(words.as_chunks().0[i]));
                if words.iter().fold(true, |below, word| below & (*word < P)) {
                    *out = words.map(Fp::new);
                    (self.used, filled) = (self.used + 64, filled + 8);
                    continue;
                }
            }
            for word in self.buffer[self.used..].chunks_exact(8).take((out.len() - filled).min(8)) {
                self.used += 8;
                let value = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
                if value < P {
                    out[filled] = Fp::new(value);
                    filled += 1;
                }
            }
        }
    }

    /// `n` independent uniform field elements.
    pub fn fp_vec(&mut self, n: usize) -> Vec<Fp> {
        let mut out = vec![Fp::ZERO; n];
        self.fill_fp(&mut out);
        out
    }

    /// Fills `out` with independent uniform integers modulo `2^64`.
    pub fn fill_words(&mut self, out: &mut [Word]) {
        let mut bytes = [0; 1024];
        for out in out.chunks_mut(bytes.len() / 8) {
            let bytes = &mut bytes[..8 * out.len()];
            self.fill_bytes(bytes);
            for (word, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *word = Wrapping(u64::from_le_bytes(*bytes));
            }
        }
        bytes.zeroize();
    }

    /// `n` independent uniform integers modulo `2^64`.
    pub fn word_vec(&mut self, n: usize) -> Vec<Word> {
        let mut out = vec![Word::default(); n];
        self.fill_words(&mut out);
        out
    }

    /// Overwrites the buffer with the next blocks; bytes left in it are dropped.
    fn refill(&mut self) {
        self.key.fill(self.counter, &mut self.buffer);
        self.counter += BLOCKS as u64;
        self.used = 0;
    }
}

impl RngCore for Prg {
    fn next_u32(&mut self) -> u32 {
        let mut word = [0; 4];
        self.fill_bytes(&mut word);
        u32::from_le_bytes(word)
    }

    fn next_u64(&mut self) -> u64 {
        let mut word = [0; 8];
        self.fill_bytes(&mut word);
        u64::from_le_bytes(word)
    }

    fn fill_bytes(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.used == BUFFER {
                // Whole buffers go straight to their place.
                let (whole, later) = out.split_at_mut(out.len() / BUFFER * BUFFER);
                self.key.fill(self.counter, whole);
                self.counter += (whole.len() / BLOCK) as u64;
                out = later;
                if out.is_empty() {
                    return;
                }
                self.refill();
            }
            let n = out.len().min(BUFFER - self.used);
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&self.buffer[self.used..self.used + n]);
            self.used += n;
            out = later;
        }
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Prg {}

// The key wipes itself.
impl Drop for Prg {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes::cipher::{generic_array::GenericArray, BlockEncrypt, KeyInit};
    use aes::Aes256;

    #[test]
    fn streams_are_reproducible_and_in_order() {
        let seed = Seed::from_bytes([7; 32]);
        let mut whole = vec![0; 5000];
        Prg::new(&seed).fill_bytes(&mut whole);
        let mut pieces = Prg::new(&seed);
        for chunk in whole.chunks(37) {
            let mut got = vec![0; chunk.len()];
            pieces.fill_bytes(&mut got);
            assert_eq!(got, chunk);
        }
    }

    #[test]
    fn known_answer_of_aes_256() {
        // FIPS 197 appendix C.3 key; the block is the little-endian counter 0.
        let mut key = [0; 32];
        key.iter_mut().enumerate().for_each(|(i, k)| *k = i as u8);
        let mut expected = GenericArray::from([0u8; 16]);
        Aes256::new(GenericArray::from_slice(&key)).encrypt_block(&mut expected);
        let mut got = [0; 16];
        Prg::new(&Seed::from_bytes(key)).fill_bytes(&mut got);
        assert_eq!(got, expected.as_slice());
        assert_eq!(got[..4], [0xf2, 0x90, 0x00, 0xb6]);
    }

    #[test]
    fn field_elements_survive_odd_positions() {
        let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
        prg.next_u32();
        let v = prg.fp_vec(10_000);
        assert!(v.iter().all(|x| x.value() < P));
        let mean = v.iter().map(|x| x.value() as f64).sum::<f64>() / 10_000.0 / P as f64;
        assert!((mean - 0.5).abs() < 0.02);
    }

    #[test]
    fn children_differ() {
        let seed = Seed::from_bytes([9; 32]);
        let base = *seed.derive("a", 0).expose();
        assert_ne!(base, *seed.derive("a", 1).expose());
        assert_ne!(base, *seed.derive("b", 0).expose());
        assert_eq!(base, *seed.derive("a", 0).expose());
    }
}
