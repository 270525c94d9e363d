//! Linear combinations of ciphertexts, returned masked; or as shares, see [`crate::shares`].
//!
//! **Function.** `ct'_m = Enc(Σ_k w[m][k] ⊙ x_k − mask_m)` for `m < M`, `w[m][k]` a vector over the
//! slots.
//! **Hides.** The owner of the secret key learns the decrypted message and nothing else about `w`:
//! an encryption of zero under its public key makes `c_1` pseudorandom (RLWE; without it `c_1`
//! would be a public linear function of `w`), flooding makes the noise of `c_0` independent of `w`
//! (see [`crate::noise`]). Semi-honest: the public key is taken as honestly made.
//! **Cost.** `2·7·M·K·N` multiply-adds; 21 transforms per result.

use cryptogen_ring::{kernels, Fp, Prg, Seed};
use rand_core::{CryptoRng, RngCore};
use rayon::prelude::*;
use zeroize::Zeroizing;

use crate::encode::{Multipliers, Scaled, Terms};
use crate::encrypt::Ciphertext;
use crate::error::{check_length, HeError};
use crate::keys::PublicKey;
use crate::noise::{check_products, FLOOD_BITS};
use crate::params::{Layout, Params, LIMBS, LOG_N, N, OUTPUT_LIMBS};
use crate::sample::{self, ERROR_OFFSET, TERNARY_OFFSET};
use crate::shares::{self, RESULT_BYTES};
use crate::shorten::{self, lengthen, shorten};

/// Multipliers encoded at a time: bounds the memory of a block to about `12·2^20` words.
const MULTIPLIERS_AT_ONCE: usize = 1 << 20;
/// Results at a time: enough for the matrix kernel to use each ciphertext often.
const RESULTS_AT_ONCE: usize = 64;
/// Below this many coefficients per slot the matrix kernel has nothing to do and slots are
/// multiplied one by one.
const MIN_COLUMNS: usize = 8;

/// A result: two polynomials of [`OUTPUT_LIMBS`] limbs, coefficients.
pub struct MaskedCiphertext {
    pub(crate) c0: Vec<u32>,
    pub(crate) c1: Vec<u32>,
}

impl MaskedCiphertext {
    /// Length of [`MaskedCiphertext::to_bytes`].
    pub const BYTES: usize = shorten::bytes(0) + shorten::bytes(1);

    /// `c_0`, then `c_1`, without the low bits that are noise.
    pub fn to_bytes(&self, params: &Params) -> Vec<u8> {
        let mut out = Vec::with_capacity(MaskedCiphertext::BYTES);
        shorten(params, 0, &self.c0, &mut out);
        shorten(params, 1, &self.c1, &mut out);
        out
    }

    /// The inverse of [`MaskedCiphertext::to_bytes`], checked.
    pub fn from_bytes(params: &Params, bytes: &[u8]) -> Result<MaskedCiphertext, HeError> {
        check_length("masked ciphertext", MaskedCiphertext::BYTES, bytes.len())?;
        let (c0, c1) = bytes.split_at(shorten::bytes(0));
        Ok(MaskedCiphertext { c0: lengthen(params, 0, c0)?, c1: lengthen(params, 1, c1)? })
    }
}

/// All at once: `cts` `[K]`, `weights` `[M][K][F]` flat, `masks` `[M][N]` flat (each `[F][C]`).
pub fn combine(
    params: &'static Params,
    layout: Layout,
    cts: &[Ciphertext],
    weights: &[Fp],
    pk: &PublicKey,
    masks: &[Fp],
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<MaskedCiphertext>, HeError> {
    let mut combiner = Combiner::new(params, layout, masks.len() / N);
    combiner.add_block(cts, weights)?;
    combiner.finish(pk, masks, rng)
}

/// The same with the ciphertexts coming in blocks. Holds `M` sums of 458 KB.
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

    /// Masks, hides and shrinks the sums. `masks` is `[M][N]` flat; uniform masks are the caller's
    /// responsibility.
    pub fn finish(
        self,
        pk: &PublicKey,
        masks: &[Fp],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<MaskedCiphertext>, HeError> {
        check_length("masks", self.results * N, masks.len())?;
        let seed = Seed::random(rng);
        let one = |work: &mut Hidden, m: usize| {
            let mut prg = Prg::new(&seed.derive("combine", m as u64));
            self.finish_one(m, pk, &masks[m * N..(m + 1) * N], true, &mut prg, work);
            work.switch(self.params)
        };
        Ok((0..self.results).into_par_iter().map_init(Hidden::new, one).collect())
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

    /// `sum + (u·pk + (e_1, e_2)) + (flooding − mask, 0)` as coefficients modulo all primes. Only
    /// tests pass `flood = false`.
    pub(crate) fn finish_one(
        &self,
        m: usize,
        pk: &PublicKey,
        mask: &[Fp],
        flood: bool,
        rng: &mut Prg,
        out: &mut Hidden,
    ) {
        let (params, lf) = (self.params, self.layout.log_f());
        let (u, e1, e2) = (sample::ternary(rng, N), sample::error(rng, N), sample::error(rng, N));
        let digits = sample::flood(rng);
        let mask = Scaled::new(params, self.layout, mask);
        let mut u_full = Zeroizing::new(vec![0; N]);
        for limb in 0..LIMBS {
            let (q, ntt, range) = (params.modulus(limb), params.ntt(limb), limb * N..(limb + 1) * N);
            u_full.fill(0);
            Terms::new(q).add_offset(&u, TERNARY_OFFSET).add_to(&mut u_full);
            ntt.forward(&mut u_full, 0..LOG_N);
            let zero = |key: &[u32], component: usize, out: &mut [u32]| {
                kernels::multiply(q, key, &u_full, out);
                ntt.inverse(out, lf..LOG_N);
                Terms::new(q).add(1, &self.sums[2 * limb + component][m * N..(m + 1) * N]).add_to(out);
                ntt.inverse(out, 0..lf);
            };
            let (c0, c1) = (&mut out.c0[range.clone()], &mut out.c1[range.clone()]);
            zero(&pk.b[range.clone()], 0, c0);
            zero(&pk.a[range], 1, c1);
            let r = mask.residues(q);
            // −Δ·mask = +r·t^{−1}.
            let mut terms =
                Terms::new(q).add_offset(&e1, ERROR_OFFSET).add(params.ring().t_inverse[limb], &r);
            if flood {
                let power = |digit: usize| q.pow(2, 32 * digit as u64);
                terms = (0..digits.len()).fold(terms, |t, digit| t.add(power(digit), &digits[digit]));
                terms = terms.constant(q.neg(q.pow(2, FLOOD_BITS as u64)));
            }
            terms.add_to(c0);
            Terms::new(q).add_offset(&e2, ERROR_OFFSET).add_to(c1);
        }
    }
}

/// A finished ciphertext before the modulus switch: coefficients `[LIMBS][N]`.
pub(crate) struct Hidden {
    pub(crate) c0: Vec<u32>,
    pub(crate) c1: Vec<u32>,
}

impl Hidden {
    pub(crate) fn new() -> Hidden {
        Hidden { c0: vec![0; LIMBS * N], c1: vec![0; LIMBS * N] }
    }

    /// Drops limbs one by one from the last, with rounding: `c ← round(c/q_l)`. The contents are
    /// used up.
    fn switch(&mut self, params: &Params) -> MaskedCiphertext {
        for c in [&mut self.c0, &mut self.c1] {
            for last in (OUTPUT_LIMBS..LIMBS).rev() {
                let (rest, dropped) = c.split_at_mut(last * N);
                for (limb, out) in rest.chunks_exact_mut(N).enumerate() {
                    let (q, l) = (params.modulus(limb), params.modulus(last));
                    kernels::drop_limb(q, l, params.drop[last][limb], &dropped[..N], out);
                }
            }
        }
        let kept = OUTPUT_LIMBS * N;
        MaskedCiphertext { c0: self.c0[..kept].to_vec(), c1: self.c1[..kept].to_vec() }
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
