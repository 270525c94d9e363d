//! Many sums of products with plaintexts at once (ct × pt of a prompt): every operand is loaded
//! once for a tile of sums.
//!
//! A sum of [`Evaluator::dot_plain`] reads its operands from memory for two products each. Where
//! many ciphertexts meet many plaintexts, both are laid out in panels
//! ([`cryptogen_ring::kernels::panel_product`]) and multiplied like matrices.

use cryptogen_ring::kernels::{self, BLOCK};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::ciphertext::{Ciphertext, Domain};
use super::context::LIMBS;
use super::encode::Plaintext;
use super::evaluator::{count, Evaluator};
use super::noise::Noise;
use crate::error::{check_length, HeError};
use crate::params::N;

/// Ciphertexts `[depth][columns]`, filled `depth` by `depth`.
pub struct CiphertextPanel {
    /// `[LIMBS][N/BLOCK]` blocks of the right operand: a column is two rows, one per polynomial
    data: Vec<u32>,
    columns: usize,
    depth: usize,
    /// `[filled][columns]`
    noise: Vec<Noise>,
}

/// Plaintexts `[rows][depth]`. Wiped on drop.
pub struct PlaintextPanel {
    /// `[LIMBS][N/BLOCK]` blocks of the left operand
    data: Zeroizing<Vec<u32>>,
    rows: usize,
    depth: usize,
}

/// Copies rows of one limb into a limb of a panel: `sources` are whole rows with the line that each
/// has in a block of `lines`.
fn scatter(out: &mut [u32], lines: usize, sources: &[(usize, &[u32])]) {
    for (block, out) in out.chunks_exact_mut(lines * BLOCK).enumerate() {
        for (line, row) in sources {
            out[line * BLOCK..(line + 1) * BLOCK].copy_from_slice(&row[block * BLOCK..(block + 1) * BLOCK]);
        }
    }
}

impl CiphertextPanel {
    /// Bytes of a panel.
    pub const fn bytes(depth: usize, columns: usize) -> usize {
        depth * columns * Ciphertext::MEMORY
    }

    /// Room for `depth` times `columns` ciphertexts.
    pub fn new(depth: usize, columns: usize) -> CiphertextPanel {
        CiphertextPanel { data: vec![0; 2 * LIMBS * N * depth * columns], columns, depth, noise: vec![] }
    }

    /// Adds the ciphertexts of the next `depth`s, `[any][columns]`. Errors: more than there is room
    /// for, or no whole number of columns.
    pub fn push(&mut self, evaluator: &Evaluator<'_>, cts: &[Ciphertext]) -> Result<(), HeError> {
        let (first, more) = (self.noise.len() / self.columns.max(1), cts.len() / self.columns.max(1));
        check_length("ciphertexts of a panel", more.min(self.depth - first) * self.columns, cts.len())?;
        let cts: Vec<_> = cts.iter().map(|ct| ct.transformed(evaluator.context)).collect();
        let (rows, depth, columns) = (2 * self.columns, self.depth, self.columns);
        self.data.par_chunks_exact_mut(N * rows * depth).enumerate().for_each(|(limb, out)| {
            let sources = cts.iter().enumerate().flat_map(|(i, ct)| {
                let (k, column) = (first + i / columns, i % columns);
                [0, 1].map(|component| {
                    (kernels::right_line(rows, depth, 2 * column + component, k), ct.limb(component, limb))
                })
            });
            scatter(out, rows * depth, &sources.collect::<Vec<_>>());
        });
        self.noise.extend(cts.iter().map(|ct| ct.noise));
        Ok(())
    }
}

impl PlaintextPanel {
    /// Room for `rows` times `depth` plaintexts; those not filled are zero.
    pub fn new(rows: usize, depth: usize) -> PlaintextPanel {
        PlaintextPanel { data: Zeroizing::new(vec![0; LIMBS * N * rows * depth]), rows, depth }
    }

    /// Fills one row. Errors: another number of plaintexts, no such row.
    pub fn fill(&mut self, row: usize, plaintexts: &[&Plaintext]) -> Result<(), HeError> {
        let (rows, depth) = (self.rows, self.depth);
        check_length("plaintexts of a row of a panel", if row < rows { depth } else { 0 }, plaintexts.len())?;
        self.data.par_chunks_exact_mut((N * rows * depth).max(1)).enumerate().for_each(|(limb, out)| {
            let sources = plaintexts.iter().enumerate();
            let sources = sources.map(|(k, pt)| (kernels::left_line(rows, depth, row, k), pt.limb(limb)));
            scatter(out, rows * depth, &sources.collect::<Vec<_>>());
        });
        Ok(())
    }
}

impl Evaluator<'_> {
    /// `Σ_k ct[k][column] ⊙ pt[row][k]` for every row and column: `[rows][columns]`, on all
    /// threads. The plaintexts' depth may be less than the ciphertexts'. Errors: it is more than
    /// what was filled.
    pub fn products(
        &self,
        plaintexts: &PlaintextPanel,
        cts: &CiphertextPanel,
    ) -> Result<Vec<Ciphertext>, HeError> {
        let (rows, depth, columns) = (plaintexts.rows, plaintexts.depth, cts.columns);
        let filled = cts.noise.len() / columns.max(1);
        if depth > filled {
            return Err(HeError::Length { what: "depth of a panel", expected: filled, actual: depth });
        }
        let mut sums = vec![0; LIMBS * N * rows * 2 * columns];
        let left = plaintexts.data.par_chunks_exact((N * rows * depth).max(1));
        let right = cts.data.par_chunks_exact((N * 2 * columns * cts.depth).max(1));
        sums.par_chunks_exact_mut((N * rows * 2 * columns).max(1)).zip(left.zip(right)).enumerate().for_each(
            |(limb, (out, (left, right)))| {
                let modulus = self.context.modulus(limb);
                kernels::panel_product(modulus, (left, rows), (right, 2 * columns), (depth, cts.depth), out);
            },
        );
        count(&self.counters.ct_pt, rows * depth * columns);
        let noise = |column: usize| {
            let terms = cts.noise.iter().skip(column).step_by(columns).take(depth);
            terms.fold(Noise::none(), |sum, noise| sum + noise.times_plain())
        };
        let noise: Vec<Noise> = (0..columns).map(noise).collect();
        let all = (0..rows * columns).into_par_iter().map(|i| {
            let c = [0, 1].map(|component| {
                let limb = |limb: usize| &sums[(2 * (limb * rows * columns + i) + component) * N..][..N];
                let mut c = Vec::with_capacity(LIMBS * N);
                (0..LIMBS).for_each(|l| c.extend_from_slice(limb(l)));
                c
            });
            Ciphertext { c, domain: Domain::Transform, noise: noise[i % columns] }
        });
        Ok(all.collect())
    }
}
