//! The calls to the file system that whole files and single use hang on, and no others: `real`.
//!
//! Tests of this crate put a simulated disk below them (`simulated`), which forgets what was not
//! synced and refuses the n-th call.

mod real;
#[cfg(test)]
pub(crate) mod simulated;

#[cfg(not(test))]
pub(crate) use real::*;
#[cfg(test)]
pub(crate) use simulated::layer::*;
