//! Rows are dropped and others take their positions: logits equal the clear model's, which never
//! saw the dropped ones.

use std::path::Path;

use cryptogen_ring::Word;

use super::clear::Clear;
use super::endpoint::{bought, open};
use super::tiny::{tiny, Tiny, BOTH};
use crate::endpoint::{exponentials_needed, Endpoint, Stock};
use crate::error::{ProtocolError, Result};
use crate::online;
use crate::online::products::Side;
use crate::share::Cost;
use crate::testing::sessions::{client_pass, pair, server_pass, Logits};

/// A pass.
struct Step {
    /// rows that are given a position in front of the pass, for later passes too
    extend: usize,
    tokens: &'static [usize],
    /// the last rows, that get logits
    sampled: usize,
    /// rows of the session that stay after the pass
    keep: usize,
}

const fn step(extend: usize, tokens: &'static [usize], keep: usize) -> Step {
    Step { extend, tokens, sampled: tokens.len(), keep }
}

const fn silent(extend: usize, tokens: &'static [usize], keep: usize) -> Step {
    Step { sampled: 0, ..step(extend, tokens, keep) }
}

/// All rows kept, then half of a block, rows of two blocks, all but none, the whole session; rows
/// prepared ahead are dropped with them. Range events of rows that are dropped before a row was
/// sampled are not forgotten, those of the last pass are.
const STEPS: [Step; 7] = [
    step(3, &[3, 0, 19], 3),
    step(6, &[7, 11, 5, 2], 5),
    step(3, &[9, 4, 1], 7),
    step(4, &[8, 8], 9),
    silent(0, &[6], 4),
    step(2, &[10, 12], 0),
    silent(2, &[1, 2], 2),
];

/// Rows in the session before every step.
fn starts() -> [usize; STEPS.len()] {
    let mut starts = [0; STEPS.len()];
    for n in 1..STEPS.len() {
        starts[n] = STEPS[n - 1].keep;
    }
    starts
}

/// The log and the stock after the steps, logits of every pass (client), online bytes and messages.
type Left = (Vec<u64>, Stock, Vec<Logits>, [u64; 2]);

/// Runs the steps.
fn run<P: Side>(
    mut e: Endpoint<P>,
    pass: impl Fn(&mut Endpoint<P>, &Step) -> Result<Logits>,
) -> Result<Left> {
    let mut logits = vec![];
    for (step, first) in STEPS.iter().zip(starts()) {
        assert_eq!(e.state().length(), first);
        if step.extend > 0 {
            e.extend(step.extend)?;
        }
        e.take_logits(step.sampled)?;
        logits.push(pass(&mut e, step)?);
        let (length, ready) = (e.state().length(), e.state().ready_rows());
        let refused = e.crop(length + 1);
        assert!(matches!(refused, Err(ProtocolError::Caller { what: "rows to keep", .. })), "{refused:?}");
        assert_eq!((e.state().length(), e.state().ready_rows()), (length, ready));
        e.crop(step.keep)?;
        let dropped = step.keep < length;
        assert_eq!(
            (e.state().length(), e.state().ready_rows()),
            (step.keep, if dropped { 0 } else { ready })
        );
    }
    let online = e.connection().stats().online;
    let trace = e.insecure_trace();
    assert!(e.state().insecure_events().0.iter().all(|share| share.0 != 0), "a share, even of 0, is not 0");
    e.reset();
    assert_eq!(e.state().insecure_events(), (vec![], Word::default()));
    Ok((trace, e.stock(), logits, [online.bytes_sent, online.messages_sent]))
}

fn check(tiny: &Tiny, dir: &Path) {
    let mut positions = 0;
    let mut want = Stock { linears: 3, rows: 3, logits: 2, exponentials: 1 };
    for (step, first) in STEPS.iter().zip(starts()) {
        let ahead = positions - first.min(positions);
        want.linears += step.extend as u64;
        want.rows += step.extend as u64;
        want.logits += step.sampled as u64;
        want.exponentials += exponentials_needed(first + ahead, step.extend);
        let dropped = step.keep < first + step.tokens.len();
        positions = if dropped { step.keep } else { first + ahead + step.extend };
    }
    let layers = tiny.plan.model.layers;
    let (client, server) = pair(
        |conn| {
            let mut e = open(conn, tiny, dir, false)?;
            e.prepare(want, None, &mut |_, _, _| true)?;
            run(e, |e, step| client_pass(e, layers, step.tokens, step.sampled))
        },
        |conn| {
            let mut e = open(conn, tiny, dir, false)?;
            e.prepare(want, Some(&tiny.model), &mut |_, _, _| true)?;
            run(e, |e, step| {
                server_pass(e, tiny, step.tokens.len(), step.sampled).map(|()| Default::default())
            })
        },
    );
    let (client, server) = (client.expect("an honest session"), server.expect("an honest session"));
    let mut clear = Clear::new(tiny, client.0, server.0);
    for ((step, first), logits) in STEPS.iter().zip(starts()).zip(client.2) {
        assert_eq!(logits, clear.forward(step.tokens, first, step.sampled));
        clear.crop(step.keep);
    }
    clear.finish();
    // Every row took material and tables of its own: nothing of a dropped row served again.
    assert_eq!(client.1, server.1);
    let exponentials = bought(&tiny.plan, want.exponentials) + 1 - want.exponentials;
    assert_eq!(client.1, Stock { linears: 0, rows: 3, logits: 2, exponentials });
    let declared: Cost = STEPS
        .iter()
        .zip(starts())
        .map(|(s, first)| online::cost(&tiny.plan, first..first + s.tokens.len(), s.sampled))
        .sum();
    let [sent, received] = [client.3, server.3];
    assert_eq!(declared.messages as u64, sent[1] + received[1]);
    assert_eq!(
        (declared.client_bytes + declared.server_bytes) as u64 + 5 * (sent[1] + received[1]),
        sent[0] + received[0]
    );
}

#[test]
fn dropped_rows_leave_nothing_behind() {
    for arch in BOTH {
        let dir = tempfile::tempdir().unwrap();
        check(tiny(arch), dir.path());
    }
}
