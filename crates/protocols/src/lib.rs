//! The two-party protocols: `offline` makes correlations, `online` spends them. One functionality per file.

pub mod endpoint;
pub mod error;
pub mod hybrid;
pub mod material;
pub mod model;
pub mod offline;
pub mod online;
pub mod share;

#[cfg(test)]
mod tests;

pub use error::{ProtocolError, Result};
pub use hybrid::Protocol;
