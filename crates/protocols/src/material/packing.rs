//! How matrices lie in the ciphertexts of the encrypted model.
//!
//! A matrix `[d_out, d_in]` is cut into blocks of `C` rows. Matrices of equal `d_in`, of all
//! layers, share ciphertexts: a *group* is `n ≤ F = N/C` blocks, each in a slot of its own, as
//! often as they fit (`⌊F/n⌋` times, each with another column). Slot `κ = copy·n + i`, coefficient
//! `c` of ciphertext `k` is row `c` of block `i` in column `k·⌊F/n⌋ + copy`. So a combination of a
//! group's ciphertexts is one full ciphertext of outputs, and only what is left over for the last
//! group is spread over slots that are added up after decryption.

use std::collections::BTreeMap;
use std::ops::Range;

use cryptogen_he::noise::max_products;
use cryptogen_he::{Layout, N};
use cryptogen_ring::Fp;

use crate::model::Site;

/// Prices of the combination of a row, measured with
/// `cargo run --release -p cryptogen-he --example bench`: a ciphertext's multiply-adds, the
/// multiplier of one of its slots, and a result (hidden, sent, decrypted).
const CIPHERTEXT: usize = 276;
const SLOT: usize = 1;
const RESULT: usize = 24_000;

/// Rows of a matrix in one slot; what is left of the slot is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// the matrix
    pub site: Site,
    /// first row of the matrix
    first: usize,
    rows: usize,
    /// where its outputs stand in a row of outputs
    place: usize,
}

/// Ciphertexts that are combined into one result for each row of inputs.
#[derive(Debug)]
pub struct Group {
    /// in the order of their slots
    pub blocks: Vec<Block>,
    /// coefficients of a slot, `C`
    coefficients: usize,
    d_in: usize,
    /// its first ciphertext in the model
    pub start: usize,
}

impl Group {
    /// Slots of a ciphertext, `F`.
    pub fn slots(&self) -> usize {
        N / self.coefficients
    }

    /// Layout of its ciphertexts.
    pub fn layout(&self) -> Layout {
        slots(self.slots())
    }

    /// Inputs of every block.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Columns in one ciphertext.
    fn copies(&self) -> usize {
        self.slots() / self.blocks.len()
    }

    /// Number of ciphertexts.
    pub fn count(&self) -> usize {
        self.d_in.div_ceil(self.copies())
    }

    /// Price of a row.
    fn price(&self) -> usize {
        self.count() * (CIPHERTEXT + SLOT * self.slots()) + RESULT
    }

    /// Slots in use of ciphertext `k`: `(slot, block, column)`.
    fn used(&self, k: usize) -> impl Iterator<Item = (usize, &Block, usize)> {
        (0..self.copies()).flat_map(move |copy| {
            let column = k * self.copies() + copy;
            let blocks = self.blocks.iter().enumerate().filter(move |_| column < self.d_in);
            blocks.map(move |(i, block)| (copy * self.blocks.len() + i, block, column))
        })
    }

    /// Message `[F][C]` of ciphertext `k`, `entry(site, row, column)`.
    pub fn message(&self, k: usize, entry: impl Fn(Site, usize, usize) -> i64) -> Vec<Fp> {
        let mut message = vec![Fp::ZERO; N];
        for (slot, block, column) in self.used(k) {
            let values = &mut message[slot * self.coefficients..][..block.rows];
            for (c, value) in values.iter_mut().enumerate() {
                *value = Fp::from_i64(entry(block.site, block.first + c, column));
            }
        }
        message
    }

    /// Multipliers `[k][F]` of a range of ciphertexts for one row of inputs: `input(i)` is that of
    /// block `i`, `[d_in]`.
    pub fn multipliers<'a>(&self, range: Range<usize>, input: impl Fn(usize) -> &'a [Fp], out: &mut [Fp]) {
        let (n, f) = (self.blocks.len(), self.slots());
        for (k, out) in range.zip(out.chunks_exact_mut(f)) {
            let columns = k * self.copies()..self.d_in.min((k + 1) * self.copies());
            for (out, column) in out.chunks_mut(n).zip(columns) {
                out.iter_mut().enumerate().for_each(|(i, w)| *w = input(i)[column]);
            }
        }
    }

    /// Adds a decrypted result `[N]` to a row of outputs.
    pub fn add(&self, values: &[Fp], out: &mut [Fp]) {
        let slots = self.blocks.iter().cycle().zip(values.chunks_exact(self.coefficients));
        for (block, values) in slots.take(self.copies() * self.blocks.len()) {
            let out = &mut out[block.place..][..block.rows];
            out.iter_mut().zip(values).for_each(|(out, value)| *out += *value);
        }
    }
}

/// Matrices that are multiplied together, with their inputs all known.
pub struct Packed {
    /// in the order of their ciphertexts
    pub groups: Vec<Group>,
    /// where the outputs of each matrix stand in a row of outputs
    places: Vec<(Site, Range<usize>)>,
}

impl Packed {
    /// Packs `(site, d_out, d_in)`, in the order of their outputs, into ciphertexts from number
    /// `start` on.
    pub fn new(matrices: &[(Site, usize, usize)], start: usize) -> Packed {
        let mut packed = Packed { groups: vec![], places: vec![] };
        let (mut width, mut next) = (0, start);
        let mut by_inputs: BTreeMap<usize, Vec<(Site, Range<usize>)>> = BTreeMap::new();
        for &(site, d_out, d_in) in matrices {
            let place = width..width + d_out;
            width = place.end;
            by_inputs.entry(d_in).or_default().push((site, place.clone()));
            packed.places.push((site, place));
        }
        for (d_in, matrices) in by_inputs {
            for mut group in cheapest(&matrices, d_in) {
                group.start = next;
                next += group.count();
                packed.groups.push(group);
            }
        }
        packed
    }

    /// Outputs of a row.
    pub fn width(&self) -> usize {
        self.places.last().map_or(0, |(_, place)| place.end)
    }

    /// Where the outputs of a matrix stand in a row of outputs; nowhere if it is not one of these.
    pub fn place(&self, site: Site) -> Range<usize> {
        self.places.iter().find(|(s, _)| *s == site).map_or(0..0, |(_, place)| place.clone())
    }

    /// Number of ciphertexts.
    pub fn count(&self) -> usize {
        self.groups.iter().map(Group::count).sum()
    }

    /// The group of a ciphertext, and its number there.
    pub fn locate(&self, index: usize) -> (&Group, usize) {
        let group = &self.groups[self.groups.partition_point(|group| group.start <= index) - 1];
        (group, index - group.start)
    }
}

/// The cheapest groups of matrices with `d_in` inputs, given with the places of their outputs,
/// whose noise is within its bound.
fn cheapest(matrices: &[(Site, Range<usize>)], d_in: usize) -> Vec<Group> {
    let mut best: Option<(usize, Vec<Group>)> = None;
    // From few slots to many: at equal price few are better. One slot is always within the bound.
    for coefficients in (0..=N.ilog2()).rev().map(|log| 1 << log) {
        let blocks: Vec<Block> = (matrices.iter())
            .flat_map(|(site, outputs)| {
                outputs.clone().step_by(coefficients).map(|place| Block {
                    site: *site,
                    first: place - outputs.start,
                    rows: coefficients.min(outputs.end - place),
                    place,
                })
            })
            .collect();
        let group = |blocks: &[Block]| Group { blocks: blocks.to_vec(), coefficients, d_in, start: 0 };
        let groups: Vec<Group> = blocks.chunks(N / coefficients).map(group).collect();
        if groups.iter().any(|group| (group.count() * group.slots()) as u64 > max_products()) {
            continue;
        }
        let price = groups.iter().map(Group::price).sum();
        if best.as_ref().is_none_or(|(least, _)| price < *least) {
            best = Some((price, groups));
        }
    }
    best.map(|(_, groups)| groups).unwrap_or_default()
}

/// The layout of `f` slots; `f` is a power of two up to N.
pub(crate) fn slots(f: usize) -> Layout {
    Layout::new(f.trailing_zeros()).expect("a power of two up to N")
}

/// Sums the slots of a message `[F][C]` into its first `d` coefficients.
pub(crate) fn sum_features(message: &[Fp], coefficients: usize, d: usize) -> Vec<Fp> {
    let mut y = vec![Fp::ZERO; d];
    for slot in message.chunks(coefficients) {
        for (y, v) in y.iter_mut().zip(slot) {
            *y += *v;
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(sizes: [(usize, usize); 4], layers: usize) -> Packed {
        let of_layer =
            |l| Site::of_layer(l).into_iter().zip(sizes).map(|(site, (d_out, d_in))| (site, d_out, d_in));
        Packed::new(&(0..layers).flat_map(of_layer).collect::<Vec<_>>(), 5)
    }

    #[test]
    fn known_models_fill_their_ciphertexts() {
        // GPT-2: 7.08 M weights a block, 864 ciphertexts if none had a hole.
        let gpt2 = layers([(2304, 768), (768, 768), (3072, 768), (768, 3072)], 12);
        assert_eq!((gpt2.count(), gpt2.groups.len(), gpt2.width()), (12 * 864, 11, 12 * 6912));
        assert_eq!(gpt2.place(Site::Up(1)), 6912 + 3072..6912 + 6144);
        // SmolLM2: 3.54 M, 432 of them.
        let smollm2 = layers([(960, 576), (576, 576), (3072, 576), (576, 1536)], 30);
        assert!(smollm2.count() < 30 * 500 && smollm2.groups.len() < 24, "{}", smollm2.count());
        let head = Packed::new(&[(Site::Head, 50257, 768)], 0);
        assert!(head.count() < 50257 * 768 / N * 21 / 20);
    }

    #[test]
    fn every_weight_has_one_place() {
        for sizes in [[(24, 8), (8, 8), (20, 8), (8, 20)], [(5, 3), (1, 7), (9, 3), (3, 9)]] {
            let packed = layers(sizes, 3);
            let mut met = std::collections::HashMap::new();
            for index in 5..5 + packed.count() {
                let (group, k) = packed.locate(index);
                for (_, block, column) in group.used(k) {
                    for row in block.first..block.first + block.rows {
                        *met.entry((block.site.index(3), row, column)).or_insert(0) += 1;
                    }
                }
            }
            assert!(met.values().all(|n| *n == 1));
            assert_eq!(met.len(), 3 * sizes.map(|(d_out, d_in)| d_out * d_in).iter().sum::<usize>());
        }
    }
}
