//! Every operation against the clear function on its slots, with the noise that was tracked.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use cryptogen_ring::{Fp, Prg, Seed, P};

use super::context::{LIMBS, PRIMES, SCALE_BITS};
use super::*;
use crate::error::HeError;
use crate::params::LOG_N;

#[test]
fn the_committed_estimate_is_about_this_set() {
    crate::params::tests::check_report(include_str!("../../params/N8192Q192P22.txt"), &PRIMES);
    assert!(Context::get().log_q() < 215.0);
}

fn rng(seed: u8) -> Prg {
    Prg::new(&Seed::from_bytes([seed; 32]))
}

const STEPS: [usize; 4] = [1, 64, 1000, 4095];

fn keys() -> &'static (SecretKey, EvaluationKeys) {
    static KEYS: OnceLock<(SecretKey, EvaluationKeys)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut rng = rng(1);
        let secret = SecretKey::generate(Context::get(), &mut rng);
        let keys = secret.evaluation_keys(&BTreeSet::from(STEPS), &mut rng);
        (secret, keys)
    })
}

/// Random slots with extremes among them.
fn message(rng: &mut Prg) -> Vec<Fp> {
    let mut m = rng.fp_vec(N);
    m[..4].copy_from_slice(&[Fp::ZERO, Fp::ONE, Fp::new(P - 1), Fp::new(P / 2)]);
    m
}

fn encrypt(m: &[Fp], rng: &mut Prg) -> Ciphertext {
    keys().0.encrypt(m, rng).unwrap().expand(Context::get())
}

/// Decrypts through masking and checks the tracked noise against the real one.
fn open(evaluator: &Evaluator<'_>, ct: &Ciphertext) -> Vec<Fp> {
    let mut rng = rng(99);
    let measured = noise_bits(ct);
    assert!(measured <= ct.noise().bits(), "noise 2^{measured:.1}, tracked 2^{:.1}", ct.noise().bits());
    assert!(measured > ct.noise().bits() - 6.0, "noise 2^{measured:.1}, tracked 2^{:.1}", ct.noise().bits());
    let masks = rng.fp_vec(N);
    let masked = evaluator.mask(ct, &masks, &mut rng).unwrap();
    let masked = MaskedCiphertext::from_bytes(Context::get(), &masked.to_bytes()).unwrap();
    keys().0.decrypt(&masked).iter().zip(&masks).map(|(x, m)| *x + *m).collect()
}

/// log2 of the largest noise coefficient: `t·(c_0 + c_1·s) = q·m + t·e` modulo `q`, reconstructed
/// by Garner's mixed radix.
fn noise_bits(ct: &Ciphertext) -> f64 {
    let (context, secret) = (Context::get(), &keys().0);
    let mut ct = ct.clone();
    ct.transform(context);
    let limbs: Vec<Vec<u32>> = (0..LIMBS)
        .map(|limb| {
            let (q, ntt) = (context.modulus(limb), context.ntt(limb));
            let (c0, c1, s) = (ct.limb(0, limb), ct.limb(1, limb), secret.negated(limb));
            let mut phase: Vec<u32> =
                (0..N).map(|i| q.mul(q.reduce(P), q.sub(c0[i], q.mul(c1[i], s[i])))).collect();
            ntt.inverse(&mut phase, 0..LOG_N);
            phase
        })
        .collect();
    let value = |i: usize, negate: bool| {
        let mut digits: Vec<u32> = vec![];
        for (limb, residues) in limbs.iter().enumerate() {
            let q = context.modulus(limb);
            let mut x = if negate { q.neg(residues[i]) } else { residues[i] };
            for (earlier, &digit) in digits.iter().enumerate() {
                let prime = q.reduce(PRIMES[earlier] as u64);
                x = q.mul(q.sub(x, q.reduce(digit as u64)), q.inv(prime));
            }
            digits.push(x);
        }
        digits.iter().enumerate().rev().fold(0.0, |v, (limb, &d)| v * PRIMES[limb] as f64 + d as f64)
    };
    let largest = (0..N).step_by(7).map(|i| value(i, false).min(value(i, true))).fold(0.0, f64::max);
    (largest / P as f64).max(1.0).log2()
}

fn rotated(m: &[Fp], step: usize) -> Vec<Fp> {
    (0..N).map(|i| m[i / ROW * ROW + (i % ROW + step) % ROW]).collect()
}

fn product(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(x, y)| *x * *y).collect()
}

fn sum(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(x, y)| *x + *y).collect()
}

#[test]
fn encryption_sums_and_plaintexts() {
    let (context, mut rng) = (Context::get(), rng(2));
    let evaluator = Evaluator::new(context, &keys().1);
    let (a, b, c) = (message(&mut rng), message(&mut rng), message(&mut rng));
    let seeded = keys().0.encrypt(&a, &mut rng).unwrap();
    let seeded = SeededCiphertext::from_bytes(context, &seeded.to_bytes()).unwrap();
    let mut ct = seeded.expand(context);
    assert_eq!(open(&evaluator, &ct), a);
    ct.add_plain(context, &b).unwrap();
    ct.add(context, &encrypt(&c, &mut rng));
    assert_eq!(open(&evaluator, &ct), sum(&sum(&a, &b), &c));
    let copy = Ciphertext::from_bytes(context, &ct.to_bytes(context)).unwrap();
    assert_eq!(copy.noise(), ct.noise());
    assert_eq!(open(&evaluator, &copy), sum(&sum(&a, &b), &c));
}

#[test]
fn rotations_move_slots() {
    let mut rng = rng(3);
    let evaluator = Evaluator::new(Context::get(), &keys().1);
    let m = message(&mut rng);
    let ct = encrypt(&m, &mut rng);
    let hoisted = evaluator.hoist(&ct);
    for step in STEPS.into_iter().chain([0, ROW]) {
        assert_eq!(open(&evaluator, &evaluator.rotate(&ct, step).unwrap()), rotated(&m, step), "{step}");
        assert_eq!(open(&evaluator, &hoisted.rotate(step).unwrap()), rotated(&m, step), "hoisted {step}");
    }
    assert_eq!(evaluator.operations().rotations, 4);
    assert_eq!(evaluator.operations().hoisted_rotations, 4);
    let missing = evaluator.rotate(&ct, 7).err();
    assert_eq!(missing, Some(HeError::MissingRotation { step: 7, available: 4 }));
}

#[test]
fn products_with_plaintexts() {
    let (context, mut rng) = (Context::get(), rng(4));
    let evaluator = Evaluator::new(context, &keys().1);
    for terms in [1, 3, 256] {
        let ms: Vec<Vec<Fp>> = (0..2).map(|_| message(&mut rng)).collect();
        let ws: Vec<Vec<Fp>> = (0..terms).map(|_| message(&mut rng)).collect();
        let cts: Vec<Ciphertext> = ms.iter().map(|m| encrypt(m, &mut rng)).collect();
        let pts: Vec<Plaintext> = ws.iter().map(|w| Plaintext::encode(context, w).unwrap()).collect();
        let cts: Vec<&Ciphertext> = (0..terms).map(|i| &cts[i % 2]).collect();
        let pts: Vec<&Plaintext> = pts.iter().collect();
        let expected = (0..terms).fold(vec![Fp::ZERO; N], |acc, i| sum(&acc, &product(&ms[i % 2], &ws[i])));
        assert_eq!(open(&evaluator, &evaluator.dot_plain(&cts, &pts).unwrap()), expected, "{terms}");
    }
}

#[test]
fn products_of_ciphertexts() {
    let (context, mut rng) = (Context::get(), rng(5));
    let evaluator = Evaluator::new(context, &keys().1);
    let ms: Vec<Vec<Fp>> = (0..4).map(|_| message(&mut rng)).collect();
    let mut cts: Vec<Ciphertext> = ms.iter().map(|m| encrypt(m, &mut rng)).collect();
    cts[0].add_plain(context, &vec![Fp::ZERO; N]).unwrap();
    let (l0, l1) = (evaluator.left(&cts[0]), evaluator.left(&cts[1]));
    let rotated_ct = evaluator.rotate(&cts[3], 64).unwrap();
    let (r0, r1) = (evaluator.right(&cts[2]), evaluator.right(&rotated_ct));
    let m3 = rotated(&ms[3], 64);
    assert_eq!(open(&evaluator, &evaluator.dot(&[(&l0, &r0)]).unwrap()), product(&ms[0], &ms[2]));
    let both = evaluator.dot(&[(&l0, &r0), (&l1, &r1)]).unwrap();
    assert_eq!(open(&evaluator, &both), sum(&product(&ms[0], &ms[2]), &product(&ms[1], &m3)));
    assert_eq!(evaluator.operations().relinearisations, 2);
    assert_eq!(evaluator.operations().ct_ct, 3);
    // A second multiplication would not fit, and is refused rather than wrong.
    let mut rng2 = rng;
    let twice = evaluator.dot(&[(&evaluator.left(&both), &r0)]).unwrap();
    let masks = rng2.fp_vec(N);
    assert!(matches!(evaluator.mask(&twice, &masks, &mut rng2), Err(HeError::Noise { .. })));
    assert_eq!(both.noise().most_products(cts[0].noise()), 0);
}

#[test]
fn a_masked_ciphertext_looks_the_same_whatever_was_computed() {
    // Two ciphertexts of one message with very different noise: after flooding their noise has the
    // same distribution.
    let (context, mut rng) = (Context::get(), rng(6));
    let evaluator = Evaluator::new(context, &keys().1);
    let m = message(&mut rng);
    let ct = encrypt(&m, &mut rng);
    let one = Plaintext::encode(context, &message(&mut rng)).unwrap();
    let noisy = evaluator.dot_plain(&[&ct], &[&one]).unwrap();
    for ct in [&ct, &noisy] {
        let masks = rng.fp_vec(N);
        let masked = evaluator.mask(ct, &masks, &mut rng).unwrap();
        let fractions: Vec<f64> = keys()
            .0
            .scaled_phase(&masked)
            .iter()
            .map(|&x| {
                let fraction = (x & ((1 << SCALE_BITS) - 1)) as f64 / (1u64 << SCALE_BITS) as f64;
                fraction - fraction.round()
            })
            .collect();
        // t/q·2^127 is 0.37 here: uniform in ±0.37.
        let variance = fractions.iter().map(|x| x * x).sum::<f64>() / N as f64;
        let scale = fractions.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!((variance / (scale * scale / 3.0) - 1.0).abs() < 0.05, "{variance} {scale}");
        assert!(scale > 0.35 && scale < 0.4, "{scale}");
    }
}

#[test]
fn keys_and_bytes_are_checked() {
    let (context, mut rng) = (Context::get(), rng(7));
    let (secret, keys) = keys();
    let steps = BTreeSet::from(STEPS);
    let bytes = keys.to_bytes();
    assert_eq!(bytes.len(), EvaluationKeys::bytes(4));
    let copy = EvaluationKeys::from_bytes(context, &steps, &bytes).unwrap();
    assert_eq!(copy.steps(), steps);
    let m = message(&mut rng);
    let evaluator = Evaluator::new(context, &copy);
    let again = SecretKey::from_bytes(context, &secret.to_bytes()).unwrap();
    let ct = again.encrypt(&m, &mut rng).unwrap().expand(context);
    assert_eq!(open(&evaluator, &evaluator.rotate(&ct, 64).unwrap()), rotated(&m, 64));
    for cut in [0, 1, bytes.len() - 1] {
        assert!(EvaluationKeys::from_bytes(context, &steps, &bytes[..cut]).is_err());
    }
    assert!(EvaluationKeys::from_bytes(context, &BTreeSet::from([1]), &bytes).is_err());
    let mut bad = ct.to_bytes(context);
    bad[8..12].fill(0xFF);
    assert!(matches!(Ciphertext::from_bytes(context, &bad), Err(HeError::Residue { .. })));
    let mut hostile = ct.to_bytes(context);
    hostile[..8].copy_from_slice(&f64::NAN.to_le_bytes());
    let hostile = Ciphertext::from_bytes(context, &hostile).unwrap();
    assert!(evaluator.mask(&hostile, &m, &mut rng).is_err());
    assert!(SecretKey::from_bytes(context, &[0xFF; SecretKey::BYTES]).is_err());
    assert!(evaluator.mask(&ct, &m[1..], &mut rng).is_err());
    assert!(secret.encrypt(&m[1..], &mut rng).is_err());
}

#[test]
fn lanes_rotate_together() {
    for n in [1, 8, 32, 4096] {
        let lanes = Lanes::new(n).unwrap();
        let mut seen = vec![false; N];
        for lane in 0..lanes.count() {
            for i in 0..n {
                let slot = lanes.slot(i, lane);
                assert!(!std::mem::replace(&mut seen[slot], true));
                let source = slot / ROW * ROW + (slot % ROW + lanes.step(3)) % ROW;
                assert_eq!(source, lanes.slot((i + 3) % n, lane));
            }
        }
        assert!(seen.iter().all(|s| *s));
    }
    assert!(Lanes::new(3).is_err() && Lanes::new(8192).is_err());
}
