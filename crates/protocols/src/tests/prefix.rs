//! Sessions that begin with rows of the server's alone: the clear function, what it costs, what the
//! client gets of these rows, what is refused.

use cryptogen_he::shares::RESULT_BYTES;
use cryptogen_he::SeededCiphertext;
use cryptogen_mpc::session::Connection;
use cryptogen_party::{Client, Party, Server};
use cryptogen_ring::Fp;

use super::attention_material::{block, clear_sums, new_rows};
use super::channel::{measured, run, Ran, Tap};
use super::clear::Clear;
use super::endpoint::{bought, open};
use super::fresh::{check_ciphertexts, check_results};
use super::offline::keys;
use super::tiny::{tiny, Arch, Tiny, BOTH};
use super::uniform::{check_message, Part};
use super::{integers, rng};
use crate::endpoint::{exponentials_needed, Endpoint, Stock};
use crate::error::{ProtocolError, Result};
use crate::material::LatticeKeys;
use crate::model::{ModelShape, Prefix};
use crate::offline::attention::{self, EncryptedCache, NewRows, Products};
use crate::online;
use crate::testing::sessions::{client_pass, pair, server_pass, Logits};

/// Keys and values of each layer, `[rows][kv_dim]`, as small as tests' inputs of attention.
fn numbers(tiny: &Tiny, rows: usize, seed: u8) -> Vec<[Vec<i64>; 2]> {
    let (mut rng, m) = (rng(seed), &tiny.plan.model);
    (0..m.layers).map(|_| [0, 1].map(|_| integers(&mut rng, rows * m.kv_dim(), 1 << 12))).collect()
}

fn in_field(numbers: &[i64]) -> Vec<Fp> {
    numbers.iter().map(|x| Fp::from_i64(*x)).collect()
}

/// A prefix of such numbers.
pub fn prefix(tiny: &Tiny, rows: usize, seed: u8) -> Prefix {
    let layers =
        numbers(tiny, rows, seed).iter().map(|layer| layer.each_ref().map(|x| in_field(x))).collect();
    Prefix::new(&tiny.plan, layers).expect("a prefix of the plan")
}

/// A prompt and a token behind the prefix, one more after one was dropped.
const PASSES: [&[usize]; 3] = [&[3, 0, 19], &[7], &[11]];
const KNOWN: usize = 4;
const CUT: usize = KNOWN + 3;

/// Rows in the session before a pass.
fn first(pass: usize) -> usize {
    [KNOWN, KNOWN + 3, CUT][pass]
}

/// Logits (client), the log, the stock that is left, online bytes and messages.
type Left = (Vec<Logits>, Vec<u64>, Stock, [u64; 2]);

fn bought_for_all() -> Stock {
    let pairs = exponentials_needed(KNOWN, 4) + exponentials_needed(CUT, 1);
    Stock { linears: 5, rows: 5, logits: 3, exponentials: pairs }
}

fn session<P: online::products::Side>(
    mut e: Endpoint<P>,
    put_prefix: impl Fn(&mut Endpoint<P>) -> Result<()>,
    pass: impl Fn(&mut Endpoint<P>, &[usize]) -> Result<Logits>,
) -> Result<Left> {
    put_prefix(&mut e)?;
    assert_eq!(e.state().length(), KNOWN);
    assert!(matches!(put_prefix(&mut e), Err(ProtocolError::Caller { what: "rows before a prefix", .. })));
    let mut logits = vec![];
    for (n, tokens) in PASSES.into_iter().enumerate() {
        e.crop(first(n))?;
        e.extend(tokens.len())?;
        e.take_logits(1)?;
        logits.push(pass(&mut e, tokens)?);
    }
    let (trace, online) = (e.insecure_trace(), e.connection().stats().online);
    e.reset();
    assert_eq!(e.state().length(), 0);
    put_prefix(&mut e)?;
    assert_eq!((e.state().length(), e.state().ready_rows()), (KNOWN, 0));
    e.reset();
    Ok((logits, trace, e.stock(), [online.bytes_sent, online.messages_sent]))
}

#[test]
fn rows_behind_a_prefix_equal_the_clear_function_and_it_costs_no_material() {
    for arch in BOTH {
        let (tiny, dir) = (tiny(arch), tempfile::tempdir().unwrap());
        let (layers, numbers, want) = (tiny.plan.model.layers, numbers(tiny, KNOWN, 8), bought_for_all());
        let (client, server) = pair(
            |conn: Connection<Client>| {
                let mut e = open(conn, tiny, dir.path(), false)?;
                e.prepare(want, None, &mut |_, _, _| true)?;
                session(e, |e| e.put_prefix(KNOWN), |e, tokens| client_pass(e, layers, tokens, 1))
            },
            |conn: Connection<Server>| {
                let mut e = open(conn, tiny, dir.path(), false)?;
                e.prepare(want, Some(&tiny.model), &mut |_, _, _| true)?;
                let prefix = prefix(tiny, KNOWN, 8);
                let pass = |e: &mut _, tokens: &[usize]| {
                    server_pass(e, tiny, tokens.len(), 1).map(|()| Default::default())
                };
                session(e, |e| e.put_prefix(&prefix), pass)
            },
        );
        let (client, server) = (client.expect("an honest session"), server.expect("an honest session"));
        let mut clear = Clear::new(tiny, client.1, server.1);
        clear.put_prefix(numbers);
        for ((n, tokens), logits) in PASSES.into_iter().enumerate().zip(client.0) {
            clear.crop(first(n));
            assert_eq!(logits, clear.forward(tokens, first(n), 1));
        }
        clear.finish();
        let exponentials = bought(&tiny.plan, want.exponentials) - want.exponentials;
        assert_eq!(client.2, Stock { linears: 0, rows: 0, logits: 0, exponentials });
        assert_eq!(client.2, server.2);
        let passes = PASSES.into_iter().enumerate();
        let declared = passes.map(|(n, t)| online::cost(&tiny.plan, first(n)..first(n) + t.len(), 1));
        let declared: crate::share::Cost = declared.sum();
        let [sent, received] = [client.3, server.3];
        assert_eq!(declared.client_bytes as u64 + 5 * sent[1], sent[0]);
        assert_eq!(declared.server_bytes as u64 + 5 * received[1], received[0]);
    }
}

/// The blocks of a session, the first of which is a prefix: of it the client has zeros.
fn blocks(tiny: &Tiny, sizes: &[usize], numbers: &[[Vec<i64>; 2]]) -> [Vec<NewRows>; 2] {
    let m = &tiny.plan.model;
    let starts: Vec<usize> = (0..sizes.len()).map(|b| sizes[..b].iter().sum()).collect();
    [10, 20].map(|seed: u8| {
        let mut all: Vec<NewRows> =
            sizes.iter().enumerate().map(|(b, n)| new_rows(m, starts[b], *n, seed + b as u8)).collect();
        for i in 0..sizes[0] {
            let row = |what: usize| -> Vec<Fp> {
                let of = |layer: &[Vec<i64>; 2]| in_field(&layer[what][i * m.kv_dim()..][..m.kv_dim()]);
                numbers.iter().flat_map(of).collect()
            };
            (all[0].keys[i], all[0].values[i]) = match seed {
                10 => (vec![Fp::ZERO; m.layers * m.kv_dim()], vec![Fp::ZERO; m.layers * m.kv_dim()]),
                _ => (row(0), row(1)),
            };
        }
        all
    })
}

/// Attention material of all blocks but the first.
fn extend<P: Party>(
    ch: &mut Tap,
    (m, keys): (&ModelShape, &LatticeKeys<P>),
    (rows, prefix): (usize, Option<&Prefix>),
    blocks: &[NewRows],
    seed: u8,
) -> Result<Vec<Products>> {
    let (mut cache, mut rng) = (EncryptedCache::default(), rng(seed));
    cache.put_prefix(rows, prefix);
    blocks[1..].iter().map(|new| block(ch, m, keys, &mut cache, new, &mut rng)).collect()
}

type Extended = (Ran<Result<Vec<Products>>>, Ran<Result<Vec<Products>>>);

/// Both parties', with randomness of their own.
fn extended(tiny: &Tiny, sizes: &[usize], numbers_of: u8, seeds: [u8; 2]) -> Extended {
    let (m, numbers) = (&tiny.plan.model, numbers(tiny, sizes[0], numbers_of));
    let [mine, theirs] = blocks(tiny, sizes, &numbers);
    let prefix = prefix(tiny, sizes[0], numbers_of);
    let (client_keys, server_keys) = keys();
    run(
        |ch| extend(ch, (m, client_keys), (sizes[0], None), &mine, seeds[0]),
        |ch| extend(ch, (m, server_keys), (sizes[0], Some(&prefix)), &theirs, seeds[1]),
    )
}

#[test]
fn attention_material_holds_a_prefix_that_nothing_is_encrypted_of() {
    for arch in BOTH {
        let (tiny, sizes) = (tiny(arch), [33, 3, 2]);
        let m = &tiny.plan.model;
        let [mine, theirs] = blocks(tiny, &sizes, &numbers(tiny, sizes[0], 8));
        let (client, server) = extended(tiny, &sizes, 8, [130, 131]);
        let cost = [(33, 3), (36, 2)].into_iter().enumerate();
        let cost = cost.map(|(b, (first, n))| attention::cost(m, &[&[0], &sizes[1..=b]].concat(), first, n));
        assert_eq!(measured(&client, &server), cost.sum());
        let (client, server) = (client.result.unwrap(), server.result.unwrap());
        for b in 1..sizes.len() {
            for row in 0..sizes[b] {
                let [scores, values] = clear_sums(m, [&mine, &theirs], b, row);
                let add = |x: &[Fp], y: &[Fp]| x.iter().zip(y).map(|(x, y)| *x + *y).collect::<Vec<_>>();
                assert!(add(&client[b - 1].scores[row], &server[b - 1].scores[row]) == scores);
                assert!(add(&client[b - 1].values[row], &server[b - 1].values[row]) == values);
            }
        }
    }
}

#[test]
fn of_a_prefix_the_client_gets_uniform_numbers_and_its_length() {
    const RUNS: u8 = 24;
    let (tiny, sizes) = (tiny(Arch::Llama), [5, 2]);
    // All is the same in every run, the client's ciphertexts too, but for what the server draws.
    let runs: Vec<Extended> = (0..RUNS).map(|i| extended(tiny, &sizes, 8, [100, 101 + i])).collect();
    let words = |products: &Products| -> Vec<u8> {
        let numbers = products.scores.iter().chain(&products.values).flatten();
        numbers.flat_map(|x| x.value().to_le_bytes()).collect()
    };
    let shares: Vec<Vec<u8>> =
        runs.iter().map(|(client, _)| words(&client.result.as_ref().unwrap()[0])).collect();
    let shares: Vec<&[u8]> = shares.iter().map(Vec::as_slice).collect();
    check_message(&shares, &[Part::Words(shares[0].len() / 8)], "the client's shares");
    let all: Vec<Vec<u8>> = runs.iter().flat_map(|(_, server)| server.sent.clone()).collect();
    check_results(&all, RESULT_BYTES);
    check_ciphertexts(&runs[0].0.sent, SeededCiphertext::BYTES);
    // Another secret of as many rows: every message is as long.
    let other = extended(tiny, &sizes, 9, [100, 101]);
    let lengths = |ran: &Ran<Result<Vec<Products>>>| ran.sent.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(&runs[0].0), lengths(&other.0));
    assert_eq!(lengths(&runs[0].1), lengths(&other.1));
    // What the client sends depends on neither.
    assert!(runs.iter().all(|(client, _)| client.sent == other.0.sent));
}

#[test]
fn prefixes_that_do_not_fit_are_refused() {
    let tiny = tiny(Arch::Gpt);
    let context = tiny.plan.model.context;
    let of = |rows: usize| -> Vec<[Vec<Fp>; 2]> {
        numbers(tiny, rows, 8).iter().map(|layer| layer.each_ref().map(|x| in_field(x))).collect()
    };
    let refused = |layers: Vec<[Vec<Fp>; 2]>, expected: &str| {
        let error = Prefix::new(&tiny.plan, layers).err();
        assert!(matches!(&error, Some(ProtocolError::Caller { what, .. }) if *what == expected), "{error:?}");
    };
    refused(of(0), "rows of a prefix");
    refused(of(context), "rows of a prefix");
    refused(of(2)[1..].to_vec(), "layers of a prefix");
    let mut uneven = of(2);
    uneven[1][1].pop();
    refused(uneven, "numbers of a prefix");
    assert_eq!(Prefix::new(&tiny.plan, of(context - 1)).unwrap().rows(), context - 1);
    let dir = tempfile::tempdir().unwrap();
    pair(
        |conn: Connection<Client>| {
            let mut e = open(conn, tiny, dir.path(), false).unwrap();
            for rows in [0, context, usize::MAX] {
                let error = e.put_prefix(rows).err();
                assert!(matches!(&error, Some(ProtocolError::Caller { .. })), "{error:?}");
            }
            assert_eq!(e.state().length(), 0);
        },
        |conn: Connection<Server>| drop(open(conn, tiny, dir.path(), false)),
    );
}
