//! Queries, keys and values: the split of a `qkv` row, and rotary positions (A5.4), local on
//! shares.

use cryptogen_party::Party;
use cryptogen_ring::Fp;
use zeroize::Zeroize;

use super::local::trunc;
use crate::model::Plan;

/// One party's shares of the heads of new rows.
pub struct NewRows {
    /// `[rows][heads·head_dim]`
    pub queries: Vec<Vec<Fp>>,
    /// `[rows][kv_heads·head_dim]`
    pub keys: Vec<Vec<Fp>>,
    /// `[rows][kv_heads·head_dim]`
    pub values: Vec<Vec<Fp>>,
}

impl Drop for NewRows {
    fn drop(&mut self) {
        for rows in [&mut self.queries, &mut self.keys, &mut self.values] {
            rows.iter_mut().for_each(Vec::zeroize);
        }
    }
}

/// A5.4 on one party's share of a row's heads, in place; a no-op in a layer without rotary
/// positions.
fn rotate<P: Party>(plan: &Plan, layer: usize, position: usize, x: &mut [Fp]) {
    let Some((bits, [cos, sin])) = plan.rotation(layer, position) else { return };
    for head in x.chunks_mut(plan.model.head_dim) {
        let (a, b) = head.split_at_mut(cos.len());
        for i in 0..cos.len() {
            let (c, s) = (Fp::from_i64(cos[i]), Fp::from_i64(sin[i]));
            let (x, y) = (a[i], b[i]);
            a[i] = trunc::<P>(x * c - y * s, bits);
            b[i] = trunc::<P>(y * c + x * s, bits);
        }
    }
}

/// A party's share of a rotated query, key and value row from its share of the `qkv` output.
pub(crate) fn split_qkv<P: Party>(
    plan: &Plan,
    layer: usize,
    position: usize,
    row: &[Fp],
) -> (Vec<Fp>, Vec<Fp>, Vec<Fp>) {
    let m = &plan.model;
    let mut q = row[..m.q_dim()].to_vec();
    let mut k = row[m.q_dim()..m.q_dim() + m.kv_dim()].to_vec();
    rotate::<P>(plan, layer, position, &mut q);
    rotate::<P>(plan, layer, position, &mut k);
    (q, k, row[m.q_dim() + m.kv_dim()..].to_vec())
}
