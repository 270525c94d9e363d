//! The arithmetic on any numbers at all, as its definition reads: values modulo p or modulo `2^64`,
//! outcomes from shares (A1, A2, A6).

use std::collections::VecDeque;
use std::num::Wrapping;

use cryptogen_ring::exponential::{MANTISSA_BITS, MODULUS_BITS};
use cryptogen_ring::{Fp, Word, P};

use super::exp2;
use crate::model::{Anchor, Head, Range, Scalar, Site, F, NET_BITS, NET_SHIFT};
use crate::testing::tiny::Tiny;

/// The client's and the server's share of a number modulo p.
pub type Pair = [Fp; 2];

/// Below, shares that wrap the other way are rarer than `2^-24`: seeds are fixed, so none is met.
const LARGE: u128 = 1 << 40;
const TWO64: i128 = 1 << 64;

fn value(x: &Pair) -> Fp {
    x[0] + x[1]
}

fn word(x: i64) -> Word {
    Wrapping(x as u64)
}

/// `>>` of A1: the number of a share as an integer.
fn int(x: Fp) -> i128 {
    i128::from(x.value())
}

fn p_shifted(k: u32) -> i128 {
    i128::from(P) >> k
}

fn field(x: i128) -> Fp {
    Fp::new(x.rem_euclid(i128::from(P)) as u64)
}

/// A6, in.
fn lift([c, s]: &Pair) -> Word {
    Wrapping((int(*c) + int(*s) - i128::from(P)) as u64)
}

/// What shares of `x` modulo `modulus` may add up to as integers: `x` and one modulus, or for large
/// `x` one more or less.
fn sums(x: i128, modulus: i128) -> Vec<i128> {
    let other = x + if x < 0 { 2 * modulus } else { 0 };
    if x.unsigned_abs() < LARGE {
        vec![x + modulus]
    } else {
        vec![x + modulus, other]
    }
}

/// Whether shares whose upper parts are `c` and `s` can be shares of `x`.
fn possible(x: i128, modulus: i128, k: u32, c: i128, s: i128) -> bool {
    let (upper, low) = (0..=modulus >> k, (c + s) << k);
    let sums = sums(x, modulus);
    upper.contains(&c)
        && upper.contains(&s)
        && sums.iter().any(|sum| (low..=low + (2 << k) - 2).contains(sum))
}

/// Whether these can be the parties' shares of `TR(x, k)` (A1).
fn is_tr(x: Fp, k: u32, [c, s]: &Pair) -> bool {
    if k == 0 {
        return *c + *s == x;
    }
    possible(i128::from(x.to_i64()), i128::from(P), k, int(*c), int(*s + field(p_shifted(k) - 1)))
}

/// The same of a number modulo `2^64` (A6, out).
fn is_tr_word(x: Word, k: u32, [c, s]: &Pair) -> bool {
    let x = i128::from(x.0 as i64);
    if k == 0 {
        return sums(x, TWO64).iter().any(|sum| field(sum - TWO64) == *c + *s);
    }
    possible(x, TWO64, k, int(*c), int(*s + field((TWO64 >> k) - 1)))
}

/// The argument of a scalar, by what the test knows of it.
#[derive(Clone, Copy)]
enum Argument<'a> {
    /// whose shares are fresh
    Values(&'a [Fp]),
    /// sums of shares that were logged
    Shares(&'a [Pair]),
}

pub struct Wild<'a> {
    tiny: &'a Tiny,
    log: VecDeque<(u64, u64)>,
    /// of every row
    pub events: Vec<u64>,
    /// what its exponentials met
    pub met: Met,
}

/// Scores by where they lie, and scalars outside of their window.
#[derive(Default)]
pub struct Met {
    pub below: usize,
    pub inside: usize,
    pub above: usize,
    pub caught: usize,
}

impl<'a> Wild<'a> {
    /// With the logs of both parties.
    pub fn new(tiny: &'a Tiny, client: Vec<u64>, server: Vec<u64>) -> Wild<'a> {
        assert_eq!(client.len(), server.len());
        Wild { tiny, log: client.into_iter().zip(server).collect(), events: vec![], met: Met::default() }
    }

    pub fn finish(&self) {
        assert!(self.log.is_empty());
    }

    fn next(&mut self) -> (u64, u64) {
        self.log.pop_front().expect("an event")
    }

    fn next_pair(&mut self) -> Pair {
        let (c, s) = self.next();
        [Fp::new(c), Fp::new(s)]
    }

    /// TR of numbers whose shares only the parties know.
    fn tr(&mut self, x: &[Fp], k: impl Fn(usize) -> u32) -> Vec<Pair> {
        let one = |(i, x): (usize, &Fp)| {
            let got = self.next_pair();
            assert!(is_tr(*x, k(i), &got), "TR({x:?}, {}) cannot be {:?}", k(i), value(&got));
            got
        };
        x.iter().enumerate().map(one).collect()
    }

    fn tr_words(&mut self, x: &[Word], k: impl Fn(usize) -> u32) -> Vec<Pair> {
        let one = |(i, x): (usize, &Word)| {
            let got = self.next_pair();
            assert!(is_tr_word(*x, k(i), &got), "TR({x}, {}) cannot be {:?}", k(i), value(&got));
            got
        };
        x.iter().enumerate().map(one).collect()
    }

    /// TR of known shares.
    fn tr_shares(&mut self, x: &[Pair], k: impl Fn(usize) -> u32) -> Vec<Pair> {
        let one = |(i, [c, s]): (usize, &Pair)| {
            let k = k(i);
            let server = if k == 0 { int(*s) } else { (int(*s) >> k) - p_shifted(k) + 1 };
            let cut = [field(int(*c) >> k), field(server)];
            assert_eq!(self.next_pair(), cut, "TR({c:?}, {s:?}, {k})");
            cut
        };
        x.iter().enumerate().map(one).collect()
    }

    /// IDX of known shares.
    fn idx(&mut self, x: &[Pair], h: impl Fn(usize) -> u32, k: u32) -> Vec<usize> {
        let one = |(i, [c, s]): (usize, &Pair)| {
            let j = ((int(*c) >> h(i)) + (int(*s) >> h(i)) - p_shifted(h(i))).rem_euclid(1 << k);
            let (c, s) = self.next();
            assert_eq!((c as u32).wrapping_add(s as u32) as i128 % (1 << k), j);
            j as usize
        };
        x.iter().enumerate().map(one).collect()
    }

    /// The inputs of a linear layer, `[T, d_in]`.
    pub fn enter(&self, x: &[Fp], site: Site, got: &[Pair]) {
        let shifts = &self.tiny.plan.linear(site).in_shift;
        assert_eq!(x.len(), got.len());
        for (i, (x, got)) in x.iter().zip(got).enumerate() {
            assert!(is_tr(*x, shifts[i % shifts.len()], got), "{site:?}: input {i}");
        }
    }

    pub fn enter_words(&self, x: &[Word], site: Site, got: &[Pair]) {
        let shifts = &self.tiny.plan.linear(site).in_shift;
        assert_eq!(x.len(), got.len());
        for (i, (x, got)) in x.iter().zip(got).enumerate() {
            assert!(is_tr_word(*x, shifts[i % shifts.len()], got), "{site:?}: input {i}");
        }
    }

    fn entry(&self, table: usize, j: usize) -> Word {
        word(self.tiny.plan.table(table)[j])
    }

    /// A9: an exponential of a score `x`, whose shares may have wrapped the other way too.
    fn weight(&mut self, x: Fp, phi: u64, head: &Head) -> Pair {
        assert!(phi < 1 << F);
        let got = self.next_pair();
        let allowed = sums(i128::from(x.to_i64()), i128::from(P)).into_iter().flat_map(|sum| {
            let y = sum - i128::from(P) + (i128::from(head.bottom) << F);
            exp2::truncated(y, phi, head)
        });
        assert!(allowed.clone().any(|e| value(&got) == e), "EXP2({x:?}) cannot be {got:?}");
        let above = i128::from(MODULUS_BITS[head.primes] + 1 - 2 * MANTISSA_BITS);
        match (i128::from(x.to_i64()) >> F) + i128::from(head.bottom) {
            ..1 => self.met.below += 1,
            y if y < above => self.met.inside += 1,
            _ => self.met.above += 1,
        }
        got
    }

    /// A4: shares of `ρ`, and events. `kept`: not 0 outside of the window.
    fn scalar(&mut self, specs: &[&Scalar], m: Argument<'_>, kept: bool) -> (Vec<Pair>, Vec<u64>) {
        let ranges = [
            specs.iter().map(|s| Some(&s.hi)).collect::<Vec<_>>(),
            specs.iter().map(|s| s.lo.as_ref()).collect(),
        ];
        let ranges: Vec<Vec<&Range>> =
            ranges.into_iter().map(|r| r.into_iter().flatten().collect()).collect();
        let mut reduce = |r: &Vec<&Range>| match m {
            _ if r.is_empty() => vec![],
            Argument::Values(m) => self.tr(m, |i| r[i].mu),
            Argument::Shares(m) => self.tr_shares(m, |i| r[i].mu),
        };
        let reduced: Vec<Vec<Pair>> = ranges.iter().map(&mut reduce).collect();
        let lift_of = |i: usize| Fp::new(1 << specs[i].net_lift());
        let net = match m {
            Argument::Values(m) => {
                let lifted: Vec<Fp> = m.iter().enumerate().map(|(i, m)| *m * lift_of(i)).collect();
                self.tr(&lifted, |_| NET_SHIFT)
            }
            Argument::Shares(m) => {
                let lifted: Vec<Pair> =
                    m.iter().enumerate().map(|(i, m)| m.map(|share| share * lift_of(i))).collect();
                self.tr_shares(&lifted, |_| NET_SHIFT)
            }
        };
        let j: Vec<Vec<usize>> = (ranges.iter().zip(&reduced))
            .map(|(r, m)| r.first().map_or(vec![], |first| self.idx(m, |i| r[i].h, first.k)))
            .collect();
        let net = self.idx(&net, |i| specs[i].net_segment(), NET_BITS);
        // Segments that answer for arguments inside of the window alone, or for small ones.
        let inside: Vec<bool> = net.iter().map(|j| *j < 3 || j + 1 == 1 << NET_BITS).collect();
        self.met.caught += inside.iter().filter(|inside| !**inside).count();
        let line = |range: usize, i: usize| {
            let (r, j) = (ranges[range][i], j[range][i]);
            (self.entry(r.a, j) * lift(&reduced[range][i]) + self.entry(r.b, j), self.entry(r.g, j))
        };
        let (y, events): (Vec<Word>, Vec<u64>) = (0..specs.len())
            .map(|i| {
                let (mut y, mut events) = line(0, i);
                if !inside[i] {
                    (y, events) = (if kept { y } else { word(0) }, events + word(1));
                }
                if let Some(z) = specs[i].hi.z {
                    let (z, fine) = (self.entry(z, j[0][i]), line(1, i));
                    (y, events) = (y + z * fine.0, events + z * fine.1);
                }
                (y - word(1), events.0)
            })
            .unzip();
        (self.tr_words(&y, |i| specs[i].out_shift), events)
    }

    /// `x̂` of the rows `h`.
    pub fn norm(&mut self, h: &[Pair], site: Site) -> Vec<Fp> {
        let plan = &self.tiny.plan;
        let (d, spec) = (plan.model.d, &plan.norms[plan.norm_before(site).expect("a norm")]);
        let reduced = self.tr_shares(h, |_| spec.pre_shift);
        let m: Vec<Fp> = reduced.chunks(d).map(|r| r.iter().map(|x| value(x) * value(x)).sum()).collect();
        let (rho, events) =
            self.scalar(&vec![&spec.scalar; m.len()], Argument::Values(&m), site == Site::Head);
        self.events = events;
        h.iter().enumerate().map(|(i, h)| value(h) * value(&rho[i / d])).collect()
    }

    /// A5.4 on shares: both parties do the same before they truncate.
    fn rope(&mut self, x: &[Pair], layer: usize, width: usize) -> Vec<Pair> {
        let plan = &self.tiny.plan;
        let Some(rope) = &plan.rope[layer] else { return x.to_vec() };
        let (d, half) = (plan.model.head_dim, plan.model.head_dim / 2);
        let rotated: Vec<Pair> = (0..x.len())
            .map(|i| {
                let (tables, e) = (plan.rotation(layer, i / width).expect("a layer that turns").1, i % d);
                let [c, s] = tables.map(|t| Fp::from_i64(t[e % half]));
                [0, 1].map(|p| {
                    if e < half {
                        x[i][p] * c - x[i + half][p] * s
                    } else {
                        x[i][p] * c + x[i - half][p] * s
                    }
                })
            })
            .collect();
        self.tr_shares(&rotated, |_| rope.bits)
    }

    /// `x̂` of rows `0..` in an empty cache.
    pub fn attention(&mut self, qkv: &[Pair], layer: usize) -> Vec<Fp> {
        let plan = &self.tiny.plan;
        let m = &plan.model;
        let (spec, d, kv, width) =
            (&plan.attention[layer], m.head_dim, m.kv_dim(), m.q_dim() + 2 * m.kv_dim());
        let part = |from: usize, n: usize| -> Vec<Pair> {
            qkv.chunks(width).flat_map(|r| r[from..from + n].to_vec()).collect()
        };
        let q = self.rope(&part(0, m.q_dim()), layer, m.q_dim());
        let k = self.rope(&part(m.q_dim(), kv), layer, kv);
        let v = part(m.q_dim() + kv, kv);
        let rows = qkv.len() / width;
        let cached = |j: usize, g: usize| j * kv + g / m.queries_per_kv_head() * d;
        let dot = |t: usize, g: usize, j: usize| -> Fp {
            (0..d).map(|e| value(&q[t * m.q_dim() + g * d + e]) * value(&k[cached(j, g) + e])).sum()
        };
        let pairs: Vec<_> = (1..rows).flat_map(|t| (0..m.heads).map(move |g| (t, g))).collect();
        let of: Vec<_> = pairs.iter().flat_map(|&(t, g)| (0..=t).map(move |j| (t, g, j))).collect();
        let head = |i: usize| &spec.heads[of[i].1];

        let (mut s, mut shifts) = (vec![], vec![]);
        for &(t, g, j) in &of {
            let times = |n: u64, j: usize| Fp::new(n) * dot(t, g, j);
            let spread: Fp = (1..9).map(|n| dot(t, g, t * n / 8)).sum();
            let (shift, relative) = match spec.heads[g].anchor {
                Anchor::First => (F, dot(t, g, j) - dot(t, g, 0)),
                Anchor::Own => (F, dot(t, g, j) - dot(t, g, t)),
                Anchor::Both => (F + 1, times(2, j) - dot(t, g, 0) - dot(t, g, t)),
                Anchor::Spread => (F + 3, times(8, j) - spread),
                Anchor::OwnSpread => (F + 4, times(16, j) - times(8, t) - spread),
            };
            s.push(relative);
            shifts.push(shift);
        }
        let s = self.tr(&s, |i| shifts[i]);
        self.events = vec![0; rows];
        let phi: Vec<u64> = of.iter().map(|_| self.next().0).collect();
        let e: Vec<Pair> = (0..s.len()).map(|i| self.weight(value(&s[i]), phi[i], head(i))).collect();

        let (mut sigma, mut o, mut at) = (vec![], vec![], 0);
        for &(t, g) in &pairs {
            let e = &e[at..=at + t];
            at += t + 1;
            sigma.push([0, 1].map(|p| e.iter().map(|e| e[p]).sum::<Fp>()));
            o.extend((0..d).map(|c| (0..=t).map(|j| value(&e[j]) * value(&v[cached(j, g) + c])).sum::<Fp>()));
        }
        let o = self.tr(&o, |c| spec.heads[pairs[c / d].1].o_shift);
        let scalars: Vec<&Scalar> = pairs.iter().map(|(_, g)| &spec.heads[*g].scalar).collect();
        let (rho, events) = self.scalar(&scalars, Argument::Shares(&sigma), false);
        pairs.iter().zip(events).for_each(|((t, _), n)| self.events[*t] += n);
        let shifts = &plan.linear(Site::O(layer)).in_shift;
        let first =
            (0..m.q_dim()).map(|c| value(&v[cached(0, c / d) + c % d]) * Fp::from_u128(1 << shifts[c]));
        first.chain(o.iter().enumerate().map(|(c, o)| value(o) * value(&rho[c / d]))).collect()
    }

    /// `x̂`, modulo `2^64`.
    pub fn activation(&mut self, u: &[Pair], layer: usize) -> Vec<Word> {
        let plan = &self.tiny.plan;
        let (m, spec) = (&plan.model, &plan.activations[layer]);
        let x: Vec<Pair> = u.chunks(m.up_dim()).flat_map(|r| r[..m.ff].to_vec()).collect();
        let up: Vec<Pair> = u.chunks(m.up_dim()).flat_map(|r| r[m.up_dim() - m.ff..].to_vec()).collect();
        let mut w = vec![];
        for (x, up) in x.iter().zip(&up) {
            let (product, (c, s)) = (value(x) * value(up), self.next());
            let lifted = c.wrapping_add(s);
            let allowed = sums(i128::from(product.to_i64()), i128::from(P));
            assert!(allowed.iter().any(|sum| (sum - i128::from(P)) as u64 == lifted), "{product:?} lifted");
            w.push(Wrapping(lifted));
        }
        let window = |i: usize| &spec.windows[spec.of[i % m.ff]];
        let offset = |i: usize| Fp::from_i64(1 << (window(i).h + spec.k - 1));
        let shifted: Vec<Pair> = x.iter().enumerate().map(|(i, x)| [x[0], x[1] + offset(i)]).collect();
        let j = self.idx(&shifted, |i| window(i).h, spec.k);
        self.events = vec![0; x.len() / m.ff];
        (0..x.len())
            .map(|i| {
                self.events[i / m.ff] += window(i).g.map_or(0, |g| self.entry(g, j[i]).0);
                let (a, b) = (self.entry(window(i).a, j[i]), self.entry(window(i).b, j[i]));
                let added = window(i).c.map_or(Wrapping(0), |c| self.entry(c, j[i]));
                a * w[i] + b * lift(&up[i]) + added
            })
            .collect()
    }

    /// A8 of an exact logit.
    fn leading(&mut self, y: Fp) -> i64 {
        let (scale, modulus) = (Fp::from_u128(1 << self.tiny.plan.logit_shift()), 1i128 << 24);
        let exact = i128::from((y * scale).to_i64()) << 24;
        let (c, s) = self.next();
        let got = i128::from((c as u32).wrapping_add(s as u32)) % modulus;
        let signed = if got < modulus / 2 { got } else { got - modulus };
        // Less than p away in either direction, modulo 2^24·p.
        let above = (signed * i128::from(P) - exact).rem_euclid(modulus * i128::from(P));
        let near = above <= i128::from(P) || above > (modulus - 1) * i128::from(P);
        assert!(near, "leading bits of {y:?} cannot be {signed}");
        signed as i64
    }

    pub fn logits(&mut self, x: &[Pair]) -> Vec<i64> {
        let (l, model) = (self.tiny.plan.linear(Site::Head), &self.tiny.model);
        x.iter().for_each(|x| assert_eq!(self.next_pair(), *x));
        self.events = vec![0; x.len() / l.d_in];
        let weight = |o: usize| &model.weight(Site::Head)[o * l.d_in..][..l.d_in];
        let one = |x: &[Pair], o: usize| {
            let sum: Fp = weight(o).iter().zip(x).map(|(w, x)| Fp::from_i64(i64::from(*w)) * value(x)).sum();
            sum + Fp::from_i64(model.bias(Site::Head).map_or(0, |b| b[o]))
        };
        let y: Vec<Fp> = x.chunks(l.d_in).flat_map(|x| (0..l.d_out).map(move |o| one(x, o))).collect();
        y.into_iter().map(|y| self.leading(y)).collect()
    }
}
