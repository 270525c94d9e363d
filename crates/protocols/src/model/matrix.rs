//! The server's matrices, in the order in which shares of products with them are made.

use super::plan::Plan;
use super::site::Site;

/// A matrix of the server's, `[d_out, d_in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// The transposed embedding, `[d, vocab]`: its product with a unit vector is a token's row.
    Embed,
    /// That of a linear layer.
    Linear(Site),
}

impl Matrix {
    /// `(d_out, d_in)`.
    pub fn shape(self, plan: &Plan) -> (usize, usize) {
        match self {
            Matrix::Embed => (plan.model.d, plan.model.vocab),
            Matrix::Linear(site) => (plan.linear(site).d_out, plan.linear(site).d_in),
        }
    }
}

/// All that a row needs before there is a token: the embedding's, then those of all layers.
pub fn matrices_of_row(plan: &Plan) -> Vec<Matrix> {
    let layers = (0..plan.model.layers).flat_map(Site::of_layer).map(Matrix::Linear);
    [Matrix::Embed].into_iter().chain(layers).collect()
}
