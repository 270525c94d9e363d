//! Whole sessions over connections in memory: private logits equal the clear ones bit for bit, at
//! the declared cost.

use std::path::Path;

use cryptogen_mpc::session::Connection;
use cryptogen_mpc::store::{Binding, Store};
use cryptogen_party::{Client, Party};

use super::clear::Clear;
use super::tiny::{tiny, Arch, Tiny, BOTH};
use crate::endpoint::{exponentials_needed, Endpoint, Stock};
use crate::error::{ProtocolError, Result};
use crate::model::Site;
use crate::online;
use crate::online::products::Side;
use crate::testing::sessions::{client_pass_tried, pair, server_pass_tried, store, Logits, Tries};

/// A party's end over its store in `dir`.
pub fn open<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path, resync: bool) -> Result<Endpoint<P>> {
    Endpoint::open(conn, tiny.plan.clone(), store::<P>(dir)?, resync)
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
        let exponentials = exponentials_needed(&tiny.plan, 0, 5) + 3;
        let left = check_session(
            tiny,
            Stock { rows: 7, logits: 4, exponentials },
            &[(&[3, 0, 19], 1), (&[7], 1), (&[11], 1)],
        );
        assert_eq!(left, Stock { rows: 2, logits: 1, exponentials: 3 });
    }
}

#[test]
fn no_step_runs_twice() {
    // Row 0 alone, a row behind it, a prompt of which nobody samples a row, and one of which all
    // are sampled: refused steps send nothing, spend nothing and leave the results as they are.
    for arch in BOTH {
        let passes: &Passes = &[(&[3], 1), (&[7], 1), (&[11, 0], 0), (&[1, 2], 2)];
        let exponentials = exponentials_needed(&tiny(arch).plan, 0, 6);
        let want = Stock { rows: 8, logits: 4, exponentials };
        let left = check_session_tried(tiny(arch), want, passes, Tries::Twice);
        assert_eq!(left, Stock { rows: 2, logits: 0, exponentials: 0 });
        check_session_tried(tiny(arch), want, &[(&[3, 7], 1), (&[5], 0)], Tries::Twice);
    }
}

#[test]
fn events_of_rows_that_nobody_samples_go_to_the_next_that_is() {
    for arch in BOTH {
        let want = Stock { rows: 8, logits: 3, exponentials: 200 };
        check_session(tiny(arch), want, &[(&[3, 1], 0), (&[0], 0), (&[19, 4], 2), (&[7, 5], 1)]);
    }
}

#[test]
fn every_row_of_a_prompt_can_be_sampled() {
    let want = Stock { rows: 3, logits: 3, exponentials: 100 };
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
        e.prepare(Stock { rows: 0, logits: 0, exponentials: 2 }, None, &mut |_, _, _| true).unwrap();
        e
    }
    let (client, server) = pair(|c| party(c, tiny, dir.path()), |c| party(c, tiny, dir.path()));
    let stock = Stock { rows: 0, logits: 0, exponentials: 2 };
    assert_eq!((client.stock(), server.stock()), (stock, stock));
}

#[test]
fn stores_that_disagree_are_refused_or_moved_forward() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    fn fill<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) {
        let mut e = open(conn, tiny, dir, false).unwrap();
        e.prepare(Stock { rows: 0, logits: 0, exponentials: 5 }, None, &mut |_, _, _| true).unwrap();
    }
    pair(|c| fill(c, tiny, dir.path()), |c| fill(c, tiny, dir.path()));
    // The client crashes after taking two records.
    let binding =
        Binding { peer: "peer".into(), model: "tiny".into(), plan: "tiny".into(), role: Client::ROLE };
    let store = Store::open(&dir.path().join("Client"), &binding).unwrap();
    let bytes = crate::offline::prepare::exponential_record_bytes(&tiny.plan);
    store.pool("exponentials", bytes).unwrap().take(2).unwrap();
    drop(store);
    let (client, server) =
        pair(|c| open(c, tiny, dir.path(), false).err(), |c| open(c, tiny, dir.path(), false).err());
    assert!(matches!(client, Some(ProtocolError::Store(_))), "{client:?}");
    assert!(matches!(server, Some(ProtocolError::Store(_))), "{server:?}");
    let (client, server) = pair(
        |c| open(c, tiny, dir.path(), true).map(|e| e.stock()),
        |c| open(c, tiny, dir.path(), false).map(|e| e.stock()),
    );
    let stock = Stock { rows: 0, logits: 0, exponentials: 3 };
    assert_eq!((client.unwrap(), server.unwrap()), (stock, stock));
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
