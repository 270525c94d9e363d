//! A row's exponentials of one layer, on their way from the store to the step that uses them.
//!
//! A record belongs to a head and a pair of rows. With `n` primes it holds numbers of 8 bytes: the
//! client's `c`, `A_c` and `w_c`, the server's `b` and `w_s`, each but `c` modulo every prime
//! ([`cryptogen_ring::exponential`]).

use std::path::Path;
use std::sync::Arc;

use cryptogen_party::{Party, Role, Server};
use cryptogen_ring::exponential::{canonical, weight_server};
use cryptogen_ring::{Fp, Wiped};

use super::deferred::Deferred;
use crate::error::{ProtocolError, Result};
use crate::model::Head;

/// Bytes of a number.
const WORD: usize = 8;
/// In errors.
const WHAT: &str = "exponentials";

/// Numbers of a record in front of those modulo primes: `c`.
fn front<P: Party>() -> usize {
    usize::from(P::ROLE == Role::Client)
}

/// Bytes of a record of exponentials with so many primes.
pub fn exponential_record_bytes<P: Party>(primes: usize) -> usize {
    WORD * (front::<P>() + 2 * primes)
}

/// The records of those heads of a row and layer that have so many primes, `[heads][t+1]`.
pub struct Run {
    /// their number of primes
    pub primes: usize,
    /// which heads these are
    pub heads: Vec<usize>,
    /// their records
    pub records: Deferred,
}

/// What a head has of one row: numbers modulo the first `primes` primes, for each cached row.
pub struct HeadFactors {
    /// the head's number of primes
    pub primes: usize,
    /// client: `c`, `A_c` and `w_c`, `[t+1][1 + 2·primes]`; server: `b`, `[t+1][primes]`
    pub words: Wiped<u64>,
}

impl HeadFactors {
    /// Numbers for one cached row: all of the client's record, of the server's `b` alone, which is
    /// in front.
    pub fn numbers<P: Party>(primes: usize) -> usize {
        match P::ROLE {
            Role::Client => front::<P>() + 2 * primes,
            Role::Server => primes,
        }
    }
}

/// The exponentials of a row and layer. They stay in the store until [`Exponentials::take`]. No
/// Clone, Debug or codec.
#[derive(Default)]
pub struct Exponentials {
    runs: Vec<Run>,
}

impl Exponentials {
    /// Takes ownership of records that the store has released; every head is in one of the runs.
    pub fn new(runs: Vec<Run>) -> Exponentials {
        Exponentials { runs }
    }

    /// What every head needs for `cached` rows, in the order of heads; it leaves once.
    ///
    /// # Errors
    /// Those of the store; `Spent` for a second use; `Corrupt` for numbers that are not reduced.
    pub fn take<P: Party>(&mut self, cached: usize) -> Result<Vec<HeadFactors>> {
        let runs = std::mem::take(&mut self.runs);
        if runs.is_empty() {
            return Err(ProtocolError::Spent { what: WHAT });
        }
        let mut heads = vec![];
        for mut run in runs {
            let taken = run.records.take(WHAT)?;
            let words = words::<P>(&run, cached, taken)?;
            let numbers = exponential_record_bytes::<P>(run.primes) / WORD;
            let used = HeadFactors::numbers::<P>(run.primes);
            for (head, records) in run.heads.iter().zip(words.chunks_exact(cached * numbers)) {
                let mut words = Wiped::new(Vec::with_capacity(cached * used));
                records.chunks_exact(numbers).for_each(|record| words.extend_from_slice(&record[..used]));
                heads.push((*head, HeadFactors { primes: run.primes, words }));
            }
        }
        heads.sort_by_key(|(head, _)| *head);
        Ok(heads.into_iter().map(|(_, factors)| factors).collect())
    }

    /// Server: its weights `e'_s` for `cached` rows, `[heads][cached]`, which follow from its
    /// shares of the products alone (A9). The records stay where they are.
    ///
    /// # Errors
    /// As [`Exponentials::take`].
    pub fn weights(&self, heads: &[Head], cached: usize) -> Result<Wiped<Fp>> {
        let mut weights = Wiped::zeros(heads.len() * cached);
        for run in &self.runs {
            let words = words::<Server>(run, cached, run.records.look(WHAT)?)?;
            let numbers = 2 * run.primes;
            for (&head, records) in run.heads.iter().zip(words.chunks_exact(cached * numbers)) {
                let weights = &mut weights[head * cached..][..cached];
                for (weight, record) in weights.iter_mut().zip(records.chunks_exact(numbers)) {
                    *weight = weight_server(&record[run.primes..], heads[head].shift);
                }
            }
        }
        Ok(weights)
    }
}

/// The numbers of a run, `[heads][cached][numbers]`.
fn words<P: Party>(run: &Run, cached: usize, (bytes, file): (Wiped<u8>, Arc<Path>)) -> Result<Wiped<u64>> {
    let (front, record) = (front::<P>(), exponential_record_bytes::<P>(run.primes));
    let expected = run.heads.len() * cached * record;
    if bytes.len() != expected {
        return Err(ProtocolError::bug("bytes of a row's exponentials", expected, bytes.len()));
    }
    let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let words = Wiped::new(words);
    let prime = |number: usize| number.checked_sub(front).map_or(0, |number| number % run.primes);
    let reduced = |record: &[u64]| record.iter().enumerate().all(|(i, word)| canonical(prime(i), *word));
    match words.chunks_exact(record / WORD).all(reduced) {
        true => Ok(words),
        false => Err(ProtocolError::corrupt(&file, "a number is above its modulus")),
    }
}
