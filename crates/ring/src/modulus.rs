//! Arithmetic modulo a prime below `2^28`, one limb of the ciphertext modulus. Everything is free
//! of branches and of wide divisions, so that LLVM turns loops over it into vector code.

/// A prime `q < 2^28` with the constants of its reductions.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Modulus {
    q: u32,
    /// `floor(2^32 / q)`.
    mu: u32,
    /// `2^32 mod q` and its Shoup quotient `floor(2^32·(2^32 mod q) / q)`.
    wrap: Factor,
}

/// A constant multiplier `w < q` with `floor(2^32·w / q)` (Shoup; Harvey, "Faster arithmetic for
/// number-theoretic transforms", 2014, Algorithm 2).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    /// The multiplier.
    pub value: u32,
    /// Its quotient.
    pub quotient: u32,
}

impl Modulus {
    /// Constants of `q`; panics unless `2^16 < q < 2^28` (parameters are fixed, not an input).
    /// Primality is the caller's.
    pub fn new(q: u32) -> Modulus {
        assert!((1 << 16) < q && q < (1 << 28), "modulus {q} is not between 2^16 and 2^28");
        let wrap = ((1u64 << 32) % q as u64) as u32;
        Modulus {
            q,
            mu: ((1u64 << 32) / q as u64) as u32,
            wrap: Factor { value: wrap, quotient: quotient(wrap, q) },
        }
    }

    /// `q`.
    #[inline(always)]
    pub const fn value(&self) -> u32 {
        self.q
    }

    /// `2^32 mod q`.
    #[inline(always)]
    pub(crate) const fn wrap(&self) -> Factor {
        self.wrap
    }

    /// `floor(2^32 / q)`.
    #[inline(always)]
    pub(crate) const fn mu(&self) -> u32 {
        self.mu
    }

    /// Prepares the constant `w < q` for [`Modulus::mul_factor`].
    pub fn factor(&self, w: u32) -> Factor {
        debug_assert!(w < self.q);
        Factor { value: w, quotient: quotient(w, self.q) }
    }

    /// `x·w` up to a multiple of `q`, below `2q`, for any 32-bit `x`.
    #[inline(always)]
    pub fn mul_lazy(&self, x: u32, w: Factor) -> u32 {
        let q_hat = ((x as u64 * w.quotient as u64) >> 32) as u32;
        x.wrapping_mul(w.value).wrapping_sub(q_hat.wrapping_mul(self.q))
    }

    /// `x·w mod q` for any 32-bit `x`.
    #[inline(always)]
    pub fn mul_factor(&self, x: u32, w: Factor) -> u32 {
        self.below_q(self.mul_lazy(x, w))
    }

    /// `x mod q` for any 64-bit `x`: the high half times `2^32 mod q` (Shoup) plus the low half
    /// (Barrett).
    #[inline(always)]
    pub fn reduce(&self, x: u64) -> u32 {
        let q = self.q as u64;
        let (high, low) = (x >> 32, x & 0xFFFF_FFFF);
        let high_hat = (high * self.wrap.quotient as u64) >> 32;
        let low_hat = (low * self.mu as u64) >> 32;
        // Both differences are below 2q, their sum below 4q < 2^30.
        let sum = (high * self.wrap.value as u64 + low) - (high_hat + low_hat) * q;
        self.below_q(self.below_2q(sum as u32))
    }

    /// `x·y mod q`.
    #[inline(always)]
    pub fn mul(&self, x: u32, y: u32) -> u32 {
        self.reduce(x as u64 * y as u64)
    }

    /// `x + y mod q` for `x, y < q`.
    #[inline(always)]
    pub fn add(&self, x: u32, y: u32) -> u32 {
        self.below_q(x + y)
    }

    /// `x − y mod q` for `x, y < q`.
    #[inline(always)]
    pub fn sub(&self, x: u32, y: u32) -> u32 {
        self.below_q(x + self.q - y)
    }

    /// `−x mod q` for `x < q`.
    #[inline(always)]
    pub fn neg(&self, x: u32) -> u32 {
        self.sub(0, x)
    }

    /// `value mod q`, negative numbers from above.
    #[inline(always)]
    pub fn from_i32(&self, value: i32) -> u32 {
        let r = self.reduce(value.unsigned_abs() as u64);
        // Branch-free negation: mask is all ones for negative values.
        let mask = (value >> 31) as u32;
        (r & !mask) | (self.neg(r) & mask)
    }

    /// `x^exponent mod q`, for public exponents.
    pub fn pow(&self, x: u32, mut exponent: u64) -> u32 {
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
    pub fn inv(&self, x: u32) -> u32 {
        self.pow(x, self.q as u64 - 2)
    }

    /// `x mod q` for `x < 2q`: the smaller of `x` and `x − q` as unsigned numbers.
    #[inline(always)]
    pub fn below_q(&self, x: u32) -> u32 {
        x.min(x.wrapping_sub(self.q))
    }

    /// A representative below `2q` of an `x < 4q`.
    #[inline(always)]
    pub fn below_2q(&self, x: u32) -> u32 {
        x.min(x.wrapping_sub(2 * self.q))
    }
}

fn quotient(w: u32, q: u32) -> u32 {
    (((w as u64) << 32) / q as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const Q: u32 = 268_369_921; // 2^28 − 2^16 + 1

    proptest! {
        #[test]
        fn reductions_agree_with_division(x in any::<u64>(), a in any::<u32>(), v in any::<i32>()) {
            let m = Modulus::new(Q);
            prop_assert_eq!(m.reduce(x) as u64, x % Q as u64);
            prop_assert_eq!(m.reduce(u64::MAX - (x & 0xff)) as u64, (u64::MAX - (x & 0xff)) % Q as u64);
            let w = (x % Q as u64) as u32;
            prop_assert_eq!(m.mul_factor(a, m.factor(w)) as u64, a as u64 * w as u64 % Q as u64);
            prop_assert_eq!(m.from_i32(v) as i64, (v as i64).rem_euclid(Q as i64));
            if w != 0 {
                prop_assert_eq!(m.mul(w, m.inv(w)), 1);
            }
        }
    }
}
