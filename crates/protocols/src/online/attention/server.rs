//! The server of attention; steps as in the header of the module above.

use cryptogen_party::{Channel, Server};
use cryptogen_ring::Fp;

use super::{of_pairs, Call};
use crate::error::Result;
use crate::material::MaskLabel;
use crate::model::Site;
use crate::online::products::Awaited;
use crate::online::scalar::{first_message, second_message, start, Outside};
use crate::online::{Online, Turn};
use crate::share::{Kind, Opened, Opening, Tensor};

impl Online<Server> {
    /// The server's side; returns `x − r'` at scale F.
    pub fn attention(
        &mut self,
        ch: &mut dyn Channel,
        qkv: &Tensor<Server>,
        layer: usize,
    ) -> Result<Tensor<Server>> {
        self.check(qkv, Kind::Output(Site::Qkv(layer)))?;
        self.take_turn(Turn::Attention(layer))?;
        let plan = self.plan.clone();
        let (m, n) = (&plan.model, qkv.rows);
        let call = Call::new(&plan, layer, self.active_positions());
        let (heads, d) = (m.heads, call.d);
        let specs = call.specs(&plan);
        let (pairs, columns) = (call.pairs.len(), call.pairs.len() * d);
        let scalar = &plan.attention[layer].heads[0].scalar;
        let (w4, r4) = first_message(scalar, pairs);

        // 1.
        let masks = self.factors(&call)?;
        let new = self.new_rows(qkv, layer);
        let scores = self.products.scores(ch, &call, &self.active, &new)?;
        let mut x = self.relative_scores(&call, &scores)?;

        // 2.
        let opened = Opened::recv(ch, call.entries, 0)?.words(call.entries)?;
        x.iter_mut().zip(&opened).for_each(|(x, d)| *x += *d);

        // 3.
        let weights = self.weights(&call);
        let sigma = call.sigmas(&weights);
        let started = start::<Server>(specs, Outside::Zero, &sigma, self.sigma_keys(&call, layer)?);
        let mut m3 = Opening::new();
        self.open_factors(&call, &x, &masks, &mut m3);
        started.push(&mut m3);
        m3.send(ch)?;

        // 4.
        let words = w4 + second_message(scalar, Outside::Zero, pairs) + columns;
        let next = Awaited { words, rotations: r4 };
        let (sums, mut m4) = self.products.values(ch, &call, &self.active, &weights, next)?;
        let o = self.outputs(&call, sums);
        started.log(&mut self.trace);
        let evaluated = started.evaluate::<Server>(&plan, &mut m4)?;

        // 5.
        let mut m5 = Opening::new();
        evaluated.push(&mut m5);
        let (rho, events) = evaluated.finish::<Server>(&mut m4)?;
        self.add_sigma_events(&call, &events);
        self.trace.truncated(rho.iter().copied());
        let open_o = m4.words(columns)?;
        let scale_masks =
            of_pairs(&call, |i| self.active[i].material.expand_mask(MaskLabel::AttentionScale, layer, heads));
        let out_masks = of_pairs(&call, |i| {
            self.active[i].material.expand_mask(MaskLabel::AttentionOut, layer, m.q_dim())
        });
        m5.masked(&rho, &scale_masks).masked(&o, &out_masks);
        m5.send(ch)?;

        // 6.
        let z = self.product_shares(&call, layer)?;
        let mut m6 = Opened::recv(ch, pairs + n * m.q_dim(), 0)?;
        let open_rho = m6.words(pairs)?;
        let x: Vec<Fp> = (0..columns)
            .map(|c| {
                o[c] * rho[c / d] + open_o[c] * scale_masks[c / d] + out_masks[c] * open_rho[c / d] + z[c]
            })
            .collect();
        let mut data = Vec::with_capacity(n * m.q_dim());
        for x in self.by_row(&call, layer, &new, &x) {
            let opened = m6.words(m.q_dim())?;
            data.extend(self.enter(Site::O(layer), x.iter().zip(&opened).map(|(x, m)| *x + *m)));
        }
        Ok(Tensor::new(Kind::Input(Site::O(layer)), n, data))
    }
}
