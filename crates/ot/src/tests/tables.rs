use core::num::Wrapping;

use cryptogen_party::Role;
use cryptogen_ring::kernels::MAX_TABLES;
use cryptogen_ring::word::word;
use cryptogen_ring::{Prg, Seed, Word};
use rand_core::RngCore;

use super::{run, setup};
use crate::{
    cost, generate, DotScratch, OtError, Table, TableBatch, TableKey, TableShape, RESERVE_COST, SILENT_FROM,
};

/// Makes `n` tables; also returns the reconstructed `β`, `n × m`.
fn make(shape: TableShape, n: usize, seed: u8) -> ([TableBatch; 2], Vec<Word>) {
    let [(client, mine), (server, theirs)] = run(|role, channel| {
        let (mut pair, mut rng) = setup(role, channel, seed)?;
        let betas = rng.word_vec(n * shape.given());
        let before = (channel.messages, channel.bytes);
        let batch = generate(channel, &mut pair, shape, n, &betas, &mut rng)?;
        let (mut messages, mut bytes) = (0, 0);
        let silent = n * (shape.k() as usize + 1) >= SILENT_FROM;
        for declared in [Some(cost(shape, n)), silent.then_some(RESERVE_COST)].into_iter().flatten() {
            messages += declared.messages_from(role);
            bytes += declared.bytes_from(role);
        }
        assert_eq!((channel.messages - before.0, channel.bytes - before.1), (messages, bytes));
        assert_eq!(batch.len(), n);
        Ok((batch, betas))
    });
    let mut betas = Vec::new();
    for i in 0..n {
        betas.push(Wrapping(1));
        let range = i * shape.given()..(i + 1) * shape.given();
        betas.extend(mine[range.clone()].iter().zip(&theirs[range]).map(|(a, b)| *a + *b));
        if shape.is_drawn() {
            let share = |batch: &TableBatch, payload| -> Word {
                let bytes = &batch.record(i)[shape.share_at(payload)..][..8];
                Wrapping(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
            };
            betas.extend((1..shape.m()).map(|payload| share(&client, payload) + share(&server, payload)));
        }
    }
    ([client, server], betas)
}

/// Both kinds of shapes.
fn shapes(k: u32, payloads: u32) -> [TableShape; 2] {
    [TableShape::new(k, payloads), TableShape::drawn(k, payloads)].map(|shape| shape.expect("valid shape"))
}

fn random_table(rng: &mut Prg, size: usize) -> Vec<i64> {
    (0..size).map(|_| rng.next_u64() as i64).collect()
}

/// Both parties' results of one key, added, `[tables][m]`.
fn dot(batches: &[TableBatch; 2], i: usize, d: u32, tables: &[&[i64]]) -> (u32, Vec<Word>) {
    let tables: Vec<Table> = tables.iter().map(|table| Table::new(table)).collect();
    let tables: Vec<&Table> = tables.iter().collect();
    let shape = batches[0].shape();
    let keys = batches.each_ref().map(|b| TableKey::from_record(shape, b.record(i)).expect("own record"));
    let alpha = (keys[0].alpha() + keys[1].alpha()) % shape.size() as u32;
    let [client, server] = keys;
    let client = client.dot(Role::Client, d, &tables).expect("valid tables");
    let server = server.dot(Role::Server, d, &tables).expect("valid tables");
    (alpha, client.iter().zip(&server).map(|(a, b)| *a + *b).collect())
}

#[test]
fn expanded_vectors_are_one_hot() {
    for (k, n) in [(4, 33), (8, 5), (9, 3), (12, 1)] {
        for shape in (0..4).flat_map(|payloads| shapes(k, payloads)) {
            let payloads = shape.payloads();
            let (batches, betas) = make(shape, n, (16 * k + payloads) as u8);
            for i in 0..n {
                // Unit tables read the vector entry by entry: all of it, or a sample and the entry
                // that counts.
                let hot = dot(&batches, i, 0, &[]).0 as usize;
                let step = shape.size().div_ceil(512);
                let entries: Vec<usize> = (0..shape.size()).step_by(step).chain([hot]).collect();
                let units: Vec<Vec<i64>> =
                    entries.iter().map(|at| (0..shape.size()).map(|j| (j == *at) as i64).collect()).collect();
                for (entries, units) in entries.chunks(MAX_TABLES).zip(units.chunks(MAX_TABLES)) {
                    let units: Vec<&[i64]> = units.iter().map(Vec::as_slice).collect();
                    let (alpha, vectors) = dot(&batches, i, 0, &units);
                    for (at, values) in entries.iter().zip(vectors.chunks(shape.m())) {
                        let betas = &betas[i * shape.m()..][..shape.m()];
                        let hot = Wrapping((*at == alpha as usize) as u64);
                        let expected: Vec<Word> = betas.iter().map(|beta| *beta * hot).collect();
                        assert_eq!(values, expected, "k={k} table {i} entry {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn inner_products_equal_the_direct_computation() {
    let mut rng = Prg::new(&Seed::from_bytes([42; 32]));
    for (k, n) in [(4, 40), (8, 20), (9, 20), (12, 4), (16, 1)] {
        for shape in (0..3).flat_map(|payloads| shapes(k, payloads)) {
            let payloads = shape.payloads();
            let (batches, betas) = make(shape, n, (100 + k + payloads) as u8);
            let tables: Vec<_> = (0..4).map(|_| random_table(&mut rng, shape.size())).collect();
            let tables: Vec<&[i64]> = tables.iter().map(Vec::as_slice).collect();
            for i in 0..n {
                let d = rng.next_u32();
                let (alpha, values) = dot(&batches, i, d, &tables);
                for (table, values) in tables.iter().zip(values.chunks(shape.m())) {
                    let entry = word(table[alpha.wrapping_add(d) as usize % shape.size()]);
                    let betas = &betas[i * shape.m()..][..shape.m()];
                    assert_eq!(values, betas.iter().map(|beta| *beta * entry).collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn extreme_entries_come_back() {
    let shape = TableShape::new(16, 0).expect("valid shape");
    let (batches, _) = make(shape, 1, 7);
    for entry in [i64::MAX, i64::MIN] {
        let table = vec![entry; shape.size()];
        assert_eq!(dot(&batches, 0, 12345, &[&table]).1, [word(entry)]);
    }
}

#[test]
fn indices_are_uniform_and_shares_independent() {
    let shape = TableShape::new(4, 0).expect("valid shape");
    let n = 8192;
    let ([client, server], _) = make(shape, n, 8);
    let key =
        |batch: &TableBatch, i| TableKey::from_record(shape, batch.record(i)).expect("own record").alpha();
    let mut counts = [[0u32; 16]; 3];
    for i in 0..n {
        let (a, b) = (key(&client, i), key(&server, i));
        for (row, value) in counts.iter_mut().zip([a, b, (a + b) % 16]) {
            row[value as usize] += 1;
        }
    }
    for row in counts {
        let expected = n as f64 / 16.0;
        let chi2: f64 = row.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
        assert!(chi2 < 45.0, "chi-squared with 15 degrees of freedom is {chi2}: {row:?}");
    }
}

#[test]
fn drawn_payloads_are_uniform_and_shares_independent() {
    let shape = TableShape::drawn(4, 2).expect("valid shape");
    let n = 8192;
    let (batches, betas) = make(shape, n, 12);
    for payload in 1..shape.m() {
        let mut counts = [[0u32; 16]; 6];
        let words = |i: usize| {
            let share = |batch: &TableBatch| {
                u64::from_le_bytes(batch.record(i)[shape.share_at(payload)..][..8].try_into().unwrap())
            };
            [share(&batches[0]), share(&batches[1]), betas[i * shape.m() + payload].0]
        };
        for i in 0..n {
            for (w, word) in words(i).into_iter().enumerate() {
                counts[2 * w][(word % 16) as usize] += 1;
                counts[2 * w + 1][(word >> 60) as usize] += 1;
            }
        }
        for row in counts {
            let expected = n as f64 / 16.0;
            let chi2: f64 = row.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
            assert!(chi2 < 45.0, "chi-squared with 15 degrees of freedom is {chi2}: {row:?}");
        }
    }
}

#[test]
fn batches_follow_each_other_on_one_pair() {
    let shape = TableShape::new(5, 1).expect("valid shape");
    let batches = run(|role, channel| {
        let (mut pair, mut rng) = setup(role, channel, 9)?;
        let betas = rng.word_vec(3);
        assert!(generate(channel, &mut pair, shape, 0, &[], &mut rng)?.is_empty());
        let first = generate(channel, &mut pair, shape, 3, &betas, &mut rng)?;
        Ok([first, generate(channel, &mut pair, shape, 3, &betas, &mut rng)?])
    });
    // Both parties have one tag for a batch, and another one for the next.
    let tags = batches.each_ref().map(|b| b.each_ref().map(|batch| batch.record(0)[2..10].to_vec()));
    assert_eq!(tags[0], tags[1]);
    assert_ne!(tags[0][0], tags[0][1]);
    // A key is good with the permutations of its batch alone.
    let with_tag = |batches: &[TableBatch; 2], tag: &[u8]| {
        let mut record = batches[1].record(0).to_vec();
        record[2..10].copy_from_slice(tag);
        let key = TableKey::from_record(shape, &record).expect("a record");
        key.dot(Role::Client, 3, &[&Table::new(&[1; 32])]).expect("valid tables")
    };
    assert_ne!(with_tag(&batches[0], &tags[0][0]), with_tag(&batches[0], &tags[0][1]));
    let batches = batches.map(|[_, second]| second);
    let table: Vec<i64> = (0..32).collect();
    for i in 0..3 {
        let (alpha, values) = dot(&batches, i, 3, &[&table]);
        assert_eq!(values[0], Wrapping((alpha as u64 + 3) % 32));
    }
}

#[test]
fn sizes_are_checked() {
    assert!(matches!(TableShape::new(3, 0), Err(OtError::Range { .. })));
    assert!(matches!(TableShape::new(17, 0), Err(OtError::Range { .. })));
    assert!(matches!(TableShape::new(9, 8), Err(OtError::Range { .. })));
    assert!(matches!(TableShape::drawn(17, 0), Err(OtError::Range { .. })));
    let shape = TableShape::new(9, 1).expect("valid shape");
    run(|role, channel| {
        let (mut pair, mut rng) = setup(role, channel, 10)?;
        let wrong = generate(channel, &mut pair, shape, 2, &[Wrapping(1)], &mut rng);
        assert!(matches!(wrong, Err(OtError::Size { expected: 2, actual: 1, .. })));
        let drawn = TableShape::drawn(9, 1).expect("valid shape");
        let wrong = generate(channel, &mut pair, drawn, 1, &[Wrapping(1)], &mut rng);
        assert!(matches!(wrong, Err(OtError::Size { expected: 0, actual: 1, .. })));
        let large = generate(channel, &mut pair, shape, usize::MAX, &[], &mut rng);
        assert!(matches!(large, Err(OtError::Range { .. })));
        Ok(())
    });
    let (batches, _) = make(shape, 1, 11);
    let key = || TableKey::from_record(shape, batches[0].record(0)).expect("own record");
    let (short, full) = (Table::new(&[0; 511]), Table::new(&[0; 512]));
    assert!(matches!(key().dot(Role::Client, 0, &[&short]), Err(OtError::Size { .. })));
    let many = [&full; MAX_TABLES + 1];
    assert!(matches!(key().dot(Role::Client, 0, &many), Err(OtError::Range { .. })));
    let missing = key().dot_into(Role::Client, 0, &[&full], &mut DotScratch::new(), &mut []);
    assert!(matches!(missing, Err(OtError::Size { .. })));
}
