//! The generation of a batch of table keys; step numbers as in the module documentation.

#[cfg(test)]
mod deviating;

use core::num::Wrapping;

use cryptogen_party::{Channel, Role, Turn};
use cryptogen_ring::kernels::{MAX_PAIRS, TREES};
use cryptogen_ring::word::{words_from_bytes, words_to_bytes};
use cryptogen_ring::Word;
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use super::index::index_message_bytes;
use super::key::RecordWriter;
use super::tree::Grove;
use super::{TableBatch, TableShape, MAX_WORDS};
use crate::bits;
use crate::error::OtError;
use crate::extension::{Extended, OtPair, RotReceived, RotSent};
use crate::fixed_key::Tag;

// Label of the pads of one transfer; 1 is `index::INDEX`, `halves::HALF` lies above.
const FINAL: u8 = 2; // + word

/// Groups of trees in one parallel task.
const TASK: usize = 16;

/// Makes the keys of `n` tables. `betas[i·(m−1) + ℓ−1]` is our share of the given payload `ℓ ≥ 1`
/// of table `i`; there are none of drawn ones. Messages and bytes: [`super::cost`]. Working memory:
/// about `64·(k+1)·n` bytes.
///
/// # Errors
/// [`OtError::Size`] if `betas` has the wrong length, [`OtError::Range`] if the batch is too large,
/// otherwise [`OtError::Channel`], [`OtError::Malformed`] or, for a peer that deviated,
/// [`OtError::Inconsistent`], after which `ot` refuses everything with [`OtError::Failed`].
pub fn generate(
    channel: &mut (impl Channel + ?Sized),
    ot: &mut OtPair,
    shape: TableShape,
    n: usize,
    betas: &[Word],
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<TableBatch, OtError> {
    let max = shape.max_batch();
    if n > max {
        return Err(OtError::Range { what: "tables in a batch", min: 0, max, actual: n });
    }
    let expected = n * shape.given();
    if betas.len() != expected {
        return Err(OtError::Size { what: "payload shares", expected, actual: betas.len() });
    }
    let mut writer = RecordWriter::new(shape, n);
    if n == 0 {
        return Ok(writer.finish());
    }
    let (mut batch, mut trees, first) = begin(channel, ot, shape, n, rng)?;

    // Steps 2 and 3.
    let (message, mut halves) = batch.share_halves(betas);
    let sums = trees.hash_sums();
    let words = batch.correct_first(channel, first, &sums, (message, &mut halves), &mut writer)?;
    trees.words.push(words);
    for level in 1..shape.depth() {
        let mut words = batch.correction(level, &trees.hash_sums());
        let opened = channel.exchange(later_turn(batch.role), &words_bytes(&words), 16 * n)?;
        open_words(&mut words, &opened);
        trees.words.push(words);
    }
    for i in 0..n {
        writer.set_name(i, trees.tag, trees.numbers[i]);
        writer.set_root(i, trees.roots[i]);
        (0..shape.depth()).for_each(|level| writer.set_correction(i, level, trees.words[level as usize][i]));
    }

    // Step 4.
    batch.correct_leaves(channel, (betas, &halves), &trees.leaf_sums(), &mut writer)?;
    ot.settle();
    Ok(writer.finish())
}

/// Step 1.
fn begin(
    channel: &mut (impl Channel + ?Sized),
    ot: &mut OtPair,
    shape: TableShape,
    n: usize,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(Batch, Trees, First), OtError> {
    let (sent, received, first) = match ot.extend(channel, (shape.k() as usize + 1) * n, rng)? {
        Extended::Proved(sent, received, proof) => (sent, received, First::Proof(proof)),
        Extended::Unproved(unproved) => {
            let of_proof = unproved.proof_bytes();
            let mut message = channel.recv(of_proof + first_bytes(shape, n, Role::Server))?;
            let opened = message.split_off(of_proof);
            let (sent, received) = unproved.verify(&message)?;
            (sent, received, First::Opened(opened))
        }
    };
    let role = ot.role();
    let trees = Trees::plant(role, shape, n, &sent, &received);
    Ok((Batch { role, shape, n, sent, received }, trees, first))
}

/// The turns after the extension, which the client ends: the server speaks first.
fn later_turn(role: Role) -> Turn {
    role.other().turn()
}

/// What the server's proof is sent with.
enum First {
    /// At the server: the proof that goes in front of our first words.
    Proof(Vec<u8>),
    /// At the client: the server's first words, which came behind its proof.
    Opened(Vec<u8>),
}

/// Bytes of the first words of `role` and what travels with them.
fn first_bytes(shape: TableShape, n: usize, role: Role) -> usize {
    let index = match role {
        Role::Client => 0,
        Role::Server => index_message_bytes(shape.k(), n),
    };
    16 * n + 8 * shape.half_words() * n + index
}

fn words_bytes(words: &[u128]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Adds the peer's shares.
fn open_words(words: &mut [u128], opened: &[u8]) {
    for (word, other) in words.iter_mut().zip(opened.chunks_exact(16)) {
        *word ^= u128::from_le_bytes(other.try_into().expect("chunks of sixteen"));
    }
}

/// All trees of a batch: their roots, and the public correction words of the levels so far.
struct Trees {
    shape: TableShape,
    tag: Tag,
    numbers: Vec<u32>,
    roots: Zeroizing<Vec<u128>>,
    words: Vec<Vec<u128>>,
}

impl Trees {
    /// The root is `Δ_b` and the number of the table's first transfer, which is the same on both
    /// sides and used once. Its lower half is the number of the tree.
    fn plant(role: Role, shape: TableShape, n: usize, sent: &RotSent, received: &RotReceived) -> Trees {
        let first = match role {
            Role::Client => sent.first(),
            Role::Server => received.first(),
        };
        let numbers = first..first + n as u64;
        let roots = numbers.clone().map(|number| sent.delta() ^ (number as u128) << 1).collect();
        Trees {
            shape,
            tag: sent.tag(),
            numbers: numbers.map(|number| number as u32).collect(),
            roots: Zeroizing::new(roots),
            words: Vec::new(),
        }
    }

    /// What `visit` returns for the trees with the roots and correction words that it is given.
    fn visit<V: Copy + Default + Send + Zeroize>(
        &self,
        visit: impl Fn(&mut Grove<TREES>, &[u128; TREES], &[[u128; TREES]]) -> [V; TREES] + Sync,
    ) -> Zeroizing<Vec<V>> {
        let n = self.roots.len();
        let mut values = Zeroizing::new(vec![V::default(); n]);
        values.par_chunks_mut(TREES).with_min_len(TASK).enumerate().for_each_init(
            || (Grove::new(self.shape.depth()), Vec::with_capacity(self.words.len())),
            |(grove, words), (group, values)| {
                // The last group is filled up with copies of its last tree.
                let place = |i: usize| (group * TREES + i).min(n - 1);
                let of = |all: &[u128]| core::array::from_fn(|i| all[place(i)]);
                words.clear();
                words.extend(self.words.iter().map(|level| of(level)));
                grove.rekey(self.tag, &core::array::from_fn(|i| self.numbers[place(i)]), words.len());
                let found = visit(grove, &Zeroizing::new(of(&self.roots)), words);
                values.copy_from_slice(&found[..values.len()]);
            },
        );
        values
    }

    /// `z` of each table.
    fn hash_sums(&self) -> Zeroizing<Vec<u128>> {
        self.visit(|grove, roots, words| grove.hash_sums(roots, words))
    }

    /// The sums over the leaves of each table.
    fn leaf_sums(&self) -> Zeroizing<Vec<LeafSums>> {
        self.visit(|grove, roots, words| {
            let (last, words) = words.split_last().expect("a tree of several levels");
            let (mut sums, shape) = ([[[0; 2]; TREES]; MAX_PAIRS], self.shape);
            let counts = grove.leaf_sums(roots, (words, last), &mut sums[..shape.blocks()]);
            core::array::from_fn(|tree| {
                let mut leaves = LeafSums { count: counts[tree], ..LeafSums::default() };
                for half in 0..shape.halves() {
                    for payload in 0..shape.m() {
                        let sum = sums[shape.block(half, payload / 2)][tree][payload % 2];
                        leaves.converted[shape.word(half, payload)] = Wrapping(sum);
                    }
                }
                leaves
            })
        })
    }
}

/// `Σ_j t[j]` and `Σ_j Conv_{ℓ,c}(s[j])` of one table.
#[derive(Clone, Copy, Default, Zeroize)]
struct LeafSums {
    count: u32,
    converted: [Word; MAX_WORDS],
}

/// The interactive part: our side of the transfers of a batch. Transfer `level·n + i` belongs to
/// table `i`.
pub(super) struct Batch {
    pub(super) role: Role,
    pub(super) shape: TableShape,
    pub(super) n: usize,
    pub(super) sent: RotSent,
    pub(super) received: RotReceived,
}

impl Batch {
    /// Our share `α_{b,level}` of the index bit of table `i`. The choices share its complement: one
    /// of them is flipped.
    pub(super) fn index_bit(&self, level: u32, i: usize) -> u8 {
        self.received.choice(level as usize * self.n + i) ^ self.role.index() as u8
    }

    /// The transfers of one level.
    pub(super) fn range(&self, level: u32) -> core::ops::Range<usize> {
        level as usize * self.n..(level as usize + 1) * self.n
    }

    /// Our share of the correction words of one level, from the sums of its hashes.
    fn correction(&self, level: u32, sums: &[u128]) -> Vec<u128> {
        let range = self.range(level);
        let (sent, received) = (self.sent.correlated(range.clone()), self.received.correlated(range.clone()));
        (range.zip(sums).zip(sent).zip(received))
            .map(|(((transfer, z), q), t)| {
                z ^ q ^ t ^ (bits::mask(self.received.choice(transfer)) & self.sent.delta())
            })
            .collect()
    }

    /// Opens the correction words of level 0, makes the additive indices, and completes the shares
    /// of `u`: `halves` is our message and what we hold of them.
    fn correct_first(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        first: First,
        sums: &[u128],
        (halves, shares): (Vec<u8>, &mut [Word]),
        writer: &mut RecordWriter,
    ) -> Result<Vec<u128>, OtError> {
        let mut words = self.correction(0, sums);
        let (of_words, of_halves) = (16 * self.n, halves.len());
        let mut message = words_bytes(&words);
        message.extend_from_slice(&halves);
        let opened = match first {
            First::Proof(proof) => {
                let index = self.share_index_as_server(writer);
                channel.send(&[&proof[..], &message, &index].concat())?;
                channel.recv(first_bytes(self.shape, self.n, Role::Client))?
            }
            First::Opened(opened) => {
                channel.send(&message)?;
                self.share_index_as_client(&opened[of_words + of_halves..], writer);
                opened
            }
        };
        open_words(&mut words, &opened[..of_words]);
        self.add_halves(&parse(&opened[of_words..][..of_halves], "half of a payload")?, shares);
        Ok(words)
    }

    /// Step 4 from the leaf sums on: opens the final words.
    fn correct_leaves(
        &mut self,
        channel: &mut (impl Channel + ?Sized),
        (betas, halves): (&[Word], &[Word]),
        leaves: &[LeafSums],
        writer: &mut RecordWriter,
    ) -> Result<(), OtError> {
        let (n, k, shape) = (self.n, self.shape.k(), self.shape);
        let (corrected, words) = (shape.corrected(), shape.finals());
        let first = k as usize * n;
        // Our factor of the sign; its bit is the choice of the last transfer, moved there by one
        // bit.
        let sign = |count: u32| match self.role {
            Role::Client => (count >> 1) as u8 & 1,
            Role::Server => (count >> 1 ^ count) as u8 & 1,
        };
        let signs: Zeroizing<Vec<u8>> = Zeroizing::new(leaves.iter().map(|leaf| sign(leaf.count)).collect());
        let moves = bits::pack(signs.iter().enumerate().map(|(i, s)| s ^ self.received.choice(first + i)));
        let moved = channel.exchange(later_turn(self.role), &moves, moves.len())?;

        // Word by word: x = ±V_b, and its multiplication by the peer's factor: offsets m_0 − m_1 −
        // 2x, our share x − m_0. A pad of 128 bits is two of 64, for the two halves of a payload.
        let mut offsets = vec![Wrapping(0); n * words];
        let mut shares = Zeroizing::new(vec![Wrapping(0); n * words]);
        for payload in 0..corrected {
            let [m0, m1] = self.sent.pads(self.range(k), FINAL + payload as u8);
            for half in 0..shape.halves() {
                let word = shape.word(half, payload);
                let offsets = &mut offsets[word * n..][..n];
                let shares = &mut shares[word * n..][..n];
                for i in 0..n {
                    let beta = match (half, halves.get(payload * n + i)) {
                        (0, None) => self.beta(betas, payload, i),
                        (0, Some(upper)) => self.beta(betas, payload, i) - *upper,
                        (_, upper) => upper.copied().unwrap_or_default(),
                    };
                    let v = match self.role {
                        Role::Client => beta - leaves[i].converted[word],
                        Role::Server => beta + leaves[i].converted[word],
                    };
                    let x = v * sign_of(signs[i]);
                    let swap = bits::mask(bits::get(&moved, i)) & (m0[i] ^ m1[i]);
                    let [m0, m1] = [m0[i] ^ swap, m1[i] ^ swap].map(|pad| part(pad, half));
                    offsets[i] = m0 - m1 - x - x;
                    shares[i] = x - m0;
                }
            }
        }
        let offsets = channel.exchange(later_turn(self.role), &words_to_bytes(&offsets), 8 * n * words)?;
        let offsets = parse(&offsets, "final offset")?;
        for payload in 0..corrected {
            let pads = self.received.pads(self.range(k), FINAL + payload as u8);
            for half in 0..shape.halves() {
                let first = shape.word(half, payload) * n;
                let shares = shares[first..][..n].iter_mut().zip(&offsets[first..][..n]);
                for ((share, offset), (pad, sign)) in shares.zip(pads.iter().zip(signs.iter())) {
                    *share += part(*pad, half) + *offset * Wrapping(*sign as u64);
                }
            }
        }

        let opened = channel.exchange(later_turn(self.role), &words_to_bytes(&shares), 8 * n * words)?;
        let opened = parse(&opened, "final word")?;
        for i in 0..n {
            for word in 0..words {
                writer.set_word(i, word, shares[word * n + i] + opened[word * n + i]);
            }
            // Shares of what the leaves make of payloads without a final word.
            for payload in corrected..shape.m() {
                let sum = leaves[i].converted[shape.word(0, payload)];
                let share = if self.role == Role::Client { sum } else { -sum };
                writer.set_word(i, words + payload - corrected, share);
            }
        }
        Ok(())
    }
}

/// The lower or upper 64 bits of a pad.
pub(super) fn part(pad: u128, number: usize) -> Word {
    Wrapping((pad >> (64 * number)) as u64)
}

/// `1 − 2·bit`.
pub(super) fn sign_of(bit: u8) -> Word {
    Wrapping(1) - Wrapping(2 * bit as u64)
}

fn parse(bytes: &[u8], what: &'static str) -> Result<Vec<Word>, OtError> {
    words_from_bytes(bytes).ok_or(OtError::Malformed { what, index: bytes.len() / 8 })
}
