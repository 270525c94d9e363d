//! The server's integer weights, and products with them.

use std::collections::HashMap;

use cryptogen_ring::kernels::{matvec_i16_rows, SplitInput};
use cryptogen_ring::Fp;
use rayon::prelude::*;

use super::matrix::Matrix;
use super::plan::Plan;
use super::site::Site;
use crate::error::{ProtocolError, Result};

/// The server's integer weights (A5).
pub struct ServerModel {
    weights: HashMap<String, Vec<i16>>,
    biases: HashMap<String, Vec<i64>>,
    /// the transposed embedding `[d, vocab]` at scale `F + shift`, as `high·2^15 + low`
    embed: Embedding,
    /// `[context, d]`, learned positions
    pub positions: Option<Vec<i32>>,
}

/// Numbers of more than 16 bits in two halves, `[d, vocab]` each.
struct Embedding {
    high: Vec<i16>,
    low: Vec<i16>,
}

/// Bits of a low half, which is centred.
const LOW_BITS: u32 = 15;
/// Numbers of the embedding are below this in absolute value: larger ones would make `Linear`'s
/// noise felt.
const EMBED_LIMIT: i32 = 1 << 27;

impl Embedding {
    /// From `[vocab, d]`.
    fn new(embed: &[i32], d: usize) -> Result<Embedding> {
        if let Some(large) = embed.iter().find(|x| x.unsigned_abs() >= EMBED_LIMIT as u32) {
            return Err(ProtocolError::caller("embedding entry", format!("below {EMBED_LIMIT}"), large));
        }
        let vocab = embed.len() / d;
        let high = |x: i32| (x + (1 << (LOW_BITS - 1))) >> LOW_BITS;
        let transposed = |half: &(dyn Fn(i32) -> i32 + Sync)| -> Vec<i16> {
            let mut out = vec![0; embed.len()];
            out.par_chunks_mut(vocab.max(1)).enumerate().for_each(|(j, row)| {
                row.iter_mut().enumerate().for_each(|(token, x)| *x = half(embed[token * d + j]) as i16);
            });
            out
        };
        Ok(Embedding { high: transposed(&high), low: transposed(&|x| x - (high(x) << LOW_BITS)) })
    }
}

impl ServerModel {
    /// Checks every matrix against the plan.
    ///
    /// # Errors
    /// Missing or misshapen weights.
    pub fn new(
        plan: &Plan,
        weights: HashMap<String, Vec<i16>>,
        biases: HashMap<String, Vec<i64>>,
        embed: Vec<i32>,
        positions: Option<Vec<i32>>,
    ) -> Result<ServerModel> {
        let shape = |what: &'static str, expected: usize, actual: usize| {
            if expected == actual {
                Ok(())
            } else {
                Err(ProtocolError::caller(what, expected, actual))
            }
        };
        let m = &plan.model;
        for site in (0..m.layers).flat_map(Site::of_layer).chain([Site::Head]) {
            let name = site.name();
            let l = plan.linear(site);
            let missing = || ProtocolError::caller("the server's weights", &name, "none of that name");
            let w = weights.get(&name).ok_or_else(missing)?;
            shape("weight matrix", l.d_in * l.d_out, w.len())?;
            if let Some(b) = biases.get(&name) {
                shape("bias", l.d_out, b.len())?;
            }
        }
        shape("embedding", m.vocab * m.d, embed.len())?;
        if let Some(p) = &positions {
            shape("positions", m.context * m.d, p.len())?;
        }
        let embed = Embedding::new(&embed, m.d)?;
        Ok(ServerModel { weights, biases, embed, positions })
    }

    /// Row-major `[d_out, d_in]`.
    pub fn weight(&self, site: Site) -> &[i16] {
        self.weights.get(&site.name()).map_or(&[], Vec::as_slice)
    }

    /// A row of a matrix, `[d_in]`.
    pub fn row(&self, matrix: Matrix, row: usize, out: &mut [i32]) {
        let place = row * out.len()..(row + 1) * out.len();
        match matrix {
            Matrix::Embed => {
                let halves = self.embed.high[place.clone()].iter().zip(&self.embed.low[place]);
                out.iter_mut()
                    .zip(halves)
                    .for_each(|(out, (h, l))| *out = (i32::from(*h) << LOW_BITS) + i32::from(*l));
            }
            Matrix::Linear(site) => {
                out.iter_mut().zip(&self.weight(site)[place]).for_each(|(out, w)| *out = i32::from(*w));
            }
        }
    }

    /// Bias at scale `F + f_w`, if any.
    pub fn bias(&self, site: Site) -> Option<&[i64]> {
        self.biases.get(&site.name()).map(Vec::as_slice)
    }

    /// `W·x` for `rows` rows, `[rows, d_out]`.
    pub fn multiply(&self, plan: &Plan, site: Site, x: &[Fp], rows: usize) -> Vec<Fp> {
        product(self.weight(site), &SplitInput::new(x, plan.linear(site).d_in), plan.linear(site).d_out, rows)
    }

    /// `Eᵀ·x` for `rows` rows of `vocab` numbers, `[rows, d]`.
    pub fn embed(&self, plan: &Plan, x: &[Fp], rows: usize) -> Vec<Fp> {
        let input = SplitInput::new(x, plan.model.vocab);
        let half = |w: &[i16]| product(w, &input, plan.model.d, rows);
        let power = Fp::new(1 << LOW_BITS);
        half(&self.embed.high)
            .iter()
            .zip(half(&self.embed.low))
            .map(|(high, low)| *high * power + low)
            .collect()
    }
}

/// `W·x`, `[rows, d_out]`. Parallel over blocks of output rows.
fn product(w: &[i16], input: &SplitInput, d_out: usize, rows: usize) -> Vec<Fp> {
    let block = d_out.div_ceil(4 * rayon::current_num_threads()).max(16);
    let mut columns = vec![Fp::ZERO; rows * d_out]; // [d_out, T]
    w.par_chunks(block * (w.len() / d_out))
        .zip(columns.par_chunks_mut(block * rows))
        .for_each(|(w, out)| matvec_i16_rows(w, input, out));
    if rows == 1 {
        return columns;
    }
    let mut y = vec![Fp::ZERO; rows * d_out];
    y.par_chunks_mut(d_out).enumerate().for_each(|(t, row)| {
        row.iter_mut().zip(columns[t..].iter().step_by(rows)).for_each(|(y, v)| *y = *v);
    });
    y
}
