//! Rows that a session begins with and that are computed in the clear: a text known to whoever
//! holds the weights.

use cryptogen_ring::{Fp, Wiped};

use super::plan::Plan;
use crate::error::{ProtocolError, Result};

/// Keys and values of the first rows of a session, the plan's integers (A5.4, A5.5). Nothing else
/// of a row is met by later ones.
pub struct Prefix {
    rows: usize,
    /// per layer the keys, rotated, and the values, `[rows][kv_dim]` each, at scale F
    layers: Vec<[Wiped<Fp>; 2]>,
}

impl Prefix {
    /// From `[keys, values]` of each layer, `[rows][kv_dim]` each.
    ///
    /// # Errors
    /// `Caller`: another number of layers, layers that differ in length, no row, or no room in the
    /// context for a row behind them.
    pub fn new(plan: &Plan, layers: Vec<[Vec<Fp>; 2]>) -> Result<Prefix> {
        let m = &plan.model;
        if layers.len() != m.layers {
            return Err(ProtocolError::caller("layers of a prefix", m.layers, layers.len()));
        }
        let rows = layers[0][0].len() / m.kv_dim();
        check_rows(plan, rows)?;
        if let Some(other) = layers.iter().flatten().map(Vec::len).find(|n| *n != rows * m.kv_dim()) {
            return Err(ProtocolError::caller("numbers of a prefix", rows * m.kv_dim(), other));
        }
        Ok(Prefix { rows, layers: layers.into_iter().map(|layer| layer.map(Wiped::new)).collect() })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Keys, then values, row by row: `[rows][layers·kv_dim]`.
    pub(crate) fn by_row(&self) -> [Vec<Vec<Fp>>; 2] {
        [0, 1].map(|what| {
            let width = self.layers[0][what].len() / self.rows;
            let row = |i: usize| self.layers.iter().flat_map(move |layer| &layer[what][i * width..][..width]);
            (0..self.rows).map(|i| row(i).copied().collect()).collect()
        })
    }

    /// A layer's keys and values, `[rows][kv_dim]` each.
    pub(crate) fn layer(&self, layer: usize) -> &[Wiped<Fp>; 2] {
        &self.layers[layer]
    }
}

/// Refuses a prefix of no row, and one that leaves no room behind it.
pub(crate) fn check_rows(plan: &Plan, rows: usize) -> Result<()> {
    let most = plan.model.context - 1;
    match (1..=most).contains(&rows) {
        true => Ok(()),
        false => Err(ProtocolError::caller("rows of a prefix", format!("1 to {most}"), rows)),
    }
}
