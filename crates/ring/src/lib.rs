//! Arithmetic without parties: the field `F_p`, the pseudorandom generator, local truncation, number-theoretic
//! transforms and the hot loops (`kernels`).

pub mod field;
pub mod prg;
pub mod trunc;

pub use field::{fp_from_bytes, fp_to_bytes, Fp, P};
pub use prg::{Prg, Seed};
