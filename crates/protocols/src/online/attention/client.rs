//! The client of attention; steps as in the header of the module above.

use cryptogen_party::{Channel, Client};
use cryptogen_ring::Fp;

use super::{of_pairs, Call};
use crate::error::Result;
use crate::material::MaskLabel;
use crate::model::Site;
use crate::online::scalar::{first_message, second_message, start, Outside};
use crate::online::{Online, Turn};
use crate::share::{Kind, Opened, Opening, Tensor};

impl Online<Client> {
    /// The client's side.
    pub fn attention(
        &mut self,
        ch: &mut dyn Channel,
        qkv: &Tensor<Client>,
        layer: usize,
    ) -> Result<Tensor<Client>> {
        self.check(qkv, Kind::Output(Site::Qkv(layer)))?;
        self.take_turn(Turn::Attention(layer))?;
        let plan = self.plan.clone();
        let (m, n) = (&plan.model, qkv.rows);
        let call = Call::new(&plan, layer, self.active_positions());
        let (heads, d) = (m.heads, call.d);
        let specs = call.specs(&plan);
        let (pairs, columns) = (call.pairs.len(), call.pairs.len() * d);
        let scalar = &plan.attention[layer].heads[0].scalar;
        let (w3, r3) = first_message(scalar, pairs);

        // 1.
        let factors = self.factors(&call)?;
        let new = self.new_rows(qkv, layer);
        let scores = self.products.scores(ch, &call, &self.active, &new)?;

        // 2.
        let mut m2 = Opening::new();
        self.fix_scores(&call, &scores, &factors, &mut m2)?;
        m2.send(ch)?;

        // 3.
        let mut m3 = Opened::recv(ch, call.opened_factors(&plan) + w3, r3)?;
        let weights = self.weights(&call, factors, &mut m3)?;
        let sigma = call.sigmas(&weights);
        let started = start::<Client>(specs, Outside::Zero, &sigma, self.sigma_keys(&call, layer)?);

        // 4.
        let mut m4 = Opening::new();
        let sums = self.products.values(ch, &call, &self.active, &weights, &mut m4)?;
        let o = self.outputs(&call, sums);
        started.log(&mut self.trace);
        started.push(&mut m4);
        let evaluated = started.evaluate::<Client>(&plan, &mut m3)?;
        evaluated.push(&mut m4);
        m4.masked(
            &o,
            &of_pairs(&call, |i| {
                self.active[i].material.expand_mask(MaskLabel::AttentionOut, layer, m.q_dim())
            }),
        );
        m4.send(ch)?;

        // 5.
        let mut m5 = Opened::recv(ch, second_message(scalar, Outside::Zero, pairs) + pairs + columns, 0)?;
        let (rho, events) = evaluated.finish::<Client>(&mut m5)?;
        self.add_sigma_events(&call, &events);
        self.trace.truncated(rho.iter().copied());
        let (open_rho, open_o) = (m5.words(pairs)?, m5.words(columns)?);

        // 6.
        let z = self.product_shares(&call, layer)?;
        let x: Vec<Fp> =
            (0..columns).map(|c| (o[c] + open_o[c]) * rho[c / d] + o[c] * open_rho[c / d] + z[c]).collect();
        let mut m6 = Opening::new();
        m6.masked(
            &rho,
            &of_pairs(&call, |i| {
                self.active[i].material.expand_mask(MaskLabel::AttentionScale, layer, heads)
            }),
        );
        for (i, x) in self.by_row(&call, layer, &new, &x).iter().enumerate() {
            m6.masked(x, &self.remask(i, Site::O(layer)));
        }
        m6.send(ch)?;
        Ok(Tensor::new(Kind::Input(Site::O(layer)), n, vec![]))
    }
}
