//! The server's integer weights, and products with them.

use std::collections::HashMap;

use cryptogen_ring::kernels::{matvec_i16_rows, SplitInput};
use cryptogen_ring::Fp;
use rayon::prelude::*;

use super::plan::Plan;
use super::site::Site;
use crate::error::{ProtocolError, Result};

/// The server's integer weights (A5).
pub struct ServerModel {
    weights: HashMap<String, Vec<i16>>,
    biases: HashMap<String, Vec<i64>>,
    /// `[vocab, d]` at scale `F + shift`
    pub embed: Vec<i32>,
    /// `[context, d]`, learned positions
    pub positions: Option<Vec<i32>>,
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
        Ok(ServerModel { weights, biases, embed, positions })
    }

    /// Row-major `[d_out, d_in]`.
    pub fn weight(&self, site: Site) -> &[i16] {
        self.weights.get(&site.name()).map_or(&[], Vec::as_slice)
    }

    /// Bias at scale `F + f_w`, if any.
    pub fn bias(&self, site: Site) -> Option<&[i64]> {
        self.biases.get(&site.name()).map(Vec::as_slice)
    }

    /// `W·x` for `rows` rows, `[rows, d_out]`. Parallel over blocks of output rows.
    pub fn multiply(&self, plan: &Plan, site: Site, x: &[Fp], rows: usize) -> Vec<Fp> {
        let l = plan.linear(site);
        let w = self.weight(site);
        let input = SplitInput::new(x, l.d_in);
        let block = l.d_out.div_ceil(4 * rayon::current_num_threads()).max(16);
        let mut columns = vec![Fp::ZERO; rows * l.d_out]; // [d_out, T]
        w.par_chunks(block * l.d_in)
            .zip(columns.par_chunks_mut(block * rows))
            .for_each(|(w, out)| matvec_i16_rows(w, &input, out));
        if rows == 1 {
            return columns;
        }
        let mut y = vec![Fp::ZERO; rows * l.d_out];
        y.par_chunks_mut(l.d_out).enumerate().for_each(|(t, row)| {
            row.iter_mut().zip(columns[t..].iter().step_by(rows)).for_each(|(y, v)| *y = *v);
        });
        y
    }
}
