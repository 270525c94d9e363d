//! Refreshes, and the cache as a file.

use cryptogen_protocols::error::PlanError;
use cryptogen_protocols::model::ModelShape;
use cryptogen_protocols::{ProtocolError, Result};

use super::{check_passes, lazy, new_rows, parties, pass, shape, sum, Shares};
use crate::cache::{Binding, CacheShape, EncryptedCache};
use crate::layout::{CacheLayout, QueryShape};
use crate::tests::channel::Ran;
use crate::tests::rng;

#[test]
fn noise_is_tracked_alike_and_refreshes_come_in_time() {
    // Outer encoding of one feature: 4096 tokens share a ciphertext, and each is an addition.
    let m = shape(1, 1, 1);
    let layout = CacheLayout::new(&m, 4096).unwrap();
    let mut shape = CacheShape::new(layout, 1, 2).unwrap();
    for _ in 0..4096 {
        shape.append(0, 1);
        assert!(layout.survives(QueryShape::Row, shape.noise(0, 0)));
    }
    let (lazy, always) = shape.refreshes();
    assert!(lazy < always / 10 && always == 2 * 4096, "{lazy} of {always}");
    println!("{lazy} ciphertexts refreshed of {always}");
    // A plan that cannot work is refused before any work.
    let impossible = CacheShape::new(layout, 1, 20);
    assert!(matches!(impossible, Err(ProtocolError::Plan(PlanError::Unfit { .. }))));
}

#[test]
fn a_saved_cache_goes_on_and_a_wrong_one_is_refused() {
    let m = shape(2, 1, 4);
    let (mut c, s) = check_passes(&m, lazy(&m, 4), &[5, 1]);
    let (dir, binding) = (tempfile::tempdir().unwrap(), Binding { model: [1; 32], key: [2; 32] });
    let path = dir.path().join("cache");
    let mut cache = EncryptedCache::new(lazy(&m, 4));
    // Layer 1 has no rows in this test: a cache whose layers disagree is not loaded.
    let mut s = s;
    s.cache.encrypted_mut().unwrap().save(&path, &binding).unwrap();
    assert!(matches!(cache.load(&path, &binding, 80), Err(ProtocolError::Corrupt { .. })));

    let one = ModelShape { layers: 1, ..m.clone() };
    let (mut c1, s1) = check_passes(&one, lazy(&one, 4), &[5, 1]);
    let mut s1 = s1;
    let server = s1.cache.encrypted_mut().unwrap();
    assert_eq!((server.len(), server.memory() > 0, server.shape().ciphertexts()), (6, true, 4));
    server.save(&path, &binding).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut fresh = EncryptedCache::new(lazy(&one, 4));
    let mut refuse = |bytes: &[u8], binding: &Binding, context: usize, reason: &str| {
        std::fs::write(&path, bytes).unwrap();
        match fresh.load(&path, binding, context) {
            Err(ProtocolError::Corrupt { file, reason: got }) if file == path => {
                assert!(got.contains(reason), "{got}, not {reason}")
            }
            other => panic!("{reason}: {:?}", other.map(|()| "loaded")),
        }
        assert!(fresh.is_empty());
    };
    let with = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    refuse(&with(0), &binding, 80, "not a cache file");
    refuse(&with(8), &binding, 80, "another version");
    refuse(&good, &Binding { model: [3; 32], ..binding.clone() }, 80, "another model");
    refuse(&good, &Binding { key: [3; 32], ..binding.clone() }, 80, "another client key");
    refuse(&with(76), &binding, 80, "tokens per ciphertext");
    refuse(&good, &binding, 5, "rows");
    refuse(&good[..good.len() - 1], &binding, 80, "bytes, expected");
    refuse(&good[..90], &binding, 80, "ends before");
    refuse(&with(good.len() - 1), &binding, 80, "digest");
    refuse(&with(good.len() - 3000), &binding, 80, "");
    std::fs::write(&path, &good).unwrap();
    fresh.load(&path, &binding, 80).unwrap();
    assert_eq!(fresh.shape().to_bytes(), s1.cache.shape().to_bytes());

    // The conversation goes on with the loaded rows: scores of a new row equal those over the rows
    // that were never saved.
    let mut resumed = lazy(&one, 4);
    resumed.resume(&c1.cache_shape().to_bytes(), 80).unwrap();
    assert_eq!(resumed.len(), 6);
    assert!(resumed.resume(&c.cache_shape().to_bytes(), 80).is_err());
    c.reset();
    assert!(c.cache_shape().is_empty());
    let new = [new_rows(&one, 1, &mut rng(95)), new_rows(&one, 1, &mut rng(96))];
    let (a, b) = pass((&mut c1, &mut s1), (&new[0], &new[1]), 9, [None, None]);
    let (mut c2, mut s2) = parties(&one, &lazy(&one, 4));
    *c2.cache.shape_mut().unwrap() = resumed;
    *s2.cache.encrypted_mut().unwrap() = fresh;
    let (c, d) = pass((&mut c2, &mut s2), (&new[0], &new[1]), 9, [None, None]);
    let total = |a: Ran<Result<Shares>>, b: Ran<Result<Shares>>| {
        let (a, b) = (a.result.unwrap(), b.result.unwrap());
        (sum(&a.0, &b.0), sum(&a.1, &b.1))
    };
    assert!(total(a, b) == total(c, d));
}

#[test]
fn refreshing_changes_nothing_but_the_count() {
    let m = shape(2, 2, 4);
    let layout = CacheLayout::new(&m, 4).unwrap();
    // A reserve that leaves room for two ciphertexts in a block: its third append is refreshed.
    let fits = |reserve| CacheShape::new(layout, m.layers, reserve).ok();
    let reserve = (0..64).rev().find(|r| fits(*r).is_some()).expect("fresh ciphertexts fit");
    let tight = fits(reserve).expect("found above");
    let (_, s) = check_passes(&m, tight, &[1, 1, 1, 1, 1]);
    let (refreshed, always) = s.cache_shape().refreshes();
    assert!(refreshed > 0 && refreshed < always && always == 10, "{refreshed} of {always}");
    for layer in 0..m.layers {
        for block in 0..2 {
            assert!(s.cache_shape().noise(layer, block).fits());
        }
    }
}
