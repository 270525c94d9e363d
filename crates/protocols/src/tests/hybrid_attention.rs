//! Attention over the encrypted cache: kernels simulated on clear slots, the two parties against the clear function, costs, refreshes, files.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptogen_he::simd::{Context, EvaluationKeys, Noise, Operations, SecretKey, ROW};
use cryptogen_mpc::party::{Client, Party, Server};
use cryptogen_ring::{Fp, Prg, Seed};
use rand_core::RngCore;

use super::channel::{run_spoiled, Fault, Ran};
use super::cost::measured;
use super::tiny::{tiny, Arch};
use super::{elements, rng};
use crate::error::{ProtocolError, Result};
use crate::hybrid::attention::cost::{self, Workload};
use crate::hybrid::attention::kernels::{self, Slots};
use crate::hybrid::attention::schedule::{Kernel, Schedule};
use crate::hybrid::attention::{client, server, NewRows};
use crate::hybrid::cache::{Binding, CacheShape, EncryptedCache, Policy};
use crate::hybrid::layout::{conversion, CacheLayout, Encoding, Fold, Held};
use crate::hybrid::planner::LinearPlan;
use crate::hybrid::{Hybrid, Keys, Protocol};
use crate::plan::ModelShape;

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> ModelShape {
    ModelShape { heads, kv_heads, head_dim, layers: 2, ..tiny(Arch::Gpt).plan.model.clone() }
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
            (0..=t).map(|j| dot(q, &self.keys[j][g / m.group() * d..][..d])).collect::<Vec<_>>()
        };
        self.pairs(m, queries.len()).into_iter().flat_map(one).collect()
    }

    fn sums(&self, m: &ModelShape, rows: usize, weights: &[Fp]) -> Vec<Fp> {
        let (d, mut at, mut out) = (m.head_dim, 0, vec![]);
        for (g, t, _) in self.pairs(m, rows) {
            let w = &weights[at..=at + t];
            at += t + 1;
            let value = |j: usize, e: usize| self.values[j][g / m.group() * d + e];
            out.extend((0..d).map(|e| (0..=t).map(|j| w[j] * value(j, e)).sum::<Fp>()));
        }
        out
    }
}

/// The kernels' twin on clear slots, with the keys of a layout.
struct Simulated {
    steps: BTreeSet<usize>,
    rotations: AtomicUsize,
    products: AtomicUsize,
    sums: AtomicUsize,
}

impl Slots for Simulated {
    type Ciphertext = Vec<Fp>;
    type Left = Vec<Fp>;
    type Right = Vec<Fp>;

    fn rotations(&self, ct: &Vec<Fp>, steps: &[usize]) -> Result<Vec<Vec<Fp>>> {
        let one = |step: &usize| {
            assert!(*step == 0 || self.steps.contains(step), "no key for step {step}");
            self.rotations.fetch_add(usize::from(*step != 0), Ordering::Relaxed);
            ct.chunks(ROW).flat_map(|row| [&row[*step..], &row[..*step]].concat()).collect()
        };
        Ok(steps.iter().map(one).collect())
    }

    fn add(&self, a: &mut Vec<Fp>, b: &Vec<Fp>) {
        *a = sum(a, b);
    }

    fn left(&self, ct: &Vec<Fp>) -> Vec<Fp> {
        ct.clone()
    }

    fn right(&self, ct: &Vec<Fp>) -> Vec<Fp> {
        ct.clone()
    }

    fn dot(&self, pairs: &[(&Vec<Fp>, &Vec<Fp>)]) -> Result<Vec<Fp>> {
        self.products.fetch_add(pairs.len(), Ordering::Relaxed);
        self.sums.fetch_add(1, Ordering::Relaxed);
        let zero = vec![Fp::ZERO; ROW * 2];
        Ok(pairs.iter().fold(zero, |s, (a, b)| {
            s.iter().zip(a.iter().zip(b.iter())).map(|(s, (a, b))| *s + *a * *b).collect()
        }))
    }
}

/// Runs both kernels' schedules on clear slots against the clear function.
fn simulate(m: &ModelShape, layout: CacheLayout, kernel: Kernel, first: usize, rows: usize, rng: &mut Prg) {
    let s = Simulated {
        steps: layout.steps(),
        rotations: AtomicUsize::new(0),
        products: AtomicUsize::new(0),
        sums: AtomicUsize::new(0),
    };
    let (old, new) = (new_rows(m, first, rng), new_rows(m, rows, rng));
    let mut clear = Clear::default();
    clear.append(&old.keys, &old.values);
    clear.append(&new.keys, &new.values);
    let (t, packs) = (layout.tokens(), layout.packs());
    let block = |all: &[Vec<Fp>], b: usize| -> Vec<Vec<Fp>> {
        let rows: Vec<&[Fp]> = all[b * t..all.len().min((b + 1) * t)].iter().map(Vec::as_slice).collect();
        (0..packs).map(|p| layout.place(p, 0, &rows).to_vec()).collect()
    };
    let blocks = layout.blocks(first + rows);
    let keys: Vec<_> = (0..blocks).map(|b| block(&clear.keys, b)).collect();
    let values: Vec<_> = (0..blocks).map(|b| block(&clear.values, b)).collect();

    let schedule = Schedule { layout, kernel, first, rows };
    let mut scores = vec![Fp::ZERO; schedule.outputs().0];
    let expected = clear.scores(m, &new.queries);
    let weights = elements(rng, expected.len());
    let mut sums = vec![Fp::ZERO; schedule.outputs().1];
    for batch in schedule.batches() {
        let per_query = packs * layout.group;
        let slots: Vec<Vec<Fp>> = (0..batch.queries.len() * per_query)
            .map(|i| schedule.query_slots(&new, &batch.queries, i).to_vec())
            .collect();
        let queries: Vec<_> =
            slots.chunks(per_query).map(|q| kernels::queried(&s, &schedule, q).unwrap()).collect();
        for window in &batch.windows {
            let k = kernels::cached(&s, &schedule, &keys[window.blocks.clone()]).unwrap();
            let v = kernels::cached(&s, &schedule, &values[window.blocks.clone()]).unwrap();
            for group in &window.groups {
                let query = &queries[group.query - batch.queries[0]];
                let outputs = kernels::scores(&s, group, window.blocks.start, query, &k).unwrap();
                let outputs = kernels::fold_all(&s, &layout.folding(), outputs).unwrap();
                for (p, slots) in group.products.iter().zip(&outputs) {
                    schedule.take_scores(p, slots, &mut scores);
                }
                let inputs: Vec<Vec<Fp>> =
                    group.products.iter().map(|p| schedule.weight_slots(p, &weights).to_vec()).collect();
                let got = kernels::values(&s, group, window.blocks.start, &inputs, &v, packs).unwrap();
                for (i, slots) in got.iter().enumerate() {
                    schedule.add_values(group.query, group.outputs()[i / packs], i % packs, slots, &mut sums);
                }
            }
        }
    }
    let what = format!("{m:?} T = {t} {kernel:?} rows {rows} behind {first}");
    assert!(scores == expected, "scores: {what}");
    assert!(sums == clear.sums(m, rows, &weights), "values: {what}");
    let work = schedule.work();
    let counted = [&s.rotations, &s.products, &s.sums].map(|c| c.load(Ordering::Relaxed));
    assert_eq!(counted, [work.rotations, work.products, work.relinearisations], "{what}");
}

#[test]
fn kernels_equal_the_clear_function_on_slots() {
    let mut rng = rng(70);
    let mut pick = |n: u64| rng.next_u64() as usize % n as usize;
    let cases: Vec<_> = (0..24)
        .map(|_| {
            let (kv_heads, group, d) = (1 + pick(5), 1 + pick(3), 1 + pick(20));
            let (log, first, rows) = (pick(6), pick(40), 1 + pick(20));
            let fold = if pick(3) == 0 { Fold::Ciphertext } else { Fold::Shares };
            (shape(kv_heads * group, kv_heads, d), 1 << log, first * pick(2), rows, fold)
        })
        // All features of a head in one ciphertext, some, and one; heads that fill both halves of the slots.
        .chain([(shape(2, 2, 64), 32, 5, 3, Fold::Ciphertext), (shape(1, 1, 8), 4096, 0, 3, Fold::Shares)])
        .chain([
            (shape(1, 1, 70), 64, 1, 2, Fold::Ciphertext),
            (shape(3, 1, 64), 128, 3, 2, Fold::Ciphertext),
        ])
        .collect();
    for (m, tokens, first, rows, fold) in cases {
        let layout = CacheLayout::new(&m, tokens).unwrap().with_fold(fold);
        for kernel in [Kernel::Vector, Kernel::Matrix] {
            simulate(&m, layout, kernel, first, rows, &mut rng);
        }
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
fn parties(m: &ModelShape, shape: &CacheShape) -> (Hybrid<Client>, Hybrid<Server>) {
    let (secret, keys) = keys(&shape.layout().steps());
    fn one<P: Party>(m: &ModelShape, keys: Keys, shape: &CacheShape) -> Hybrid<P> {
        let seed = Seed::from_bytes([80 + P::ROLE.index() as u8; 32]);
        Hybrid::insecure_new(keys, LinearPlan::new(m).unwrap(), shape.clone(), seed)
    }
    (one(m, Keys::Client(secret), shape), one(m, Keys::Server(keys), shape))
}

type Shares = (Vec<Fp>, Vec<Fp>);

/// One layer's pass of both parties; weights are drawn by each party from `seed`.
fn pass(
    (c, s): (&mut Hybrid<Client>, &mut Hybrid<Server>),
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
fn check_passes(m: &ModelShape, shape: CacheShape, passes: &[usize]) -> (Hybrid<Client>, Hybrid<Server>) {
    let (mut c, mut s) = parties(m, &shape);
    let (mut clear, mut rng) = (Clear::default(), rng(81));
    for (i, &rows) in passes.iter().enumerate() {
        let first = clear.keys.len();
        let declared = cost::cost(c.cache_shape(), 0, rows);
        let work = Schedule::cheapest(*shape.layout(), first, rows).work();
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
    CacheShape::new(CacheLayout::new(m, tokens).unwrap(), m.layers, Policy::Lazy { reserve: 0 }).unwrap()
}

#[test]
fn both_parties_equal_the_clear_function() {
    // Row 0 alone, a prompt, single rows, full and begun blocks; grouped heads; features in several ciphertexts.
    for (m, tokens, passes) in [
        (shape(2, 2, 4), 4, vec![1, 1, 5, 1]),
        (shape(6, 3, 6), 8, vec![9, 1, 2]),
        (shape(2, 1, 2048), 4, vec![2, 1]),
    ] {
        let (c, s) = check_passes(&m, lazy(&m, tokens), &passes);
        assert_eq!(c.counts().encrypted, s.counts().encrypted);
        assert_eq!(s.cache_shape().refreshes().0, 0, "nothing was near the limit");
    }
}

#[test]
fn the_paper_shapes_fit_and_grow_by_blocks() {
    for (m, tokens, packs) in [(shape(12, 12, 64), 32, 4), (shape(9, 3, 64), 32, 1)] {
        let layout = CacheLayout::new(&m, tokens).unwrap();
        assert_eq!(layout.packs(), packs);
        let fresh = Noise::fresh().add_plain();
        assert!(layout.survives(Kernel::Vector, fresh) && layout.survives(Kernel::Matrix, fresh));
        for len in [1, 31, 32, 33, 128, 500] {
            assert_eq!(layout.ciphertexts(len), packs * len.div_ceil(32));
        }
        for protocol in [Protocol::EncryptedCache, Protocol::Recompute] {
            let (chosen, why) = CacheLayout::choose(&m, Workload::of(protocol, &m)).unwrap();
            assert!(why.contains("other T") && chosen.packs() > 0);
            println!("{} {} steps: {why}", protocol.name(), chosen.steps().len());
        }
    }
}
