//! Linear combinations of ciphertexts, returned as shares.
//!
//! **Function.** `Σ_k w[m][k] ⊙ x_k` for `m < M`, `w[m][k]` a vector over the slots.
//! **Hides.** As [`crate::shares`] says: the owner of the secret key learns its share and nothing
//! else.
//! **Cost.** `2·7·M·K·N` multiply-adds; 21 transforms per result.

use cryptogen_ring::{kernels, Fp, Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::encode::Multipliers;
use crate::encrypt::Ciphertext;
use crate::error::{check_length, HeError};
use crate::noise::check_products;
use crate::params::{Layout, Params, LIMBS, N};
use crate::shares::{self, RESULT_BYTES};

/// Multipliers encoded at a time: bounds the memory of a block to about `12·2^19` words.
const MULTIPLIERS_AT_ONCE: usize = 1 << 19;
/// Results at a time: enough for the matrix kernel to use each ciphertext often.
const RESULTS_AT_ONCE: usize = 64;
/// Below this many coefficients per slot the matrix kernel has nothing to do and slots are
/// multiplied one by one.
const MIN_COLUMNS: usize = 8;

/// Sums of products with ciphertexts that come in blocks, 458 KB for each of `M`.
pub struct Combiner {
    params: &'static Params,
    layout: Layout,
    results: usize,
    products: u64,
    /// `[limb][component]` arrays `[M][N]` in the partial domain; component 0 is `b`, 1 is `a`.
    /// They depend on the weights alone apart from public values, and are wiped.
    sums: Vec<Zeroizing<Vec<u32>>>,
}

impl Combiner {
    /// Sums for `results = M` combinations, zero so far.
    pub fn new(params: &'static Params, layout: Layout, results: usize) -> Combiner {
        let sums = (0..2 * LIMBS).map(|_| Zeroizing::new(vec![0; results * N])).collect();
        Combiner { params, layout, results, products: 0, sums }
    }

    /// Number of combinations, `M`.
    pub fn results(&self) -> usize {
        self.results
    }

    /// The parameters of the sums.
    pub fn params(&self) -> &'static Params {
        self.params
    }

    /// Adds `Σ_k w[m][k] ⊙ ct_k`; `weights` is `[M][k][F]` flat, `k = cts.len()`.
    /// Errors: lengths, another layout, more products than the noise bound allows (then nothing was
    /// added).
    pub fn add_block(&mut self, cts: &[Ciphertext], weights: &[Fp]) -> Result<(), HeError> {
        let (k, f) = (cts.len(), self.layout.slots());
        check_length("weights", self.results * k * f, weights.len())?;
        if let Some(ct) = cts.iter().find(|ct| ct.layout != self.layout) {
            let (expected, actual) = (self.layout.log_f(), ct.layout.log_f());
            return Err(HeError::LayoutMismatch { expected, actual });
        }
        let products = self.products + (k * f) as u64;
        check_products(products)?;
        self.products = products;
        if k == 0 || self.results == 0 {
            return Ok(());
        }
        if self.layout.coefficients() >= MIN_COLUMNS {
            self.add_matrix(cts, weights);
        } else {
            self.add_pointwise(cts, weights);
        }
        Ok(())
    }

    /// One matrix product `[m × k]·[k × C]` per slot, limb and component.
    fn add_matrix(&mut self, cts: &[Ciphertext], weights: &[Fp]) {
        let (params, layout, k) = (self.params, self.layout, cts.len());
        let (f, c) = (layout.slots(), layout.coefficients());
        let block = (MULTIPLIERS_AT_ONCE / (k * f)).clamp(1, RESULTS_AT_ONCE);
        for (i, weights) in weights.chunks(block * k * f).enumerate() {
            let results = weights.len() / (k * f);
            let multipliers = Multipliers::new(params, layout, weights.chunks_exact(f));
            self.sums.par_iter_mut().enumerate().for_each(|(index, sums)| {
                let (limb, component) = (index / 2, index % 2);
                let sums = &mut sums[i * block * N..(i * block + results) * N];
                for kappa in 0..f {
                    let start = limb * N + kappa * c;
                    let rows: Vec<&[u32]> =
                        cts.iter().map(|ct| &ct.component(component)[start..start + c]).collect();
                    let w = &multipliers.limbs[limb][kappa * results * k..(kappa + 1) * results * k];
                    kernels::gemm_mod(params.modulus(limb), w, &rows, &mut sums[kappa * c..], N);
                }
            });
        }
    }

    /// One multiplier after another, a few results and ciphertexts at a time.
    fn add_pointwise(&mut self, cts: &[Ciphertext], weights: &[Fp]) {
        let (params, layout, k) = (self.params, self.layout, cts.len());
        let (f, c) = (layout.slots(), layout.coefficients());
        let pairs: Vec<(usize, usize)> = (0..self.results * k).map(|i| (i / k, i % k)).collect();
        for pairs in pairs.chunks(4 * rayon::current_num_threads()) {
            let encode = |&(m, j): &(usize, usize)| {
                let start = (m * k + j) * f;
                Multipliers::new(params, layout, core::iter::once(&weights[start..start + f]))
            };
            let multipliers: Vec<Multipliers> = pairs.par_iter().map(encode).collect();
            self.sums.par_iter_mut().enumerate().for_each(|(index, sums)| {
                let (limb, component) = (index / 2, index % 2);
                for (&(m, j), multiplier) in pairs.iter().zip(&multipliers) {
                    let x = &cts[j].component(component)[limb * N..(limb + 1) * N];
                    let (w, sum) = (&multiplier.limbs[limb], &mut sums[m * N..(m + 1) * N]);
                    match c {
                        1 => kernels::multiply_add(params.modulus(limb), x, w, sum),
                        _ => kernels::multiply_add(params.modulus(limb), x, &repeat_each(w, c), sum),
                    }
                }
            });
        }
    }

    /// Turns each sum into a hidden result and the evaluator's share of it ([`crate::shares`]): the
    /// messages `[M][RESULT_BYTES]` and the shares `[M][N]`, each `[F][C]`. Error: a key of another
    /// ring.
    pub fn finish_shares(
        self,
        key: &shares::PublicKey,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Vec<u8>, Vec<Fp>), HeError> {
        key.check(self.params.ring())?;
        let seed = Seed::random(rng);
        let mut messages = vec![0; self.results * RESULT_BYTES];
        let mut shares = vec![Fp::ZERO; self.results * N];
        let room = || shares::Hidden::new(self.params.ring());
        let each = messages.par_chunks_exact_mut(RESULT_BYTES).zip(shares.par_chunks_exact_mut(N));
        each.enumerate().for_each_init(room, |hidden, (m, (message, share))| {
            let sum = |limb: usize, component: usize| &self.sums[2 * limb + component][m * N..(m + 1) * N];
            hidden.hide(key, self.layout.log_f(), sum, &mut Prg::new(&seed.derive("shares", m as u64)));
            hidden.write(message);
            share.iter_mut().enumerate().for_each(|(i, y)| *y = hidden.share(i));
            self.params.fp.forward(share, self.layout.log_f());
        });
        Ok((messages, shares))
    }
}

impl Ciphertext {
    fn component(&self, index: usize) -> &[u32] {
        if index == 0 {
            &self.b
        } else {
            &self.a
        }
    }
}

/// `[F]` → `[F][C]`.
fn repeat_each(w: &[u32], c: usize) -> Zeroizing<Vec<u32>> {
    Zeroizing::new(w.iter().flat_map(|&x| core::iter::repeat_n(x, c)).collect())
}
