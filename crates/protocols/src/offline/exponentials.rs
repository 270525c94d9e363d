//! `Factors`: shares of products of the two parties' factors of exponentials, modulo primes.
//!
//! Functionality: for every record and each of its primes `P_i`, shares `w_c + w_s = A_c·b mod P_i`
//! (A9), where `A_c` is the factor of the client's share of a score, which it draws here, and `b` a
//! uniform mask of the server's factor.
//! Source: `docs/protocols/preprocessed.md` §3.3; Kelkar, Le, Raykova, Seth, "Secure Poisson
//! Regression", USENIX Security 2022; BFV with one value per slot.
//! Inputs: client a share `c` of each record, `[n]`, uniform modulo p, a score at scale F, and from
//! it `A_c`, `[n][primes]`; server `b`, alike. The products are exact but for an error of
//! probability `2^-38` a ciphertext.
//! Cost: 2 messages (C→S, S→C) per 4·8192 records. Bytes per 8192 records and prime: 200 736
//! there, [`RESULT_BYTES`] back.
//! Material: spends none; makes records: the client's `c`, `A_c` and `w_c`, the server's `b` and
//! `w_s`. The client's lattice key is the connection's.
//! Leaks: nothing. The client alone has a key; results are hidden from it by full-width masks.
//!
//! 1. C→S `Enc(A_c)` modulo each prime, under the client's key.
//! 2. S→C `Enc(A_c)·b`, hidden. What hides it is `w_s`; the client finds `w_c`.
//!
//! The next messages of step 1 travel before the results of the first one, so that both parties
//! work at the same time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

use cryptogen_he::shares::{PublicKey, RESULT_BYTES};
use cryptogen_he::{multiply_modulo, Params, SecretKey, SeededCiphertext, N};
use cryptogen_party::Channel;
use cryptogen_ring::exponential::{factors_client, uniform};
use cryptogen_ring::{Fp, Prg, Seed, Wiped};
use rayon::prelude::*;

use super::pipeline::{pipeline, DEPTH};
use crate::error::{ProtocolError, Result};
use crate::material::slots;
use crate::share::Cost;

/// Records of a message, in ciphertexts of one prime.
const AT_ONCE: usize = 4;

/// What takes runs of records: `keep(first, bytes)`.
pub type Keep<'a> = &'a mut dyn FnMut(usize, &[u8]) -> Result<()>;

/// Messages and bytes of `n` records.
pub fn cost(primes: usize, n: usize) -> Cost {
    let ciphertexts = n.div_ceil(N) * primes;
    Cost {
        messages: 2 * n.div_ceil(AT_ONCE * N),
        client_bytes: ciphertexts * SeededCiphertext::BYTES,
        server_bytes: ciphertexts * RESULT_BYTES,
    }
}

/// Records that travel together.
fn messages(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(AT_ONCE * N).map(move |first| first..n.min(first + AT_ONCE * N))
}

/// Ciphertexts of a message.
fn ciphertexts(primes: usize, records: &Range<usize>) -> usize {
    records.len().div_ceil(N) * primes
}

/// What a party knows of the records of a message, `[ciphertexts of one prime][primes][N]`: its
/// factors or masks of factors, and its shares of the products.
struct Numbers {
    records: Range<usize>,
    primes: usize,
    factors: Wiped<u64>,
    shares: Wiped<u64>,
}

impl Numbers {
    /// Bytes of the records, each of `front(record)` and its numbers.
    fn records(&self, front: impl Fn(usize) -> Option<Fp>) -> Wiped<u8> {
        let mut bytes = Vec::with_capacity(self.records.len() * (1 + 2 * self.primes) * 8);
        for i in 0..self.records.len() {
            bytes.extend(front(i).iter().flat_map(|front| front.to_le_bytes()));
            for numbers in [&self.factors, &self.shares] {
                for prime in 0..self.primes {
                    let at = (i / N * self.primes + prime) * N + i % N;
                    bytes.extend(numbers[at].to_le_bytes());
                }
            }
        }
        Wiped::new(bytes)
    }
}

/// Client: draws `n` shares and keeps their records.
///
/// # Errors
/// Connection failures, what `keep` returns.
pub fn client(
    ch: &mut dyn Channel,
    key: &SecretKey,
    (primes, n): (usize, usize),
    rng: &mut Prg,
    keep: Keep<'_>,
) -> Result<()> {
    let mut finish = |ch: &mut dyn Channel, (c, mut sent): (Wiped<Fp>, Numbers)| -> Result<()> {
        let results = ch.recv(ciphertexts(primes, &sent.records) * RESULT_BYTES)?;
        let each = results.par_chunks(RESULT_BYTES).zip(sent.shares.par_chunks_mut(N)).enumerate();
        each.try_for_each(|(i, (result, share))| {
            let made = Wiped::new(key.share_modulo(i % primes, result)?);
            share.copy_from_slice(&made);
            Ok::<_, ProtocolError>(())
        })?;
        keep(sent.records.start, &sent.records(|i| Some(c[i])))
    };
    let mut waiting = VecDeque::with_capacity(DEPTH);
    for records in messages(n) {
        let c = Wiped::new(rng.fp_vec(records.len()));
        let numbers = factors(primes, records, &c);
        ch.send(&encrypt(key, &numbers, rng)?)?;
        waiting.push_back((c, numbers));
        if waiting.len() == DEPTH {
            waiting.pop_front().map_or(Ok(()), |sent| finish(ch, sent))?;
        }
    }
    waiting.into_iter().try_for_each(|sent| finish(ch, sent))
}

/// The client's factors of a message's records; those of slots that are left free are 0.
fn factors(primes: usize, records: Range<usize>, c: &[Fp]) -> Numbers {
    let all = ciphertexts(primes, &records) * N;
    let mut factors = Wiped::zeros(all);
    factors.par_chunks_mut(primes * N).zip(c.par_chunks(N)).for_each(|(factors, c)| {
        let mut of_one = Wiped::<u64>::zeros(primes);
        for (slot, c) in c.iter().enumerate() {
            factors_client(*c, &mut of_one);
            for (prime, factor) in of_one.iter().enumerate() {
                factors[prime * N + slot] = *factor;
            }
        }
    });
    Numbers { records, primes, factors, shares: Wiped::zeros(all) }
}

fn encrypt(key: &SecretKey, numbers: &Numbers, rng: &mut Prg) -> Result<Vec<u8>> {
    let seed = Seed::random(rng);
    let parts: Result<Vec<Vec<u8>>> = numbers
        .factors
        .par_chunks(N)
        .enumerate()
        .map(|(i, message)| {
            let mut rng = Prg::new(&seed.derive("factors", i as u64));
            Ok(key.encrypt_modulo(i % numbers.primes, message, &mut rng)?.to_bytes())
        })
        .collect();
    Ok(parts?.concat())
}

/// Server: draws masks of `n` records' factors and keeps the records.
///
/// # Errors
/// Connection failures, malformed ciphertexts, what `keep` returns.
pub fn server(
    ch: &mut dyn Channel,
    params: &'static Params,
    client_key: &PublicKey,
    (primes, n): (usize, usize),
    rng: &mut Prg,
    keep: Keep<'_>,
) -> Result<()> {
    let ch = RefCell::new(ch);
    pipeline(
        messages(n).map(|records| {
            let bytes = ch.borrow_mut().recv(ciphertexts(primes, &records) * SeededCiphertext::BYTES)?;
            Ok((records, bytes, Seed::random(rng)))
        }),
        |(records, bytes, seed)| multiply(params, client_key, primes, records, &bytes, &seed),
        |(numbers, results)| {
            ch.borrow_mut().send(&results)?;
            keep(numbers.records.start, &numbers.records(|_| None))
        },
    )
}

/// The server's masks and shares of a message's records, and the message from which the client
/// makes its own.
fn multiply(
    params: &'static Params,
    client_key: &PublicKey,
    primes: usize,
    records: Range<usize>,
    bytes: &[u8],
    seed: &Seed,
) -> Result<(Numbers, Vec<u8>)> {
    let all = ciphertexts(primes, &records) * N;
    let (mut factors, mut shares) = (Wiped::zeros(all), Wiped::zeros(all));
    let results: Result<Vec<Vec<u8>>> = bytes
        .par_chunks(SeededCiphertext::BYTES)
        .zip(factors.par_chunks_mut(N).zip(shares.par_chunks_mut(N)))
        .enumerate()
        .map(|(i, (bytes, (masks, share)))| {
            let (prime, mut rng) = (i % primes, Prg::new(&seed.derive("products", i as u64)));
            masks.fill_with(|| uniform(prime, &mut rng));
            let ct = SeededCiphertext::from_bytes(params, slots(N), bytes)?;
            let (result, made) = multiply_modulo(params, prime, &ct, masks, client_key, &mut rng)?;
            share.copy_from_slice(&Wiped::new(made));
            Ok(result)
        })
        .collect();
    Ok((Numbers { records, primes, factors, shares }, results?.concat()))
}
