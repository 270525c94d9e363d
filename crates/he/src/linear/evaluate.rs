//! The evaluator's side: products with weights that are transformed on the way.

use core::ops::Range;

use cryptogen_ring::{kernels, Fp, Modulus, Prg, Seed, Wiped};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;

use super::packing::{transposed, Packing};
use super::{Params, INPUT_BYTES, LIMBS, N, OUTPUT_BYTES};
use crate::codec::unpack;
use crate::encode::Terms;
use crate::error::{check_length, HeError};
use crate::shares::{Hidden, PublicKey};

/// Transformed weights at a time on each thread: 4 MB for each prime in turn.
const WEIGHTS_AT_ONCE: usize = 1 << 20;
/// Results at a time: enough for the matrix kernel to use each ciphertext often.
const RESULTS_AT_ONCE: usize = 64;
/// Below this many tokens the matrix kernel has no whole vectors; multipliers are then repeated for
/// each token and multiplied coefficient by coefficient.
const MIN_COLUMNS: usize = 16;
/// Multipliers repeated at a time.
const REPEATED_AT_ONCE: usize = 32;

/// The encrypted inputs of one packing, 96 KB for each group. Every matrix row meets all of them,
/// so all must have come before [`evaluate`]; results then go in pieces of any size. They need not
/// all be in memory at once: [`Inputs::absorb`].
pub struct Inputs {
    packing: Packing,
    /// Groups that were absorbed.
    absorbed: usize,
    /// Of every output group the sums over these, `[limb][component][N]` in the partial domain;
    /// nothing if there are none.
    sums: Vec<Wiped<u32>>,
    /// For each group in memory `b` and `a`, `[LIMBS][N]` in the partial domain.
    groups: Vec<[Vec<u32>; 2]>,
}

impl Inputs {
    /// No group yet.
    pub fn new(packing: Packing) -> Inputs {
        Inputs { packing, absorbed: 0, sums: Vec::new(), groups: Vec::new() }
    }

    /// The shapes.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Groups that have come.
    pub fn received(&self) -> usize {
        self.absorbed + self.groups.len()
    }

    /// Adds the next groups, [`INPUT_BYTES`] each. Errors: a length that is no multiple of it, more
    /// groups than the packing has, a residue that is not canonical (then nothing was added).
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), HeError> {
        let missing = self.packing.inputs() - self.received();
        let whole = (bytes.len() / INPUT_BYTES).min(missing);
        check_length("encrypted inputs", whole * INPUT_BYTES, bytes.len())?;
        let ring = Params::get().ring();
        let parse = |bytes: &[u8]| {
            let (seed, b) = bytes.split_at(32);
            let b = unpack(ring, "encrypted inputs", b)?;
            Ok([b, ring.uniform(seed.try_into().expect("split at 32"))])
        };
        let groups: Result<Vec<_>, HeError> = bytes.par_chunks_exact(INPUT_BYTES).map(parse).collect();
        self.groups.extend(groups?);
        Ok(())
    }

    /// Multiplies the groups in memory and forgets them: 192 KB for each output group stay,
    /// whatever the number of inputs. `weights` as in [`evaluate`].
    pub fn absorb(&mut self, weights: impl Fn(usize, &mut [i32]) + Sync) {
        let outputs = self.packing.outputs();
        let mut sums = std::mem::take(&mut self.sums);
        sums.resize_with(outputs, || Wiped::zeros(2 * LIMBS * N));
        let block = block(self, outputs);
        sums.par_chunks_mut(block).enumerate().for_each_init(
            || Work::new(self, block),
            |work, (i, sums)| {
                work.multiply(self, i * block, sums.len(), &weights);
                for (m, sums) in sums.iter_mut().enumerate() {
                    work.add(m, sums);
                }
            },
        );
        (self.sums, self.absorbed) = (sums, self.received());
        self.groups.clear();
    }

    /// The first input of the groups in memory.
    fn first_input(&self) -> usize {
        self.absorbed * self.packing.f_in()
    }
}

/// Output groups at a time, of `outputs` that are shared out among threads.
fn block(inputs: &Inputs, outputs: usize) -> usize {
    let weights = (inputs.groups.len() << inputs.packing.levels()).max(1);
    let share_out = outputs.div_ceil(rayon::current_num_threads());
    (WEIGHTS_AT_ONCE / weights).clamp(1, RESULTS_AT_ONCE).min(share_out).max(1)
}

/// The results of the output groups `outputs`, [`OUTPUT_BYTES`] each, and the evaluator's shares
/// `[tokens][rows]` of the rows of the matrix that they hold ([`Packing::rows`]).
///
/// `weights(o, row)` writes the `d_in` weights of row `o` of the matrix, below `2^27` in absolute
/// value; it is asked once for each row, on several threads. Each thread holds 100 KB for each of
/// up to 64 results, and 8 bytes for each of their weights, up to 8 MB or one result's. Errors:
/// inputs that have not all come, a range that is not within the
/// groups, a key of another ring.
pub fn evaluate(
    inputs: &Inputs,
    outputs: Range<usize>,
    weights: impl Fn(usize, &mut [i32]) + Sync,
    key: &PublicKey,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(Vec<u8>, Vec<Fp>), HeError> {
    let packing = &inputs.packing;
    let rows = packing.rows(&outputs)?.len();
    check_length("encrypted inputs", packing.inputs(), inputs.received())?;
    key.check(Params::get().ring())?;
    let (seed, tokens, f_out) = (Seed::random(rng), packing.tokens(), packing.f_out());
    let block = block(inputs, outputs.len());
    let mut results = vec![0; outputs.len() * OUTPUT_BYTES];
    let mut by_row = Wiped::new(vec![Fp::ZERO; outputs.len() * f_out * tokens]);
    let pieces =
        results.par_chunks_mut(block * OUTPUT_BYTES).zip(by_row.par_chunks_mut(block * f_out * tokens));
    pieces.enumerate().for_each_init(
        || Work::new(inputs, block),
        |work, (i, (results, by_row))| {
            let first = outputs.start + i * block;
            work.multiply(inputs, first, results.len() / OUTPUT_BYTES, &weights);
            let each = results.chunks_exact_mut(OUTPUT_BYTES).zip(by_row.chunks_exact_mut(f_out * tokens));
            for (m, (result, by_row)) in each.enumerate() {
                if let Some(earlier) = inputs.sums.get(first + m) {
                    work.add_earlier(m, earlier);
                }
                let Work { sums, hidden, .. } = &mut *work;
                let sum = |limb: usize, component: usize| &sums[2 * limb + component][m * N..(m + 1) * N];
                let mut prg = Prg::new(&seed.derive("linear", (first + m) as u64));
                hidden.hide(key, packing.levels(), sum, &mut prg);
                hidden.write(result);
                for (j, row) in by_row.chunks_exact_mut(tokens).enumerate() {
                    let start = packing.coefficient(j);
                    row.iter_mut().enumerate().for_each(|(tau, y)| *y = hidden.share(start + tau));
                }
            }
        },
    );
    Ok((results, transposed(&by_row, tokens, rows)))
}

/// One thread's room for a block of results.
struct Work {
    row: Wiped<i32>,
    /// The block's weights as they are, negative ones from above, and modulo one prime.
    plain: Wiped<u32>,
    multipliers: Wiped<u32>,
    repeated: Wiped<u32>,
    product: [Wiped<u32>; 2],
    /// `[limb][component]` arrays `[block][N]` in the partial domain.
    sums: Vec<Wiped<u32>>,
    hidden: Hidden,
}

impl Work {
    fn new(inputs: &Inputs, block: usize) -> Work {
        let packing = &inputs.packing;
        let weights = (inputs.groups.len() << packing.levels()) * block;
        let repeated = match packing.padded() < MIN_COLUMNS {
            true => N,
            false => 0,
        };
        Work {
            row: Wiped::zeros(packing.d_in()),
            plain: Wiped::zeros(weights),
            multipliers: Wiped::zeros(weights),
            repeated: Wiped::zeros(repeated * REPEATED_AT_ONCE.min(inputs.groups.len())),
            product: [Wiped::zeros(repeated), Wiped::zeros(repeated)],
            sums: (0..2 * LIMBS).map(|_| Wiped::zeros(block * N)).collect(),
            hidden: Hidden::new(Params::get().ring()),
        }
    }

    /// The sums of `count` output groups from `first` on.
    fn multiply(
        &mut self,
        inputs: &Inputs,
        first: usize,
        count: usize,
        weights: &(impl Fn(usize, &mut [i32]) + Sync),
    ) {
        let (packing, ring) = (&inputs.packing, Params::get().ring());
        let (groups, f, levels) = (inputs.groups.len(), 1 << packing.levels(), packing.levels());
        let batch = count * groups;
        if groups == 0 {
            return self.sums.iter_mut().for_each(|sums| sums[..count * N].fill(0));
        }
        let matrix = packing.padded() >= MIN_COLUMNS;
        // Coefficient `c` of the multiplier of output group `m` and input group `k` lies at
        // `[c][m][k]` for the matrix kernel, at `[m][k][c]` otherwise.
        let strides = if matrix { (batch, groups, 1) } else { (1, groups * f, f) };
        self.fill(inputs, first, count, strides, weights);
        for limb in 0..LIMBS {
            let (q, ntt) = (ring.modulus(limb), ring.ntt(limb));
            let multipliers = &mut self.multipliers[..batch * f];
            residues(q, &self.plain[..batch * f], multipliers);
            let (b, a) = self.sums[2 * limb..2 * limb + 2].split_at_mut(1);
            let sums = [&mut b[0][..count * N], &mut a[0][..count * N]];
            if matrix {
                ntt.forward(multipliers, 0..levels);
                for (component, sums) in sums.into_iter().enumerate() {
                    sums.fill(0);
                    for kappa in 0..f {
                        let (t, start) = (packing.padded(), kappa * packing.padded());
                        let at = limb * N + start;
                        let rows: Vec<&[u32]> =
                            inputs.groups.iter().map(|g| &g[component][at..at + t]).collect();
                        let w = &multipliers[kappa * batch..(kappa + 1) * batch];
                        kernels::gemm_mod(q, w, &rows, &mut sums[start..], N);
                    }
                }
            } else {
                multipliers.chunks_exact_mut(f).for_each(|w| ntt.forward(w, 0..levels));
                let [b, a] = sums;
                let each = b.chunks_exact_mut(N).zip(a.chunks_exact_mut(N));
                for (sums, multipliers) in each.zip(multipliers.chunks_exact(groups * f)) {
                    let room = (&mut self.repeated[..], &mut self.product);
                    pointwise(q, limb, &inputs.groups, multipliers, room, [sums.0, sums.1]);
                }
            }
        }
    }

    /// Adds the sums of output group `m` of the block to `sums`.
    fn add(&self, m: usize, sums: &mut [u32]) {
        for ((i, sums), new) in sums.chunks_exact_mut(N).enumerate().zip(&self.sums) {
            add(Params::get().ring().modulus(i / 2), sums, &new[m * N..(m + 1) * N]);
        }
    }

    /// Adds earlier sums to those of output group `m` of the block.
    fn add_earlier(&mut self, m: usize, earlier: &[u32]) {
        for ((i, earlier), sums) in earlier.chunks_exact(N).enumerate().zip(&mut self.sums) {
            add(Params::get().ring().modulus(i / 2), &mut sums[m * N..(m + 1) * N], earlier);
        }
    }

    /// The block's weights at their coefficients; `strides` of coefficient, output and input group.
    fn fill(
        &mut self,
        inputs: &Inputs,
        first: usize,
        count: usize,
        (of_coefficient, of_output, of_input): (usize, usize, usize),
        weights: &(impl Fn(usize, &mut [i32]) + Sync),
    ) {
        let packing = &inputs.packing;
        let (f_in, f_out) = (packing.f_in(), packing.f_out());
        let start = inputs.first_input();
        let columns = start..(start + inputs.groups.len() * f_in).min(packing.d_in());
        self.plain.fill(0);
        for m in 0..count {
            let rows = (first + m) * f_out..((first + m + 1) * f_out).min(packing.d_out());
            for (j, o) in rows.enumerate() {
                weights(o, &mut self.row);
                for i in 0..f_in.min(columns.len()) {
                    let start = (j * f_in + f_in - 1 - i) * of_coefficient + m * of_output;
                    let places = self.plain[start..].iter_mut().step_by(of_input);
                    let weights = self.row[columns.clone()][i..].iter().step_by(f_in);
                    places.zip(weights).for_each(|(place, &w)| *place = w as u32);
                }
            }
        }
    }
}

/// `x += y` modulo `q`.
fn add(q: &Modulus, x: &mut [u32], y: &[u32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = q.add(*x, *y));
}

/// Small integers modulo `q`.
fn residues(q: &Modulus, x: &[u32], out: &mut [u32]) {
    let q = q.value();
    // All bits of the sign, so nothing branches.
    out.iter_mut().zip(x).for_each(|(o, &x)| *o = x.wrapping_add(q & ((x as i32) >> 31) as u32));
}

/// One output group without the matrix kernel: `multipliers` are `[groups][f]`.
fn pointwise(
    q: &Modulus,
    limb: usize,
    groups: &[[Vec<u32>; 2]],
    multipliers: &[u32],
    (repeated, product): (&mut [u32], &mut [Wiped<u32>; 2]),
    sums: [&mut [u32]; 2],
) {
    let f = multipliers.len() / groups.len();
    let [sum_b, sum_a] = sums;
    sum_b.fill(0);
    sum_a.fill(0);
    for (groups, multipliers) in groups.chunks(REPEATED_AT_ONCE).zip(multipliers.chunks(REPEATED_AT_ONCE * f))
    {
        let repeated = &mut repeated[..groups.len() * N];
        for (out, &w) in repeated.chunks_exact_mut(N / f).zip(multipliers) {
            out.fill(w);
        }
        let x: Vec<&[u32]> = repeated.chunks_exact(N).collect();
        let component = |c: usize| groups.iter().map(|g| &g[c][limb * N..(limb + 1) * N]).collect::<Vec<_>>();
        let [b, a] = &mut *product;
        kernels::multiply_sum(q, &x, [&component(0), &component(1)], [&mut b[..], &mut a[..]]);
        Terms::new(q).add(1, b).add_to(sum_b);
        Terms::new(q).add(1, a).add_to(sum_a);
    }
}
