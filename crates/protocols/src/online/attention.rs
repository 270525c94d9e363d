//! Softmax attention over a cache that never moves (A5.4, A5.5), re-masked into the `o` layer.
//!
//! Functionality: shares of the new rows' queries, keys and values → for row `t` and every head
//! `x̂ = Σ_j softmax_j(q_t·k_j)·v_j` over the cached rows `j ≤ t`. The server gets `x − r'`,
//! `x = TR(x̂, in_shift)`; both get shares of each row's range events.
//! Source: `docs/protocols/preprocessed.md` §4.4; CryptoGen's unified key/value cache, with the
//! ciphertexts moved offline.
//! Inputs: client and server shares of `q`, `k`, `v`, `[T, q_dim + 2·kv_dim]`, over `F_p` at scale
//! F; the client's is known offline. Of earlier rows both have kept their shares of `k` and `v`,
//! the client also what was opened of them.
//! Cost: 6 messages (S→C, C→S, …), 3 round trips, whatever `T` and `t`. Bytes of row `t`:
//! `32·q_dim + 16·kv_dim + heads·(16·(t + 1) + s) + 8·primes·(t + 1)`, `s` 56, or 108 for a `1/σ`
//! of two ranges, `primes` those of all heads together; of row 0 `16·q_dim + 16·kv_dim`. By
//! message: `docs/protocols/attention.md`.
//! Material: [`crate::material::RowAttention`] with the exponentials of every (head, j); per row
//! and head the keys of `1/σ`, and a share of `a₂·v₂ + b₂·u₂`.
//! Leaks: nothing.
//!
//! `q·k = q_c·k_c + q_s·k_s + q_c·k_s + q_s·k_c`: the server opens `k_s − m_k` once, when the row
//! appears, and `q_s − u` once per query; what remains are products of masks made offline.
//!
//! 1. S→C `q_s − u`, `k_s − m_k`, `v_s − w` of the new rows.
//! 2. C→S `c_actual − c` of every score: its share becomes the one that the material fixed.
//! 3. S→C `ε`, its factor of every exponential less a mask; its half of `1/σ`.
//! 4. C→S `e'_c − a`; its half of `1/σ`, masked coarse value, fine value and guard; `o'_c − a₂`.
//! 5. S→C masked coarse value, fine value and guard; `ρ_s − v₂`, `o'_s − u₂`.
//! 6. C→S `ρ_c − b₂`; `x̂_c − r`.
//!
//! Row 0 attends to itself alone: `x̂ = v_0·2^in_shift`. Its `q`, `k` and `v` are opened in step 1
//! like those of other rows, then only the re-mask of step 6 concerns it.
//!
//! The server's weights `e'_s` follow from its material alone (A9), so nothing is opened of them:
//! its share of σ and its half of `1/σ` are known before the client's first message.
//!
//! The scores and the sums of values are a protocol's ([`super::products`]), and with them the
//! openings of q, k, v (1) and e' (4), which are those of [`super::preprocessed`]. All else is the
//! same in every protocol.

mod client;
mod exponentials;
mod server;

use cryptogen_party::Role;
use cryptogen_ring::{Fp, Word};

use super::products::{Call, Side};
use super::scalar::{first_bytes, scalar_keys, second_message, Outside, ScalarKeys};
use super::Online;
use crate::error::Result;
use crate::material::SIGMA_LABELS;
use crate::model::{Plan, Scalar, Site};
use crate::share::local::trunc;
use crate::share::qkv::{split_qkv, NewRows};
use crate::share::{Cost, Tensor};

/// Messages and bytes of one layer for rows at `positions`.
pub fn cost(plan: &Plan, layer: usize, positions: std::ops::Range<usize>) -> Cost {
    let (m, rows) = (&plan.model, positions.len());
    let opened = Cost::of(&[(Role::Server, 8 * rows * (m.q_dim() + 2 * m.kv_dim()))]);
    // In a message that is there anyway.
    let weights = Cost { client_bytes: 8 * m.heads * cached(positions.clone()), ..Cost::default() };
    [shared_cost(plan, layer, positions), opened, weights].into_iter().sum()
}

/// Pairs of a row that runs the softmax and a cached row.
fn cached(positions: std::ops::Range<usize>) -> usize {
    positions.filter(|t| *t > 0).map(|t| t + 1).sum()
}

/// What does not depend on where scores and values come from.
pub fn shared_cost(plan: &Plan, layer: usize, positions: std::ops::Range<usize>) -> Cost {
    let (m, rows, spec) = (&plan.model, positions.len(), &plan.attention[layer]);
    let softmax_rows = positions.clone().filter(|t| *t > 0).count();
    let cached = cached(positions);
    let primes: usize = spec.heads.iter().map(|head| head.primes).sum();
    let (pairs, columns) = (softmax_rows * m.heads, softmax_rows * m.q_dim());
    let scalar = &spec.heads[0].scalar;
    let (first, second) = (first_bytes(scalar, pairs), 8 * second_message(scalar, Outside::Zero, pairs));
    Cost::of(&[
        (Role::Client, 8 * m.heads * cached),
        (Role::Server, 8 * primes * cached + first),
        (Role::Client, first + second + 8 * columns),
        (Role::Server, second + 8 * pairs + 8 * columns),
        (Role::Client, 8 * pairs + 8 * rows * m.q_dim()),
    ])
}

impl Call {
    fn specs<'a>(&self, plan: &'a Plan) -> Vec<&'a Scalar> {
        self.pairs.iter().map(|&(_, g, _)| &plan.attention[self.layer].heads[g].scalar).collect()
    }

    /// Numbers of 8 bytes by which the server opens its factors.
    fn opened_factors(&self, plan: &Plan) -> usize {
        let heads = &plan.attention[self.layer].heads;
        self.pairs.iter().map(|&(_, g, t)| heads[g].primes * (t + 1)).sum()
    }

    /// `σ` of every pair from its weights `[entries]`.
    fn sigmas(&self, weights: &[Fp]) -> Vec<Fp> {
        let pairs = self.pairs.iter().zip(&self.starts);
        pairs.map(|(&(_, _, t), &at)| weights[at..=at + t].iter().copied().sum()).collect()
    }
}

impl<P: Side> Online<P> {
    fn active_positions(&self) -> Vec<usize> {
        self.active.iter().map(|r| r.position).collect()
    }

    /// Those of every pair, in their order.
    fn sigma_keys(&mut self, call: &Call, layer: usize) -> Result<Vec<ScalarKeys>> {
        let (spec, at) = (&self.plan.attention[layer].heads[0].scalar, self.layout.sigma_tables(layer));
        let mut keys = Vec::with_capacity(call.pairs.len());
        for i in call.softmax_rows() {
            let scalars = (layer, self.plan.model.heads);
            keys.extend(scalar_keys(&mut self.active[i].material, spec, at, SIGMA_LABELS, scalars)?);
        }
        Ok(keys)
    }

    /// Adds this party's shares of the events of every pair's 1/σ.
    fn add_sigma_events(&mut self, call: &Call, events: &[Word]) {
        for (&(i, _, _), events) in call.pairs.iter().zip(events) {
            self.add_events(i, 1, [*events]);
        }
    }

    /// `o' = TR(Σ_j e'_j·v_j)` of every pair, `[pairs][head_dim]`.
    fn outputs(&mut self, call: &Call, mut sums: Vec<Fp>) -> Vec<Fp> {
        let heads = &self.plan.attention[call.layer].heads;
        for (o, (_, g, _)) in sums.chunks_mut(call.d).zip(&call.pairs) {
            o.iter_mut().for_each(|o| *o = trunc::<P>(*o, heads[*g].o_shift));
        }
        self.trace.truncated(sums.iter().copied());
        sums
    }

    /// New rows' queries, keys and values, rotated where the layer has rotary positions.
    fn new_rows(&mut self, qkv: &Tensor<P>, layer: usize) -> NewRows {
        let plan = self.plan.clone();
        let mut new = NewRows { queries: vec![], keys: vec![], values: vec![] };
        for (i, row) in self.active.iter().enumerate() {
            let (q, k, v) = split_qkv::<P>(&plan, layer, row.position, qkv.row(i));
            new.queries.push(q);
            new.keys.push(k);
            new.values.push(v);
        }
        if plan.rope[layer].is_some() {
            self.trace.truncated(new.queries.iter().flatten().copied());
            self.trace.truncated(new.keys.iter().flatten().copied());
        }
        new
    }

    /// Row 0's output: its own value, scaled to where the `o` layer expects products.
    fn first_row(&self, layer: usize, value: &[Fp]) -> Vec<Fp> {
        let (m, l) = (&self.plan.model, self.plan.linear(Site::O(layer)));
        (0..m.q_dim())
            .map(|c| {
                let v = value[(c / m.head_dim / m.queries_per_kv_head()) * m.head_dim + c % m.head_dim];
                v * Fp::from_u128(1 << l.in_shift[c])
            })
            .collect()
    }

    /// Scatters per-pair outputs `[pairs][head_dim]` into rows `[rows][q_dim]`, with row 0's
    /// special case.
    fn by_row(&self, call: &Call, layer: usize, new: &NewRows, x: &[Fp]) -> Vec<Vec<Fp>> {
        let q_dim = self.plan.model.q_dim();
        let mut at = 0;
        call.positions
            .iter()
            .zip(&new.values)
            .map(|(&t, value)| match t {
                0 => self.first_row(layer, value),
                _ => {
                    at += q_dim;
                    x[at - q_dim..at].to_vec()
                }
            })
            .collect()
    }

    /// Shares of `a₂·v₂ + b₂·u₂`, `[pairs][head_dim]`.
    fn product_shares(&self, call: &Call, layer: usize) -> Result<Vec<Fp>> {
        let mut z = Vec::with_capacity(call.pairs.len() * call.d);
        for i in call.softmax_rows() {
            z.extend(
                self.active[i].material.words(self.layout.attention_out(layer), self.plan.model.q_dim())?,
            );
        }
        Ok(z)
    }
}

/// Columns of the rows that run the softmax, from a per-row vector.
fn of_pairs(call: &Call, rows: impl Fn(usize) -> Vec<Fp>) -> Vec<Fp> {
    call.softmax_rows().flat_map(rows).collect()
}
