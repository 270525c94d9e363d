//! For fixed secrets, every online message is uniform over the choice of material: what a party
//! sends tells the peer nothing.

use std::collections::BTreeSet;

use cryptogen_party::Role;
use cryptogen_ring::exponential::PRIMES;

use super::dealer::{insecure_deal, insecure_deal_behind, Session};
use super::prefix::prefix;

use super::steps::{run_step, Step, STEPS};
use super::tiny::{tiny, Tiny, BOTH};
use super::{integers, rng};
use crate::model::{Scalar, Site, NET_BITS};

const RUNS: usize = 48;
const ROWS: usize = 2;

/// A piece of a message.
pub enum Part {
    Words(usize),
    /// numbers of 24 bits
    Triples(usize),
    /// rotations modulo `2^k`
    Rotations(usize, u32),
    /// numbers modulo each of the first primes of A9
    Residues(usize, usize),
}
use Part::{Residues, Rotations, Triples, Words};

fn ranges(s: &Scalar, n: usize) -> Vec<Part> {
    let all = [Some(&s.hi), s.lo.as_ref()];
    let ranges = all.into_iter().flatten().flat_map(|r| [Words(n), Rotations(n, r.k)]);
    ranges.chain([Rotations(n, NET_BITS)]).collect()
}

/// The messages of a step of rows 0 and 1, as in the headers of the protocols.
pub(super) fn format(tiny: &Tiny, step: Step) -> Vec<(Role, Vec<Part>)> {
    format_behind(tiny, step, 0)
}

/// The same of the two rows behind `first` others.
fn format_behind(tiny: &Tiny, step: Step, first: usize) -> Vec<(Role, Vec<Part>)> {
    let (plan, m) = (&tiny.plan, &tiny.plan.model);
    let (client, server) = (Role::Client, Role::Server);
    let values = |s: &Scalar, n: usize| {
        let coarse = if step == Step::Norm(Site::Head) { 0 } else { n };
        Words(coarse + if s.lo.is_some() { 2 * n } else { 0 })
    };
    let chain = |a: Vec<Part>, b: Vec<Part>, c: Vec<Part>| a.into_iter().chain(b).chain(c).collect();
    match step {
        Step::Norm(site) => {
            let s = &plan.norms[plan.norm_before(site).expect("a norm")].scalar;
            vec![
                (server, chain(vec![Words(2 * ROWS * m.d)], ranges(s, ROWS), vec![])),
                (client, chain(ranges(s, ROWS), vec![values(s, ROWS)], vec![])),
                (server, vec![values(s, ROWS), Words(ROWS)]),
                (client, vec![Words(ROWS * (m.d + 1))]),
            ]
        }
        Step::Attention(l) => {
            // of rows 0 and 1 only row 1 runs the softmax, over two rows
            let s = &plan.attention[l].heads[0].scalar;
            let softmax = || (first..first + ROWS).filter(|t| *t > 0);
            let (rows, cached) = (softmax().count(), softmax().map(|t| t + 1).sum::<usize>());
            let (n, e) = (rows * m.heads, cached * m.heads);
            let heads = || plan.attention[l].heads.iter();
            let factors = softmax().flat_map(|t| heads().map(move |head| Residues(t + 1, head.primes)));
            let factors = factors.collect();
            vec![
                (server, vec![Words(ROWS * (m.q_dim() + 2 * m.kv_dim()))]),
                (client, vec![Words(e)]),
                (server, chain(factors, ranges(s, n), vec![])),
                (client, chain(vec![Words(e)], ranges(s, n), vec![values(s, n), Words(rows * m.q_dim())])),
                (server, vec![values(s, n), Words(n + rows * m.q_dim())]),
                (client, vec![Words(n + ROWS * m.q_dim())]),
            ]
        }
        Step::Activation(l) => {
            let n = ROWS * m.ff;
            let from_server = if m.gated { 4 } else { 3 };
            vec![
                (server, vec![Rotations(n, plan.activations[l].k), Words(from_server * n)]),
                (client, vec![Words(2 * n)]),
            ]
        }
        Step::Logits => vec![(server, vec![Triples(ROWS * m.vocab), Words(ROWS)])],
    }
}

/// Pearson's statistic against the uniform distribution exceeds its mean by less than five standard
/// deviations.
pub fn check_uniform(counts: &[usize], what: &str) {
    let (n, bins) = (counts.iter().sum::<usize>() as f64, counts.len() as f64);
    if n < 5.0 * bins {
        return; // too few for the statistic to mean anything; repeats are tested all the same
    }
    let expected = n / bins;
    let chi2: f64 = counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
    let deviation = (chi2 - (bins - 1.0)) / (2.0 * (bins - 1.0)).sqrt();
    assert!(deviation < 5.0, "{what}: {deviation:.1} standard deviations from uniform over {n} samples");
}

#[test]
fn online_messages_are_uniform() {
    for arch in BOTH {
        let tiny = tiny(arch);
        let sessions = insecure_deal(tiny, RUNS, ROWS, ROWS, 60);
        for step in STEPS {
            let format = format(tiny, step);
            let x = integers(&mut rng(6), ROWS * step.width(tiny), step.bound(arch));
            let norm = Step::Norm(Site::Head);
            let h = integers(&mut rng(7), ROWS * norm.width(tiny), norm.bound(arch));
            let runs: Vec<[Vec<Vec<u8>>; 2]> = sessions
                .iter()
                .map(|session| {
                    let (mut client, mut server) = session.active(tiny, 0..ROWS);
                    if step == Step::Logits {
                        // Range events come from look-ups: here from those of the final norm.
                        let shares = norm.share(tiny, session, 0..ROWS, &h);
                        let (c, s) = run_step(tiny, norm, [None, None], (&mut client, &mut server), shares);
                        assert!(c.result.is_ok() && s.result.is_ok());
                    }
                    let shares = step.share(tiny, session, 0..ROWS, &x);
                    let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
                    assert!(c.result.is_ok() && s.result.is_ok());
                    [c.sent, s.sent]
                })
                .collect();
            let mut sent = [0, 0];
            for (role, parts) in format {
                let number = sent[role.index()];
                sent[role.index()] += 1;
                let messages: Vec<&[u8]> = runs.iter().map(|r| r[role.index()][number].as_slice()).collect();
                check_message(&messages, &parts, &format!("{arch:?} {step:?} message {number} of {role:?}"));
            }
        }
    }
}

/// Attention to a prefix, whose numbers are as fixed as all other secrets. Rows of the server's
/// alone enter no other step.
#[test]
fn messages_behind_a_prefix_are_uniform() {
    const PREFIX: usize = 3;
    for arch in BOTH {
        let tiny = tiny(arch);
        let prefix = prefix(tiny, PREFIX, 8);
        let step = Step::Attention(1);
        let x = integers(&mut rng(6), ROWS * step.width(tiny), step.bound(arch));
        let run = |session: &Session| {
            let (mut client, mut server) = session.behind(tiny, &prefix);
            client.active = client.ready.drain(..).collect();
            server.active = server.ready.drain(..).collect();
            let shares = step.share(tiny, session, 0..ROWS, &x);
            let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
            assert!(c.result.is_ok() && s.result.is_ok());
            [c.sent, s.sent]
        };
        let sessions = insecure_deal_behind(&prefix, tiny, RUNS, ROWS, 0, 62);
        let runs: Vec<[Vec<Vec<u8>>; 2]> = sessions.iter().map(run).collect();
        let mut sent = [0, 0];
        for (role, parts) in format_behind(tiny, step, PREFIX) {
            let number = sent[role.index()];
            sent[role.index()] += 1;
            let messages: Vec<&[u8]> = runs.iter().map(|r| r[role.index()][number].as_slice()).collect();
            check_message(&messages, &parts, &format!("{arch:?} message {number} of {role:?}"));
        }
    }
}

/// The same message of many runs: no word comes twice at its place, bytes of words and rotations
/// are uniform.
pub fn check_message(messages: &[&[u8]], parts: &[Part], what: &str) {
    let (mut at, mut bytes) = (0, vec![0usize; 256]);
    for part in parts {
        match *part {
            Words(n) => {
                for word in 0..n {
                    let mut seen: Vec<&[u8]> = messages.iter().map(|m| &m[at + 8 * word..][..8]).collect();
                    seen.iter().flat_map(|w| w.iter()).for_each(|b| bytes[usize::from(*b)] += 1);
                    seen.sort_unstable();
                    seen.dedup();
                    assert_eq!(seen.len(), messages.len(), "{what}: word {word} at byte {at} is not fresh");
                }
                at += 8 * n;
            }
            Residues(numbers, primes) => {
                for (i, prime) in PRIMES[..primes].iter().enumerate() {
                    let mut counts = vec![0usize; 16];
                    for word in (i..numbers * primes).step_by(primes) {
                        let mut seen = BTreeSet::new();
                        for message in messages {
                            let bytes = message[at + 8 * word..][..8].try_into().expect("8 bytes");
                            let x = u64::from_le_bytes(bytes);
                            assert!(x < *prime, "{what}: residue {word} is not reduced");
                            counts[(u128::from(x) * 16 / u128::from(*prime)) as usize] += 1;
                            seen.insert(x);
                        }
                        assert_eq!(seen.len(), messages.len(), "{what}: residue {word} is not fresh");
                    }
                    check_uniform(&counts, &format!("{what}, residues modulo {prime}"));
                }
                at += 8 * numbers * primes;
            }
            // Too short for all of them to differ.
            Triples(n) => {
                let bytes_of = |m: &&[u8]| m[at..at + 3 * n].to_vec();
                messages.iter().flat_map(bytes_of).for_each(|b| bytes[usize::from(b)] += 1);
                at += 3 * n;
            }
            Rotations(n, k) => {
                let mut counts = vec![0usize; 1 << k];
                for message in messages {
                    for r in message[at..at + 2 * n].chunks(2) {
                        counts[usize::from(u16::from_le_bytes([r[0], r[1]]))] += 1;
                    }
                }
                check_uniform(&counts, &format!("{what}, rotations"));
                at += 2 * n;
            }
        }
    }
    assert!(messages.iter().all(|m| m.len() == at), "{what}: {at} bytes described");
    check_uniform(&bytes, &format!("{what}, words"));
}

#[test]
fn the_test_of_uniformity_has_power() {
    // A constant in place of one word, and a biased byte, are found.
    let constant: Vec<Vec<u8>> = (0..RUNS).map(|i| [7, i as u64].map(u64::to_le_bytes).concat()).collect();
    let messages: Vec<&[u8]> = constant.iter().map(Vec::as_slice).collect();
    assert!(std::panic::catch_unwind(|| check_message(&messages, &[Words(2)], "constant")).is_err());
    let mut biased = vec![100usize; 256];
    biased[3] = 300;
    assert!(std::panic::catch_unwind(|| check_uniform(&biased, "biased")).is_err());
}
