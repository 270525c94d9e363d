//! The cost of a forward pass of the paper's protocols.

use cryptogen_party::Party;
use cryptogen_protocols::model::{Plan, Site};
use cryptogen_protocols::online::{self, activation, embed, head_cost, norm};
use cryptogen_protocols::share::Cost;

use super::{attention, linear, State};

impl<P: Party> State<P> {
    /// Messages and bytes of the next pass over `rows` rows, of which the last `sampled` get
    /// logits.
    pub fn cost(&mut self, plan: &Plan, rows: usize, sampled: usize) -> Cost {
        let mut costs = vec![embed::cost(plan, rows)];
        for l in 0..plan.model.layers {
            costs.extend(Site::of_layer(l).map(|site| linear::cost(&mut self.plan, site, rows)));
            let first = self.cache.shape().length(l);
            costs.push(online::attention::shared_cost(plan, l, first..first + rows));
            costs.push(attention::cost::cost(self.cache.shape(), l, rows));
            costs.push(activation::cost(plan, rows));
            costs.extend([2 * l, 2 * l + 1].map(|n| norm::cost(plan, n, rows)));
        }
        costs.push(head_cost(plan, sampled));
        costs.into_iter().sum()
    }
}
