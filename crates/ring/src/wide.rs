//! Arithmetic modulo a prime of up to 64 bits (Montgomery, "Modular multiplication without trial
//! division", 1985), free of branches and divisions: the plaintext moduli beside `p` that
//! exponentials are computed modulo ([`crate::exponential`]).

/// An odd prime `q < 2^64` with the constants of its reductions. What is called canonical is below
/// `q`. All is constant time in the numbers, not in `q`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct WideModulus {
    q: u64,
    /// `q^{−1} mod 2^64`.
    inverse: u64,
    /// `2^128 mod q`.
    square: u64,
}

/// A constant multiplier `w` as `value = 2^64·w mod q`, with `value·q^{−1} mod 2^64`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct WideFactor {
    value: u64,
    quotient: u64,
}

impl WideModulus {
    /// Constants of an odd `q > 2^32` (parameters are fixed, not an input). Primality is the
    /// caller's.
    pub const fn new(q: u64) -> WideModulus {
        assert!(q & 1 == 1 && q >> 32 != 0);
        // Newton: right modulo 8, then each step doubles the bits.
        let (mut inverse, mut step) = (q, 0);
        while step < 5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(q.wrapping_mul(inverse)));
            step += 1;
        }
        let wrap = ((1u128 << 64) % q as u128) as u64;
        WideModulus { q, inverse, square: (wrap as u128 * wrap as u128 % q as u128) as u64 }
    }

    /// `q`.
    #[inline(always)]
    pub const fn value(&self) -> u64 {
        self.q
    }

    /// `x·2^−64 mod q` for `x < 2^64·q`.
    #[inline(always)]
    pub const fn montgomery(&self, x: u128) -> u64 {
        self.subtract_high((x >> 64) as u64, (x as u64).wrapping_mul(self.inverse))
    }

    /// `x − floor(quotient·q/2^64) mod q` for a canonical `x`: a multiple of `q` with the same low
    /// half was subtracted.
    #[inline(always)]
    const fn subtract_high(&self, x: u64, quotient: u64) -> u64 {
        let high = ((quotient as u128 * self.q as u128) >> 64) as u64;
        self.sub(x, high)
    }

    /// `x + y mod q`, canonical numbers.
    #[inline(always)]
    pub const fn add(&self, x: u64, y: u64) -> u64 {
        // −y = q − y, which for y = 0 is q instead of 0: x − q + q is x all the same.
        self.sub(x, self.q - y)
    }

    /// `x − y mod q` for a canonical `x` and `y ≤ q`; `q − q` is 0.
    #[inline(always)]
    pub const fn sub(&self, x: u64, y: u64) -> u64 {
        // The upper half is the borrow as a mask; of a flag LLVM would make a branch.
        let difference = (x as u128).wrapping_sub(y as u128);
        (difference as u64).wrapping_add(self.q & (difference >> 64) as u64)
    }

    /// `x·y mod q` for a canonical `y` and any 64-bit `x`.
    #[inline(always)]
    pub const fn mul(&self, x: u64, y: u64) -> u64 {
        let product = self.montgomery(x as u128 * y as u128);
        self.montgomery(product as u128 * self.square as u128)
    }

    /// `x mod q` for `x < 2^64·q`.
    #[inline(always)]
    pub const fn reduce(&self, x: u128) -> u64 {
        self.montgomery(self.montgomery(x) as u128 * self.square as u128)
    }

    /// Prepares the constant `w`, canonical, for [`WideModulus::mul_factor`].
    pub const fn factor(&self, w: u64) -> WideFactor {
        let value = self.montgomery(w as u128 * self.square as u128);
        WideFactor { value, quotient: value.wrapping_mul(self.inverse) }
    }

    /// `x·w mod q` for any 64-bit `x`.
    #[inline(always)]
    pub const fn mul_factor(&self, x: u64, w: WideFactor) -> u64 {
        let high = ((x as u128 * w.value as u128) >> 64) as u64;
        self.subtract_high(high, x.wrapping_mul(w.quotient))
    }

    /// `x^exponent mod q`, for public exponents.
    pub const fn pow(&self, x: u64, mut exponent: u64) -> u64 {
        let (mut base, mut result) = (x, 1);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.mul(result, base);
            }
            base = self.mul(base, base);
            exponent >>= 1;
        }
        result
    }

    /// `1/x mod q`.
    pub const fn inv(&self, x: u64) -> u64 {
        self.pow(x, self.q - 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exponential::PRIMES;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..3u64,
            Just(u64::MAX),
            Just(1 << 63),
            (0..3u64).prop_map(|x| x.wrapping_neg())
        ]
    }

    proptest! {
        #[test]
        fn operations_agree_with_u128(a in edge(), b in edge(), c in edge(), prime in 0..PRIMES.len()) {
            let q = WideModulus::new(PRIMES[prime]);
            let n = q.value() as u128;
            for (a, b) in [(a, b), (q.value() - 1, b), (a, q.value() - 1)] {
                let (x, y) = ((a as u128 % n) as u64, (b as u128 % n) as u64);
                prop_assert_eq!(q.add(x, y) as u128, (x as u128 + y as u128) % n);
                prop_assert_eq!(q.sub(x, y) as u128, (x as u128 + n - y as u128) % n);
                // The first factor may be any number.
                prop_assert_eq!(q.mul(a, y) as u128, a as u128 * y as u128 % n);
                prop_assert_eq!(q.mul_factor(a, q.factor(y)), q.mul(a, y));
                let wide = (x as u128) << 64 | c as u128;
                prop_assert_eq!(q.reduce(wide) as u128, wide % n);
                prop_assert_eq!(q.mul(q.montgomery(wide), q.reduce(1 << 64)) as u128, wide % n);
                if x != 0 {
                    prop_assert_eq!(q.mul(x, q.inv(x)), 1);
                }
            }
            prop_assert_eq!(q.sub(0, q.value()), 0);
        }
    }
}
