//! The cost of a forward pass of the paper's protocols.

use cryptogen_party::Party;

use super::{linear, Hybrid};
use crate::model::{Plan, Site};
use crate::online::{activation, attention, embed, head_cost, norm};
use crate::share::Cost;

impl<P: Party> Hybrid<P> {
    /// Messages and bytes of the next pass over `rows` rows, of which the last `sampled` get logits.
    pub fn cost(&mut self, plan: &Plan, rows: usize, sampled: usize) -> Cost {
        let mut costs = vec![embed::cost(rows)];
        for l in 0..plan.model.layers {
            costs.extend(Site::of_layer(l).map(|site| linear::cost(&mut self.plan, site, rows)));
            costs.push(attention::encrypted_cost(plan, l, self.cache.shape(), rows));
            costs.push(activation::cost(plan, rows));
            costs.extend([2 * l, 2 * l + 1].map(|n| norm::cost(plan, n, rows)));
        }
        costs.push(head_cost(plan, sampled));
        costs.into_iter().sum()
    }
}
