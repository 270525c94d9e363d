//! Samplers. Small values come with an offset, as non-negative numbers: adding the offset's
//! negative modulo each prime is part of the same loop that adds them up
//! ([`crate::encode::Terms`]).

use cryptogen_ring::{kernels, Modulus, Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize, Zeroizing};

use crate::noise::ERROR_BOUND;

/// Offset of [`error`].
pub(crate) const ERROR_OFFSET: u32 = ERROR_BOUND as u32;
/// Offset of [`ternary`].
pub(crate) const TERNARY_OFFSET: u32 = 1;

/// Residues `[limbs][n]`, uniform, from a public seed.
pub(crate) fn uniform<'a>(moduli: impl Iterator<Item = &'a Modulus>, n: usize, seed: &[u8; 32]) -> Vec<u32> {
    let mut prg = Prg::new(&Seed::from_bytes(*seed));
    let moduli: Vec<&Modulus> = moduli.collect();
    let mut out = vec![0; moduli.len() * n];
    out.chunks_exact_mut(n).zip(moduli).for_each(|(out, q)| uniform_limb(q, &mut prg, out));
    out
}

/// Fills `out`; rejects words of as many bits as the prime that are not below it (less than half
/// of them).
fn uniform_limb(q: &Modulus, prg: &mut Prg, out: &mut [u32]) {
    let mut bytes = [0u8; 4096];
    let mut filled = 0;
    while filled < out.len() {
        prg.fill_bytes(&mut bytes);
        filled += kernels::accept(q.value(), q.value().leading_zeros(), &bytes, &mut out[filled..]);
    }
}

/// `n` errors plus 21: centred binomial with `η = 21`, the difference of two sums of 21 bits.
pub(crate) fn error(rng: &mut (impl RngCore + CryptoRng), n: usize) -> Zeroizing<Vec<u32>> {
    let words = random_words(rng, n);
    let mut out = Zeroizing::new(vec![0; n]);
    kernels::binomial(ERROR_OFFSET, &words, &mut out);
    out
}

/// `n` uniform numbers of `{−1, 0, 1}`, plus 1, `n` a multiple of 32: two random bits each, 3 is
/// drawn again.
pub(crate) fn ternary(rng: &mut (impl RngCore + CryptoRng), n: usize) -> Zeroizing<Vec<u32>> {
    // Room for the pairs of a whole word after the last number.
    let mut out = Zeroizing::new(vec![0; n + 32]);
    let mut filled = 0;
    while filled < n {
        for &word in random_words(rng, n / 32).iter() {
            if filled >= n {
                break;
            }
            for i in 0..32 {
                // Every pair is written; the next one takes the place of a 3.
                let pair = (word >> (2 * i)) as u32 & 3;
                out[filled] = pair;
                filled += (pair < 3) as usize;
            }
        }
    }
    out[n..].zeroize();
    out.truncate(n);
    out
}

fn random_words(rng: &mut (impl RngCore + CryptoRng), n: usize) -> Zeroizing<Vec<u64>> {
    let mut bytes = Zeroizing::new(vec![0; 8 * n]);
    rng.fill_bytes(&mut bytes);
    let word = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("chunks of eight"));
    Zeroizing::new(bytes.chunks_exact(8).map(word).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::N;
    use rand::{rngs::StdRng, SeedableRng};

    #[test]
    fn samplers_have_their_moments() {
        let mut rng = StdRng::seed_from_u64(1);
        let e = error(&mut rng, N);
        let centred =
            |v: &[u32], offset: u32| v.iter().map(|&x| x as f64 - offset as f64).collect::<Vec<_>>();
        let variance = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
        assert!(e.iter().all(|&x| x <= 42));
        assert!((variance(&centred(&e, ERROR_OFFSET)) - 10.5).abs() < 1.0);
        let s = ternary(&mut rng, N);
        assert!(s.len() == N && s.iter().all(|&x| x < 3));
        assert!((variance(&centred(&s, TERNARY_OFFSET)) - 2.0 / 3.0).abs() < 0.05);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        assert!(
            mean(&centred(&e, ERROR_OFFSET)).abs() < 0.2 && mean(&centred(&s, TERNARY_OFFSET)).abs() < 0.05
        );
    }
}
