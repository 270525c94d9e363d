//! Cached rows in another layout: both ways give the same rows, at the declared cost.

use std::collections::BTreeSet;

use cryptogen_he::evaluate::{Ciphertext, Context, Evaluator, SecretKey, N};
use cryptogen_ring::{Fp, Prg};

use super::{keys, shape};
use crate::error::ProtocolError;
use crate::hybrid::attention::cost::Workload;
use crate::hybrid::attention::schedule::Kernel::Vector;
use crate::hybrid::conversion::{self, Conversion, Rotations};
use crate::hybrid::layout::CacheLayout;
use crate::model::ModelShape;
use crate::tests::channel::run;
use crate::tests::cost::measured;
use crate::tests::{elements, rng};

/// Heads, tokens before and after, rows: inner to outer and back, begun blocks, padded heads and features.
fn cases() -> Vec<(ModelShape, usize, usize, usize)> {
    let inner_outer = [(4, 512), (512, 4), (8, 32), (32, 8)];
    let wide = inner_outer.map(|(a, b)| (shape(12, 12, 64), a, b, 13));
    let others = [
        (shape(6, 3, 6), 256, 1024, 300),
        (shape(2, 2, 2048), 2, 4, 5),
        (shape(2, 2, 2048), 4, 2, 5),
        (shape(2, 2, 4), 1024, 1024, 2),
    ];
    wide.into_iter().chain(others).collect()
}

fn conversion(m: &ModelShape, from: usize, to: usize, len: usize) -> (CacheLayout, CacheLayout, Conversion) {
    let [from, to] = [from, to].map(|t| CacheLayout::new(m, t).unwrap());
    (from, to, Conversion::new(from, to, len).unwrap())
}

/// Slots `[block][pack]` of rows in a layout, as a cache holds them.
fn slots(l: &CacheLayout, rows: &[Vec<Fp>]) -> Vec<Vec<Fp>> {
    let blocks = rows.chunks(l.tokens());
    let pack = |block: &[Vec<Fp>], pack| {
        l.place(pack, 0, &block.iter().map(Vec::as_slice).collect::<Vec<_>>()).to_vec()
    };
    blocks.flat_map(|block| (0..l.packs()).map(move |p| pack(block, p))).collect()
}

fn encrypted(secret: &SecretKey, slots: &[Vec<Fp>], rng: &mut Prg) -> Vec<Ciphertext> {
    slots.iter().map(|s| secret.encrypt(s, rng).unwrap().expand(Context::get())).collect()
}

fn decrypted(
    secret: &SecretKey,
    evaluator: &Evaluator<'_>,
    cts: &[Ciphertext],
    rng: &mut Prg,
) -> Vec<Vec<Fp>> {
    let zero = vec![Fp::ZERO; N];
    cts.iter().map(|ct| secret.decrypt(&evaluator.mask(ct, &zero, rng).unwrap()).to_vec()).collect()
}

#[test]
fn the_parties_write_the_same_rows_in_another_order() {
    let (secret, keys) = keys(&BTreeSet::new());
    for (m, from, to, len) in cases() {
        let mut rng = rng(95);
        let rows: Vec<Vec<Fp>> = (0..len).map(|_| elements(&mut rng, m.kv_dim())).collect();
        let (from, to, conversion) = conversion(&m, from, to, len);
        let evaluator = Evaluator::new(Context::get(), &keys);
        let old = encrypted(&secret, &slots(&from, &rows), &mut rng);
        let (mut client_rng, mut server_rng) = (super::rng(96), super::rng(97));
        let (c, s) = run(
            |ch| conversion::client(ch, &secret, &mut client_rng, &conversion),
            |ch| conversion::server(ch, &evaluator, &mut server_rng, &conversion, &old),
        );
        assert_eq!(measured(&c, &s), conversion.cost());
        c.result.unwrap();
        let new = s.result.unwrap();
        assert_eq!(evaluator.operations().masked, conversion.ciphertexts().0 as u64);
        assert!(decrypted(&secret, &evaluator, &new, &mut rng) == slots(&to, &rows), "{}", conversion.why());
        // As good as fresh: the next product survives.
        assert!(new.iter().all(|ct| to.survives(Vector, ct.noise())));
    }
}

#[test]
fn rotations_and_masks_give_the_same_rows() {
    for (m, from, to, len) in [
        (shape(2, 2, 64), 64, 128, 6),
        (shape(2, 2, 64), 128, 64, 6),
        (shape(2, 2, 2048), 2, 4, 5),
        (shape(2, 2, 2048), 4, 2, 5),
        (shape(4, 2, 1000), 4, 8, 7),
    ] {
        let mut rng = rng(98);
        let rows: Vec<Vec<Fp>> = (0..len).map(|_| elements(&mut rng, m.kv_dim())).collect();
        let (from, to, conversion) = conversion(&m, from, to, len);
        let rotations = Rotations::new(&conversion).unwrap();
        let (secret, keys) = keys(&rotations.steps());
        let evaluator = Evaluator::new(Context::get(), &keys);
        let old = encrypted(&secret, &slots(&from, &rows), &mut rng);
        let new = rotations.apply(&evaluator, &old).unwrap();
        let done = evaluator.operations();
        let declared = (rotations.rotations() as u64, rotations.products() as u64);
        assert_eq!((done.hoisted_rotations, done.ct_pt, done.rotations), (declared.0, declared.1, 0));
        let worst = new.iter().map(|ct| ct.noise().bits()).fold(0.0, f64::max);
        assert!((worst - rotations.noise(old[0].noise()).bits()).abs() < 1e-9);
        assert!(decrypted(&secret, &evaluator, &new, &mut rng) == slots(&to, &rows), "{}", conversion.why());
        // A second conversion cannot fit, and says so before it works.
        let back = Rotations::new(&Conversion::new(to, from, len).unwrap()).unwrap();
        assert!(matches!(back.apply(&evaluator, &new), Err(ProtocolError::Caller { .. })));
        assert_eq!(evaluator.operations().hoisted_rotations, declared.0);
        assert!(new.iter().all(|ct| !to.survives(Vector, ct.noise())), "the next product needs a refresh");
    }
}

#[test]
fn conversions_that_cannot_be_are_refused() {
    let (gpt, other) = (shape(12, 12, 64), shape(9, 3, 64));
    let layout = |m: &ModelShape, t| CacheLayout::new(m, t).unwrap();
    assert!(matches!(
        Conversion::new(layout(&gpt, 4), layout(&other, 4), 9),
        Err(ProtocolError::Caller { .. })
    ));
    // Heads that lie in one half of the slots, then in both.
    let crossing = Conversion::new(layout(&gpt, 4), layout(&gpt, 8), 5).unwrap();
    assert!(matches!(Rotations::new(&crossing), Err(ProtocolError::Caller { .. })));
    assert!(crossing.why().contains("impossible"));
    let (_, _, few) = conversion(&shape(2, 2, 2048), 2, 4, 4);
    let (secret, keys) = keys(&BTreeSet::new());
    let evaluator = Evaluator::new(Context::get(), &keys);
    let mut rng = rng(99);
    let cts = encrypted(&secret, &[vec![Fp::ONE; N]], &mut rng);
    let rotations = Rotations::new(&few).unwrap();
    assert!(matches!(rotations.apply(&evaluator, &cts), Err(ProtocolError::Caller { .. })));
    let cts = encrypted(&secret, &[vec![Fp::ONE; N], vec![Fp::ONE; N]], &mut rng);
    assert!(matches!(rotations.apply(&evaluator, &cts), Err(ProtocolError::He(_))), "no keys");
}

/// Prices for the note: `cargo test … conversion_prices -- --ignored --nocapture`.
#[test]
#[ignore = "figures for the documentation"]
fn conversion_prices() {
    for (from, to) in [(8, 32), (8, 512), (32, 512), (512, 8)] {
        println!("{}", conversion(&shape(12, 12, 64), from, to, 256).2.why());
    }
    for rows in [1, 64] {
        println!("{}", CacheLayout::choose(&shape(12, 12, 64), Workload { rows, length: 256 }).unwrap().1);
    }
}
