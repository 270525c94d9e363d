//! Noise, and how seldom it makes shares wrong. Said for the plaintext modulus `p`; for another
//! `t < 2^64` ([`crate::multiply_modulo`]) it holds with `t` in its place, and so do all bounds:
//! they take `p` for `2^64`.
//!
//! Write a ciphertext's phase as `c_0 + c_1·s = (q/t)·m + e`. Per coefficient, always (not just
//! with high probability):
//! 1. fresh: `|e| ≤ 21 + 1/2` (error, rounding of `q·m/t`);
//! 2. a combination of `K` ciphertexts with multipliers of `F` coefficients centred in `±p/2`:
//!    `|e| ≤ K·F·(p/2)·22` (wrapping modulo `t` multiplies `q`, so it adds nothing);
//! 3. the encryption of zero under the public key: `|v·e_pk + e_2·s| ≤ 21·2N`, far below one
//!    product.
//!
//! Results as shares ([`crate::shares`]) keep all of `q`. Write `δ` for the noise times `p/q`, in
//! units of the last place of the result. The owner's and the evaluator's roundings to nearest add
//! up to `m + round(δ − x) + round(x)` with `x` the fraction of `c_0·p/q`; that is `m` unless a
//! boundary lies between, which for a uniform `x` (`b·v` is part of `c_0`) has probability `E|δ| ≤
//! σ(δ)` if `|δ| ≤ 1`. `δ` is a sum of independent terms for any multipliers and any secret:
//! 1. `products` fresh errors and roundings of `q·m/t` (variance `21/2 + 1/12`) times multipliers
//!    up to `p/2`;
//! 2. `e_pk·v + e_2·s`: at most `2N` errors;
//! 3. the rounding of `c_1` to a multiple of `q/2^120` (`2^−120`, uniform in half a unit around 0
//!    since `c_1` is pseudorandom) times `s`: at most `N` of variance 1/12. It decides;
//! 4. both scalings are off by less than `2^−62`.

use cryptogen_ring::P;

use crate::error::HeError;
use crate::params::{Params, N};
use crate::shares::BITS;

/// Parameter η of the centred binomial error: the largest error.
pub const ERROR_BOUND: u64 = 21;
/// log2 of the largest noise of a sum that is allowed, in the worst case.
const NOISE_BITS: u32 = 88;

/// log2 of a bound of the noise of `products = K·F` products (steps 1–3), rounded up.
pub fn combine_noise_bound(products: u64) -> u32 {
    // in units of p/2; 1 for step 3
    let multiples = products as u128 * (ERROR_BOUND as u128 + 1) + 1;
    let half_p = P.ilog2(); // p/2 < 2^63
    half_p + (u128::BITS - multiples.leading_zeros())
}

/// The largest `K·F` of a sum: its noise stays below `2^88`.
pub fn max_products() -> u64 {
    let bits = NOISE_BITS - P.ilog2();
    ((1u64 << bits) - 2) / (ERROR_BOUND + 1)
}

/// Refuses sums of more.
pub fn check_products(products: u64) -> Result<(), HeError> {
    if products > max_products() {
        return Err(HeError::TooManyProducts { expected: max_products(), actual: products });
    }
    Ok(())
}

/// The probability, at most, that any of the `N` coefficients of a result's shares modulo `t` is
/// off by one, after `products = K·F` products. In slots a single wrong coefficient makes all of
/// them wrong.
pub fn share_failure(params: &Params, t: u64, products: u64) -> f64 {
    let error = ERROR_BOUND as f64 / 2.0;
    let per_q = t as f64 * (-params.log_q()).exp2();
    let products = products as f64 * (t as f64 / 2.0).powi(2) * (error + 1.0 / 12.0);
    let zero = 2.0 * N as f64 * error;
    let rounding = N as f64 / 12.0 * (t as f64 * (-(BITS as f64)).exp2()).powi(2);
    let deviation = ((products + zero) * per_q * per_q + rounding).sqrt();
    N as f64 * (deviation + (-62f64).exp2())
}

#[cfg(test)]
mod tests {
    use cryptogen_ring::exponential::PRIMES;

    use super::*;
    use crate::params::ParamSet;

    #[test]
    fn every_allowed_computation_gives_exact_shares() {
        let params = Params::get(ParamSet::N8192Q196);
        assert!(share_failure(params, P, max_products()).log2() < -38.0);
        // The rounding of c_1 decides: 2^13 coefficients, each 2^−56·sqrt(2^13/12) at most.
        assert!((share_failure(params, P, 1).log2() - (13.0 - 56.0 + 4.71)).abs() < 0.01);
        assert!(share_failure(params, P, 1 << 36).log2() > -37.0);
        // Two of the primes of exponentials are smaller, none is larger in this precision.
        for t in PRIMES {
            let bits = share_failure(params, t, N as u64).log2();
            assert!(
                bits < -38.0 && (bits - (13.0 - 56.0 + 4.71 + (t as f64).log2() - 64.0)).abs() < 0.05,
                "{t}: {bits}"
            );
        }
    }

    #[test]
    fn sums_are_as_large_as_their_noise_allows() {
        assert_eq!(combine_noise_bound(max_products()), NOISE_BITS);
        assert_eq!(combine_noise_bound(max_products() + 1), NOISE_BITS + 1);
        assert!(max_products() >= 8192 * 128);
        assert!(check_products(max_products() + 1).is_err());
        // Step 3 is below one unit of p/2.
        assert!(ERROR_BOUND * (2 * N as u64 + 1) + 1 < P / 2);
    }
}
