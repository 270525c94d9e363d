//! Exponentials of any scores (A9): the integer `V` modulo the product `Q` of the primes, by limbs.

use cryptogen_ring::exponential::{MODULUS_BITS, PRIMES};
use cryptogen_ring::Fp;

use crate::model::{Head, F};
use crate::testing::clear::mantissa;

/// Little-endian limbs of a number below `Q`.
type Limbs = [u64; 7];

/// Shares of a `V` below `Q/2^RARE` wrap the other way so rarely that no seed of the tests does.
const RARE: u32 = 24;

fn multiply(a: u64, b: u64, prime: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(prime)) as u64
}

fn power(mut base: u64, mut exponent: u64, prime: u64) -> u64 {
    let mut out = 1;
    while exponent > 0 {
        if exponent % 2 == 1 {
            out = multiply(out, base, prime);
        }
        (base, exponent) = (multiply(base, base, prime), exponent / 2);
    }
    out
}

/// `x·factor + add`.
fn scale(x: Limbs, factor: u64, add: u64) -> Limbs {
    let mut carry = add;
    x.map(|limb| {
        let product = u128::from(limb) * u128::from(factor) + u128::from(carry);
        carry = (product >> 64) as u64;
        product as u64
    })
}

/// The number with these residues modulo the first primes, by one prime after the other: what it is
/// modulo the product of some, and how often that product is still in it.
fn remainder(residues: &[u64]) -> Limbs {
    let mut digits: Vec<u64> = vec![];
    for (residue, prime) in residues.iter().zip(PRIMES) {
        // The digits so far, and their radix, modulo this prime.
        let (mut so_far, mut radix) = (0, 1);
        for (digit, p) in digits.iter().zip(PRIMES) {
            so_far = ((u128::from(so_far) + u128::from(multiply(*digit, radix, prime))) % u128::from(prime))
                as u64;
            radix = multiply(radix, p % prime, prime);
        }
        let rest =
            ((u128::from(*residue) + u128::from(prime) - u128::from(so_far)) % u128::from(prime)) as u64;
        digits.push(multiply(rest, power(radix, prime - 2, prime), prime));
    }
    digits.iter().zip(PRIMES).rev().fold([0; 7], |x, (digit, prime)| scale(x, prime, *digit))
}

/// `x >> shift` modulo p.
fn shifted(x: Limbs, shift: u32) -> Fp {
    let two = Fp::new(2);
    let bit = |at: u32| x.get(at as usize / 64).map_or(0, |limb| limb >> (at % 64) & 1);
    (shift..7 * 64).rev().fold(Fp::ZERO, |high, at| high * two + Fp::new(bit(at)))
}

/// All that shares of the exponential of `y = x + bottom·2^F` may add up to after their truncation,
/// given the fractional bits of the client's.
pub fn truncated(y: i128, phi: u64, head: &Head) -> Vec<Fp> {
    let rest = y - i128::from(phi);
    let exponent = rest >> F;
    let mantissas = mantissa(phi as i64) * mantissa((rest & ((1 << F) - 1)) as i64);
    let residue = |prime: &u64| {
        let exponent = exponent.rem_euclid(i128::from(*prime) - 1) as u64;
        multiply(mantissas % prime, power(2, exponent, *prime), *prime)
    };
    let v = remainder(&PRIMES[..head.primes].iter().map(residue).collect::<Vec<_>>());
    let floor = shifted(v, head.shift);
    let bits = 7 * 64
        - v.iter()
            .rev()
            .fold((0, true), |(zeros, all), limb| match all {
                true => (zeros + limb.leading_zeros(), *limb == 0),
                false => (zeros, false),
            })
            .0;
    let mut allowed = vec![floor, floor + Fp::ONE];
    if bits + RARE > MODULUS_BITS[head.primes] {
        // ((V − Q) >> shift) = −((Q − 1 − V) >> shift) − 1, digit by digit.
        let complement: Vec<u64> = PRIMES[..head.primes]
            .iter()
            .map(|prime| {
                let residue = residue(prime);
                prime - 1 - residue
            })
            .collect();
        let below = -shifted(remainder(&complement), head.shift);
        allowed.extend([below - Fp::ONE, below]);
    }
    allowed
}
