//! What two parties need before they can compute anything: a protected connection ([`session`]),
//! single-use material on disk ([`store`]), both in one process only ([`Home`]), and files that are
//! replaced whole ([`durable`]).
//!
//! No protocol lives here. Errors carry what was expected and what came, never a secret.

#![deny(missing_docs)]

pub mod durable;
mod files;
mod process;
pub mod session;
pub mod store;

pub use process::Home;
pub use session::{Connection, SessionError};
pub use store::{Store, StoreError};
