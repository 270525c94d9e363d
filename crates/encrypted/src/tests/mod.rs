//! The five tests of every protocol (see the tests of `cryptogen-protocols`) for the two on
//! ciphertexts.

mod attention;
mod keys;
mod linear;
mod session;

use cryptogen_protocols::testing::{channel, clear, elements, rng, sessions, tiny};
