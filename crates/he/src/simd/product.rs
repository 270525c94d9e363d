//! Products of ciphertexts: `round(t/q·(c ⊗ c'))`, in residues throughout (Kim–Polyakov–Zucca, ASIACRYPT 2021).
//!
//! The left operand is extended from `q` to `q·A`. The right one is first scaled from `q` to `A`, then extended to `q·A`. Their product is
//! then scaled by `t/A` back to `q`: a wrap modulo `q·A` becomes a multiple of `t·q`, so the sizes need no room to spare. Sums of products
//! are scaled and relinearised once.

use cryptogen_ring::modulus::Factor;
use cryptogen_ring::{kernels, Modulus, Ntt};
use rayon::prelude::*;

use super::ciphertext::{Ciphertext, Domain};
use super::context::{Conversion, AUX, LIMBS};
use super::evaluator::{count, Evaluator};
use super::noise::Noise;
use super::switch::inverse;
use crate::encode::Terms;
use crate::error::HeError;
use crate::params::{LOG_N, N};

/// Primes of `q·A`.
const BOTH: usize = LIMBS + AUX;

/// A left operand modulo `q·A`, transform domain, `[BOTH][N]` per polynomial.
pub struct Left(Extended);
/// A right operand, scaled by `A/q`.
pub struct Right(Extended);

struct Extended {
    c: [Vec<u32>; 2],
    noise: Noise,
}

impl Extended {
    fn limb(&self, component: usize, limb: usize) -> &[u32] {
        &self.c[component][limb * N..(limb + 1) * N]
    }
}

impl Evaluator<'_> {
    /// Prepares a left operand; reusable.
    pub fn left(&self, ct: &Ciphertext) -> Left {
        let context = self.context;
        let ct = ct.transformed(context);
        let c = core::array::from_fn(|component| {
            let own = &ct.c[component];
            let mut out = own.clone();
            let coefficients = inverse(context, own);
            out.extend(convert(
                &context.extend,
                |i| context.modulus(i),
                &coefficients,
                |j| context.aux_ntt(j),
            ));
            out
        });
        Left(Extended { c, noise: ct.noise })
    }

    /// Prepares a right operand; reusable.
    pub fn right(&self, ct: &Ciphertext) -> Right {
        let context = self.context;
        let mut ct = ct.clone();
        ct.untransform(context);
        let c = core::array::from_fn(|component| {
            let aux = |j| context.aux_ntt(j).modulus();
            let mut scaled = residues(&context.to_aux, |i| context.modulus(i), &ct.c[component], aux, None);
            let mut out = convert(&context.from_aux, aux, &scaled, |i| context.ntt(i));
            scaled
                .par_chunks_exact_mut(N)
                .enumerate()
                .for_each(|(j, x)| context.aux_ntt(j).forward(x, 0..LOG_N));
            out.extend(scaled);
            out
        });
        Right(Extended { c, noise: ct.noise })
    }

    /// `Σ left·right`, relinearised; its noise is that of the sum.
    pub fn dot(&self, pairs: &[(&Left, &Right)]) -> Result<Ciphertext, HeError> {
        let context = self.context;
        // d_0, d_1, d_2 as coefficients modulo q·A, scaled to q.
        let d: Vec<Vec<u32>> = (0..3).into_par_iter().map(|degree| self.tensor(pairs, degree)).collect();
        let sums = self.switch(&self.keys.relinearisation, &d[2], None);
        let mut c = self.divide_to_coefficients(&sums);
        for (c, d) in c.iter_mut().zip(&d) {
            c.par_chunks_exact_mut(N)
                .zip(d.par_chunks_exact(N))
                .enumerate()
                .for_each(|(limb, (c, d))| Terms::new(context.modulus(limb)).add(1, d).add_to(c));
        }
        count(&self.counters.ct_ct, pairs.len());
        count(&self.counters.relinearisations, 1);
        let products = pairs.iter().map(|(l, r)| l.0.noise.times(r.0.noise));
        let noise = products.fold(Noise::none(), Noise::add).switched();
        Ok(Ciphertext { c, domain: Domain::Coefficients, noise })
    }

    /// The coefficient of `s^degree` of the sum of products, scaled by `t/A` to `q`: `[LIMBS][N]` coefficients.
    fn tensor(&self, pairs: &[(&Left, &Right)], degree: usize) -> Vec<u32> {
        let context = self.context;
        let mut d = vec![0; BOTH * N];
        d.par_chunks_exact_mut(N).enumerate().for_each(|(limb, out)| {
            let (mut x, mut y): (Vec<&[u32]>, Vec<&[u32]>) = (vec![], vec![]);
            for (left, right) in pairs {
                for component in 0..2 {
                    if let Some(other) = degree.checked_sub(component).filter(|&other| other < 2) {
                        x.push(left.0.limb(component, limb));
                        y.push(right.0.limb(other, limb));
                    }
                }
            }
            let ntt = if limb < LIMBS { context.ntt(limb) } else { context.aux_ntt(limb - LIMBS) };
            kernels::multiply_sum(ntt.modulus(), &x, &y, out);
            ntt.inverse(out, 0..LOG_N);
        });
        let (q, aux) = d.split_at(LIMBS * N);
        let own = Some((&context.own[..], q));
        residues(&context.down, |j| context.aux_ntt(j).modulus(), aux, |i| context.modulus(i), own)
    }
}

/// Applies a conversion to coefficients `[source][N]` and transforms the result, `[target][N]`.
fn convert<'a>(
    conversion: &Conversion,
    source: impl Fn(usize) -> &'a Modulus + Sync,
    x: &[u32],
    target: impl Fn(usize) -> &'a Ntt + Sync,
) -> Vec<u32> {
    let mut out = residues(conversion, source, x, |j| target(j).modulus(), None);
    out.par_chunks_exact_mut(N).enumerate().for_each(|(j, x)| target(j).forward(x, 0..LOG_N));
    out
}

/// Applies a conversion to coefficients, `[source][N]` to `[target][N]`; `own`: weights of further residues, one per target.
fn residues<'a>(
    conversion: &Conversion,
    source: impl Fn(usize) -> &'a Modulus + Sync,
    x: &[u32],
    target: impl Fn(usize) -> &'a Modulus + Sync,
    own: Option<(&[u32], &[u32])>,
) -> Vec<u32> {
    let mut hats = vec![0; x.len() + N];
    let (digits, rounded) = hats.split_at_mut(x.len());
    digits.par_chunks_exact_mut(N).zip(x.par_chunks_exact(N)).enumerate().for_each(|(i, (out, x))| {
        let (q, factor): (&Modulus, Factor) = (source(i), conversion.hats[i]);
        Terms::new(q).add(factor.value, x).add_to(out);
    });
    let rows: Vec<&[u32]> = digits.chunks_exact(N).collect();
    kernels::rounded_sum(&conversion.rounding, &rows, conversion.shift, rounded);
    let mut rows = rows;
    rows.push(rounded);
    let mut out = vec![0; conversion.weights.len() * N];
    out.par_chunks_exact_mut(N).enumerate().for_each(|(j, out)| {
        let weights = &conversion.weights[j];
        let mut terms = weights
            .iter()
            .zip(&rows)
            .fold(Terms::new(target(j)), |terms, (&weight, row)| terms.add(weight, row));
        if let Some((weights, rows)) = own {
            terms = terms.add(weights[j], &rows[j * N..(j + 1) * N]);
        }
        terms.add_to(out);
    });
    out
}
