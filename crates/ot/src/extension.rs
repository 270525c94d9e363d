//! OT extension: as many random oblivious transfers as wanted from 128 base transfers, in both
//! directions.
//!
//! Functionality: the sender has `Δ` and gets `q_i`, the receiver, who puts in bits `r_i`, gets
//! `t_i = q_i ⊕ r_i·Δ`; hashed, the sender has random pads `(m_0, m_1)` and the receiver `m_r`.
//! Source: Roy, "SoftSpokenOT: Quieter OT Extension from Small-Field Silent VOLE in the Minicrypt
//! Model", CRYPTO 2022, figures 7 and 8 without the consistency check (semi-honest), over
//! `F_{2^4}`; pads by the tweakable hash of `fixed_key`.
//! Cost: one message from receiver to sender, 4 bytes for each transfer (rounded up to 128
//! transfers); four AES calls each.
//! Leaks: nothing. Errors: none beyond the channel's, since every string of the right length is a
//! valid message.
//!
//! 1. Block `b < 32`: the receiver holds 16 seeds `k_x`, the sender all but that at `x = Δ_b`, four
//!    bits of `Δ` (`puncture`).
//! 2. The receiver sends `d_b = ⊕_x G(k_x) ⊕ r` and keeps the columns
//!    `t_{b,j} = ⊕_{x: x_j = 1} G(k_x)`.
//! 3. The sender computes the columns `q_{b,j} = ⊕_{x: (x ⊕ Δ_b)_j = 1} G(k_x) ⊕ Δ_{b,j}·d_b`. By
//!    rows, `q_i = t_i ⊕ r_i·Δ`.
//! 4. `m_0 = H(i, q_i)`, `m_1 = H(i, q_i ⊕ Δ)`, `m_{r_i} = H(i, t_i)`, `i` counted over the life of
//!    the pair. The hash takes a label beside `i`, so one transfer gives independent pads for
//!    several purposes.

use core::ops::Range;

use cryptogen_party::{Channel, Role};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::base;
use crate::bits;
use crate::error::OtError;
use crate::fixed_key::{self, LABEL_BITS};
use crate::puncture::{self, Seeds, BLOCKS, DEPTH, LEAVES, MESSAGE_BYTES};
use crate::transpose::transpose128;

/// Transfers in one bit matrix.
const ROWS: usize = 128;
/// Bytes of one matrix's message: `d_b` of 16 bytes for each block.
const MATRIX_BYTES: usize = BLOCKS * ROWS / 8;
/// Matrices in one parallel task.
const GROUP: usize = 8;
/// Pads hashed at once: they stay in the first-level cache.
const TASK: usize = 256;

/// Transfers in one extension at most: bounds memory and keeps the index far from its 56 bits.
pub const MAX_EXTEND: usize = 1 << 26;

/// Bytes of the message for `n` transfers.
pub const fn message_bytes(n: usize) -> usize {
    n.div_ceil(ROWS) * MATRIX_BYTES
}

/// Both directions of OT extension. Stateful: after an error the two parties disagree, so set up a
/// new pair.
pub struct OtPair {
    role: Role,
    sender: OtSender,
    receiver: OtReceiver,
}

impl OtPair {
    /// Runs the base transfers in both directions ([`crate::base`]) and punctures the trees: 3
    /// rounds, 8224 bytes from each party. The client's `Δ` is even, the server's odd, so
    /// `Δ_0 ⊕ Δ_1` is odd.
    ///
    /// # Errors
    /// [`OtError::Channel`], [`OtError::Malformed`].
    pub fn setup(
        role: Role,
        channel: &mut (impl Channel + ?Sized),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<OtPair, OtError> {
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        let delta = Zeroizing::new(random() & !1 | role.index() as u128);
        let roots = Zeroizing::new(core::array::from_fn(|_| random()));
        let base = base::run(role, channel, !*delta, rng)?;
        let (message, held) = puncture::hold(&roots, &base.pairs);
        let from_peer = channel.exchange(role.turn(), &message, MESSAGE_BYTES)?;
        let punctured = puncture::puncture(&from_peer, !*delta, &base.chosen);
        Ok(OtPair {
            role,
            sender: OtSender { delta: *delta, seeds: punctured, matrices: 0 },
            receiver: OtReceiver { seeds: held, matrices: 0 },
        })
    }

    /// The role given to [`OtPair::setup`].
    pub fn role(&self) -> Role {
        self.role
    }

    /// `n` transfers in each direction with uniform choices: one round, [`message_bytes`]`(n)` from
    /// each party.
    ///
    /// # Errors
    /// [`OtError::Channel`]; [`OtError::Range`] if `n >` [`MAX_EXTEND`].
    pub fn extend(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        n: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(RotSent, RotReceived), OtError> {
        check_count(n)?;
        let mut choices = Zeroizing::new(vec![0; bits::bytes_for(n)]);
        rng.fill_bytes(&mut choices);
        let (message, received) = self.receiver.prepare(choices, n)?;
        let from_peer = channel.exchange(self.role.turn(), &message, message_bytes(n))?;
        Ok((self.sender.finish(&from_peer, n)?, received))
    }
}

/// The direction in which we send: `Δ` and all seeds but one of each block, that one's place first.
pub struct OtSender {
    delta: u128,
    seeds: Seeds,
    matrices: u64,
}

/// The direction in which we choose: all seeds.
pub struct OtReceiver {
    seeds: Seeds,
    matrices: u64,
}

impl OtReceiver {
    /// Steps 2 and 4 of the receiver, for `n` choice bits: the message for the sender and our half
    /// of the transfers.
    ///
    /// # Errors
    /// [`OtError::Size`], [`OtError::Range`].
    pub fn prepare(
        &mut self,
        choices: Zeroizing<Vec<u8>>,
        n: usize,
    ) -> Result<(Vec<u8>, RotReceived), OtError> {
        check_count(n)?;
        if choices.len() != bits::bytes_for(n) {
            let expected = bits::bytes_for(n);
            return Err(OtError::Size { what: "choice bytes", expected, actual: choices.len() });
        }
        let count = n.div_ceil(ROWS);
        let mut padded = Zeroizing::new(vec![0; count * ROWS / 8]);
        padded[..choices.len()].copy_from_slice(&choices);
        let mut rows = Zeroizing::new(vec![0u128; count * ROWS]);
        let mut message = vec![0; count * MATRIX_BYTES];
        rows.par_chunks_mut(ROWS)
            .zip(message.par_chunks_mut(MATRIX_BYTES))
            .zip(padded.par_chunks(ROWS / 8))
            .with_min_len(GROUP)
            .enumerate()
            .for_each_init(Streams::new, |streams, (m, ((rows, message), r))| {
                let sums = streams.columns(&self.seeds, self.matrices + m as u64, rows);
                for (d, sum) in message.chunks_exact_mut(16).zip(sums) {
                    d.copy_from_slice(&(sum ^ le_u128(r)).to_le_bytes());
                }
                transpose(rows);
            });
        let first = self.matrices * ROWS as u64;
        self.matrices += count as u64;
        Ok((message, RotReceived { t: rows, choices, first, n }))
    }
}

impl OtSender {
    /// Steps 3 and 4 of the sender: our half of `n` transfers from the receiver's message.
    ///
    /// # Errors
    /// [`OtError::Size`] unless `message` has [`message_bytes`]`(n)` bytes; [`OtError::Range`].
    pub fn finish(&mut self, message: &[u8], n: usize) -> Result<RotSent, OtError> {
        check_count(n)?;
        if message.len() != message_bytes(n) {
            let expected = message_bytes(n);
            return Err(OtError::Size { what: "extension message", expected, actual: message.len() });
        }
        let count = n.div_ceil(ROWS);
        let mut rows = Zeroizing::new(vec![0u128; count * ROWS]);
        rows.par_chunks_mut(ROWS)
            .zip(message.par_chunks(MATRIX_BYTES))
            .with_min_len(GROUP)
            .enumerate()
            .for_each_init(Streams::new, |streams, (m, (rows, message))| {
                streams.columns(&self.seeds, self.matrices + m as u64, rows);
                for (column, q) in rows.iter_mut().enumerate() {
                    let at = column / DEPTH * 16;
                    *q ^= bits::mask((self.delta >> column) as u8) & le_u128(&message[at..at + 16]);
                }
                transpose(rows);
            });
        let first = self.matrices * ROWS as u64;
        self.matrices += count as u64;
        Ok(RotSent { q: rows, delta: self.delta, first, n })
    }
}

impl Drop for OtSender {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// The sender's half of `n` random transfers.
pub struct RotSent {
    q: Zeroizing<Vec<u128>>,
    delta: u128,
    first: u64,
    n: usize,
}

impl RotSent {
    /// Number of transfers.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// `Δ`; its least significant bit is the role's index.
    pub(crate) fn delta(&self) -> u128 {
        self.delta
    }

    /// The number of the first transfer, counted over the life of the pair.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The words `q_i`, not hashed, of the transfers in `range`.
    pub(crate) fn correlated(&self, range: Range<usize>) -> &[u128] {
        &self.q[..self.n][range]
    }

    /// The pads `m_0` and `m_1` of the transfers in `range` under `label`. Use a label once. Four
    /// AES calls each.
    ///
    /// # Panics
    /// If `range` is not within the transfers.
    pub fn pads(&self, range: Range<usize>, label: u8) -> [Zeroizing<Vec<u128>>; 2] {
        let first = self.first + range.start as u64;
        let q = &self.q[..self.n][range];
        let mut m0 = Zeroizing::new(q.to_vec());
        let mut m1 = Zeroizing::new(q.iter().map(|q| q ^ self.delta).collect::<Vec<_>>());
        hash_all(&mut m0, first, label);
        hash_all(&mut m1, first, label);
        [m0, m1]
    }
}

impl Drop for RotSent {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// The receiver's half of `n` random transfers.
pub struct RotReceived {
    t: Zeroizing<Vec<u128>>,
    choices: Zeroizing<Vec<u8>>,
    first: u64,
    n: usize,
}

impl RotReceived {
    /// Number of transfers.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The choice bit of transfer `i`, 0 or 1.
    ///
    /// # Panics
    /// If `i` is not within the transfers.
    #[inline]
    pub fn choice(&self, i: usize) -> u8 {
        bits::get(&self.choices, i)
    }

    /// The number of the first transfer, counted over the life of the pair.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The words `t_i = q_i ⊕ r_i·Δ`, not hashed, of the transfers in `range`.
    pub(crate) fn correlated(&self, range: Range<usize>) -> &[u128] {
        &self.t[..self.n][range]
    }

    /// The chosen pads of the transfers in `range` under `label`. Two AES calls each.
    ///
    /// # Panics
    /// If `range` is not within the transfers.
    pub fn pads(&self, range: Range<usize>, label: u8) -> Zeroizing<Vec<u128>> {
        let first = self.first + range.start as u64;
        let mut pads = Zeroizing::new(self.t[..self.n][range].to_vec());
        hash_all(&mut pads, first, label);
        pads
    }
}

fn check_count(n: usize) -> Result<(), OtError> {
    if n > MAX_EXTEND {
        return Err(OtError::Range { what: "transfers", min: 0, max: MAX_EXTEND, actual: n });
    }
    Ok(())
}

fn hash_all(words: &mut [u128], first: u64, label: u8) {
    debug_assert!(first.leading_zeros() >= LABEL_BITS);
    words.par_chunks_mut(TASK).with_min_len(4).enumerate().for_each(|(c, chunk)| {
        fixed_key::pads(chunk, first + (c * TASK) as u64, label);
    });
}

/// The streams of all seeds over one matrix. Wiped on drop.
struct Streams(Zeroizing<Vec<u128>>);

impl Streams {
    fn new() -> Streams {
        Streams(Zeroizing::new(vec![0; BLOCKS * LEAVES]))
    }

    /// Column `4·b + j` is `⊕_{y: y_j = 1} G(seed y of block b)`; returns `⊕_y G(seed y)` of each
    /// block.
    fn columns(&mut self, seeds: &Seeds, counter: u64, columns: &mut [u128]) -> [u128; BLOCKS] {
        fixed_key::stream(seeds, counter, &mut self.0);
        let mut sums = [0; BLOCKS];
        for ((block, columns), sum) in
            self.0.chunks_exact_mut(LEAVES).zip(columns.chunks_exact_mut(DEPTH)).zip(&mut sums)
        {
            // Fold the upper half onto the lower one; its sum is the column of that bit.
            for j in (0..DEPTH).rev() {
                let (lower, upper) = block[..2 << j].split_at_mut(1 << j);
                columns[j] = upper.iter().fold(0, |sum, word| sum ^ word);
                lower.iter_mut().zip(upper).for_each(|(low, high)| *low ^= *high);
            }
            *sum = block[0];
        }
        sums
    }
}

fn transpose(rows: &mut [u128]) {
    transpose128(rows.try_into().expect("chunks of 128 rows"));
}

fn le_u128(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"))
}
