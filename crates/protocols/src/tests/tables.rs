//! Batches of keys and secret look-ups.

use std::path::Path;

use cryptogen_ot::{OtPair, Table, TableKey, TableShape};
use cryptogen_party::{Client, Party, Server};
use cryptogen_ring::word::word;
use cryptogen_ring::{Fp, Wiped, Word};
use rand_core::RngCore;

use super::channel::{measured, run, Tap};
use super::{between, rng};
use crate::material::TableKeys;
use crate::offline::tables;
use crate::online::tables::{line, look_up, look_up_all, Lookup};
use crate::share::local::{index, join, lift, rotation, sub_public};

/// Table records of both parties for given payload shares.
fn made(shape: TableShape, betas: &[Vec<Word>; 2]) -> [Vec<Vec<u8>>; 2] {
    fn party<P: Party>(ch: &mut Tap, all: (TableShape, usize), betas: &[Word]) -> (Vec<Vec<u8>>, usize) {
        let mut rng = rng(110 + P::ROLE.index() as u8);
        let mut ot = OtPair::setup(P::ROLE, ch, &mut rng).expect("base transfers");
        let (before, mut records) = (ch.sent.len(), vec![]);
        tables::make::<P>(ch, &mut ot, all, betas, &mut rng, &mut |_, first, bytes| {
            assert_eq!(first, records.len());
            records.extend(bytes.chunks(all.0.record_bytes()).map(<[u8]>::to_vec));
            Ok(())
        })
        .expect("honest parties");
        (records, before)
    }
    let all = (shape, betas[0].len() / shape.payloads() as usize);
    let (mut client, mut server) =
        run(|ch| party::<Client>(ch, all, &betas[0]), |ch| party::<Server>(ch, all, &betas[1]));
    client.sent.drain(..client.result.1);
    server.sent.drain(..server.result.1);
    assert_eq!(measured(&client, &server), tables::cost(shape, all.1));
    [client.result.0, server.result.0]
}

#[test]
fn look_ups_equal_the_clear_lines() {
    // A3 modulo 2^64 is exact for every x whose shares wrap as they nearly always do, entries up to
    // their bound.
    for (k, h) in [(4, 32), (9, 1), (7, 20)] {
        let (shape, n) = (TableShape::new(k, 1).unwrap(), 40);
        let (mut rng, extreme) = (rng(k as u8), (1i64 << 46) - 1);
        let table = |rng: &mut cryptogen_ring::Prg| -> Vec<i64> {
            (0..1 << k)
                .map(|_| [extreme, -extreme, between(rng, -extreme, extreme)][rng.next_u64() as usize % 3])
                .collect()
        };
        let (a, b) = (table(&mut rng), table(&mut rng));
        let (offset, center) = (between(&mut rng, -extreme, extreme), between(&mut rng, -extreme, extreme));
        let [beta_c, beta_s] = [0; 2].map(|_| rng.word_vec(n));
        let x_c = rng.fp_vec(n);
        let x: Vec<i64> = (0..n).map(|_| between(&mut rng, -extreme, extreme)).collect();
        let x_s: Vec<Fp> = x.iter().zip(&x_c).map(|(x, c)| Fp::from_i64(*x) - *c).collect();
        let records = made(shape, &[beta_c.clone(), beta_s.clone()]);

        struct Half {
            keys: Vec<TableKey>,
            rotations: Vec<u32>,
            deltas: Vec<Word>,
            indices: Vec<u32>,
        }
        let half = |role: usize, x: &[Fp], beta: &[Word]| {
            let mut half = Half { keys: vec![], rotations: vec![], deltas: vec![], indices: vec![] };
            for i in 0..n {
                let key = TableKey::from_record(shape, &records[role][i]).unwrap();
                let (j, delta) = match role {
                    0 => (index::<Client>(x[i], h, k), lift::<Client>(x[i]) - beta[i]),
                    _ => {
                        let j = index::<Server>(sub_public::<Server>(x[i], offset), h, k);
                        (j, lift::<Server>(sub_public::<Server>(x[i], center)) - beta[i])
                    }
                };
                half.rotations.push(rotation(j, key.alpha(), k));
                half.indices.push(j);
                half.deltas.push(delta);
                half.keys.push(key);
            }
            half
        };
        let (client, server) = (half(0, &x_c, &beta_c), half(1, &x_s, &beta_s));
        let wide = [Table::new(&a), Table::new(&b)];
        let lookups = |keys: Vec<TableKey>| -> Vec<Lookup<'_, 4>> {
            let join = |i: usize| join(client.rotations[i], server.rotations[i], k);
            let lookup = |(i, key)| Lookup {
                key,
                rotation: join(i),
                tables: [&wide[0], &wide[1], &wide[0], &wide[1]],
            };
            keys.into_iter().enumerate().map(lookup).collect()
        };
        let alphas: Vec<u32> = client.keys.iter().map(TableKey::alpha).collect();
        let sums = [
            look_up::<Client, 4>(lookups(client.keys)).unwrap(),
            look_up::<Server, 4>(lookups(server.keys)).unwrap(),
        ];
        // The same by records, 33 keys and 7; every third looks up in the tables in another order.
        let sets = [vec![&wide[0], &wide[1]], vec![&wide[1], &wide[0]]];
        let of = |i: usize| usize::from(i % 3 == 2);
        let keys = |records: &[Vec<u8>]| {
            let bytes = Wiped::new(records.concat());
            TableKeys::new(shape, (bytes, Path::new("made").into())).unwrap()
        };
        let many: Vec<TableKeys> = records[0].chunks(33).map(keys).collect();
        assert!(many.iter().flat_map(TableKeys::alphas).eq(alphas));
        let rotations: Vec<u32> = (0..n).map(|i| join(client.rotations[i], server.rotations[i], k)).collect();
        let flat = look_up_all::<Client>(many, &rotations, &sets, of).unwrap();
        for (i, (got, s)) in flat.chunks(4).zip(&sums[0]).enumerate() {
            assert_eq!(got, if of(i) == 1 { [s[2], s[3], s[0], s[1]] } else { [s[0], s[1], s[2], s[3]] });
        }
        assert!(look_up_all::<Client>(vec![keys(&records[0])], &rotations[1..], &sets, of).is_err());
        for i in 0..n {
            let delta = client.deltas[i] + server.deltas[i];
            let y: Word = sums.iter().map(|s| line(delta, &s[i], 2)).sum();
            let j = (client.indices[i].wrapping_add(server.indices[i]) & ((1 << k) - 1)) as usize;
            assert_eq!(y, word(a[j]) * word(x[i] - center) + word(b[j]));
        }
    }
}

#[test]
fn tables_come_in_batches() {
    // 64 tables of 2^16 leaves fill a batch.
    let (shape, n) = (TableShape::new(16, 2).unwrap(), 65);
    let betas = [1, 2].map(|seed| rng(seed).word_vec(2 * n));
    let records = made(shape, &betas);
    assert_eq!([records[0].len(), records[1].len()], [n, n]);
    for i in [0, 63, 64] {
        check_key(
            shape,
            [&records[0][i], &records[1][i]],
            [&betas[0][2 * i..][..2], &betas[1][2 * i..][..2]],
        );
    }
}

/// Both halves of a key add up to the payloads at its secret index and nothing elsewhere.
pub fn check_key(shape: TableShape, records: [&[u8]; 2], betas: [&[Word]; 2]) {
    let entries: Vec<i64> = (0..shape.size() as i64).map(|j| j * j + 1).collect();
    let table = Table::new(&entries);
    let halves = [0, 1].map(|p| {
        let key = TableKey::from_record(shape, records[p]).expect("a well-formed record");
        let role = [Client::ROLE, Server::ROLE][p];
        (key.alpha() as usize, key.dot(role, 3, &[&table]).expect("a valid table"))
    });
    let at = (halves[0].0 + halves[1].0 + 3) % shape.size();
    for l in 0..shape.m() {
        let beta = if l == 0 { word(1) } else { betas[0][l - 1] + betas[1][l - 1] };
        assert_eq!(halves[0].1[l] + halves[1].1[l], beta * word(entries[at]));
    }
}
