//! GELU, and SiLU·up of gated MLPs (A5.6), by a secret segment; re-masked into the `down` layer.
//!
//! Source: design of the default protocol, "Activation"; half-tree table keys with payloads `(1, β)` or `(1, β_w, β_up)`.
//! Messages: 2 (S→C, C→S) = 1 round trip. Bytes per element: plain `10 + 8`, gated `26 + 16`.
//! Material per element: one key; gated: a share of `g_c·u_up + up_c·u_g`. Leaks: nothing.
//!
//! 1. S→C its rotation; plain: `x_s − β_s`; gated: `g_s − u_g`, `up_s − u_up`, `w_s − β_w,s` with `w = gate·up`.
//!    (The client's rotation was sent offline: its share of the index has been known since then.)
//! 2. C→S gated: `w_c − β_w,c`; then `x̂_c − r`.

use cryptogen_mpc::party::{Client, Party, Server};
use cryptogen_ot::{Channel, Role};
use cryptogen_ring::Fp;

use super::tables::{index, join, look_up_all, rotation, sub_public};
use super::{Kind, Online, Tensor};
use crate::cost::Cost;
use crate::error::Result;
use crate::material::{Mask, TableKeys};
use crate::plan::{Plan, Site};
use crate::wire::{Incoming, Opening};

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    let (n, gated) = (plan.model.ff * rows, plan.model.gated);
    let (from_server, from_client) = if gated { (26, 16) } else { (10, 8) };
    Cost::of(&[(Role::Server, from_server * n), (Role::Client, from_client * n)])
}

/// The client's index share of an activation input; also used offline to send its rotation ahead.
pub(crate) fn client_index(plan: &Plan, layer: usize, x: Fp) -> u32 {
    let a = &plan.activations[layer];
    index::<Client>(x, a.h, a.k)
}

impl<P: Party> Online<P> {
    /// The keys of all rows.
    fn activation_keys(&mut self, layer: usize) -> Result<Vec<TableKeys>> {
        let (plan, layout) = (&self.plan, &self.layout);
        self.active.iter_mut().map(|row| row.slot.activation_keys(layout, plan, layer)).collect()
    }
}

impl Online<Client> {
    /// The client's side.
    pub fn activation(
        &mut self,
        ch: &mut dyn Channel,
        u: &Tensor<Client>,
        layer: usize,
    ) -> Result<Tensor<Client>> {
        self.check(u, Kind::Output(Site::Up(layer)))?;
        let plan = self.plan.clone();
        let (ff, n, spec) = (plan.model.ff, u.rows, &plan.activations[layer]);
        let (ta, tb) = (plan.table(spec.a), plan.table(spec.b));
        let gated = plan.model.gated;
        let terms = [(0, ta), (1, ta), (0, tb), (2, tb)];
        let terms = &terms[..if gated { 4 } else { 3 }];
        // What does not depend on the message comes first: the server is still making it.
        let keys = self.activation_keys(layer)?;
        let inputs = (0..n).flat_map(|row| u.row(row)[..ff].iter());
        let mut rotations: Vec<u32> = (keys.iter().flat_map(TableKeys::heads).zip(inputs))
            .map(|((_, alpha), x)| rotation(client_index(&plan, layer, *x), alpha, spec.k))
            .collect();
        let remasks: Vec<Vec<Fp>> = (0..n).map(|row| self.remask(row, Site::Down(layer))).collect();
        let mut m1 = Incoming::recv(ch, n * ff * if gated { 3 } else { 1 }, n * ff)?;
        let theirs = m1.rotations(n * ff)?;
        rotations.iter_mut().zip(theirs).for_each(|(d, theirs)| *d = join(*d, theirs, spec.k));
        let indices = (0..n * ff).map(|i| client_index(&plan, layer, u.row(i / ff)[i % ff]));
        self.trace.index(indices, spec.k);
        let mut m2 = Opening::new();
        let sums = look_up_all::<Client>(keys, &rotations, &[terms])?;
        if !gated {
            let delta = m1.words(n * ff)?;
            let x: Vec<Fp> = delta
                .iter()
                .zip(sums.chunks_exact(3))
                .map(|(delta, s)| *delta * s[0] + s[1] + s[2])
                .collect();
            for (x, remask) in x.chunks(ff).zip(&remasks) {
                m2.masked(x, remask);
            }
        } else {
            let (open_g, open_up, open_w) = (m1.words(n * ff)?, m1.words(n * ff)?, m1.words(n * ff)?);
            for (row, remask) in remasks.iter().enumerate() {
                let slot = &self.active[row].slot;
                let (g, up) = u.row(row).split_at(ff);
                let z = slot.words(self.layout.gated(layer), ff)?;
                let beta = slot.mask(Mask::Activation, layer, ff);
                let i = |j: usize| row * ff + j;
                let w: Vec<Fp> =
                    (0..ff).map(|j| g[j] * (up[j] + open_up[i(j)]) + open_g[i(j)] * up[j] + z[j]).collect();
                let x: Vec<Fp> = (0..ff)
                    .map(|j| {
                        let s = &sums[4 * i(j)..];
                        (open_w[i(j)] + w[j] - beta[j]) * s[0] + s[1] + open_up[i(j)] * s[2] + s[3]
                    })
                    .collect();
                m2.masked(&w, &beta);
                m2.masked(&x, remask);
            }
        }
        m2.send(ch)?;
        Ok(Tensor::new(Kind::Input(Site::Down(layer)), n, vec![]))
    }
}

impl Online<Server> {
    /// The server's side; returns `x − r'` at scale F.
    pub fn activation(
        &mut self,
        ch: &mut dyn Channel,
        u: &Tensor<Server>,
        layer: usize,
    ) -> Result<Tensor<Server>> {
        self.check(u, Kind::Output(Site::Up(layer)))?;
        let plan = self.plan.clone();
        let (ff, n, spec) = (plan.model.ff, u.rows, &plan.activations[layer]);
        let (ta, tb) = (plan.table(spec.a), plan.table(spec.b));
        let gated = plan.model.gated;
        let terms = [(0, ta), (1, ta), (0, tb), (2, tb)];
        let terms = &terms[..if gated { 4 } else { 3 }];
        let mut indices = Vec::with_capacity(n * ff);
        let mut rotations = Vec::with_capacity(n * ff);
        let mut joined = Vec::with_capacity(n * ff);
        let keys = self.activation_keys(layer)?;
        for (row, keys) in keys.iter().enumerate() {
            let theirs = self.active[row].slot.half_words(self.layout.activation_deltas(layer), ff)?;
            for (((_, alpha), x), theirs) in keys.heads().zip(u.row(row)).zip(theirs) {
                let i = index::<Server>(sub_public::<Server>(*x, spec.offset), spec.h, spec.k);
                let mine = rotation(i, alpha, spec.k);
                indices.push(i);
                rotations.push(mine);
                joined.push(join(mine, theirs, spec.k));
            }
        }
        self.trace.index(indices, spec.k);
        let mut m1 = Opening::new();
        m1.rotations(&rotations);
        let into = Site::Down(layer);
        let mut data = Vec::with_capacity(n * ff);
        if !gated {
            let mut delta = Vec::with_capacity(n * ff);
            for row in 0..n {
                let beta = self.active[row].slot.mask(Mask::Activation, layer, ff);
                let x: Vec<Fp> = u.row(row).iter().map(|x| sub_public::<Server>(*x, spec.center)).collect();
                delta.extend(x.iter().zip(&beta).map(|(x, b)| *x - *b));
                m1.masked(&x, &beta);
            }
            m1.send(ch)?;
            let sums = look_up_all::<Server>(keys, &joined, &[terms])?;
            let mut m2 = Incoming::recv(ch, n * ff, 0)?;
            for (delta, sums) in delta.chunks(ff).zip(sums.chunks(3 * ff)) {
                let opened = m2.words(ff)?;
                let x = delta.iter().zip(sums.chunks_exact(3)).zip(&opened);
                data.extend(self.enter(into, x.map(|((delta, s), m)| *delta * s[0] + s[1] + s[2] + *m)));
            }
        } else {
            let mut masks = Vec::with_capacity(n);
            let (mut gates, mut ups, mut ws) = (Opening::new(), Opening::new(), Opening::new());
            for row in 0..n {
                let slot = &self.active[row].slot;
                let (g, up) = u.row(row).split_at(ff);
                let z = slot.words(self.layout.gated(layer), ff)?;
                let [mask_g, mask_up, beta] =
                    [Mask::Gate, Mask::Up, Mask::Activation].map(|m| slot.mask(m, layer, ff));
                let w: Vec<Fp> = (0..ff).map(|j| g[j] * up[j] + z[j]).collect();
                gates.masked(g, &mask_g);
                ups.masked(up, &mask_up);
                ws.masked(&w, &beta);
                let open_up: Vec<Fp> = up.iter().zip(&mask_up).map(|(a, b)| *a - *b).collect();
                let open_w: Vec<Fp> = w.iter().zip(&beta).map(|(a, b)| *a - *b).collect();
                masks.push((open_up, open_w));
            }
            m1.append(gates).append(ups).append(ws);
            m1.send(ch)?;
            let sums = look_up_all::<Server>(keys, &joined, &[terms])?;
            let mut m2 = Incoming::recv(ch, 2 * n * ff, 0)?;
            for (row, (open_up, open_w)) in masks.iter().enumerate() {
                let (their_w, opened) = (m2.words(ff)?, m2.words(ff)?);
                let x = (0..ff).map(|j| {
                    let s = &sums[4 * (row * ff + j)..];
                    (open_w[j] + their_w[j]) * s[0] + s[1] + open_up[j] * s[2] + s[3] + opened[j]
                });
                data.extend(self.enter(into, x));
            }
        }
        Ok(Tensor::new(Kind::Input(into), n, data))
    }
}
