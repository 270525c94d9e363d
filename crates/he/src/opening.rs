//! One test per connection that the key owner can decrypt under the public key it sent.
//!
//! **Function.** Where an evaluator's share `round(c_0·p/q)` of a hidden result is released, it
//! must tell nothing that the result does not: `c_0 = S_0 + b·v`, and for a `b` of another form
//! than `−a·s + e` it would tell of `v`, hence with `c_1` of the weights ([`crate::shares`]). The
//! evaluator therefore encrypts under the key an `x` that is uniform modulo the whole of `q`,
//! `(b·u + e_1 + x, a·u + e_2)` with all randomness from one seed; the key owner commits to its
//! decryption, `round((x + noise)·p/q)`; the evaluator reveals the seed; the key owner recomputes
//! the ciphertext from it and opens, and says where noise has taken `x` across an edge of the
//! rounding. It can only near one, where the evaluator accepts both sides.
//! **Shows.** Whoever opens knew `round(x·p/q)`, up to a unit near edges. As `x` is uniform, the
//! ciphertext's first part is, whatever `b·u` is. So the owner knew `b·u` up to `q/(2p)` otherwise:
//! from `a·u + e_2`, or by a guess. What a share holds of `b·v` beyond its last place then follows
//! from `c_1`, but for what was guessed: a key under which every share tells `j` bits of its `v`
//! opens with probability `2^−j` if these bits are uniform. Modulo 2 there are such keys for every
//! small `j`, as `X^n + 1` is `(1 + X)^n` there, and the least tell a parity. `j` bits make a fresh
//! ternary `v` of thousands of coefficients easier to find by a factor of `2^j` at most. (Of an `x`
//! that is a multiple of `q/p`, as a message is, the rest modulo `q/p` would be that of `b·u`, and
//! a key that shows `u` there and `v` above would open every time; of an `x` that keeps away from
//! edges, the rest would show a parity.)
//! **Hides.** A ciphertext that is no honest encryption is not opened, and a commitment hides (a
//! hash of a nonce of 32 bytes), so the evaluator gets no decryption that it did not know. What the
//! owner says of edges are inequalities on the noise of one ciphertext, in some 32 coefficients of
//! 4096 in the ring of `Linear` and in none of slots: of thousands of bits of a key they tell few.
//! **Cost.** Both polynomials of a ciphertext, 96 bytes and a bit for each coefficient, two round
//! trips, milliseconds.

use cryptogen_ring::{kernels, Fp, Modulus, Prg, Seed, Wiped};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::codec::{pack, packed_bytes, unpack};
use crate::encode::Terms;
use crate::error::HeError;
use crate::keys::SecretKey;
use crate::ring::Ring;
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};
use crate::shares::{field_coefficients, PublicKey};
use crate::{error, linear};

/// Bytes of a seed, a commitment and a nonce.
pub const BYTES: usize = 32;
/// What noise of a ciphertext stays below: 14 of its standard deviations.
const ROOM: u32 = 1 << 12;

/// Length of the evaluator's first message.
pub fn challenge_bytes(ring: &Ring) -> usize {
    2 * packed_bytes(ring.limbs() * ring.n())
}

/// Length of an opening: a nonce, and a bit for each coefficient.
pub fn opening_bytes(ring: &Ring) -> usize {
    BYTES + ring.n() / 8
}

/// The evaluator, before it has a commitment.
pub struct Challenge {
    ring: &'static Ring,
    seed: Seed,
    /// Coefficients, `[limbs][n]`.
    x: Wiped<u32>,
}

impl Challenge {
    /// A challenge for the owner of `key`, and its message of [`challenge_bytes`] bytes.
    pub fn new(key: &PublicKey, rng: &mut (impl RngCore + CryptoRng)) -> (Challenge, Vec<u8>) {
        let seed = Seed::random(rng);
        let (x, message) = encryption(key, &seed);
        (Challenge { ring: key.ring(), seed, x }, message)
    }

    /// Takes the commitment and reveals the seed.
    pub fn reveal(self, commitment: [u8; BYTES]) -> (Revealed, [u8; BYTES]) {
        let seed = *self.seed.expose();
        (Revealed { ring: self.ring, x: self.x, commitment }, seed)
    }
}

/// The evaluator, waiting for the opening.
pub struct Revealed {
    ring: &'static Ring,
    x: Wiped<u32>,
    commitment: [u8; BYTES],
}

impl Revealed {
    /// Errors: the length; the commitment was not to the decryption of the challenge, so the public
    /// key may be malformed.
    pub fn check(self, opening: &[u8]) -> Result<(), HeError> {
        error::check_length("opening", opening_bytes(self.ring), opening.len())?;
        let (nonce, crossed) = opening.split_at(BYTES);
        let [low, mut decryption, high] =
            [Modulus::sub, unmoved, Modulus::add].map(|by| rounded(self.ring, &self.x, by));
        for (i, y) in decryption.iter_mut().enumerate() {
            if crossed[i / 8] >> (i % 8) & 1 == 1 {
                // Where no edge is near this is `y` itself.
                *y = low[i] + high[i] - *y;
            }
        }
        match commit(nonce, &decryption) == self.commitment {
            true => Ok(()),
            false => Err(HeError::Opening { what: "the public key cannot be decrypted under" }),
        }
    }
}

/// The key owner, committed to its decryption.
pub struct Answer {
    challenge: Vec<u8>,
    nonce: Zeroizing<[u8; BYTES]>,
    decryption: Wiped<Fp>,
}

impl Answer {
    fn new(
        ring: &'static Ring,
        negated: &[u32],
        challenge: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Answer, [u8; BYTES]), HeError> {
        let decryption = field_coefficients(ring, &phase(ring, negated, challenge)?);
        let mut nonce = Zeroizing::new([0; BYTES]);
        rng.fill_bytes(&mut *nonce);
        let commitment = commit(&*nonce, &decryption);
        Ok((Answer { challenge: challenge.to_vec(), nonce, decryption }, commitment))
    }

    /// The opening, of [`opening_bytes`] bytes. Error: the challenge is not what the evaluator's
    /// seed makes of the public key; then nothing may be sent.
    pub fn open(self, key: &PublicKey, seed: [u8; BYTES]) -> Result<Vec<u8>, HeError> {
        let (x, challenge) = encryption(key, &Seed::from_bytes(seed));
        if challenge != self.challenge {
            return Err(HeError::Opening { what: "the challenge does not follow from its seed" });
        }
        let exact = rounded(key.ring(), &x, unmoved);
        let mut opening = self.nonce.to_vec();
        let eights = self.decryption.chunks_exact(8).zip(exact.chunks_exact(8));
        opening.extend(eights.map(|(y, exact)| {
            let crossed = y.iter().zip(exact).rev();
            crossed.fold(0, |byte, (y, exact)| byte << 1 | u8::from(y != exact))
        }));
        Ok(opening)
    }
}

/// `round(x·p/q)` of coefficients that are moved by [`ROOM`] or not at all.
fn rounded(ring: &Ring, x: &[u32], by: fn(&Modulus, u32, u32) -> u32) -> Wiped<Fp> {
    let mut x = Wiped::new(x.to_vec());
    for (limb, x) in x.chunks_exact_mut(ring.n()).enumerate() {
        x.iter_mut().for_each(|x| *x = by(ring.modulus(limb), *x, ROOM));
    }
    field_coefficients(ring, &x)
}

fn unmoved(_: &Modulus, x: u32, _: u32) -> u32 {
    x
}

/// `c_0 + c_1·s`, coefficients modulo all primes.
fn phase(ring: &Ring, negated: &[u32], challenge: &[u8]) -> Result<Wiped<u32>, HeError> {
    error::check_length("challenge", challenge_bytes(ring), challenge.len())?;
    let (c0, c1) = challenge.split_at(challenge.len() / 2);
    let (mut phase, c1) = (Wiped::new(unpack(ring, "challenge", c0)?), unpack(ring, "challenge", c1)?);
    let (n, mut product) = (ring.n(), Wiped::zeros(ring.n()));
    for (limb, phase) in phase.chunks_exact_mut(n).enumerate() {
        let (q, range) = (ring.modulus(limb), limb * n..(limb + 1) * n);
        kernels::multiply(q, &c1[range.clone()], &negated[range], &mut product);
        Terms::new(q).add(q.neg(1), &product).add_to(phase);
        ring.ntt(limb).inverse(phase, 0..ring.log_n());
    }
    Ok(phase)
}

impl SecretKey {
    /// Decrypts a challenge and commits to the message: the state and the commitment. Errors: the
    /// length, a residue that is not canonical.
    pub fn answer(
        &self,
        challenge: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Answer, [u8; BYTES]), HeError> {
        Answer::new(self.params().ring(), self.negated(), challenge, rng)
    }
}

impl linear::SecretKey {
    /// Decrypts a challenge and commits to the message: the state and the commitment. Errors: the
    /// length, a residue that is not canonical.
    pub fn answer(
        &self,
        challenge: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Answer, [u8; BYTES]), HeError> {
        Answer::new(linear::Params::get().ring(), self.negated(), challenge, rng)
    }
}

/// The uniform coefficients `[limbs][n]` and their encryption, both polynomials packed in the full
/// domain.
fn encryption(key: &PublicKey, seed: &Seed) -> (Wiped<u32>, Vec<u8>) {
    let (ring, n) = (key.ring(), key.ring().n());
    let x = Wiped::new(ring.uniform(seed.derive("opening", 0).expose()));
    let mut rng = Prg::new(seed);
    let (u, errors) = (sample::ternary(&mut rng, n), [(); 2].map(|()| sample::error(&mut rng, n)));
    let mut c = [(); 2].map(|()| vec![0; ring.limbs() * n]);
    let mut u_full = Wiped::zeros(n);
    for limb in 0..ring.limbs() {
        let (q, ntt, range) = (ring.modulus(limb), ring.ntt(limb), limb * n..(limb + 1) * n);
        u_full.fill(0);
        Terms::new(q).add_offset(&u, TERNARY_OFFSET).add_to(&mut u_full);
        ntt.forward(&mut u_full, 0..ring.log_n());
        for (component, c) in c.iter_mut().enumerate() {
            let c = &mut c[range.clone()];
            let terms = Terms::new(q).add_offset(&errors[component], ERROR_OFFSET);
            match component {
                0 => terms.add(1, &x[range.clone()]).add_to(c),
                _ => terms.add_to(c),
            }
            ntt.forward(c, 0..ring.log_n());
            kernels::multiply_add(q, &key.component(component)[range.clone()], &u_full, c);
        }
    }
    let mut message = Vec::with_capacity(challenge_bytes(ring));
    c.iter().for_each(|c| pack(c, &mut message));
    (x, message)
}

/// SHA-256 of a label, the nonce and the message.
fn commit(nonce: &[u8], message: &[Fp]) -> [u8; BYTES] {
    let mut hash = Sha256::new().chain_update("cryptogen opening").chain_update(nonce);
    message.iter().for_each(|x| hash.update(x.to_le_bytes()));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shares::{field, owner_share, ClientWork, Hidden, Nonces};
    use crate::tests::excess;
    use crate::{ParamSet, Params};
    use cryptogen_ring::P;

    const NONCES: Nonces = Nonces { client: [1; 32], server: [2; 32] };

    #[test]
    fn both_rings_open() {
        let mut rng = Prg::new(&Seed::from_bytes([1; 32]));
        let small = linear::SecretKey::generate(&mut rng);
        let key = small.public_key(&NONCES, &mut rng);
        let (challenge, message) = Challenge::new(&key, &mut rng);
        let (answer, commitment) = small.answer(&message, &mut rng).unwrap();
        let (revealed, seed) = challenge.reveal(commitment);
        assert_eq!(revealed.check(&answer.open(&key, seed).unwrap()), Ok(()));

        let large = SecretKey::generate(Params::get(ParamSet::N8192Q196), &mut rng);
        let key = large.public_key(&NONCES, &mut rng);
        let (challenge, message) = Challenge::new(&key, &mut rng);
        let (answer, commitment) = large.answer(&message, &mut rng).unwrap();
        let (revealed, seed) = challenge.reveal(commitment);
        assert_eq!(revealed.check(&answer.open(&key, seed).unwrap()), Ok(()));
    }

    /// Noise takes some coefficient across an edge in about every other test of `Linear`.
    #[test]
    fn a_decryption_beyond_an_edge_opens_there_alone() {
        let mut rng = Prg::new(&Seed::from_bytes([8; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let key = sk.public_key(&NONCES, &mut rng);
        let mut all = 0;
        for _ in 0..32 {
            let (challenge, message) = Challenge::new(&key, &mut rng);
            let (answer, commitment) = sk.answer(&message, &mut rng).unwrap();
            let (revealed, seed) = challenge.reveal(commitment);
            let opening = answer.open(&key, seed).unwrap();
            all += opening[BYTES..].iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert_eq!(revealed.check(&opening), Ok(()));
        }
        assert!((8..64).contains(&all), "{all} of 32·4096");
        // Another number somewhere, and every bit that says that noise has done it.
        let (challenge, message) = Challenge::new(&key, &mut rng);
        let (mut answer, _) = sk.answer(&message, &mut rng).unwrap();
        let edges = [Modulus::sub as fn(&Modulus, u32, u32) -> u32, Modulus::add]
            .map(|by| rounded(challenge.ring, &challenge.x, by));
        let far = (0..challenge.ring.n()).find(|&i| edges[0][i] == edges[1][i]).unwrap();
        answer.decryption[far] += Fp::ONE;
        let (revealed, seed) = challenge.reveal(commit(&*answer.nonce, &answer.decryption));
        assert!(revealed.check(&answer.open(&key, seed).unwrap()).is_err());
    }

    #[test]
    fn malformed_keys_do_not_open() {
        let mut rng = Prg::new(&Seed::from_bytes([2; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let ring = linear::Params::get().ring();
        let honest = sk.public_key(&NONCES, &mut rng);
        // A key of another secret, and one with a coefficient of transformed b changed, which adds
        // large numbers to all of b.
        let foreign = linear::SecretKey::generate(&mut rng).public_key(&NONCES, &mut rng);
        let mut bytes = honest.to_bytes();
        bytes[0] ^= 1;
        let changed = PublicKey::from_bytes(ring, &NONCES, &bytes).unwrap();
        for key in [foreign, changed] {
            let (challenge, message) = Challenge::new(&key, &mut rng);
            let (answer, commitment) = sk.answer(&message, &mut rng).unwrap();
            let (revealed, seed) = challenge.reveal(commitment);
            let error = revealed.check(&answer.open(&key, seed).unwrap());
            assert!(matches!(error, Err(HeError::Opening { .. })));
        }
    }

    /// The attack that the test is for: each coefficient of the evaluator's share would hold one of
    /// its secret `v`, scaled so far that 24 bits of a logit show it.
    #[test]
    fn a_key_that_makes_shares_tell_of_their_mask_does_not_open() {
        let mut rng = Prg::new(&Seed::from_bytes([4; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let ring = linear::Params::get().ring();
        let honest = sk.public_key(&NONCES, &mut rng);
        for bits in [1, 20, 40] {
            // b + D in the full domain, D = 2^bits·q/p to the nearest power of two.
            let mut b = honest.component(0).to_vec();
            for (limb, b) in b.chunks_exact_mut(ring.n()).enumerate() {
                let (q, d) = (ring.modulus(limb), ring.modulus(limb).pow(2, 20 + bits));
                b.iter_mut().for_each(|b| *b = q.add(*b, d));
            }
            let mut bytes = vec![];
            pack(&b, &mut bytes);
            let malformed = PublicKey::from_bytes(ring, &NONCES, &bytes).unwrap();
            let (challenge, message) = Challenge::new(&malformed, &mut rng);
            // The best that it can do is to decrypt as if the key were honest.
            let (answer, commitment) = sk.answer(&message, &mut rng).unwrap();
            let (revealed, seed) = challenge.reveal(commitment);
            let error = revealed.check(&answer.open(&malformed, seed).unwrap());
            assert!(matches!(error, Err(HeError::Opening { .. })), "2^{bits}");
        }
    }

    /// What the test leaves: `b + D` with `D = round(q/2)·(1 + X + … + X^{n−1})`. Modulo 2 that is
    /// `(1 + X)^{n−1}`, so `D·u` is the parity of `u` times `q/2` in every coefficient, but for
    /// some hundred units: whoever guesses that bit opens, and learns the parity of every `v`.
    #[test]
    fn a_guess_of_one_bit_opens_and_tells_one_bit_of_each_mask() {
        let mut rng = Prg::new(&Seed::from_bytes([5; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let ring = linear::Params::get().ring();
        let honest = sk.public_key(&NONCES, &mut rng);
        // round(q/2) modulo each prime, `(q − 1)/2`.
        let half = |limb: usize| ring.modulus(limb).neg(ring.modulus(limb).inv(2));
        let mut b = honest.component(0).to_vec();
        for (limb, b) in b.chunks_exact_mut(ring.n()).enumerate() {
            let (q, mut d) = (ring.modulus(limb), vec![half(limb); ring.n()]);
            ring.ntt(limb).forward(&mut d, 0..ring.log_n());
            b.iter_mut().zip(d).for_each(|(b, d)| *b = q.add(*b, d));
        }
        let mut bytes = vec![];
        pack(&b, &mut bytes);
        let malformed = PublicKey::from_bytes(ring, &NONCES, &bytes).unwrap();
        let mut opened = 0;
        for _ in 0..64 {
            let (challenge, message) = Challenge::new(&malformed, &mut rng);
            // Guesses that the parity is 1: takes q/2 off every coefficient.
            let mut guessed = message.clone();
            let (c0, _) = guessed.split_at_mut(message.len() / 2);
            let mut moved = unpack(ring, "challenge", c0).unwrap();
            for (limb, c) in moved.chunks_exact_mut(ring.n()).enumerate() {
                let (q, mut d) = (ring.modulus(limb), vec![half(limb); ring.n()]);
                ring.ntt(limb).forward(&mut d, 0..ring.log_n());
                c.iter_mut().zip(d).for_each(|(c, d)| *c = q.sub(*c, d));
            }
            let mut packed = vec![];
            pack(&moved, &mut packed);
            c0.copy_from_slice(&packed);
            let (mut answer, commitment) = sk.answer(&guessed, &mut rng).unwrap();
            answer.challenge = message;
            let (revealed, seed) = challenge.reveal(commitment);
            opened += revealed.check(&answer.open(&malformed, seed).unwrap()).is_ok() as usize;
        }
        assert!((16..48).contains(&opened), "{opened} of 64");
        // A result of zero under such a key: every coefficient of both shares together says the
        // same bit, 0 or p/2.
        let zero = vec![0; ring.n()];
        let (mut hidden, mut work) = (Hidden::new(ring), ClientWork::new(ring));
        let mut ones = 0;
        for _ in 0..64 {
            hidden.hide(&malformed, 0, |_, _| &zero[..], &mut rng);
            let mut sent = vec![0; linear::OUTPUT_BYTES];
            hidden.write(&mut sent);
            let mut far = 0;
            owner_share(ring, sk.negated(), &sent, &mut work, |i, y| {
                far += ((field(y) + hidden.share(i)).to_i64().unsigned_abs() > 1 << 62) as usize;
            })
            .unwrap();
            assert!(far == 0 || far == ring.n(), "{far}");
            ones += (far > 0) as usize;
        }
        assert!((16..48).contains(&ones), "{ones} of 64");
    }

    /// `b + D` with the constant `D = (2^40 + 1/3)·q/p`: each coefficient of a share holds one of
    /// `v`, `2^40` times. The owner decrypts a challenge for each of the three values that a
    /// coefficient of `u` can have, and takes the one of which least is left modulo `q/p`. Until
    /// version 8 of the wire protocol challenges were multiples of `q/p`, and it was always right.
    #[test]
    fn a_key_that_shows_each_mask_in_a_rest_does_not_open() {
        const TRIES: usize = 16;
        let mut rng = Prg::new(&Seed::from_bytes([7; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let ring = linear::Params::get().ring();
        let honest = sk.public_key(&NONCES, &mut rng);
        // floor(q·K/3p) for K = 3·2^40 + 1, modulo each prime.
        let three_p = 3 * u128::from(P);
        let rest = ring.moduli().fold((3u128 << 40) + 1, |rest, q| rest * u128::from(q.value()) % three_p);
        let d = |limb: usize| {
            let q = ring.modulus(limb);
            let small = |x: u128| (x % u128::from(q.value())) as u32;
            q.neg(q.mul(small(rest), q.inv(small(three_p))))
        };
        let mut b = honest.component(0).to_vec();
        for (limb, b) in b.chunks_exact_mut(ring.n()).enumerate() {
            b.iter_mut().for_each(|b| *b = ring.modulus(limb).add(*b, d(limb)));
        }
        let mut bytes = vec![];
        pack(&b, &mut bytes);
        let malformed = PublicKey::from_bytes(ring, &NONCES, &bytes).unwrap();
        // What is decrypted where `u` is `h`, and `by` more.
        let read = |phase: &[u32], h: i64, by: i64| {
            let mut x = phase.to_vec();
            for (limb, x) in x.chunks_exact_mut(ring.n()).enumerate() {
                let q = ring.modulus(limb);
                let residue = |x: i64| x.rem_euclid(i64::from(q.value())) as u32;
                let less = residue(by - h * i64::from(d(limb)));
                x.iter_mut().for_each(|x| *x = q.add(*x, less));
            }
            field_coefficients(ring, &x)
        };
        let mut opened = 0;
        for _ in 0..TRIES {
            let (challenge, message) = Challenge::new(&malformed, &mut rng);
            let phase = phase(ring, sk.negated(), &message).unwrap();
            // Within a quarter of q/p.
            let all = [-1, 0, 1].map(|h| [-(1 << 18), 0, 1 << 18].map(|by| read(&phase, h, by)));
            let guess = |i: usize| {
                let near = all.iter().find(|[low, _, high]| low[i] == high[i]);
                near.map_or(Fp::ZERO, |[_, middle, _]| middle[i])
            };
            let guess: Vec<Fp> = (0..ring.n()).map(guess).collect();
            let (revealed, seed) = challenge.reveal(commit(&[9; BYTES], &guess));
            let nonce = Zeroizing::new([9; BYTES]);
            let answer = Answer { challenge: message, nonce, decryption: Wiped::new(guess) };
            opened += revealed.check(&answer.open(&malformed, seed).unwrap()).is_ok() as usize;
        }
        // What it would tell: a result of zero under such a key is `v`.
        let zero = vec![0; ring.n()];
        let (mut hidden, mut work) = (Hidden::new(ring), ClientWork::new(ring));
        hidden.hide(&malformed, 0, |_, _| &zero[..], &mut rng);
        let mut sent = vec![0; linear::OUTPUT_BYTES];
        hidden.write(&mut sent);
        let mut counts = [0; 3];
        owner_share(ring, sk.negated(), &sent, &mut work, |i, y| {
            let v = ((field(y) + hidden.share(i)).to_i64() + (1 << 39)) >> 40;
            counts[(v + 1) as usize] += 1;
        })
        .unwrap();
        assert!(counts.iter().all(|n| (1200..1530).contains(n)), "{counts:?}");
        assert_eq!(opened, 0, "of {TRIES}");
    }

    #[test]
    fn challenges_that_are_no_encryptions_are_not_opened() {
        let mut rng = Prg::new(&Seed::from_bytes([3; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let key = sk.public_key(&NONCES, &mut rng);
        let (challenge, mut message) = Challenge::new(&key, &mut rng);
        message[5] ^= 1;
        let (answer, commitment) = sk.answer(&message, &mut rng).unwrap();
        let (_, seed) = challenge.reveal(commitment);
        assert!(matches!(answer.open(&key, seed), Err(HeError::Opening { .. })));
        // An opening for one commitment does not fit another.
        let (challenge, message) = Challenge::new(&key, &mut rng);
        let (_, commitment) = sk.answer(&message, &mut rng).unwrap();
        let (answer, _) = sk.answer(&message, &mut rng).unwrap();
        let (revealed, seed) = challenge.reveal(commitment);
        assert!(revealed.check(&answer.open(&key, seed).unwrap()).is_err());
    }

    /// A challenge that was known beforehand would be answered without any key.
    #[test]
    fn challenges_are_fresh_and_uniform() {
        let mut rng = Prg::new(&Seed::from_bytes([6; 32]));
        let key = linear::SecretKey::generate(&mut rng).public_key(&NONCES, &mut rng);
        let [(x, first), (y, second)] = [(); 2].map(|()| Challenge::new(&key, &mut rng));
        assert!(x.seed.expose() != y.seed.expose() && first != second);
        let [first, second] = [&x, &y].map(|c| rounded(c.ring, &c.x, unmoved));
        let difference: Vec<Fp> = first.iter().zip(&*second).map(|(x, y)| *x - *y).collect();
        for m in [&first[..], &second, &difference] {
            for place in [0, 3, 7] {
                let excess = excess(m.iter().map(|x| x.to_le_bytes()[place]));
                assert!(excess.abs() < 5.0, "byte {place}: {excess}");
            }
        }
    }

    #[test]
    fn malformed_challenges_are_refused() {
        let mut rng = Prg::new(&Seed::from_bytes([4; 32]));
        let sk = linear::SecretKey::generate(&mut rng);
        let length = challenge_bytes(linear::Params::get().ring());
        for wrong in [0, length - 1, length + 1] {
            assert!(matches!(sk.answer(&vec![0; wrong], &mut rng), Err(HeError::Length { .. })));
        }
        assert!(matches!(sk.answer(&vec![0xff; length], &mut rng), Err(HeError::Residue { index: 0, .. })));
    }
}
