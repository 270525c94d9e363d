//! Attention over the encrypted cache: kernels simulated on clear slots, the two parties against
//! the clear function, costs, refreshes, files.

mod cache;
mod simulated;

use std::collections::BTreeSet;

use cryptogen_he::evaluate::{Context, EvaluationKeys, Operations, SecretKey};
use cryptogen_party::{Client, Party, Server};
use cryptogen_protocols::model::ModelShape;
use cryptogen_protocols::share::qkv::NewRows;
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::{Fp, Prg, Seed};

use super::channel::{measured, run_spoiled, Fault, Ran};
use super::tiny::{tiny, Arch};
use super::{elements, rng};
use crate::attention::{client, cost, server};
use crate::cache::CacheShape;
use crate::layout::{CacheLayout, QueryShape};
use crate::planner::LinearPlan;
use crate::{Keys, State};

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> ModelShape {
    ModelShape { heads, kv_heads, head_dim, context: 1024, ..tiny(Arch::Gpt).plan.model.clone() }
}

fn new_rows(m: &ModelShape, rows: usize, rng: &mut Prg) -> NewRows {
    let mut matrix = |n: usize| (0..rows).map(|_| elements(rng, n)).collect::<Vec<_>>();
    NewRows { queries: matrix(m.q_dim()), keys: matrix(m.kv_dim()), values: matrix(m.kv_dim()) }
}

fn sum(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

fn sums(a: &[Vec<Fp>], b: &[Vec<Fp>]) -> Vec<Vec<Fp>> {
    a.iter().zip(b).map(|(a, b)| sum(a, b)).collect()
}

/// Clear keys and values, and what the functionality gives for new rows.
#[derive(Default)]
struct Clear {
    keys: Vec<Vec<Fp>>,
    values: Vec<Vec<Fp>>,
}

impl Clear {
    fn append(&mut self, keys: &[Vec<Fp>], values: &[Vec<Fp>]) {
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
    }

    /// (head, query row's position, its number) of the last rows that run the softmax.
    fn pairs(&self, m: &ModelShape, rows: usize) -> Vec<(usize, usize, usize)> {
        let first = self.keys.len() - rows;
        let rows = (0..rows).filter(|i| first + i > 0);
        rows.flat_map(|i| (0..m.heads).map(move |g| (g, first + i, i))).collect()
    }

    fn scores(&self, m: &ModelShape, queries: &[Vec<Fp>]) -> Vec<Fp> {
        let d = m.head_dim;
        let dot = |q: &[Fp], k: &[Fp]| q.iter().zip(k).map(|(q, k)| *q * *k).sum::<Fp>();
        let one = |(g, t, i): (usize, usize, usize)| {
            let q = &queries[i][g * d..(g + 1) * d];
            (0..=t).map(|j| dot(q, &self.keys[j][g / m.queries_per_kv_head() * d..][..d])).collect::<Vec<_>>()
        };
        self.pairs(m, queries.len()).into_iter().flat_map(one).collect()
    }

    fn sums(&self, m: &ModelShape, rows: usize, weights: &[Fp]) -> Vec<Fp> {
        let (d, mut at, mut out) = (m.head_dim, 0, vec![]);
        for (g, t, _) in self.pairs(m, rows) {
            let w = &weights[at..=at + t];
            at += t + 1;
            let value = |j: usize, e: usize| self.values[j][g / m.queries_per_kv_head() * d + e];
            out.extend((0..d).map(|e| (0..=t).map(|j| w[j] * value(j, e)).sum::<Fp>()));
        }
        out
    }
}

/// Keys for `steps`, the client's and the server's.
fn keys(steps: &BTreeSet<usize>) -> (SecretKey, EvaluationKeys) {
    let mut rng = rng(75);
    let secret = SecretKey::generate(Context::get(), &mut rng);
    let keys = secret.evaluation_keys(steps, &mut rng);
    (secret, keys)
}

/// Both parties' states over one key and cache shape.
fn parties(m: &ModelShape, shape: &CacheShape) -> (State<Client>, State<Server>) {
    let (secret, keys) = keys(&shape.layout().steps());
    fn one<P: Party>(m: &ModelShape, keys: Keys, shape: &CacheShape) -> State<P> {
        let seed = Seed::from_bytes([80 + P::ROLE.index() as u8; 32]);
        State::insecure_new(keys, LinearPlan::new(m).unwrap(), shape.clone(), seed)
    }
    (one(m, Keys::Client(secret), shape), one(m, Keys::Server(keys), shape))
}

type Shares = (Vec<Fp>, Vec<Fp>);

/// One layer's pass of both parties; weights are drawn by each party from `seed`.
fn pass(
    (c, s): (&mut State<Client>, &mut State<Server>),
    (new_c, new_s): (&NewRows, &NewRows),
    seed: u8,
    faults: [Option<(usize, Fault)>; 2],
) -> (Ran<Result<Shares>>, Ran<Result<Shares>>) {
    let weights = |n: usize, party: u8| elements(&mut rng(seed ^ party), n);
    run_spoiled(
        faults,
        |ch| {
            let scores = client::scores(c, ch, 0, new_c)?;
            Ok((client::values(c, ch, 0, new_c.keys.len(), &weights(scores.len(), 1))?, scores))
        },
        |ch| {
            let scores = server::scores(s, ch, 0, new_s)?;
            Ok((server::values(s, ch, 0, new_s.keys.len(), &weights(scores.len(), 2))?, scores))
        },
    )
}

/// Passes of both parties over one cache, each against the clear function and the declared cost.
fn check_passes(m: &ModelShape, shape: CacheShape, passes: &[usize]) -> (State<Client>, State<Server>) {
    let (mut c, mut s) = parties(m, &shape);
    let (mut clear, mut rng) = (Clear::default(), rng(81));
    for (i, &rows) in passes.iter().enumerate() {
        let first = clear.keys.len();
        let declared = cost::cost(c.cache_shape(), 0, rows);
        let work = cost::work(*shape.layout(), first, rows);
        let before = s.counts().operations;
        let (new_c, new_s) = (new_rows(m, rows, &mut rng), new_rows(m, rows, &mut rng));
        let (ran_c, ran_s) = pass((&mut c, &mut s), (&new_c, &new_s), i as u8, [None, None]);
        assert_eq!(measured(&ran_c, &ran_s), declared);
        let ((o_c, s_c), (o_s, s_s)) = (ran_c.result.unwrap(), ran_s.result.unwrap());
        clear.append(&sums(&new_c.keys, &new_s.keys), &sums(&new_c.values, &new_s.values));
        let weights = |party: u8| elements(&mut super::rng(i as u8 ^ party), s_c.len());
        let what = format!("{m:?} T = {} pass {i} of {rows} rows", shape.layout().tokens());
        assert!(sum(&s_c, &s_s) == clear.scores(m, &sums(&new_c.queries, &new_s.queries)), "scores: {what}");
        assert!(sum(&o_c, &o_s) == clear.sums(m, rows, &sum(&weights(1), &weights(2))), "values: {what}");
        let Operations { ct_ct, rotations, hoisted_rotations, relinearisations, masked, .. } =
            s.counts().operations;
        assert_eq!(ct_ct - before.ct_ct, work.products as u64);
        assert_eq!(relinearisations - before.relinearisations, work.relinearisations as u64);
        let rotated = rotations + hoisted_rotations - before.rotations - before.hoisted_rotations;
        assert_eq!(rotated, work.rotations as u64);
        let refreshed =
            (declared.messages > work.messages) as u64 * (masked - before.masked - work.outputs as u64);
        assert_eq!(masked - before.masked, work.outputs as u64 + refreshed);
        assert_eq!(c.cache_shape(), s.cache_shape(), "the public part is the same");
    }
    (c, s)
}

fn lazy(m: &ModelShape, tokens: usize) -> CacheShape {
    CacheShape::new(CacheLayout::new(m, tokens).unwrap(), m.layers, 0).unwrap()
}

#[test]
fn both_parties_equal_the_clear_function() {
    // Row 0 alone, a prompt, single rows, full and begun blocks; grouped heads; features in several
    // ciphertexts.
    let mut kernels = vec![];
    for (m, tokens, passes) in [
        (shape(2, 2, 4), 4, vec![1, 1, 8, 1]),
        (shape(6, 3, 6), 8, vec![19, 1, 2]),
        (shape(2, 1, 2048), 4, vec![2, 5]),
    ] {
        let mut first = 0;
        for rows in &passes {
            let parts = cost::schedules(CacheLayout::new(&m, tokens).unwrap(), first, *rows);
            kernels.push(parts.iter().map(|s| s.shape).collect::<Vec<_>>());
            first += rows;
        }
        let (c, s) = check_passes(&m, lazy(&m, tokens), &passes);
        assert_eq!(c.counts().encrypted, s.counts().encrypted);
        assert_eq!(s.cache_shape().refreshes().0, 0, "nothing was near the limit");
    }
    for some in [&[QueryShape::Row][..], &[QueryShape::Block], &[QueryShape::Block, QueryShape::Row]] {
        assert!(kernels.iter().any(|k| k == some), "{some:?} is among {kernels:?}");
    }
}

#[test]
fn spoiled_messages_are_errors() {
    let m = shape(2, 1, 4);
    let shape = lazy(&m, 4);
    let new = [new_rows(&m, 2, &mut rng(90)), new_rows(&m, 2, &mut rng(91))];
    let run = |faults| {
        let (mut c, mut s) = parties(&m, &shape);
        pass((&mut c, &mut s), (&new[0], &new[1]), 3, faults)
    };
    let (c, s) = run([None, None]);
    assert!(c.result.is_ok() && s.result.is_ok());
    for (by, messages) in [c.sent.len(), s.sent.len()].into_iter().enumerate() {
        for at in 0..messages {
            for fault in [Fault::Truncate, Fault::Ones, Fault::Random, Fault::Hangup] {
                let mut faults = [None, None];
                faults[by] = Some((at, fault));
                let (c, s) = run(faults);
                let error = if by == 0 { s.result.err() } else { c.result.err() };
                // Random residues are refused; after that, or if they happen to be small enough,
                // nothing worse than an error.
                let what = format!("{fault:?} of message {at} by {by}: {error:?}");
                match fault {
                    Fault::Ones => assert!(matches!(error, Some(ProtocolError::He(_))), "{what}"),
                    Fault::Random => {}
                    _ => assert!(matches!(error, Some(ProtocolError::Channel(_))), "{what}"),
                }
            }
        }
    }
}

#[test]
fn missing_rotations_are_an_error() {
    let m = shape(2, 2, 4);
    let shape = lazy(&m, 4);
    let (secret, keys) = keys(&BTreeSet::new());
    let seed = |i: u8| Seed::from_bytes([i; 32]);
    let plan = || LinearPlan::new(&m).unwrap();
    let mut c = State::insecure_new(Keys::Client(secret), plan(), shape.clone(), seed(1));
    let mut s = State::insecure_new(Keys::Server(keys), plan(), shape, seed(2));
    let new = new_rows(&m, 8, &mut rng(92));
    let (_, s) = pass((&mut c, &mut s), (&new, &new), 1, [None, None]);
    assert!(matches!(s.result, Err(ProtocolError::He(_))));
}
