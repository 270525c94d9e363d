//! Attention material over several blocks equals the clear sums.

use cryptogen_party::{Party, Role};
use cryptogen_ring::{Fp, Prg};

use super::channel::{measured, run, run_spoiled, Fault, Tap};
use super::ideal::Pair;
use super::offline::{check_error, check_shares, keys};
use super::tiny::{tiny, Arch};
use super::{elements, rng};
use crate::error::Result;
use crate::material::{Held, LatticeKeys};
use crate::model::ModelShape;
use crate::offline::attention::{self, EncryptedCache, NewRows, Products};

/// A decoder shape for attention material.
pub fn shape(layers: usize, heads: usize, kv_heads: usize, head_dim: usize) -> ModelShape {
    ModelShape { layers, heads, kv_heads, head_dim, ..tiny(Arch::Gpt).plan.model.clone() }
}

/// Random inputs of a block of rows.
pub fn new_rows(m: &ModelShape, first: usize, rows: usize, seed: u8) -> NewRows {
    let mut rng = rng(seed);
    let mut matrix = |n: usize| (0..rows).map(|_| elements(&mut rng, n)).collect::<Vec<_>>();
    let (queries, keys, values) =
        (matrix(m.layers * m.q_dim()), matrix(m.layers * m.kv_dim()), matrix(m.layers * m.kv_dim()));
    let weights = (first..first + rows).map(|t| elements(&mut rng, m.layers * m.heads * (t + 1))).collect();
    NewRows { first, queries, keys, values, weights }
}

pub fn extend<P: Party>(
    ch: &mut Tap,
    m: &ModelShape,
    keys: &LatticeKeys<P>,
    blocks: &[NewRows],
) -> Result<Vec<Products>> {
    let (mut cache, mut rng) = (EncryptedCache::default(), rng(130 + P::ROLE.index() as u8));
    blocks.iter().map(|new| block(ch, m, keys, &mut cache, new, &mut rng)).collect()
}

/// One block of rows.
pub fn block<P: Party>(
    ch: &mut Tap,
    m: &ModelShape,
    keys: &LatticeKeys<P>,
    cache: &mut EncryptedCache,
    new: &NewRows,
    rng: &mut Prg,
) -> Result<Products> {
    match &keys.held {
        Held::Client { slots, .. } => attention::client(ch, slots, m, cache, new, rng),
        Held::Server { params, slots, .. } => attention::server(ch, params, slots, m, cache, new, rng),
    }
}

#[test]
fn attention_material_equals_the_clear_sums() {
    // Blocks one behind the other, grouped heads, more rows than are combined at once, more λ than
    // fit into one ciphertext, head dimensions and contexts whose sums need fewer slots for their
    // noise.
    for (m, sizes) in [
        (shape(2, 4, 2, 3), vec![1, 3, 5]),
        (shape(1, 2, 2, 4), vec![5, 1]),
        (shape(2, 65, 65, 1), vec![33]),
        (shape(2, 18, 18, 256), vec![1]),
        (ModelShape { context: 1 << 17, ..shape(4, 4, 4, 2) }, vec![2, 1]),
    ] {
        let starts: Vec<usize> = (0..sizes.len()).map(|b| sizes[..b].iter().sum()).collect();
        let blocks = |seed: u8| -> Vec<NewRows> {
            (0..sizes.len()).map(|b| new_rows(&m, starts[b], sizes[b], seed + b as u8)).collect()
        };
        let (mine, theirs, (client_keys, server_keys)) = (blocks(10), blocks(20), keys());
        let (client, server) =
            run(|ch| extend(ch, &m, client_keys, &mine), |ch| extend(ch, &m, server_keys, &theirs));
        let cost = (0..sizes.len()).map(|b| attention::cost(&m, &sizes[..b], starts[b], sizes[b])).sum();
        assert_eq!(measured(&client, &server), cost);
        let (client, server) = (client.result.unwrap(), server.result.unwrap());
        for b in 0..sizes.len() {
            for row in 0..sizes[b] {
                let [scores, values] = clear_sums(&m, [&mine, &theirs], b, row);
                assert!(add(&client[b].scores[row], &server[b].scores[row]) == scores);
                assert!(add(&client[b].values[row], &server[b].values[row]) == values);
            }
        }
    }
}

#[test]
fn rows_that_were_dropped_are_not_in_the_sums() {
    // Every block is cut after it was made, the middle one behind a block that was cut before.
    let (m, sizes, kept) = (shape(2, 4, 2, 3), [5, 6, 4], [3, 1, 4]);
    let starts: Vec<usize> = (0..3).map(|b| kept[..b].iter().sum()).collect();
    let blocks = |seed: u8| -> Vec<NewRows> {
        (0..3).map(|b| new_rows(&m, starts[b], sizes[b], seed + b as u8)).collect()
    };
    fn party<P: Party>(
        ch: &mut Tap,
        m: &ModelShape,
        keys: &LatticeKeys<P>,
        blocks: &[NewRows],
        kept: &[usize],
    ) -> Result<Vec<Products>> {
        let (mut cache, mut rng) = (EncryptedCache::default(), rng(140 + P::ROLE.index() as u8));
        let mut products = vec![];
        for (new, kept) in blocks.iter().zip(kept) {
            products.push(block(ch, m, keys, &mut cache, new, &mut rng)?);
            cache.crop(new.first + kept);
        }
        Ok(products)
    }
    let (mine, theirs, (client_keys, server_keys)) = (blocks(40), blocks(50), keys());
    let (client, server) =
        run(|ch| party(ch, &m, client_keys, &mine, &kept), |ch| party(ch, &m, server_keys, &theirs, &kept));
    assert_eq!(
        measured(&client, &server),
        (0..3).map(|b| attention::cost(&m, &sizes[..b], starts[b], sizes[b])).sum()
    );
    let (client, server) = (client.result.unwrap(), server.result.unwrap());
    let cut = |blocks: Vec<NewRows>| -> Vec<NewRows> {
        let cut = |(mut new, kept): (NewRows, &usize)| {
            let NewRows { queries, keys, values, weights, .. } = &mut new;
            [queries, keys, values, weights].into_iter().for_each(|x| x.truncate(*kept));
            new
        };
        blocks.into_iter().zip(&kept).map(cut).collect()
    };
    let (mine, theirs) = (cut(mine), cut(theirs));
    for b in 0..3 {
        for row in 0..kept[b] {
            let [scores, values] = clear_sums(&m, [&mine, &theirs], b, row);
            assert!(add(&client[b].scores[row], &server[b].scores[row]) == scores);
            assert!(add(&client[b].values[row], &server[b].values[row]) == values);
        }
    }
}

/// `[layers][heads][t+1]` scores and `[layers·heads·head_dim]` values, both directions added.
pub fn clear_sums(m: &ModelShape, blocks: Pair<&[NewRows]>, b: usize, row: usize) -> [Vec<Fp>; 2] {
    let t = blocks[0][b].first + row;
    let cached = |p: usize| {
        blocks[p].iter().flat_map(|n| n.keys.iter().zip(&n.values)).take(t + 1).collect::<Vec<_>>()
    };
    let d = m.head_dim;
    let (mut scores, mut values) = (vec![], vec![Fp::ZERO; m.layers * m.q_dim()]);
    let caches: Vec<_> = cached(0).into_iter().zip(cached(1)).map(|(c, s)| [c, s]).collect();
    for head in 0..m.layers * m.heads {
        let kv = (head / m.heads * m.kv_heads + head % m.heads / m.queries_per_kv_head()) * d;
        for (j, rows) in caches.iter().enumerate() {
            let mut score = Fp::ZERO;
            for (mine, theirs) in [(0, 1), (1, 0)] {
                let (new, (k, v)) = (&blocks[mine][b], rows[theirs]);
                for e in 0..d {
                    score += new.queries[row][head * d + e] * k[kv + e];
                    values[head * d + e] += new.weights[row][head * (t + 1) + j] * v[kv + e];
                }
            }
            scores.push(score);
        }
    }
    [scores, values]
}

#[test]
fn spoiled_attention_material_is_an_error() {
    let (m, (client_keys, server_keys)) = (shape(2, 2, 1, 4), keys());
    let blocks = [new_rows(&m, 0, 2, 30), new_rows(&m, 2, 1, 31)];
    let run = |faults| {
        run_spoiled(
            faults,
            |ch| extend(ch, &m, client_keys, &blocks),
            |ch| extend(ch, &m, server_keys, &blocks),
        )
    };
    let (client, server) = run([None, None]);
    assert!(client.result.is_ok() && server.result.is_ok());
    assert_eq!(
        [client.hash(), server.hash()],
        ["750121400a17b87b", "e22587a8618a4617"],
        "the wire format has changed"
    );
    for by in [Role::Client, Role::Server] {
        for at in 0..[&client.sent, &server.sent][by.index()].len() {
            for fault in [Fault::Truncate, Fault::Ones, Fault::Random, Fault::Hangup] {
                let mut faults = [None, None];
                faults[by.index()] = Some((at, fault));
                let (c, s) = run(faults);
                let what = format!("message {at} of {by:?}");
                match by {
                    Role::Client => check_error(&what, fault, s.result.err()),
                    Role::Server => check_shares(&what, fault, c.result.err()),
                }
            }
        }
    }
}

fn add(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}
