//! How tokens, inputs and outputs share a ciphertext.

use core::ops::Range;

use cryptogen_ring::P;

use super::{Params, BITS, INPUT_BYTES, LOG_N, N, OUTPUT_BYTES};
use crate::error::HeError;
use crate::noise::ERROR_BOUND;

/// The shapes of one product of a matrix `[d_out][d_in]` and `tokens` vectors. Matrices with one
/// input are stacked and are one matrix here.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    tokens: usize,
    d_in: usize,
    d_out: usize,
    log_t: u32,
    log_f_in: u32,
}

impl Packing {
    /// The largest `d_in` and `d_out`.
    pub const MOST: usize = 1 << 20;

    /// `f_in` inputs and as many outputs as there is room for in each ciphertext. Errors: tokens
    /// outside of 1 to 4096, a dimension outside of 1 to 2^20, an `f_in` that is not a power of two
    /// or too large for so many tokens.
    pub fn new(tokens: usize, d_in: usize, d_out: usize, f_in: usize) -> Result<Packing, HeError> {
        let within = |what, most: usize, actual: usize| match (1..=most).contains(&actual) {
            true => Ok(()),
            false => Err(HeError::Packing { what, most, actual }),
        };
        within("tokens", N, tokens)?;
        within("inputs", Packing::MOST, d_in)?;
        within("outputs", Packing::MOST, d_out)?;
        let padded = tokens.next_power_of_two();
        within("inputs in a ciphertext, a power of two", N / padded, f_in)?;
        if !f_in.is_power_of_two() {
            return Err(HeError::Packing {
                what: "inputs in a ciphertext, a power of two",
                most: N / padded,
                actual: f_in,
            });
        }
        Ok(Packing { tokens, d_in, d_out, log_t: padded.ilog2(), log_f_in: f_in.ilog2() })
    }

    /// The packing of the lowest price, which is bytes in both directions: `d_in·f_out·10.5` up and
    /// `d_out·f_in·8` down for each token. Multiply-adds do not depend on the packing. What each
    /// ciphertext costs besides, 0.2 ms for an input and as much for a result, both parties
    /// together, goes with its bytes. Errors: as [`Packing::new`].
    pub fn choose(tokens: usize, d_in: usize, d_out: usize) -> Result<Packing, HeError> {
        let first = Packing::new(tokens, d_in, d_out, 1)?;
        let all = (0..=LOG_N - first.log_t).map(|log_f_in| Packing { log_f_in, ..first });
        Ok(all.min_by_key(|p| p.input_bytes() + p.output_bytes()).unwrap_or(first))
    }

    /// `T`, before padding.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// `d_in`.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// `d_out`.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// Tokens rounded up to a power of two.
    pub fn padded(&self) -> usize {
        1 << self.log_t
    }

    /// Inputs in a ciphertext.
    pub fn f_in(&self) -> usize {
        1 << self.log_f_in
    }

    /// Outputs in a ciphertext.
    pub fn f_out(&self) -> usize {
        N >> (self.log_t + self.log_f_in)
    }

    /// Input groups: ciphertexts from the key owner.
    pub fn inputs(&self) -> usize {
        self.d_in.div_ceil(self.f_in())
    }

    /// Output groups: results for the key owner.
    pub fn outputs(&self) -> usize {
        self.d_out.div_ceil(self.f_out())
    }

    /// Bytes of all inputs.
    pub fn input_bytes(&self) -> usize {
        self.inputs() * INPUT_BYTES
    }

    /// Bytes of all results.
    pub fn output_bytes(&self) -> usize {
        self.outputs() * OUTPUT_BYTES
    }

    /// The columns of the matrix, which are inputs, that a range of input groups holds. Error: a
    /// range that is not within the groups.
    pub fn columns(&self, inputs: &Range<usize>) -> Result<Range<usize>, HeError> {
        check_groups("input groups", inputs, self.inputs())?;
        Ok(inputs.start * self.f_in()..(inputs.end * self.f_in()).min(self.d_in))
    }

    /// The rows of the matrix that a range of output groups holds. Error: a range that is not
    /// within the groups.
    pub fn rows(&self, outputs: &Range<usize>) -> Result<Range<usize>, HeError> {
        check_groups("output groups", outputs, self.outputs())?;
        Ok(outputs.start * self.f_out()..(outputs.end * self.f_out()).min(self.d_out))
    }

    /// A bound of `|ε|`, in units of the last place, that a value exceeds with probability below
    /// `2^−45`, for any weights of 16 bits and any secret.
    ///
    /// The noise of a result coefficient is a sum of independent terms: fresh errors and roundings
    /// of `q·m/p` (variance at most `21/2 + 1/12`) times `d_in·f_out` weights up to `2^15` (all
    /// `f_out` outputs of a multiplier meet every coefficient); `e_pk·v + e_2·s`, at most `2N`
    /// errors; and the rounding of `c_1`, uniform within half a unit of `q/2^64` since `c_1` is
    /// pseudorandom, times a ternary secret, at most `N` of variance `1/12`. Binomial and uniform
    /// terms are sub-Gaussian with their variance, so 8 deviations are exceeded with probability
    /// `2·e^{−32}`. Both roundings to shares add one.
    pub fn error_bound(&self) -> u64 {
        (8.0 * self.error_deviation()).ceil() as u64 + 1
    }

    /// The square root of the variance's bound, in units of the last place.
    pub(super) fn error_deviation(&self) -> f64 {
        let ring = Params::get().ring();
        let q: f64 = ring.moduli().map(|q| q.value() as f64).product();
        let error = ERROR_BOUND as f64 / 2.0;
        let products = (self.d_in * self.f_out()) as f64 * 2f64.powi(30) * (error + 1.0 / 12.0);
        let noise = products + 2.0 * N as f64 * error;
        let rounding = N as f64 / 12.0 * (P as f64 / 2f64.powi(BITS as i32)).powi(2);
        (noise * (P as f64 / q).powi(2) + rounding).sqrt()
    }

    /// log2 of the transform of the multipliers.
    pub(crate) fn levels(&self) -> u32 {
        LOG_N - self.log_t
    }

    /// Coefficient of a result that holds output `j` of the group for token 0.
    pub(super) fn coefficient(&self, j: usize) -> usize {
        (j * self.f_in() + self.f_in() - 1) << self.log_t
    }
}

/// Refuses ranges that are not within the groups of a packing.
pub(super) fn check_groups(what: &'static str, range: &Range<usize>, most: usize) -> Result<(), HeError> {
    match range.start <= range.end && range.end <= most {
        true => Ok(()),
        false => Err(HeError::Packing { what, most, actual: range.end.max(range.start) }),
    }
}

/// `[rows][columns]` → `[columns][rows]`, only the first rows.
pub(super) fn transposed<T: Copy>(x: &[T], columns: usize, rows: usize) -> Vec<T> {
    (0..columns * rows).map(|i| x[i % rows * columns + i / rows]).collect()
}
