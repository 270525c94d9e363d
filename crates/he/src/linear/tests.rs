//! Products with clear matrices.

use cryptogen_ring::{Fp, Prg, Seed, P};

use super::*;
use crate::error::HeError;
use crate::shares::{Nonces, PublicKey};
use crate::tests::excess;

const NONCES: Nonces = Nonces { client: [1; 32], server: [2; 32] };

struct Setup {
    sk: SecretKey,
    pk: PublicKey,
    rng: Prg,
}

fn setup(seed: u8) -> Setup {
    let mut rng = Prg::new(&Seed::from_bytes([seed; 32]));
    let sk = SecretKey::generate(&mut rng);
    let sent = sk.public_key(&NONCES, &mut rng).to_bytes();
    let pk = PublicKey::from_bytes(Params::get().ring(), &NONCES, &sent).unwrap();
    Setup { sk, pk, rng }
}

/// Uniform, with the extreme values among them.
fn masks(rng: &mut Prg, n: usize) -> Vec<Fp> {
    let mut x = rng.fp_vec(n);
    let edges = [0, 1, P - 1, P / 2, P / 2 + 1].map(Fp::new);
    x.iter_mut().step_by(3).zip(edges.iter().cycle()).for_each(|(x, e)| *x = *e);
    x
}

fn weights(rng: &mut Prg, n: usize) -> Vec<i16> {
    let mut w: Vec<i16> = rng.fp_vec(n).iter().map(|x| x.value() as i16).collect();
    let edges = [0, i16::MAX, i16::MIN, -i16::MAX, 1, -1];
    w.iter_mut().step_by(3).zip(edges.iter().cycle()).for_each(|(w, e)| *w = *e);
    w
}

/// `ε` of every value `[tokens][d_out]`, with inputs and results sent in pieces.
fn errors(s: &mut Setup, p: &Packing, x: &[Fp], w: &[i16]) -> Vec<i64> {
    let row = |o: usize, row: &mut [i32]| {
        row.iter_mut().zip(&w[o * p.d_in()..]).for_each(|(row, w)| *row = i32::from(*w));
    };
    let mut inputs = Inputs::new(*p);
    for start in (0..p.inputs()).step_by(5) {
        let groups = start..(start + 5).min(p.inputs());
        let columns = p.columns(&groups).unwrap();
        let x: Vec<Fp> = x.chunks(p.d_in()).flat_map(|x| x[columns.clone()].to_vec()).collect();
        inputs.add(&s.sk.encrypt(p, groups, &x, &mut s.rng).unwrap()).unwrap();
        // Some stay in memory until the end, some do not; of some shapes all, of some none.
        if s.rng.fp_vec(1)[0].value() & 1 == 1 {
            inputs.absorb(row);
            assert_eq!(inputs.received(), (start + 5).min(p.inputs()));
        }
    }
    let mut errors = vec![i64::MAX; p.tokens() * p.d_out()];
    let mut bytes = 0;
    for start in (0..p.outputs()).step_by(7) {
        let outputs = start..(start + 7).min(p.outputs());
        let rows = p.rows(&outputs).unwrap();
        let (results, server) = evaluate(&inputs, outputs.clone(), row, &s.pk, &mut s.rng).unwrap();
        let client = s.sk.shares(p, outputs, &results).unwrap();
        assert_eq!((client.len(), server.len()), (p.tokens() * rows.len(), p.tokens() * rows.len()));
        bytes += results.len();
        for (i, (&y, &z)) in client.iter().zip(&server).enumerate() {
            let (token, o) = (i / rows.len(), rows.start + i % rows.len());
            let (x, w) = (&x[token * p.d_in()..(token + 1) * p.d_in()], &w[o * p.d_in()..]);
            let expected: Fp = x.iter().zip(w).map(|(&x, &w)| x * Fp::from_i64(w as i64)).sum();
            errors[token * p.d_out() + o] = (y + z - expected).to_i64();
        }
    }
    assert_eq!(bytes, p.output_bytes());
    errors
}

#[test]
fn every_shape_gives_the_product() {
    let mut s = setup(1);
    // Powers of two and not; dimensions that the factors divide and not, above and below them.
    for (tokens, d_in, d_out) in [
        (1, 70, 50),
        (2, 33, 17),
        (3, 5, 130),
        (8, 40, 9),
        (15, 21, 22),
        (16, 64, 32),
        (17, 19, 23),
        (32, 48, 40),
        (100, 30, 31),
        (256, 9, 20),
        (1000, 7, 6),
        (1024, 8, 12),
        (2048, 5, 3),
        (2049, 3, 4),
        (4096, 6, 5),
    ] {
        let (x, w) = (masks(&mut s.rng, tokens * d_in), weights(&mut s.rng, d_in * d_out));
        for log_f_in in 0..=(N / tokens.next_power_of_two()).ilog2() {
            let p = Packing::new(tokens, d_in, d_out, 1 << log_f_in).unwrap();
            assert_eq!(p.padded() * p.f_in() * p.f_out(), N);
            let worst = errors(&mut s, &p, &x, &w).into_iter().map(i64::unsigned_abs).max();
            assert!(worst <= Some(p.error_bound()), "{p:?}: {worst:?}");
        }
    }
}

#[test]
fn a_single_weight_finds_its_place() {
    let (mut s, p) = (setup(2), Packing::new(16, 40, 30, 8).unwrap());
    let x = masks(&mut s.rng, 16 * 40);
    for (o, i) in [(0, 0), (29, 39), (3, 7), (4, 8), (31 - 2, 0)] {
        let mut w = vec![0; 40 * 30];
        w[o * 40 + i] = i16::MIN;
        let worst = errors(&mut s, &p, &x, &w).into_iter().map(i64::unsigned_abs).max();
        assert!(worst <= Some(p.error_bound()), "row {o}, column {i}: {worst:?}");
    }
}

/// Weights of the largest size come close to the bound's deviation, which so is no empty claim;
/// small ones leave the rounding of `c_1`.
#[test]
fn errors_deviate_as_computed() {
    let mut s = setup(3);
    let p = Packing::new(64, 3072, 64, 8).unwrap();
    let x = s.rng.fp_vec(64 * 3072);
    let rms = |e: &[i64]| (e.iter().map(|&e| (e * e) as f64).sum::<f64>() / e.len() as f64).sqrt();
    let large = errors(&mut s, &p, &x, &vec![i16::MAX; 3072 * 64]);
    let small = errors(&mut s, &p, &x, &vec![1; 3072 * 64]);
    let rounding = (N as f64 * 2.0 / 3.0 / 12.0).sqrt();
    assert!((rms(&small) / rounding - 1.0).abs() < 0.1, "{} of {rounding}", rms(&small));
    assert!(rms(&large) < p.error_deviation() && rms(&large) > 0.75 * p.error_deviation(), "{}", rms(&large));
    assert!(large.iter().all(|e| e.unsigned_abs() <= p.error_bound()));
    let mean = large.iter().sum::<i64>() as f64 / large.len() as f64;
    assert!(mean.abs() < 6.0 * rms(&large) / (large.len() as f64).sqrt() + 1.0, "{mean}");
}

/// What the key owner gets does not depend on the weights, not even on none at all, nor repeat.
#[test]
fn results_are_fresh_and_uniform() {
    let (mut s, p) = (setup(4), Packing::new(16, 32, 256, 16).unwrap());
    let mut inputs = Inputs::new(p);
    let x = vec![Fp::ONE; 16 * 32];
    inputs.add(&s.sk.encrypt(&p, 0..p.inputs(), &x, &mut s.rng).unwrap()).unwrap();
    for weight in [0, i32::from(i16::MIN)] {
        let mut view = || {
            let all = 0..p.outputs();
            evaluate(&inputs, all, |_, row| row.fill(weight), &s.pk, &mut s.rng).unwrap().0
        };
        let (first, second) = (view(), view());
        let numbers = |bytes: &[u8]| -> Vec<u64> {
            bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
        };
        let (x, y) = (numbers(&first), numbers(&second));
        let minus =
            |x: &[u64], y: &[u64]| x.iter().zip(y).map(|(x, y)| x.wrapping_sub(*y)).collect::<Vec<_>>();
        let (left, right) = x.split_at(x.len() / 2);
        let shares = s.sk.shares(&p, 0..p.outputs(), &first).unwrap();
        let shares: Vec<u64> = shares.iter().map(|y| y.value()).collect();
        let views = [minus(&x, &y), minus(left, right), x, shares];
        for (which, view) in views.iter().enumerate() {
            for place in [0, 3, 7] {
                let excess = excess(view.iter().map(|v| v.to_le_bytes()[place]));
                assert!(excess.abs() < 5.0, "view {which}, byte {place}: {excess}");
            }
        }
    }
}

#[test]
fn encryptions_are_fresh() {
    let (mut s, p) = (setup(5), Packing::new(4, 8, 8, 4).unwrap());
    let x = vec![Fp::ONE; 32];
    let mut encrypt = || s.sk.encrypt(&p, 0..2, &x, &mut s.rng).unwrap();
    let (first, second) = (encrypt(), encrypt());
    let (groups, again) = (first.split_at(INPUT_BYTES), second.split_at(INPUT_BYTES));
    for (x, y) in [(groups.0, groups.1), (groups.0, again.0), (groups.1, again.1)] {
        assert!(x[..32] != y[..32] && x[32..] != y[32..]);
    }
}

#[test]
fn the_cheapest_packing_is_chosen() {
    for (tokens, d_in, d_out) in
        [(1024, 768, 2304), (1024, 3072, 768), (1, 768, 768), (4096, 5, 5), (33, 1, 900)]
    {
        let chosen = Packing::choose(tokens, d_in, d_out).unwrap();
        let price = |p: &Packing| p.inputs() * INPUT_BYTES + p.outputs() * OUTPUT_BYTES;
        for log_f_in in 0..=(N / chosen.padded()).ilog2() {
            let other = Packing::new(tokens, d_in, d_out, 1 << log_f_in).unwrap();
            assert!(price(&chosen) <= price(&other), "{chosen:?} {other:?}");
        }
    }
    let wide = Packing::choose(1024, 768, 2304).unwrap();
    assert_eq!((wide.f_in(), wide.f_out(), wide.inputs(), wide.outputs()), (1, 4, 768, 576));
    let tall = Packing::choose(1024, 3072, 768).unwrap();
    assert_eq!((tall.f_in(), tall.f_out()), (4, 1));
}

#[test]
fn malformed_input_is_refused() {
    let mut s = setup(6);
    for (tokens, d_in, d_out, f_in) in [
        (0, 4, 4, 1),
        (4097, 4, 4, 1),
        (4, 0, 4, 1),
        (4, 4, 0, 1),
        (4, Packing::MOST + 1, 4, 1),
        (4, 4, Packing::MOST + 1, 1),
        (4, 4, 4, 0),
        (4, 4, 4, 3),
        (4, 4, 4, 2048),
        (usize::MAX, 4, 4, 1),
    ] {
        assert!(matches!(Packing::new(tokens, d_in, d_out, f_in), Err(HeError::Packing { .. })));
    }
    let p = Packing::new(16, 20, 30, 8).unwrap();
    let x = vec![Fp::ONE; 16 * 20];
    assert!(s.sk.encrypt(&p, 0..3, &x[1..], &mut s.rng).is_err());
    assert!(s.sk.encrypt(&p, 0..4, &x, &mut s.rng).is_err());
    let sent = s.sk.encrypt(&p, 0..3, &x, &mut s.rng).unwrap();
    assert_eq!(sent.len(), p.input_bytes());
    let mut inputs = Inputs::new(p);
    for wrong in [&sent[1..], &sent[..INPUT_BYTES + 32], &[&sent[..], &[0]].concat(), &sent.repeat(2)] {
        assert!(matches!(inputs.add(wrong), Err(HeError::Length { .. })));
    }
    let mut high = sent[..INPUT_BYTES].to_vec();
    high[32..].fill(0xff);
    assert!(matches!(inputs.add(&high), Err(HeError::Residue { index: 0, .. })));
    assert_eq!(inputs.received(), 0);
    inputs.add(&sent[..INPUT_BYTES]).unwrap();
    let zeros = |_: usize, row: &mut [i32]| row.fill(0);
    // Not all have come.
    assert!(evaluate(&inputs, 0..1, zeros, &s.pk, &mut s.rng).is_err());
    inputs.add(&sent[INPUT_BYTES..]).unwrap();
    for range in [0..p.outputs() + 1, usize::MAX - 1..usize::MAX] {
        assert!(matches!(
            evaluate(&inputs, range.clone(), zeros, &s.pk, &mut s.rng),
            Err(HeError::Packing { .. })
        ));
        assert!(matches!(s.sk.shares(&p, range, &[]), Err(HeError::Packing { .. })));
    }
    assert!(evaluate(&inputs, 1..1, zeros, &s.pk, &mut s.rng).unwrap().0.is_empty());
    for wrong in [0, OUTPUT_BYTES - 1, OUTPUT_BYTES + 1] {
        assert!(matches!(s.sk.shares(&p, 0..1, &vec![0; wrong]), Err(HeError::Length { .. })));
    }
    // Any bytes of the right length are shares, and any key of the ring is used.
    assert_eq!(
        s.sk.shares(&p, 0..1, &vec![0xff; OUTPUT_BYTES]).unwrap().len(),
        16 * p.rows(&(0..1)).unwrap().len()
    );
    let ring = Params::get().ring();
    let degenerate = PublicKey::from_bytes(ring, &NONCES, &vec![0; PublicKey::bytes(ring)]).unwrap();
    assert!(evaluate(&inputs, 0..1, zeros, &degenerate, &mut s.rng).is_ok());
    let ring = crate::Params::get(crate::ParamSet::N8192Q196).ring();
    let foreign = PublicKey::from_bytes(ring, &NONCES, &vec![0; PublicKey::bytes(ring)]).unwrap();
    assert!(evaluate(&inputs, 0..1, zeros, &foreign, &mut s.rng).is_err());
}
