//! What the two records of a row must hold, from both seeds: the ideal functionality of the
//! offline phase. The dealer makes records by it, the tests of the real offline phase check records
//! against it.

use cryptogen_ot::TableShape;
use cryptogen_party::Client;
use cryptogen_ring::trunc::trunc_client;
use cryptogen_ring::word::{lift_client, word_trunc_client};
use cryptogen_ring::{Fp, Seed, Word};

use super::tiny::Tiny;
use crate::material::{
    activation_shape, embed_mask, expand_mask, hi_shape, lo_shape, mask_words, net_shape, MaskLabel,
    ScalarPlaces,
};
use crate::model::{Matrix, ModelShape, Prefix, Scalar, Site};
use crate::share::local::client_index;
use crate::share::qkv::split_qkv;

/// A pair of something: the client's, the server's.
pub type Pair<T> = [T; 2];

/// A table key of a row: record offset, class, shares of given payloads. Of drawn ones the client's
/// share of the last, which it makes known by what it opens.
pub struct Table {
    pub at: usize,
    pub shape: TableShape,
    pub betas: Pair<Vec<Word>>,
    pub known: Option<Word>,
}

/// The client's shares that a record determines before there is a token.
#[derive(Default)]
pub struct Known {
    /// share of the residual stream in front of every norm
    pub norms: Vec<Vec<Fp>>,
    /// truncated share of every site's output
    pub outputs: Vec<Vec<Fp>>,
    /// `r'` of every site
    pub inputs: Vec<Vec<Fp>>,
}

/// The content of both records.
#[derive(Default)]
pub struct Ideal {
    /// record offset and the sum of both parties' words there
    pub sums: Vec<(usize, Vec<Fp>)>,
    /// alike, of products with a matrix: off by a few units
    pub products: Vec<(usize, Matrix, Vec<Fp>)>,
    pub tables: Vec<Table>,
    pub known: Known,
}

/// Element-wise products.
fn products(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(a, b)| *a * *b).collect()
}

/// Element-wise sums.
fn sums(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

fn spread(x: &[Fp], n: usize) -> Vec<Fp> {
    x.iter().flat_map(|v| vec![*v; n]).collect()
}

/// `W·r` in the clear.
pub fn multiply(tiny: &Tiny, matrix: Matrix, r: &[Fp]) -> Vec<Fp> {
    let (d_out, d_in) = matrix.shape(&tiny.plan);
    let mut row = vec![0; d_in];
    let output = |i: usize| {
        tiny.model.row(matrix, i, &mut row);
        row.iter().zip(r).map(|(w, r)| Fp::from_i64(i64::from(*w)) * *r).sum()
    };
    (0..d_out).map(output).collect()
}

/// `r >> in_shift` of a site.
pub fn remask(tiny: &Tiny, site: Site, seed: &Seed) -> Vec<Fp> {
    let l = tiny.plan.linear(site);
    let index = if site == Site::Head { 0 } else { site.index(tiny.plan.model.layers) };
    if matches!(site, Site::Down(_)) {
        let r = mask_words(seed, MaskLabel::Remask, index, l.d_in);
        return r.iter().zip(&l.in_shift).map(|(r, k)| word_trunc_client(*r, *k)).collect();
    }
    let r = expand_mask(seed, MaskLabel::Remask, index, l.d_in);
    r.iter().zip(&l.in_shift).map(|(r, k)| trunc_client(*r, *k)).collect()
}

/// Both records from both seeds. `client_share(matrix)` is the client's share of `W·r'`, which the
/// ideal functionality leaves open.
pub fn record(tiny: &Tiny, seeds: &Pair<Seed>, mut client_share: impl FnMut(Matrix) -> Vec<Fp>) -> Ideal {
    let (plan, layout, m) = (&tiny.plan, &tiny.layout, &tiny.plan.model);
    let d = m.d;
    let cm = |what, index, n| expand_mask(&seeds[0], what, index, n);
    let sm = |what, index, n| expand_mask(&seeds[1], what, index, n);
    let embed = client_share(Matrix::Embed);
    let mut ideal = Ideal::default();
    let mut h: Vec<Fp> = embed.into_iter().map(|c| trunc_client(c, plan.embed.shift)).collect();
    let r = embed_mask(&seeds[0], m.vocab);
    ideal.products.push((layout.embed(), Matrix::Embed, multiply(tiny, Matrix::Embed, &r)));

    let mut attended = None; // what is added late, because the MLP does not read it
    for (norm, spec) in plan.norms.iter().enumerate() {
        let cut: Vec<Fp> = h.iter().map(|c| trunc_client(*c, spec.pre_shift)).collect();
        let square = products(&cut, &sm(MaskLabel::NormSquare, norm, d)).into_iter().sum();
        ideal.sums.push((layout.norm_square(norm), vec![square]));
        let (v, b) =
            (spread(&sm(MaskLabel::NormScale, norm, 1), d), spread(&cm(MaskLabel::NormScalar, norm, 1), d));
        let product = sums(&products(&h, &v), &products(&b, &sm(MaskLabel::NormInput, norm, d)));
        ideal.sums.push((layout.norm_product(norm), product));
        ideal.known.norms.push(h.clone());
        let what = [MaskLabel::NormHi, MaskLabel::NormLo, MaskLabel::NormNet];
        ideal.scalar(&spec.scalar, what, (norm, 1), layout.norm_tables(norm), seeds);

        // Two sites follow every norm but the last, between them attention or an activation.
        let layer = norm / 2;
        let sites = match norm % 2 {
            _ if norm == 2 * m.layers => break,
            0 => [Site::Qkv(layer), Site::O(layer)],
            _ => [Site::Up(layer), Site::Down(layer)],
        };
        for site in sites {
            let l = plan.linear(site);
            let r = remask(tiny, site, &seeds[0]);
            let share = client_share(Matrix::Linear(site));
            let y: Vec<Fp> =
                share.iter().enumerate().map(|(i, c)| trunc_client(*c, l.out_shift(i))).collect();
            match site {
                Site::O(_) if m.parallel => attended = Some(y.clone()),
                Site::O(_) | Site::Down(_) => h = sums(&h, &y),
                _ => (),
            }
            if matches!(site, Site::Down(_)) {
                h = attended.take().map_or(h.clone(), |y| sums(&h, &y));
            }
            let matrix = Matrix::Linear(site);
            ideal.products.push((layout.linear(site), matrix, multiply(tiny, matrix, &r)));
            ideal.known.inputs.push(r);
            ideal.known.outputs.push(y);
        }
        if norm % 2 == 0 {
            ideal.attention(tiny, layer, seeds);
        } else {
            ideal.activation(tiny, layer, seeds);
        }
    }
    ideal
}

impl Ideal {
    /// The keys of `n` scalars.
    fn scalar(
        &mut self,
        spec: &Scalar,
        [hi_label, lo_label, net_label]: [MaskLabel; 3],
        (index, n): (usize, usize),
        at: ScalarPlaces,
        seeds: &Pair<Seed>,
    ) {
        let (hi, lo) = (hi_shape(spec), lo_shape(spec));
        for i in 0..n {
            let hi_masks = [0, 1].map(|p| mask_words(&seeds[p], hi_label, index, 3 * n));
            let betas = hi_masks.map(|m| m[3 * i..][..hi.payloads() as usize].to_vec());
            self.tables.push(Table { at: at.hi + i * hi.record_bytes(), shape: hi, betas, known: None });
            if let Some(lo) = lo {
                let betas = [0, 1].map(|p| vec![mask_words(&seeds[p], lo_label, index, n)[i]]);
                self.tables.push(Table { at: at.lo + i * lo.record_bytes(), shape: lo, betas, known: None });
            }
            let (at, shape) = (at.net + i * net_shape().record_bytes(), net_shape());
            let betas = [0, 1].map(|p| vec![mask_words(&seeds[p], net_label, index, n)[i]]);
            self.tables.push(Table { at, shape, betas, known: None });
        }
    }

    fn attention(&mut self, tiny: &Tiny, layer: usize, seeds: &Pair<Seed>) {
        let (m, layout) = (&tiny.plan.model, &tiny.layout);
        let scale = [0, 1]
            .map(|p| spread(&expand_mask(&seeds[p], MaskLabel::AttentionScale, layer, m.heads), m.head_dim));
        let out = [0, 1].map(|p| expand_mask(&seeds[p], MaskLabel::AttentionOut, layer, m.q_dim()));
        let product = sums(&products(&out[0], &scale[1]), &products(&scale[0], &out[1]));
        self.sums.push((layout.attention_out(layer), product));
        let spec = &tiny.plan.attention[layer].heads[0].scalar;
        let what = [MaskLabel::SigmaHi, MaskLabel::SigmaLo, MaskLabel::SigmaNet];
        self.scalar(spec, what, (layer, m.heads), layout.sigma_tables(layer), seeds);
    }

    fn activation(&mut self, tiny: &Tiny, layer: usize, seeds: &Pair<Seed>) {
        let (m, layout) = (&tiny.plan.model, &tiny.layout);
        let u = &self.known.outputs[Site::Up(layer).index(m.layers)];
        let random = [0, 1].map(|p| mask_words(&seeds[p], MaskLabel::Activation, layer, m.ff));
        let made = layout.activation_product(layer);
        let betas: Vec<Pair<Vec<Word>>> = if m.gated {
            let (gate, up) = u.split_at(m.ff);
            let [mask_g, mask_u] =
                [MaskLabel::Gate, MaskLabel::Up].map(|what| expand_mask(&seeds[1], what, layer, m.ff));
            self.sums.push((made, sums(&products(gate, &mask_u), &products(up, &mask_g))));
            let payload = mask_words(&seeds[1], MaskLabel::UpPayload, layer, m.ff);
            let pair = |j| [vec![random[0][j], lift_client(up[j])], vec![random[1][j], payload[j]]];
            (0..m.ff).map(pair).collect()
        } else {
            let product = products(u, &expand_mask(&seeds[1], MaskLabel::Up, layer, m.ff));
            self.sums.push((made, sums(&product, &product)));
            vec![[vec![], vec![]]; m.ff]
        };
        let shape = activation_shape(&tiny.plan, layer);
        for (j, betas) in betas.into_iter().enumerate() {
            self.tables.push(Table {
                at: layout.activation_tables(layer) + j * shape.record_bytes(),
                shape,
                betas,
                known: shape.is_drawn().then(|| lift_client(u[j])),
            });
        }
    }

    /// The client's index of every activation of a layer.
    pub fn indices(known: &Known, tiny: &Tiny, layer: usize) -> Vec<u32> {
        let m = &tiny.plan.model;
        let u = &known.outputs[Site::Up(layer).index(m.layers)];
        u[..m.ff].iter().enumerate().map(|(j, x)| client_index(&tiny.plan, layer, j, *x)).collect()
    }
}

/// `[score, value]`: what the parties' shares of attention material of the last of these rows,
/// `t`, add up to, `[heads][t+1]` and `[q_dim]`. The client has nothing of a prefix before them,
/// the server its keys and values.
pub fn attention(
    tiny: &Tiny,
    layer: usize,
    prefix: Option<&Prefix>,
    (known, server_seeds): (&[&Known], &[Seed]),
    weights: &Pair<Vec<Fp>>,
) -> [Vec<Fp>; 2] {
    let (m, first) = (&tiny.plan.model, prefix.map_or(0, Prefix::rows));
    let (d, kv_dim, t) = (m.head_dim, m.kv_dim(), first + known.len() - 1);
    let site = Site::Qkv(layer).index(m.layers);
    let mine: Vec<_> = (known.iter().enumerate())
        .map(|(i, k)| split_qkv::<Client>(&tiny.plan, layer, first + i, &k.outputs[site]))
        .collect();
    let theirs = |i: usize, what: MaskLabel| expand_mask(&server_seeds[i], what, layer, width(m, what));
    let nothing = vec![Fp::ZERO; kv_dim];
    let cached = |j: usize| match (prefix, j.checked_sub(first)) {
        (_, Some(i)) => {
            let (_, k_c, v_c) = &mine[i];
            ([&k_c[..], &v_c[..]], [theirs(i, MaskLabel::Key), theirs(i, MaskLabel::Value)])
        }
        (Some(prefix), None) => {
            let of_row = prefix.layer(layer).each_ref().map(|x| x[j * kv_dim..][..kv_dim].to_vec());
            ([&nothing[..]; 2], of_row)
        }
        (None, None) => unreachable!("rows begin at 0"),
    };
    let dot = |q: &[Fp], k: &[Fp]| -> Fp { products(q, k).into_iter().sum() };
    let (mut score, mut value) = (vec![], vec![Fp::ZERO; m.q_dim()]);
    let (q_c, q_s) = (&mine[known.len() - 1].0, theirs(known.len() - 1, MaskLabel::Query));
    for g in 0..m.heads {
        let (q, kv) = (g * d..(g + 1) * d, g / m.queries_per_kv_head() * d);
        for j in 0..=t {
            let ([k_c, v_c], [k_s, v_s]) = cached(j);
            score.push(dot(&q_c[q.clone()], &k_s[kv..kv + d]) + dot(&q_s[q.clone()], &k_c[kv..kv + d]));
            let [a, b] = [0, 1].map(|p| weights[p][g * (t + 1) + j]);
            for e in 0..d {
                value[g * d + e] += a * v_s[kv + e] + b * v_c[kv + e];
            }
        }
    }
    [score, value]
}

/// Numbers of a mask of queries, keys or values.
fn width(m: &ModelShape, what: MaskLabel) -> usize {
    match what {
        MaskLabel::Query => m.q_dim(),
        _ => m.kv_dim(),
    }
}
