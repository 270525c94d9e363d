//! Exponentials of additive shares without a table: `docs/protocols/arithmetic.md` A9. Source:
//! Kelkar, Le, Raykova, Seth, "Secure Poisson Regression", USENIX Security 2022 (base 2, each
//! party exponentiates its share alone, one product); several primes and Chinese remainders are
//! ours.
//!
//! A score `x` at scale `2^F` is shared as integers `c + s = x + p` but for a probability `|x|/p`.
//! With `y = x/2^F + bottom`, the client knows `c/2^F` and the server `(s − p)/2^F + bottom`, which
//! add up to `y`. Each computes its *factor* `A = m(φ)·2^E mod P_i`, `E` the integer part of its
//! number and `φ` the `F` low bits. Powers of two multiply exactly whatever wraps, so for `y ≥ 1`
//! the product of the factors is the integer `V = m(φ_c)·m(φ_s)·2^(E_c + E_s)`, close to
//! `2^(2·MANTISSA_BITS + y)`, as long as it is below the product `Q` of the primes. Shares of `V`
//! modulo every prime become shares over `F_p` of `V/2^shift` by Chinese remainders and a shift.
//!
//! Everything is constant time in factors, shares and scores: no branch, index or division depends
//! on them. Which prime, how many, `bottom` and `shift` are public.

use core::hint::black_box;

use rand_core::RngCore;

use crate::field::{Fp, P};
use crate::prg::Prg;
use crate::wide::{WideFactor, WideModulus};

/// The largest number of primes.
pub const MAX_PRIMES: usize = 6;

/// The primes, `1` modulo `2^14`. The order of 2 modulo the first is 192, modulo the next two
/// (factors of the Fermat number `F_13`) `2^14`, modulo the others above `2^59`.
pub const PRIMES: [u64; MAX_PRIMES] = [
    P,
    3603109844542291969,
    2663848877152141313,
    18446744073709436929,
    18446744073709305857,
    18446744073708797953,
];

/// `floor(log2)` of the product of the first `n` primes, at index `n`.
pub const MODULUS_BITS: [u32; MAX_PRIMES + 1] = [0, 63, 125, 186, 250, 314, 378];

/// `m(φ)` is about `2^(MANTISSA_BITS + φ/2^F)`.
pub const MANTISSA_BITS: u32 = 10;

/// Fractional bits of a score.
const F: u32 = 12;
/// Fractional bits of the cubic's coefficients.
const COEFFICIENT_BITS: u32 = 24;
/// Coefficients of the cubic that is close to `2^(φ/2^F)`.
const CUBIC: [u64; 4] = [16775963, 11674113, 3792916, 1308915];

/// What is added to an exponent, so that it is not negative.
const BIAS: u64 = 1 << (64 - F);
/// Bits of an exponent that the mantissa is shifted by; the others select powers of two, in pairs.
const SHIFTED_BITS: u32 = 5;
/// Pairs of an exponent plus the bias, which is below `2^(64 − F + 1)`.
const PAIRS: usize = (64 - F + 1 - SHIFTED_BITS) as usize / 2;

/// One of the primes. Numbers are times `2^64`.
struct Prime {
    modulus: WideModulus,
    /// 1 and `2^−BIAS`.
    one: u64,
    unbiased: u64,
    /// `2^(2^k)` for the `k` from `SHIFTED_BITS` on that a reduced exponent has.
    powers: [[u64; 2]; PAIRS],
    pairs: usize,
    /// `1/(P_k ⋯ P_(i−1))` at index `k < i`, for Chinese remainders.
    inverses: [WideFactor; MAX_PRIMES],
}

static TABLE: [Prime; MAX_PRIMES] = table();

const fn table() -> [Prime; MAX_PRIMES] {
    let mut table = [const { prime(0) }; MAX_PRIMES];
    let mut i = 1;
    while i < MAX_PRIMES {
        table[i] = prime(i);
        i += 1;
    }
    table
}

const fn prime(i: usize) -> Prime {
    let modulus = WideModulus::new(PRIMES[i]);
    let one = modulus.reduce(1 << 64);
    let unbiased = modulus.mul(one, modulus.inv(modulus.pow(2, BIAS)));
    let (mut powers, mut k) = ([[0; 2]; PAIRS], 0);
    while k < 2 * PAIRS {
        powers[k / 2][k % 2] = modulus.mul(one, modulus.pow(2, 1 << (SHIFTED_BITS + k as u32)));
        k += 1;
    }
    // 8, 14 and all bits.
    let pairs = match i {
        0 => 2,
        1 | 2 => 5,
        _ => PAIRS,
    };
    let mut inverses = [modulus.factor(0); MAX_PRIMES];
    let (mut product, mut k) = (1, i);
    while k > 0 {
        k -= 1;
        product = modulus.mul(PRIMES[k], product);
        inverses[k] = modulus.factor(modulus.inv(product));
    }
    Prime { modulus, one, unbiased, powers, pairs, inverses }
}

impl Prime {
    /// `mantissa·2^(exponent − BIAS)`, for a reduced exponent.
    #[inline(always)]
    fn scaled(&self, mantissa: u64, exponent: u64) -> u64 {
        let q = &self.modulus;
        // Two products at once, which do not wait for each other.
        let mut parts = [mantissa << (exponent % (1 << SHIFTED_BITS)), self.unbiased];
        let mut bits = exponent >> SHIFTED_BITS;
        for powers in &self.powers[..self.pairs] {
            // Where LLVM knows that a mask comes from one bit, it makes a branch.
            let masks = black_box([0, 1].map(|bit| (bits >> bit & 1).wrapping_neg()));
            for ((part, power), mask) in parts.iter_mut().zip(powers).zip(masks) {
                let factor = self.one ^ ((self.one ^ power) & mask);
                *part = q.montgomery(*part as u128 * factor as u128);
            }
            bits >>= 2;
        }
        q.montgomery(parts[0] as u128 * parts[1] as u128)
    }
}

/// `m(φ)` in `[2^10, 2^11]`, off by at most `5.5·10^−4` of it (root mean square `2.1·10^−4`),
/// `φ < 2^F`.
#[inline(always)]
fn mantissa(phi: u64) -> u64 {
    let [c0, c1, c2, c3] = CUBIC;
    let u = [c2, c1, c0].iter().fold(c3, |u, c| c + ((u * phi) >> F));
    let dropped = COEFFICIENT_BITS - MANTISSA_BITS;
    (u + (1 << (dropped - 1))) >> dropped
}

/// The factors modulo the first `out.len()` primes of a number with `F` fractional bits `phi` and
/// the integer part `exponent − BIAS`.
#[inline(always)]
fn factors(exponent: u64, phi: u64, out: &mut [u64]) {
    let mantissa = mantissa(phi);
    assert!(out.len() <= MAX_PRIMES, "there are {MAX_PRIMES} primes");
    for (i, (out, prime)) in out.iter_mut().zip(&TABLE).enumerate() {
        let reduced = match i {
            0 => exponent % 192,
            1 | 2 => exponent % (1 << 14),
            _ => exponent,
        };
        *out = prime.scaled(mantissa, reduced);
    }
}

/// The client's factors `m(φ)·2^E mod P_i` of its share `c = 2^F·E + φ`, modulo the first
/// `out.len()` primes.
pub fn factors_client(c: Fp, out: &mut [u64]) {
    factors((c.value() >> F) + BIAS, c.value() % (1 << F), out);
}

/// The server's factors of `s − p + 2^F·bottom`, modulo the first `out.len()` primes.
pub fn factors_server(s: Fp, bottom: u32, out: &mut [u64]) {
    // floor(−n/2^F) = −ceil(n/2^F).
    let n = P - s.value();
    let exponent = BIAS + bottom as u64 - ((n + (1 << F) - 1) >> F);
    factors(exponent, n.wrapping_neg() % (1 << F), out);
}

/// `a − b` modulo one of the primes, canonical numbers.
#[inline]
pub fn subtract(prime: usize, a: u64, b: u64) -> u64 {
    TABLE[prime].modulus.sub(a, b)
}

/// `w + a·x` modulo one of the primes, canonical numbers.
#[inline]
pub fn multiply_add(prime: usize, w: u64, a: u64, x: u64) -> u64 {
    let q = &TABLE[prime].modulus;
    q.add(w, q.mul(a, x))
}

/// The client's weight: with `C` in `[0, Q)` the number with the residues `z`, `C >> shift` over
/// `F_p`.
///
/// `weight_client(z_c, shift) + weight_server(z_s, shift)` of shares of `V < Q` is
/// `floor(V/2^shift)` or that plus 1, the upper with probability `(V mod 2^shift + 1)/2^shift`, but
/// for a probability `V/Q`.
pub fn weight_client(z: &[u64], shift: u32) -> Fp {
    shifted(z.iter().copied(), shift)
}

/// The server's weight: with `S` in `[0, Q)` the number with the residues `z`,
/// `((S − Q) >> shift) + 1` over `F_p`, the shift arithmetic.
pub fn weight_server(z: &[u64], shift: u32) -> Fp {
    // ((S − Q) >> shift) + 1 = −((Q − 1 − S) >> shift).
    let negative = shifted(z.iter().zip(PRIMES).map(|(z, prime)| prime - 1 - z), shift);
    Fp::new(subtract(0, 0, negative.value()))
}

/// `x >> shift` over `F_p` for the `x` in `[0, Q)` with these residues.
#[inline(always)]
fn shifted(residues: impl ExactSizeIterator<Item = u64>, shift: u32) -> Fp {
    let n = residues.len();
    assert!(n <= MAX_PRIMES, "there are {MAX_PRIMES} primes");
    // Mixed radix: x = digit_0 + P_0·(digit_1 + P_1·(digit_2 + …)).
    let mut digits = [0; MAX_PRIMES];
    for (i, residue) in residues.enumerate() {
        let Prime { modulus: q, inverses, .. } = &TABLE[i];
        digits[i] = residue;
        for k in 0..i {
            let digit = q.mul_factor(digits[k], inverses[k]);
            let rest = if k == 0 { q.mul_factor(residue, inverses[0]) } else { digits[i] };
            digits[i] = q.sub(rest, digit);
        }
    }
    let mut words = [0u64; MAX_PRIMES + 1];
    for (digit, &prime) in digits[..n].iter().zip(&PRIMES[..n]).rev() {
        let mut carry = *digit;
        for word in &mut words[..n] {
            let sum = *word as u128 * prime as u128 + carry as u128;
            (*word, carry) = (sum as u64, (sum >> 64) as u64);
        }
    }
    let (skipped, bits) = ((shift / 64) as usize, shift % 64);
    (skipped..n).rev().fold(Fp::ZERO, |high, i| {
        let pair = (words[i + 1] as u128) << 64 | words[i] as u128;
        Fp::from_u128((high.value() as u128) << 64 | (pair >> bits) as u64 as u128)
    })
}

/// A uniform number modulo one of the primes; others of as many bits are rejected.
pub fn uniform(prime: usize, prg: &mut Prg) -> u64 {
    let mask = u64::MAX >> PRIMES[prime].leading_zeros();
    loop {
        let word = prg.next_u64() & mask;
        if canonical(prime, word) {
            return word;
        }
    }
}

/// Whether a word is a number modulo one of the primes, as it must be on the wire.
#[inline]
pub fn canonical(prime: usize, word: u64) -> bool {
    word < PRIMES[prime]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::Seed;

    /// A number below `2^512`, little-endian words.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    struct Big([u64; 8]);

    impl Big {
        fn new(x: u64) -> Big {
            let mut words = [0; 8];
            words[0] = x;
            Big(words)
        }

        fn times(mut self, factor: u64) -> Big {
            let mut carry = 0;
            for word in &mut self.0 {
                let sum = *word as u128 * factor as u128 + carry;
                (*word, carry) = (sum as u64, sum >> 64);
            }
            assert_eq!(carry, 0);
            self
        }

        /// Modulo `2^512`.
        fn minus(mut self, other: Big) -> Big {
            let mut borrow = 0;
            for (word, other) in self.0.iter_mut().zip(other.0) {
                let difference = *word as i128 - other as i128 - borrow;
                (*word, borrow) = (difference as u64, (difference < 0) as i128);
            }
            self
        }

        fn shifted_left(self, bits: u64) -> Big {
            (0..bits).fold(self, |x, _| x.times(2))
        }

        /// The quotient by `2^bits`, and whether something was cut off.
        fn shifted_right(self, bits: u32) -> (Big, bool) {
            let bit = |i: usize| i < 512 && self.0[i / 64] >> (i % 64) & 1 == 1;
            let mut words = [0; 8];
            (0..512).filter(|i| bit(i + bits as usize)).for_each(|i| words[i / 64] |= 1 << (i % 64));
            (Big(words), (0..bits as usize).any(bit))
        }

        fn rem(self, q: u64) -> u64 {
            self.0.iter().rev().fold(0, |r, &word| (((r as u128) << 64 | word as u128) % q as u128) as u64)
        }

        fn log2(self) -> u32 {
            512 - 1
                - self
                    .0
                    .iter()
                    .rev()
                    .position(|&w| w != 0)
                    .map_or(512, |top| 64 * top as u32 + self.0[7 - top].leading_zeros())
        }

        fn residues(self, n: usize) -> Vec<u64> {
            PRIMES[..n].iter().map(|&q| self.rem(q)).collect()
        }
    }

    fn product(n: usize) -> Big {
        PRIMES[..n].iter().fold(Big::new(1), |product, &q| product.times(q))
    }

    fn prg(seed: u8) -> Prg {
        Prg::new(&Seed::from_bytes([seed; 32]))
    }

    /// A number below `2^bits`.
    fn random(prg: &mut Prg, bits: u32) -> Big {
        let words = core::array::from_fn(|_| prg.next_u64());
        Big(words).shifted_right(512 - bits).0
    }

    /// Miller and Rabin; these bases decide below `2^64` (Sorenson and Webster, 2017).
    fn is_prime(n: u64) -> bool {
        let q = WideModulus::new(n);
        let twos = (n - 1).trailing_zeros();
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].iter().all(|&base| {
            let x = q.pow(base, (n - 1) >> twos);
            x == 1 || (0..twos).any(|i| q.pow(x, 1 << i) == n - 1)
        })
    }

    #[test]
    fn primes_are_what_is_said_of_them() {
        for (i, &n) in PRIMES.iter().enumerate() {
            assert!(is_prime(n) && n % (1 << 14) == 1 && !PRIMES[..i].contains(&n), "{n}");
            let two_to = |exponent: u64| WideModulus::new(n).pow(2, exponent);
            match i {
                0 => assert!(two_to(192) == 1 && two_to(96) != 1 && two_to(64) != 1),
                1 | 2 => assert!(two_to(1 << 13) == n - 1),
                _ => {}
            }
            // A mantissa may be shifted by 31.
            assert!(n > 1 << (MANTISSA_BITS + 1 + 31));
        }
        assert!(!is_prime(u64::MAX) && !is_prime(P - 2));
        MODULUS_BITS.iter().enumerate().for_each(|(n, &bits)| assert_eq!(bits, product(n).log2()));
    }

    #[test]
    fn mantissas_are_close_to_powers_of_two() {
        let error = |phi: u64| {
            let exact = (MANTISSA_BITS as f64 + phi as f64 / 4096.0).exp2();
            let m = mantissa(phi);
            assert!((1 << MANTISSA_BITS..=2 << MANTISSA_BITS).contains(&m));
            m as f64 / exact - 1.0
        };
        let errors: Vec<f64> = (0..1 << F).map(error).collect();
        assert!(errors.iter().all(|e| e.abs() <= 5.5e-4));
        let square = errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64;
        assert!(square.sqrt() <= 2.14e-4, "{}", square.sqrt());
        assert!((errors.iter().sum::<f64>() / errors.len() as f64).abs() < 7e-6);
    }

    /// By division, and powers with exponents modulo `q − 1`.
    fn expected(value: i128, q: u64) -> u64 {
        let (exponent, phi) = (value >> F, (value & ((1 << F) - 1)) as u64);
        let modulus = WideModulus::new(q);
        modulus.mul(mantissa(phi), modulus.pow(2, exponent.rem_euclid(q as i128 - 1) as u64))
    }

    #[test]
    fn factors_are_powers_of_two_whatever_wraps() {
        let mut prg = prg(1);
        let mut shares = prg.fp_vec(300);
        let edges =
            [0, 1, 4095, 4096, 4097, 191 << 12, (1 << 26) - 1, 1 << 26, P >> 1, P - 4096, P - 2, P - 1];
        shares.extend(edges.map(Fp::new));
        // Random ones end in 0 and 4095 too.
        let ends = prg.fp_vec(20);
        shares.extend(ends.iter().flat_map(|x| [x.value() >> 12 << 12, x.value() | 4095].map(Fp::new)));
        for (i, &share) in shares.iter().enumerate() {
            let n = 1 + i % MAX_PRIMES;
            for bottom in [1, 60, 4000, u32::MAX] {
                let (mut client, mut server) = (vec![7; n], vec![7; n]);
                factors_client(share, &mut client);
                factors_server(share, bottom, &mut server);
                let known = share.value() as i128 - P as i128 + ((bottom as i128) << F);
                for (i, &q) in PRIMES[..n].iter().enumerate() {
                    assert_eq!(client[i], expected(share.value() as i128, q), "{share:?} modulo {q}");
                    assert_eq!(server[i], expected(known, q), "{share:?} modulo {q}, bottom {bottom}");
                }
            }
        }
    }

    /// `c` and the `y·2^F` that the server's share makes with it.
    fn check_product(n: usize, bottom: u32, c: Fp, y: u64) {
        // c + s = x + p over the integers, x = y·2^F − bottom·2^F.
        let s = y as i128 - ((bottom as i128) << F) + P as i128 - c.value() as i128;
        if !(0..P as i128).contains(&s) {
            return;
        }
        let s = Fp::new(s as u64);
        let (mut client, mut server) = (vec![0; n], vec![0; n]);
        factors_client(c, &mut client);
        factors_server(s, bottom, &mut server);
        // From the integers: what the server knows is y·2^F − c.
        let known = y as i128 - c.value() as i128;
        let mantissas = [c.value() as i128, known].map(|v| mantissa((v & 4095) as u64));
        let exponent = (c.value() >> F) as i128 + (known >> F);
        let value = Big::new(mantissas[0] * mantissas[1]).shifted_left(exponent.try_into().expect("y ≥ 1"));
        let exact = (2.0 * MANTISSA_BITS as f64 + y as f64 / 4096.0).exp2();
        let close = value.0.iter().rev().fold(0.0, |x, &word| x * 2f64.powi(64) + word as f64);
        assert!((close / exact - 1.0).abs() < 1.2e-3, "{close} {exact}");
        for i in 0..n {
            assert_eq!(multiply_add(i, 0, client[i], server[i]), value.rem(PRIMES[i]), "{n} {c:?} {y}");
        }
    }

    #[test]
    fn factors_multiply_to_an_integer() {
        let mut prg = prg(2);
        for n in 2..=MAX_PRIMES {
            // The largest y: V is nearly Q.
            let top = (product(n).log2() as u64 - 2 * MANTISSA_BITS as u64) << F;
            let edges = [1 << F, (1 << F) + 1, (2 << F) - 1, top - 1, top];
            let between = (0..40).map(|_| (1 << F) + prg.next_u64() % (top - (1 << F)));
            let numbers: Vec<u64> = edges.into_iter().chain(between).collect();
            let shares = [0, 4095, 4096, P - 1, P - 4096, P / 2].map(Fp::new).into_iter();
            for c in shares.chain(prg.fp_vec(8)) {
                for &y in &numbers {
                    for bottom in [1, 70, 300] {
                        check_product(n, bottom, c, y);
                    }
                }
            }
        }
    }

    #[test]
    fn weights_are_shifted_remainders() {
        let mut prg = prg(3);
        for n in 1..=MAX_PRIMES {
            let q = product(n);
            let edges = [Big::new(0), Big::new(1), q.minus(Big::new(1)), q.minus(Big::new(2))];
            let between = (0..60).map(|_| random(&mut prg, product(n).log2()));
            for x in edges.into_iter().chain(between.collect::<Vec<_>>()) {
                for shift in [0, 1, 31, 63, 64, 65, 90, 128, 191, 250, 300, 320, 383, 400] {
                    let z = x.residues(n);
                    assert_eq!(weight_client(&z, shift).value(), x.shifted_right(shift).0.rem(P));
                    // floor((S − Q)/2^shift) = −ceil((Q − S)/2^shift)
                    let (quotient, rest) = q.minus(x).shifted_right(shift);
                    let ceil = Fp::new(quotient.rem(P)) + Fp::new(rest as u64);
                    assert_eq!(weight_server(&z, shift), Fp::ONE - ceil);
                }
            }
        }
    }

    #[test]
    fn weights_add_up_to_a_truncation() {
        const TRIALS: usize = 4000;
        let mut prg = prg(4);
        for n in 2..=MAX_PRIMES {
            for shift in [1, 20, product(n).log2() - 58] {
                for bits in [0, 1, shift, shift + 10, product(n).log2() - 30] {
                    let value = random(&mut prg, bits);
                    let floor = value.shifted_right(shift).0;
                    let low = value.minus(floor.shifted_left(shift as u64));
                    let low = low.0.iter().rev().fold(0.0, |x, &w| x * 2f64.powi(64) + w as f64);
                    let upper = (low + 1.0) / (shift as f64).exp2();
                    let mut uppers = 0;
                    for _ in 0..TRIALS {
                        let c: Vec<u64> = (0..n).map(|i| uniform(i, &mut prg)).collect();
                        let s: Vec<u64> = (0..n).map(|i| subtract(i, value.rem(PRIMES[i]), c[i])).collect();
                        let weight = weight_client(&c, shift) + weight_server(&s, shift);
                        let more = weight - Fp::new(floor.rem(P));
                        assert!(more.value() <= 1, "{n} primes, shift {shift}, {bits} bits");
                        uppers += more.value();
                    }
                    let deviation = (upper * (1.0 - upper) / TRIALS as f64).sqrt();
                    let found = uppers as f64 / TRIALS as f64;
                    assert!((found - upper).abs() <= 5.0 * deviation + 1e-9, "{found} is not {upper}");
                }
            }
        }
    }

    #[test]
    fn uniform_numbers_fill_their_range() {
        let mut prg = prg(5);
        for (i, &q) in PRIMES.iter().enumerate() {
            const TRIALS: usize = 64_000;
            let mut counts = [0f64; 64];
            let mut odd = 0;
            for _ in 0..TRIALS {
                let x = uniform(i, &mut prg);
                assert!(canonical(i, x));
                odd += x & 1;
                counts[(x as u128 * 64 / q as u128) as usize] += 1.0;
            }
            // Pearson's statistic with 63 degrees of freedom.
            let mean = TRIALS as f64 / 64.0;
            let chi: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
            assert!(chi < 63.0 + 5.0 * 126f64.sqrt(), "{chi}");
            assert!((odd as f64 - TRIALS as f64 / 2.0).abs() < 5.0 * (TRIALS as f64 / 4.0).sqrt());
        }
    }

    #[test]
    fn only_numbers_below_the_prime_are_canonical() {
        for (i, &q) in PRIMES.iter().enumerate() {
            assert!(canonical(i, 0) && canonical(i, q - 1));
            assert!(!canonical(i, q) && !canonical(i, q + 1) && !canonical(i, u64::MAX));
            assert_eq!(subtract(i, 0, q - 1), 1);
            assert_eq!(multiply_add(i, q - 1, q - 1, q - 1), 0);
        }
    }
}
