//! The two-party protocols: [`offline`] makes material, [`online`] spends it. One functionality per
//! file.
//!
//! Rooms, from the ground up: [`model`], [`share`], [`material`], then the two phases side by side,
//! and [`endpoint`], which joins them. Which of them may use which: DESIGN.md, held by
//! `tests/walls.rs`.

#![deny(missing_docs)]

pub mod endpoint;
pub mod error;
pub mod material;
pub mod model;
pub mod offline;
pub mod online;
pub mod share;

#[cfg(any(test, feature = "test-sessions"))]
#[allow(missing_docs)] // parts of tests, named after what they are
pub mod testing;
#[cfg(test)]
mod tests;

pub use error::{ProtocolError, Result};
