//! AES-256 in counter mode, the stream that seeds are expanded to.
//!
//! Portable: the `aes` crate (which uses the AES instructions where they exist). With VAES, two or
//! four blocks share an instruction.

#[cfg(target_arch = "x86_64")]
mod x86;

use aes::cipher::{generic_array::GenericArray, BlockEncrypt, KeyInit};
use aes::Aes256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Isa;

/// Bytes of a block.
const BLOCK: usize = 16;
/// Blocks worked on at once by the portable variant.
const CHUNK: usize = 64;

/// A secret key of the stream `AES-256(0) ‖ AES-256(1) ‖ …`, counters little-endian. Wiped on drop.
pub struct CounterKey(Schedule);

/// The cipher of the crate, which wipes itself (its feature `zeroize`), or round keys for vectors
/// of a width.
// One per generator: an indirection would cost more than the bytes.
#[allow(clippy::large_enum_variant)]
enum Schedule {
    Portable(Aes256),
    #[cfg(target_arch = "x86_64")]
    Vectors(Isa, [u128; 15]),
}

impl CounterKey {
    /// The schedule of `key`.
    pub fn new(key: &[u8; 32]) -> CounterKey {
        CounterKey::new_on(Isa::best(), key)
    }

    /// The same for a given variant (portable if the machine lacks it), for tests and measurements.
    pub fn new_on(isa: Isa, key: &[u8; 32]) -> CounterKey {
        #[cfg(target_arch = "x86_64")]
        if isa != Isa::Portable && x86::available(isa) {
            return CounterKey(Schedule::Vectors(isa, x86::round_keys(key)));
        }
        let _ = isa;
        CounterKey(Schedule::Portable(Aes256::new(GenericArray::from_slice(key))))
    }

    /// Overwrites `out` with the blocks from `counter` on. Panics unless they are whole.
    pub fn fill(&self, counter: u64, out: &mut [u8]) {
        assert!(out.len().is_multiple_of(BLOCK), "no whole number of blocks");
        match &self.0 {
            Schedule::Portable(cipher) => portable(cipher, counter, out),
            #[cfg(target_arch = "x86_64")]
            Schedule::Vectors(isa, keys) => x86::fill(*isa, keys, counter, out),
        }
    }
}

fn portable(cipher: &Aes256, counter: u64, out: &mut [u8]) {
    let mut blocks = [GenericArray::from([0u8; BLOCK]); CHUNK];
    for (i, out) in out.chunks_mut(BLOCK * CHUNK).enumerate() {
        let blocks = &mut blocks[..out.len() / BLOCK];
        for (j, block) in blocks.iter_mut().enumerate() {
            block.fill(0);
            block[..8].copy_from_slice(&counter.wrapping_add((i * CHUNK + j) as u64).to_le_bytes());
        }
        cipher.encrypt_blocks(blocks);
        out.chunks_exact_mut(BLOCK).zip(blocks.iter()).for_each(|(out, block)| out.copy_from_slice(block));
    }
    blocks.iter_mut().for_each(|block| block.as_mut_slice().zeroize());
}

impl Drop for CounterKey {
    fn drop(&mut self) {
        match &mut self.0 {
            Schedule::Portable(_) => {}
            #[cfg(target_arch = "x86_64")]
            Schedule::Vectors(_, keys) => keys.zeroize(),
        }
    }
}

impl ZeroizeOnDrop for CounterKey {}
