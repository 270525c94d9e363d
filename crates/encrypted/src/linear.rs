//! Linear layers `y = W·x` on the client's ciphertexts (ct × pt).
//!
//! Functionality: `x − r'` with the server, `r'` and a uniform `y_c` with the client → the server
//! gets `W·x − y_c`, so what follows is as after that of `preprocessed`: the client's share was
//! known before.
//! Source: CryptoGen (arXiv 2602.08798), ct × pt stage; packing in [`super::diagonals`].
//! Inputs: server `x − r'`, `[rows][d_in]`, at scale F, `W` at scale `f_w` and the client's
//! evaluation keys; client `r'` and `y_c`, `[rows][d_out]`, over `F_p` at scale F + `f_w`.
//! Cost: 3 messages (C→S, S→C, C→S). 205 KB per input ciphertext, 205 KB per output ciphertext, 8
//! bytes per output.
//! Material: `y_c` from the row's material, which needs no peer.
//! Leaks: nothing. 2. is uniformly masked and flooded and 3. padded by `y_c`.
//!
//! 1. C→S `Enc(r')`. The server adds `x − r'` as a plaintext: `Enc(x)`.
//! 2. S→C `Enc(W·x − m)` in lanes, `m` fresh and uniform in every slot.
//! 3. C→S `(W·x − m) − y_c`, lanes added up. The server adds its `m`.

use std::ops::Range;
use std::sync::Arc;

use cryptogen_he::evaluate::{
    Ciphertext, CiphertextPanel, Context, Evaluator, MaskedCiphertext, Plaintext, PlaintextPanel,
    SeededCiphertext,
};
use cryptogen_he::HeError;
use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_protocols::model::{ServerModel, Site};
use cryptogen_protocols::share::{Cost, Opened, Opening};
use cryptogen_protocols::Result;
use cryptogen_ring::{Fp, Prg, Seed};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::diagonals::Packing;
use super::exchange::{self, SlotShare};
use super::planner::{Choice, LinearPlan};
use super::State;

type HeResult<T> = Result<T, HeError>;

/// Weights of many rows are multiplied with in slices of so many plaintexts.
const SLICE: usize = 512;

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &mut LinearPlan, site: Site, rows: usize) -> Cost {
    let Choice { packing: p, groups, .. } = plan.choose(site, rows);
    Cost::of(&[
        (Role::Client, groups * p.inputs() * SeededCiphertext::BYTES),
        (Role::Server, groups * p.outputs() * MaskedCiphertext::BYTES),
        (Role::Client, 8 * rows * p.d_out),
    ])
}

/// The client's side. `r`: `[rows][d_in]`, `y`: its share `[rows][d_out]`.
///
/// # Errors
/// Connection failures, malformed ciphertexts.
pub(crate) fn client(
    h: &mut State<Client>,
    ch: &mut dyn Channel,
    site: Site,
    rows: usize,
    r: &[Fp],
    y: &[Fp],
) -> Result<()> {
    let Choice { packing: p, groups, .. } = h.plan.choose(site, rows);
    // 1.
    let mut rng = Prg::new(&Seed::random(&mut h.rng));
    let secret = h.secret()?;
    exchange::encrypt(ch, secret, &mut rng, groups * p.inputs(), |i| {
        p.input(group(r, i / p.inputs(), p.rows * p.d_in), i % p.inputs())
    })?;
    // 2.
    let outputs = exchange::decrypt(ch, secret, groups * p.outputs())?;
    // 3.
    let mut opening = Opening::new();
    opening.masked(&collect(&p, &outputs, rows), y);
    opening.send(ch)?;
    h.counts.encrypted += (groups * p.inputs()) as u64;
    Ok(())
}

/// Values `[rows][d_out]` from all outputs.
fn collect(p: &Packing, outputs: &[SlotShare], rows: usize) -> Zeroizing<Vec<Fp>> {
    let mut y = Zeroizing::new(Vec::with_capacity(rows * p.d_out));
    for (i, outputs) in outputs.chunks(p.outputs()).enumerate() {
        y.extend(p.output(outputs, p.rows.min(rows - i * p.rows)));
    }
    y
}

/// The server's side. `x`: `x − r'`, `[rows][d_in]`; returns its share of `W·x`, `[rows][d_out]`.
///
/// # Errors
/// Connection failures, malformed ciphertexts, too much noise.
pub(crate) fn server(
    h: &mut State<Server>,
    ch: &mut dyn Channel,
    model: &ServerModel,
    site: (Site, usize),
    rows: usize,
    x: &[Fp],
) -> Result<Vec<Fp>> {
    let choice = h.plan.choose(site.0, rows);
    let Choice { packing: p, groups, kept, .. } = choice;
    let (context, w) = (h.context, model.weight(site.0));
    // 1.
    let inputs = exchange::receive(ch, groups * p.inputs(), |i| {
        p.input(group(x, i / p.inputs(), p.rows * p.d_in), i % p.inputs())
    })?;
    // 2.
    let mut rng = Prg::new(&Seed::random(&mut h.rng));
    let evaluator = Evaluator::new(context, h.evaluation_keys()?);
    let encoded = if kept { h.encoded.get(context, &p, site.1, w)? } else { None };
    let product = Product { context, evaluator: &evaluator, p, w, encoded };
    let mut outputs = Vec::with_capacity(groups * p.outputs());
    for inputs in inputs.chunks(Choice::groups_at_once(&p) * p.inputs()) {
        outputs.extend(product.apply(inputs)?);
    }
    drop(inputs);
    let masks = exchange::mask(ch, &evaluator, &mut rng, &outputs.iter().collect::<Vec<_>>())?;
    let done = evaluator.operations();
    h.counts.add(done);
    h.counts.encrypted += (groups * p.inputs()) as u64;
    // 3.
    let opened = Opened::recv(ch, rows * p.d_out, 0)?.words(rows * p.d_out)?;
    Ok(collect(&p, &masks, rows).iter().zip(opened).map(|(m, o)| *m + o).collect())
}

/// Group `i` of rows of `size` values, the last one shorter.
fn group(x: &[Fp], i: usize, size: usize) -> &[Fp] {
    &x[i * size..x.len().min((i + 1) * size)]
}

/// One layer's products for some groups of rows.
struct Product<'a> {
    context: &'a Context,
    evaluator: &'a Evaluator<'a>,
    p: Packing,
    w: &'a [i16],
    encoded: Option<Arc<Vec<Plaintext>>>,
}

impl Product<'_> {
    /// `[groups][inputs]` to `[groups][outputs]`.
    fn apply(&self, inputs: &[Ciphertext]) -> HeResult<Vec<Ciphertext>> {
        match &self.encoded {
            Some(weights) if inputs.len() == self.p.inputs() => self.one_group(inputs, weights),
            _ => self.many_groups(inputs),
        }
    }

    /// One row: its work is shared out by outputs, and by halves of their giant steps.
    fn one_group(&self, inputs: &[Ciphertext], weights: &[Plaintext]) -> HeResult<Vec<Ciphertext>> {
        let p = &self.p;
        let babies = inputs.par_iter().map(|ct| {
            let hoisted = self.evaluator.hoist(ct);
            let steps = (0..self.babies()).into_par_iter();
            steps.map(|b| hoisted.rotate(p.lanes.step(b))).collect::<HeResult<Vec<_>>>()
        });
        let babies = babies.collect::<HeResult<Vec<Vec<Ciphertext>>>>()?;
        let outputs = (0..p.outputs()).into_par_iter().map(|beta| {
            let weights = &weights[beta * p.inputs() * p.diagonals()..];
            let weights = |alpha: usize, d: usize| &weights[alpha * p.diagonals() + d];
            let range = |giants: Range<usize>| {
                giants.rev().try_fold(None, |sum, giant| {
                    self.horner(sum, &self.dot(&babies, giant, weights)?).map(Some)
                })
            };
            let half = p.half();
            let (low, high) = rayon::join(|| range(0..half), || range(half..p.giants()));
            self.join(low?, high?)
        });
        outputs.collect()
    }

    /// Many rows: rotations with one key, then products with one slice of weights, for all groups
    /// together.
    fn many_groups(&self, inputs: &[Ciphertext]) -> HeResult<Vec<Ciphertext>> {
        let p = &self.p;
        let groups = inputs.len() / p.inputs();
        let babies = self.rotate(inputs, groups)?;
        // Horner's rule goes from the last giant step to the first; the last may have fewer
        // diagonals, hence panels of its own.
        let whole = p.diagonals() / self.babies();
        let steps = |giants: Range<usize>| -> Vec<(usize, usize)> {
            (0..p.outputs()).flat_map(|beta| giants.clone().rev().map(move |giant| (beta, giant))).collect()
        };
        let mut sums: Vec<Option<Ciphertext>> = vec![None; p.outputs() * groups];
        for giants in [whole..p.giants(), 0..whole] {
            for rows in steps(giants).chunks((SLICE / (p.inputs() * self.babies())).max(2)) {
                let products = self.evaluator.products(&self.slice(rows)?, &babies)?;
                sums.par_iter_mut().enumerate().try_for_each(|(i, sum)| {
                    let products = products.iter().skip(i % groups).step_by(groups);
                    for (_, next) in rows.iter().zip(products).filter(|((beta, _), _)| *beta == i / groups) {
                        *sum = Some(self.horner(sum.take(), next)?);
                    }
                    Ok::<(), HeError>(())
                })?;
            }
        }
        let (outputs, mut out) = (p.outputs(), vec![]);
        for group in 0..groups {
            let of_group = sums.iter_mut().skip(group).step_by(groups).take(outputs);
            out.extend(of_group.map(|sum| sum.take().unwrap_or_else(Ciphertext::zero)));
        }
        Ok(out)
    }

    /// Baby steps of `[groups][inputs]`: `[baby][input][group]`.
    fn rotate(&self, inputs: &[Ciphertext], groups: usize) -> HeResult<CiphertextPanel> {
        let p = &self.p;
        let hoisted: Vec<_> = inputs.par_iter().map(|ct| self.evaluator.hoist(ct)).collect();
        let mut panel = CiphertextPanel::new(self.babies() * p.inputs(), groups);
        for b in 0..self.babies() {
            let rotated = (0..inputs.len()).into_par_iter().map(|i| {
                let (alpha, group) = (i / groups, i % groups);
                hoisted[group * p.inputs() + alpha].rotate(p.lanes.step(b))
            });
            panel.push(self.evaluator, &rotated.collect::<HeResult<Vec<_>>>()?)?;
        }
        Ok(panel)
    }

    /// The weights of some (output, giant step) of equal width, each `[baby][input]`.
    fn slice(&self, rows: &[(usize, usize)]) -> HeResult<PlaintextPanel> {
        let p = &self.p;
        let depth = rows.first().map_or(0, |(_, giant)| self.width(*giant) * p.inputs());
        let mut panel = PlaintextPanel::new(rows.len(), depth);
        for (row, &(beta, giant)) in rows.iter().enumerate() {
            let places = (0..depth).map(|k| (k % p.inputs(), giant * p.babies + k / p.inputs()));
            match &self.encoded {
                Some(weights) => {
                    let at = |(alpha, d): (usize, usize)| {
                        &weights[(beta * p.inputs() + alpha) * p.diagonals() + d]
                    };
                    panel.fill(row, &places.map(at).collect::<Vec<_>>())?;
                }
                None => {
                    let places: Vec<_> = places.collect();
                    let encode = |&(alpha, d): &(usize, usize)| {
                        Plaintext::encode(self.context, &p.diagonal(self.w, beta, alpha, d))
                    };
                    let encoded = places.par_iter().map(encode).collect::<HeResult<Vec<_>>>()?;
                    panel.fill(row, &encoded.iter().collect::<Vec<_>>())?;
                }
            }
        }
        Ok(panel)
    }

    /// Baby steps that there are.
    fn babies(&self) -> usize {
        self.p.babies.min(self.p.diagonals())
    }

    /// Diagonals of a giant step.
    fn width(&self, giant: usize) -> usize {
        self.p.babies.min(self.p.diagonals() - giant * self.p.babies)
    }

    /// `Σ_b diagonal_{Gg+b} ⊙ rot_b(x)` over all input ciphertexts.
    fn dot<'w>(
        &self,
        babies: &[Vec<Ciphertext>],
        giant: usize,
        weights: impl Fn(usize, usize) -> &'w Plaintext,
    ) -> HeResult<Ciphertext> {
        let width = self.width(giant);
        let terms = || (0..self.p.inputs()).flat_map(|alpha| (0..width).map(move |b| (alpha, b)));
        let x: Vec<&Ciphertext> = terms().map(|(alpha, b)| &babies[alpha][b]).collect();
        let w: Vec<&Plaintext> =
            terms().map(|(alpha, b)| weights(alpha, giant * self.p.babies + b)).collect();
        self.evaluator.dot_plain(&x, &w)
    }

    /// `low + rot_{half·g}(high)`.
    fn join(&self, low: Option<Ciphertext>, high: Option<Ciphertext>) -> HeResult<Ciphertext> {
        let mut sum = low.unwrap_or_else(Ciphertext::zero);
        if let Some(high) = high {
            let step = self.p.lanes.step(self.p.half() * self.p.babies);
            sum.add(self.context, &self.evaluator.rotate(&high, step)?);
        }
        Ok(sum)
    }

    /// `rot_g(sum) + next`.
    fn horner(&self, sum: Option<Ciphertext>, next: &Ciphertext) -> HeResult<Ciphertext> {
        let Some(sum) = sum else { return Ok(next.clone()) };
        let mut sum = self.evaluator.rotate(&sum, self.p.lanes.step(self.p.babies))?;
        sum.add(self.context, next);
        Ok(sum)
    }
}
