//! Truncation outcomes, for the oracle's replay. Test builds only (`insecure-trace`); otherwise it
//! records nothing.
//!
//! Each event is one share per value (of φ_c in A9 the value itself, beside a 0), in the order of
//! `docs/protocols/arithmetic.md`; adding both parties' logs gives the outcomes.

use cryptogen_ring::{Fp, Word};

/// A party's log of its shares after every truncation and segment index, and of products after
/// lifting.
#[derive(Default)]
pub struct Trace {
    #[cfg(any(test, feature = "insecure-trace"))]
    insecure_words: Vec<u64>,
}

#[cfg(not(any(test, feature = "insecure-trace")))]
impl Trace {
    /// Whether anything is kept.
    pub(crate) const RECORDS: bool = false;
    pub(crate) fn truncated(&mut self, _shares: impl IntoIterator<Item = Fp>) {}
    pub(crate) fn fractions(&mut self, _numbers: impl IntoIterator<Item = u64>) {}
    pub(crate) fn index(&mut self, _shares: impl IntoIterator<Item = u32>, _k: u32) {}
    pub(crate) fn lifted(&mut self, _shares: impl IntoIterator<Item = Word>) {}
}

#[cfg(any(test, feature = "insecure-trace"))]
impl Trace {
    pub(crate) const RECORDS: bool = true;
    pub(crate) fn truncated(&mut self, shares: impl IntoIterator<Item = Fp>) {
        self.insecure_words.extend(shares.into_iter().map(Fp::value));
    }

    /// Fractional bits of the client's fixed shares (A9), on which the mantissas of its factors
    /// depend: the client's as they are, 0 from the server.
    pub(crate) fn fractions(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.insecure_words.extend(numbers);
    }

    /// Index shares are tagged with their width in the upper half: they add up modulo `2^k`, not
    /// modulo p.
    pub(crate) fn index(&mut self, shares: impl IntoIterator<Item = u32>, k: u32) {
        self.insecure_words.extend(shares.into_iter().map(|i| u64::from(i) | u64::from(k) << 32 | 1 << 63));
    }

    /// Lifted shares as they are: they add up modulo `2^64`.
    pub(crate) fn lifted(&mut self, shares: impl IntoIterator<Item = Word>) {
        self.insecure_words.extend(shares.into_iter().map(|w| w.0));
    }

    /// Takes the log.
    pub fn insecure_take(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.insecure_words)
    }
}
