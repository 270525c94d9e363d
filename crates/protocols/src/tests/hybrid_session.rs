//! Whole sessions of the paper's protocols: private logits equal the clear ones bit for bit.

use std::path::Path;

use cryptogen_mpc::session::SessionError;
use cryptogen_party::Party;

use super::clear::Clear;
use super::endpoint::{client_pass, open_as, pair, server_pass, Logits};
use super::tiny::{tiny, Arch, Tiny, BOTH};
use crate::endpoint::{exponentials_needed, Endpoint, Stock};
use crate::error::{ProtocolError, Result};
use crate::hybrid::Protocol;
use crate::share::Cost;

/// Passes over tokens; a session of its own each.
type Sessions = [&'static [&'static [usize]]];

/// What a party leaves of a session: logits of every pass (client) and its log.
type Left = Vec<(Vec<Logits>, Vec<u64>)>;

fn stock(tiny: &Tiny, sessions: &Sessions) -> Stock {
    let rows = |s: &&[&[usize]]| s.iter().map(|p| p.len()).sum::<usize>();
    Stock {
        rows: sessions.iter().map(rows).sum::<usize>() as u64,
        logits: sessions.iter().map(|s| s.len() as u64).sum(),
        exponentials: sessions.iter().map(|s| exponentials_needed(&tiny.plan, 0, rows(s))).sum(),
    }
}

/// Runs sessions on one connection; the last row of every pass is sampled.
fn run<P: Party>(
    e: &mut Endpoint<P>,
    sessions: &Sessions,
    pass: impl Fn(&mut Endpoint<P>, &[usize]) -> Result<Logits>,
) -> Result<(Left, Cost, [u64; 2])> {
    let (mut left, mut declared) = (vec![], vec![]);
    for passes in sessions {
        e.reset();
        let mut logits = vec![];
        for tokens in *passes {
            e.extend(tokens.len())?;
            e.take_logits(1)?;
            let plan = e.state().plan.clone();
            declared.extend(e.online().0.hybrid.as_mut().map(|h| h.cost(&plan, tokens.len(), 1)));
            logits.push(pass(e, tokens)?);
        }
        left.push((logits, e.insecure_trace()));
    }
    let online = e.connection().stats().online;
    Ok((left, declared.into_iter().sum(), [online.bytes_sent, online.messages_sent]))
}

/// Prepares what the sessions need, runs them and compares with the clear model.
fn check(tiny: &Tiny, dir: &Path, protocol: Protocol, sessions: &Sessions) {
    let (want, layers) = (stock(tiny, sessions), tiny.plan.model.layers);
    let (client, server) = pair(
        |conn| -> Result<_> {
            let mut e = open_as(conn, tiny, dir, false, protocol)?;
            e.receive_model(&dir.join("encrypted"), &mut |_, _, _| true)?;
            e.prepare(want, &mut |_, _, _| true)?;
            let left = run(&mut e, sessions, |e, tokens| client_pass(e, layers, tokens, 1))?;
            assert_eq!(e.stock(), Stock { rows: 0, logits: 0, exponentials: 0 });
            Ok(left)
        },
        |conn| -> Result<_> {
            let mut e = open_as(conn, tiny, dir, false, protocol)?;
            e.send_model(&tiny.model, &mut |_, _, _| true)?;
            e.prepare(want, &mut |_, _, _| true)?;
            let left = run(&mut e, sessions, |e, tokens| {
                server_pass(e, tiny, tokens.len(), 1).map(|()| Default::default())
            })?;
            let done = e.state().hybrid().expect("a hybrid protocol").counts();
            assert!(done.operations.ct_pt > 0 && done.operations.ct_ct > 0 && done.encrypted > 0);
            Ok(left)
        },
    );
    let (client, server) = (client.expect("an honest session"), server.expect("an honest session"));
    let ((client, declared, sent), (server, _, received)) = (client, server);
    // every message is one frame here, of five bytes more
    assert_eq!(declared.messages as u64, sent[1] + received[1]);
    assert_eq!(declared.client_bytes as u64 + 5 * sent[1], sent[0]);
    assert_eq!(declared.server_bytes as u64 + 5 * received[1], received[0]);
    for ((passes, c), s) in sessions.iter().zip(client).zip(server) {
        let mut clear = Clear::new(tiny, c.1, s.1);
        let mut first = 0;
        for (tokens, logits) in passes.iter().zip(c.0) {
            assert_eq!(logits, clear.forward(tokens, first, 1));
            first += tokens.len();
        }
        clear.finish();
    }
}

#[test]
fn encrypted_cache_logits_equal_the_clear_ones() {
    for arch in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let sessions: &Sessions = &[&[&[3, 0, 19], &[7], &[11, 2]], &[&[5], &[1]]];
        check(tiny(arch), dir.path(), Protocol::EncryptedCache, sessions);
        // A second connection uses the keys of the first.
        check(tiny(arch), dir.path(), Protocol::EncryptedCache, &[&[&[4, 9]]]);
    }
}

#[test]
fn recomputed_logits_equal_the_clear_ones() {
    for arch in BOTH {
        let dir = tempfile::tempdir().unwrap();
        check(tiny(arch), dir.path(), Protocol::Recompute, &[&[&[3, 0]], &[&[3, 0, 7]], &[&[3, 0, 7], &[1]]]);
    }
}

#[test]
fn two_protocols_are_refused() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    let (client, server) = pair(
        |c| open_as(c, tiny, dir.path(), false, Protocol::Recompute).err(),
        |c| open_as(c, tiny, dir.path(), false, Protocol::Preprocessed).err(),
    );
    let got = |e: Option<ProtocolError>| match e {
        Some(ProtocolError::Session(SessionError::Mismatch { field, expected, actual })) => {
            (field, expected, actual)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(got(client), ("protocol", "recompute".into(), "preprocessed".into()));
    assert_eq!(got(server), ("protocol", "preprocessed".into(), "recompute".into()));
}

#[test]
fn protocols_have_names() {
    for p in Protocol::ALL {
        assert_eq!(Protocol::parse(p.name()), Some(p));
    }
    assert_eq!(Protocol::parse("Recompute"), None);
}
