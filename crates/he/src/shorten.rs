//! Returned ciphertexts on the wire: coefficients modulo the product `q'` of the output limbs, as
//! numbers without their low bits.
//!
//! What is dropped is noise of a known size ([`crate::noise`], step 6): decryption multiplies `c_1`
//! by a ternary secret, which `c_0` is only added to, so `c_0` can spare [`DROPPED`]`[0]` bits and
//! `c_1` few. A public function of the ciphertext: it hides as much as before.

use crate::error::{check_length, HeError};
use crate::params::{Params, N, OUTPUT_LIMBS};

/// Low bits that `c_0` and `c_1` lose; the rest are 66 and 80 bits.
pub(crate) const DROPPED: [u32; 2] = [18, 4];
/// Bits of `q'`, rounded up.
const LOG_Q: u32 = 28 * OUTPUT_LIMBS as u32;
/// Bits above the lowest 64 of each number.
const HIGH: [usize; 2] = [(LOG_Q - DROPPED[0] - 64) as usize, (LOG_Q - DROPPED[1] - 64) as usize];
/// A number is split for its reduction modulo a prime.
const HALF: u32 = 44;

/// Bytes of component 0 or 1: `N` low words of 8 bytes, then the high bits.
pub(crate) const fn bytes(component: usize) -> usize {
    N * 8 + N / 8 * HIGH[component]
}

/// The numbers `q'/q_i` and `q'`.
struct Product {
    others: [u128; OUTPUT_LIMBS],
    all: u128,
}

impl Product {
    fn new(params: &Params) -> Product {
        let primes = params.primes();
        let all = primes[..OUTPUT_LIMBS].iter().map(|&q| q as u128).product();
        Product { others: core::array::from_fn(|i| all / primes[i] as u128), all }
    }
}

/// Appends component 0 or 1, `[OUTPUT_LIMBS][N]`.
pub(crate) fn shorten(params: &Params, component: usize, limbs: &[u32], out: &mut Vec<u8>) {
    let (q, dropped) = (Product::new(params), DROPPED[component]);
    let start = out.len();
    out.resize(start + bytes(component), 0);
    let (low, high) = out[start..].split_at_mut(8 * N);
    let mut each = |i: usize, set_high: &mut dyn FnMut(u64)| {
        // Chinese remainders: v = Σ (x·(q'/q_i)^{−1} mod q_i)·q'/q_i < 3q'.
        let sum = (0..OUTPUT_LIMBS).fold(0, |sum, l| {
            let hat = params.modulus(l).mul_factor(limbs[l * N + i], params.gadget[l]);
            sum + hat as u128 * q.others[l]
        });
        let below_2q = sum.min(sum.wrapping_sub(q.all));
        let v = below_2q.min(below_2q.wrapping_sub(q.all));
        let kept = (v + (1 << (dropped - 1))) >> dropped;
        low[8 * i..8 * i + 8].copy_from_slice(&(kept as u64).to_le_bytes());
        set_high((kept >> 64) as u64);
    };
    for (eight, packed) in high.chunks_exact_mut(HIGH[component]).enumerate() {
        let mut word = 0u128;
        for j in 0..8 {
            each(8 * eight + j, &mut |bits| word |= (bits as u128) << (j * HIGH[component]));
        }
        packed.copy_from_slice(&word.to_le_bytes()[..HIGH[component]]);
    }
}

/// The inverse of [`shorten`], but for what was dropped. Error: a length, or a number above `q'`.
pub(crate) fn lengthen(params: &Params, component: usize, packed: &[u8]) -> Result<Vec<u32>, HeError> {
    const WHAT: &str = "masked ciphertext";
    check_length(WHAT, bytes(component), packed.len())?;
    let (q, dropped) = (Product::new(params), DROPPED[component]);
    let most = (q.all + (1 << (dropped - 1))) >> dropped;
    let powers: [u64; OUTPUT_LIMBS] = core::array::from_fn(|l| params.modulus(l).reduce(1 << HALF) as u64);
    let mut limbs = vec![0; OUTPUT_LIMBS * N];
    let (low, high) = packed.split_at(8 * N);
    for (eight, (low, high)) in
        low.as_chunks::<64>().0.iter().zip(high.chunks_exact(HIGH[component])).enumerate()
    {
        let mut word = [0; 16];
        word[..high.len()].copy_from_slice(high);
        let word = u128::from_le_bytes(word);
        for (j, low) in low.as_chunks::<8>().0.iter().enumerate() {
            let i = 8 * eight + j;
            let high = word >> (j * HIGH[component]) & ((1 << HIGH[component]) - 1);
            let kept = u64::from_le_bytes(*low) as u128 | high << 64;
            if kept > most {
                return Err(HeError::Coefficient { what: WHAT, index: i });
            }
            let v = kept << dropped;
            for (l, power) in powers.iter().enumerate() {
                let modulus = params.modulus(l);
                let high = modulus.reduce((v >> HALF) as u64) as u64;
                limbs[l * N + i] = modulus.reduce(high * power + (v as u64 & ((1 << HALF) - 1)));
            }
        }
    }
    Ok(limbs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamSet;
    use rand::{rngs::StdRng, Rng, SeedableRng};

    #[test]
    fn what_comes_back_differs_by_half_of_what_was_dropped() {
        let (params, mut rng) = (Params::get(ParamSet::N8192Q196), StdRng::seed_from_u64(12));
        let q = Product::new(params);
        for (component, dropped) in DROPPED.into_iter().enumerate() {
            // Extreme numbers first.
            let mut numbers = vec![0, 1, q.all - 1, q.all / 2, (1 << (dropped - 1)) - 1, 1 << (dropped - 1)];
            numbers.resize_with(N, || rng.gen::<u128>() % q.all);
            let limbs: Vec<u32> = (0..OUTPUT_LIMBS)
                .flat_map(|l| numbers.iter().map(move |v| (v % params.primes()[l] as u128) as u32))
                .collect();
            let mut packed = vec![];
            shorten(params, component, &limbs, &mut packed);
            let back = lengthen(params, component, &packed).unwrap();
            for (i, v) in numbers.iter().enumerate() {
                let kept = ((v + (1 << (dropped - 1))) >> dropped) << dropped;
                assert!(kept.abs_diff(*v) <= 1 << (dropped - 1));
                for l in 0..OUTPUT_LIMBS {
                    assert_eq!(back[l * N + i] as u128, kept % params.primes()[l] as u128, "{component} {i}");
                }
            }
            packed.fill(0xff);
            assert!(matches!(
                lengthen(params, component, &packed),
                Err(HeError::Coefficient { index: 0, .. })
            ));
            assert!(lengthen(params, component, &packed[1..]).is_err());
        }
    }
}
