//! Products modulo the primes of exponentials ([`cryptogen_ring::exponential::PRIMES`]), one in
//! each slot, as shares.
//!
//! **Function.** The key owner's numbers `x` and the evaluator's `y`, `N` each modulo `t = P_i`,
//! become `z_c + z_s = x ⊙ y mod t`. Scheme, keys and result are those of [`crate::shares`] with
//! another plaintext modulus: encryption scales by `q/t`, shares by `t/q`. Every prime is 1 modulo
//! `2N`, so slots exist, in the order of the transform; those modulo `p` are the slots of
//! [`Layout`] with `F = N`.
//! **Hides.** As [`crate::shares`] says; what is pseudorandom there does not depend on `t`.
//! **Errors.** Moduli are below `2^64`, so noise and failures are bounded as in [`crate::noise`]
//! for `F = N`: all `N` products are exact but for a probability below `2^−38`.
//! **Cost.** That of one term and one result of [`Combiner`](crate::Combiner), and two more
//! transforms modulo `t` for each party.

use cryptogen_ring::{kernels, Prg, Seed, WideFactor, WideModulus, WideNtt, Wiped};
use rand_core::{CryptoRng, RngCore};

use crate::encode::Scaled;
use crate::encrypt::SeededCiphertext;
use crate::error::{check_length, HeError};
use crate::keys::SecretKey;
use crate::params::{Layout, Params, LIMBS, LOG_N, N};
use crate::shares::{owner_share, ClientWork, Hidden, PublicKey, Scale, RESULT_BYTES};

/// A plaintext modulus `t` with the constants that follow from it.
pub(crate) struct Plain {
    ntt: WideNtt,
    /// `q mod t`.
    q_mod_t: WideFactor,
    /// From each prime of `q` to `t`.
    scales: Vec<Scale>,
}

impl Plain {
    pub(crate) fn new(t: u64, primes: &[u32]) -> Plain {
        let modulus = WideModulus::new(t);
        let q_mod_t = primes.iter().fold(1, |product, &q| modulus.mul(q as u64, product));
        Plain {
            ntt: WideNtt::new(modulus, LOG_N),
            q_mod_t: modulus.factor(q_mod_t),
            scales: primes.iter().map(|&q| Scale::new(t as u128, q)).collect(),
        }
    }

    fn modulus(&self) -> &WideModulus {
        self.ntt.modulus()
    }

    /// The polynomial with these slots.
    fn coefficients(&self, slots: &[u64]) -> Wiped<u64> {
        debug_assert!(slots.iter().all(|&x| x < self.modulus().value()));
        let mut x = Wiped::new(slots.to_vec());
        self.ntt.inverse(&mut x);
        x
    }

    /// A message, by its coefficients, on its way into a ciphertext.
    pub(crate) fn scaled(&self, mut coefficients: Wiped<u64>) -> Scaled {
        coefficients.iter_mut().for_each(|x| *x = self.modulus().mul_factor(*x, self.q_mod_t));
        Scaled::modulo(self.modulus().value(), coefficients)
    }

    /// Both components of a ciphertext times the polynomial with slots `y`, lifted to
    /// `(−t/2, t/2)`: its size is what noise grows by. `[LIMBS][N]` in the full domain.
    fn multiply(&self, params: &Params, ct: &SeededCiphertext, y: &[u64]) -> [Wiped<u32>; 2] {
        let (y, t) = (self.coefficients(y), self.modulus().value());
        let a = params.ring().uniform(&ct.seed);
        let mut products = [Wiped::zeros(LIMBS * N), Wiped::zeros(LIMBS * N)];
        let mut residues = Wiped::zeros(N);
        for limb in 0..LIMBS {
            let (q, range) = (params.modulus(limb), limb * N..(limb + 1) * N);
            kernels::centred_residues(q, t, &y, &mut residues);
            params.ntt(limb).forward(&mut residues, 0..LOG_N);
            for (x, product) in [&ct.b, &a].into_iter().zip(&mut products) {
                kernels::multiply(q, &x[range.clone()], &residues, &mut product[range.clone()]);
            }
        }
        products
    }

    /// The key owner's share `round(x·t/2^128)`.
    pub(crate) fn owner(&self, x: u128) -> u64 {
        let t = self.modulus().value();
        let product = (x >> 64) * t as u128 + ((x as u64 as u128 * t as u128) >> 64);
        // The last bits of x are 0, so nothing overflows; t itself may come out, and becomes 0.
        self.modulus().sub(((product + (1 << 63)) >> 64) as u64, t)
    }

    /// The evaluator's share of coefficient `i`.
    pub(crate) fn evaluator(&self, hidden: &Hidden, i: usize) -> u64 {
        self.modulus().reduce(hidden.scaled(&self.scales, i))
    }
}

impl SecretKey {
    /// Encrypts one number in each slot, canonical modulo the prime of this index. Error: a length
    /// other than `N`. Panics if there is no such prime.
    pub fn encrypt_modulo(
        &self,
        prime: usize,
        message: &[u64],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SeededCiphertext, HeError> {
        check_length("message", N, message.len())?;
        let params = self.params();
        let plain = params.plain(prime);
        let scaled = plain.scaled(plain.coefficients(message));
        let layout = Layout::new(LOG_N)?;
        let (seed, b) = params.ring().encrypt(self.negated(), &scaled, layout.log_f(), rng);
        Ok(SeededCiphertext { layout, seed, b })
    }

    /// The key owner's `N` shares modulo the prime of this index from the [`RESULT_BYTES`] bytes of
    /// one result; any bytes are some shares. Error: another length. Panics if there is no such
    /// prime.
    pub fn share_modulo(&self, prime: usize, result: &[u8]) -> Result<Vec<u64>, HeError> {
        let (params, mut share) = (self.params(), vec![0; N]);
        let (ring, plain) = (params.ring(), params.plain(prime));
        owner_share(ring, self.negated(), result, &mut ClientWork::new(ring), |i, y| {
            share[i] = plain.owner(y)
        })?;
        plain.ntt.forward(&mut share);
        Ok(share)
    }
}

/// The products of a ciphertext of [`SecretKey::encrypt_modulo`] with the evaluator's numbers `y`,
/// one in each slot, canonical modulo the prime of this index: the result, [`RESULT_BYTES`] bytes
/// for the key owner, and the evaluator's `N` shares. Errors: a length other than `N`, a ciphertext
/// without `N` slots, a key of another ring. Panics if there is no such prime.
pub fn multiply_modulo(
    params: &'static Params,
    prime: usize,
    ct: &SeededCiphertext,
    y: &[u64],
    key: &PublicKey,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(Vec<u8>, Vec<u64>), HeError> {
    check_length("multipliers", N, y.len())?;
    let (ring, plain) = (params.ring(), params.plain(prime));
    key.check(ring)?;
    if ct.layout.log_f() != LOG_N {
        return Err(HeError::LayoutMismatch { expected: LOG_N, actual: ct.layout.log_f() });
    }
    let products = plain.multiply(params, ct, y);
    let mut hidden = Hidden::new(ring);
    let product = |limb: usize, component: usize| &products[component][limb * N..(limb + 1) * N];
    hidden.hide(key, LOG_N, product, &mut Prg::new(&Seed::random(rng)));
    let mut result = vec![0; RESULT_BYTES];
    hidden.write(&mut result);
    let mut share: Vec<u64> = (0..N).map(|i| plain.evaluator(&hidden, i)).collect();
    plain.ntt.forward(&mut share);
    Ok((result, share))
}

#[cfg(test)]
mod tests {
    use cryptogen_ring::exponential::{self, PRIMES};
    use cryptogen_ring::Fp;

    use super::*;
    use crate::noise::{combine_noise_bound, ERROR_BOUND};
    use crate::tests::{setup, Setup, NONCES};

    fn uniform(prime: usize, rng: &mut Prg) -> Vec<u64> {
        (0..N).map(|_| exponential::uniform(prime, rng)).collect()
    }

    /// Both shares of `x ⊙ y`, through the bytes that travel.
    fn run(s: &mut Setup, prime: usize, x: &[u64], y: &[u64]) -> [Vec<u64>; 2] {
        let sent = s.sk.encrypt_modulo(prime, x, &mut s.rng).unwrap().to_bytes();
        let slots = Layout::new(LOG_N).unwrap();
        let ct = SeededCiphertext::from_bytes(s.params, slots, &sent).unwrap();
        let (result, server) = multiply_modulo(s.params, prime, &ct, y, &s.pk, &mut s.rng).unwrap();
        assert_eq!((result.len(), server.len()), (RESULT_BYTES, N));
        [s.sk.share_modulo(prime, &result).unwrap(), server]
    }

    /// Shares are canonical and add up to the products.
    fn check(prime: usize, x: &[u64], y: &[u64], shares: &[Vec<u64>; 2]) {
        let t = PRIMES[prime] as u128;
        for i in 0..N {
            let [client, server] = [shares[0][i] as u128, shares[1][i] as u128];
            assert!(client < t && server < t);
            assert_eq!((client + server) % t, x[i] as u128 * y[i] as u128 % t, "slot {i} modulo {t}");
        }
    }

    #[test]
    fn products_are_exact_modulo_every_prime() {
        let mut s = setup(1);
        for (prime, &t) in PRIMES.iter().enumerate() {
            let (mut x, mut y) = (uniform(prime, &mut s.rng), uniform(prime, &mut s.rng));
            let edges = [0, 1, t - 1, t / 2, t / 2 + 1];
            x.iter_mut().zip(edges).for_each(|(x, edge)| *x = edge);
            y.iter_mut().step_by(3).zip(edges.iter().cycle()).for_each(|(y, edge)| *y = *edge);
            let shares = run(&mut s, prime, &x, &y);
            check(prime, &x, &y, &shares);
            // The evaluator's share alone is uniform.
            let mean = shares[1].iter().map(|&z| z as f64 / t as f64).sum::<f64>() / N as f64;
            assert!((mean - 0.5).abs() < 5.0 / (12.0 * N as f64).sqrt());
            for edge in edges {
                let (x, y) = (vec![edge; N], uniform(prime, &mut s.rng));
                let shares = run(&mut s, prime, &x, &y);
                check(prime, &x, &y, &shares);
                let shares = run(&mut s, prime, &y, &x);
                check(prime, &y, &x, &shares);
            }
        }
    }

    #[test]
    fn hundred_thousands_of_products_are_exact() {
        let mut s = setup(2);
        for prime in [0, 1, 2, 5] {
            for _ in 0..5 {
                let (x, y) = (uniform(prime, &mut s.rng), uniform(prime, &mut s.rng));
                let shares = run(&mut s, prime, &x, &y);
                check(prime, &x, &y, &shares);
            }
        }
    }

    /// Noise of products before they are hidden, from the secret key: within the bound of
    /// [`crate::noise`] always, and as large as independent errors make it.
    #[test]
    fn noise_is_within_its_bound() {
        let mut s = setup(5);
        for (prime, &t) in PRIMES.iter().enumerate() {
            let (x, plain) = (uniform(prime, &mut s.rng), s.params.plain(prime));
            let ct = s.sk.encrypt_modulo(prime, &x, &mut s.rng).unwrap();
            let [mut phase, a] = plain.multiply(s.params, &ct, &uniform(prime, &mut s.rng));
            // Of t·(b − a·(−s))/q the fraction, in units of 2^−96: the message is a multiple of q.
            let mut fractions = vec![0u128; N];
            for (limb, phase) in phase.chunks_exact_mut(N).enumerate() {
                let (q, range) = (s.params.modulus(limb), limb * N..(limb + 1) * N);
                let others = (0..LIMBS).filter(|&other| other != limb).map(|other| s.params.primes()[other]);
                let others = others.fold(1, |product, other| q.mul(product, q.reduce(other as u64)));
                let factor = q.mul(q.reduce(t), q.inv(others));
                for ((phase, &a), &minus_s) in
                    phase.iter_mut().zip(&a[range.clone()]).zip(&s.sk.negated()[range])
                {
                    *phase = q.mul(q.sub(*phase, q.mul(a, minus_s)), factor);
                }
                s.params.ntt(limb).inverse(phase, 0..LOG_N);
                let each = fractions.iter_mut().zip(phase.iter());
                each.for_each(|(f, &x)| *f += ((x as u128) << 96) / q.value() as u128);
            }
            // In units of t/q.
            let unit = (96.0 - s.params.log_q()).exp2() * t as f64;
            let noise = |f: &u128| ((f << 32) as i128 >> 32) as f64 / unit;
            let noise: Vec<f64> = fractions.iter().map(noise).collect();
            let largest = noise.iter().fold(0.0f64, |most, e| most.max(e.abs()));
            let bound = combine_noise_bound(N as u64);
            assert!(largest.log2() < bound as f64);
            let square = noise.iter().map(|e| e * e).sum::<f64>() / N as f64;
            let variance = N as f64 * (t as f64).powi(2) / 12.0 * (ERROR_BOUND as f64 / 2.0 + 1.0 / 12.0);
            assert!((square / variance - 1.0).abs() < 0.1, "{square} {variance}");
            assert!(largest < 6.0 * variance.sqrt());
        }
    }

    #[test]
    fn fractions_round_to_canonical_shares() {
        let s = setup(6);
        for (prime, &t) in PRIMES.iter().enumerate() {
            let plain = s.params.plain(prime);
            // The last 8 bits of a fraction are 0.
            let last = u128::MAX << 8;
            assert_eq!([0, 1 << 62, 1 << 127, last].map(|x| plain.owner(x)), [0, 0, t.div_ceil(2), 0]);
            for units in [1, 2, t / 3, t - 1] {
                // Half a unit below and above.
                let (quotient, rest) = (u128::MAX / t as u128 * units as u128, u128::MAX % t as u128);
                let middle = quotient + rest * units as u128 / t as u128;
                let near = 1 << 62;
                assert_eq!(plain.owner(middle - near), units);
                assert_eq!(plain.owner(middle + near), units);
                let half = u128::MAX / t as u128 / 2;
                assert_eq!(plain.owner(middle + half - near / 64), units);
                assert_eq!(plain.owner(middle + half + near / 64), (units + 1) % t);
            }
        }
    }

    /// The slots and the scheme are the same, whichever way they are computed.
    #[test]
    fn modulo_p_it_is_the_scheme_of_fields() {
        let mut s = setup(3);
        let slots = Layout::new(LOG_N).unwrap();
        let (x, y) = (uniform(0, &mut s.rng), uniform(0, &mut s.rng));
        let fp = |x: &[u64]| x.iter().map(|&x| Fp::new(x)).collect::<Vec<_>>();
        let ct = s.sk.encrypt(&fp(&x), slots, &mut s.rng).unwrap();
        let (result, server) = multiply_modulo(s.params, 0, &ct, &y, &s.pk, &mut s.rng).unwrap();
        let client = kernels::integers(&s.sk.share(&result, slots).unwrap()).to_vec();
        check(0, &x, &y, &[client, server]);
    }

    #[test]
    fn hostile_input_is_some_share_or_an_error() {
        let mut s = setup(4);
        let slots = Layout::new(LOG_N).unwrap();
        for (prime, &t) in PRIMES.iter().enumerate() {
            for byte in [0, 0x7f, 0x80, 0xff] {
                let share = s.sk.share_modulo(prime, &vec![byte; RESULT_BYTES]).unwrap();
                assert!(share.len() == N && share.iter().all(|&z| z < t));
            }
            let mut bytes = vec![0; RESULT_BYTES];
            s.rng.fill_bytes(&mut bytes);
            assert!(s.sk.share_modulo(prime, &bytes).unwrap().iter().all(|&z| z < t));
            for wrong in [0, RESULT_BYTES - 1, RESULT_BYTES + 1] {
                let error = s.sk.share_modulo(prime, &vec![0; wrong]);
                assert!(matches!(error, Err(HeError::Length { expected: RESULT_BYTES, actual, .. })
                    if actual == wrong));
            }
            // A ciphertext of the peer's choice.
            let mut bytes = vec![0; SeededCiphertext::BYTES];
            s.rng.fill_bytes(&mut bytes[..32]);
            let ct = SeededCiphertext::from_bytes(s.params, slots, &bytes).unwrap();
            let y = uniform(prime, &mut s.rng);
            let (_, share) = multiply_modulo(s.params, prime, &ct, &y, &s.pk, &mut s.rng).unwrap();
            assert!(share.iter().all(|&z| z < t));
            assert!(multiply_modulo(s.params, prime, &ct, &y[1..], &s.pk, &mut s.rng).is_err());
        }
        assert!(s.sk.encrypt_modulo(1, &[0; N - 1], &mut s.rng).is_err());
        let other = Layout::new(3).unwrap();
        let ct = s.sk.encrypt(&vec![Fp::ONE; N], other, &mut s.rng).unwrap();
        let error = multiply_modulo(s.params, 1, &ct, &[0; N], &s.pk, &mut s.rng);
        assert_eq!(error, Err(HeError::LayoutMismatch { expected: LOG_N, actual: 3 }));
        let foreign = crate::linear::Params::get().ring();
        let key = PublicKey::from_bytes(foreign, &NONCES, &vec![0; PublicKey::bytes(foreign)]).unwrap();
        let ct = s.sk.encrypt_modulo(1, &[0; N], &mut s.rng).unwrap();
        assert!(multiply_modulo(s.params, 1, &ct, &[0; N], &key, &mut s.rng).is_err());
    }
}
