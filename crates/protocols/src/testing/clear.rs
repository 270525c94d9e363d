//! The decoder on clear integers, as `docs/protocols/arithmetic.md` defines it. Truncations and
//! segment indices take the outcome that the two parties got, which must be one of the two allowed.
//! All values are small: what happens to others is in `ranges.rs`.

use std::collections::VecDeque;

use cryptogen_ring::{Fp, P};

use super::tiny::Tiny;
use crate::model::{Anchor, Head, Matrix, Range, Scalar, Site, F, NET_BITS, NET_SHIFT};

/// A clear session: keys and values of its rows.
pub struct Clear<'a> {
    tiny: &'a Tiny,
    outcomes: VecDeque<(u64, u64)>,
    /// per layer, `[rows][kv_dim]`
    k: Vec<Vec<i64>>,
    v: Vec<Vec<i64>>,
    /// range events of the rows of the last call that had any, in their order
    pub events: Vec<u64>,
    /// range events of rows that were not sampled
    pending: u64,
    /// scalars outside of their window, and inside
    scalars: [usize; 2],
}

fn fit(x: i128) -> i64 {
    assert!(x.unsigned_abs() < u128::from(cryptogen_ring::P / 2), "{x} is outside the field");
    x as i64
}

fn product(a: i64, b: i64) -> i64 {
    fit(i128::from(a) * i128::from(b))
}

fn dot<'a>(pairs: impl Iterator<Item = (&'a i64, &'a i64)>) -> i64 {
    fit(pairs.map(|(a, b)| i128::from(*a) * i128::from(*b)).sum())
}

/// By how many units prepared shares of a product with a matrix may be off (A5.3).
pub const OFF: i64 = 200;

/// `m(φ)` of A9, about `2^(10 + φ/2^12)`.
pub fn mantissa(phi: i64) -> u64 {
    let [c0, c1, c2, c3] = [16775963, 11674113, 3792916, 1308915];
    let u = c2 + ((c3 * phi) >> 12);
    let u = c1 + ((u * phi) >> 12);
    let u = c0 + ((u * phi) >> 12);
    ((u + (1 << 13)) >> 14) as u64
}

/// Checks one outcome of A1.
fn check_tr(x: i64, k: u32, got: i64) {
    check_tr_of((x, x), k, got);
}

/// The same of a number in this range.
fn check_tr_of((least, most): (i64, i64), k: u32, got: i64) {
    let floor = |x: i64| ((i128::from(x) + 1) >> k) as i64;
    let allowed = if k == 0 { least..=most } else { floor(least)..=floor(most) + 1 };
    assert!(allowed.contains(&got), "TR({least}..{most}, {k}) cannot be {got}");
}

impl<'a> Clear<'a> {
    /// With the logs of both parties.
    pub fn new(tiny: &'a Tiny, client: Vec<u64>, server: Vec<u64>) -> Clear<'a> {
        assert_eq!(client.len(), server.len(), "the parties log the same events");
        let layers = tiny.plan.model.layers;
        let outcomes = client.into_iter().zip(server).collect();
        let cache = || vec![vec![]; layers];
        Clear { tiny, outcomes, k: cache(), v: cache(), events: vec![], pending: 0, scalars: [0; 2] }
    }

    /// The session begins with these keys and values of each layer.
    pub fn put_prefix(&mut self, layers: Vec<[Vec<i64>; 2]>) {
        for (layer, [k, v]) in layers.into_iter().enumerate() {
            self.k[layer].extend(k);
            self.v[layer].extend(v);
        }
    }

    /// Forgets rows `rows…`.
    pub fn crop(&mut self, rows: usize) {
        let len = rows * self.tiny.plan.model.kv_dim();
        self.k.iter_mut().chain(&mut self.v).for_each(|x| x.truncate(len));
    }

    /// Every outcome must have been used, and most scalars must not have been 0.
    pub fn finish(&self) {
        let [outside, inside] = self.scalars;
        assert!(inside >= outside, "{outside} scalars are outside of their windows, {inside} inside");
        assert!(self.outcomes.is_empty(), "{} events were not expected", self.outcomes.len());
    }

    fn tr(&mut self, x: &[i64], k: u32) -> Vec<i64> {
        self.tr_by(x, |_| k)
    }

    fn tr_by(&mut self, x: &[i64], k: impl Fn(usize) -> u32) -> Vec<i64> {
        let one = |(i, &x): (usize, &i64)| {
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            let got = (Fp::new(c) + Fp::new(s)).to_i64();
            check_tr(x, k(i), got);
            got
        };
        x.iter().enumerate().map(one).collect()
    }

    /// Of products with a matrix.
    fn tr_of_products(&mut self, x: &[i64], k: impl Fn(usize) -> u32) -> Vec<i64> {
        let one = |(i, &x): (usize, &i64)| {
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            let got = (Fp::new(c) + Fp::new(s)).to_i64();
            check_tr_of((x - OFF, x + OFF), k(i), got);
            got
        };
        x.iter().enumerate().map(one).collect()
    }

    fn idx(&mut self, x: &[i64], h: impl Fn(usize) -> u32, k: u32) -> Vec<usize> {
        let mask = (1 << k) - 1;
        let one = |(i, &x): (usize, &i64)| {
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            let got = ((c as u32).wrapping_add(s as u32)) as i64 & mask;
            let top = (x + 1) >> h(i);
            assert!(got == top & mask || got == (top - 1) & mask, "IDX({x}) cannot be {got}");
            got as usize
        };
        x.iter().enumerate().map(one).collect()
    }

    /// Products that were lifted.
    fn lifted(&mut self, x: &[i64]) {
        for x in x {
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            assert_eq!(c.wrapping_add(s) as i64, *x, "lifting fails with negligible probability");
        }
    }

    /// A8 of exact logits.
    fn leading(&mut self, y: &[i64]) -> Vec<i64> {
        let (scale, modulus) = (Fp::from_u128(1 << self.tiny.plan.logit_shift()), 1 << 24);
        let one = |&y: &i64| {
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            let got = (c as u32 + s as u32) % modulus;
            let low = |y: i64| {
                let x = (Fp::from_i64(y) * scale).to_i64();
                (i128::from(x) << 24).div_euclid(i128::from(P)).rem_euclid(i128::from(modulus)) as u32
            };
            let allowed = [low(y - OFF), low(y + OFF)];
            let allowed = allowed.iter().any(|low| got == *low || got == (low + 1) % modulus);
            assert!(allowed, "leading bits of {y} cannot be {got}");
            i64::from(got) - if got < modulus / 2 { 0 } else { i64::from(modulus) }
        };
        y.iter().map(one).collect()
    }

    /// Sums of a guard over equal parts, one for each row.
    fn count(&mut self, rows: usize, guards: &[i64]) {
        self.events.resize(rows, 0);
        let per_row = (guards.len() / rows).max(1);
        for (i, g) in guards.iter().enumerate() {
            self.events[i / per_row] += *g as u64;
        }
    }

    /// Checks that the server's `x − r'` with the client's `r'` is `TR(x̂, in_shift)`, without an
    /// event of its own.
    pub fn check_input(&self, site: Site, x_hat: &[i64], got: &[i64]) {
        let shifts = &self.tiny.plan.linear(site).in_shift;
        assert_eq!(x_hat.len(), got.len());
        for (i, (x, got)) in x_hat.iter().zip(got).enumerate() {
            check_tr(*x, shifts[i % shifts.len()], *got);
        }
    }

    pub fn embed(&mut self, tokens: &[usize], first: usize) -> Vec<i64> {
        let (model, d, vocab) = (&self.tiny.model, self.tiny.plan.model.d, self.tiny.plan.model.vocab);
        let mut embed = vec![vec![0; vocab]; d]; // transposed
        embed.iter_mut().enumerate().for_each(|(j, row)| model.row(Matrix::Embed, j, row));
        let entry = |(i, &token): (usize, &usize)| {
            let position =
                model.positions.as_ref().map(|p| p[(first + i) * d..][..d].to_vec()).unwrap_or(vec![0; d]);
            (0..d).map(|j| i64::from(embed[j][token]) + i64::from(position[j])).collect::<Vec<_>>()
        };
        let x: Vec<i64> = tokens.iter().enumerate().flat_map(entry).collect();
        self.tr_of_products(&x, |_| self.tiny.plan.embed.shift)
    }

    /// `x̂` of the rows `h` in front of `site`.
    pub fn norm(&mut self, h: &[i64], site: Site) -> Vec<i64> {
        let plan = &self.tiny.plan;
        let (d, spec) = (plan.model.d, &plan.norms[plan.norm_before(site).expect("a norm")]);
        let reduced = self.tr(h, spec.pre_shift);
        let m: Vec<i64> = reduced.chunks(d).map(|r| dot(r.iter().zip(r))).collect();
        let (rho, guards) = self.scalar(&vec![&spec.scalar; m.len()], &m, site == Site::Head);
        self.count(m.len(), &guards);
        h.iter().enumerate().map(|(i, h)| product(*h, rho[i / d])).collect()
    }

    /// A4, with the events of each. `kept`: not 0 outside of the window.
    pub fn scalar(&mut self, specs: &[&Scalar], m: &[i64], kept: bool) -> (Vec<i64>, Vec<i64>) {
        let hi: Vec<&Range> = specs.iter().map(|s| &s.hi).collect();
        let lo: Vec<&Range> = specs.iter().filter_map(|s| s.lo.as_ref()).collect();
        let hi_m = self.tr_by(m, |i| hi[i].mu);
        let lo_m = if lo.is_empty() { vec![] } else { self.tr_by(m, |i| lo[i].mu) };
        let lifted: Vec<i64> = m.iter().zip(specs).map(|(m, s)| product(*m, 1 << s.net_lift())).collect();
        let net_m = self.tr(&lifted, NET_SHIFT);
        let hi_j = hi.first().map_or(vec![], |r| self.idx(&hi_m, |i| hi[i].h, r.k));
        let lo_j = lo.first().map_or(vec![], |r| self.idx(&lo_m, |i| lo[i].h, r.k));
        let net_j = self.idx(&net_m, |i| specs[i].net_segment(), NET_BITS);
        let plan = &self.tiny.plan;
        let line = |r: &Range, j: usize, x: i64| product(plan.table(r.a)[j], x) + plan.table(r.b)[j];
        let (y, guards): (Vec<i64>, Vec<i64>) = (0..m.len())
            .map(|i| {
                // Three of the segments of a window's four lie inside of it for sure; the last
                // segment is met by small arguments.
                let inside = net_j[i] < 3 || net_j[i] == (1 << NET_BITS) - 1;
                self.scalars[usize::from(inside)] += 1;
                let coarse = if inside || kept { line(hi[i], hi_j[i], hi_m[i]) } else { 0 };
                let guard = plan.table(hi[i].g)[hi_j[i]] + i64::from(!inside);
                match hi[i].z.map_or(0, |z| plan.table(z)[hi_j[i]]) {
                    0 => (coarse - 1, guard),
                    _ => (coarse + line(lo[i], lo_j[i], lo_m[i]) - 1, guard + plan.table(lo[i].g)[lo_j[i]]),
                }
            })
            .unzip();
        (self.tr_by(&y, |i| specs[i].out_shift), guards)
    }

    /// `TR(W·TR(x̂) + b)`.
    pub fn linear(&mut self, x_hat: &[i64], site: Site) -> Vec<i64> {
        let l = self.tiny.plan.linear(site);
        let x = self.tr_by(x_hat, |i| l.in_shift[i % l.d_in]);
        let y = self.apply(&x, site);
        self.tr_of_products(&y, |i| l.out_shift(i % l.d_out))
    }

    /// `W·x + b`.
    fn apply(&self, x: &[i64], site: Site) -> Vec<i64> {
        let (l, model) = (self.tiny.plan.linear(site), &self.tiny.model);
        let w: Vec<i64> = model.weight(site).iter().map(|w| i64::from(*w)).collect();
        let row = |x: &[i64]| -> Vec<i64> {
            w.chunks(l.d_in)
                .enumerate()
                .map(|(o, w)| dot(w.iter().zip(x)) + model.bias(site).map_or(0, |b| b[o]))
                .collect()
        };
        x.chunks(l.d_in).flat_map(row).collect()
    }

    /// A5.4 on rows of whole heads.
    fn rope(&mut self, x: &[i64], layer: usize, first: usize, width: usize) -> Vec<i64> {
        let plan = &self.tiny.plan;
        let Some(rope) = &plan.rope[layer] else { return x.to_vec() };
        let (d, half) = (plan.model.head_dim, plan.model.head_dim / 2);
        let rotated: Vec<i64> = (0..x.len())
            .map(|i| {
                let (_, [cos, sin]) = plan.rotation(layer, first + i / width).expect("a layer that turns");
                let e = i % d;
                match e < half {
                    true => product(x[i], cos[e]) - product(x[i + half], sin[e]),
                    false => product(x[i], cos[e - half]) + product(x[i - half], sin[e - half]),
                }
            })
            .collect();
        self.tr(&rotated, rope.bits)
    }

    /// `x̂` of the attention of new rows at positions `first..`.
    pub fn attention(&mut self, qkv: &[i64], layer: usize, first: usize) -> Vec<i64> {
        let plan = &self.tiny.plan;
        let m = &plan.model;
        let (spec, d, kv) = (&plan.attention[layer], m.head_dim, m.kv_dim());
        let part = |from: usize, n: usize| -> Vec<i64> {
            qkv.chunks(m.q_dim() + 2 * kv).flat_map(|r| r[from..from + n].to_vec()).collect()
        };
        let q = self.rope(&part(0, m.q_dim()), layer, first, m.q_dim());
        let k = self.rope(&part(m.q_dim(), kv), layer, first, kv);
        self.k[layer].extend(k);
        self.v[layer].extend(part(m.q_dim() + kv, kv));

        // (row, head, cached row), row 0 left out
        let rows = q.len() / m.q_dim();
        let pairs: Vec<(usize, usize)> =
            (0..rows).filter(|i| first + i > 0).flat_map(|i| (0..m.heads).map(move |g| (i, g))).collect();
        let of: Vec<(usize, usize, usize)> =
            pairs.iter().flat_map(|&(i, g)| (0..=first + i).map(move |j| (i, g, j))).collect();
        let cached = |j: usize, g: usize| (j * m.kv_heads + g / m.queries_per_kv_head()) * d;
        let heads: Vec<_> = of.iter().map(|(_, g, _)| &spec.heads[*g]).collect();
        let score = |i: usize, g: usize, j: usize| {
            dot(q[i * m.q_dim() + g * d..][..d].iter().zip(&self.k[layer][cached(j, g)..][..d]))
        };
        let s: Vec<i64> = of
            .iter()
            .map(|&(i, g, j)| {
                let t = first + i;
                let of = |j: usize| score(i, g, j);
                let spread: i64 = (1..9).map(|n| of(t * n / 8)).sum();
                match spec.heads[g].anchor {
                    Anchor::First => of(j) - of(0),
                    Anchor::Own => of(j) - of(t),
                    Anchor::Both => 2 * of(j) - of(0) - of(t),
                    Anchor::Spread => 8 * of(j) - spread,
                    Anchor::OwnSpread => 16 * of(j) - 8 * of(t) - spread,
                }
            })
            .collect();
        let s = self.tr_by(&s, |i| heads[i].anchor.shift());
        let e = self.exp2(&s, &heads);
        self.count(rows, &[]);

        let (mut sigma, mut o, mut at) = (vec![], vec![], 0);
        for &(i, g) in &pairs {
            let e = &e[at..at + first + i + 1];
            at += e.len();
            sigma.push(e.iter().sum());
            o.extend((0..d).map(|c| {
                let v: Vec<i64> = (0..e.len()).map(|j| self.v[layer][cached(j, g) + c]).collect();
                dot(e.iter().zip(&v))
            }));
        }
        let o = self.tr_by(&o, |c| spec.heads[pairs[c / d].1].o_shift);
        let scalars: Vec<&Scalar> = pairs.iter().map(|(_, g)| &spec.heads[*g].scalar).collect();
        let (rho, guards) = self.scalar(&scalars, &sigma, false);
        for (&(row, _), guard) in pairs.iter().zip(guards) {
            self.events[row] += guard as u64;
        }
        let mut x_hat: Vec<i64> = vec![];
        if first == 0 {
            let shifts = &plan.linear(Site::O(layer)).in_shift;
            x_hat.extend(
                (0..m.q_dim()).map(|c| product(self.v[layer][cached(0, c / d) + c % d], 1 << shifts[c])),
            );
        }
        x_hat.extend(o.iter().enumerate().map(|(c, o)| product(*o, rho[c / d])));
        x_hat
    }

    /// A9, of scores in the window of their heads.
    fn exp2(&mut self, x: &[i64], heads: &[&Head]) -> Vec<i64> {
        let phi: Vec<i64> = x.iter().map(|_| self.fraction()).collect();
        let one = |((x, phi), head): ((&i64, i64), &&Head)| {
            let y = x + (i64::from(head.bottom) << F);
            assert!(y >= 1 << F, "{x} is below the window");
            let exponent = (y - phi) >> F;
            let mantissas = mantissa(phi) * mantissa((y - phi) & ((1 << F) - 1));
            let exact = u128::from(mantissas) << exponent;
            assert!(mantissas.leading_zeros() as i64 + 64 > exponent, "{x} is above the window");
            let (c, s) = self.outcomes.pop_front().expect("an outcome");
            let (got, floor) = ((Fp::new(c) + Fp::new(s)).to_i64(), (exact >> head.shift) as i64);
            assert!(got == floor || got == floor + 1, "EXP2({x}) cannot be {got}, but {floor}");
            got
        };
        x.iter().zip(phi).zip(heads).map(one).collect()
    }

    /// Fractional bits of a share that the client's material fixed.
    fn fraction(&mut self) -> i64 {
        let (phi, server) = self.outcomes.pop_front().expect("an outcome");
        assert!(phi < 1 << F && server == 0, "{phi} and {server} are no fraction");
        phi as i64
    }

    pub fn activation(&mut self, u: &[i64], layer: usize) -> Vec<i64> {
        let plan = &self.tiny.plan;
        let (m, spec) = (&plan.model, &plan.activations[layer]);
        let x: Vec<i64> = u.chunks(m.up_dim()).flat_map(|r| r[..m.ff].to_vec()).collect();
        let up: Vec<i64> = u.chunks(m.up_dim()).flat_map(|r| r[m.up_dim() - m.ff..].to_vec()).collect();
        let w: Vec<i64> = x.iter().zip(&up).map(|(x, up)| product(*x, *up)).collect();
        self.lifted(&w);
        let window = |i: usize| &spec.windows[spec.of[i % m.ff]];
        let offset: Vec<i64> =
            x.iter().enumerate().map(|(i, x)| x + (1 << (window(i).h + spec.k - 1))).collect();
        let j = self.idx(&offset, |i| window(i).h, spec.k);
        let table = |id: usize, i: usize| plan.table(id)[j[i]];
        let guards: Vec<i64> = (0..x.len()).map(|i| window(i).g.map_or(0, |g| table(g, i))).collect();
        self.count(x.len() / m.ff, &guards);
        (0..x.len())
            .map(|i| {
                let line = product(table(window(i).a, i), w[i]) + product(table(window(i).b, i), up[i]);
                line + window(i).c.map_or(0, |c| table(c, i))
            })
            .collect()
    }

    /// The logits of rows `x̂` of the last norm.
    pub fn logits(&mut self, x_hat: &[i64]) -> Vec<i64> {
        let l = self.tiny.plan.linear(Site::Head);
        let x = self.tr_by(x_hat, |i| l.in_shift[i % l.d_in]);
        let y = self.apply(&x, Site::Head);
        self.leading(&y)
    }

    /// A whole pass: the logits of the last `sampled` rows, and their events with those of the rows
    /// before them.
    pub fn forward(&mut self, tokens: &[usize], first: usize, sampled: usize) -> (Vec<i64>, Vec<u64>) {
        let m = &self.tiny.plan.model;
        self.events = vec![0; tokens.len()];
        let mut h = self.embed(tokens, first);
        let add = |h: &mut Vec<i64>, y: Vec<i64>| h.iter_mut().zip(y).for_each(|(h, y)| *h += y);
        for l in 0..m.layers {
            let x = self.norm(&h, Site::Qkv(l));
            let qkv = self.linear(&x, Site::Qkv(l));
            let x = self.attention(&qkv, l, first);
            let mut attended = h.clone();
            add(&mut attended, self.linear(&x, Site::O(l)));
            let x = self.norm(if m.parallel { &h } else { &attended }, Site::Up(l));
            let u = self.linear(&x, Site::Up(l));
            let x = self.activation(&u, l);
            add(&mut attended, self.linear(&x, Site::Down(l)));
            h = attended;
        }
        let mut events = self.events.split_off(tokens.len() - sampled);
        self.pending += self.events.iter().sum::<u64>();
        if sampled == 0 {
            return (vec![], vec![]);
        }
        events[0] += std::mem::take(&mut self.pending);
        self.events = vec![];
        let x = self.norm(&h[h.len() - sampled * m.d..], Site::Head);
        events.iter_mut().zip(&self.events).for_each(|(sum, e)| *sum += e);
        (self.logits(&x), events)
    }
}
