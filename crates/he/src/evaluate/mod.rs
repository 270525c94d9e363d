//! Computing on ciphertexts online, for the two protocols of the CryptoGen paper: BFV with SIMD
//! slots, rotations and products.
//!
//! BFV (Fan–Vercauteren, ePrint 2012/144) over `R_q = Z_q[X]/(X^N + 1)`, `N = 8192`, plaintext
//! modulus `t = p`, so a slot is an element of the share field and conversions between ciphertexts
//! and shares are exact. `q` is a product of eight 24-bit primes, one 22-bit prime serves key
//! switching: `log2(q·P) = 214.4`, 128 bits by the lattice-estimator. That is room for exactly one
//! multiplication (by a plaintext or a ciphertext) plus flooding; every non-linear function
//! re-encrypts anyway. See docs/decisions/0008.
//!
//! Every operation but those on panels runs on the calling thread; callers run independent ones
//! side by side.
//! Roles: the client owns [`SecretKey`]; the server computes with [`Evaluator`] and returns
//! [`MaskedCiphertext`]s.

mod ciphertext;
mod context;
mod decrypt;
mod encode;
mod evaluator;
mod keys;
mod lanes;
mod mask;
mod noise;
mod panel;
mod product;
mod sample;
mod switch;
#[cfg(test)]
mod tests;

pub use ciphertext::{Ciphertext, SeededCiphertext};
pub use context::Context;
pub use encode::Plaintext;
pub use evaluator::{Evaluator, Operations};
pub use keys::{EvaluationKeys, SecretKey};
pub use lanes::Lanes;
pub use mask::MaskedCiphertext;
pub use noise::Noise;
pub use panel::{CiphertextPanel, PlaintextPanel};
pub use product::{Left, Right};
pub use switch::Hoisted;

pub use crate::params::N;
/// Slots of one of the two rows; rotations are cyclic within a row.
pub const ROW: usize = N / 2;
