//! Results as additive shares, hidden by masks as wide as the ciphertext modulus.
//!
//! **Function.** The evaluator holds `(S_0, S_1) = Σ_i w_i·(b_i, a_i)` over fresh ciphertexts
//! `(b_i, a_i)` of the key owner, whose phase is `S_0 + S_1·s = (q/p)·m + e mod q`. It draws small
//! `v` (ternary) and `e_2` (as an encryption's error), sends `c_1 = S_1 + a·v + e_2` rounded to a
//! multiple of `q/2^bits`, and keeps `c_0 = S_0 + b·v`, where `(b = −a·s + e_pk, a)` is the key
//! owner's public key. With `y_s = round(c_0·p/q)` of the evaluator and `y_c = round(c_1·s·p/q)` of
//! the key owner, both to nearest, `y_c + y_s = m + ε` mod `p`: scaling takes a multiple of `q` to
//! a multiple of `p`. `ε` is what the noise `e + e_pk·v + e_2·s + (rounding of c_1)·s`, times
//! `p/q`, makes of two roundings to nearest: `|ε| ≤ |noise|·p/q + 1`, and `ε ≠ 0` with probability
//! `E|noise|·p/q` ([`crate::noise`]).
//! **Hides.** The key owner's view is `c_1` alone: `a·v + e_2` is one sample of ring-LWE with a
//! fresh secret `v` for every result, so `c_1` is pseudorandom whatever `S_1` is, that is whatever
//! the weights, the key owner's ciphertexts and its `b` are; rounding is a public function of it.
//! This needs `a` uniform and beyond the key owner's choice: it is expanded from a hash of nonces
//! of both parties. No statistical distance adds up over results, and nothing is flooded. (Seen the
//! other way: a mask `u`, uniform modulo the whole of `q`, is subtracted from `c_0`; `c_0 − u` then
//! carries nothing, so `u = c_0` is chosen and nothing sent.) The evaluator sees ciphertexts only.
//! What is said ends where the evaluator's share is released: jointly with `y_s` a malformed `b`
//! tells of `v`.
//! **Cost.** Per result three transforms for each prime and `bits` bits for each coefficient, one
//! way; no message for the evaluator's share.

use cryptogen_ring::{kernels, Fp, Modulus, Prg, Wiped, P};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};

use crate::codec::{pack, packed_bytes, unpack};
use crate::encode::Terms;
use crate::error::{check_length, HeError};
use crate::keys::SecretKey;
use crate::params::{Layout, N};
use crate::ring::Ring;
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};

/// Bits of a coefficient of `c_1` on the wire, for results in slots: what makes `ε = 0` but for a
/// probability below `2^−38` per result ([`crate::noise::share_failure`]).
pub(crate) const BITS: u32 = 120;
/// Primes that hold the product of such a number and the secret.
pub(crate) const PRODUCT_LIMBS: usize = 5;
/// Bytes of one result of the set `N8192Q196`, `N` shares for each party.
pub const RESULT_BYTES: usize = N * BITS as usize / 8;
/// Fractional bits of the scaling from `q`: the sums of up to 7 residues below `2^28` fit 127 bits,
/// and are off by less than `2^−65`.
const FRACTION: u32 = 96;
/// Fractional bits of the quotient by the product of the primes.
const QUOTIENT: u32 = 59;

/// Fresh randomness that both parties bring to the public key of a connection. Who speaks first
/// does not matter: the last can choose among hashes, not make one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Nonces {
    /// The key owner's.
    pub client: [u8; 32],
    /// The evaluator's.
    pub server: [u8; 32],
}

impl Nonces {
    /// The seed of `a`: SHA-256 of both nonces, a label and the ring's name.
    pub(crate) fn seed(&self, ring: &Ring) -> [u8; 32] {
        let hash = Sha256::new().chain_update(self.client).chain_update(self.server);
        hash.chain_update("cryptogen public key ").chain_update(ring.name()).finalize().into()
    }
}

/// `(b, a)` with `b = −a·s + e`, both in the full domain; `a` follows from the nonces.
pub struct PublicKey {
    ring: &'static Ring,
    /// `[limbs][n]` each.
    b: Vec<u32>,
    a: Vec<u32>,
}

impl PublicKey {
    pub(crate) fn generate(
        ring: &'static Ring,
        negated: &[u32],
        nonces: &Nonces,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> PublicKey {
        let a = ring.uniform(&nonces.seed(ring));
        PublicKey { ring, b: ring.zero(negated, &a, rng), a }
    }

    /// Length of [`PublicKey::to_bytes`].
    pub fn bytes(ring: &Ring) -> usize {
        packed_bytes(ring.limbs() * ring.n())
    }

    /// The packed `b`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PublicKey::bytes(self.ring));
        pack(&self.b, &mut out);
        out
    }

    /// The inverse of [`PublicKey::to_bytes`]. Errors: the length, a residue that is not canonical.
    pub fn from_bytes(ring: &'static Ring, nonces: &Nonces, bytes: &[u8]) -> Result<PublicKey, HeError> {
        Ok(PublicKey { ring, b: unpack(ring, "public key", bytes)?, a: ring.uniform(&nonces.seed(ring)) })
    }

    pub(crate) fn ring(&self) -> &'static Ring {
        self.ring
    }

    /// `b` for 0, `a` for 1; `[limbs][n]` in the full domain.
    pub(crate) fn component(&self, index: usize) -> &[u32] {
        [&self.b, &self.a][index]
    }

    /// Refuses a key of another ring.
    pub(crate) fn check(&self, ring: &Ring) -> Result<(), HeError> {
        match core::ptr::eq(self.ring, ring) {
            true => Ok(()),
            false => {
                let (expected, actual) = (ring.n(), self.ring.n());
                Err(HeError::Length { what: "ring of the public key", expected, actual })
            }
        }
    }
}

impl SecretKey {
    /// The public key for results as shares.
    pub fn public_key(&self, nonces: &Nonces, rng: &mut (impl RngCore + CryptoRng)) -> PublicKey {
        PublicKey::generate(self.params().ring(), self.negated(), nonces, rng)
    }

    /// The key owner's share `[F][C]` of one result, from its [`RESULT_BYTES`] bytes; any bytes are
    /// some share. Error: another length.
    pub fn share(&self, result: &[u8], layout: Layout) -> Result<Vec<Fp>, HeError> {
        let params = self.params();
        let mut share = vec![Fp::ZERO; N];
        owner_share(params.ring(), self.negated(), result, &mut ClientWork::new(params.ring()), |i, y| {
            share[i] = field(y)
        })?;
        params.fp.forward(&mut share, layout.log_f());
        Ok(share)
    }
}

/// `modulus/q_i` as an integer and a fraction.
pub(crate) struct Scale {
    integer: u128,
    /// In units of `2^−96`.
    fraction: u128,
}

impl Scale {
    pub(crate) fn new(modulus: u128, q: u32) -> Scale {
        let q = q as u128;
        Scale { integer: modulus / q, fraction: ((modulus % q) << FRACTION) / q }
    }
}

/// The constants that take a ring's polynomials to shares.
pub(crate) struct Conversion {
    /// Bits of a number of `c_1` on the wire, a multiple of 8 up to 120.
    bits: u32,
    /// `(q/q_i)^{−1} mod q_i`.
    gadget: Vec<u32>,
    /// From `x·gadget` modulo `q_i` to `x·p/q` and to `x·2^bits/q`.
    to_field: Vec<Scale>,
    to_wire: Vec<Scale>,
    /// Of the first primes, with product `Q`: `−(Q/q_i)^{−1} mod q_i`, `Q/q_i mod 2^128`,
    /// `2^59/q_i` and `Q mod 2^128`. `Q` exceeds the numbers on the wire by `2n` and some bits.
    product_gadget: Vec<u32>,
    product_others: Vec<u128>,
    product_inverse: Vec<u32>,
    product: u128,
}

impl Conversion {
    pub(crate) fn new(primes: &[u32], bits: u32, product_limbs: usize) -> Conversion {
        // (Π of the other primes)^{−1} modulo the i-th.
        let gadget = |primes: &[u32], i: usize| {
            let q = Modulus::new(primes[i]);
            let others = primes.iter().enumerate().filter(|&(j, _)| j != i);
            q.inv(others.fold(1, |product, (_, &other)| q.mul(product, q.reduce(other as u64))))
        };
        let kept = &primes[..product_limbs];
        let product = |skip: Option<usize>| {
            let factors = kept.iter().enumerate().filter(|&(i, _)| Some(i) != skip);
            factors.fold(1u128, |product, (_, &q)| product.wrapping_mul(q as u128))
        };
        let indices = 0..product_limbs;
        Conversion {
            bits,
            gadget: (0..primes.len()).map(|i| gadget(primes, i)).collect(),
            to_field: primes.iter().map(|&q| Scale::new(P as u128, q)).collect(),
            to_wire: primes.iter().map(|&q| Scale::new(1 << bits, q)).collect(),
            product_gadget: indices.clone().map(|i| kept[i] - gadget(kept, i)).collect(),
            product_others: indices.map(|i| product(Some(i))).collect(),
            product_inverse: kept
                .iter()
                .map(|&q| u32::try_from((1u64 << QUOTIENT) / q as u64).expect("primes have 28 bits"))
                .collect(),
            product: product(None),
        }
    }

    /// Bytes of a number on the wire.
    fn width(&self) -> usize {
        self.bits as usize / 8
    }
}

/// `round(Σ_i x̂_i·scale_i)` for coefficient `i` of `hats` `[limbs][n]`.
fn scaled(scales: &[Scale], hats: &[u32], n: usize, i: usize) -> u128 {
    let (mut integer, mut fraction) = (0, 1 << (FRACTION - 1));
    for (scale, hats) in scales.iter().zip(hats.chunks_exact(n)) {
        integer += hats[i] as u128 * scale.integer;
        fraction += hats[i] as u128 * scale.fraction;
    }
    integer + (fraction >> FRACTION)
}

/// A result in the evaluator's hands, and room for the way there.
pub(crate) struct Hidden {
    ring: &'static Ring,
    v: Wiped<u32>,
    /// `c_0` and `c_1`, coefficients times the gadget, `[limbs][n]`.
    hats: [Wiped<u32>; 2],
    spare: Wiped<u32>,
}

impl Hidden {
    pub(crate) fn new(ring: &'static Ring) -> Hidden {
        let (n, all) = (ring.n(), ring.n() * ring.limbs());
        Hidden {
            ring,
            v: Wiped::zeros(n),
            hats: [Wiped::zeros(all), Wiped::zeros(all)],
            spare: Wiped::zeros(n),
        }
    }

    /// Adds an encryption of zero to a sum, whose `sum(limb, component)` is in the partial domain
    /// of `levels` levels; component 0 is `S_0`.
    pub(crate) fn hide<'a>(
        &mut self,
        key: &PublicKey,
        levels: u32,
        sum: impl Fn(usize, usize) -> &'a [u32],
        rng: &mut Prg,
    ) {
        let (ring, n) = (self.ring, self.ring.n());
        let (v, e2) = (sample::ternary(rng, n), sample::error(rng, n));
        for limb in 0..ring.limbs() {
            let (q, ntt, range) = (ring.modulus(limb), ring.ntt(limb), limb * n..(limb + 1) * n);
            self.v.fill(0);
            Terms::new(q).add_offset(&v, TERNARY_OFFSET).add_to(&mut self.v);
            ntt.forward(&mut self.v, 0..ring.log_n());
            for component in 0..2 {
                let c = &mut self.spare;
                kernels::multiply(q, &key.component(component)[range.clone()], &self.v, c);
                ntt.inverse(c, levels..ring.log_n());
                Terms::new(q).add(1, sum(limb, component)).add_to(c);
                ntt.inverse(c, 0..levels);
                if component == 1 {
                    Terms::new(q).add_offset(&e2, ERROR_OFFSET).add_to(c);
                }
                let hat = &mut self.hats[component][range.clone()];
                hat.fill(0);
                Terms::new(q).add(ring.conversion.gadget[limb], c).add_to(hat);
            }
        }
    }

    /// Writes `c_1` as it travels.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let (conversion, n) = (&self.ring.conversion, self.ring.n());
        // Cutting the bytes off reduces modulo 2^bits.
        let number = |i: usize| scaled(&conversion.to_wire, &self.hats[1], n, i);
        match conversion.width() {
            8 => {
                let each = out.as_chunks_mut::<8>().0.iter_mut().enumerate();
                each.for_each(|(i, out)| *out = (number(i) as u64).to_le_bytes());
            }
            width => {
                let each = out.chunks_exact_mut(width).enumerate();
                each.for_each(|(i, out)| out.copy_from_slice(&number(i).to_le_bytes()[..width]));
            }
        }
    }

    /// The evaluator's share of coefficient `i`.
    pub(crate) fn share(&self, i: usize) -> Fp {
        Fp::from_u128(self.scaled(&self.ring.conversion.to_field, i))
    }

    /// `round(c_0·t/q)` up to a multiple of `t`, below `2^67`, for coefficient `i` and the scales
    /// from each prime to `t`.
    pub(crate) fn scaled(&self, scales: &[Scale], i: usize) -> u128 {
        scaled(scales, &self.hats[0], self.ring.n(), i)
    }
}

/// `round(x·p/q)` mod `p` of coefficients `[limbs][n]`.
pub(crate) fn field_coefficients(ring: &Ring, x: &[u32]) -> Wiped<Fp> {
    let (conversion, n) = (&ring.conversion, ring.n());
    let mut hats = Wiped::zeros(x.len());
    for (limb, (hat, x)) in hats.chunks_exact_mut(n).zip(x.chunks_exact(n)).enumerate() {
        Terms::new(ring.modulus(limb)).add(conversion.gadget[limb], x).add_to(hat);
    }
    let all = (0..n).map(|i| Fp::from_u128(scaled(&conversion.to_field, &hats, n, i)));
    Wiped::new(all.collect())
}

/// Room for the key owner's way to its shares.
pub(crate) struct ClientWork {
    /// The numbers on the wire, which are public.
    numbers: Vec<u128>,
    hats: Wiped<u32>,
    product: Wiped<u32>,
    quotients: Wiped<u32>,
}

impl ClientWork {
    pub(crate) fn new(ring: &Ring) -> ClientWork {
        let limbs = ring.conversion.product_gadget.len();
        ClientWork {
            numbers: vec![0; ring.n()],
            hats: Wiped::zeros(limbs * ring.n()),
            product: Wiped::zeros(ring.n()),
            quotients: Wiped::zeros(ring.n()),
        }
    }
}

/// Passes each coefficient's index and `c_1·s/2^bits` on, the fraction alone, in units of `2^−128`.
/// The product of the number on the wire and the ternary secret is an integer below `Q/2`, whatever
/// the bytes are, and known exactly from its residues.
pub(crate) fn owner_share(
    ring: &Ring,
    negated: &[u32],
    result: &[u8],
    work: &mut ClientWork,
    mut share: impl FnMut(usize, u128),
) -> Result<(), HeError> {
    let (conversion, n) = (&ring.conversion, ring.n());
    let width = conversion.width();
    check_length("result", n * width, result.len())?;
    let limbs = conversion.product_gadget.len();
    match result.as_chunks::<8>() {
        (words, []) if width == 8 => {
            let each = work.numbers.iter_mut().zip(words);
            each.for_each(|(x, word)| *x = u64::from_le_bytes(*word) as u128);
        }
        _ => {
            let each = work.numbers.iter_mut().zip(result.chunks_exact(width));
            each.for_each(|(x, bytes)| *x = number(bytes));
        }
    }
    for (limb, hat) in work.hats.chunks_exact_mut(n).enumerate() {
        let (q, ntt) = (ring.modulus(limb), ring.ntt(limb));
        let each = work.product.iter_mut().zip(&work.numbers);
        if width == 8 {
            each.for_each(|(x, &c)| *x = q.reduce(c as u64));
        } else {
            let power = q.pow(2, 64) as u64;
            each.for_each(|(x, &c)| {
                *x = q.reduce(q.reduce((c >> 64) as u64) as u64 * power + q.reduce(c as u64) as u64)
            });
        }
        ntt.forward(&mut work.product, 0..ring.log_n());
        kernels::multiply(q, &work.product, &negated[limb * n..(limb + 1) * n], hat);
        ntt.inverse(hat, 0..ring.log_n());
        work.product.fill(0);
        Terms::new(q).add(conversion.product_gadget[limb], hat).add_to(&mut work.product);
        hat.copy_from_slice(&work.product);
    }
    let rows: Vec<&[u32]> = work.hats.chunks_exact(n).collect();
    kernels::rounded_sum(&conversion.product_inverse, &rows, QUOTIENT, &mut work.quotients);
    for (i, &quotient) in work.quotients.iter().enumerate() {
        // Chinese remainders modulo 2^128, which 2^bits divides.
        let wrapped = conversion.product.wrapping_mul(quotient as u128);
        let x = (0..limbs).fold(wrapped.wrapping_neg(), |x, l| {
            x.wrapping_add(conversion.product_others[l].wrapping_mul(rows[l][i] as u128))
        });
        share(i, x << (128 - conversion.bits));
    }
    Ok(())
}

/// The key owner's share `round(x·p/2^128)`.
#[inline(always)]
pub(crate) fn field(x: u128) -> Fp {
    // p/2^64 = 1 − 2^−32 + 2^−64.
    let scaled = x - (x >> 32) + (x >> 64);
    Fp::new(((scaled + (1 << 63)) >> 64) as u64)
}

/// A number of up to 16 little-endian bytes.
fn number(bytes: &[u8]) -> u128 {
    let mut padded = [0; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(padded)
}

#[cfg(test)]
mod tests {
    use cryptogen_ring::exponential::PRIMES;
    use cryptogen_ring::Seed;
    use zeroize::Zeroizing;

    use super::*;
    use crate::encode::Scaled;
    use crate::modulo::Plain;
    use crate::params::{ParamSet, Params, LOG_N};
    use crate::tests::{excess, setup, Setup, NONCES};
    use crate::{Ciphertext, Combiner};

    fn encrypt(s: &mut Setup, layout: Layout, messages: &[Vec<Fp>]) -> Vec<Ciphertext> {
        let one = |m: &Vec<Fp>| s.sk.encrypt(m, layout, &mut s.rng).unwrap().expand(s.params);
        messages.iter().map(one).collect()
    }

    /// Both shares of all combinations, `[M][N]` each, and the messages.
    fn run(s: &mut Setup, layout: Layout, cts: &[Ciphertext], w: &[Fp], m: usize) -> [Vec<Fp>; 2] {
        let mut combiner = Combiner::new(s.params, layout, m);
        combiner.add_block(cts, w).unwrap();
        let (messages, shares) = combiner.finish_shares(&s.pk, &mut s.rng).unwrap();
        assert_eq!((messages.len(), shares.len()), (m * RESULT_BYTES, m * N));
        let client = messages.chunks_exact(RESULT_BYTES).flat_map(|c| s.sk.share(c, layout).unwrap());
        [client.collect(), shares]
    }

    #[test]
    fn shares_add_up_exactly_in_every_layout() {
        let mut s = setup(1);
        for (log_f, m, k) in [(0, 3, 40), (3, 20, 9), (7, 3, 4), (10, 2, 3), (12, 2, 2), (13, 3, 2)] {
            let layout = Layout::new(log_f).unwrap();
            let (f, c) = (layout.slots(), layout.coefficients());
            let edges = [0, 1, P - 1, P / 2, P / 2 + 1].map(Fp::new);
            let mut messages: Vec<Vec<Fp>> = (0..k).map(|_| s.rng.fp_vec(N)).collect();
            messages[0].iter_mut().step_by(2).zip(edges.iter().cycle()).for_each(|(m, e)| *m = *e);
            let mut w = s.rng.fp_vec(m * k * f);
            w.iter_mut().step_by(3).zip(edges.iter().cycle()).for_each(|(w, e)| *w = *e);
            let cts = encrypt(&mut s, layout, &messages);
            let [client, server] = run(&mut s, layout, &cts, &w, m);
            for (at, (&y, &z)) in client.iter().zip(&server).enumerate() {
                let (row, i) = (at / N, at % N);
                let expected: Fp = (0..k).map(|j| w[(row * k + j) * f + i / c] * messages[j][i]).sum();
                assert_eq!(y + z, expected, "F = {f}, result {row}, element {i}");
            }
        }
    }

    #[test]
    fn thousands_of_results_are_exact() {
        let (mut s, layout) = (setup(2), Layout::new(0).unwrap());
        let message = s.rng.fp_vec(N);
        let cts = encrypt(&mut s, layout, core::slice::from_ref(&message));
        for _ in 0..32 {
            let w = s.rng.fp_vec(64);
            let [client, server] = run(&mut s, layout, &cts, &w, 64);
            let wrong = (0..64 * N).filter(|&i| client[i] + server[i] != w[i / N] * message[i % N]).count();
            assert_eq!(wrong, 0);
        }
    }

    /// A ternary secret makes `n·2^bits` of a number at most; the rounded quotient by `Q` needs
    /// some room beyond twice that.
    #[test]
    fn products_with_the_secret_are_far_below_the_primes() {
        let large = Params::get(ParamSet::N8192Q196).ring();
        for ring in [large, crate::linear::Params::get().ring()] {
            let kept = ring.moduli().take(ring.conversion.product_gadget.len());
            let log_product: f64 = kept.map(|q| (q.value() as f64).log2()).sum();
            assert!(log_product > (ring.conversion.bits + ring.log_n()) as f64 + 6.0, "{}", ring.name());
        }
    }

    /// With fewer bits on the wire shares are wrong as often as `0.8·σ(δ)` says, so the probability
    /// of the set's own width is of the right kind. `t`: the plaintext modulus, with what it makes
    /// of coefficients `m`, of the owner's fraction and of the evaluator's coefficient.
    fn check_failures<const SHORT: u32>(
        t: u64,
        scaled: impl Fn(&[u64], &Ring) -> Scaled,
        owner: impl Fn(u128) -> u64,
        evaluator: impl Fn(&Hidden, usize) -> u64,
    ) {
        let primes = Params::get(ParamSet::N8192Q196).primes();
        let conversion = Conversion::new(&primes, SHORT, PRODUCT_LIMBS);
        let ring: &'static Ring = Box::leak(Box::new(Ring::new("test", LOG_N, &primes, conversion)));
        let mut rng = Prg::new(&Seed::from_bytes([3; 32]));
        let secret = sample::ternary(&mut rng, N);
        let negated = ring.negated(&secret);
        let key = PublicKey::generate(ring, &negated, &NONCES, &mut rng);
        let (mut hidden, mut work) = (Hidden::new(ring), ClientWork::new(ring));
        let (mut wrong, rounds) = (0, 60);
        for _ in 0..rounds {
            let message: Vec<u64> = rng.fp_vec(N).iter().map(|x| x.value() % t).collect();
            let (seed, b) = ring.encrypt(&negated, &scaled(&message, ring), 0, &mut rng);
            let a = ring.uniform(&seed);
            let sum = |limb: usize, component: usize| &[&b, &a][component][limb * N..(limb + 1) * N];
            hidden.hide(&key, 0, sum, &mut rng);
            let mut sent = vec![0; N * SHORT as usize / 8];
            hidden.write(&mut sent);
            owner_share(ring, &negated, &sent, &mut work, |i, y| {
                let sum = owner(y) as i128 + evaluator(&hidden, i) as i128 - message[i] as i128;
                let error = sum.rem_euclid(t as i128);
                assert!(error <= 1 || error == t as i128 - 1);
                wrong += (error != 0) as usize;
            })
            .unwrap();
        }
        let weight = secret.iter().filter(|&&x| x != TERNARY_OFFSET).count() as f64;
        let deviation = (weight / 12.0).sqrt() * t as f64 * (-(SHORT as f64)).exp2();
        let expected = (2.0 / core::f64::consts::PI).sqrt() * deviation * (rounds * N) as f64;
        assert!((wrong as f64 / expected - 1.0).abs() < 0.4, "{wrong} wrong, {expected} expected");
    }

    #[test]
    fn failures_are_as_frequent_as_computed() {
        let scaled = |m: &[u64], ring: &Ring| {
            Scaled::of(Zeroizing::new(m.iter().map(|&x| Fp::new(x)).collect()), ring.q_mod_p)
        };
        check_failures::<80>(P, scaled, |y| field(y).value(), |hidden, i| hidden.share(i).value());
        let primes = Params::get(ParamSet::N8192Q196).primes();
        for t in [PRIMES[1], PRIMES[3]] {
            let plain = Plain::new(t, &primes);
            let scaled = |m: &[u64], _: &Ring| plain.scaled(Wiped::new(m.to_vec()));
            check_failures::<72>(t, scaled, |y| plain.owner(y), |hidden, i| plain.evaluator(hidden, i));
        }
    }

    /// The owner's view does not depend on the multipliers: not on none at all, and not across two
    /// runs on the same.
    #[test]
    fn what_the_owner_receives_is_fresh_and_uniform() {
        let (mut s, layout) = (setup(4), Layout::new(3).unwrap());
        let message = vec![Fp::ONE; N];
        let cts = encrypt(&mut s, layout, &[message]);
        for w in [Fp::ZERO, Fp::ONE] {
            let w = vec![w; 8 * layout.slots()];
            let mut view = || {
                let mut combiner = Combiner::new(s.params, layout, 8);
                combiner.add_block(&cts, &w).unwrap();
                combiner.finish_shares(&s.pk, &mut s.rng).unwrap().0
            };
            let (first, second) = (view(), view());
            // The bits of c_1 themselves, their differences between runs and between results of one
            // run, and the shares that the key makes of them.
            let differences = |x: &[u8], y: &[u8]| -> Vec<u128> {
                let pairs = x.chunks_exact(15).zip(y.chunks_exact(15));
                pairs.map(|(x, y)| number(x).wrapping_sub(number(y)) & ((1 << BITS) - 1)).collect()
            };
            for place in [0, 7, 14] {
                let column = first.chunks_exact(15).map(|c| c[place]);
                assert!(excess(column).abs() < 5.0, "byte {place} of c_1");
                let (x, y) = first.split_at(4 * RESULT_BYTES);
                for d in [differences(&first, &second), differences(x, y)] {
                    let column = d.iter().map(|d| d.to_le_bytes()[place]);
                    assert!(excess(column).abs() < 5.0, "byte {place} of a difference");
                }
            }
            let share = |c: &[u8]| s.sk.share(c, layout).unwrap();
            let shares: Vec<Fp> = first.chunks_exact(RESULT_BYTES).flat_map(share).collect();
            for place in [0, 7] {
                let column = shares.iter().map(|y| y.to_le_bytes()[place]);
                assert!(excess(column).abs() < 5.0, "byte {place} of a share");
            }
        }
    }

    /// Refuses an `x` that is `a` of the key times a small polynomial, modulo the first prime.
    fn check_no_small_quotient(key: &PublicKey, x: &[u32]) {
        let (q, ntt, n) = (key.ring.modulus(0), key.ring.ntt(0), key.ring.n());
        let mut quotient: Vec<u32> = x[..n].iter().zip(&key.a).map(|(&x, &a)| q.mul(x, q.inv(a))).collect();
        ntt.inverse(&mut quotient, 0..key.ring.log_n());
        let small = quotient.iter().filter(|&&x| x < 100 || x > q.value() - 100).count();
        assert!(small < n / 100, "{small} of {n} coefficients are small");
    }

    /// `c_1 = a·v + e_2` without the error would give `v` away by a division.
    #[test]
    fn no_small_secret_divides_what_the_owner_receives() {
        let mut s = setup(6);
        let (ring, zero) = (s.params.ring(), vec![0; N]);
        let mut hidden = Hidden::new(ring);
        hidden.hide(&s.pk, 0, |_, _| &zero, &mut s.rng);
        let q = ring.modulus(0);
        let ungadget = q.inv(ring.conversion.gadget[0]);
        let mut c1: Vec<u32> = hidden.hats[1][..N].iter().map(|&hat| q.mul(hat, ungadget)).collect();
        ring.ntt(0).forward(&mut c1, 0..LOG_N);
        check_no_small_quotient(&s.pk, &c1);
    }

    /// Nor does the owner's secret divide its public key.
    #[test]
    fn no_small_secret_divides_a_public_key() {
        let mut s = setup(7);
        let linear = crate::linear::SecretKey::generate(&mut s.rng).public_key(&NONCES, &mut s.rng);
        for key in [&s.pk, &linear] {
            check_no_small_quotient(key, key.component(0));
        }
    }

    #[test]
    fn both_nonces_and_the_ring_decide_the_key() {
        let ring = Params::get(ParamSet::N8192Q196).ring();
        let other = crate::linear::Params::get().ring();
        let seeds = [
            NONCES.seed(ring),
            Nonces { client: [3; 32], ..NONCES }.seed(ring),
            Nonces { server: [3; 32], ..NONCES }.seed(ring),
            Nonces { client: NONCES.server, server: NONCES.client }.seed(ring),
            NONCES.seed(other),
        ];
        for (i, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..i].contains(seed), "{i}");
        }
    }

    #[test]
    fn malformed_input_is_refused() {
        let (mut s, layout) = (setup(5), Layout::new(0).unwrap());
        let ring = s.params.ring();
        let length = PublicKey::bytes(ring);
        for wrong in [0, length - 1, length + 1] {
            let error = PublicKey::from_bytes(ring, &NONCES, &vec![0; wrong]).err();
            assert!(matches!(error, Some(HeError::Length { expected, actual, .. })
                if expected == length && actual == wrong));
        }
        let error = PublicKey::from_bytes(ring, &NONCES, &vec![0xff; length]).err();
        assert!(matches!(error, Some(HeError::Residue { index: 0, .. })));
        for wrong in [0, RESULT_BYTES - 1, RESULT_BYTES + 1] {
            assert!(matches!(s.sk.share(&vec![0; wrong], layout), Err(HeError::Length { .. })));
        }
        // Any bytes of the right length are a share, the extremes among them.
        for byte in [0, 0xff] {
            assert_eq!(s.sk.share(&vec![byte; RESULT_BYTES], layout).unwrap().len(), N);
        }
        // A malformed key costs its owner the result, not the evaluator.
        for byte in [0, 1] {
            let key = PublicKey::from_bytes(ring, &NONCES, &vec![byte; length]).unwrap();
            let cts = encrypt(&mut s, layout, &[vec![Fp::ONE; N]]);
            let mut combiner = Combiner::new(s.params, layout, 1);
            combiner.add_block(&cts, &[Fp::ONE]).unwrap();
            assert!(combiner.finish_shares(&key, &mut s.rng).is_ok());
        }
        let foreign = crate::linear::Params::get();
        let key = vec![0; PublicKey::bytes(foreign.ring())];
        let key = PublicKey::from_bytes(foreign.ring(), &NONCES, &key).unwrap();
        assert!(Combiner::new(s.params, layout, 1).finish_shares(&key, &mut s.rng).is_err());
    }
}
