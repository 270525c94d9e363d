//! The server's integer weights, and products with them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use cryptogen_ring::kernels::{matvec_i16_rows, matvec_i8_rows, SplitInput, MAX_D_IN};
use cryptogen_ring::Fp;
use rayon::prelude::*;

use super::matrix::Matrix;
use super::plan::Plan;
use super::site::Site;
use crate::error::{ProtocolError, Result};

/// The server's integer weights (A5).
pub struct ServerModel {
    weights: BTreeMap<Site, Vec<i16>>,
    biases: BTreeMap<Site, Vec<i64>>,
    /// the transposed embedding `[d, vocab]` at scale `F + shift`
    embed: Embedding,
    /// `[context, d]`, learned positions
    pub positions: Option<Vec<i32>>,
}

/// Numbers of more than 16 bits in two parts, `[d, vocab]` each.
#[derive(Default)]
struct Embedding {
    high: Vec<i16>,
    low: Low,
}

/// Low parts, which are centred: with a high part they are numbers of 24 bits, as long as all fit,
/// or of more.
enum Low {
    Short(Vec<i8>),
    Long(Vec<i16>),
}

impl Default for Low {
    fn default() -> Low {
        Low::Short(vec![])
    }
}

/// Bits of a low part.
const SHORT_BITS: u32 = 8;
const LONG_BITS: u32 = 15;
/// Numbers from here on have a high part of more than 16 bits behind a short one.
const SHORT_LIMIT: u32 = (1 << 23) - (1 << (SHORT_BITS - 1));
/// Numbers of the embedding are below this in absolute value: larger ones would make `Linear`'s
/// noise felt.
const EMBED_LIMIT: u32 = 1 << 27;
/// Rows of an embedding whose products with it are computed at once: two 32-bit halves of a row's
/// inputs are as long as the vocabulary each.
const EMBED_ROWS: usize = 16;

/// `high·2^bits + low`.
fn parts(x: i32, bits: u32) -> (i16, i16) {
    let high = (x + (1 << (bits - 1))) >> bits;
    (high as i16, (x - (high << bits)) as i16)
}

fn whole(high: i16, low: i16, bits: u32) -> i32 {
    (i32::from(high) << bits) + i32::from(low)
}

impl Embedding {
    /// Room for `n` numbers.
    fn new(n: usize) -> Embedding {
        Embedding { high: vec![0; n], low: Low::Short(vec![0; n]) }
    }

    /// Writes the rows `[n, d]` of the tokens from `first` on.
    fn put(&mut self, first: usize, rows: &[i32], d: usize, vocab: usize) {
        if rows.iter().any(|x| x.unsigned_abs() >= SHORT_LIMIT) {
            self.lengthen();
        }
        match &mut self.low {
            Low::Short(low) => put(&mut self.high, low, first, rows, [d, vocab], |x| {
                let (high, low) = parts(x, SHORT_BITS);
                (high, low as i8)
            }),
            Low::Long(low) => {
                put(&mut self.high, low, first, rows, [d, vocab], |x| parts(x, LONG_BITS));
            }
        }
    }

    /// Makes low parts long.
    fn lengthen(&mut self) {
        if let Low::Short(short) = &self.low {
            let long = self.high.iter_mut().zip(short).map(|(high, low)| {
                let (upper, lower) = parts(whole(*high, i16::from(*low), SHORT_BITS), LONG_BITS);
                *high = upper;
                lower
            });
            self.low = Low::Long(long.collect());
        }
    }

    /// The numbers from `place.start` on.
    fn numbers(&self, place: Range<usize>, out: &mut [i32]) {
        let out = out.iter_mut().zip(&self.high[place.clone()]);
        match &self.low {
            Low::Short(low) => out
                .zip(&low[place])
                .for_each(|((out, high), low)| *out = whole(*high, i16::from(*low), SHORT_BITS)),
            Low::Long(low) => {
                out.zip(&low[place]).for_each(|((out, high), low)| *out = whole(*high, *low, LONG_BITS));
            }
        }
    }

    /// Its product with inputs of `vocab` numbers, `[rows, d]`.
    fn multiply(&self, input: &SplitInput, d: usize, rows: usize) -> Vec<Fp> {
        let mut y = product(&self.high, input, d, rows, matvec_i16_rows);
        let (bits, low) = match &self.low {
            Low::Short(low) => (SHORT_BITS, product(low, input, d, rows, matvec_i8_rows)),
            Low::Long(low) => (LONG_BITS, product(low, input, d, rows, matvec_i16_rows)),
        };
        let power = Fp::new(1 << bits);
        y.iter_mut().zip(low).for_each(|(y, low)| *y = *y * power + low);
        y
    }
}

/// Writes both parts of the rows `[n, d]` of the tokens from `first` on, transposed.
fn put<L: Send>(
    high: &mut [i16],
    low: &mut [L],
    first: usize,
    rows: &[i32],
    [d, vocab]: [usize; 2],
    parts: impl Fn(i32) -> (i16, L) + Sync,
) {
    let n = rows.len() / d;
    let each = high.par_chunks_mut(vocab).zip(low.par_chunks_mut(vocab));
    each.enumerate().for_each(|(j, (high, low))| {
        let places = high[first..first + n].iter_mut().zip(&mut low[first..first + n]);
        let tokens = rows.chunks_exact(d).map(|row| row[j]);
        places.zip(tokens).for_each(|((high, low), x)| (*high, *low) = parts(x));
    });
}

/// Takes the server's weights some rows at a time, so that nobody has to hold a second copy of
/// them.
pub struct ServerModelBuilder {
    plan: Arc<Plan>,
    model: ServerModel,
    /// rows of the embedding that have come
    tokens: usize,
}

impl ServerModelBuilder {
    /// Nothing yet.
    pub fn new(plan: Arc<Plan>) -> ServerModelBuilder {
        let (weights, biases, embed, positions) = Default::default();
        ServerModelBuilder { plan, model: ServerModel { weights, biases, embed, positions }, tokens: 0 }
    }

    /// The next rows of a matrix, `[n, width]`.
    ///
    /// # Errors
    /// A site that the plan does not have; another width, part of a row, or more rows than the
    /// matrix has.
    pub fn weight(&mut self, site: Site, width: usize, rows: &[i16]) -> Result<()> {
        self.known(site)?;
        let l = self.plan.linear(site);
        same("inputs of a weight matrix", l.d_in, width)?;
        narrow("inputs of a weight matrix", l.d_in)?;
        let weight = self.model.weights.entry(site).or_insert_with(|| Vec::with_capacity(l.d_in * l.d_out));
        append("weight matrix", weight, rows, l.d_in, l.d_out)
    }

    /// The bias of a matrix, `[d_out]`.
    ///
    /// # Errors
    /// A site that the plan does not have, or another length.
    pub fn bias(&mut self, site: Site, bias: &[i64]) -> Result<()> {
        self.known(site)?;
        same("bias", self.plan.linear(site).d_out, bias.len())?;
        self.model.biases.insert(site, bias.to_vec());
        Ok(())
    }

    /// The next rows of the embedding, `[n, width]`.
    ///
    /// # Errors
    /// Another width, part of a row, more rows than there are tokens, numbers of more than 27 bits.
    pub fn embed(&mut self, width: usize, rows: &[i32]) -> Result<()> {
        let (d, vocab) = (self.plan.model.d, self.plan.model.vocab);
        same("width of an embedding", d, width)?;
        narrow("tokens of an embedding", vocab)?;
        fits("embedding", self.tokens, rows.len(), d, vocab)?;
        if let Some(large) = rows.iter().find(|x| x.unsigned_abs() >= EMBED_LIMIT) {
            return Err(ProtocolError::caller("embedding entry", format!("below {EMBED_LIMIT}"), large));
        }
        let embed = &mut self.model.embed;
        if embed.high.is_empty() {
            *embed = Embedding::new(vocab * d);
        }
        embed.put(self.tokens, rows, d, vocab);
        self.tokens += rows.len() / d;
        Ok(())
    }

    /// The next rows of the learned positions, `[n, width]`.
    ///
    /// # Errors
    /// Another width, part of a row, more rows than the context has.
    pub fn positions(&mut self, width: usize, rows: &[i32]) -> Result<()> {
        let (d, context) = (self.plan.model.d, self.plan.model.context);
        same("width of positions", d, width)?;
        append("positions", self.model.positions.get_or_insert_default(), rows, d, context)
    }

    /// The model, when all of it has come.
    ///
    /// # Errors
    /// Whatever is missing.
    pub fn finish(self) -> Result<ServerModel> {
        let m = &self.plan.model;
        for site in (0..m.layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let missing = || ProtocolError::caller("the server's weights", site.name(), "none of that name");
            let l = self.plan.linear(site);
            let weight = self.model.weights.get(&site).ok_or_else(missing)?;
            same("rows of a weight matrix", l.d_out, weight.len() / l.d_in)?;
        }
        same("rows of the embedding", m.vocab, self.tokens)?;
        if let Some(positions) = &self.model.positions {
            same("rows of positions", m.context, positions.len() / m.d)?;
        }
        Ok(self.model)
    }

    fn known(&self, site: Site) -> Result<()> {
        let layers = self.plan.model.layers;
        match site {
            Site::Qkv(l) | Site::O(l) | Site::Up(l) | Site::Down(l) if l >= layers => {
                Err(ProtocolError::caller("site", format!("one of {layers} layers"), site.name()))
            }
            _ => Ok(()),
        }
    }
}

/// Appends whole rows of `width` numbers to an array of `most` rows.
fn append<T: Copy>(what: &'static str, to: &mut Vec<T>, rows: &[T], width: usize, most: usize) -> Result<()> {
    fits(what, to.len() / width, rows.len(), width, most)?;
    to.extend_from_slice(rows);
    Ok(())
}

/// Refuses `new` numbers behind `before` rows of `width` unless they are whole rows, `most` in all.
fn fits(what: &'static str, before: usize, new: usize, width: usize, most: usize) -> Result<()> {
    match new.is_multiple_of(width) && before + new / width <= most {
        true => Ok(()),
        false => {
            let expected = format!("up to {} rows of {width}", most - before);
            Err(ProtocolError::caller(what, expected, format!("{new} numbers")))
        }
    }
}

/// Refuses matrices that [`matvec_i16_rows`] cannot multiply.
fn narrow(what: &'static str, d_in: usize) -> Result<()> {
    match d_in <= MAX_D_IN {
        true => Ok(()),
        false => Err(ProtocolError::caller(what, format!("up to {MAX_D_IN}"), d_in)),
    }
}

fn same(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    match expected == actual {
        true => Ok(()),
        false => Err(ProtocolError::caller(what, expected, actual)),
    }
}

impl ServerModel {
    /// Row-major `[d_out, d_in]`.
    pub fn weight(&self, site: Site) -> &[i16] {
        self.weights.get(&site).map_or(&[], Vec::as_slice)
    }

    /// A row of a matrix, `[d_in]`.
    pub fn row(&self, matrix: Matrix, row: usize, out: &mut [i32]) {
        let place = row * out.len()..(row + 1) * out.len();
        match matrix {
            Matrix::Embed => self.embed.numbers(place, out),
            Matrix::Linear(site) => {
                out.iter_mut().zip(&self.weight(site)[place]).for_each(|(out, w)| *out = i32::from(*w));
            }
        }
    }

    /// Bias at scale `F + f_w`, if any.
    pub fn bias(&self, site: Site) -> Option<&[i64]> {
        self.biases.get(&site).map(Vec::as_slice)
    }

    /// `W·x` for `rows` rows, `[rows, d_out]`.
    pub fn multiply(&self, plan: &Plan, site: Site, x: &[Fp], rows: usize) -> Vec<Fp> {
        let l = plan.linear(site);
        product(self.weight(site), &SplitInput::new(x, l.d_in), l.d_out, rows, matvec_i16_rows)
    }

    /// `Eᵀ·x` for rows of `vocab` numbers, `[rows, d]`.
    pub fn embed(&self, plan: &Plan, x: &[Fp]) -> Vec<Fp> {
        let (d, vocab) = (plan.model.d, plan.model.vocab);
        let mut y = Vec::with_capacity(x.len() / vocab * d);
        for x in x.chunks(EMBED_ROWS * vocab) {
            y.extend(self.embed.multiply(&SplitInput::new(x, vocab), d, x.len() / vocab));
        }
        y
    }
}

/// `W·x`, `[rows, d_out]`. Parallel over blocks of output rows.
fn product<W: Sync>(
    w: &[W],
    input: &SplitInput,
    d_out: usize,
    rows: usize,
    kernel: impl Fn(&[W], &SplitInput, &mut [Fp]) + Sync,
) -> Vec<Fp> {
    let block = d_out.div_ceil(4 * rayon::current_num_threads()).max(16);
    let mut columns = vec![Fp::ZERO; rows * d_out]; // [d_out, T]
    w.par_chunks(block * (w.len() / d_out))
        .zip(columns.par_chunks_mut(block * rows))
        .for_each(|(w, out)| kernel(w, input, out));
    if rows == 1 {
        return columns;
    }
    let mut y = vec![Fp::ZERO; rows * d_out];
    y.par_chunks_mut(d_out).enumerate().for_each(|(t, row)| {
        row.iter_mut().zip(columns[t..].iter().step_by(rows)).for_each(|(y, v)| *y = *v);
    });
    y
}
