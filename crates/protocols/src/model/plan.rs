//! The numeric plan: every public constant of `docs/protocols/arithmetic.md`, parsed and checked
//! once.
//!
//! Python makes the plan (`cryptogen.numerics`); this is its Rust reading. Nothing here is secret.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use cryptogen_ring::kernels::Table;
use serde::Deserialize;

use super::check::{expect, lifted_ok, shift_ok, within};
use super::site::Site;
use crate::error::PlanError;

/// Version of the plan document.
const VERSION: i64 = 5;
/// Fractional bits of every activation between operations.
pub const F: u32 = 12;
/// Truncation of a scalar's argument in front of the net (A4).
pub const NET_SHIFT: u32 = 32;
/// log2 of a segment of what is left, at least.
const NET_SEGMENT: u32 = 10;
/// log2 of the segments that a window has.
const NET_INSIDE: u32 = 2;
/// Index bits of the net.
pub const NET_BITS: u32 = 12;
/// log2 of the largest window that the net can tell from what is beyond.
pub(super) const MAX_END: u32 = NET_INSIDE + MAX_SHIFT - NET_BITS + NET_SHIFT;
/// Largest shift for which `p mod 2^k = 1`, on which local truncation relies (A1).
pub(super) const MAX_SHIFT: u32 = 32;
/// Largest absolute value of a table entry (A3), so that a dot product with field elements fits in
/// 128 bits.
pub(super) const MAX_ENTRY: i64 = 1 << 46;
/// log2 of what the head's bound is scaled up to at most: half of what the field holds, so that
/// logits beyond the bound have room to be seen (A8).
const LOGIT_ROOM: u32 = 62;
/// Largest shift of the logits: the leading 24 bits of p are in units of about `2^40`.
const MAX_LOGIT_SHIFT: u32 = 40;
/// Largest `f_w` of a matrix's rows, hence `out_shift` (A5).
const MAX_WEIGHT_BITS: i64 = 15;

/// Shape of the decoder.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ModelShape {
    /// number of layers, `L`
    pub layers: usize,
    /// width of the residual stream
    pub d: usize,
    /// query heads
    pub heads: usize,
    /// key heads, which are as many value heads
    pub kv_heads: usize,
    /// width of a head
    pub head_dim: usize,
    /// width of the activation
    pub ff: usize,
    /// whether the activation is that of a gate, times up
    pub gated: bool,
    /// whether the MLP reads what attention reads, not what attention has been added to
    pub parallel: bool,
    /// tokens
    pub vocab: usize,
    /// most rows of a session
    pub context: usize,
}

impl ModelShape {
    /// Width of the concatenated query heads.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of the concatenated key (or value) heads.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    /// Query heads per key/value head.
    pub fn queries_per_kv_head(&self) -> usize {
        self.heads / self.kv_heads
    }
    /// Rows of the `up` site (gate rows then up rows when gated).
    pub fn up_dim(&self) -> usize {
        if self.gated {
            2 * self.ff
        } else {
            self.ff
        }
    }
}

/// The embedding (A5.1).
#[derive(Clone, Debug, Deserialize)]
pub struct Embed {
    /// truncation of the embedding to scale F
    pub shift: u32,
}

/// Rotary positions (A5.4).
#[derive(Clone, Debug, Deserialize)]
pub struct Rope {
    /// scale of both tables
    pub bits: u32,
    /// table of cosines, `[context·head_dim/2]`
    pub cos: usize,
    /// table of sines, alike
    pub sin: usize,
}

/// One range of a positive scalar function (A4). `g`: its guard; `z`: of a coarse range, where the
/// fine one takes over.
#[derive(Clone, Debug, Deserialize)]
pub struct Range {
    /// truncation of the argument
    pub mu: u32,
    /// log2 of a segment
    pub h: u32,
    /// index bits
    pub k: u32,
    /// table of slopes, A
    pub a: usize,
    /// table of offsets, B
    pub b: usize,
    /// table of the guard, G
    pub g: usize,
    /// table of the selector, Z
    pub z: Option<usize>,
}

impl Range {
    /// log2 of where the window ends.
    pub fn end(&self) -> u32 {
        self.mu + self.h + self.k
    }
}

/// A positive scalar function with one or two ranges (A4).
#[derive(Clone, Debug, Deserialize)]
pub struct Scalar {
    /// the only range, or the coarse one
    pub hi: Range,
    /// the fine range
    pub lo: Option<Range>,
    /// truncation of the result
    pub out_shift: u32,
}

impl Scalar {
    /// How far an argument is shifted to the left in front of the net (A4).
    pub fn net_lift(&self) -> u32 {
        (NET_SHIFT + NET_SEGMENT + NET_INSIDE).saturating_sub(self.hi.end())
    }

    /// Shift of the net's index: the window is `2^NET_INSIDE` of its segments.
    pub fn net_segment(&self) -> u32 {
        self.hi.end() + self.net_lift() - NET_SHIFT - NET_INSIDE
    }
}

/// A norm (A5.2).
#[derive(Clone, Debug, Deserialize)]
pub struct Norm {
    /// truncation of `h` before it is squared
    pub pre_shift: u32,
    /// 1/√ of the sum of squares
    pub scalar: Scalar,
}

/// A linear layer (A5.3).
#[derive(Clone, Debug, Deserialize)]
pub struct Linear {
    /// inputs
    pub d_in: usize,
    /// outputs
    pub d_out: usize,
    /// truncation of the input, one for each column
    pub in_shift: Vec<u32>,
    /// one for all rows, or one for each
    pub out_shift: Vec<u32>,
}

impl Linear {
    /// `out_shift` of a row of the matrix.
    pub fn out_shift(&self, row: usize) -> u32 {
        self.out_shift[row % self.out_shift.len()]
    }
}

/// What the scores of a query are relative to: the mean of some of them (A5.5a).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// the score of row 0
    First,
    /// the score of the query's own row
    Own,
    /// the mean of both
    Both,
    /// the mean of eight rows, spread evenly up to the query's own
    Spread,
    /// the mean of that and of the query's own
    OwnSpread,
}

/// Rows of [`Anchor::Spread`].
const SPREAD: usize = 8;

impl Anchor {
    /// log2 of the number of [`Anchor::rows`].
    fn bits(self) -> u32 {
        match self {
            Anchor::First | Anchor::Own => 0,
            Anchor::Both => 1,
            Anchor::Spread => 3,
            Anchor::OwnSpread => 4,
        }
    }

    /// The rows whose scores make up the anchor of row `t`, some of them several times.
    pub fn rows(self, t: usize) -> impl Iterator<Item = usize> {
        let (own, first, spread) = match self {
            Anchor::First => (0, 1, 0),
            Anchor::Own => (1, 0, 0),
            Anchor::Both => (1, 1, 0),
            Anchor::Spread => (0, 0, SPREAD),
            Anchor::OwnSpread => (SPREAD, 0, SPREAD),
        };
        let spread = (1..=spread).map(move |i| t * i / SPREAD);
        std::iter::repeat_n(t, own).chain(std::iter::repeat_n(0, first)).chain(spread)
    }

    /// What scores are multiplied by before the anchor's are subtracted: there are that many.
    pub fn factor(self) -> u64 {
        1 << self.bits()
    }

    /// Shift of relative scores, which are multiples until then.
    pub fn shift(self) -> u32 {
        F + self.bits()
    }
}

/// A head of a layer's attention (A5.5, A9).
#[derive(Clone, Debug, Deserialize)]
pub struct Head {
    /// what its scores are relative to
    pub anchor: Anchor,
    /// primes by which its exponentials are computed
    pub primes: usize,
    /// bits below its anchor at which its window of scores begins
    pub bottom: u32,
    /// truncation of exponentials to weights
    pub shift: u32,
    /// truncation of the weighted values
    pub o_shift: u32,
    /// 1/σ
    pub scalar: Scalar,
}

/// Attention of a layer (A5.5).
#[derive(Clone, Debug, Deserialize)]
pub struct Attention {
    /// query heads
    pub heads: Vec<Head>,
}

/// A window of an activation (A5.6): segments of `2^h`, as many below 0 as above.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// log2 of a segment
    pub h: u32,
    /// table A: what `u²` is multiplied by, of a gated activation `gate·up`
    pub a: usize,
    /// table B: what `u` or `up` is multiplied by
    pub b: usize,
    /// table C, which is added; of a plain activation
    pub c: Option<usize>,
    /// table of the guard, G, if the layer has guards
    pub g: Option<usize>,
}

/// The windows of a layer's activation and the number of each neuron's.
#[derive(Clone, Debug, Deserialize)]
pub struct Activation {
    /// index bits
    pub k: u32,
    /// windows that its neurons have
    pub windows: Vec<Window>,
    /// number of each neuron's window
    pub of: Vec<usize>,
}

impl Activation {
    /// Segments' shift of a neuron, and where its window begins.
    pub fn segments(&self, neuron: usize) -> (u32, i64) {
        let h = self.windows[self.of[neuron]].h;
        (h, -(1 << (h + self.k - 1)))
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Document {
    version: u32,
    model: ModelShape,
    f: u32,
    logit_bound: u64,
    embed: Embed,
    rope: Vec<Option<Rope>>,
    norms: Vec<Norm>,
    linears: BTreeMap<String, Linear>,
    attention: Vec<Attention>,
    activations: Vec<Activation>,
    tables: usize,
}

/// A checked plan with its tables. Immutable.
pub struct Plan {
    /// shape of the decoder
    pub model: ModelShape,
    /// embedding
    pub embed: Embed,
    /// a layer each: rotary positions, if it has them
    pub rope: Vec<Option<Rope>>,
    /// attention norm 0, MLP norm 0, attention norm 1, …, final norm
    pub norms: Vec<Norm>,
    /// a layer each
    pub attention: Vec<Attention>,
    /// a layer each
    pub activations: Vec<Activation>,
    linears: Vec<Linear>,
    logit_bound: u64,
    pub(super) tables: Vec<Vec<i64>>,
    look_up_tables: Vec<OnceLock<Table>>,
    net: OnceLock<Table>,
}

impl Plan {
    /// Parses and checks a plan document and its tables.
    ///
    /// # Errors
    /// [`PlanError`] with what was expected and what came.
    pub fn parse(json: &str, tables: Vec<Vec<i64>>) -> Result<Plan, PlanError> {
        let doc: Document = serde_json::from_str(json).map_err(|e| PlanError::Json(e.to_string()))?;
        expect("version", VERSION, doc.version as i64)?;
        expect("f", F as i64, doc.f as i64)?;
        expect("tables", doc.tables as i64, tables.len() as i64)?;
        let m = &doc.model;
        for (name, v) in [
            ("layers", m.layers),
            ("d", m.d),
            ("heads", m.heads),
            ("kv_heads", m.kv_heads),
            ("head_dim", m.head_dim),
            ("ff", m.ff),
            ("vocab", m.vocab),
            ("context", m.context),
        ] {
            if v == 0 || v > 1 << 20 {
                return Err(PlanError::Value {
                    field: name.into(),
                    expected: "1..2^20".into(),
                    actual: v.to_string(),
                });
            }
        }
        if m.head_dim > 4096 {
            return Err(PlanError::Value {
                field: "head_dim".into(),
                expected: "up to 4096".into(),
                actual: m.head_dim.to_string(),
            });
        }
        expect("heads mod kv_heads", 0, (m.heads % m.kv_heads) as i64)?;
        expect("rope", m.layers as i64, doc.rope.len() as i64)?;
        expect("norms", 2 * m.layers as i64 + 1, doc.norms.len() as i64)?;
        expect("attention", m.layers as i64, doc.attention.len() as i64)?;
        expect("activations", m.layers as i64, doc.activations.len() as i64)?;
        let mut linears = Vec::with_capacity(4 * m.layers + 1);
        for site in (0..m.layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let (d_in, d_out) = match site {
                Site::Qkv(_) => (m.d, m.q_dim() + 2 * m.kv_dim()),
                Site::O(_) => (m.q_dim(), m.d),
                Site::Up(_) => (m.d, m.up_dim()),
                Site::Down(_) => (m.ff, m.d),
                Site::Head => (m.d, m.vocab),
            };
            let name = site.name();
            let l = doc.linears.get(&name).ok_or_else(|| PlanError::Missing(name.clone()))?.clone();
            expect(&format!("{name}.d_in"), d_in as i64, l.d_in as i64)?;
            expect(&format!("{name}.d_out"), d_out as i64, l.d_out as i64)?;
            expect(&format!("{name}.in_shift"), d_in as i64, l.in_shift.len() as i64)?;
            for &s in &l.in_shift {
                shift_ok(&name, s)?;
            }
            let field = format!("{name}.out_shift");
            if l.out_shift.len() != 1 {
                expect(&field, d_out as i64, l.out_shift.len() as i64)?;
            }
            for &s in &l.out_shift {
                if matches!(site, Site::Up(_)) {
                    lifted_ok(&field, s)?;
                }
                within(&field, i64::from(s), 0, MAX_WEIGHT_BITS)?;
            }
            linears.push(l);
        }
        let plan = Plan {
            embed: doc.embed,
            rope: doc.rope,
            norms: doc.norms,
            attention: doc.attention,
            activations: doc.activations,
            linears,
            logit_bound: doc.logit_bound,
            look_up_tables: tables.iter().map(|_| OnceLock::new()).collect(),
            net: OnceLock::new(),
            tables,
            model: doc.model,
        };
        plan.check()?;
        Ok(plan)
    }

    /// The linear layer of a site.
    pub fn linear(&self, site: Site) -> &Linear {
        &self.linears[site.index(self.model.layers)]
    }

    /// By how many bits logits are shifted up before their leading bits are taken (A8): their bound
    /// then lies between a quarter and half of the largest number of the field.
    pub fn logit_shift(&self) -> u32 {
        let log = u64::BITS - self.logit_bound.saturating_sub(1).leading_zeros();
        LOGIT_ROOM.saturating_sub(log).min(MAX_LOGIT_SHIFT)
    }

    /// Of a layer with rotary positions, their scale `bits`, and `round(2^bits·cos)` and `…sin` of
    /// a position, `[head_dim/2]` each.
    pub fn rotation(&self, layer: usize, position: usize) -> Option<(u32, [&[i64]; 2])> {
        let n = self.model.head_dim / 2;
        let rope = self.rope[layer].as_ref()?;
        Some((rope.bits, [rope.cos, rope.sin].map(|id| &self.tables[id][position * n..][..n])))
    }

    /// A public integer table.
    pub fn table(&self, id: usize) -> &[i64] {
        &self.tables[id]
    }

    /// The same as look-ups read it; made on first use.
    pub fn look_up_table(&self, id: usize) -> &Table {
        self.look_up_tables[id].get_or_init(|| Table::new(&self.tables[id]))
    }

    /// The selector K of a scalar's net (A4): 1 for the indices that arguments inside of the window
    /// alone meet, and for the last, which small ones meet, too. The same for every model; made on
    /// first use.
    pub fn net(&self) -> &Table {
        self.net.get_or_init(|| {
            let (inside, last) = ((1usize << NET_INSIDE) - 1, (1usize << NET_BITS) - 1);
            Table::new(&(0..=last).map(|j| i64::from(j < inside || j == last)).collect::<Vec<_>>())
        })
    }

    /// The numbers of primes that the heads of all layers have, ascending.
    pub fn prime_counts(&self) -> Vec<usize> {
        let heads = self.attention.iter().flat_map(|a| &a.heads);
        heads.map(|head| head.primes).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The heads of a layer that have `n` primes, ascending.
    pub fn heads_with(&self, layer: usize, n: usize) -> impl Iterator<Item = usize> + '_ {
        let heads = self.attention[layer].heads.iter().enumerate();
        heads.filter(move |(_, head)| head.primes == n).map(|(g, _)| g)
    }

    /// The norm in front of a linear layer (`None` where a product or table comes first).
    pub fn norm_before(&self, site: Site) -> Option<usize> {
        match site {
            Site::Qkv(l) => Some(2 * l),
            Site::Up(l) => Some(2 * l + 1),
            Site::Head => Some(2 * self.model.layers),
            _ => None,
        }
    }
}
