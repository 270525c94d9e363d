//! A key owner that deviates: it sends what it likes, and guesses at the evaluator's numbers from
//! what comes back. Its advantage is that of guessing; with what hides the results from it, it
//! would be right every time.

use cryptogen_ring::{kernels, Fp, Prg, Seed, P};
use rand_core::RngCore;

use crate::codec::{pack, unpack};
use crate::encode::Terms;
use crate::linear::{self, Inputs, Packing, SecretKey};
use crate::shares::{field_coefficients, owner_share, ClientWork, PublicKey, RESULT_BYTES};
use crate::tests::{setup, NONCES};
use crate::{sample, Combiner, Layout, N};

/// The hits of `n` guesses at a bit are within five standard deviations of one half.
fn check_chance(hits: usize, n: usize, what: &str) {
    let away = (2.0 * hits as f64 - n as f64) / (n as f64).sqrt();
    println!("{what}: right {hits} of {n}; advantage below {:.4}", 2.5 / (n as f64).sqrt());
    assert!(away.abs() < 5.0, "{what}: {hits} of {n} right, {away:.1} standard deviations from chance");
}

/// What the owner sends as its encrypted input.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Honest,
    /// no message and no error, with a seed that serves every time
    Zeros,
    /// the same with the `a` of its public key
    SeedOfTheKey,
    /// a message of half a unit, so that each product would be a weight's parity and no more
    HalfUnit,
}

const TOKENS: usize = 16;
const SIZE: usize = 16;

/// One input group and one output group.
fn packing() -> Packing {
    Packing::new(TOKENS, SIZE, SIZE, SIZE).unwrap()
}

/// The only input group.
fn input(sent: Sent, sk: &SecretKey, rng: &mut Prg) -> Vec<u8> {
    let (p, ring) = (packing(), linear::Params::get().ring());
    let message = match sent {
        Sent::Honest => rng.fp_vec(TOKENS * SIZE),
        _ => vec![Fp::ZERO; TOKENS * SIZE],
    };
    let mut bytes = sk.encrypt(&p, 0..1, &message, rng).unwrap();
    match sent {
        Sent::Honest => {}
        Sent::Zeros => bytes.fill(0),
        Sent::SeedOfTheKey => {
            bytes[..32].copy_from_slice(&NONCES.seed(ring));
            bytes[32..].fill(0);
        }
        Sent::HalfUnit => {
            let mut b = unpack(ring, "input", &bytes[32..]).unwrap();
            for (limb, b) in b.chunks_exact_mut(ring.n()).enumerate() {
                let mut half = vec![0; ring.n()];
                half[0] = 1 << 19;
                ring.ntt(limb).forward(&mut half, 0..p.levels());
                Terms::new(ring.modulus(limb)).add(1, &half).add_to(b);
            }
            bytes.truncate(32);
            pack(&b, &mut bytes);
        }
    }
    bytes
}

/// `x·y` in `F_p`, `round(·p/q)` of each coefficient; `x` in the domain of so many levels, `y` in
/// coefficients.
fn product(x: &[u32], levels: u32, y: impl Fn(usize) -> Vec<u32>) -> Vec<Fp> {
    let ring = linear::Params::get().ring();
    let (n, log_n) = (ring.n(), ring.n().ilog2());
    let mut out = vec![0; x.len()];
    for (limb, out) in out.chunks_exact_mut(n).enumerate() {
        let (ntt, mut x, mut y) = (ring.ntt(limb), x[limb * n..(limb + 1) * n].to_vec(), y(limb));
        ntt.forward(&mut x, levels..log_n);
        ntt.forward(&mut y, 0..log_n);
        kernels::multiply(ring.modulus(limb), &x, &y, out);
        ntt.inverse(out, 0..log_n);
    }
    field_coefficients(ring, &out).to_vec()
}

/// Small integers modulo the primes, as the coefficients that `places` says.
fn polynomial(numbers: impl Iterator<Item = (usize, i64)> + Clone) -> impl Fn(usize) -> Vec<u32> {
    move |limb| {
        let ring = linear::Params::get().ring();
        let (q, mut out) = (i64::from(ring.modulus(limb).value()), vec![0; ring.n()]);
        numbers.clone().for_each(|(place, x)| out[place] = x.rem_euclid(q) as u32);
        out
    }
}

/// How far `c_1` of a result is from a sum of such polynomials.
fn distance(result: &[u8], parts: &[&[Fp]]) -> f64 {
    let far = |(i, c): (usize, &[u8; 8])| {
        let sum: Fp = parts.iter().map(|part| part[i]).sum();
        // A fraction of p as one of 2^64.
        let sum = (u128::from(sum.value()) << 64) / u128::from(P);
        (u64::from_le_bytes(*c).wrapping_sub(sum as u64) as i64).unsigned_abs() as f64
    };
    result.as_chunks::<8>().0.iter().enumerate().map(far).sum()
}

/// The owner has two candidates for the matrix and knows all that the evaluator adds up but for the
/// matrix: it asks from which of the two `c_1` is less far away.
#[test]
fn results_do_not_tell_which_of_two_matrices_it_is() {
    const TRIES: usize = 256;
    let ring = linear::Params::get().ring();
    let mut rng = Prg::new(&Seed::from_bytes([41; 32]));
    let (sk, p) = (SecretKey::generate(&mut rng), packing());
    let honest = sk.public_key(&NONCES, &mut rng);
    // As of the secret 0: it passes the test of the keys and hides nothing of the owner's.
    let zero = PublicKey::from_bytes(ring, &NONCES, &vec![0; PublicKey::bytes(ring)]).unwrap();
    let candidates =
        [(); 2].map(|()| -> Vec<i16> { rng.fp_vec(SIZE * SIZE).iter().map(|w| w.value() as i16).collect() });
    let of = |w: &[i16]| -> Vec<(usize, i64)> {
        let place = |at: usize| (at / SIZE * SIZE + SIZE - 1 - at % SIZE) * TOKENS;
        w.iter().enumerate().map(|(at, w)| (place(at), i64::from(*w))).collect()
    };
    for sent in [Sent::Honest, Sent::Zeros, Sent::SeedOfTheKey, Sent::HalfUnit] {
        for (key, name) in [(&honest, "an honest key"), (&zero, "the key 0")] {
            let [mut right, mut known] = [0; 2];
            for _ in 0..TRIES {
                let input = input(sent, &sk, &mut rng);
                let mut inputs = Inputs::new(p);
                inputs.add(&input).unwrap();
                let (has, mut seed) = ((rng.next_u32() & 1) as usize, [0; 32]);
                rng.fill_bytes(&mut seed);
                let weights = |o: usize, row: &mut [i32]| {
                    let w = &candidates[has][o * SIZE..(o + 1) * SIZE];
                    row.iter_mut().zip(w).for_each(|(row, w)| *row = i32::from(*w));
                };
                let mut evaluator = Prg::new(&Seed::from_bytes(seed));
                let (result, _) = linear::evaluate(&inputs, 0..1, weights, key, &mut evaluator).unwrap();

                let a = ring.uniform(input.first_chunk().unwrap());
                let sums =
                    [0, 1].map(|i| product(&a, p.levels(), polynomial(of(&candidates[i]).into_iter())));
                let far = [0, 1].map(|i: usize| distance(&result, &[&sums[i]]));
                right += usize::from((far[1] < far[0]) == (has == 1));
                // The evaluator's generator would say `v`, and that the matrix.
                let mut evaluator = Prg::new(&Seed::from_bytes(seed));
                let mut evaluator = Prg::new(&Seed::random(&mut evaluator).derive("linear", 0));
                let v = sample::ternary(&mut evaluator, ring.n());
                let v: Vec<(usize, i64)> =
                    v.iter().enumerate().map(|(i, v)| (i, i64::from(*v) - 1)).collect();
                let hidden = product(key.component(1), ring.n().ilog2(), polynomial(v.into_iter()));
                let far = [0, 1].map(|i: usize| distance(&result, &[&sums[i], &hidden]));
                known += usize::from((far[1] < far[0]) == (has == 1));
            }
            check_chance(right, TRIES, &format!("{sent:?} under {name}"));
            assert_eq!(known, TRIES, "{sent:?} under {name}: with v every guess is right");
        }
    }
}

/// What gave the parity of the server's multipliers away when the client returned sums for the
/// server to decrypt: a ciphertext of half a unit. Here the owner even chooses `a`, which the wire
/// does not let it do, and chooses it such that all of the product lies in `c_1`: `b = 0`,
/// `a = floor(q/2p)/s`.
#[test]
fn results_do_not_tell_parities_of_multipliers() {
    let (mut s, layout) = (setup(42), Layout::new(13).unwrap());
    let (ring, two_p) = (s.params.ring(), 2 * u128::from(P));
    let rest = ring.moduli().fold(1, |rest, q| rest * u128::from(q.value()) % two_p);
    let mut ct = s.sk.encrypt(&vec![Fp::ZERO; N], layout, &mut s.rng).unwrap().expand(s.params);
    ct.b.fill(0);
    for (limb, a) in ct.a.chunks_exact_mut(N).enumerate() {
        // All in the full domain, where a product is one of numbers.
        let q = ring.modulus(limb);
        let small = |x: u128| (x % u128::from(q.value())) as u32;
        let minus_half = q.mul(small(rest), q.inv(small(two_p)));
        let minus_s = &s.sk.negated()[limb * N..(limb + 1) * N];
        a.iter_mut().zip(minus_s).for_each(|(a, s)| *a = q.mul(minus_half, q.inv(*s)));
    }
    let mut right = 0;
    const RESULTS: usize = 4;
    let y = s.rng.fp_vec(RESULTS * N);
    let mut combiner = Combiner::new(s.params, layout, RESULTS);
    combiner.add_block(&[ct], &y).unwrap();
    let (sent, shares) = combiner.finish_shares(&s.pk, &mut s.rng).unwrap();
    let mut work = ClientWork::new(ring);
    for (m, result) in sent.chunks_exact(RESULT_BYTES).enumerate() {
        let mut numbers = y[m * N..(m + 1) * N].to_vec();
        s.params.fp.inverse(&mut numbers, 13);
        owner_share(ring, s.sk.negated(), result, &mut work, |i, c| {
            // The fraction of a unit is one half for odd numbers.
            let fraction = (c as u64).wrapping_sub((c >> 32) as u64);
            let odd = (1 << 62..3 << 62).contains(&fraction);
            right += usize::from(odd == (numbers[i].to_i64() & 1 == 1));
        })
        .unwrap();
    }
    check_chance(right, RESULTS * N, "parities");
    for (m, result) in sent.chunks_exact(RESULT_BYTES).enumerate() {
        let mut numbers = y[m * N..(m + 1) * N].to_vec();
        s.params.fp.inverse(&mut numbers, 13);
        // With the evaluator's share the number itself would be known, but for its last bits.
        let mut both = s.sk.share(result, layout).unwrap();
        both.iter_mut().zip(&shares[m * N..]).for_each(|(c, s)| *c += *s);
        s.params.fp.inverse(&mut both, 13);
        for (both, number) in both.iter().zip(&numbers) {
            let far = (*both + *both - *number).to_i64().unsigned_abs();
            assert!(far < 4 || (far as i128 - (P / 2) as i128).abs() < 4, "{far}");
        }
    }
}
