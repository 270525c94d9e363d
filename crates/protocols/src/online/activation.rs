//! GELU, and SiLU·up of gated MLPs (A5.6), by a secret segment; re-masked into the `down` layer.
//!
//! Functionality: shares of `u` → `x̂ = GELU(u)`; gated: shares of `g`, `up` → `x̂ = SiLU(g)·up`.
//! The server gets `x − r'`, `x = TR(x̂, in_shift)`; both get shares of each row's range events.
//! Source: `docs/protocols/preprocessed.md` §4.5; A2, A3, A6.
//! Inputs: client `u_c`, server `u_s`, `[T, ff]`, gated `[T, 2·ff]` (first `g`, then `up`), over
//! `F_p` at scale F. The client's share is known offline.
//! Cost: 2 messages (S→C, C→S), 1 round trip. Bytes per element: plain 26 + 16, gated 34 + 16.
//! Material: per element a key of payloads `(1, β_w, β_up)`, plain `(1, β_w, β_u)`, and, with the
//! server, the client's rotation; a share of `g_c·u_up + up_c·u_g`, plain of `2·u_c·b`.
//! Leaks: nothing.
//!
//! All but the product `w = gate·up`, plain `u²`, is modulo `2^64` (A6). A neuron's segments, and
//! its tables A, B, C and guard G (A3), are those of its window. A plain activation is a gated one
//! with `gate = up = u`, and C.
//!
//! 1. S→C its rotation; plain: `u_s − b`, `u_s − β_u,s`, `w_s − β_w,s`; gated: `g_s − u_g`,
//!    `up_s − u_up`, `up_s − β_up,s`, `w_s − β_w,s`. (The client's rotation was sent offline: its
//!    share of the index has been known since then.)
//! 2. C→S `w_c − β_w,c`; `x̂_c − r`.

use cryptogen_ot::Table;
use cryptogen_party::{Channel, Client, Party, Role, Server};
use cryptogen_ring::{Fp, Word};
use rayon::prelude::*;

use super::products::Side;
use super::tables::look_up_all;
use super::{Online, Turn};
use crate::error::Result;
use crate::material::{activation_shape, MaskLabel, TableKeys, FACTOR, PRODUCT};
use crate::model::{Plan, Site, Window};
use crate::share::local::{client_index, index, join, lift, rotation, sub_public};
use crate::share::{Cost, Kind, Opened, Opening, Tensor};

/// The payloads that pad `w` and `up`: the label of given ones, the number of drawn ones.
const OF_PRODUCT: (MaskLabel, usize) = (MaskLabel::Activation, PRODUCT);
const OF_FACTOR: (MaskLabel, usize) = (MaskLabel::UpPayload, FACTOR);

/// Words that the server opens of an element.
fn opened(plan: &Plan) -> usize {
    if plan.model.gated {
        4
    } else {
        3
    }
}

/// Messages and bytes of `rows` rows.
pub fn cost(plan: &Plan, rows: usize) -> Cost {
    let n = plan.model.ff * rows;
    Cost::of(&[(Role::Server, (2 + 8 * opened(plan)) * n), (Role::Client, 16 * n)])
}

/// A layer's tables as its look-ups read them: those of each window, and each neuron's window.
struct Windows<'a> {
    tables: Vec<Vec<&'a Table>>,
    of: &'a [usize],
    /// payloads of a key, sums of each table
    m: usize,
    /// inner products of a key
    sums: usize,
    /// where those of C begin
    added: Option<usize>,
    /// the sum of the guard among them
    guard: Option<usize>,
}

impl<'a> Windows<'a> {
    fn new(plan: &'a Plan, layer: usize) -> Windows<'a> {
        let (spec, m) = (&plan.activations[layer], activation_shape(plan, layer).m());
        let table = |id| plan.look_up_table(id);
        let tables = |w: &Window| [Some(w.a), Some(w.b), w.c, w.g].into_iter().flatten().map(table).collect();
        let tables: Vec<Vec<_>> = spec.windows.iter().map(tables).collect();
        let (first, sums) = (&spec.windows[0], m * tables[0].len());
        Windows {
            tables,
            of: &spec.of,
            m,
            sums,
            added: first.c.map(|_| 2 * m),
            guard: first.g.map(|_| sums - m),
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

    /// `A[j]·w + B[j]·up + C[j]` from the sums of one key and the opened `w − β_w`, `up − β_up`.
    fn piece(&self, delta_w: Word, delta_up: Word, sums: &[Word]) -> Word {
        let (a, b) = (&sums[..self.m], &sums[self.m..]);
        let x = delta_w * a[0] + a[PRODUCT] + delta_up * b[0] + b[FACTOR];
        self.added.map_or(x, |at| x + sums[at])
    }
}

/// Gate and up of a row; without gates the input, twice.
fn factors(row: &[Fp], ff: usize) -> (&[Fp], &[Fp]) {
    (&row[..ff], &row[row.len() - ff..])
}

impl<P: Side> Online<P> {
    /// The keys of all rows. Parallel over rows: they come from the store.
    fn activation_keys(&mut self, layer: usize) -> Result<Vec<TableKeys>> {
        let (plan, layout) = (&self.plan, &self.layout);
        self.active.par_iter_mut().map(|row| row.material.activation_keys(layout, plan, layer)).collect()
    }

    /// This party's shares of a payload of a row's keys: given ones, of a gated layer, from its
    /// seed, drawn ones from the keys.
    fn payloads(
        &self,
        row: usize,
        keys: &TableKeys,
        layer: usize,
        (given, drawn): (MaskLabel, usize),
    ) -> Vec<Word> {
        match self.plan.model.gated {
            true => self.active[row].material.mask_words(given, layer, self.plan.model.ff),
            false => keys.drawn(drawn).collect(),
        }
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
        // What does not depend on the message comes first: the server is still making it.
        let keys = self.activation_keys(layer)?;
        let inputs = (0..n).flat_map(|row| u.row(row)[..ff].iter().enumerate());
        let indices: Vec<u32> = inputs.map(|(neuron, x)| client_index(&plan, layer, neuron, *x)).collect();
        let mut rotations: Vec<u32> = (keys.iter().flat_map(TableKeys::alphas).zip(&indices))
            .map(|(alpha, index)| rotation(*index, alpha, spec.k))
            .collect();
        let remasks: Vec<Vec<Word>> = (0..n).map(|row| self.active[row].remask_words(&plan, layer)).collect();
        let betas: Vec<Vec<Word>> =
            keys.iter().enumerate().map(|(row, keys)| self.payloads(row, keys, layer, OF_PRODUCT)).collect();
        let mut m1 = Opened::recv(ch, n * ff * opened(&plan), n * ff)?;
        let theirs = m1.rotations(n * ff)?;
        rotations.iter_mut().zip(theirs).for_each(|(d, theirs)| *d = join(*d, theirs, spec.k));
        let mut m2 = Opening::new();
        let sums = windows.look_up::<Client>(keys, &rotations)?;
        self.add_events(0, ff, windows.guards(&sums));
        let open_g = if plan.model.gated { Some(m1.words(n * ff)?) } else { None };
        let open_up = m1.words(n * ff)?;
        let open_g = open_g.as_ref().unwrap_or(&open_up);
        let (delta_up, delta_w) = (m1.ring_words(n * ff)?, m1.ring_words(n * ff)?);
        for (row, (remask, beta)) in remasks.iter().zip(&betas).enumerate() {
            let (g, up) = factors(u.row(row), ff);
            let z = self.active[row].material.words(self.layout.activation_product(layer), ff)?;
            let i = |j: usize| row * ff + j;
            let w: Vec<Word> = (0..ff)
                .map(|j| g[j] * (up[j] + open_up[i(j)]) + open_g[i(j)] * up[j] + z[j])
                .map(lift::<Client>)
                .collect();
            self.trace.lifted(w.iter().copied());
            let delta = |j: usize| delta_w[i(j)] + w[j] - beta[j];
            let x: Vec<Word> = (0..ff)
                .map(|j| windows.piece(delta(j), delta_up[i(j)], &sums[windows.sums * i(j)..]))
                .collect();
            m2.masked_words(&w, beta);
            m2.masked_words(&x, remask);
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
        let mut deltas = Vec::with_capacity(n);
        let [mut gates, mut ups, mut payloads, mut ws] = [(); 4].map(|()| Opening::new());
        for (row, keys) in keys.iter().enumerate() {
            let material = &self.active[row].material;
            let (g, up) = factors(u.row(row), ff);
            let z = material.words(self.layout.activation_product(layer), ff)?;
            if plan.model.gated {
                gates.masked(g, &material.expand_mask(MaskLabel::Gate, layer, ff));
            }
            ups.masked(up, &material.expand_mask(MaskLabel::Up, layer, ff));
            let w: Vec<Word> = (0..ff).map(|j| lift::<Server>(g[j] * up[j] + z[j])).collect();
            self.trace.lifted(w.iter().copied());
            let up: Vec<Word> = up.iter().map(|x| lift::<Server>(*x)).collect();
            let [beta_up, beta] = [OF_FACTOR, OF_PRODUCT].map(|which| self.payloads(row, keys, layer, which));
            payloads.masked_words(&up, &beta_up);
            ws.masked_words(&w, &beta);
            let delta_up: Vec<Word> = up.iter().zip(&beta_up).map(|(a, b)| *a - *b).collect();
            let delta_w: Vec<Word> = w.iter().zip(&beta).map(|(a, b)| *a - *b).collect();
            deltas.push((delta_up, delta_w));
        }
        m1.append(gates).append(ups).append(payloads).append(ws);
        m1.send(ch)?;
        let sums = windows.look_up::<Server>(keys, &joined)?;
        self.add_events(0, ff, windows.guards(&sums));
        let mut m2 = Opened::recv(ch, 2 * n * ff, 0)?;
        let into = Site::Down(layer);
        let mut data = Vec::with_capacity(n * ff);
        for (row, (delta_up, delta_w)) in deltas.iter().enumerate() {
            let (their_w, opened) = (m2.ring_words(ff)?, m2.ring_words(ff)?);
            let x = (0..ff).map(|j| {
                let sums = &sums[windows.sums * (row * ff + j)..];
                windows.piece(delta_w[j] + their_w[j], delta_up[j], sums) + opened[j]
            });
            data.extend(self.enter_words(into, x));
        }
        self.trace.index(indices, spec.k);
        Ok(Tensor::new(Kind::Input(into), n, data))
    }
}
