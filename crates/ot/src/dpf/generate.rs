//! The generation of a batch of table keys; step numbers as in the module documentation.

use cryptogen_ring::Fp;
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::key::RecordWriter;
use super::tree::{expand_level, sum_leaves, Correction};
use super::{TableBatch, TableShape, MAX_LEAVES};
use crate::bits;
use crate::channel::{Channel, Role};
use crate::error::OtError;
use crate::extension::{OtPair, RotReceived, RotSent};
use crate::fixed_key::Buffers;

// Labels of the pads of one transfer; 1 is `index::INDEX`.
const LEVEL: u8 = 0;
const FINAL: u8 = 2; // + ℓ

/// Tables in one parallel task.
const TASK: usize = 32;

/// Makes the keys of `n` tables. `betas[i·(m−1) + ℓ−1]` is our share of payload `ℓ ≥ 1` of table `i`. Rounds and
/// bytes: [`super::cost`]. Working memory: about `18·n·2^k` bytes; `n` of 16384 suits `k = 9`.
///
/// # Errors
/// [`OtError::Size`] if `betas` has the wrong length, [`OtError::Range`] if the batch is too large, otherwise
/// [`OtError::Channel`] or [`OtError::Malformed`], after which `ot` must not be used any more.
pub fn generate(
    channel: &mut (impl Channel + ?Sized),
    ot: &mut OtPair,
    shape: TableShape,
    n: usize,
    betas: &[Fp],
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<TableBatch, OtError> {
    let max = MAX_LEAVES >> shape.k();
    if n > max {
        return Err(OtError::Range { what: "tables in a batch", min: 0, max, actual: n });
    }
    let expected = n * shape.payloads() as usize;
    if betas.len() != expected {
        return Err(OtError::Size { what: "payload shares", expected, actual: betas.len() });
    }
    let mut writer = RecordWriter::new(shape, n);
    if n == 0 {
        return Ok(writer.finish());
    }
    let role = ot.role();

    // Step 1.
    let (sent, received) = ot.extend(channel, (shape.k() as usize + 1) * n, rng)?;
    let mut batch = Batch { role, shape, n, sent, received };
    let mut trees = Trees::plant(role, shape, n, rng, &mut writer);

    // Steps 2 and 3.
    for level in 0..shape.k() {
        let sums = trees.expand(level);
        batch.correct_level(channel, level, &sums, &mut trees.corrections, &mut writer)?;
    }

    // Step 4.
    let (counts, sums) = trees.sum_leaves();
    batch.correct_leaves(channel, betas, &counts, sums, &mut writer)?;
    Ok(writer.finish())
}

/// All trees of a batch.
struct Trees {
    shape: TableShape,
    nodes: Zeroizing<Vec<u128>>,
    bits: Zeroizing<Vec<u8>>,
    /// Public: the last opened correction of each table.
    corrections: Vec<Correction>,
}

impl Trees {
    fn plant(
        role: Role,
        shape: TableShape,
        n: usize,
        rng: &mut (impl RngCore + CryptoRng),
        writer: &mut RecordWriter,
    ) -> Trees {
        let mut nodes = Zeroizing::new(vec![0; n * shape.size()]);
        let mut bits = Zeroizing::new(vec![0; n * shape.size() / 2]);
        for (i, (nodes, bits)) in
            nodes.chunks_exact_mut(shape.size()).zip(bits.chunks_exact_mut(shape.size() / 2)).enumerate()
        {
            nodes[0] = ((rng.next_u64() as u128) << 64 | rng.next_u64() as u128) & !1;
            bits[0] = role.index() as u8;
            writer.set_root(i, nodes[0]);
        }
        Trees { shape, nodes, bits, corrections: vec![Correction::default(); n] }
    }

    /// `(z^L, z^R)` of each table, the bits `τ` in the least significant places.
    fn expand(&mut self, level: u32) -> Zeroizing<Vec<[u128; 2]>> {
        let size = self.shape.size();
        let sums = self
            .nodes
            .par_chunks_exact_mut(size)
            .zip(self.bits.par_chunks_exact_mut(size / 2))
            .zip(&self.corrections)
            .with_min_len(TASK)
            .map_init(Buffers::new, |buffers, ((nodes, bits), correction)| {
                expand_level(nodes, bits, level, correction, buffers)
            });
        Zeroizing::new(sums.collect())
    }

    /// `Σ t` of each table, and `Σ Conv_ℓ(s)` in table-major order.
    fn sum_leaves(self) -> (Zeroizing<Vec<u32>>, Zeroizing<Vec<Fp>>) {
        let (size, m) = (self.shape.size(), self.shape.m());
        let mut sums = Zeroizing::new(vec![Fp::ZERO; self.corrections.len() * m]);
        let counts = self
            .nodes
            .par_chunks_exact(size)
            .zip(self.bits.par_chunks_exact(size / 2))
            .zip(&self.corrections)
            .zip(sums.par_chunks_exact_mut(m))
            .with_min_len(TASK)
            .map_init(Buffers::new, |buffers, (((nodes, bits), correction), sums)| {
                sum_leaves(nodes, bits, correction, sums, buffers)
            });
        let counts = Zeroizing::new(counts.collect());
        (counts, sums)
    }
}

/// The interactive part: our side of the transfers of a batch. Transfer `level·n + i` belongs to table `i`.
pub(super) struct Batch {
    pub(super) role: Role,
    pub(super) shape: TableShape,
    pub(super) n: usize,
    pub(super) sent: RotSent,
    pub(super) received: RotReceived,
}

impl Batch {
    /// Our share `α_{b,level}` of the index bit of table `i`.
    pub(super) fn index_bit(&self, level: u32, i: usize) -> u8 {
        self.received.choice(level as usize * self.n + i)
    }

    /// The transfers of one level.
    pub(super) fn range(&self, level: u32) -> core::ops::Range<usize> {
        level as usize * self.n..(level as usize + 1) * self.n
    }

    /// Opens the correction words of one level; on level 0 also makes the additive indices.
    fn correct_level(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        level: u32,
        sums: &[[u128; 2]],
        corrections: &mut [Correction],
        writer: &mut RecordWriter,
    ) -> Result<(), OtError> {
        let n = self.n;
        // The correlated transfers: offset m_0 ⊕ m_1 ⊕ δ_b, so that the peer gets m_0 ⊕ α_{1−b}·δ_b.
        let [m0, m1] = self.sent.pads(self.range(level), LEVEL);
        let mut message = Vec::with_capacity(16 * n);
        for ((m0, m1), [left, right]) in m0.iter().zip(m1.iter()).zip(sums) {
            message.extend_from_slice(&(m0 ^ m1 ^ ((left ^ right) & !1)).to_le_bytes());
        }
        let mut expected = 16 * n;
        if level == 0 {
            match self.role {
                Role::Client => expected += self.index_message_bytes(),
                Role::Server => message.extend(self.share_index_as_server(writer)),
            }
        }
        let offsets = channel.exchange(self.role.turn(), &message, expected)?;
        let (offsets, index_offsets) = offsets.split_at(16 * n);
        if level == 0 && self.role == Role::Client {
            self.share_index_as_client(index_offsets, writer);
        }

        // Our shares: σ_b with t^L in its free bit, and t^R.
        let pads = self.received.pads(self.range(level), LEVEL);
        let flip = (self.role == Role::Client) as u128;
        let mut shares = Vec::with_capacity(n);
        let mut right_bits = Zeroizing::new(Vec::with_capacity(n));
        for (i, ([left, right], offset)) in sums.iter().zip(words(offsets)).enumerate() {
            let bit = self.index_bit(level, i);
            let cross = m0[i] ^ pads[i] ^ (bits::mask(bit) & offset);
            let seed = right ^ (bits::mask(bit) & (left ^ right)) ^ cross;
            shares.push(seed & !1 | (left & 1 ^ bit as u128 ^ flip));
            right_bits.push(*right as u8 & 1 ^ bit);
        }
        let mut message: Vec<u8> = shares.iter().flat_map(|share| share.to_le_bytes()).collect();
        message.extend(bits::pack(right_bits.iter().copied()));
        let opened = channel.exchange(self.role.turn(), &message, message.len())?;
        let (opened, opened_bits) = opened.split_at(16 * n);
        for (i, (share, other)) in shares.iter().zip(words(opened)).enumerate() {
            let correction = Correction::new(share ^ other, right_bits[i] ^ bits::get(opened_bits, i));
            writer.set_correction(i, level, &correction);
            corrections[i] = correction;
        }
        Ok(())
    }

    /// Step 4 from the leaf sums on: opens the final words.
    fn correct_leaves(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        betas: &[Fp],
        counts: &[u32],
        mut sums: Zeroizing<Vec<Fp>>,
        writer: &mut RecordWriter,
    ) -> Result<(), OtError> {
        let (n, m, k) = (self.n, self.shape.m(), self.shape.k());
        let first = k as usize * n;
        // Our factor of the sign; its bit is the choice of the last transfer, moved there by one bit.
        let sign = |count: u32| match self.role {
            Role::Client => (count >> 1) as u8 & 1,
            Role::Server => (count >> 1 ^ count) as u8 & 1,
        };
        let signs: Zeroizing<Vec<u8>> = Zeroizing::new(counts.iter().map(|count| sign(*count)).collect());
        let moves = bits::pack(signs.iter().enumerate().map(|(i, s)| s ^ self.received.choice(first + i)));
        let moved = channel.exchange(self.role.turn(), &moves, moves.len())?;

        // x = ±V_b, in place of the sums.
        for (i, sums) in sums.chunks_exact_mut(m).enumerate() {
            for (payload, value) in sums.iter_mut().enumerate() {
                let beta = match (payload, self.role) {
                    (0, Role::Client) => Fp::ONE,
                    (0, Role::Server) => Fp::ZERO,
                    _ => betas[i * (m - 1) + payload - 1],
                };
                let v = match self.role {
                    Role::Client => beta - *value,
                    Role::Server => beta + *value,
                };
                *value = v * sign_of(signs[i]);
            }
        }

        // Multiplication by the peer's factor: offsets m_0 − m_1 − 2x, our share x − m_0 (payload-major).
        let mut shares = Zeroizing::new(vec![Fp::ZERO; n * m]);
        let mut message = Vec::with_capacity(8 * n * m);
        for payload in 0..m {
            let [m0, m1] = self.sent.pads(self.range(k), FINAL + payload as u8);
            for i in 0..n {
                let x = sums[i * m + payload];
                let swap = bits::mask(bits::get(&moved, i)) & (m0[i] ^ m1[i]);
                let (m0, m1) = (Fp::from_u128(m0[i] ^ swap), Fp::from_u128(m1[i] ^ swap));
                message.extend_from_slice(&(m0 - m1 - x - x).to_le_bytes());
                shares[payload * n + i] = x - m0;
            }
        }
        let offsets = channel.exchange(self.role.turn(), &message, 8 * n * m)?;
        let offsets = parse_elements(&offsets, "final offset")?;
        for payload in 0..m {
            let pads = self.received.pads(self.range(k), FINAL + payload as u8);
            for i in 0..n {
                let at = payload * n + i;
                shares[at] += Fp::from_u128(pads[i]) + offsets[at] * Fp::new(signs[i] as u64);
            }
        }

        let opened = channel.exchange(self.role.turn(), &cryptogen_ring::fp_to_bytes(&shares), 8 * n * m)?;
        let opened = parse_elements(&opened, "final word")?;
        for (at, (share, other)) in shares.iter().zip(opened).enumerate() {
            writer.set_final(at % n, at / n, *share + other);
        }
        Ok(())
    }
}

/// `1 − 2·bit`.
fn sign_of(bit: u8) -> Fp {
    Fp::ONE - Fp::new(2 * bit as u64)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u128> + '_ {
    bytes.chunks_exact(16).map(|b| u128::from_le_bytes(b.try_into().expect("chunks of sixteen")))
}

fn parse_elements(bytes: &[u8], what: &'static str) -> Result<Vec<Fp>, OtError> {
    let parse = |(index, b): (usize, &[u8])| {
        Fp::from_le_bytes(b.try_into().expect("chunks of eight")).ok_or(OtError::Malformed { what, index })
    };
    bytes.chunks_exact(8).enumerate().map(parse).collect()
}
