//! Whole sessions over connections in memory: private logits equal the clear ones bit for bit, at
//! the declared cost.

use std::path::Path;
use std::sync::Arc;

use cryptogen_he::N;
use cryptogen_mpc::session::Connection;
use cryptogen_mpc::store::{Binding, Pool, Store};
use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_ring::exponential::{multiply_add, subtract, weight_server};
use cryptogen_ring::trunc::trunc_client;
use cryptogen_ring::{Fp, Wiped};
use serde_json::Value;

use super::clear::Clear;
use super::tiny::{build_with, tiny, Arch, Settings, Tiny, BOTH};
use crate::endpoint::{exponential_bytes, exponentials_needed, Endpoint, Stock};
use crate::error::{ProtocolError, Result};
use crate::material::{
    exponential_record_bytes, Deferred, Exponentials, HeadFactors, MaskLabel, Row, RowAttention, Run,
};
use crate::model::{Plan, Site};
use crate::online;
use crate::online::products::Side;
use crate::share::qkv::split_qkv;
use crate::testing::sessions::{client_pass_tried, pair, server_pass_tried, store, Logits, Tries};

/// A party's end over its store in `dir`.
pub fn open<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path, resync: bool) -> Result<Endpoint<P>> {
    Endpoint::open(conn, tiny.plan.clone(), store::<P>(dir)?, resync)
}

/// Pairs of rows for which there are exponentials once so many have been bought: records fill
/// ciphertexts.
pub fn bought(plan: &Plan, pairs: u64) -> u64 {
    let made = |primes| {
        let heads = (0..plan.model.layers).map(|l| plan.heads_with(l, primes).count() as u64).sum::<u64>();
        (pairs * heads).div_ceil(N as u64) * N as u64 / heads
    };
    plan.prime_counts().into_iter().map(made).min().expect("heads")
}

/// Tokens of each pass and how many of its rows are sampled.
type Passes = [(&'static [usize], usize)];

/// What a party of [`session`] leaves: logits of every pass (client), the log, the rest of the
/// stock, online bytes and messages.
type Left = (Vec<Logits>, Vec<u64>, Stock, [u64; 2]);

/// Prepares `want`, then runs `passes` in a session of their own.
fn session(tiny: &Tiny, dir: &Path, want: Stock, passes: &Passes, tries: Tries) -> (Left, Left) {
    let layers = tiny.plan.model.layers;
    fn left<P: Side>(mut e: Endpoint<P>, logits: Vec<Logits>) -> Left {
        let online = e.connection().stats().online;
        (logits, e.insecure_trace(), e.stock(), [online.bytes_sent, online.messages_sent])
    }
    pair(
        |conn| -> Result<Left> {
            let mut e = open(conn, tiny, dir, false)?;
            e.prepare(want, None, &mut |_, _, _| true)?;
            let mut logits = vec![];
            for (tokens, sampled) in passes {
                e.extend(tokens.len())?;
                e.take_logits(*sampled)?;
                logits.push(client_pass_tried(&mut e, layers, tokens, *sampled, tries)?);
            }
            Ok(left(e, logits))
        },
        |conn| -> Result<Left> {
            let mut e = open(conn, tiny, dir, false)?;
            e.prepare(want, Some(&tiny.model), &mut |_, _, _| true)?;
            for (tokens, sampled) in passes {
                e.extend(tokens.len())?;
                e.take_logits(*sampled)?;
                server_pass_tried(&mut e, tiny, tokens.len(), *sampled, tries)?;
            }
            Ok(left(e, vec![]))
        },
    )
    .map_both(|l| l.expect("an honest session"))
}

trait MapBoth<T> {
    fn map_both<U>(self, f: impl Fn(T) -> U) -> (U, U);
}

impl<T> MapBoth<T> for (T, T) {
    fn map_both<U>(self, f: impl Fn(T) -> U) -> (U, U) {
        (f(self.0), f(self.1))
    }
}

fn check_session(tiny: &Tiny, want: Stock, passes: &Passes) -> Stock {
    check_session_tried(tiny, want, passes, Tries::Once)
}

fn check_session_tried(tiny: &Tiny, want: Stock, passes: &Passes, tries: Tries) -> Stock {
    let dir = tempfile::tempdir().unwrap();
    let (client, server) = session(tiny, dir.path(), want, passes, tries);
    let mut clear = Clear::new(tiny, client.1, server.1);
    let mut first = 0;
    for ((tokens, sampled), logits) in passes.iter().zip(client.0) {
        let expected = clear.forward(tokens, first, *sampled);
        assert!(expected.1.iter().all(|events| *events > 0), "guards are met");
        assert_eq!(logits, expected);
        first += tokens.len();
    }
    clear.finish();
    assert_eq!(client.2, server.2);
    let starts = (0..passes.len()).map(|n| passes[..n].iter().map(|(t, _)| t.len()).sum::<usize>());
    let costs =
        starts.zip(passes).map(|(at, (t, sampled))| online::cost(&tiny.plan, at..at + t.len(), *sampled));
    let declared: crate::share::Cost = costs.sum();
    // every message is one frame here, of five bytes more
    let [sent, received] = [client.3, server.3];
    assert_eq!(declared.messages as u64, sent[1] + received[1]);
    assert_eq!(declared.client_bytes as u64 + 5 * sent[1], sent[0]);
    assert_eq!(declared.server_bytes as u64 + 5 * received[1], received[0]);
    client.2
}

#[test]
fn private_logits_equal_the_clear_ones() {
    for arch in BOTH {
        let tiny = tiny(arch);
        let exponentials = exponentials_needed(0, 5) + 3;
        let left = check_session(
            tiny,
            Stock { linears: 7, rows: 7, logits: 4, exponentials },
            &[(&[3, 0, 19], 1), (&[7], 1), (&[11], 1)],
        );
        let exponentials = bought(&tiny.plan, exponentials) - exponentials_needed(0, 5);
        assert_eq!(left, Stock { linears: 0, rows: 2, logits: 1, exponentials });
    }
}

#[test]
fn residuals_side_by_side_and_a_layer_that_does_not_turn() {
    let tiny = build_with(&Settings::of(Arch::Llama), |plan, _| {
        plan["model"]["parallel"] = true.into();
        plan["rope"][1] = Value::Null;
    });
    let want = Stock { linears: 4, rows: 4, logits: 2, exponentials: exponentials_needed(0, 4) };
    check_session(&tiny, want, &[(&[3, 0, 19], 1), (&[7], 1)]);
}

#[test]
fn no_step_runs_twice() {
    // Row 0 alone, a row behind it, a prompt of which nobody samples a row, and one of which all
    // are sampled: refused steps send nothing, spend nothing and leave the results as they are.
    for arch in BOTH {
        let passes: &Passes = &[(&[3], 1), (&[7], 1), (&[11, 0], 0), (&[1, 2], 2)];
        let exponentials = exponentials_needed(0, 6);
        let want = Stock { linears: 8, rows: 8, logits: 4, exponentials };
        let left = check_session_tried(tiny(arch), want, passes, Tries::Twice);
        let exponentials = bought(&tiny(arch).plan, exponentials) - exponentials;
        assert_eq!(left, Stock { linears: 0, rows: 2, logits: 0, exponentials });
        check_session_tried(tiny(arch), want, &[(&[3, 7], 1), (&[5], 0)], Tries::Twice);
    }
}

#[test]
fn events_of_rows_that_nobody_samples_go_to_the_next_that_is() {
    for arch in BOTH {
        let want = Stock { linears: 8, rows: 8, logits: 3, exponentials: 200 };
        check_session(tiny(arch), want, &[(&[3, 1], 0), (&[0], 0), (&[19, 4], 2), (&[7, 5], 1)]);
    }
}

#[test]
fn every_row_of_a_prompt_can_be_sampled() {
    let want = Stock { linears: 3, rows: 3, logits: 3, exponentials: 100 };
    check_session(tiny(Arch::Llama), want, &[(&[1, 2, 3], 3)]);
}

#[test]
fn missing_material_is_an_error_and_nothing_is_spent() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    fn party<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) -> Endpoint<P> {
        let mut e = open(conn, tiny, dir, false).unwrap();
        assert!(matches!(e.extend(1), Err(ProtocolError::Short { what: "rows", needed: 1, available: 0 })));
        assert!(matches!(
            e.take_logits(2),
            Err(ProtocolError::Short { what: "logits", needed: 2, available: 0 })
        ));
        assert!(matches!(e.extend(81), Err(ProtocolError::Caller { what: "rows of a session", .. })));
        e.prepare(Stock { linears: 0, rows: 0, logits: 0, exponentials: 2 }, None, &mut |_, _, _| true)
            .unwrap();
        e
    }
    let (client, server) = pair(|c| party(c, tiny, dir.path()), |c| party(c, tiny, dir.path()));
    let stock = Stock { linears: 0, rows: 0, logits: 0, exponentials: bought(&tiny.plan, 2) };
    assert_eq!((client.stock(), server.stock()), (stock, stock));
}

/// What `prepare` is asked for where exponentials alone count.
fn exponentials(pairs: u64) -> Stock {
    Stock { linears: 0, rows: 0, logits: 0, exponentials: pairs }
}

/// The client's pool of exponentials with so many primes.
fn pool(dir: &Path, primes: usize) -> (Store, Pool) {
    let binding =
        Binding { peer: "peer".into(), model: "tiny".into(), plan: "tiny".into(), role: Client::ROLE };
    let store = Store::open(&dir.join("Client"), &binding).unwrap();
    let pool = store.pool(&format!("exponentials-{primes}"), exponential_record_bytes::<Client>(primes));
    (store, pool.unwrap())
}

#[test]
fn stores_that_disagree_are_refused_or_moved_forward() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    fn fill<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) {
        open(conn, tiny, dir, false).unwrap().prepare(exponentials(5), None, &mut |_, _, _| true).unwrap();
    }
    pair(|c| fill(c, tiny, dir.path()), |c| fill(c, tiny, dir.path()));
    // The client crashes after taking what two pairs of rows spend of one of the pools.
    let primes = tiny.plan.prime_counts()[0];
    let heads: usize = (0..2).map(|layer| tiny.plan.heads_with(layer, primes).count()).sum();
    pool(dir.path(), primes).1.take(2 * heads).unwrap();
    let (client, server) =
        pair(|c| open(c, tiny, dir.path(), false).err(), |c| open(c, tiny, dir.path(), false).err());
    assert!(matches!(client, Some(ProtocolError::Store(_))), "{client:?}");
    assert!(matches!(server, Some(ProtocolError::Store(_))), "{server:?}");
    let (client, server) = pair(
        |c| open(c, tiny, dir.path(), true).map(|e| e.stock()),
        |c| open(c, tiny, dir.path(), false).map(|e| e.stock()),
    );
    let stock = exponentials((N / heads) as u64 - 2);
    assert_eq!((client.unwrap(), server.unwrap()), (stock, stock));
}

#[test]
fn an_interruption_between_two_pools_of_exponentials_costs_nothing() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    let counts = tiny.plan.prime_counts();
    assert!(counts.len() > 1, "heads of this plan differ");
    let made = || counts.iter().map(|primes| pool(dir.path(), *primes).1.committed()).collect::<Vec<_>>();
    let (client, server) = pair(
        |c| {
            open(c, tiny, dir.path(), false)
                .unwrap()
                .prepare(exponentials(3), None, &mut |_, _, _| false)
                .err()
        },
        |c| {
            open(c, tiny, dir.path(), false)
                .unwrap()
                .prepare(exponentials(3), None, &mut |_, _, _| true)
                .err()
        },
    );
    assert!(matches!(client, Some(ProtocolError::Interrupted)), "{client:?}");
    assert!(server.is_some());
    // One pool has been filled, the other is empty: that is a stock of nothing.
    let mut expected = vec![0; counts.len()];
    expected[0] = N as u64;
    assert_eq!(made(), expected);
    fn again<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) -> [Stock; 3] {
        let mut e = open(conn, tiny, dir, false).unwrap();
        let mut stocks = [e.stock(); 3];
        for (stock, more) in stocks[1..].iter_mut().zip([3, 0]) {
            e.prepare(exponentials(more), None, &mut |_, _, _| true).unwrap();
            *stock = e.stock();
        }
        stocks
    }
    let (client, server) = pair(|c| again(c, tiny, dir.path()), |c| again(c, tiny, dir.path()));
    let full = exponentials(bought(&tiny.plan, 3));
    assert_eq!((client, server), ([exponentials(0), full, full], client));
    assert_eq!(made(), vec![N as u64; counts.len()]);
}

#[test]
fn exponentials_cost_what_is_said_of_them() {
    let tiny = tiny(Arch::Gpt);
    let (in_store, on_wire) = exponential_bytes(&tiny.plan);
    // As many pairs of rows fill ciphertexts of every pool.
    fn party<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) -> u64 {
        let mut e = open(conn, tiny, dir, false).unwrap();
        let offline = |e: &mut Endpoint<P>| {
            let offline = e.connection().stats().offline;
            offline.bytes_sent - 5 * offline.messages_sent // every message is one frame here
        };
        let before = offline(&mut e);
        e.prepare(exponentials(N as u64), None, &mut |_, _, _| true).unwrap();
        assert_eq!(e.stock(), exponentials(N as u64));
        offline(&mut e) - before
    }
    let dir = tempfile::tempdir().unwrap();
    let (client, server) = pair(|c| party(c, tiny, dir.path()), |c| party(c, tiny, dir.path()));
    // Beside, a byte by which each party says that a batch is there.
    let batches = tiny.plan.prime_counts().len() as u64;
    assert_eq!((client + server - 2 * batches) as f64, N as f64 * on_wire);
    let stored = |primes: &usize| {
        let (_store, pool) = pool(dir.path(), *primes);
        pool.available() * pool.record_bytes() as u64
    };
    assert_eq!(tiny.plan.prime_counts().iter().map(stored).sum::<u64>(), (N * in_store) as u64);
}

#[test]
fn a_damaged_record_of_exponentials_names_its_file() {
    fn check<P: Party>(words: usize) {
        let file: Arc<Path> = Path::new("exponentials-2.records").into();
        let of = |words: &[u64]| {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let records = Deferred::Here(Wiped::new(bytes), file.clone());
            Exponentials::new(vec![Run { primes: 2, heads: vec![0], records }])
        };
        assert!(of(&vec![7; 2 * words]).take::<P>(2).is_ok());
        assert!(matches!(of(&vec![7; 2 * words + 1]).take::<P>(2).err(), Some(ProtocolError::Bug { .. })));
        for at in 0..2 * words {
            let mut damaged = vec![7; 2 * words];
            // p, the larger of the two primes: no number may be as large.
            damaged[at] = cryptogen_ring::P;
            let error = of(&damaged).take::<P>(2).err().expect("a number above its modulus");
            assert!(error.to_string().contains("exponentials-2.records"), "{error}");
        }
    }
    check::<Client>(5);
    check::<Server>(4);
}

#[test]
fn weights_of_the_server_are_the_masks_of_its_attention_material() {
    const ROWS: usize = 3;
    /// A row's factors of each layer, its weight masks and its shares of weighted values; the
    /// client's values, the server's masks of its own.
    type Rows = Vec<Vec<(Vec<HeadFactors>, Vec<Fp>, Vec<Fp>, Vec<Fp>)>>;
    fn party<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) -> Rows {
        let (plan, model) = (&tiny.plan, Some(&tiny.model).filter(|_| P::ROLE == Role::Server));
        let mut e = open(conn, tiny, dir, false).unwrap();
        let all = ROWS as u64;
        let want = Stock { linears: all, rows: all, logits: 0, exponentials: exponentials_needed(0, ROWS) };
        e.prepare(want, model, &mut |_, _, _| true).unwrap();
        e.extend(ROWS).unwrap();
        let m = &plan.model;
        let row = |row: &mut Row<P>| {
            let (t, material) = (row.position, &row.material);
            let layer = |(l, attention): (usize, &mut RowAttention)| {
                let factors = match t {
                    0 => vec![],
                    _ => attention.exponentials.take::<P>(t + 1).unwrap(),
                };
                let again = attention.exponentials.take::<P>(t + 1).err();
                assert!(matches!(again, Some(ProtocolError::Spent { what: "exponentials" })), "{again:?}");
                let site = Site::Qkv(l);
                let value = match P::ROLE {
                    Role::Client => {
                        let share = material.look(tiny.layout.linear(site), plan.linear(site).d_out).unwrap();
                        let shift = |i| plan.linear(site).out_shift(i);
                        let share: Vec<Fp> =
                            share.iter().enumerate().map(|(i, c)| trunc_client(*c, shift(i))).collect();
                        split_qkv::<P>(plan, l, t, &share).2
                    }
                    Role::Server => material.expand_mask(MaskLabel::Value, l, m.kv_dim()),
                };
                (factors, attention.weight_mask.to_vec(), attention.value.to_vec(), value)
            };
            row.attention.iter_mut().enumerate().map(layer).collect()
        };
        e.online().0.ready.iter_mut().map(row).collect()
    }
    for arch in BOTH {
        let (tiny, dir) = (tiny(arch), tempfile::tempdir().unwrap());
        let (m, plan) = (&tiny.plan.model, &tiny.plan);
        let (client, server) = pair(|c| party(c, tiny, dir.path()), |c| party(c, tiny, dir.path()));
        let at = |rows: &Rows, t: usize, l: usize| -> Vec<Fp> { rows[t][l].3.clone() };
        for (t, l) in (1..ROWS).flat_map(|t| (0..m.layers).map(move |l| (t, l))) {
            let ((mine, a, z_c, _), (theirs, e, z_s, _)) = (&client[t][l], &server[t][l]);
            assert_eq!((mine.len(), theirs.len(), e.len()), (m.heads, m.heads, m.heads * (t + 1)));
            for (g, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
                let (head, n) = (&plan.attention[l].heads[g], mine.primes);
                assert_eq!((n, theirs.primes), (head.primes, head.primes));
                let records = mine.words.chunks_exact(1 + 2 * n).zip(theirs.words.chunks_exact(n));
                assert_eq!((mine.words.len(), theirs.words.len()), ((t + 1) * (1 + 2 * n), (t + 1) * n));
                for (j, (mine, b)) in records.enumerate() {
                    let (factors, w_c) = mine[1..].split_at(n);
                    let share = |i: usize| subtract(i, multiply_add(i, 0, factors[i], b[i]), w_c[i]);
                    let w_s: Vec<u64> = (0..n).map(share).collect();
                    assert_eq!(
                        weight_server(&w_s, head.shift),
                        e[g * (t + 1) + j],
                        "{arch:?} {t} {l} {g} {j}"
                    );
                }
                let kv = g / m.queries_per_kv_head() * m.head_dim;
                for c in 0..m.head_dim {
                    let product = |j: usize| {
                        let [v, w] = [&client, &server].map(|rows| at(rows, j, l)[kv + c]);
                        a[g * (t + 1) + j] * w + e[g * (t + 1) + j] * v
                    };
                    let of_head = g * m.head_dim + c;
                    assert_eq!(z_c[of_head] + z_s[of_head], (0..=t).map(product).sum());
                }
            }
        }
    }
}

#[test]
fn material_cannot_be_used_twice() {
    use super::online::session;
    use super::steps::{run_step, Step};
    use super::{integers, rng};
    for arch in BOTH {
        let (tiny, session) = (tiny(arch), session(arch));
        let steps = [Step::Norm(Site::Qkv(0)), Step::Attention(0), Step::Activation(0), Step::Logits];
        for step in steps {
            let x = integers(&mut rng(4), 2 * step.width(tiny), step.bound(arch));
            let (mut client, mut server) = session.active(tiny, 0..2);
            client.logits_now.truncate(2);
            server.logits_now.truncate(2);
            let shares = || step.share(tiny, session, 0..2, &x);
            let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares());
            assert!(c.result.is_ok() && s.result.is_ok());
            let (_, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares());
            assert!(s.sent.is_empty() && s.result.is_err(), "{step:?}");
        }
    }
}
