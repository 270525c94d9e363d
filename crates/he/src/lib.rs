//! Homomorphic encryption of field elements, for preprocessing: the key owner encrypts random
//! masks, the other party computes linear combinations, and both get shares of these.
//!
//! The scheme is BFV (Fan–Vercauteren, ePrint 2012/144) over `R_q = Z_q[X]/(X^N + 1)`, `N = 8192`,
//! with the plaintext modulus `t = p` of the share field, or another prime of exponentials
//! ([`multiply_modulo`]), in residue number system. Only
//! ciphertext × plaintext products are needed, so there are no relinearisation or rotation keys.
//! [`Layout`] says what a plaintext multiplier can do.
//!
//! A combination becomes additive shares, hidden by masks as wide as the modulus ([`shares`], with
//! [`opening`] where the evaluator's shares are released later). [`linear`] has products with
//! integer matrices for many tokens at once, in a ring of its own; [`evaluate`] what the paper's
//! protocols compute online.

#![deny(missing_docs)]

mod codec;
mod combine;
#[cfg(test)]
mod deviating;
mod encode;
mod encrypt;
mod error;
pub mod evaluate;
mod keys;
pub mod linear;
mod modulo;
pub mod noise;
pub mod opening;
mod params;
mod ring;
mod sample;
pub mod shares;
#[cfg(test)]
mod tests;

pub use combine::Combiner;
pub use encrypt::{Ciphertext, SeededCiphertext};
pub use error::HeError;
pub use keys::SecretKey;
pub use modulo::multiply_modulo;
pub use params::{Layout, ParamSet, Params, LIMBS, LOG_N, N};
pub use ring::Ring;
