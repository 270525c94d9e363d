//! OT extension: as many random oblivious transfers as wanted from 128 base transfers, in both
//! directions. [`SILENT_FROM`] and more at once are made by [`crate::silent`], from a reserve that
//! comes from here; fewer as follows.
//!
//! Functionality: the sender has `Δ` and gets `q_i`, the receiver gets random bits `r_i` and
//! `t_i = q_i ⊕ r_i·Δ`; hashed, the sender has random pads `(m_0, m_1)` and the receiver `m_r`.
//! Source: Roy, "SoftSpokenOT: Quieter OT Extension from Small-Field Silent VOLE in the Minicrypt
//! Model", CRYPTO 2022, over `F_{2^4}` with the repetition code, with the consistency check of §4
//! (the hashed columns sent as one hash); pads by the tweakable hash of `fixed_key`.
//! Cost: from the receiver 3.875 bytes for each transfer (rounded up to 128 transfers), 496 and 48
//! more for the check, from the sender 32; four AES calls and a product of 128-bit polynomials
//! each.
//! Leaks: nothing to a party that follows the protocol. A receiver that deviates can guess bits of
//! `Δ`, 4 at a time (3 once: one bit is public), and is caught if it guesses wrong.
//! Errors: [`OtError::Inconsistent`] for a receiver that deviates.
//!
//! 1. Block `b < 32`: the receiver holds 16 seeds `k_x`, the sender all but that at `x = Δ_b`, four
//!    bits of `Δ` (`puncture`).
//! 2. With `u_b = ⊕_x G(k_x)` the receiver's bits are `r = u_0`. It sends `d_b = u_b ⊕ r` for
//!    `b ≥ 1` and keeps the columns `t_{b,j} = ⊕_{x: x_j = 1} G(k_x)`.
//! 3. The sender computes the columns `q_{b,j} = ⊕_{x: (x ⊕ Δ_b)_j = 1} G(k_x) ⊕ Δ_{b,j}·d_b`,
//!    `d_0 = 0`. By rows, `q_i = t_i ⊕ r_i·Δ`.
//! 4. Check: only now the sender draws a seed, which stands for weights `w_m`, uniform elements of
//!    the field of `2^128` elements, one for each 128 transfers `m`. With `R(c) = Σ_m w_m·c_m ⊕
//!    c_last` of a column `c`, the receiver answers `R(r)` and a hash of all `R(t_{b,j})`; these
//!    must be `R(q_{b,j}) ⊕ Δ_{b,j}·R(r)`. The last 128 transfers pad `R(r)` and are used for
//!    nothing else.
//! 5. `m_0 = H(i, q_i)`, `m_1 = H(i, q_i ⊕ Δ)`, `m_{r_i} = H(i, t_i)`, `i` counted over the life of
//!    the pair. The hash takes a label beside `i`, so one transfer gives independent pads for
//!    several purposes.
//!
//! Why 4 suffices: let a receiver send any `d_b`, and let `r_b = u_b ⊕ d_b` be the bits that block
//! `b` then means. Two different ones have different `R` but with probability `2^-128`; over all
//! pairs of blocks `496·2^-128 < 2^-119`. Otherwise all blocks whose `R(r_b)` is the answered one
//! have the same bits, and each other block passes for one value of `Δ_b` alone: probability
//! `2^-4` each, `2^-3` for the block with the public bit. So whoever passes has one choice for
//! each transfer, and knows `Δ` in the blocks where its bits differ, by a guess that it could have
//! made without the transfers.
//!
//! Neither party sends anything that depends on its `q` before the peer has passed: the client
//! proves with its second message, the server with its next one (`Extended`).

#[cfg(test)]
mod deviating;

use core::ops::Range;
use std::sync::Arc;

use cryptogen_party::{Channel, Role};
use cryptogen_ring::kernels::{carryless_multiply_add, carryless_reduce};
use cryptogen_ring::{Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::base;
use crate::bits;
use crate::error::OtError;
use crate::fixed_key::{tag_of, Tag, TransferHash, LABEL_BITS};
use crate::puncture::{self, Seeds, BLOCKS, DEPTH, LEAVES, MESSAGE_BYTES};
use crate::silent::{self, Order, Reserve};
use crate::transpose::transpose128;

/// Transfers in one bit matrix.
const ROWS: usize = 128;
/// Bytes of one matrix's message: `d_b` of 16 bytes for each block but the first.
const MATRIX_BYTES: usize = (BLOCKS - 1) * ROWS / 8;
/// Bytes of the seed that stands for the weights of the check.
const CHALLENGE_BYTES: usize = 32;
/// Bytes of the receiver's answer: `R(r)` and a hash.
pub(crate) const PROOF_BYTES: usize = 16 + 32;
/// Matrices in one parallel task.
const GROUP: usize = 8;
/// Pads hashed at once: they stay in the first-level cache.
const TASK: usize = 256;

/// Transfers in one extension at most: bounds memory, and is what the assumption of silent ones was
/// estimated for.
pub const MAX_EXTEND: usize = silent::MAX_NEW;
/// Transfers from which on an extension is silent. That saves bytes from 5300 on, but costs the
/// work of 41 000 transfers whatever their number.
pub const SILENT_FROM: usize = 1 << 15;

/// Bytes of the receiver's message for `n` transfers and those that pad the check.
const fn message_bytes(n: usize) -> usize {
    matrices(n) * MATRIX_BYTES
}

/// Bytes that each party sends for `n` transfers in each direction that are not silent.
const fn seeded_bytes(n: usize) -> usize {
    message_bytes(n) + CHALLENGE_BYTES + PROOF_BYTES
}

/// Bytes that each party sends for `n` transfers in each direction, everything included but
/// [`RESERVE_BYTES`].
pub const fn bytes(n: usize) -> usize {
    if n < SILENT_FROM {
        return seeded_bytes(n);
    }
    silent::message_bytes(n) + silent::CHALLENGE_BYTES + silent::PROOF_BYTES
}

/// Bytes that each party sends in [`RESERVE_MESSAGES`] messages of both before the first silent
/// extension of a pair.
pub const RESERVE_BYTES: usize = seeded_bytes(silent::RESERVE);
/// Messages of both parties, client and server in turn.
pub const RESERVE_MESSAGES: usize = 4;

/// Matrices of `n` transfers and those that pad the check.
const fn matrices(n: usize) -> usize {
    n.div_ceil(ROWS) + 1
}

/// Both directions of OT extension. Stateful: after an error the two parties disagree, or one has
/// deviated, and the pair refuses to go on.
pub struct OtPair {
    role: Role,
    sender: OtSender,
    receiver: OtReceiver,
    reserves: Option<Reserves>,
    /// an extension or what used it has begun and not come to its end
    unsettled: bool,
}

/// Reserves of silent extensions.
struct Reserves {
    /// of the direction in which we send
    own: Reserve,
    /// of that in which we choose
    peers: Reserve,
}

/// Both directions of an extension, as far as [`OtPair::extend`] gets.
pub(crate) enum Extended {
    /// At the client: the server's proof is in front of its next message.
    Unproved(Unproved),
    /// At the server: its proof belongs in front of its next message.
    Proved(RotSent, RotReceived, Vec<u8>),
}

impl Extended {
    /// With the server's proof in a message of its own.
    pub(crate) fn prove_apart(
        self,
        channel: &mut (impl Channel + ?Sized),
    ) -> Result<(RotSent, RotReceived), OtError> {
        match self {
            Extended::Proved(sent, received, proof) => {
                channel.send(&proof)?;
                Ok((sent, received))
            }
            Extended::Unproved(unproved) => {
                let proof = channel.recv(unproved.proof_bytes())?;
                unproved.verify(&proof)
            }
        }
    }
}

/// Transfers that must not be used before the peer has proved that it followed the protocol.
pub(crate) struct Unproved {
    sent: RotSent,
    received: RotReceived,
    expected: Proof,
}

/// What judges the peer's proof.
enum Proof {
    Seeded(Expected),
    Silent([u8; silent::PROOF_BYTES]),
}

impl Unproved {
    /// Bytes of the proof.
    pub(crate) fn proof_bytes(&self) -> usize {
        match self.expected {
            Proof::Seeded(_) => PROOF_BYTES,
            Proof::Silent(_) => silent::PROOF_BYTES,
        }
    }

    /// The transfers, if `proof` is right.
    ///
    /// # Errors
    /// [`OtError::Inconsistent`].
    pub(crate) fn verify(self, proof: &[u8]) -> Result<(RotSent, RotReceived), OtError> {
        match self.expected {
            Proof::Seeded(expected) => expected.verify(proof)?,
            Proof::Silent(expected) => verify_silent(&expected, proof)?,
        }
        Ok((self.sent, self.received))
    }
}

impl OtPair {
    /// Runs the base transfers in both directions ([`crate::base`]) and punctures the trees: 3
    /// rounds, 9280 bytes from each party. The client's `Δ` is even, the server's odd, so
    /// `Δ_0 ⊕ Δ_1` is odd.
    ///
    /// # Errors
    /// [`OtError::Channel`], [`OtError::Malformed`], [`OtError::Inconsistent`].
    pub fn setup(
        role: Role,
        channel: &mut (impl Channel + ?Sized),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<OtPair, OtError> {
        let mut random = || (rng.next_u64() as u128) << 64 | rng.next_u64() as u128;
        let delta = Zeroizing::new(random() & !1 | role.index() as u128);
        let roots = Zeroizing::new(core::array::from_fn(|_| random()));
        let base = base::run(role, channel, !*delta, rng)?;
        let session = base.session;
        let (message, held) = puncture::hold(&session, &roots, &base.pairs);
        let from_peer = channel.exchange(role.turn(), &message, MESSAGE_BYTES)?;
        let punctured = puncture::puncture(&session, &from_peer, !*delta, &base.chosen)?;
        Ok(OtPair {
            role,
            sender: OtSender { session, delta: *delta, seeds: punctured, matrices: 0 },
            receiver: OtReceiver { session, seeds: held, matrices: 0 },
            reserves: None,
            unsettled: false,
        })
    }

    /// The role given to [`OtPair::setup`].
    pub fn role(&self) -> Role {
        self.role
    }

    /// `n` transfers in each direction with uniform choices. Three messages, client, server,
    /// client; [`bytes`]`(n)` from each party, the server's proof being still to be sent; before
    /// the first silent extension [`RESERVE_MESSAGES`] more. The pair is good for nothing more
    /// until [`OtPair::settle`] says that all of it went well.
    ///
    /// # Errors
    /// [`OtError::Channel`]; [`OtError::Range`] if `n >` [`MAX_EXTEND`]; [`OtError::Failed`];
    /// at the server [`OtError::Inconsistent`].
    pub(crate) fn extend(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        n: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Extended, OtError> {
        check_count(n)?;
        if core::mem::replace(&mut self.unsettled, true) {
            return Err(OtError::Failed);
        }
        if n < SILENT_FROM {
            return self.extend_from_seeds(channel, n, rng);
        }
        if self.reserves.is_none() {
            self.reserves = Some(self.reserve(channel, rng)?);
        }
        self.extend_silently(channel, n, rng)
    }

    fn reserve(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Reserves, OtError> {
        let extended = self.extend_from_seeds(channel, silent::RESERVE, rng)?;
        let (sent, received) = extended.prove_apart(channel)?;
        let all = 0..silent::RESERVE;
        Ok(Reserves {
            own: Reserve::of_sender(sent.correlated(all.clone())),
            peers: Reserve::of_receiver(received.correlated(all), |i| received.choice(i)),
        })
    }

    fn extend_silently(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        n: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Extended, OtError> {
        let Some(Reserves { own, peers }) = &mut self.reserves else { return Err(OtError::Failed) };
        let OtSender { session, delta, ref mut matrices, .. } = self.sender;
        let batch = Batch::new(&session, *matrices);
        let order = |sender| Order { session, sender, first: batch.first, n };
        // Both directions count alike.
        *matrices += (silent::groves(n) * silent::LEAVES / ROWS) as u64;
        self.receiver.matrices = *matrices;

        let (length, (mut message, sown)) = (silent::message_bytes(n), own.sow(&order(self.role), delta));
        let mut seed = [0; CHALLENGE_BYTES];
        let mut reap = |from_peer: &[u8]| {
            let reaped = peers.reap(&order(self.role.other()), from_peer);
            // Drawn when the peer can no longer change what it is about.
            rng.fill_bytes(&mut seed);
            let (challenge, expected) = reaped.challenge(seed);
            (reaped, challenge, expected)
        };
        let sent = |q| RotSent { q, delta, batch: batch.clone(), n };
        let received = |t| RotReceived::from_odd(t, self.role.other(), batch.clone());
        match self.role {
            Role::Client => {
                channel.send(&message)?;
                let from_peer = channel.recv(length + silent::CHALLENGE_BYTES)?;
                let (words, for_us) = from_peer.split_at(length);
                let (reaped, challenge, expected) = reap(words);
                let proof = sown.prove(for_us.try_into().expect("a challenge"));
                channel.send(&[&proof[..], &challenge].concat())?;
                let (sent, received) = (sent(sown.finish(own)), received(reaped.finish(peers)));
                Ok(Extended::Unproved(Unproved { sent, received, expected: Proof::Silent(expected) }))
            }
            Role::Server => {
                let (reaped, challenge, expected) = reap(&channel.recv(length)?);
                message.extend_from_slice(&challenge);
                channel.send(&message)?;
                let received = received(reaped.finish(peers));
                let answer = channel.recv(silent::PROOF_BYTES + silent::CHALLENGE_BYTES)?;
                let (proof, for_us) = answer.split_at(silent::PROOF_BYTES);
                verify_silent(&expected, proof)?;
                let proof = sown.prove(for_us.try_into().expect("a challenge")).to_vec();
                Ok(Extended::Proved(sent(sown.finish(own)), received, proof))
            }
        }
    }

    fn extend_from_seeds(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        n: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Extended, OtError> {
        let (mut message, committed) = self.receiver.commit(n);
        let mut challenge = [0; CHALLENGE_BYTES];
        let length = message_bytes(n);
        match self.role {
            Role::Client => {
                channel.send(&message)?;
                let mut from_peer = channel.recv(length + CHALLENGE_BYTES)?;
                let for_us = from_peer.split_off(length);
                // Drawn when the peer can no longer change what it is about.
                rng.fill_bytes(&mut challenge);
                let (proof, received) = committed.prove(for_us.as_slice().try_into().expect("a challenge"));
                channel.send(&[&proof[..], &challenge].concat())?;
                let (sent, expected) = self.sender.finish(&from_peer, n, &challenge);
                Ok(Extended::Unproved(Unproved { sent, received, expected: Proof::Seeded(expected) }))
            }
            Role::Server => {
                let from_peer = channel.recv(length)?;
                rng.fill_bytes(&mut challenge);
                message.extend_from_slice(&challenge);
                channel.send(&message)?;
                let (sent, expected) = self.sender.finish(&from_peer, n, &challenge);
                let answer = channel.recv(PROOF_BYTES + CHALLENGE_BYTES)?;
                let (proof, for_us) = answer.split_at(PROOF_BYTES);
                expected.verify(proof)?;
                let (proof, received) = committed.prove(for_us.try_into().expect("a challenge"));
                Ok(Extended::Proved(sent, received, proof.to_vec()))
            }
        }
    }

    /// What used the last extension has come to its end.
    pub(crate) fn settle(&mut self) {
        self.unsettled = false;
    }
}

/// The direction in which we send: `Δ` and all seeds but one of each block, that one's place first.
pub(crate) struct OtSender {
    session: [u8; 32],
    delta: u128,
    seeds: Seeds,
    matrices: u64,
}

/// The direction in which we choose: all seeds.
pub(crate) struct OtReceiver {
    session: [u8; 32],
    seeds: Seeds,
    matrices: u64,
}

/// What the receiver has after its message and before the challenge: the columns of all matrices
/// one after the other, and its bits.
pub(crate) struct Committed {
    columns: Zeroizing<Vec<u128>>,
    choices: Zeroizing<Vec<u128>>,
    batch: Batch,
    n: usize,
}

/// What both parties know of an extension.
#[derive(Clone)]
struct Batch {
    hash: Arc<TransferHash>,
    tag: Tag,
    first: u64,
}

impl Batch {
    fn new(session: &[u8; 32], matrices: u64) -> Batch {
        let first = matrices * ROWS as u64;
        let tag = tag_of(session, first);
        Batch { hash: Arc::new(TransferHash::new(tag)), tag, first }
    }
}

impl OtReceiver {
    /// Step 2, for `n ≤` [`MAX_EXTEND`] transfers: the message for the sender.
    fn commit(&mut self, n: usize) -> (Vec<u8>, Committed) {
        let count = matrices(n);
        let batch = Batch::new(&self.session, self.matrices);
        let mut columns = Zeroizing::new(vec![0u128; count * ROWS]);
        let mut choices = Zeroizing::new(vec![0u128; count]);
        // Room for the challenge that the server sends behind it.
        let mut message = Vec::with_capacity(count * MATRIX_BYTES + CHALLENGE_BYTES);
        message.resize(count * MATRIX_BYTES, 0);
        columns
            .par_chunks_mut(ROWS)
            .zip(message.par_chunks_mut(MATRIX_BYTES))
            .zip(choices.par_iter_mut())
            .with_min_len(GROUP)
            .enumerate()
            .for_each_init(Streams::new, |streams, (m, ((columns, message), r))| {
                let sums = streams.columns(&batch.hash, &self.seeds, self.matrices + m as u64, columns);
                *r = sums[0];
                for (d, sum) in message.chunks_exact_mut(16).zip(&sums[1..]) {
                    d.copy_from_slice(&(sum ^ sums[0]).to_le_bytes());
                }
            });
        self.matrices += count as u64;
        (message, Committed { columns, choices, batch, n })
    }
}

impl Committed {
    /// Step 4 of the receiver: the answer, and its half of the transfers.
    fn prove(self, challenge: &[u8; CHALLENGE_BYTES]) -> ([u8; PROOF_BYTES], RotReceived) {
        let Committed { mut columns, choices, batch, n } = self;
        let weights = weights(challenge, choices.len());
        let sums = columns
            .par_chunks_mut(ROWS)
            .zip(choices.par_iter())
            .zip(weights.par_iter())
            .with_min_len(GROUP)
            .fold(Sums::new, |mut sums, ((rows, r), weight)| {
                sums.add(rows, *r, *weight);
                transpose(rows);
                sums
            })
            .reduce(Sums::new, Sums::merge);
        let mut proof = [0; PROOF_BYTES];
        proof[..16].copy_from_slice(&sums.choice().to_le_bytes());
        proof[16..].copy_from_slice(&sums.digest(0, 0));
        (proof, RotReceived { t: columns, choices, batch, n })
    }
}

impl OtSender {
    /// Step 3, and what the answer to the challenge must be: our half of `n` transfers from the
    /// receiver's message of [`message_bytes`]`(n)` bytes.
    fn finish(&mut self, message: &[u8], n: usize, challenge: &[u8; CHALLENGE_BYTES]) -> (RotSent, Expected) {
        let count = matrices(n);
        let batch = Batch::new(&self.session, self.matrices);
        let mut rows = Zeroizing::new(vec![0u128; count * ROWS]);
        let weights = weights(challenge, count);
        let (_, sums) = rows
            .par_chunks_mut(ROWS)
            .zip(message.par_chunks(MATRIX_BYTES))
            .zip(weights.par_iter())
            .with_min_len(GROUP)
            .enumerate()
            .fold(
                || (Streams::new(), Sums::new()),
                |(mut streams, mut sums), (m, ((rows, message), weight))| {
                    streams.columns(&batch.hash, &self.seeds, self.matrices + m as u64, rows);
                    for (column, q) in rows.iter_mut().enumerate().skip(DEPTH) {
                        let at = (column / DEPTH - 1) * 16;
                        *q ^= bits::mask((self.delta >> column) as u8) & le_u128(&message[at..at + 16]);
                    }
                    sums.add(rows, 0, *weight);
                    transpose(rows);
                    (streams, sums)
                },
            )
            .reduce(|| (Streams::new(), Sums::new()), |(streams, a), (_, b)| (streams, a.merge(b)));
        self.matrices += count as u64;
        let expected = Expected { sums, delta: self.delta };
        (RotSent { q: rows, delta: self.delta, batch, n }, expected)
    }
}

impl Drop for OtSender {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// What the sender needs to judge an answer.
struct Expected {
    sums: Sums,
    delta: u128,
}

impl Expected {
    fn verify(&self, proof: &[u8]) -> Result<(), OtError> {
        let (choice, columns) = proof.split_at(16);
        if self.sums.digest(le_u128(choice), self.delta) != columns {
            return Err(OtError::Inconsistent("transfers"));
        }
        Ok(())
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// The sender's half of `n` random transfers.
pub(crate) struct RotSent {
    q: Zeroizing<Vec<u128>>,
    delta: u128,
    batch: Batch,
    n: usize,
}

impl RotSent {
    /// The tag of the batch.
    pub(crate) fn tag(&self) -> Tag {
        self.batch.tag
    }

    /// `Δ`; its least significant bit is the role's index.
    pub(crate) fn delta(&self) -> u128 {
        self.delta
    }

    /// The number of the first transfer, counted over the life of the pair.
    pub(crate) fn first(&self) -> u64 {
        self.batch.first
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
    pub(crate) fn pads(&self, range: Range<usize>, label: u8) -> [Zeroizing<Vec<u128>>; 2] {
        let first = self.batch.first + range.start as u64;
        let q = &self.q[..self.n][range];
        let mut m0 = Zeroizing::new(q.to_vec());
        let mut m1 = Zeroizing::new(q.iter().map(|q| q ^ self.delta).collect::<Vec<_>>());
        hash_all(&self.batch.hash, &mut m0, first, label);
        hash_all(&self.batch.hash, &mut m1, first, label);
        [m0, m1]
    }
}

impl Drop for RotSent {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}

/// The receiver's half of `n` random transfers.
pub(crate) struct RotReceived {
    t: Zeroizing<Vec<u128>>,
    choices: Zeroizing<Vec<u128>>,
    batch: Batch,
    n: usize,
}

impl RotReceived {
    /// From words whose last bits are the choices, as if `Δ` were odd; that of `sender` is what its
    /// role says.
    fn from_odd(mut t: Zeroizing<Vec<u128>>, sender: Role, batch: Batch) -> RotReceived {
        let clear = sender.index() as u128 | !1;
        let mut choices = Zeroizing::new(Vec::with_capacity(t.len().div_ceil(ROWS)));
        for words in t.chunks_mut(ROWS) {
            let mut bits = [0u64; 2];
            for (bits, words) in bits.iter_mut().zip(words.chunks_mut(ROWS / 2)) {
                for (i, word) in words.iter_mut().enumerate() {
                    *bits |= (*word as u64 & 1) << i;
                    *word &= clear;
                }
            }
            choices.push((bits[1] as u128) << 64 | bits[0] as u128);
        }
        let n = t.len();
        RotReceived { t, choices, batch, n }
    }

    /// The choice bit of transfer `i`, 0 or 1.
    ///
    /// # Panics
    /// If `i` is not within the transfers.
    #[inline]
    pub(crate) fn choice(&self, i: usize) -> u8 {
        (self.choices[i / ROWS] >> (i % ROWS)) as u8 & 1
    }

    /// The number of the first transfer, counted over the life of the pair.
    pub(crate) fn first(&self) -> u64 {
        self.batch.first
    }

    /// The words `t_i = q_i ⊕ r_i·Δ`, not hashed, of the transfers in `range`.
    pub(crate) fn correlated(&self, range: Range<usize>) -> &[u128] {
        &self.t[..self.n][range]
    }

    /// The chosen pads of the transfers in `range` under `label`. Two AES calls each.
    ///
    /// # Panics
    /// If `range` is not within the transfers.
    pub(crate) fn pads(&self, range: Range<usize>, label: u8) -> Zeroizing<Vec<u128>> {
        let first = self.batch.first + range.start as u64;
        let mut pads = Zeroizing::new(self.t[..self.n][range].to_vec());
        hash_all(&self.batch.hash, &mut pads, first, label);
        pads
    }
}

fn verify_silent(expected: &[u8], proof: &[u8]) -> Result<(), OtError> {
    if proof != expected {
        return Err(OtError::Inconsistent("silent transfers"));
    }
    Ok(())
}

fn check_count(n: usize) -> Result<(), OtError> {
    if n > MAX_EXTEND {
        return Err(OtError::Range { what: "transfers", min: 0, max: MAX_EXTEND, actual: n });
    }
    Ok(())
}

fn hash_all(hash: &TransferHash, words: &mut [u128], first: u64, label: u8) {
    debug_assert!(first.leading_zeros() >= LABEL_BITS);
    words.par_chunks_mut(TASK).with_min_len(4).enumerate().for_each(|(c, chunk)| {
        hash.pads(chunk, first + (c * TASK) as u64, label);
    });
}

/// The weights of `count` matrices; that of the last one, which pads the others, is 1.
fn weights(challenge: &[u8; CHALLENGE_BYTES], count: usize) -> Vec<u128> {
    let mut rng = Prg::new(&Seed::from_bytes(*challenge));
    let mut weights: Vec<u128> =
        (1..count).map(|_| (rng.next_u64() as u128) << 64 | rng.next_u64() as u128).collect();
    weights.push(1);
    weights
}

/// `R` of every column and, behind them, of the receiver's bits, not reduced. Wiped on drop.
struct Sums(Zeroizing<Vec<[u128; 2]>>);

impl Sums {
    fn new() -> Sums {
        Sums(Zeroizing::new(vec![[0; 2]; ROWS + 1]))
    }

    /// Adds the columns and bits of one matrix.
    fn add(&mut self, columns: &[u128], choices: u128, weight: u128) {
        let (sums, bits) = self.0.split_at_mut(ROWS);
        carryless_multiply_add(columns, weight, sums);
        carryless_multiply_add(&[choices], weight, bits);
    }

    fn merge(mut self, other: Sums) -> Sums {
        for (sum, other) in self.0.iter_mut().zip(other.0.iter()) {
            sum[0] ^= other[0];
            sum[1] ^= other[1];
        }
        self
    }

    /// `R(r)`.
    fn choice(&self) -> u128 {
        carryless_reduce(self.0[ROWS])
    }

    /// The hash of `R(c_i) ⊕ Δ_i·choice` of all columns.
    fn digest(&self, choice: u128, delta: u128) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(b"cryptogen transfer check");
        for (column, sum) in self.0[..ROWS].iter().enumerate() {
            let word = carryless_reduce(*sum) ^ bits::mask((delta >> column) as u8) & choice;
            digest.update(word.to_le_bytes());
        }
        digest.finalize().into()
    }
}

/// The streams of all seeds over one matrix. Wiped on drop.
struct Streams(Zeroizing<Vec<u128>>);

impl Streams {
    fn new() -> Streams {
        Streams(Zeroizing::new(vec![0; BLOCKS * LEAVES]))
    }

    /// Column `4·b + j` is `⊕_{y: y_j = 1} G(seed y of block b)`; returns `⊕_y G(seed y)` of each
    /// block.
    fn columns(
        &mut self,
        hash: &TransferHash,
        seeds: &Seeds,
        counter: u64,
        columns: &mut [u128],
    ) -> [u128; BLOCKS] {
        hash.stream(seeds, counter, &mut self.0);
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
