//! What is computed: the numeric plan, the linear layers of a decoder, the server's integer
//! weights.
//!
//! It knows no party: all of this is as true of the arithmetic in the clear.

mod check;
mod matrix;
mod plan;
mod prefix;
mod site;
mod weights;

pub use matrix::{matrices_of_row, Matrix};
pub use plan::{
    Activation, Anchor, Attention, Embed, Head, Linear, ModelShape, Norm, Plan, Range, Rope, Scalar, Window,
    F, NET_BITS, NET_SHIFT,
};
pub(crate) use prefix::check_rows;
pub use prefix::Prefix;
pub use site::Site;
pub use weights::{ServerModel, ServerModelBuilder};
