//! Oblivious transfer and distributed point functions: how two parties make table keys without a
//! dealer.
//!
//! [`base`] gives 128 oblivious transfers in each direction, [`extension`] turns them into as many
//! as wanted, by few bytes where they are many (`silent`), and [`dpf`] spends those on the keys of
//! secret one-hot vectors. Adversary: semi-honest for table keys, κ = 128; transfers are checked
//! against a party that deviates (`docs/decisions/0024-checked-transfers.md` and
//! `0025-silent-transfers.md`). Whatever the peer sends causes a typed error, never a panic.

#![deny(missing_docs)]

pub mod base;
pub mod dpf;
pub mod error;
pub mod extension;

mod bits;
mod fixed_key;
mod puncture;
mod silent;
mod transpose;

#[cfg(test)]
mod tests;

pub use cryptogen_ring::kernels::Table;
pub use dpf::{cost, generate, Cost, DotScratch, TableBatch, TableKey, TableShape, RESERVE_COST};
pub use error::OtError;
pub use extension::{OtPair, SILENT_FROM};
