//! Local truncation and segment index of additive shares `x = c + s mod p`:
//! `docs/protocols/arithmetic.md` A1 and A2 (idea: SecureML, Mohassel–Zhang, S&P 2017, §4.1; here
//! over `p` with `p mod 2^32 = 1`). No communication.

use crate::field::{Fp, P};

/// Largest shift of a truncation: `p mod 2^k = 1` holds up to here.
pub const MAX_SHIFT: u32 = 32;

/// A1, client: `c >> k`.
///
/// `x' = trunc_client(c, k) + trunc_server(s, k)` is `floor((x+1)/2^k)` or that plus 1, except with
/// probability `|x|/p`.
#[inline]
pub fn trunc_client(c: Fp, k: u32) -> Fp {
    debug_assert!(k <= MAX_SHIFT);
    Fp::new(c.value() >> k)
}

/// A1, server: `(s >> k) − (p >> k) + 1`; `s` itself for `k = 0`.
#[inline]
pub fn trunc_server(s: Fp, k: u32) -> Fp {
    debug_assert!(k <= MAX_SHIFT);
    if k == 0 {
        return s;
    }
    Fp::new(s.value() >> k) - Fp::new((P >> k) - 1)
}

/// A2, client: `(c >> h) mod 2^k`, `h < 64`, `k ≤ 32`.
#[inline]
pub fn index_client(c: Fp, h: u32, k: u32) -> u32 {
    low_bits(c.value() >> h, k)
}

/// A2, server: `(s >> h) − (p >> h) mod 2^k`. The sum of both indices mod `2^k` is
/// `floor((x+1)/2^h)` or that minus 1.
#[inline]
pub fn index_server(s: Fp, h: u32, k: u32) -> u32 {
    low_bits((s.value() >> h).wrapping_sub(P >> h), k)
}

/// Whether no server share can make the truncation of an `|x| ≤ bound` wrong:
/// `bound ≤ c < p − bound`.
#[inline]
pub fn trunc_is_safe(c: Fp, bound: u64) -> bool {
    bound <= c.value() && c.value() < P.saturating_sub(bound)
}

#[inline]
fn low_bits(value: u64, k: u32) -> u32 {
    debug_assert!(k <= 32);
    (value & ((1u64 << k) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn floor_div(x: i64, k: u32) -> i64 {
        (((x as i128) + 1) >> k) as i64
    }

    proptest! {
        #[test]
        fn truncation_is_floor_or_one_more(c in 0..P, x in -(1i64 << 50)..(1i64 << 50), k in 1u32..=32) {
            let c = Fp::new(c);
            let s = Fp::from_i64(x) - c;
            prop_assume!(trunc_is_safe(c, x.unsigned_abs()));
            let y = (trunc_client(c, k) + trunc_server(s, k)).to_i64();
            prop_assert!(y == floor_div(x, k) || y == floor_div(x, k) + 1, "{} {}", y, floor_div(x, k));
        }

        #[test]
        fn index_is_floor_or_one_less(c in 0..P, x in -(1i64 << 50)..(1i64 << 50), h in 1u32..=32, k in 1u32..=16) {
            let c = Fp::new(c);
            let s = Fp::from_i64(x) - c;
            prop_assume!(trunc_is_safe(c, x.unsigned_abs()));
            let mask = (1i64 << k) - 1;
            let j = (index_client(c, h, k).wrapping_add(index_server(s, h, k))) as i64 & mask;
            let top = floor_div(x, h);
            prop_assert!(j == top & mask || j == (top - 1) & mask);
        }

        #[test]
        fn shift_by_zero_changes_nothing(c in 0..P, x in any::<i64>()) {
            let c = Fp::new(c);
            let s = Fp::from_i64(x) - c;
            prop_assert_eq!(trunc_client(c, 0) + trunc_server(s, 0), Fp::from_i64(x));
        }
    }

    #[test]
    fn truncation_is_unbiased() {
        // x = 3·2^k/8: the mean of the truncated value over random shares is 0.375 up to the
        // sampling error.
        use rand::{rngs::StdRng, Rng, SeedableRng};
        let (mut rng, k, n) = (StdRng::seed_from_u64(1), 12, 200_000);
        let x = Fp::from_i64(3 << (k - 3));
        let sum: i64 = (0..n)
            .map(|_| {
                let c = Fp::new(rng.gen_range(0..P));
                (trunc_client(c, k) + trunc_server(x - c, k)).to_i64()
            })
            .sum();
        assert!((sum as f64 / n as f64 - 0.375).abs() < 0.01);
    }

    #[test]
    fn safety_is_sharp() {
        let bound = 1000;
        assert!(trunc_is_safe(Fp::new(bound), bound));
        assert!(!trunc_is_safe(Fp::new(bound - 1), bound));
        assert!(trunc_is_safe(Fp::new(P - bound - 1), bound));
        assert!(!trunc_is_safe(Fp::new(P - bound), bound));
    }
}
