//! Local truncation, segment index and leading bits of additive shares `x = c + s mod p`:
//! `docs/protocols/arithmetic.md` A1, A2 and A8 (idea: SecureML, Mohassel–Zhang, S&P 2017, §4.1;
//! here over `p` with `p mod 2^32 = 1`). No communication.

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

/// Bits of a number modulo p that [`leading_client`] and [`leading_server`] keep.
pub const LEADING_BITS: u32 = 24;
/// Elements that share their leading bits, `(p − 1)/2^24`: exact, as `2^24` divides `p − 1`.
const STEP: u64 = P >> LEADING_BITS;

/// A8, client: `floor(2^24·c/p)`.
///
/// With `x` in `(−p/2, p/2)`, `leading_client(c) + leading_server(s)` is `floor(2^24·x/p)` or that
/// plus 1 modulo `2^24`, whatever the shares are.
#[inline]
pub fn leading_client(c: Fp) -> u32 {
    // 2^24·c ≥ q·p = q·(2^24·STEP + 1) means c > q·STEP, for 1 ≤ q ≤ 2^24.
    (c.value().saturating_sub(1) / STEP) as u32
}

/// A8, server: `floor(2^24·s/p) + 1 mod 2^24`.
#[inline]
pub fn leading_server(s: Fp) -> u32 {
    (leading_client(s) + 1) & ((1 << LEADING_BITS) - 1)
}

/// The number in `[−2^23, 2^23)` of both parties' leading bits.
#[inline]
pub fn join_leading(c: u32, s: u32) -> i64 {
    let unused = u32::BITS - LEADING_BITS;
    i64::from((c.wrapping_add(s) << unused) as i32 >> unused)
}

/// Whether no server share can make the truncation of an `|x| ≤ bound` wrong:
/// `bound ≤ c < p − bound`.
#[cfg(test)]
pub(crate) fn trunc_is_safe(c: Fp, bound: u64) -> bool {
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

    /// `floor(2^24·x/p)`, as it is written.
    fn fraction(x: i64) -> i64 {
        (i128::from(x) << LEADING_BITS).div_euclid(i128::from(P)) as i64
    }

    /// The leading bits of shares of x, which must be one of the two outcomes.
    fn leading(x: i64, c: u64) -> i64 {
        let c = Fp::new(c);
        let z = join_leading(leading_client(c), leading_server(Fp::from_i64(x) - c));
        let modulus = 1 << LEADING_BITS;
        let above = (z - fraction(x)).rem_euclid(modulus);
        assert!(above <= 1, "{x}: {z} is neither {} nor one more", fraction(x));
        assert!((-modulus / 2..modulus / 2).contains(&z));
        z
    }

    proptest! {
        #[test]
        fn leading_bits_are_floor_or_one_more(c in 0..P, x in -(P as i64 / 2)..=(P / 2) as i64) {
            leading(x, c);
        }

        #[test]
        fn leading_bits_of_one_share(x in 0..P) {
            let expected = (u128::from(x) << LEADING_BITS) / u128::from(P);
            prop_assert_eq!(u128::from(leading_client(Fp::new(x))), expected);
        }
    }

    #[test]
    fn leading_bits_at_every_kind_of_edge() {
        let ends = [0, 1, 2, STEP - 1, STEP, STEP + 1, P / 2 - STEP, P / 2 - 1, P / 2];
        for x in ends.into_iter().flat_map(|x| [x as i64, -(x as i64)]) {
            for c in ends.into_iter().flat_map(|c| [c, P - 1 - c]) {
                leading(x, c);
            }
        }
        for q in [1u64, 2, 3, (1 << 23) - 1, 1 << 23, (1 << 24) - 1] {
            for x in [q * STEP - 1, q * STEP, q * STEP + 1, q * STEP + 2] {
                let expected = (u128::from(x) << LEADING_BITS) / u128::from(P);
                assert_eq!(u128::from(leading_client(Fp::new(x))), expected, "{q}");
            }
        }
        assert_eq!(leading_client(Fp::new(P - 1)), (1 << LEADING_BITS) - 1);
    }

    #[test]
    fn leading_bits_are_unbiased() {
        // x = 5 and 3/8 steps: the mean over random shares.
        use rand::{rngs::StdRng, Rng, SeedableRng};
        let (mut rng, n) = (StdRng::seed_from_u64(2), 200_000);
        let x = (5 * STEP + STEP / 8 * 3) as i64;
        let sum: i64 = (0..n).map(|_| leading(x, rng.gen_range(0..P))).sum();
        assert!((sum as f64 / f64::from(n) - 5.375).abs() < 0.01);
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
