//! The *diagonal* encoding (Halevi–Shoup) of a linear layer: where its inputs, weights and outputs
//! lie in the slots.
//!
//! Source: CryptoGen, "heterogeneous SIMD encodings"; baby-step giant-step as Halevi and Shoup
//! (CRYPTO 2018). The slots are `n` positions of `8192/n` lanes ([`Lanes`]). With `x` cut into
//! blocks of `n` inputs and `W` into blocks of `n` outputs, a lane holds one (row, input block,
//! output block, part): so many rows, blocks and *parts* of the diagonals are multiplied at once.
//!
//! - Input at (i, lane): `x[row][a·n + (i + s·D) mod n]`, for input block `a` and part `s` of
//!   `D = ⌈n/parts⌉` diagonals.
//! - Diagonal `d < D` at (i, lane): `W[o][a·n + (i + s·D + d) mod n]` with `o = b·n + i`, 0 outside
//!   `W` and where `s·D + d ≥ n`.
//! - Output at (i, lane): what block `a` and part `s` add to `y[row][o]`. Whoever holds shares adds
//!   up over (a, s): no rotations to sum them.
//!
//! `y = Σ_G rot_{Gg}( Σ_b rot_{−Gg}(diagonal_{Gg+b}) ⊙ rot_b(x) )`, evaluated by Horner's rule in
//! `rot_g`, so that `g` Galois keys do (one more where it is done in two halves at the same time).

use cryptogen_he::evaluate::{Lanes, N};
use cryptogen_ring::Fp;
use zeroize::Zeroizing;

/// How one layer of shape `[d_out, d_in]` is packed. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// inputs of the layer
    pub d_in: usize,
    /// outputs of the layer
    pub d_out: usize,
    /// positions and lanes of the slots
    pub lanes: Lanes,
    /// rows of `x` in one ciphertext
    pub rows: usize,
    /// input blocks in one ciphertext
    pub in_blocks: usize,
    /// output blocks in one ciphertext
    pub out_blocks: usize,
    /// parts of the diagonals side by side
    pub parts: usize,
    /// baby steps `g`
    pub babies: usize,
}

impl Packing {
    /// Ciphertexts that carry the inputs of `rows` rows at most.
    pub fn inputs(&self) -> usize {
        self.d_in.div_ceil(self.lanes.n()).div_ceil(self.in_blocks)
    }

    /// Ciphertexts that carry their outputs.
    pub fn outputs(&self) -> usize {
        self.d_out.div_ceil(self.lanes.n()).div_ceil(self.out_blocks)
    }

    /// Diagonals `D` that are multiplied one after the other.
    pub fn diagonals(&self) -> usize {
        self.lanes.n().div_ceil(self.parts)
    }

    /// Giant steps.
    pub fn giants(&self) -> usize {
        self.diagonals().div_ceil(self.babies)
    }

    /// Plaintexts that hold the weights.
    pub fn plaintexts(&self) -> usize {
        self.inputs() * self.outputs() * self.diagonals()
    }

    /// Whether everything fits into the slots.
    pub fn fits(&self) -> bool {
        let lanes = self.rows * self.in_blocks * self.out_blocks * self.parts;
        lanes > 0 && lanes <= self.lanes.count() && self.babies > 0 && self.parts <= self.lanes.n()
    }

    /// Giant steps done by the first of two threads. With one output ciphertext its sum is split
    /// between two threads; with several, each thread takes whole outputs and nothing is split.
    pub fn half(&self) -> usize {
        match self.outputs() == 1 {
            true => self.giants().div_ceil(2),
            false => self.giants(),
        }
    }

    /// Diagonals to rotate by: baby steps of the inputs, one giant step of the sums, what joins two
    /// halves.
    pub fn turns(&self) -> impl Iterator<Item = usize> + '_ {
        let giant = (self.giants() > 1).then_some(self.babies);
        let join = (self.half() < self.giants()).then_some(self.half() * self.babies);
        (1..self.babies.min(self.diagonals())).chain(giant).chain(join)
    }

    /// The same in slots.
    pub fn steps(&self) -> impl Iterator<Item = usize> + '_ {
        self.turns().map(|d| self.lanes.step(d))
    }

    fn lane(&self, row: usize, a: usize, b: usize, s: usize) -> usize {
        ((row * self.in_blocks + a) * self.out_blocks + b) * self.parts + s
    }

    /// Every (row, a, b, s) of a ciphertext with its lane.
    fn lanes(&self) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> + '_ {
        let inner = move |row, a| {
            (0..self.out_blocks)
                .flat_map(move |b| (0..self.parts).map(move |s| (row, a, b, s, self.lane(row, a, b, s))))
        };
        (0..self.rows).flat_map(move |row| (0..self.in_blocks).flat_map(move |a| inner(row, a)))
    }

    /// Slots of input ciphertext `alpha` of rows `x`, `[≤ rows][d_in]`; zero beyond them.
    pub fn input(&self, x: &[Fp], alpha: usize) -> Zeroizing<Vec<Fp>> {
        let (n, d) = (self.lanes.n(), self.diagonals());
        let mut slots = Zeroizing::new(vec![Fp::ZERO; N]);
        for (row, a, _, s, lane) in self.lanes() {
            let block = (alpha * self.in_blocks + a) * n;
            let Some(x) = x.get(row * self.d_in..(row + 1) * self.d_in) else { continue };
            for i in 0..n {
                if let Some(v) = x.get(block + (i + s * d) % n) {
                    slots[self.lanes.slot(i, lane)] = *v;
                }
            }
        }
        slots
    }

    /// Slots of a diagonal of `w`, `[d_out][d_in]`, already rotated back by its giant step.
    pub fn diagonal(&self, w: &[i16], beta: usize, alpha: usize, diagonal: usize) -> Vec<Fp> {
        let n = self.lanes.n();
        let back = diagonal / self.babies * self.babies;
        let mut slots = vec![Fp::ZERO; N];
        for (_, a, b, s, lane) in self.lanes() {
            let offset = s * self.diagonals() + diagonal;
            if offset >= n {
                continue;
            }
            let (block_in, block_out) = ((alpha * self.in_blocks + a) * n, (beta * self.out_blocks + b) * n);
            for i in 0..n.min(self.d_out.saturating_sub(block_out)) {
                let column = block_in + (i + offset) % n;
                if column < self.d_in {
                    let weight = w[(block_out + i) * self.d_in + column];
                    slots[self.lanes.slot((i + back) % n, lane)] = Fp::from_i64(i64::from(weight));
                }
            }
        }
        slots
    }

    /// Adds up the lanes of the outputs `[outputs][N]` of `rows` rows: `[rows][d_out]`. Linear, so
    /// it works on shares.
    pub fn output(&self, slots: &[impl AsRef<[Fp]>], rows: usize) -> Vec<Fp> {
        let n = self.lanes.n();
        let mut y = vec![Fp::ZERO; rows * self.d_out];
        for (beta, slots) in slots.iter().enumerate() {
            let slots = slots.as_ref();
            for (row, _, b, _, lane) in self.lanes().filter(|(row, ..)| *row < rows) {
                let block = (beta * self.out_blocks + b) * n;
                for i in 0..n.min(self.d_out.saturating_sub(block)) {
                    y[row * self.d_out + block + i] += slots[self.lanes.slot(i, lane)];
                }
            }
        }
        y
    }
}
