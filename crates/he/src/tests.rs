//! The scheme as a whole.

use cryptogen_ring::{Fp, Prg, Seed, P};

use crate::noise;
use crate::*;

struct Setup {
    params: &'static Params,
    sk: SecretKey,
    pk: PublicKey,
    rng: Prg,
}

fn setup(seed: u8) -> Setup {
    let params = Params::get(ParamSet::N8192Q196);
    let mut rng = Prg::new(&Seed::from_bytes([seed; 32]));
    let sk = SecretKey::generate(params, &mut rng);
    let pk = PublicKey::generate(&sk, &mut rng);
    Setup { params, sk, pk, rng }
}

/// `cts` with their messages.
fn encrypt_some(s: &mut Setup, layout: Layout, k: usize) -> (Vec<Ciphertext>, Vec<Vec<Fp>>) {
    let messages: Vec<Vec<Fp>> = (0..k).map(|_| s.rng.fp_vec(N)).collect();
    let cts = messages.iter().map(|m| {
        let bytes = s.sk.encrypt(m, layout, &mut s.rng).unwrap().to_bytes();
        assert_eq!(bytes.len(), SeededCiphertext::BYTES);
        SeededCiphertext::from_bytes(s.params, layout, &bytes).unwrap().expand(s.params)
    });
    (cts.collect(), messages)
}

/// Multipliers with the extreme values among them.
fn weights(rng: &mut Prg, n: usize) -> Vec<Fp> {
    let mut w = rng.fp_vec(n);
    let edges = [0, 1, P - 1, P / 2, P / 2 + 1];
    w.iter_mut().step_by(3).zip(edges).for_each(|(w, e)| *w = Fp::new(e));
    w
}

fn expected(layout: Layout, k: usize, messages: &[Vec<Fp>], w: &[Fp], m: usize) -> Vec<Fp> {
    let (f, c) = (layout.slots(), layout.coefficients());
    (0..N).map(|i| (0..k).map(|j| w[(m * k + j) * f + i / c] * messages[j][i]).sum()).collect()
}

fn add(x: &[Fp], y: &[Fp]) -> Vec<Fp> {
    x.iter().zip(y).map(|(&x, &y)| x + y).collect()
}

#[test]
fn combinations_decrypt_to_the_masked_sums() {
    let mut s = setup(1);
    for (log_f, m, k) in [(0, 5, 300), (3, 33, 9), (7, 3, 4), (10, 2, 3), (12, 2, 2), (13, 3, 2)] {
        let layout = Layout::new(log_f).unwrap();
        let (cts, messages) = encrypt_some(&mut s, layout, k);
        let w = weights(&mut s.rng, m * k * layout.slots());
        let masks = s.rng.fp_vec(m * N);
        let results = combine(s.params, layout, &cts, &w, &s.pk, &masks, &mut s.rng).unwrap();
        assert_eq!(results.len(), m);
        for (i, result) in results.iter().enumerate() {
            let bytes = result.to_bytes(s.params);
            assert_eq!(bytes.len(), MaskedCiphertext::BYTES);
            let received = MaskedCiphertext::from_bytes(s.params, &bytes).unwrap();
            let got = add(&s.sk.decrypt(&received, layout), &masks[i * N..(i + 1) * N]);
            assert!(got == expected(layout, k, &messages, &w, i), "F = {}, result {i}", layout.slots());
        }
    }
}

#[test]
fn blocks_add_up() {
    let mut s = setup(2);
    let layout = Layout::new(3).unwrap();
    let (f, m, k) = (layout.slots(), 2, 5);
    let (cts, messages) = encrypt_some(&mut s, layout, k);
    let w = weights(&mut s.rng, m * k * f);
    let masks = s.rng.fp_vec(m * N);
    let mut combiner = Combiner::new(s.params, layout, m);
    for block in [0..2, 2..2, 2..5] {
        let rows = w.chunks_exact(k * f).flat_map(|row| &row[block.start * f..block.end * f]);
        let part: Vec<Fp> = rows.copied().collect();
        combiner.add_block(&cts[block], &part).unwrap();
    }
    let results = combiner.finish(&s.pk, &masks, &mut s.rng).unwrap();
    for (i, result) in results.iter().enumerate() {
        let got = add(&s.sk.decrypt(result, layout), &masks[i * N..(i + 1) * N]);
        assert!(got == expected(layout, k, &messages, &w, i));
    }
}

/// Largest `|e|` before the modulus switch, from the phase minus `round(q·m/t)`; four primes hold
/// it.
fn noise_before_switch(s: &Setup, hidden: &combine::Hidden, layout: Layout, message: &[Fp]) -> f64 {
    let scaled = encode::Scaled::new(s.params, layout, message);
    let limbs: Vec<Vec<u32>> = (0..4)
        .map(|limb| {
            let (q, ntt, range) = (s.params.modulus(limb), s.params.ntt(limb), limb * N..(limb + 1) * N);
            let mut c1 = hidden.c1[range.clone()].to_vec();
            ntt.forward(&mut c1, 0..LOG_N);
            let mut product = vec![0; N];
            cryptogen_ring::kernels::multiply(q, &c1, s.sk.negated(limb), &mut product);
            ntt.inverse(&mut product, 0..LOG_N);
            let r = scaled.residues(q);
            (0..N)
                .map(|i| {
                    let phase = q.sub(hidden.c0[limb * N + i], product[i]);
                    q.add(phase, q.mul(r[i], s.params.ring().t_inverse[limb]))
                })
                .collect()
        })
        .collect();
    let primes = s.params.primes();
    let total: u128 = primes[..4].iter().map(|&q| q as u128).product();
    (0..N)
        .map(|i| {
            // Garner's mixed-radix reconstruction.
            let (mut value, mut radix) = (0u128, 1u128);
            for (limb, residues) in limbs.iter().enumerate() {
                let q = s.params.modulus(limb);
                let known = (value % q.value() as u128) as u32;
                let inverse = q.inv((radix % q.value() as u128) as u32);
                value += radix * q.mul(q.sub(residues[i], known), inverse) as u128;
                radix *= q.value() as u128;
            }
            value.min(total - value) as f64
        })
        .fold(0.0, f64::max)
}

#[test]
fn noise_is_within_its_bound() {
    let mut s = setup(3);
    for (log_f, k) in [(0, 40), (3, 9), (13, 1)] {
        let layout = Layout::new(log_f).unwrap();
        let (cts, messages) = encrypt_some(&mut s, layout, k);
        let w = weights(&mut s.rng, k * layout.slots());
        let mut combiner = Combiner::new(s.params, layout, 1);
        combiner.add_block(&cts, &w).unwrap();
        let zero_mask = vec![Fp::ZERO; N];
        let mut plain = combine::Hidden::new();
        combiner.finish_one(0, &s.pk, &zero_mask, false, &mut s.rng, &mut plain);
        let message = expected(layout, k, &messages, &w, 0);
        let bound = noise::combine_noise_bound((k * layout.slots()) as u64) as f64;
        let measured = noise_before_switch(&s, &plain, layout, &message).log2();
        // The worst case is not met, but nor is the measurement meaningless.
        assert!(measured < bound && measured > bound - 12.0, "F = {}: {measured} of {bound}", layout.slots());
        println!("F = {:4}, K = {k:2}: noise 2^{measured:.1}, bound 2^{bound}", layout.slots());
    }
}

#[test]
fn flooding_is_present_in_every_result() {
    let mut s = setup(4);
    let layout = Layout::new(3).unwrap();
    let (cts, messages) = encrypt_some(&mut s, layout, 2);
    let w = weights(&mut s.rng, 2 * layout.slots());
    let masks = vec![Fp::ZERO; N];
    let result = &combine(s.params, layout, &cts, &w, &s.pk, &masks, &mut s.rng).unwrap()[0];
    assert!(s.sk.decrypt(result, layout) == expected(layout, 2, &messages, &w, 0));
    // Distance of t·phase/q' from an integer is t·e/q'; e is uniform in ±2^128 divided by the
    // dropped primes.
    let fraction = |x: &u128| {
        let f = (x & ((1 << 60) - 1)) as f64 / (1u64 << 60) as f64;
        if f > 0.5 {
            f - 1.0
        } else {
            f
        }
    };
    let q_out: f64 = s.params.primes()[..OUTPUT_LIMBS].iter().map(|&q| q as f64).product();
    let dropped: f64 = s.params.primes()[OUTPUT_LIMBS..].iter().map(|&q| q as f64).product();
    let e: Vec<f64> = s.sk.scaled_phase(result).iter().map(|x| fraction(x) * q_out / P as f64).collect();
    let variance = e.iter().map(|x| x * x).sum::<f64>() / N as f64;
    let uniform = (2f64.powi(128) / dropped).powi(2) / 3.0;
    assert!((variance / uniform - 1.0).abs() < 0.06, "{variance} {uniform}");
    assert!(e.iter().all(|x| x.abs() < noise::output_noise_bound() as f64));
}

#[test]
fn nothing_repeats() {
    let mut s = setup(5);
    let layout = Layout::new(0).unwrap();
    let message = vec![Fp::ONE; N];
    let (x, y) = (
        s.sk.encrypt(&message, layout, &mut s.rng).unwrap(),
        s.sk.encrypt(&message, layout, &mut s.rng).unwrap(),
    );
    assert_ne!(x.to_bytes(), y.to_bytes());
    let cts = [x.expand(s.params)];
    let masks = vec![Fp::ZERO; N];
    let mut run = || {
        combine(s.params, layout, &cts, &[Fp::ONE], &s.pk, &masks, &mut s.rng).unwrap()[0].to_bytes(s.params)
    };
    let (first, second) = (run(), run());
    let half = first.len() / 2;
    assert_ne!(first[..half], second[..half]);
    assert_ne!(first[half..], second[half..]);
}

#[test]
fn keys_survive_their_encoding() {
    let mut s = setup(6);
    let layout = Layout::new(3).unwrap();
    let sk = SecretKey::from_bytes(s.params, &s.sk.to_bytes()).unwrap();
    let pk = PublicKey::from_bytes(s.params, &s.pk.to_bytes()).unwrap();
    let (cts, messages) = encrypt_some(&mut s, layout, 1);
    let w = vec![Fp::ONE; layout.slots()];
    let masks = s.rng.fp_vec(N);
    let result = &combine(s.params, layout, &cts, &w, &pk, &masks, &mut s.rng).unwrap()[0];
    assert!(add(&sk.decrypt(result, layout), &masks) == messages[0]);
}

#[test]
fn malformed_input_is_refused() {
    let mut s = setup(7);
    let layout = Layout::new(3).unwrap();
    let other = Layout::new(4).unwrap();
    let params = s.params;
    assert!(matches!(SeededCiphertext::from_bytes(params, layout, &[]), Err(HeError::Length { .. })));
    let mut high = vec![0; SeededCiphertext::BYTES];
    high[32..36].fill(0xff);
    assert!(PublicKey::from_bytes(params, &high).is_err());
    assert!(PublicKey::from_bytes(params, &high[1..]).is_err());
    let error = SeededCiphertext::from_bytes(params, layout, &high).err();
    assert!(matches!(error, Some(HeError::Residue { index: 0, modulus: 268369921, .. })));
    let error = MaskedCiphertext::from_bytes(params, &vec![0xff; MaskedCiphertext::BYTES]).err();
    assert!(matches!(error, Some(HeError::Coefficient { index: 0, .. })));
    assert!(MaskedCiphertext::from_bytes(params, &vec![0; MaskedCiphertext::BYTES + 1]).is_err());
    assert!(matches!(
        SecretKey::from_bytes(params, &[0xff; SecretKey::BYTES]),
        Err(HeError::SecretKey { index: 0 })
    ));
    assert!(SecretKey::from_bytes(params, &[0; 3]).is_err());
    assert!(s.sk.encrypt(&[Fp::ONE; 8], layout, &mut s.rng).is_err());

    let (cts, _) = encrypt_some(&mut s, layout, 1);
    let mut combiner = Combiner::new(params, other, 1);
    assert!(matches!(combiner.add_block(&cts, &[Fp::ONE; 16]), Err(HeError::LayoutMismatch { .. })));
    let mut combiner = Combiner::new(params, layout, 1);
    assert!(matches!(
        combiner.add_block(&cts, &[Fp::ONE; 7]),
        Err(HeError::Length { expected: 8, actual: 7, .. })
    ));
    assert!(combiner.finish(&s.pk, &[Fp::ONE; 3], &mut s.rng).is_err());
}
