//! GELU, and SiLU·up of gated MLPs (A5.6), by a secret segment; re-masked into the `down` layer.
//!
//! Functionality: shares of `u` → `x̂ = GELU(u)`; gated: shares of `g`, `up` → `x̂ = SiLU(g)·up`.
//! The server gets `x − r'`, `x = TR(x̂, in_shift)`; both get shares of each row's range events.
//! Source: `docs/protocols/preprocessed.md` §4.5; A2, A3, A6.
//! Inputs: client `u_c`, server `u_s`, `[T, ff]`, gated `[T, 2·ff]` (first `g`, then `up`), over
//! `F_p` at scale F. The client's share is known offline.
//! Cost: 2 messages (S→C, C→S), 1 round trip. Bytes per element: plain 10 + 8, gated 34 + 16.
//! Material: per element a key of payloads `(1, β)` or `(1, β_w, β_up)` and, with the server, the
//! client's rotation; gated also a share of `g_c·u_up + up_c·u_g`.
//! Leaks: nothing.
//!
//! All but the product `gate·up` is modulo `2^64` (A6). A neuron's segments, and its tables A, B
//! and guard G (A3), are those of its window.
//!
//! 1. S→C its rotation; plain: `u_s − β_s`; gated: `g_s − u_g`, `up_s − u_up`, `up_s − β_up,s`,
//!    `w_s − β_w,s` with `w = gate·up`. (The client's rotation was sent offline: its share of the
//!    index has been known since then.)
//! 2. C→S gated: `w_c − β_w,c`; then `x̂_c − r`.

use cryptogen_ot::Table;
use cryptogen_party::{Channel, Client, Party, Role, Server};
use cryptogen_ring::Word;
use rayon::prelude::*;

use super::products::Side;
use super::tables::{line, look_up_all};
use super::{Online, Turn};
use crate::error::Result;
use crate::material::{activation_shape, MaskLabel, TableKeys};
use crate::model::{Plan, Site, Window};
use crate::share::local::{client_index, index, join, lift, rotation, sub_public};
use crate::share::{Cost, Kind, Opened, Opening, Tensor};

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    let (n, gated) = (plan.model.ff * rows, plan.model.gated);
    let (from_server, from_client) = if gated { (34, 16) } else { (10, 8) };
    Cost::of(&[(Role::Server, from_server * n), (Role::Client, from_client * n)])
}

/// A layer's tables as its look-ups read them: those of each window, and each neuron's window.
struct Windows<'a> {
    tables: Vec<Vec<&'a Table>>,
    of: &'a [usize],
    /// inner products of a key
    sums: usize,
    /// the sum of the guard among them
    guard: Option<usize>,
}

impl<'a> Windows<'a> {
    fn new(plan: &'a Plan, layer: usize) -> Windows<'a> {
        let (spec, m) = (&plan.activations[layer], activation_shape(plan, layer).m());
        let table = |id| plan.look_up_table(id);
        let tables = |w: &Window| [Some(w.a), Some(w.b), w.g].into_iter().flatten().map(table).collect();
        let guarded = spec.windows[0].g.is_some();
        Windows {
            tables: spec.windows.iter().map(tables).collect(),
            of: &spec.of,
            sums: if guarded { 3 * m } else { 2 * m },
            guard: guarded.then_some(2 * m),
        }
    }

    /// The sums `[rows·ff][tables][m]` of all keys.
    fn look_up<P: Party>(&self, keys: Vec<TableKeys>, rotations: &[u32]) -> Result<Vec<Word>> {
        look_up_all::<P>(keys, rotations, &self.tables, |n| self.of[n % self.of.len()])
    }

    /// This party's shares of the guards, of every neuron; none without guards.
    fn guards<'s>(&self, sums: &'s [Word]) -> impl Iterator<Item = Word> + 's {
        let of_key = self.guard.map(|at| sums.iter().skip(at).step_by(self.sums).copied());
        of_key.into_iter().flatten()
    }
}

/// `A[j]·w + B[j]·up` from the sums `[A, B][1, β_w, β_up]` of one key and the opened `w − β_w`,
/// `up − β_up`.
fn gated_line(delta_w: Word, delta_up: Word, sums: &[Word]) -> Word {
    let (a, b) = (&sums[..3], &sums[3..6]);
    delta_w * a[0] + a[1] + delta_up * b[0] + b[2]
}

impl<P: Side> Online<P> {
    /// The keys of all rows. Parallel over rows: they come from the store.
    fn activation_keys(&mut self, layer: usize) -> Result<Vec<TableKeys>> {
        let (plan, layout) = (&self.plan, &self.layout);
        self.active.par_iter_mut().map(|row| row.material.activation_keys(layout, plan, layer)).collect()
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
        self.take_turn(Turn::Activation(layer))?;
        let plan = self.plan.clone();
        let (ff, n, spec) = (plan.model.ff, u.rows, &plan.activations[layer]);
        let windows = Windows::new(&plan, layer);
        let gated = plan.model.gated;
        // What does not depend on the message comes first: the server is still making it.
        let keys = self.activation_keys(layer)?;
        let inputs = (0..n).flat_map(|row| u.row(row)[..ff].iter().enumerate());
        let indices: Vec<u32> = inputs.map(|(neuron, x)| client_index(&plan, layer, neuron, *x)).collect();
        let mut rotations: Vec<u32> = (keys.iter().flat_map(TableKeys::alphas).zip(&indices))
            .map(|(alpha, index)| rotation(*index, alpha, spec.k))
            .collect();
        let remasks: Vec<Vec<Word>> = (0..n).map(|row| self.active[row].remask_words(&plan, layer)).collect();
        let mut m1 = Opened::recv(ch, n * ff * if gated { 4 } else { 1 }, n * ff)?;
        let theirs = m1.rotations(n * ff)?;
        rotations.iter_mut().zip(theirs).for_each(|(d, theirs)| *d = join(*d, theirs, spec.k));
        let mut m2 = Opening::new();
        let sums = windows.look_up::<Client>(keys, &rotations)?;
        self.add_events(0, ff, windows.guards(&sums));
        if !gated {
            let delta = m1.ring_words(n * ff)?;
            let x =
                delta.iter().zip(sums.chunks_exact(windows.sums)).map(|(delta, sums)| line(*delta, sums, 2));
            for (x, remask) in x.collect::<Vec<_>>().chunks(ff).zip(&remasks) {
                m2.masked_words(x, remask);
            }
        } else {
            let (open_g, open_up) = (m1.words(n * ff)?, m1.words(n * ff)?);
            let (delta_up, delta_w) = (m1.ring_words(n * ff)?, m1.ring_words(n * ff)?);
            for (row, remask) in remasks.iter().enumerate() {
                let material = &self.active[row].material;
                let (g, up) = u.row(row).split_at(ff);
                let z = material.words(self.layout.gated(layer), ff)?;
                let beta = material.mask_words(MaskLabel::Activation, layer, ff);
                let i = |j: usize| row * ff + j;
                let w: Vec<Word> = (0..ff)
                    .map(|j| g[j] * (up[j] + open_up[i(j)]) + open_g[i(j)] * up[j] + z[j])
                    .map(lift::<Client>)
                    .collect();
                self.trace.lifted(w.iter().copied());
                let delta = |j: usize| delta_w[i(j)] + w[j] - beta[j];
                let x: Vec<Word> = (0..ff)
                    .map(|j| gated_line(delta(j), delta_up[i(j)], &sums[windows.sums * i(j)..]))
                    .collect();
                m2.masked_words(&w, &beta);
                m2.masked_words(&x, remask);
            }
        }
        self.trace.index(indices, spec.k);
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
        self.take_turn(Turn::Activation(layer))?;
        let plan = self.plan.clone();
        let (ff, n, spec) = (plan.model.ff, u.rows, &plan.activations[layer]);
        let windows = Windows::new(&plan, layer);
        let gated = plan.model.gated;
        let mut indices = Vec::with_capacity(n * ff);
        let mut rotations = Vec::with_capacity(n * ff);
        let mut joined = Vec::with_capacity(n * ff);
        let keys = self.activation_keys(layer)?;
        for (row, keys) in keys.iter().enumerate() {
            let theirs = self.active[row].material.half_words(self.layout.activation_deltas(layer), ff)?;
            for (neuron, ((alpha, x), theirs)) in keys.alphas().zip(u.row(row)).zip(theirs).enumerate() {
                let (h, offset) = spec.segments(neuron);
                let i = index::<Server>(sub_public::<Server>(*x, offset), h, spec.k);
                let mine = rotation(i, alpha, spec.k);
                indices.push(i);
                rotations.push(mine);
                joined.push(join(mine, theirs, spec.k));
            }
        }
        let mut m1 = Opening::new();
        m1.rotations(&rotations);
        let into = Site::Down(layer);
        let mut data = Vec::with_capacity(n * ff);
        if !gated {
            let mut delta = Vec::with_capacity(n * ff);
            for row in 0..n {
                let beta = self.active[row].material.mask_words(MaskLabel::Activation, layer, ff);
                let x: Vec<Word> = u.row(row).iter().map(|x| lift::<Server>(*x)).collect();
                delta.extend(x.iter().zip(&beta).map(|(x, b)| *x - *b));
                m1.masked_words(&x, &beta);
            }
            m1.send(ch)?;
            let sums = windows.look_up::<Server>(keys, &joined)?;
            self.add_events(0, ff, windows.guards(&sums));
            let mut m2 = Opened::recv(ch, n * ff, 0)?;
            for (delta, sums) in delta.chunks(ff).zip(sums.chunks(windows.sums * ff)) {
                let opened = m2.ring_words(ff)?;
                let x = delta.iter().zip(sums.chunks_exact(windows.sums)).zip(&opened);
                data.extend(self.enter_words(into, x.map(|((delta, sums), m)| line(*delta, sums, 2) + *m)));
            }
        } else {
            let mut masks = Vec::with_capacity(n);
            let [mut gates, mut ups, mut payloads, mut ws] = [(); 4].map(|()| Opening::new());
            for row in 0..n {
                let material = &self.active[row].material;
                let (g, up) = u.row(row).split_at(ff);
                let z = material.words(self.layout.gated(layer), ff)?;
                gates.masked(g, &material.expand_mask(MaskLabel::Gate, layer, ff));
                ups.masked(up, &material.expand_mask(MaskLabel::Up, layer, ff));
                let w: Vec<Word> = (0..ff).map(|j| lift::<Server>(g[j] * up[j] + z[j])).collect();
                self.trace.lifted(w.iter().copied());
                let up: Vec<Word> = up.iter().map(|x| lift::<Server>(*x)).collect();
                let [beta_up, beta] =
                    [MaskLabel::UpPayload, MaskLabel::Activation].map(|m| material.mask_words(m, layer, ff));
                payloads.masked_words(&up, &beta_up);
                ws.masked_words(&w, &beta);
                let delta_up: Vec<Word> = up.iter().zip(&beta_up).map(|(a, b)| *a - *b).collect();
                let delta_w: Vec<Word> = w.iter().zip(&beta).map(|(a, b)| *a - *b).collect();
                masks.push((delta_up, delta_w));
            }
            m1.append(gates).append(ups).append(payloads).append(ws);
            m1.send(ch)?;
            let sums = windows.look_up::<Server>(keys, &joined)?;
            self.add_events(0, ff, windows.guards(&sums));
            let mut m2 = Opened::recv(ch, 2 * n * ff, 0)?;
            for (row, (delta_up, delta_w)) in masks.iter().enumerate() {
                let (their_w, opened) = (m2.ring_words(ff)?, m2.ring_words(ff)?);
                let x = (0..ff).map(|j| {
                    let sums = &sums[windows.sums * (row * ff + j)..];
                    gated_line(delta_w[j] + their_w[j], delta_up[j], sums) + opened[j]
                });
                data.extend(self.enter_words(into, x));
            }
        }
        self.trace.index(indices, spec.k);
        Ok(Tensor::new(Kind::Input(into), n, data))
    }
}
