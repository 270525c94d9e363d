//! Which packing a linear layer gets: the cheapest by a cost model in microseconds, and the Galois
//! keys that all of them need.
//!
//! All layers share one cyclic dimension `n`, so that they share their Galois keys (4.7 MB each at
//! the server). The steps are those of the best packings for one row (generation) and for `PREFILL`
//! rows; for any other number of rows the best packing within these steps is taken. Both parties
//! compute the same plan from the public shape of the model.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use cryptogen_he::evaluate::{Lanes, Noise};
use cryptogen_protocols::error::PlanError;
use cryptogen_protocols::model::{ModelShape, Site};
use cryptogen_protocols::{ProtocolError, Result};

use super::diagonals::Packing;

/// Microseconds of one thread (`cargo run --release -p cryptogen-he --example evaluate`), and 1.6
/// ms to send a ciphertext at 1 Gbit/s.
mod price {
    pub const PRODUCT: u64 = 60;
    pub const HOISTED: u64 = 900;
    pub const ROTATION: u64 = 2500;
    /// masking, sending, decrypting
    pub const OUTPUT: u64 = 4000;
    /// encrypting, sending, expanding, adding the server's share, decomposing for rotations
    pub const INPUT: u64 = 4500;
    pub const ENCODE: u64 = 300;
}

/// Baby steps at most: a limit on the number of Galois keys.
const MAX_BABIES: usize = 32;
/// Rows of a prompt for which the plan is made.
const PREFILL: usize = 64;
/// Input ciphertexts and their rotations held at a time bound the rows that share encoded weights.
pub const HELD: usize = 1024;

/// A packing with what it costs for a number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// where everything lies
    pub packing: Packing,
    /// Ciphertexts' worth of rows.
    pub groups: usize,
    /// Its weights are encoded once for the model, not for this call.
    pub kept: bool,
    /// operations for the rows it was chosen for
    pub work: Work,
}

/// Operations of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// fresh ciphertexts from the client
    pub inputs: usize,
    /// rotations of inputs, several of one ciphertext
    pub hoisted: usize,
    /// rotations of sums
    pub rotations: usize,
    /// ciphertext by plaintext
    pub products: usize,
    /// masked ciphertexts to the client
    pub outputs: usize,
    /// plaintexts that are encoded for this call
    pub encodings: usize,
}

impl Work {
    /// Modelled microseconds.
    pub fn micros(&self) -> u64 {
        [
            (self.inputs, price::INPUT),
            (self.hoisted, price::HOISTED),
            (self.rotations, price::ROTATION),
            (self.products, price::PRODUCT),
            (self.outputs, price::OUTPUT),
            (self.encodings, price::ENCODE),
        ]
        .iter()
        .map(|(n, price)| *n as u64 * price)
        .sum()
    }
}

impl Choice {
    fn new(packing: Packing, rows: usize, kept: bool) -> Choice {
        let groups = rows.div_ceil(packing.rows);
        let slices = groups.div_ceil(Self::groups_at_once(&packing));
        let (inputs, outputs) = (groups * packing.inputs(), groups * packing.outputs());
        let work = Work {
            inputs,
            hoisted: inputs * (packing.babies.min(packing.diagonals()) - 1),
            rotations: outputs * (packing.giants() - 1),
            products: groups * packing.plaintexts(),
            outputs,
            encodings: if kept { 0 } else { slices * packing.plaintexts() },
        };
        Choice { packing, groups, kept, work }
    }

    /// The noise of an output before it is masked.
    pub fn noise(&self) -> Noise {
        let p = &self.packing;
        let product = Noise::fresh().add_plain().switched().times_plain();
        let terms = (p.inputs() * p.diagonals()) as i32;
        let sum = (0..terms).fold(Noise::none(), |sum, _| sum + product);
        (1..p.giants()).fold(sum, |sum, _| sum.switched())
    }

    /// Groups of rows whose rotated inputs are held at the same time.
    pub fn groups_at_once(packing: &Packing) -> usize {
        (HELD / (packing.inputs() * packing.babies)).max(1)
    }
}

/// Part sizes worth trying when `total` items are cut into parts of at most `limit`, largest first:
/// for every possible number of parts, the smallest size that gives it. A larger size with equally
/// many parts only leaves holes.
fn sizes(total: usize, limit: usize) -> impl Iterator<Item = usize> {
    let mut next = total.min(limit);
    std::iter::from_fn(move || {
        let size = (next > 0).then(|| total.div_ceil(total.div_ceil(next)))?;
        let parts = total.div_ceil(size);
        // The largest size that makes more parts.
        next = (1..size).rev().find(|s| total.div_ceil(*s) > parts).unwrap_or(0);
        Some(size)
    })
}

/// The cheapest packing with cyclic dimension `n` within `allowed` steps (all if none is given)
/// whose noise fits.
fn cheapest(
    (d_in, d_out): (usize, usize),
    rows: usize,
    lanes: Lanes,
    kept: bool,
    allowed: Option<&BTreeSet<usize>>,
) -> Option<Choice> {
    let (n, count) = (lanes.n(), lanes.count());
    let mut best: Option<Choice> = None;
    let mut consider = |packing: Packing| {
        let choice = Choice::new(packing, rows, kept);
        if best.is_none_or(|b| choice.work.micros() < b.work.micros())
            && allowed.is_none_or(|steps| packing.steps().all(|s| steps.contains(&s)))
            && choice.noise().fits()
        {
            best = Some(choice);
        }
    };
    for in_blocks in sizes(d_in.div_ceil(n), count) {
        for rows in sizes(if kept { 1 } else { rows }, count / in_blocks) {
            for out_blocks in sizes(d_out.div_ceil(n), count / (in_blocks * rows)) {
                let parts = n.min(count / (in_blocks * rows * out_blocks));
                for babies in 1..=n.div_ceil(parts).min(MAX_BABIES) {
                    consider(Packing { d_in, d_out, lanes, rows, in_blocks, out_blocks, parts, babies });
                }
            }
        }
    }
    best
}

/// Every cyclic dimension.
fn dimensions() -> impl Iterator<Item = Lanes> {
    (0..=12).filter_map(|log| Lanes::new(1 << log).ok())
}

/// The best packing of one layer by itself, whatever keys it needs.
pub fn alone(d_in: usize, d_out: usize, rows: usize) -> Option<Choice> {
    dimensions()
        .filter_map(|lanes| cheapest((d_in, d_out), rows, lanes, rows == 1, None))
        .min_by_key(|c| c.work.micros())
}

/// The packings of all linear layers of a decoder.
pub struct LinearPlan {
    shapes: [(usize, usize); 4],
    /// for one row, whose weights are encoded once
    generation: [Choice; 4],
    steps: BTreeSet<usize>,
    /// modelled microseconds per row and layer, for every `n` that was considered
    considered: Vec<(usize, u64)>,
    chosen: HashMap<(usize, usize), Choice>,
}

impl LinearPlan {
    /// Plans the four kinds of layers together.
    ///
    /// # Errors
    /// Layers whose noise would not fit the parameters.
    pub fn new(m: &ModelShape) -> Result<LinearPlan> {
        let shapes = Site::of_layer(0).map(|site| match site {
            Site::Qkv(_) => (m.d, m.q_dim() + 2 * m.kv_dim()),
            Site::O(_) => (m.q_dim(), m.d),
            Site::Up(_) => (m.d, m.up_dim()),
            _ => (m.ff, m.d),
        });
        let all = |lanes: Lanes, rows: usize| -> Option<Vec<Choice>> {
            shapes.iter().map(|s| cheapest(*s, rows, lanes, rows == 1, None)).collect()
        };
        let micros = |c: &[Choice]| c.iter().map(|c| c.work.micros()).sum::<u64>();
        let mut candidates: Vec<(u64, usize, Vec<Choice>, Vec<Choice>)> = dimensions()
            .filter_map(|lanes| {
                let (one, many) = (all(lanes, 1)?, all(lanes, PREFILL)?);
                Some((micros(&one) + micros(&many) / PREFILL as u64, lanes.n(), one, many))
            })
            .collect();
        let considered = candidates.iter().map(|(us, n, ..)| (*n, *us)).collect();
        candidates.sort_by_key(|c| (c.0, c.1));
        let Some((_, _, one, many)) = candidates.into_iter().next() else {
            return Err(ProtocolError::Plan(PlanError::Unfit {
                what: "noise of a linear layer",
                expected: "what flooding can hide".into(),
                actual: format!("more with {} inputs", m.d.max(m.ff)),
            }));
        };
        Ok(LinearPlan {
            shapes,
            generation: [0, 1, 2, 3].map(|i| one[i]),
            steps: one.iter().chain(&many).flat_map(|c| c.packing.steps().collect::<Vec<_>>()).collect(),
            considered,
            chosen: HashMap::new(),
        })
    }

    /// Slots to rotate by: exactly the Galois keys that linear layers need.
    pub fn steps(&self) -> &BTreeSet<usize> {
        &self.steps
    }

    /// The packing of a site for one row.
    pub fn generation(&self, site: Site) -> Choice {
        self.generation[kind(site)]
    }

    /// The packing of a site for `rows` rows: a new one, or row after row as in generation.
    pub fn choose(&mut self, site: Site, rows: usize) -> Choice {
        let kind = kind(site);
        let (shape, one) = (self.shapes[kind], self.generation[kind]);
        if rows <= 1 {
            return one;
        }
        let steps = &self.steps;
        *self.chosen.entry((kind, rows)).or_insert_with(|| {
            dimensions()
                .filter_map(|lanes| cheapest(shape, rows, lanes, false, Some(steps)))
                .chain([Choice::new(one.packing, rows, true)])
                .min_by_key(|c| c.work.micros())
                .unwrap_or(one)
        })
    }

    /// Plaintexts of one layer's weights in the generation packing.
    pub fn plaintexts_per_layer(&self) -> usize {
        self.generation.iter().map(|c| c.packing.plaintexts()).sum()
    }

    /// Why this packing: what it costs, and what the other cyclic dimensions would cost.
    pub fn why(&mut self, site: Site, rows: usize) -> String {
        let Choice { packing: p, groups, kept, work: w } = self.choose(site, rows);
        let mut text = format!(
            "{} [{} × {}], {rows} rows: n = {}, {} lanes = {} rows × {} input blocks × {} output blocks × {} parts; {} diagonals as \
             {} baby × {} giant steps; {groups} groups: {} ciphertexts in, {} products, {} hoisted and {} other rotations, {} ciphertexts out, \
             {} ({:.1} ms).",
            site.name(), p.d_out, p.d_in, p.lanes.n(), p.rows * p.in_blocks * p.out_blocks * p.parts, p.rows, p.in_blocks,
            p.out_blocks, p.parts, p.diagonals(), p.babies, p.giants(), w.inputs, w.products, w.hoisted, w.rotations, w.outputs,
            if kept { "weights encoded once".to_owned() } else { format!("{} encodings", w.encodings) },
            w.micros() as f64 / 1000.0,
        );
        text.push_str(" A row of a layer by n, modelled ms:");
        for (n, us) in &self.considered {
            let _ = write!(text, " {n}: {:.0}", *us as f64 / 2000.0);
        }
        text
    }
}

/// The head has no packing: it is always prepared. (It counts as the first kind;
/// [`cryptogen_protocols::online::Online::linear`] refuses it.)
fn kind(site: Site) -> usize {
    match site {
        Site::Qkv(_) | Site::Head => 0,
        Site::O(_) => 1,
        Site::Up(_) => 2,
        Site::Down(_) => 3,
    }
}
