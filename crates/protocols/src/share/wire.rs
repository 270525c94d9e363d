//! Online messages, one-time padded by construction.
//!
//! What the public ways into an [`Opening`] take, they subtract a fresh mask from. Inside this
//! crate it also takes what was padded before: arguments of look-ups, fine values and guards, all
//! less a payload share, and rotations.
//!
//! Online messages that no `Opening` builds: logits and range events (`online/logits.rs`), which
//! the client learns by design; ciphertexts of the paper's protocols.

use cryptogen_party::Channel;
use cryptogen_ring::word::{words_from_bytes, words_to_bytes};
use cryptogen_ring::{exponential, fp_from_bytes, Fp, Word};

use crate::error::{ProtocolError, Result};

/// A message under construction. Nothing goes in from outside this crate but a share minus a mask:
///
/// ```compile_fail,E0624
/// use cryptogen_protocols::share::Opening;
/// fn leak(share: &[cryptogen_ring::Fp]) { Opening::new().differences(share); }
/// ```
/// ```compile_fail,E0616
/// use cryptogen_protocols::share::Opening;
/// fn leak(share: &[u8]) { Opening::new().bytes.extend_from_slice(share); }
/// ```
#[derive(Default)]
pub struct Opening {
    bytes: Vec<u8>,
}

impl Opening {
    /// An empty message.
    pub fn new() -> Opening {
        Opening::default()
    }

    /// Appends `share − mask`, element-wise. Masks come from a row's material and are used for this
    /// one message.
    pub fn masked(&mut self, share: &[Fp], mask: &[Fp]) -> &mut Opening {
        debug_assert_eq!(share.len(), mask.len());
        self.bytes.reserve(share.len() * 8);
        for (x, m) in share.iter().zip(mask) {
            self.bytes.extend_from_slice(&(*x - *m).to_le_bytes());
        }
        self
    }

    /// The same modulo `2^64`.
    pub fn masked_words(&mut self, share: &[Word], mask: &[Word]) -> &mut Opening {
        debug_assert_eq!(share.len(), mask.len());
        self.bytes.reserve(share.len() * 8);
        for (x, m) in share.iter().zip(mask) {
            self.bytes.extend_from_slice(&(*x - *m).0.to_le_bytes());
        }
        self
    }

    /// Appends `share − mask` of numbers that are shared modulo each of the first `primes` primes
    /// of A9, `[n][primes]`.
    pub fn masked_residues(&mut self, primes: usize, share: &[u64], mask: &[u64]) -> &mut Opening {
        debug_assert_eq!(share.len(), mask.len());
        self.bytes.reserve(share.len() * 8);
        for (x, m) in share.chunks_exact(primes).zip(mask.chunks_exact(primes)) {
            for (prime, (x, m)) in x.iter().zip(m).enumerate() {
                self.bytes.extend_from_slice(&exponential::subtract(prime, *x, *m).to_le_bytes());
            }
        }
        self
    }

    /// Appends already masked differences (table arguments, whose masks are table payloads).
    pub(crate) fn differences(&mut self, d: &[Word]) -> &mut Opening {
        self.bytes.extend_from_slice(&words_to_bytes(d));
        self
    }

    /// Appends table rotations `index − α mod 2^k` (already masked by the key's secret `α`).
    pub(crate) fn rotations(&mut self, d: &[u32]) -> &mut Opening {
        for x in d {
            self.bytes.extend_from_slice(&(*x as u16).to_le_bytes());
        }
        self
    }

    /// Appends another message's content.
    pub(crate) fn append(&mut self, mut other: Opening) -> &mut Opening {
        self.bytes.append(&mut other.bytes);
        self
    }

    /// Sends the message.
    pub fn send(self, channel: &mut dyn Channel) -> Result<()> {
        Ok(channel.send(&self.bytes)?)
    }
}

/// A received message, read front to back.
pub struct Opened {
    bytes: Vec<u8>,
    at: usize,
}

impl Opened {
    /// Receives a message of `words` numbers of 8 bytes (field elements, integers modulo `2^64`,
    /// residues of A9) and `rotations` table rotations.
    pub fn recv(channel: &mut dyn Channel, words: usize, rotations: usize) -> Result<Opened> {
        Opened::recv_bytes(channel, 8 * words + 2 * rotations)
    }

    /// Receives a message of `n` bytes.
    pub(crate) fn recv_bytes(channel: &mut dyn Channel, n: usize) -> Result<Opened> {
        Ok(Opened { bytes: channel.recv(n)?, at: 0 })
    }

    /// Reads `n` field elements; non-canonical ones are refused.
    pub fn words(&mut self, n: usize) -> Result<Vec<Fp>> {
        let above = || ProtocolError::peer("field element", "numbers below the modulus", "one above it");
        fp_from_bytes(self.take(8 * n)?).ok_or_else(above)
    }

    /// Reads `n` numbers modulo each of the first `primes` primes of A9, `[n][primes]`;
    /// non-canonical ones are refused.
    pub fn residues(&mut self, primes: usize, n: usize) -> Result<Vec<u64>> {
        let (words, _) = self.take(8 * primes * n)?.as_chunks();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let below = |(i, word): (usize, &u64)| exponential::canonical(i % primes, *word);
        if !words.iter().enumerate().all(below) {
            return Err(ProtocolError::peer("opened factor", "numbers below their prime", "one above it"));
        }
        Ok(words)
    }

    /// Reads `n` integers modulo `2^64`.
    pub fn ring_words(&mut self, n: usize) -> Result<Vec<Word>> {
        words_from_bytes(self.take(8 * n)?)
            .ok_or_else(|| ProtocolError::bug("message", "whole words", "a part"))
    }

    /// Reads `n` rotations.
    pub fn rotations(&mut self, n: usize) -> Result<Vec<u32>> {
        Ok(self.take(2 * n)?.chunks_exact(2).map(|b| u32::from(b[0]) | u32::from(b[1]) << 8).collect())
    }

    /// Reads `n` numbers of 24 bits.
    pub(crate) fn leading(&mut self, n: usize) -> Result<Vec<u32>> {
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], 0]);
        Ok(self.take(3 * n)?.chunks_exact(3).map(number).collect())
    }

    fn take(&mut self, n: usize) -> Result<&[u8]> {
        // A message came in its full length: who reads beyond it asked for less than it reads.
        let (left, short) = (self.bytes.len() - self.at, "bytes left of a message");
        let bytes = self.bytes.get(self.at..self.at + n);
        let bytes = bytes.ok_or_else(|| ProtocolError::bug(short, n, left))?;
        self.at += n;
        Ok(bytes)
    }
}
