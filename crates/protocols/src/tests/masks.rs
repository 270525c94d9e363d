//! What a party can compute from what it is sent and from its own shares says nothing of the
//! secrets, and every single mask is needed for that: without it the test fails.

use cryptogen_party::{Client, Role, Server};
use cryptogen_ring::Fp;

use super::channel::run;
use super::dealer::{insecure_deal_without, Session};
use super::steps::{run_step, Out, Step, STEPS};
use super::tiny::{tiny, Arch, Tiny, BOTH};
use super::uniform::{format, Part};
use super::{integers, rng};
use crate::material::MaskLabel::{self, *};
use crate::model::Site;

/// Sessions of the same secrets.
const RUNS: usize = 3;
const ROWS: usize = 2;
/// Numbers are the same up to this. Truncations are off by a unit, which the slopes of look-ups
/// make up to `2^23` of a scalar; the masks that vary least, truncated ones, go up to `2^46`.
const NEAR: u64 = 1 << 26;

const LABELS: [MaskLabel; 21] = [
    Embed,
    Remask,
    NormScalar,
    NormSquare,
    NormInput,
    NormScale,
    Query,
    Key,
    Value,
    AttentionOut,
    AttentionScale,
    Gate,
    Up,
    UpPayload,
    NormHi,
    NormLo,
    NormNet,
    SigmaHi,
    SigmaLo,
    SigmaNet,
    Activation,
];

/// What is masked: embedding, or a step.
type Masked = Option<Step>;

/// Whether client and server are sent something in this step that a mask of that label hides.
fn hides(what: MaskLabel, tiny: &Tiny, step: Masked) -> [bool; 2] {
    let (plan, client, server) = (&tiny.plan, [true, false], [false, true]);
    let (step, two_ranges) = match step {
        None => return if matches!(what, Embed) { server } else { [false; 2] },
        Some(Step::Norm(site)) => {
            let norm = plan.norm_before(site).expect("a norm");
            (Step::Norm(site), plan.norms[norm].scalar.lo.is_some())
        }
        Some(Step::Attention(l)) => (Step::Attention(l), plan.attention[l].heads[0].scalar.lo.is_some()),
        Some(step) => (step, false),
    };
    match (what, step) {
        (Remask, _) => server,
        (NormScalar, Step::Norm(_)) => server,
        (NormSquare | NormInput | NormScale, Step::Norm(_)) => client,
        (NormHi, Step::Norm(_)) | (SigmaHi | SigmaNet, Step::Attention(_)) => [true; 2],
        (NormNet, Step::Norm(site)) => [site != Site::Head; 2],
        (NormLo, Step::Norm(_)) | (SigmaLo, Step::Attention(_)) => [two_ranges; 2],
        (Query | Key | Value, Step::Attention(_)) => client,
        (AttentionOut | AttentionScale, Step::Attention(_)) => [true; 2],
        (Up, Step::Activation(_)) => client,
        (Gate | UpPayload, Step::Activation(_)) => [plan.model.gated, false],
        (Activation, Step::Activation(_)) => [plan.model.gated; 2],
        _ => [false; 2],
    }
}

/// One party's numbers in one run.
#[derive(Default)]
struct View {
    /// words that it was sent, and what it has at the end
    got: Vec<u64>,
    /// its shares, in the order in which it computes them
    own: Vec<u64>,
}

fn values(x: &[Fp]) -> Vec<u64> {
    x.iter().map(|x| x.value()).collect()
}

/// The words of the messages of one party, without rotations.
fn words(sent: &[Vec<u8>], parts: impl Iterator<Item = Vec<Part>>) -> Vec<u64> {
    let mut words = vec![];
    let parts: Vec<Vec<Part>> = parts.collect();
    assert_eq!(parts.len(), sent.len());
    for (message, parts) in sent.iter().zip(parts) {
        let mut message = &message[..];
        for part in parts {
            let (n, width) = match part {
                Part::Words(n) => (n, 8),
                Part::Residues(n, primes) => (n * primes, 8),
                Part::Triples(n) => (n, 3),
                Part::Rotations(n, _) => (n, 2),
            };
            let (these, rest) = message.split_at(width * n);
            message = rest;
            if width == 8 {
                words.extend(these.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())));
            }
        }
        assert!(message.is_empty());
    }
    words
}

/// Both parties' views of a step.
fn views(arch: Arch, tiny: &Tiny, session: &Session, step: Masked) -> [View; 2] {
    let Some(step) = step else {
        let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
        let tokens = [3, 1];
        let (c, s) =
            run(|ch| client.embed(ch, &tokens, 1), |ch| server.embed(ch, &tiny.model, tokens.len(), 1));
        let parts = [vec![Part::Words(ROWS * tiny.plan.model.vocab)]];
        assert!(c.result.is_ok());
        let got = words(&c.sent, parts.into_iter());
        return [View::default(), View { got, own: values(&s.result.unwrap().data) }];
    };
    let x = integers(&mut rng(6), ROWS * step.width(tiny), step.bound(arch));
    let (mut client, mut server) = session.active(tiny, 0..ROWS);
    let shares = step.share(tiny, session, 0..ROWS, &x);
    let own = [values(&shares.0.data), values(&shares.1.data)];
    let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
    let of = |role| format(tiny, step).into_iter().filter(move |(r, _)| *r == role).map(|(_, parts)| parts);
    let (Ok(Out::Tensor(client_has)), Ok(Some(server_has))) = (c.result, s.result) else {
        panic!("{step:?}")
    };
    let sent = [words(&c.sent, of(Role::Client)), words(&s.sent, of(Role::Server))];
    let got = [sent[1].clone(), sent[0].clone()];
    let ends = [values(&client_has.data), values(&server_has.data)];
    let traces = [client.trace.insecure_take(), server.trace.insecure_take()];
    let mut views = [View::default(), View::default()];
    for (view, ((((got, sent), end), own), trace)) in
        views.iter_mut().zip(got.into_iter().zip(sent).zip(ends).zip(own).zip(traces))
    {
        // What it sent is a share, too, where nothing masked it.
        *view = View { got: [got, end].concat(), own: [own, trace, sent].concat() };
    }
    views
}

/// Whether a number is the same in all runs but for a little, modulo p or `2^64`.
fn same(of: impl Fn(usize) -> (Fp, u64)) -> bool {
    let first = of(0);
    let near = |x: u64| x.min(x.wrapping_neg()) < NEAR;
    let near_fp = |x: Fp| x.value().min((-x).value()) < NEAR;
    (1..RUNS).all(|run| near_fp(of(run).0 - first.0))
        || (1..RUNS).all(|run| near(of(run).1.wrapping_sub(first.1)))
}

/// What a party can compute that depends on the secrets and not on the material: a number that it
/// got, or the sum of one and of a share of its own.
fn told(runs: &[View]) -> Option<String> {
    for i in 0..runs[0].got.len() {
        if same(|run| (Fp::new(runs[run].got[i]), runs[run].got[i])) {
            return Some(format!("number {i}"));
        }
        for j in 0..runs[0].own.len() {
            let pair = |run: usize| (runs[run].got[i], runs[run].own[j]);
            let sum = |(a, b): (u64, u64)| (Fp::new(a) + Fp::new(b), a.wrapping_add(b));
            if same(|run| sum(pair(run))) {
                return Some(format!("number {i} and share {j}"));
            }
        }
    }
    None
}

#[test]
fn a_party_is_told_nothing_and_every_mask_is_needed() {
    assert!(LABELS.iter().enumerate().all(|(i, label)| *label as usize == i));
    let steps: Vec<Masked> =
        STEPS.into_iter().filter(|step| *step != Step::Logits).map(Some).chain([None]).collect();
    let mut needed = [false; LABELS.len()];
    for arch in BOTH {
        let tiny = tiny(arch);
        for removed in LABELS.into_iter().map(Some).chain([None]) {
            let sessions = insecure_deal_without(removed, tiny, RUNS, ROWS, ROWS, 61);
            for step in &steps {
                let runs = sessions.iter().map(|session| views(arch, tiny, session, *step));
                let (clients, servers): (Vec<View>, Vec<View>) = runs.map(|[c, s]| (c, s)).unzip();
                let told = [told(&clients), told(&servers)];
                let hidden = removed.map_or([false; 2], |what| hides(what, tiny, *step));
                assert_eq!(
                    [told[0].is_some(), told[1].is_some()],
                    hidden,
                    "{arch:?}, without {removed:?}, {step:?}: client and server are told {told:?}"
                );
                if let Some(what) = removed {
                    needed[what as usize] |= hidden != [false; 2];
                }
            }
        }
    }
    assert_eq!(needed, [true; LABELS.len()], "a label hides nothing in these steps");
}
