//! A row's exponentials of one layer, on their way from the store to the step that uses them.
//!
//! A record belongs to a head and a pair of rows. With `n` primes it holds numbers of 8 bytes: the
//! client's `c`, `A_c` and `w_c`, the server's `b` and `w_s`, each but `c` modulo every prime
//! ([`cryptogen_ring::exponential`]).

use cryptogen_party::{Party, Role};
use cryptogen_ring::Wiped;

use super::deferred::Deferred;
use crate::error::{ProtocolError, Result};

/// Bytes of a number.
const WORD: usize = 8;

/// Numbers of a record of exponentials with so many primes.
fn numbers<P: Party>(primes: usize) -> usize {
    match P::ROLE {
        Role::Client => 1 + 2 * primes,
        Role::Server => 2 * primes,
    }
}

/// Bytes of such a record.
pub fn exponential_record_bytes<P: Party>(primes: usize) -> usize {
    WORD * numbers::<P>(primes)
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
            return Err(ProtocolError::Spent { what: "exponentials" });
        }
        let mut heads = vec![];
        for mut run in runs {
            let words = run.records.take()?.0;
            let (each, stride) =
                (cached * exponential_record_bytes::<P>(run.primes), numbers::<P>(run.primes));
            if words.len() != run.heads.len() * each {
                return Err(wrong(run.heads.len() * each, words.len()));
            }
            let used = if P::ROLE == Role::Client { stride } else { run.primes };
            for (head, records) in run.heads.iter().zip(words.chunks_exact(each)) {
                let mut words = Vec::with_capacity(cached * used);
                for record in records.chunks_exact(WORD * stride) {
                    words.extend(record.as_chunks().0[..used].iter().map(|word| u64::from_le_bytes(*word)));
                }
                heads.push((*head, HeadFactors { primes: run.primes, words: Wiped::new(words) }));
            }
        }
        heads.sort_by_key(|(head, _)| *head);
        Ok(heads.into_iter().map(|(_, factors)| factors).collect())
    }
}

/// Their number follows from the layer's heads and the row's position.
fn wrong(expected: usize, actual: usize) -> ProtocolError {
    ProtocolError::bug("bytes of a row's exponentials", expected, actual)
}
