//! What attention over the encrypted cache costs, counted from the schedule, and the choices that
//! follow: the kernel for a number of rows, and T.

use cryptogen_he::evaluate::{MaskedCiphertext, Noise, SeededCiphertext};
use cryptogen_party::Role;
use cryptogen_protocols::error::PlanError;
use cryptogen_protocols::model::ModelShape;
use cryptogen_protocols::share::Cost;
use cryptogen_protocols::Result;

use super::schedule::Schedule;
use crate::cache::CacheShape;
use crate::layout::{CacheLayout, QueryShape};
use crate::Variant;

/// Rows of a pass for which the layout of `recompute` is chosen.
const PASS: usize = 64;

/// Microseconds of both parties together, measured (benches in `docs/paper.md`).
mod price {
    /// encrypting, sending, expanding, adding the server's share
    pub const INPUT: u64 = 2500;
    /// masking, sending, decrypting
    pub const OUTPUT: u64 = 2500;
    pub const HOISTED: u64 = 900;
    pub const OPERAND: u64 = 900;
    pub const PRODUCT: u64 = 150;
    pub const RELINEARISATION: u64 = 5000;
}

/// Operations and ciphertexts of one layer's attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// fresh ciphertexts from the client
    pub inputs: usize,
    /// rotations, hoisted where there are several of one ciphertext
    pub rotations: usize,
    /// operands extended for products
    pub operands: usize,
    /// ciphertext products; those of a sum share scaling and relinearisation
    pub products: usize,
    /// products brought back to two components
    pub relinearisations: usize,
    /// masked ciphertexts to the client
    pub outputs: usize,
    /// messages, both directions together
    pub messages: usize,
}

impl Work {
    /// Modelled microseconds.
    pub fn micros(&self) -> u64 {
        [
            (self.inputs, price::INPUT),
            (self.rotations, price::HOISTED),
            (self.operands, price::OPERAND),
            (self.products, price::PRODUCT),
            (self.relinearisations, price::RELINEARISATION),
            (self.outputs, price::OUTPUT),
        ]
        .iter()
        .map(|(n, price)| *n as u64 * price)
        .sum()
    }

    /// Messages and bytes.
    pub fn cost(&self) -> Cost {
        Cost {
            messages: self.messages,
            client_bytes: self.inputs * SeededCiphertext::BYTES,
            server_bytes: self.outputs * MaskedCiphertext::BYTES,
        }
    }
}

impl Schedule {
    /// Queries, scores, weights and values.
    pub fn work(&self) -> Work {
        let (layout, packs) = (&self.layout, self.layout.packs());
        let mut w = Work::default();
        for batch in self.batches() {
            let queries = batch.queries.len() * packs * layout.group;
            w.inputs += queries;
            w.rotations += queries * (self.giants() - 1);
            w.operands += queries * self.giants();
            w.messages += 1;
            for window in &batch.windows {
                // keys for the scores, values for the values
                let cached = 2 * window.blocks.len() * packs;
                w.rotations += cached * (self.babies() - 1);
                w.operands += cached * self.babies();
                w.messages += 3 * window.messages.len();
                for message in &window.messages {
                    let (n, outputs) = (message.products.len(), message.outputs().len() * packs);
                    w.inputs += n;
                    w.operands += n;
                    w.products += 2 * n * packs;
                    w.relinearisations += n + outputs;
                    w.outputs += n + outputs;
                }
            }
        }
        w
    }
}

/// How new rows meet the cache: whole blocks of rows by one kernel, the rest by another, whichever
/// is cheapest. The parts' entries follow each other.
pub fn schedules(layout: CacheLayout, first: usize, rows: usize) -> Vec<Schedule> {
    let part = |shape, first, rows| Schedule { layout, shape, first, rows };
    let split = |matrix: usize| {
        let parts =
            [part(QueryShape::Block, first, matrix), part(QueryShape::Row, first + matrix, rows - matrix)];
        parts.into_iter().filter(|p| p.rows > 0).collect::<Vec<_>>()
    };
    let mut splits = vec![split(0)];
    if rows > 1 && layout.survives(QueryShape::Block, Noise::fresh().add_plain()) {
        splits.extend([split(rows / layout.tokens() * layout.tokens()), split(rows)]);
    }
    let micros = |parts: &Vec<Schedule>| parts.iter().map(|p| p.work().micros()).sum::<u64>();
    splits.into_iter().min_by_key(micros).unwrap_or_default()
}

/// Operations of one layer for `rows` rows behind `first`, without refreshes.
pub fn work(layout: CacheLayout, first: usize, rows: usize) -> Work {
    let touched = layout.blocks(first + rows) - first / layout.tokens();
    let append = Work { inputs: 2 * layout.packs() * touched, messages: 1, ..Work::default() };
    schedules(layout, first, rows).iter().map(Schedule::work).fold(append, |a, b| Work {
        inputs: a.inputs + b.inputs,
        rotations: a.rotations + b.rotations,
        operands: a.operands + b.operands,
        products: a.products + b.products,
        relinearisations: a.relinearisations + b.relinearisations,
        outputs: a.outputs + b.outputs,
        messages: a.messages + b.messages,
    })
}

/// Messages and bytes of one layer's refreshes of `ciphertexts`.
pub fn refresh(ciphertexts: usize) -> Cost {
    match ciphertexts {
        0 => Cost::default(),
        n => Cost::of(&[
            (Role::Server, n * MaskedCiphertext::BYTES),
            (Role::Client, n * SeededCiphertext::BYTES),
        ]),
    }
}

/// Messages and bytes of one layer's encrypted scores and values for `rows` rows behind what
/// `shape` holds.
pub fn cost(shape: &CacheShape, layer: usize, rows: usize) -> Cost {
    let first = shape.length(layer);
    let refreshed = 2 * shape.layout().packs() * shape.after_append(layer, rows).len();
    [work(*shape.layout(), first, rows).cost(), refresh(refreshed)].into_iter().sum()
}

/// What a cache is used for: passes of `rows` rows that end with `length` rows in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// new rows of a pass
    pub rows: usize,
    /// rows in the cache at its end
    pub length: usize,
}

impl Workload {
    /// What the layout is chosen for: one new row at a fair length, or a whole prefix.
    pub fn of(variant: Variant, m: &ModelShape) -> Workload {
        let length = m.context.min(256);
        Workload { rows: if variant == Variant::Recompute { length.min(PASS) } else { 1 }, length }
    }
}

/// The cheapest number of tokens per ciphertext for a workload, and the others' modelled
/// milliseconds per layer.
pub(crate) fn cheapest(m: &ModelShape, work: Workload) -> Result<(CacheLayout, String)> {
    let rows = work.rows.clamp(1, work.length.max(1));
    let first = work.length.max(1) - rows;
    let mut candidates = vec![];
    for log in 0..=10 {
        let Ok(layout) = CacheLayout::new(m, 1 << log) else { continue };
        if !layout.survives(QueryShape::Row, Noise::fresh().add_plain()) {
            continue;
        }
        candidates.push((self::work(layout, first, rows), layout));
    }
    let (best, l) = *candidates.iter().min_by_key(|(w, _)| w.micros()).ok_or_else(|| PlanError::Unfit {
        what: "key heads of an encrypted cache",
        expected: "up to 8192".into(),
        actual: m.kv_heads.to_string(),
    })?;
    let kernels: Vec<QueryShape> = schedules(l, first, rows).iter().map(|s| s.shape).collect();
    let mut why = format!(
        "T = {} tokens × {} heads × {} features ({:?}, {} ciphertexts per block, kernels {:?}) for {rows} rows at length {}: \
         {} ciphertexts in, {} out, {} products, {} rotations, {:.1} ms per layer; other T:",
        l.tokens(), m.kv_heads, l.features(), l.encoding(), l.packs(), kernels, work.length,
        best.inputs, best.outputs, best.products, best.rotations, best.micros() as f64 / 1e3,
    );
    for (w, l) in &candidates {
        why += &format!(" {}: {:.1} ms", l.tokens(), w.micros() as f64 / 1e3);
    }
    Ok((l, why))
}
