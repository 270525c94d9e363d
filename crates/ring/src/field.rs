//! The prime field `F_p`, `p = 2^64 − 2^32 + 1`. It is the share ring of every protocol and the
//! plaintext ring of the homomorphic encryption (`p − 1 = 2^32·(2^32 − 1)`, so transforms of any
//! size up to `2^32` exist).

use core::iter::Sum;
use core::ops::{Add, AddAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use zeroize::DefaultIsZeroes;

/// `p = 2^64 − 2^32 + 1`.
pub const P: u64 = 0xFFFF_FFFF_0000_0001;
/// `2^64 mod p = 2^32 − 1`.
const EPSILON: u64 = 0xFFFF_FFFF;

/// An element of `F_p`, always kept canonical (`0 ≤ value < p`).
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug, Hash)]
#[repr(transparent)]
pub struct Fp(u64);

impl DefaultIsZeroes for Fp {}

impl Fp {
    /// 0.
    pub const ZERO: Fp = Fp(0);
    /// 1.
    pub const ONE: Fp = Fp(1);
    /// A generator of the multiplicative group.
    pub const GENERATOR: Fp = Fp(7);

    /// `value mod p`.
    #[inline(always)]
    pub const fn new(value: u64) -> Fp {
        Fp(if value >= P { value - P } else { value })
    }

    /// `value mod p`, negative numbers from above.
    #[inline(always)]
    pub const fn from_i64(value: i64) -> Fp {
        // |i64::MIN| = 2^63 < p, so one addition of p suffices; it wraps to the right number modulo
        // 2^64.
        Fp(if value < 0 { P.wrapping_add(value as u64) } else { value as u64 })
    }

    /// `value mod p`.
    #[inline(always)]
    pub const fn from_u128(value: u128) -> Fp {
        // value = lo + 2^64·mid + 2^96·hi; 2^64 = 2^32 − 1 and 2^96 = −1 modulo p.
        let lo = value as u64;
        let high = (value >> 64) as u64;
        let (hi, mid) = (high >> 32, high & EPSILON);
        let (mut r, borrow) = lo.overflowing_sub(hi);
        if borrow {
            r = r.wrapping_sub(EPSILON);
        }
        let (mut r, carry) = r.overflowing_add(mid * EPSILON);
        if carry {
            r = r.wrapping_add(EPSILON);
        }
        Fp::new(r)
    }

    /// `value mod p`, negative numbers from above.
    #[inline(always)]
    pub const fn from_i128(value: i128) -> Fp {
        let r = Fp::from_u128(value.unsigned_abs());
        if value < 0 && r.0 != 0 {
            Fp(P - r.0)
        } else {
            r
        }
    }

    /// The canonical representative in `[0, p)`.
    #[inline(always)]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The representative in `[−(p−1)/2, (p−1)/2]`.
    #[inline(always)]
    pub const fn to_i64(self) -> i64 {
        if self.0 > P / 2 {
            self.0.wrapping_sub(P) as i64
        } else {
            self.0 as i64
        }
    }

    /// `self^exponent`. Not constant time: use with public exponents.
    pub fn pow(self, mut exponent: u64) -> Fp {
        let (mut base, mut result) = (self, Fp::ONE);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result *= base;
            }
            base *= base;
            exponent >>= 1;
        }
        result
    }

    /// `1/self`; the inverse of 0 is 0.
    pub fn inv(self) -> Fp {
        self.pow(P - 2)
    }

    /// A primitive root of unity of order `2^log_order`, `log_order ≤ 32`.
    pub fn root_of_unity(log_order: u32) -> Fp {
        assert!(log_order <= 32, "no root of unity of order 2^{log_order} in F_p");
        Fp::GENERATOR.pow((P - 1) >> log_order)
    }

    /// Little-endian bytes of the canonical representative.
    #[inline]
    pub const fn to_le_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// The inverse of [`Fp::to_le_bytes`]; `None` unless canonical.
    #[inline]
    pub const fn from_le_bytes(bytes: [u8; 8]) -> Option<Fp> {
        let value = u64::from_le_bytes(bytes);
        if value < P {
            Some(Fp(value))
        } else {
            None
        }
    }
}

/// Eight little-endian bytes for each element.
pub fn fp_to_bytes(values: &[Fp]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * values.len());
    for v in values {
        bytes.extend_from_slice(&v.to_le_bytes());
    }
    bytes
}

/// The inverse of [`fp_to_bytes`]; `None` if the length is not a multiple of 8 or an element is not
/// canonical.
pub fn fp_from_bytes(bytes: &[u8]) -> Option<Vec<Fp>> {
    if !bytes.len().is_multiple_of(8) {
        return None;
    }
    bytes.chunks_exact(8).map(|b| Fp::from_le_bytes(b.try_into().ok()?)).collect()
}

impl Add for Fp {
    type Output = Fp;
    #[inline(always)]
    fn add(self, other: Fp) -> Fp {
        let (sum, carry) = self.0.overflowing_add(other.0);
        let (reduced, borrow) = sum.overflowing_sub(P);
        Fp(if carry || !borrow { reduced } else { sum })
    }
}

impl Sub for Fp {
    type Output = Fp;
    #[inline(always)]
    fn sub(self, other: Fp) -> Fp {
        let (difference, borrow) = self.0.overflowing_sub(other.0);
        Fp(if borrow { difference.wrapping_add(P) } else { difference })
    }
}

impl Mul for Fp {
    type Output = Fp;
    #[inline(always)]
    fn mul(self, other: Fp) -> Fp {
        Fp::from_u128(self.0 as u128 * other.0 as u128)
    }
}

impl Neg for Fp {
    type Output = Fp;
    #[inline(always)]
    fn neg(self) -> Fp {
        Fp::ZERO - self
    }
}

impl AddAssign for Fp {
    #[inline(always)]
    fn add_assign(&mut self, other: Fp) {
        *self = *self + other;
    }
}

impl SubAssign for Fp {
    #[inline(always)]
    fn sub_assign(&mut self, other: Fp) {
        *self = *self - other;
    }
}

impl MulAssign for Fp {
    #[inline(always)]
    fn mul_assign(&mut self, other: Fp) {
        *self = *self * other;
    }
}

impl Sum for Fp {
    fn sum<I: Iterator<Item = Fp>>(values: I) -> Fp {
        values.fold(Fp::ZERO, |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            Just(0),
            Just(1),
            Just(P - 1),
            Just(P),
            Just(u64::MAX),
            Just(EPSILON),
            Just(EPSILON + 1)
        ]
    }

    proptest! {
        #[test]
        fn operations_agree_with_u128(a in edge(), b in edge()) {
            let (x, y, m) = (Fp::new(a), Fp::new(b), P as u128);
            let (a, b) = (a as u128 % m, b as u128 % m);
            prop_assert_eq!((x + y).value() as u128, (a + b) % m);
            prop_assert_eq!((x - y).value() as u128, (a + m - b) % m);
            prop_assert_eq!((x * y).value() as u128, a * b % m);
            prop_assert_eq!(-x + x, Fp::ZERO);
            if x != Fp::ZERO {
                prop_assert_eq!(x * x.inv(), Fp::ONE);
            }
            prop_assert_eq!(Fp::from_le_bytes(x.to_le_bytes()), Some(x));
        }

        #[test]
        fn wide_integers_reduce(hi in edge(), lo in edge(), small in any::<i64>()) {
            let wide = (hi as u128) << 64 | lo as u128;
            prop_assert_eq!(Fp::from_u128(wide).value() as u128, wide % P as u128);
            let signed = wide as i128;
            prop_assert_eq!(Fp::from_i128(signed).value() as i128, (signed % P as i128 + P as i128) % P as i128);
            prop_assert_eq!(Fp::from_i64(small), Fp::from_i128(small as i128));
            let half = small.clamp(-((P / 2) as i64), (P / 2) as i64);
            prop_assert_eq!(Fp::from_i64(half).to_i64(), half);
        }
    }

    #[test]
    fn roots_have_their_order() {
        for k in [1, 13, 14, 32] {
            let root = Fp::root_of_unity(k);
            assert_eq!(root.pow(1 << (k - 1)), -Fp::ONE);
        }
    }

    #[test]
    fn bytes_refuse_what_is_not_canonical() {
        assert_eq!(Fp::from_le_bytes(P.to_le_bytes()), None);
        assert_eq!(fp_from_bytes(&[0; 7]), None);
        assert_eq!(fp_from_bytes(&[0xff; 16]), None);
        let v = vec![Fp::new(3), -Fp::ONE];
        assert_eq!(fp_from_bytes(&fp_to_bytes(&v)), Some(v));
    }
}
