//! Products of ciphertexts: `round(t/q·(c ⊗ c'))`, in residues throughout (Kim–Polyakov–Zucca,
//! ASIACRYPT 2021).
//!
//! The left operand is extended from `q` to `q·A`. The right one is first scaled from `q` to `A`,
//! then extended to `q·A`. Their product is then scaled by `t/A` back to `q`: a wrap modulo `q·A`
//! becomes a multiple of `t·q`, so the sizes need no room to spare. Sums of products are scaled and
//! relinearised once.

use cryptogen_ring::modulus::Factor;
use cryptogen_ring::{kernels, Modulus, Ntt};

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
            scaled.chunks_exact_mut(N).enumerate().for_each(|(j, x)| context.aux_ntt(j).forward(x, 0..LOG_N));
            out.extend(scaled);
            out
        });
        Right(Extended { c, noise: ct.noise })
    }

    /// `Σ left·right`, relinearised; its noise is that of the sum.
    pub fn dot(&self, pairs: &[(&Left, &Right)]) -> Result<Ciphertext, HeError> {
        let context = self.context;
        let d: Vec<Vec<u32>> = self.tensor(pairs).iter().map(|d| self.scale(d)).collect();
        let sums = self.switch(&self.keys.relinearisation, &d[2], None);
        let mut c = self.divide_to_coefficients(sums);
        for (c, d) in c.iter_mut().zip(&d) {
            c.chunks_exact_mut(N)
                .zip(d.chunks_exact(N))
                .enumerate()
                .for_each(|(limb, (c, d))| Terms::new(context.modulus(limb)).add(1, d).add_to(c));
        }
        count(&self.counters.ct_ct, pairs.len());
        count(&self.counters.relinearisations, 1);
        let products = pairs.iter().map(|(l, r)| l.0.noise.times(r.0.noise));
        let noise = products.fold(Noise::none(), |sum, noise| sum + noise).switched();
        Ok(Ciphertext { c, domain: Domain::Coefficients, noise })
    }

    /// The coefficients of `1`, `s` and `s²` of the sum of products modulo `q·A`: `[BOTH][N]`
    /// coefficients each.
    fn tensor(&self, pairs: &[(&Left, &Right)]) -> [Vec<u32>; 3] {
        let mut d: [Vec<u32>; 3] = core::array::from_fn(|_| vec![0; BOTH * N]);
        let [d0, d1, d2] = &mut d;
        let limbs = d0.chunks_exact_mut(N).zip(d1.chunks_exact_mut(N)).zip(d2.chunks_exact_mut(N));
        limbs.enumerate().for_each(|(limb, ((d0, d1), d2))| {
            let context = self.context;
            let ntt = if limb < LIMBS { context.ntt(limb) } else { context.aux_ntt(limb - LIMBS) };
            let left = |component| pairs.iter().map(|(l, _)| l.0.limb(component, limb)).collect::<Vec<_>>();
            let right = |component| pairs.iter().map(|(_, r)| r.0.limb(component, limb)).collect::<Vec<_>>();
            let (r0, r1) = (right(0), right(1));
            let mut cross = vec![0; N];
            kernels::multiply_sum(ntt.modulus(), &left(0), [&r0, &r1], [d0, d1]);
            kernels::multiply_sum(ntt.modulus(), &left(1), [&r0, &r1], [&mut cross, d2]);
            Terms::new(ntt.modulus()).add(1, &cross).add_to(d1);
            [d0, d1, d2].into_iter().for_each(|d| ntt.inverse(d, 0..LOG_N));
        });
        d
    }

    /// `round(t/A·d)`: `[BOTH][N]` to `[LIMBS][N]` coefficients.
    fn scale(&self, d: &[u32]) -> Vec<u32> {
        let context = self.context;
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
    out.chunks_exact_mut(N).enumerate().for_each(|(j, x)| target(j).forward(x, 0..LOG_N));
    out
}

/// Applies a conversion to coefficients, `[source][N]` to `[target][N]`; `own`: weights of further
/// residues, one per target.
fn residues<'a>(
    conversion: &Conversion,
    source: impl Fn(usize) -> &'a Modulus + Sync,
    x: &[u32],
    target: impl Fn(usize) -> &'a Modulus + Sync,
    own: Option<(&[u32], &[u32])>,
) -> Vec<u32> {
    let mut hats = vec![0; x.len() + N];
    let (digits, rounded) = hats.split_at_mut(x.len());
    digits.chunks_exact_mut(N).zip(x.chunks_exact(N)).enumerate().for_each(|(i, (out, x))| {
        let (q, factor): (&Modulus, Factor) = (source(i), conversion.hats[i]);
        Terms::new(q).add(factor.value, x).add_to(out);
    });
    let rows: Vec<&[u32]> = digits.chunks_exact(N).collect();
    kernels::rounded_sum(&conversion.rounding, &rows, conversion.shift, rounded);
    let mut rows = rows;
    rows.push(rounded);
    let mut out = vec![0; conversion.weights.len() * N];
    out.chunks_exact_mut(N).enumerate().for_each(|(j, out)| {
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
