//! Root-mean-square norm and the re-mask of the linear layer that follows (A5.2).
//!
//! Functionality: shares of `h` → `x̂ = h·SCALAR(m)`, `m = Σ h'²`, `h' = TR(h, pre_shift)`. The
//! server gets `x − r'`, `x = TR(x̂, in_shift)`; both get shares of each row's range events.
//! Source: `docs/protocols/preprocessed.md` §4.2. The product's openings double as those of the
//! re-mask.
//! Inputs: client `h_c`, server `h_s`, `[T, d]`, over `F_p` at scale F; `h_c` is known offline.
//! Cost: 4 messages (S→C, C→S, S→C, C→S), 2 round trips. Bytes per row, with two ranges:
//! `16d + 22`, `22 + 24`, `24 + 8`, `8 + 8d`; with one, 12 for 22 and 8 for 24; of the last norm,
//! in front of the head, 8 less than 24 and 8.
//! Material: per row shares of `Σ h'_c·u'`, one number, and of `h_c·v + b·u`, `[d]`; a key per
//! range and one for the net.
//! Leaks: nothing.
//!
//! 1. S→C `h'_s − u'`, `h_s − u`, its half of the look-ups of `m`.
//! 2. C→S its half of the look-ups, masked coarse value, fine value and guard.
//! 3. S→C masked coarse value, fine value and guard, `ρ_s − v`.
//! 4. C→S `ρ_c − b`, `x̂_c − r`.

use cryptogen_party::{Channel, Client, Role, Server};
use cryptogen_ring::Fp;

use super::products::Side;
use super::scalar::{first_bytes, first_message, scalar_keys, second_message, start, Outside, ScalarKeys};
use super::{Online, Turn};
use crate::error::{ProtocolError, Result};
use crate::material::{MaskLabel, Row, NORM_LABELS};
use crate::model::{Plan, Site};
use crate::share::local::trunc;
use crate::share::{Cost, Kind, Opened, Opening, Tensor};

/// What 1/rms is outside of its window: the last norm's result is seen by the head alone.
fn outside(plan: &Plan, norm: usize) -> Outside {
    if norm + 1 == plan.norms.len() {
        Outside::Arbitrary
    } else {
        Outside::Zero
    }
}

/// Messages and bytes of `rows` rows of norm number `norm` ([`Plan::norms`]).
pub fn cost(plan: &Plan, norm: usize, rows: usize) -> Cost {
    let (d, scalar) = (plan.model.d, &plan.norms[norm].scalar);
    let (first, second) = (first_bytes(scalar, rows), 8 * second_message(scalar, outside(plan, norm), rows));
    Cost::of(&[
        (Role::Server, 16 * d * rows + first),
        (Role::Client, first + second),
        (Role::Server, second + 8 * rows),
        (Role::Client, 8 * rows * (d + 1)),
    ])
}

impl<P: Side> Online<P> {
    fn norm_keys(&mut self, norm: usize, row: usize) -> Result<Vec<ScalarKeys>> {
        let (spec, at) = (&self.plan.norms[norm].scalar, self.layout.norm_tables(norm));
        scalar_keys(&mut self.active[row].material, spec, at, NORM_LABELS, (norm, 1))
    }

    /// First active row of `h`: 0, or where the rows begin whose logits are wanted.
    fn norm_start(&self, h: &Tensor<P>, into: Site) -> Result<usize> {
        h.expect(Kind::Hidden)?;
        let expected = if into == Site::Head { self.logits_now.len() } else { self.active.len() };
        if h.rows != expected {
            return Err(ProtocolError::caller("rows of a norm", expected, h.rows));
        }
        Ok(self.active.len() - h.rows)
    }
}

impl Online<Client> {
    /// The client's side; returns a placeholder for the input that now lies with the server.
    pub fn norm(&mut self, ch: &mut dyn Channel, h: &Tensor<Client>, into: Site) -> Result<Tensor<Client>> {
        let start_row = self.norm_start(h, into)?;
        self.take_turn(Turn::Norm(into))?;
        let plan = self.plan.clone();
        let (norm, d) = (plan.norm_before(into).unwrap_or_default(), plan.model.d);
        let (spec, n) = (&plan.norms[norm], h.rows);
        let (w1, r1) = first_message(&spec.scalar, n);

        // 1.
        let mut m1 = Opened::recv(ch, 2 * n * d + w1, r1)?;
        let (square_open, input_open) = (m1.words(n * d)?, m1.words(n * d)?);
        let mut m = Vec::with_capacity(n);
        let mut keys = Vec::with_capacity(n);
        for i in 0..n {
            let z = self.active[start_row + i].material.words(self.layout.norm_square(norm), 1)?[0];
            let mut sum = z + z;
            for (hc, open) in h.row(i).iter().zip(&square_open[i * d..]) {
                let hc = trunc::<Client>(*hc, spec.pre_shift);
                sum += hc * (hc + *open + *open);
            }
            m.push(sum);
            keys.extend(self.norm_keys(norm, start_row + i)?);
        }
        let started = start::<Client>(vec![&spec.scalar; n], outside(&plan, norm), &m, keys);
        self.trace.truncated(h.data.iter().map(|x| trunc::<Client>(*x, spec.pre_shift)));
        started.log(&mut self.trace);

        // 2.
        let mut m2 = Opening::new();
        started.push(&mut m2);
        let evaluated = started.evaluate::<Client>(&plan, &mut m1)?;
        evaluated.push(&mut m2);
        m2.send(ch)?;

        // 3.
        let mut m3 = Opened::recv(ch, second_message(&spec.scalar, outside(&plan, norm), n) + n, 0)?;
        let (rho, events) = evaluated.finish::<Client>(&mut m3)?;
        self.add_events(start_row, 1, events.iter().copied());
        self.trace.truncated(rho.iter().copied());
        let rho_open = m3.words(n)?;

        // 4.
        let mut m4 = Opening::new();
        for i in 0..n {
            let material = &self.active[start_row + i].material;
            let z = material.words(self.layout.norm_product(norm), d)?;
            m4.masked(&rho[i..i + 1], &material.expand_mask(MaskLabel::NormScalar, norm, 1));
            let x: Vec<Fp> = (0..d)
                .map(|j| {
                    let hc = h.row(i)[j];
                    (hc + input_open[i * d + j]) * rho[i] + hc * rho_open[i] + z[j]
                })
                .collect();
            m4.masked(&x, &self.remask(i, into));
        }
        m4.send(ch)?;
        Ok(Tensor::new(Kind::Input(into), n, vec![]))
    }
}

impl Online<Server> {
    /// The server's side; returns `x − r'` at scale F.
    pub fn norm(&mut self, ch: &mut dyn Channel, h: &Tensor<Server>, into: Site) -> Result<Tensor<Server>> {
        let start_row = self.norm_start(h, into)?;
        self.take_turn(Turn::Norm(into))?;
        let plan = self.plan.clone();
        let (norm, d) = (plan.norm_before(into).unwrap_or_default(), plan.model.d);
        let (spec, n) = (&plan.norms[norm], h.rows);
        let (w1, r1) = first_message(&spec.scalar, n);

        // 1.
        let mut m1 = Opening::new();
        let mut m = Vec::with_capacity(n);
        let mut keys = Vec::with_capacity(n);
        for i in 0..n {
            let material = &self.active[start_row + i].material;
            let z = material.words(self.layout.norm_square(norm), 1)?[0];
            let squares: Vec<Fp> = h.row(i).iter().map(|x| trunc::<Server>(*x, spec.pre_shift)).collect();
            m.push(z + z + squares.iter().map(|x| *x * *x).sum());
            m1.masked(&squares, &material.expand_mask(MaskLabel::NormSquare, norm, d));
            keys.extend(self.norm_keys(norm, start_row + i)?);
        }
        for i in 0..n {
            m1.masked(
                h.row(i),
                &self.active[start_row + i].material.expand_mask(MaskLabel::NormInput, norm, d),
            );
        }
        let started = start::<Server>(vec![&spec.scalar; n], outside(&plan, norm), &m, keys);
        self.trace.truncated(h.data.iter().map(|x| trunc::<Server>(*x, spec.pre_shift)));
        started.log(&mut self.trace);
        started.push(&mut m1);
        m1.send(ch)?;

        // 2.
        let mut m2 = Opened::recv(ch, w1 + second_message(&spec.scalar, outside(&plan, norm), n), r1)?;
        let evaluated = started.evaluate::<Server>(&plan, &mut m2)?;

        // 3.
        let mut m3 = Opening::new();
        evaluated.push(&mut m3);
        let (rho, events) = evaluated.finish::<Server>(&mut m2)?;
        self.add_events(start_row, 1, events.iter().copied());
        self.trace.truncated(rho.iter().copied());
        let scale = |row: &Row<Server>| row.material.expand_mask(MaskLabel::NormScale, norm, 1)[0];
        m3.masked(&rho, &self.active[start_row..start_row + n].iter().map(scale).collect::<Vec<_>>());
        m3.send(ch)?;

        // 4.
        let mut m4 = Opened::recv(ch, n * (d + 1), 0)?;
        let mut data = Vec::with_capacity(n * d);
        for (i, rho) in rho.into_iter().enumerate() {
            let material = &self.active[start_row + i].material;
            let (u, z) = (
                material.expand_mask(MaskLabel::NormInput, norm, d),
                material.words(self.layout.norm_product(norm), d)?,
            );
            let rho_open = m4.words(1)?[0];
            let opened = m4.words(d)?;
            let x = (0..d).map(|j| h.row(i)[j] * rho + u[j] * rho_open + z[j] + opened[j]);
            data.extend(self.enter(into, x));
        }
        Ok(Tensor::new(Kind::Input(into), n, data))
    }
}
