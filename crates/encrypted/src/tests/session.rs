//! Whole sessions of the paper's protocols: private logits equal the clear ones bit for bit.

use std::path::Path;

use cryptogen_mpc::session::Connection;
use cryptogen_mpc::session::SessionError;
use cryptogen_party::Server;
use cryptogen_protocols::endpoint::{exponentials_needed, Endpoint, Stock};
use cryptogen_protocols::online::products::Side;
use cryptogen_protocols::share::Cost;
use cryptogen_protocols::{ProtocolError, Result};

use super::clear::Clear;
use super::sessions::{client_pass_tried, pair, server_pass_tried, store, Logits, Tries};
use super::tiny::{tiny, Arch, Tiny, BOTH};
use crate::{Handle, Variant};

/// A party's end over its store in `dir`.
fn open<P: Side>(
    conn: Connection<P>,
    tiny: &Tiny,
    dir: &Path,
    variant: Variant,
) -> Result<(Endpoint<P>, Handle<P>)>
where
    Box<P::Products>: From<Handle<P>>,
{
    variant.open(conn, tiny.plan.clone(), store::<P>(dir)?, false)
}

/// Passes over tokens; a session of its own each.
type Sessions = [&'static [&'static [usize]]];

/// What a party leaves of a session: logits of every pass (client) and its log.
type Left = Vec<(Vec<Logits>, Vec<u64>)>;

fn stock(sessions: &Sessions) -> Stock {
    let rows = |s: &&[&[usize]]| s.iter().map(|p| p.len()).sum::<usize>();
    let all = sessions.iter().map(rows).sum::<usize>() as u64;
    Stock {
        linears: all,
        rows: all,
        logits: sessions.iter().map(|s| s.len() as u64).sum(),
        exponentials: sessions.iter().map(|s| exponentials_needed(0, rows(s))).sum(),
    }
}

/// Runs sessions on one connection; the last row of every pass is sampled.
fn run<P: Side>(
    e: &mut Endpoint<P>,
    handle: &Handle<P>,
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
            declared.push(handle.state().cost(e.plan(), tokens.len(), 1));
            logits.push(pass(e, tokens)?);
        }
        left.push((logits, e.insecure_trace()));
    }
    let online = e.connection().stats().online;
    Ok((left, declared.into_iter().sum(), [online.bytes_sent, online.messages_sent]))
}

/// Prepares what the sessions need, runs them and compares with the clear model.
fn check(tiny: &Tiny, dir: &Path, variant: Variant, sessions: &Sessions, tries: Tries) {
    let (want, layers) = (stock(sessions), tiny.plan.model.layers);
    let (client, server) = pair(
        |conn| -> Result<_> {
            let (mut e, handle) = open(conn, tiny, dir, variant)?;
            e.prepare(want, None, &mut |_, _, _| true)?;
            // Records of exponentials fill whole ciphertexts.
            let exponentials = e.stock().exponentials - want.exponentials;
            let left =
                run(&mut e, &handle, sessions, |e, tokens| client_pass_tried(e, layers, tokens, 1, tries))?;
            assert_eq!(e.stock(), Stock { linears: 0, rows: 0, logits: 0, exponentials });
            Ok(left)
        },
        |conn| -> Result<_> {
            let (mut e, handle) = open(conn, tiny, dir, variant)?;
            e.prepare(want, Some(&tiny.model), &mut |_, _, _| true)?;
            let left = run(&mut e, &handle, sessions, |e, tokens| {
                server_pass_tried(e, tiny, tokens.len(), 1, tries).map(|()| Default::default())
            })?;
            let done = handle.state().counts();
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
        check(tiny(arch), dir.path(), Variant::EncryptedCache, sessions, Tries::Once);
        // A second connection uses the keys of the first.
        check(tiny(arch), dir.path(), Variant::EncryptedCache, &[&[&[4, 9]]], Tries::Once);
    }
}

#[test]
fn recomputed_logits_equal_the_clear_ones() {
    for arch in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let sessions: &Sessions = &[&[&[3, 0]], &[&[3, 0, 7]], &[&[3, 0, 7], &[1]]];
        check(tiny(arch), dir.path(), Variant::Recompute, sessions, Tries::Once);
    }
}

#[test]
fn no_step_runs_twice() {
    // Row 0 alone, a row behind it, and a prompt.
    for (arch, variant) in BOTH.into_iter().zip(Variant::ALL) {
        let dir = tempfile::tempdir().unwrap();
        check(tiny(arch), dir.path(), variant, &[&[&[3], &[7]], &[&[5, 1]]], Tries::Twice);
    }
}

#[test]
fn two_protocols_are_refused() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    let (client, server) = pair(
        |c| open(c, tiny, dir.path(), Variant::Recompute).err(),
        |c| {
            let store = store::<Server>(dir.path()).unwrap();
            Endpoint::open(c, tiny.plan.clone(), store, false).err()
        },
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
    for variant in Variant::ALL {
        assert_eq!(Variant::parse(variant.name()), Some(variant));
    }
    assert_eq!(Variant::parse("Recompute"), None);
}

#[test]
fn a_cache_of_ciphertexts_refuses_to_drop_rows() {
    let (tiny, dir) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap());
    fn party<P: Side>(conn: Connection<P>, tiny: &Tiny, dir: &Path) -> Option<ProtocolError>
    where
        Box<P::Products>: From<Handle<P>>,
    {
        let (mut e, _) = open(conn, tiny, dir, Variant::EncryptedCache).unwrap();
        e.crop(0).err()
    }
    let (client, server) = pair(|c| party(c, tiny, dir.path()), |c| party(c, tiny, dir.path()));
    for e in [client, server] {
        assert!(matches!(e, Some(ProtocolError::Caller { what: "protocol that drops rows", .. })), "{e:?}");
    }
}
