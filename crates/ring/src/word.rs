//! The ring `Z_{2^64}` of table look-ups (`docs/protocols/arithmetic.md`, A6), and the local ways
//! between its additive shares and those over `F_p`. A pseudorandom block of 128 bits is two
//! uniform words without bias or reduction, which no two elements of `F_p` can be.

use core::num::Wrapping;

use crate::field::{Fp, P};

/// An integer modulo `2^64`.
pub type Word = Wrapping<u64>;

/// `value mod 2^64`.
#[inline(always)]
pub const fn word(value: i64) -> Word {
    Wrapping(value as u64)
}

/// A6, client: the share `c` of `x` over `F_p` as a share over `Z_{2^64}`.
///
/// `lift_client(c) + lift_server(s) = x` except with probability `|x|/p`.
#[inline(always)]
pub fn lift_client(c: Fp) -> Word {
    Wrapping(c.value())
}

/// A6, server: `s − p`.
#[inline(always)]
pub fn lift_server(s: Fp) -> Word {
    Wrapping(s.value()) - Wrapping(P)
}

/// A6, client: `c >> k`, a share over `F_p` of the truncated number, `k < 64`.
///
/// `word_trunc_client(c, k) + word_trunc_server(s, k)` is `floor((x+1)/2^k)` or that plus 1, as in
/// A1, except with probability `|x|/2^64`.
#[inline(always)]
pub fn word_trunc_client(c: Word, k: u32) -> Fp {
    Fp::new(c.0 >> k)
}

/// A6, server: `(s >> k) − 2^(64−k) + 1`; `s − 2^64` for `k = 0`.
#[inline(always)]
pub fn word_trunc_server(s: Word, k: u32) -> Fp {
    let wrap = Fp::from_u128((1u128 << 64) >> k);
    Fp::new(s.0 >> k) - if k == 0 { wrap } else { wrap - Fp::ONE }
}

/// Whether no server share can make the truncation of an `|x| ≤ bound` wrong:
/// `bound < c < 2^64 − bound`.
#[cfg(test)]
fn word_trunc_is_safe(c: Word, bound: u64) -> bool {
    bound < c.0 && c.0 <= u64::MAX - bound
}

/// Little-endian bytes, 8 a word.
pub fn words_to_bytes(words: &[Word]) -> Vec<u8> {
    words.iter().flat_map(|w| w.0.to_le_bytes()).collect()
}

/// The inverse of [`words_to_bytes`]; `None` if the length is not a multiple of 8.
pub fn words_from_bytes(bytes: &[u8]) -> Option<Vec<Word>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|b| Wrapping(u64::from_le_bytes(*b))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lifted_shares_add_up(c in 0..P, x in -(1i64 << 50)..(1i64 << 50)) {
            prop_assume!(crate::trunc::trunc_is_safe(Fp::new(c), x.unsigned_abs()));
            let s = Fp::from_i64(x) - Fp::new(c);
            prop_assert_eq!(lift_client(Fp::new(c)) + lift_server(s), word(x));
        }

        #[test]
        fn truncation_is_floor_or_one_more(c in any::<u64>(), x in -(1i64 << 50)..(1i64 << 50), k in 0u32..=40) {
            let c = Wrapping(c);
            prop_assume!(word_trunc_is_safe(c, x.unsigned_abs()));
            let s = word(x) - c;
            let y = (word_trunc_client(c, k) + word_trunc_server(s, k)).to_i64();
            let floor = (x + 1) >> k;
            prop_assert!(if k == 0 { y == x } else { y == floor || y == floor + 1 }, "{} {}", y, floor);
        }

        #[test]
        fn bytes_come_back(words in proptest::collection::vec(any::<u64>(), 0..9)) {
            let words: Vec<Word> = words.into_iter().map(Wrapping).collect();
            prop_assert_eq!(words_from_bytes(&words_to_bytes(&words)), Some(words));
        }
    }

    #[test]
    fn safety_is_sharp() {
        let adds_up = |c: u64, x: i64| {
            let (c, s) = (Wrapping(c), word(x) - Wrapping(c));
            word_trunc_client(c, 0) + word_trunc_server(s, 0) == Fp::from_i64(x)
        };
        for c in [1001, u64::MAX - 1000] {
            assert!(word_trunc_is_safe(Wrapping(c), 1000) && adds_up(c, 1000) && adds_up(c, -1000), "{c}");
        }
        assert!(!word_trunc_is_safe(Wrapping(1000), 1000) && !adds_up(1000, 1000));
        assert!(!word_trunc_is_safe(Wrapping(u64::MAX - 998), 1000) && !adds_up(u64::MAX - 998, -1000));
        assert!(words_from_bytes(&[0; 7]).is_none());
    }
}
