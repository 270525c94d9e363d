//! OT extension: as many random oblivious transfers as wanted from 128 base transfers, in both directions.
//!
//! Functionality: the sender gets random pads `(m_0, m_1)`, the receiver, who puts in a bit `r`, gets `m_r`.
//! Source: Ishai, Kilian, Nissim, Petrank, "Extending Oblivious Transfers Efficiently", CRYPTO 2003, semi-honest, in the
//! form of Asharov, Lindell, Schneider, Zohner (CCS 2013); pads by the tweakable hash of [`crate::fixed_key`].
//! Cost: one message from receiver to sender, 16 bytes for each transfer (rounded up to 128 transfers).
//! Leaks: nothing. Errors: none beyond the channel's, since every string of the right length is a valid message.
//!
//! 1. Column `j < 128`: the receiver holds seeds `k_j^0, k_j^1`, the sender `Δ_j` and `k_j^{Δ_j}`.
//! 2. The receiver sends `u_j = G(k_j^0) ⊕ G(k_j^1) ⊕ r` and keeps `t_j = G(k_j^0)`.
//! 3. The sender computes `q_j = G(k_j^{Δ_j}) ⊕ Δ_j·u_j`. By rows, `q_i = t_i ⊕ r_i·Δ`.
//! 4. `m_0 = H(i, q_i)`, `m_1 = H(i, q_i ⊕ Δ)`, `m_{r_i} = H(i, t_i)`, `i` counted over the life of the pair. The hash
//!    takes a label beside `i`, so one transfer gives independent pads for several purposes.

use core::ops::Range;

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128, Block};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::base::{self, BASE_OTS};
use crate::bits;
use crate::channel::{Channel, Role};
use crate::error::OtError;
use crate::fixed_key::{Buffers, LABEL_BITS};
use crate::transpose::transpose128;

/// Transfers in one bit matrix.
const ROWS: usize = 128;
/// Bytes of one matrix of `u`: 128 columns of 16 bytes.
const MATRIX_BYTES: usize = BASE_OTS * ROWS / 8;
/// Matrices worked on at once: eight counter blocks for each column cipher.
const GROUP: usize = 8;
/// Pads hashed by one task.
const TASK: usize = 1024;

/// Transfers in one extension at most: bounds memory and keeps the index far from its 56 bits.
pub const MAX_EXTEND: usize = 1 << 26;

/// Bytes of the message for `n` transfers.
pub const fn message_bytes(n: usize) -> usize {
    n.div_ceil(ROWS) * MATRIX_BYTES
}

/// Both directions of OT extension. Stateful: after an error the two parties disagree, so set up a new pair.
pub struct OtPair {
    role: Role,
    sender: OtSender,
    receiver: OtReceiver,
}

impl OtPair {
    /// Runs the base transfers in both directions ([`crate::base`]): 2 rounds, 4128 bytes from each party.
    ///
    /// # Errors
    /// [`OtError::Channel`], [`OtError::Malformed`].
    pub fn setup(
        role: Role,
        channel: &mut (impl Channel + ?Sized),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<OtPair, OtError> {
        let base = base::run(role, channel, rng)?;
        let sender = OtSender {
            delta: *base.choices,
            columns: base.chosen.iter().map(|k| Aes128::new(k.into())).collect(),
            matrices: 0,
        };
        let columns =
            base.pairs.iter().map(|[k0, k1]| [Aes128::new(k0.into()), Aes128::new(k1.into())]).collect();
        Ok(OtPair { role, sender, receiver: OtReceiver { columns, matrices: 0 } })
    }

    /// The role given to [`OtPair::setup`].
    pub fn role(&self) -> Role {
        self.role
    }

    /// `n` transfers in each direction with uniform choices: one round, [`message_bytes`]`(n)` from each party.
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

/// The direction in which we send: `Δ` and one column key for each of its bits.
pub struct OtSender {
    delta: u128,
    columns: Vec<Aes128>,
    matrices: u64,
}

/// The direction in which we choose: both column keys.
pub struct OtReceiver {
    columns: Vec<[Aes128; 2]>,
    matrices: u64,
}

impl OtReceiver {
    /// Steps 2 and 4 of the receiver, for `n` choice bits: the message for the sender and our half of the transfers.
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
        rows.par_chunks_mut(GROUP * ROWS)
            .zip(message.par_chunks_mut(GROUP * MATRIX_BYTES))
            .zip(padded.par_chunks(GROUP * ROWS / 8))
            .enumerate()
            .for_each(|(g, ((rows, message), choices))| {
                let first = self.matrices + (g * GROUP) as u64;
                for (j, [key0, key1]) in self.columns.iter().enumerate() {
                    let (t, other) = (column(key0, first), column(key1, first));
                    for (m, r) in choices.chunks_exact(16).enumerate() {
                        rows[m * ROWS + j] = t[m];
                        let u = t[m] ^ other[m] ^ le_u128(r);
                        let at = m * MATRIX_BYTES + 16 * j;
                        message[at..at + 16].copy_from_slice(&u.to_le_bytes());
                    }
                }
                transpose_all(rows);
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
        rows.par_chunks_mut(GROUP * ROWS).zip(message.par_chunks(GROUP * MATRIX_BYTES)).enumerate().for_each(
            |(g, (rows, message))| {
                let first = self.matrices + (g * GROUP) as u64;
                for (j, key) in self.columns.iter().enumerate() {
                    let q = column(key, first);
                    let selected = bits::mask((self.delta >> j) as u8);
                    for (m, u) in message.chunks_exact(MATRIX_BYTES).enumerate() {
                        rows[m * ROWS + j] = q[m] ^ (selected & le_u128(&u[16 * j..16 * j + 16]));
                    }
                }
                transpose_all(rows);
            },
        );
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

    /// The pads `m_0` and `m_1` of the transfers in `range` under `label`. Use a label once. Four AES calls each.
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
    words.par_chunks_mut(TASK).enumerate().for_each(|(c, chunk)| {
        Buffers::new().hash(chunk, first + (c * TASK) as u64, label);
    });
}

/// The next [`GROUP`] words of a column's stream: AES in counter mode, one block for each matrix.
fn column(key: &Aes128, first: u64) -> [u128; GROUP] {
    let mut blocks: [Block; GROUP] =
        core::array::from_fn(|m| ((first + m as u64) as u128).to_le_bytes().into());
    key.encrypt_blocks(&mut blocks);
    blocks.map(|block| u128::from_le_bytes(block.into()))
}

fn transpose_all(rows: &mut [u128]) {
    for matrix in rows.chunks_exact_mut(ROWS) {
        transpose128(matrix.try_into().expect("chunks of 128 rows"));
    }
}

fn le_u128(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"))
}
