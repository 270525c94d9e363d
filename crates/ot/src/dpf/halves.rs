//! Step 3, first part: shares of `u = β·μ` for the half of the table that the index lies in,
//! `μ = μ_0 ⊕ μ_1` its most significant bit. Nothing where payloads are drawn.
//!
//! `β_b·μ = β_b·μ_b + β_b·(1 − 2μ_b)·μ_{1−b}`: the second product from a pad of the transfer in
//! which the peer chose `μ_{1−b}`.

use core::num::Wrapping;

use cryptogen_party::Role;
use cryptogen_ring::Word;
use zeroize::Zeroizing;

use super::generate::{part, sign_of, Batch};

/// Label of the pads of payloads 0 and 1, 64 bits for each; those of the final words end below.
const HALF: u8 = 32;

impl Batch {
    /// Our share of payload `payload` of table `i`.
    pub(super) fn beta(&self, betas: &[Word], payload: usize, i: usize) -> Word {
        match (payload, self.role) {
            (0, Role::Client) => Wrapping(1),
            (0, Role::Server) => Wrapping(0),
            _ => betas[i * (self.shape.m() - 1) + payload - 1],
        }
    }

    /// Our message, an offset `m_0 − m_1 + x` for every product, and what we hold of `u` without
    /// the peer's, payload-major.
    pub(super) fn share_halves(&self, betas: &[Word]) -> (Vec<u8>, Zeroizing<Vec<Word>>) {
        let (n, level) = (self.n, self.shape.depth());
        let mut message = Vec::with_capacity(8 * n * self.shape.half_words());
        let mut shares = Zeroizing::new(Vec::with_capacity(n * self.shape.half_words()));
        for pair in 0..self.shape.half_words().div_ceil(2) {
            let [mut m0, mut m1] = self.sent.pads(self.range(level), HALF + pair as u8);
            if self.role == Role::Client {
                // The server's choice is the complement of its bit.
                core::mem::swap(&mut m0, &mut m1);
            }
            for payload in 2 * pair..self.shape.m().min(2 * pair + 2) {
                for i in 0..n {
                    let (beta, bit) = (self.beta(betas, payload, i), self.index_bit(level, i));
                    let [m0, m1] = [m0[i], m1[i]].map(|pad| part(pad, payload % 2));
                    message.extend_from_slice(&(m0 - m1 + beta * sign_of(bit)).0.to_le_bytes());
                    shares.push(beta * Wrapping(bit as u64) - m0);
                }
            }
        }
        (message, shares)
    }

    /// Adds what the peer's message makes of our bits.
    pub(super) fn add_halves(&self, offsets: &[Word], shares: &mut [Word]) {
        let (n, level) = (self.n, self.shape.depth());
        for pair in 0..self.shape.half_words().div_ceil(2) {
            let pads = self.received.pads(self.range(level), HALF + pair as u8);
            for payload in 2 * pair..self.shape.m().min(2 * pair + 2) {
                for (i, pad) in pads.iter().enumerate() {
                    let (at, bit) = (payload * n + i, self.index_bit(level, i));
                    shares[at] += part(*pad, payload % 2) + offsets[at] * Wrapping(bit as u64);
                }
            }
        }
    }
}
