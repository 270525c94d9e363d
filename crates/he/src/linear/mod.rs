//! `W·x` on the key owner's encrypted masks, for any number of tokens at once, as additive shares.
//!
//! **Function.** The key owner holds `x` `[T][d_in]` over `F_p`, the evaluator integers `W`
//! `[d_out][d_in]` of 16 bits; they get shares `y_c + y_s = W·x + ε` mod `p`, `[T][d_out]`, with
//! `|ε| ≤` [`Packing::error_bound`]. Values are coefficients, not slots: an error of a few units
//! in the last place stays one, which allows a small modulus ([`Params`]) and asks of the caller
//! that it truncates afterwards.
//! **How.** Every ciphertext is shared out among `T` tokens, `f_in` inputs and `f_out` outputs,
//! `T·f_in·f_out = N` (input–output packing: Huang–Lu–Hong–Ding, "Cheetah", USENIX Security 2022,
//! §4). With `Y = X^T`,
//! * `R_k = Σ_{i<f_in} Σ_{τ<T} x[τ][k·f_in + i]·Y^i·X^τ` is encrypted for input group `k`;
//! * `W_{m,k} = Σ_{j<f_out} Σ_{i<f_in} W[m·f_out + j][k·f_in + i]·Y^{j·f_in + f_in − 1 − i}`;
//! * `Σ_k R_k·W_{m,k}` holds output `m·f_out + j` of token `τ` at `Y^{j·f_in + f_in − 1}·X^τ`: what
//!   wraps around lands below `Y^{f_in − 1}`, the other coefficients mix neighbouring outputs and
//!   are nobody's.
//!
//! The multipliers lie in the subring of `Y`, so their transform has `f_in·f_out` points and is
//! made on the way, and a product is one scalar for each block of `T` values.
//! **Hides.** As [`crate::shares`] says: the evaluator sees encryptions, the owner of the key sees
//! pseudorandom polynomials whatever it sent.
//! **Cost.** `6·d_in·d_out` multiply-adds per token whatever `T` is; [`Packing`] counts the bytes.

mod evaluate;
mod keys;
mod packing;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use crate::params::check;
use crate::ring::Ring;
use crate::shares::Conversion;

pub use evaluate::{evaluate, Inputs};
pub use keys::SecretKey;
pub use packing::Packing;

/// log2 of the ring dimension.
pub const LOG_N: u32 = 12;
/// Ring dimension.
pub const N: usize = 1 << LOG_N;
/// Primes of `q`.
pub const LIMBS: usize = 3;
/// Bits of a coefficient of `c_1` on the wire. Its rounding is the larger part of `ε`: 15 units of
/// the last place in standard deviation, where 70 bits would leave a quarter of one and cost 9 %
/// more. Half a word is all that the format needs.
pub(crate) const BITS: u32 = 64;
/// Bytes of an encrypted input group.
pub const INPUT_BYTES: usize = 32 + N * 28 * LIMBS / 8;
/// Bytes of a result.
pub const OUTPUT_BYTES: usize = N * BITS as usize / 8;

/// The first three primes of the other sets: `≡ 1 mod 2^14`.
pub(crate) const PRIMES: [u32; LIMBS] = [268369921, 268271617, 268238849];

/// The parameter set `N4096Q84`: `N = 4096`, `log2 q = 84`, ternary secret, centred binomial error
/// with `η = 21`, `t = p`. Three primes are a quarter less work than four, which would make only
/// the smaller part of `ε` vanish. Evidence is in `crates/he/params/`.
pub struct Params {
    ring: Ring,
}

impl Params {
    /// The one instance.
    pub fn get() -> &'static Params {
        static PARAMS: OnceLock<Params> = OnceLock::new();
        PARAMS.get_or_init(|| {
            check(N, &PRIMES).expect("the named set passes its own checks");
            let conversion = Conversion::new(&PRIMES, BITS, LIMBS);
            Params { ring: Ring::new("N4096Q84", LOG_N, &PRIMES, conversion) }
        })
    }

    /// The ring of keys and ciphertexts.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}
