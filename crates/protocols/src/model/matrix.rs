//! The server's matrices, in the order in which shares of products with them are made.

use std::ops::Range;

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

/// Matrices whose outputs stand side by side in a row.
pub struct Matrices(Vec<(Matrix, Range<usize>)>);

impl Matrices {
    /// In this order.
    pub fn new(plan: &Plan, matrices: impl IntoIterator<Item = Matrix>) -> Matrices {
        let mut width = 0;
        let place = |matrix: Matrix| {
            let first = width;
            width += matrix.shape(plan).0;
            (matrix, first..width)
        };
        Matrices(matrices.into_iter().map(place).collect())
    }

    /// Those of all layers.
    pub fn of_layers(plan: &Plan) -> Matrices {
        Matrices::new(plan, (0..plan.model.layers).flat_map(Site::of_layer).map(Matrix::Linear))
    }

    /// The output head.
    pub fn head(plan: &Plan) -> Matrices {
        Matrices::new(plan, [Matrix::Linear(Site::Head)])
    }

    /// The embedding.
    pub fn embedding(plan: &Plan) -> Matrices {
        Matrices::new(plan, [Matrix::Embed])
    }

    /// Outputs of a row.
    pub fn width(&self) -> usize {
        self.0.last().map_or(0, |(_, place)| place.end)
    }

    /// Where the outputs of a matrix stand in a row; nowhere if it is not one of these.
    pub fn place(&self, matrix: Matrix) -> Range<usize> {
        self.0.iter().find(|(m, _)| *m == matrix).map_or(0..0, |(_, place)| place.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each with the place of its outputs.
    pub fn iter(&self) -> impl Iterator<Item = (Matrix, Range<usize>)> + '_ {
        self.0.iter().cloned()
    }
}
