//! Layouts, and the kernels' schedules on clear slots.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptogen_he::evaluate::{Noise, ROW};
use cryptogen_protocols::model::ModelShape;
use cryptogen_protocols::Result;
use cryptogen_ring::{Fp, Prg};
use rand_core::RngCore;

use super::{new_rows, shape, Clear};
use crate::attention::products::{self, SlotArithmetic};
use crate::attention::schedule::Schedule;
use crate::layout::{CacheLayout, Encoding, QueryShape};
use crate::tests::{elements, rng};
use crate::{cache_layout, Variant};

/// The kernels' twin on clear slots, with the keys of a layout.
struct Simulated {
    steps: BTreeSet<usize>,
    rotations: AtomicUsize,
    products: AtomicUsize,
    sums: AtomicUsize,
}

impl SlotArithmetic for Simulated {
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
fn simulate(
    m: &ModelShape,
    layout: CacheLayout,
    shape: QueryShape,
    first: usize,
    rows: usize,
    rng: &mut Prg,
) {
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

    let schedule = Schedule { layout, shape, first, rows };
    let mut scores = vec![Fp::ZERO; schedule.entries()];
    let expected = clear.scores(m, &new.queries);
    let weights = elements(rng, expected.len());
    let mut sums = vec![Fp::ZERO; schedule.columns()];
    for batch in schedule.batches() {
        let per_query = packs * layout.group;
        let slots: Vec<Vec<Fp>> = (0..batch.queries.len() * per_query)
            .map(|i| schedule.query_slots(&new.queries, &batch.queries, i).to_vec())
            .collect();
        let queries: Vec<_> =
            slots.chunks(per_query).map(|q| products::queried(&s, &schedule, q).unwrap()).collect();
        for window in &batch.windows {
            let k = products::cached(&s, &schedule, &keys[window.blocks.clone()]).unwrap();
            let v = products::cached(&s, &schedule, &values[window.blocks.clone()]).unwrap();
            for message in &window.messages {
                let query = &queries[message.query - batch.queries[0]];
                let outputs = products::scores(&s, message, window.blocks.start, query, &k).unwrap();
                for (p, slots) in message.products.iter().zip(&outputs) {
                    schedule.take_scores(p, slots, &mut scores);
                }
                let inputs: Vec<Vec<Fp>> =
                    message.products.iter().map(|p| schedule.weight_slots(p, &weights).to_vec()).collect();
                let got = products::values(&s, message, window.blocks.start, &inputs, &v, packs).unwrap();
                for (i, slots) in got.iter().enumerate() {
                    schedule.add_values(
                        message.query,
                        message.outputs()[i / packs],
                        i % packs,
                        slots,
                        &mut sums,
                    );
                }
            }
        }
    }
    let what = format!("{m:?} T = {t} {shape:?} rows {rows} behind {first}");
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
            (shape(kv_heads * group, kv_heads, d), 1 << log, first * pick(2), rows)
        })
        // All features of a head in one ciphertext, some, and one; heads that fill both halves of
        // the slots.
        .chain([(shape(2, 2, 64), 32, 5, 3), (shape(1, 1, 8), 4096, 0, 3)])
        .chain([(shape(1, 1, 70), 64, 1, 2), (shape(3, 1, 64), 128, 3, 2)])
        .collect();
    for (m, tokens, first, rows) in cases {
        let layout = CacheLayout::new(&m, tokens).unwrap();
        for queries in [QueryShape::Row, QueryShape::Block] {
            simulate(&m, layout, queries, first, rows, &mut rng);
        }
    }
}

#[test]
fn encodings_have_names() {
    let encoding = |m: &ModelShape, t: usize| CacheLayout::new(m, t).unwrap().encoding();
    let gpt = shape(12, 12, 64);
    assert_eq!(
        [4, 8, 32, 512].map(|t| encoding(&gpt, t)),
        [Encoding::Inner, Encoding::Inner, Encoding::Mixed, Encoding::Outer]
    );
    assert!(CacheLayout::new(&gpt, 1024).is_err(), "16 heads × 1024 tokens do not fit");
    assert!(CacheLayout::new(&gpt, 3).is_err());
}
#[test]
fn the_paper_shapes_fit_and_grow_by_blocks() {
    for (m, tokens, packs) in [(shape(12, 12, 64), 32, 4), (shape(9, 3, 64), 32, 1)] {
        let layout = CacheLayout::new(&m, tokens).unwrap();
        assert_eq!(layout.packs(), packs);
        let fresh = Noise::fresh().add_plain();
        assert!(layout.survives(QueryShape::Row, fresh) && layout.survives(QueryShape::Block, fresh));
        for len in [1, 31, 32, 33, 128, 500] {
            assert_eq!(layout.ciphertexts(len), packs * len.div_ceil(32));
        }
        for variant in [Variant::EncryptedCache, Variant::Recompute] {
            let (chosen, why) = cache_layout(variant, &m).unwrap();
            assert!(why.contains("other T") && chosen.packs() > 0);
            println!("{} {} steps: {why}", variant.name(), chosen.steps().len());
        }
    }
}
