//! Arithmetic without parties: the field `F_p`, the pseudorandom generator, local truncation,
//! exponentials, number-theoretic transforms and the hot loops (`kernels`).

#![deny(missing_docs)]

pub mod exponential;
pub mod field;
pub mod kernels;
pub mod modulus;
pub mod ntt;
pub mod prg;
pub mod trunc;
mod wide;
mod wiped;
pub mod word;

pub use field::{fp_from_bytes, fp_to_bytes, Fp, P};
pub use modulus::Modulus;
pub use ntt::{FpNtt, Ntt, WideNtt};
pub use prg::{Prg, Seed};
pub use wide::{WideFactor, WideModulus};
pub use wiped::Wiped;
pub use word::Word;
