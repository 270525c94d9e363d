//! Noise of a ciphertext, tracked from the public operation counts alone, so both parties know it
//! without a message.
//!
//! Write the phase as `c_0 + c_1·s = (q/t)·m + e + q·k`. Tracked is the variance of a coefficient
//! of `e` (independence of its terms assumed, as in Costache–Laine–Player, ESORICS 2020); the bound
//! is 6.5 standard deviations.

use cryptogen_ring::P;

use super::context::{AUX, LIMBS, PRIMES};
use crate::error::HeError;
use crate::params::{N, PRIMES as AUXILIARY_PRIMES};

/// Flooding is uniform in `[−2^127, 2^127)`.
pub(super) const FLOOD_BITS: u32 = 127;
/// Flooding exceeds the standard deviation of the computation's noise by 40 bits: what a returned
/// coefficient tells of that noise has a statistical distance below `2^−41`.
const LIMIT: u32 = FLOOD_BITS - 40;
/// Standard deviations in a bound.
const DEVIATIONS: f64 = 6.5;

const N_F64: f64 = N as f64;
/// Centred binomial, `η = 21`.
const ERROR: f64 = 10.5;
const ROUNDING: f64 = 1.0 / 12.0;
/// `e_0 + e_1·s` with roundings `e_i` and a ternary `s`: also the variance of `k`.
const ROUNDED: f64 = (1.0 + N_F64 * 2.0 / 3.0) / 12.0;

/// The variance of the noise; a public number.
#[derive(Copy, Clone, Debug, PartialEq, PartialOrd)]
pub struct Noise(f64);

impl Noise {
    /// A fresh encryption.
    pub fn fresh() -> Noise {
        Noise(ERROR + ROUNDING)
    }

    /// No ciphertext at all: the start of a sum.
    pub fn none() -> Noise {
        Noise(0.0)
    }

    /// Plus a plaintext.
    pub fn add_plain(self) -> Noise {
        Noise(self.0 + ROUNDING)
    }

    /// Times a plaintext: its `N` coefficients are spread over `(−t/2, t/2)`.
    pub fn times_plain(self) -> Noise {
        Noise(self.0 * N_F64 * t() * t() / 12.0)
    }

    /// After a rotation or a relinearisation.
    pub fn switched(self) -> Noise {
        Noise(self.0 + key_switch())
    }

    /// Left operand times right operand, before relinearisation:
    /// `t·(k_l·e_r + k_r·e_l) + m_l·e_r + m_r·e_l`, and the rounding of the right operand's
    /// scaling.
    pub fn times(self, right: Noise) -> Noise {
        let aux: f64 = AUXILIARY_PRIMES[..AUX].iter().map(|&a| a as f64).product();
        let q: f64 = PRIMES[..LIMBS].iter().map(|&q| q as f64).product();
        let scaled = right.0 + ROUNDED * (q / aux).powi(2);
        Noise(N_F64 * t() * t() * (ROUNDED + 1.0 / 12.0) * (self.0 + scaled))
    }

    /// The longest sum of products of a left operand with this noise and a right operand with that
    /// noise that can be returned.
    pub fn most_products(self, right: Noise) -> usize {
        let limit = 2f64.powi(2 * LIMIT as i32) - key_switch();
        (limit / self.times(right).0) as usize
    }

    /// log2 of the bound.
    pub fn bits(self) -> f64 {
        (DEVIATIONS * self.0.sqrt()).max(1.0).log2()
    }

    /// Whether flooding hides it.
    pub fn fits(self) -> bool {
        self.0.sqrt() <= 2f64.powi(LIMIT as i32)
    }

    pub(super) fn check(self, what: &'static str) -> Result<(), HeError> {
        match self.fits() {
            true => Ok(()),
            false => Err(HeError::Noise { what, bits: self.0.sqrt().log2().ceil() as u32, limit: LIMIT }),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// What a peer or a file says; anything but a non-negative number counts as too much.
    pub(super) fn from_bytes(bytes: [u8; 8]) -> Noise {
        let variance = f64::from_le_bytes(bytes);
        Noise(if variance >= 0.0 { variance } else { f64::INFINITY })
    }
}

/// Of a sum of two ciphertexts.
impl core::ops::Add for Noise {
    type Output = Noise;

    fn add(self, other: Noise) -> Noise {
        Noise(self.0 + other.0)
    }
}

fn t() -> f64 {
    P as f64
}

/// Eight centred digits times errors, divided by the special prime, and the rounding of that
/// division.
fn key_switch() -> f64 {
    let special = PRIMES[LIMBS] as f64;
    let digits: f64 = PRIMES[..LIMBS].iter().map(|&q| (q as f64).powi(2) / 12.0).sum();
    digits * N_F64 * ERROR / (special * special) + ROUNDED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_protocols_need_fits() {
        let rotated = Noise::fresh().add_plain().switched();
        let mut diagonals = Noise::none();
        (0..256).for_each(|_| diagonals = diagonals + rotated.times_plain().switched());
        assert!(diagonals.fits(), "{} bits", diagonals.bits());
        // Rotated operands leave room for a few products, fresh ones for thousands.
        assert!((8..16).contains(&rotated.most_products(rotated)));
        assert!((16..32).contains(&rotated.most_products(Noise::fresh())));
        assert!(Noise::fresh().most_products(Noise::fresh()) > 5000);
        assert_eq!(Noise(rotated.0 * 1e6).most_products(rotated), 0);
        let most = rotated.most_products(rotated);
        let sum = |terms: usize| Noise(rotated.times(rotated).0 * terms as f64).switched();
        assert!(sum(most).fits() && !sum(most + 1).fits());
        // Flooding and noise together stay below q/(2t).
        let q: f64 = PRIMES[..LIMBS].iter().map(|&q| (q as f64).log2()).sum();
        assert!(q - 65.0 > FLOOD_BITS as f64 + 0.25);
    }
}
