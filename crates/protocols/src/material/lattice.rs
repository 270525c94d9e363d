//! The client's lattice keys of a connection, and what the two parties make of results.
//!
//! The server has none: it computes on what the client encrypts, and never decrypts.

use std::marker::PhantomData;

use cryptogen_he::opening::{self, Challenge};
use cryptogen_he::shares::{Nonces, PublicKey, RESULT_BYTES};
use cryptogen_he::{linear, Combiner, Layout, Params, SecretKey, N};
use cryptogen_party::{Channel, Party, Role};
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;

use crate::error::{ProtocolError, Result};

/// What a party has of the client's keys, which are fresh for every connection.
pub struct LatticeKeys<P: Party> {
    pub(crate) held: Held,
    _party: PhantomData<P>,
}

/// Halves of two pairs: the client's shares that come out of one are encrypted under the other.
pub(crate) enum Held {
    /// the client's
    Client {
        /// of element-wise products and attention
        slots: SecretKey,
        /// of `Linear`
        linear: linear::SecretKey,
    },
    /// the server's
    Server {
        /// of the first
        params: &'static Params,
        /// of element-wise products and attention
        slots: PublicKey,
        /// of `Linear`
        linear: PublicKey,
    },
}

impl<P: Party> LatticeKeys<P> {
    /// 1. C→S a nonce, S→C a nonce.
    /// 2. C→S public keys, whose `a` follows from both nonces: so neither party chooses it.
    /// 3. A test of each: S→C challenges, C→S commitments, S→C the challenges' seeds, C→S openings
    ///    ([`opening`]). That of `Linear` needs it because the server's share of the head is
    ///    released with the logits; under a malformed one of the other, products would be wrong as
    ///    the client chooses.
    ///
    /// # Errors
    /// Connection failures, malformed keys, a key that the client cannot decrypt under, a challenge
    /// that does not follow from its seed.
    pub fn exchange(ch: &mut dyn Channel, params: &'static Params, rng: &mut Prg) -> Result<LatticeKeys<P>> {
        let mut mine = [0; 32];
        rand_core::RngCore::fill_bytes(rng, &mut mine);
        let theirs = ch.exchange(P::ROLE.turn(), &mine, mine.len())?;
        let theirs: [u8; 32] = theirs[..].try_into().expect("as long as was asked for");
        let held = match P::ROLE {
            Role::Client => {
                let nonces = Nonces { client: mine, server: theirs };
                let slots = SecretKey::generate(params, rng);
                let linear = linear::SecretKey::generate(rng);
                let of_linear = linear.public_key(&nonces, rng);
                let of_slots = slots.public_key(&nonces, rng);
                ch.send(&[of_slots.to_bytes(), of_linear.to_bytes()].concat())?;
                let first = opening::challenge_bytes(params.ring());
                let both = first + opening::challenge_bytes(linear::Params::get().ring());
                let challenges = ch.recv(both)?;
                let (challenge_slots, challenge_linear) = challenges.split_at(first);
                let (answer_slots, commitment_slots) = slots.answer(challenge_slots, rng)?;
                let (answer_linear, commitment_linear) = linear.answer(challenge_linear, rng)?;
                ch.send(&[commitment_slots, commitment_linear].concat())?;
                let [seed_slots, seed_linear] = recv_pair(ch)?;
                let opening = answer_slots.open(&of_slots, seed_slots)?;
                ch.send(&[opening, answer_linear.open(&of_linear, seed_linear)?].concat())?;
                Held::Client { slots, linear }
            }
            Role::Server => {
                let nonces = Nonces { client: theirs, server: mine };
                let of_slots = PublicKey::bytes(params.ring());
                let bytes = ch.recv(of_slots + PublicKey::bytes(linear::Params::get().ring()))?;
                let (slots, linear) = bytes.split_at(of_slots);
                let slots = PublicKey::from_bytes(params.ring(), &nonces, slots)?;
                let linear = PublicKey::from_bytes(linear::Params::get().ring(), &nonces, linear)?;
                let (challenge_slots, message_slots) = Challenge::new(&slots, rng);
                let (challenge_linear, message_linear) = Challenge::new(&linear, rng);
                ch.send(&[message_slots, message_linear].concat())?;
                let [commitment_slots, commitment_linear] = recv_pair(ch)?;
                let (revealed_slots, seed_slots) = challenge_slots.reveal(commitment_slots);
                let (revealed_linear, seed_linear) = challenge_linear.reveal(commitment_linear);
                ch.send(&[seed_slots, seed_linear].concat())?;
                let first = opening::opening_bytes(params.ring());
                let openings = ch.recv(first + opening::opening_bytes(linear::Params::get().ring()))?;
                let (opening_slots, opening_linear) = openings.split_at(first);
                revealed_slots.check(opening_slots)?;
                revealed_linear.check(opening_linear)?;
                Held::Server { params, slots, linear }
            }
        };
        Ok(LatticeKeys { held, _party: PhantomData })
    }
}

/// What belongs to one key and to the other, in one message.
fn recv_pair(ch: &mut dyn Channel) -> Result<[[u8; opening::BYTES]; 2]> {
    let bytes = ch.recv(2 * opening::BYTES)?;
    let half = |i: usize| bytes[i * opening::BYTES..][..opening::BYTES].try_into();
    Ok([0, 1].map(|i| half(i).expect("as long as was asked for")))
}

/// The layout of `f` slots; `f` is a power of two up to N.
pub(crate) fn slots(f: usize) -> Layout {
    Layout::new(f.trailing_zeros()).expect("a power of two up to N")
}

/// Server: its shares `[n][N]` of combinations of the client's ciphertexts, and the message from
/// which the client makes its own.
pub(crate) fn hide(key: &PublicKey, combiner: Combiner, seed: &Seed) -> Result<(Vec<Fp>, Vec<u8>)> {
    let (bytes, shares) = combiner.finish_shares(key, &mut Prg::new(&seed.derive("hide", 0)))?;
    Ok((shares, bytes))
}

/// Client: its shares `[n][N]` of what the server has hidden.
pub(crate) fn client_shares(key: &SecretKey, layout: Layout, bytes: &[u8]) -> Result<Vec<Fp>> {
    let mut shares = vec![Fp::ZERO; bytes.len() / RESULT_BYTES * N];
    bytes.par_chunks(RESULT_BYTES).zip(shares.par_chunks_mut(N)).try_for_each(|(bytes, share)| {
        share.copy_from_slice(&key.share(bytes, layout)?);
        Ok::<_, ProtocolError>(())
    })?;
    Ok(shares)
}
