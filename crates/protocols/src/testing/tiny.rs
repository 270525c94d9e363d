//! Plans and integer weights small enough for tests. The tables are random: a wrong entry cannot go
//! unnoticed, and sizes are chosen so that all values stay far below p.

use std::f64::consts::PI;
use std::sync::{Arc, OnceLock};

use cryptogen_ring::Prg;
use serde_json::{json, Value};

use super::{between, rng};
use crate::material::RowLayout;
use crate::model::{Plan, ServerModel, ServerModelBuilder, Site};

pub const VOCAB: usize = 20;
/// Heads take turns.
const ANCHORS: [&str; 5] = ["first", "own", "both", "spread", "own_spread"];
/// Primes of the heads of a layer: of one number, and of two.
const PRIMES: [[usize; 2]; 2] = [[3, 2], [2, 2]];
/// Windows of each layer's activation, and whether they have guards.
const WINDOWS: [[[usize; 2]; 2]; 2] = [[[1, 0], [3, 1]], [[2, 1], [3, 0]]];

/// Every public thing about a decoder, and the server's weights.
pub struct Tiny {
    pub plan: Arc<Plan>,
    pub layout: Arc<RowLayout>,
    pub model: ServerModel,
}

/// The decoders of the tests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arch {
    /// Plain activation, learned positions, biases, scalars of one range.
    Gpt,
    /// Gated, rotary, one key head for two query heads, scalars of two ranges.
    Llama,
}

pub const BOTH: [Arch; 2] = [Arch::Gpt, Arch::Llama];

/// The decoder of an architecture, made once.
pub fn tiny(arch: Arch) -> &'static Tiny {
    static MADE: [OnceLock<Tiny>; 2] = [const { OnceLock::new() }; 2];
    MADE[arch as usize].get_or_init(|| build(&Settings::of(arch)))
}

/// What differs between the decoders.
pub struct Settings {
    pub arch: Arch,
    pub vocab: usize,
    /// bound of the weights
    pub weights: i64,
    /// `[d, heads, kv_heads, head_dim, ff]`
    pub sizes: [usize; 5],
}

impl Settings {
    pub fn of(arch: Arch) -> Settings {
        let sizes = match arch {
            Arch::Gpt => [8, 2, 2, 4, 8],
            Arch::Llama => [16, 2, 1, 6, 10],
        };
        Settings { arch, vocab: VOCAB, weights: 1 << 8, sizes }
    }

    fn gated(&self) -> bool {
        self.arch == Arch::Llama
    }
}

struct Tables {
    list: Vec<Vec<i64>>,
    rng: Prg,
}

impl Tables {
    fn add(&mut self, n: usize, low: i64, high: i64) -> usize {
        let table = (0..n).map(|_| between(&mut self.rng, low, high)).collect();
        self.push(table)
    }

    fn push(&mut self, table: Vec<i64>) -> usize {
        self.list.push(table);
        self.list.len() - 1
    }

    /// A4 with `ρ` of about 2^13; `mu` of the (only or coarse) range.
    fn scalar(&mut self, mu: u32, two: bool) -> Value {
        let (k, lo_k) = (6, 5);
        let (a, b) = (self.add(1 << k, 0, 3), self.add(1 << k, 1 << 20, 1 << 21));
        let g = self.add(1 << k, 0, 2);
        if !two {
            let hi = json!({"mu": mu, "h": 9, "k": k, "a": a, "b": b, "g": g, "z": null});
            return json!({"hi": hi, "lo": null, "out_shift": 8});
        }
        let z = self.add(1 << k, 0, 2);
        for j in (0..1 << k).filter(|&j| self.list[z][j] == 1).collect::<Vec<_>>() {
            [a, b, g].iter().for_each(|&t| self.list[t][j] = 0);
        }
        let (lo_a, lo_b) = (self.add(1 << lo_k, 0, 3), self.add(1 << lo_k, 1 << 20, 1 << 21));
        let lo_g = self.add(1 << lo_k, 0, 2);
        json!({
            "hi": {"mu": mu, "h": 9, "k": k, "a": a, "b": b, "g": g, "z": z},
            "lo": {"mu": mu.saturating_sub(3), "h": 7, "k": lo_k, "a": lo_a, "b": lo_b, "g": lo_g, "z": null},
            "out_shift": 8,
        })
    }
}

/// Makes a decoder of two layers.
pub fn build(s: &Settings) -> Tiny {
    build_with(s, |_, _| ())
}

/// The same with another plan and tables of the same lengths.
pub fn build_with(s: &Settings, change: impl FnOnce(&mut Value, &mut [Vec<i64>])) -> Tiny {
    let [d, heads, kv_heads, head_dim, ff] = s.sizes;
    let (layers, context, gated, two) = (2, 80, s.gated(), s.gated());
    let mut t = Tables { list: vec![], rng: rng(s.arch as u8 + 1) };
    let rope = gated.then(|| {
        let angle = |i: usize| (i / (head_dim / 2)) as f64 * 2.0 * PI / (3 + i % (head_dim / 2) * 5) as f64;
        let n = context * (head_dim / 2);
        let scaled =
            |f: fn(f64) -> f64| (0..n).map(|i| (f(angle(i)) * f64::from(1 << 14)).round() as i64).collect();
        json!({"bits": 14, "cos": t.push(scaled(f64::cos)), "sin": t.push(scaled(f64::sin))})
    });
    let norms: Vec<Value> =
        (0..2 * layers + 1).map(|_| json!({"pre_shift": 2, "scalar": t.scalar(23, two)})).collect();
    let attention: Vec<Value> = (0..layers)
        .map(|l| {
            let heads: Vec<Value> = (0..heads)
                .map(|g| {
                    json!({
                        "anchor": ANCHORS[(s.arch as usize + l * heads + g) % 5],
                        "primes": PRIMES[(s.arch as usize + l) % 2][g % 2], "bottom": 40 + g, "shift": 48 + l,
                        "o_shift": 11 + g, "scalar": t.scalar(8, two),
                    })
                })
                .collect();
            json!({"heads": heads})
        })
        .collect();
    let activations: Vec<Value> = (0..layers)
        .map(|l| {
            let (a, b) = (1 << 8, 1 << 18);
            let [windows, guarded] = WINDOWS[s.arch as usize][l];
            let window = |w: usize| {
                let g = (guarded == 1).then(|| t.add(1 << 7, 0, 2));
                let c = (!gated).then(|| t.add(1 << 7, -(1 << 30), 1 << 30));
                json!({"h": 8 + w, "a": t.add(1 << 7, -a, a), "b": t.add(1 << 7, -b, b), "c": c, "g": g})
            };
            let list: Vec<Value> = (0..windows).map(window).collect();
            json!({"k": 7, "windows": list, "of": (0..ff).map(|i| (i * 5 + l) % windows).collect::<Vec<_>>()})
        })
        .collect();
    let (q_dim, kv_dim, up) = (heads * head_dim, kv_heads * head_dim, if gated { 2 * ff } else { ff });
    let mut linears = serde_json::Map::new();
    let mut linear = |site: Site, d_in: usize, d_out: usize| {
        let in_shift: Vec<u32> = match site {
            Site::O(_) => (0..d_in).map(|c| 18 + c as u32 % 3).collect(),
            Site::Down(_) => vec![22; d_in],
            _ => vec![16; d_in],
        };
        let out_shift: Vec<u32> = match site {
            Site::O(_) | Site::Down(_) => (0..d_out).map(|r| 9 + r as u32 % 3).collect(),
            Site::Head => vec![0],
            _ => vec![10],
        };
        let spec = json!({
            "d_in": d_in, "d_out": d_out, "in_shift": in_shift, "out_shift": out_shift,
        });
        linears.insert(site.name(), spec);
        (site, d_in * d_out, d_out)
    };
    let mut sites = vec![];
    for l in 0..layers {
        sites.push(linear(Site::Qkv(l), d, q_dim + 2 * kv_dim));
        sites.push(linear(Site::O(l), q_dim, d));
        sites.push(linear(Site::Up(l), d, up));
        sites.push(linear(Site::Down(l), ff, d));
    }
    sites.push(linear(Site::Head, d, s.vocab));
    let mut plan = json!({
        "version": 5, "f": 12, "logit_bound": 1u64 << 40, "embed": {"shift": 8}, "rope": vec![rope; layers], "norms": norms, "linears": linears,
        "attention": attention, "activations": activations, "tables": t.list.len(),
        "model": {
            "layers": layers, "d": d, "heads": heads, "kv_heads": kv_heads,
            "head_dim": head_dim, "ff": ff, "gated": gated, "parallel": false, "vocab": s.vocab, "context": context,
        },
    });
    change(&mut plan, &mut t.list);
    let plan = Plan::parse(&plan.to_string(), t.list).expect("a valid plan");

    let plan = Arc::new(plan);
    let mut rng = t.rng;
    let mut matrix =
        |n: usize, bound: i64| -> Vec<i64> { (0..n).map(|_| between(&mut rng, 1 - bound, bound)).collect() };
    let mut model = ServerModelBuilder::new(plan.clone());
    for (site, n, d_out) in &sites {
        let weights: Vec<i16> = matrix(*n, s.weights).into_iter().map(|w| w as i16).collect();
        model.weight(*site, n / d_out, &weights).expect("weights of the plan");
    }
    if s.arch == Arch::Gpt {
        for (site, _, n) in &sites {
            model.bias(*site, &matrix(*n, 1 << 20)).expect("biases of the plan");
        }
    }
    let mut table = |n: usize| matrix(n, 1 << 21).into_iter().map(|e| e as i32).collect::<Vec<i32>>();
    if s.arch == Arch::Gpt {
        model.positions(d, &table(context * d)).expect("positions of the plan");
    }
    model.embed(d, &table(s.vocab * d)).expect("an embedding of the plan");
    let model = model.finish().expect("weights of the plan");
    Tiny { layout: Arc::new(RowLayout::new(&plan)), plan, model }
}
