//! The hot loops. Each has a safe portable form. Where LLVM makes good vectors of it, that is
//! compiled three times: for AVX-512, for AVX2 and portably; elsewhere the first two are written
//! with intrinsics (`vector` names them for both widths). The best one the machine can run is
//! chosen at each call (a cached look-up). All variants give equal results.
//!
//! The only `unsafe` of the workspace is here: calling a function compiled for a feature that was
//! just detected, and loads and stores of vectors.
#![allow(unsafe_code)]

mod accept;
mod aes;
mod butterfly;
mod carryless;
mod chain;
mod counter;
pub(crate) mod field_transform;
mod gemm;
mod matvec;
mod panel;
mod pointwise;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vector;

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected;
use std::sync::OnceLock;

pub use self::aes::{FixedKey, FixedKeys, Keys, Table, MAX_PAIRS, MAX_TABLES, SPARE, TREES};
use crate::field::Fp;
use crate::modulus::{Factor, Modulus};
pub use accept::{accept, accept_on};
pub use carryless::{carryless_multiply_add, carryless_multiply_add_on, carryless_reduce};
pub use chain::CHAIN;
pub use counter::CounterKey;
pub use matvec::{SplitInput, MAX_D_IN};
pub use panel::{left_line, right_line, BLOCK};

/// Which compilation of the kernels runs.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the target guarantees.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors.
    Avx512,
}

/// The widest variant that [`Isa::best`] may return.
static LIMIT: AtomicU8 = AtomicU8::new(Isa::Avx512 as u8);

impl Isa {
    const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The variants this machine can run, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The widest variant this machine can run, or [`Isa::limit`] allows.
    #[inline]
    pub fn best() -> Isa {
        Isa::detected().min(Isa::ALL[LIMIT.load(Ordering::Relaxed) as usize])
    }

    /// From here on nothing wider than `isa` is chosen, in the whole process: to measure the
    /// others, or to rule a kernel out.
    pub fn limit(isa: Isa) {
        LIMIT.store(isa as u8, Ordering::Relaxed);
    }

    #[inline]
    fn is_available(self) -> bool {
        self <= Isa::detected()
    }

    /// The widest variant this machine can run.
    #[inline]
    fn detected() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw");
                return if wide { Isa::Avx512 } else { Isa::Avx2 };
            }
            Isa::Portable
        })
    }
}

/// Defines `name` (best variant) and `name_on` (a given one) from a safe inlined body per variant.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $on:ident ($($arg:ident : $ty:ty),* $(,)?),
     $portable:expr, $avx2:expr, $avx512:expr) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        pub fn $name($($arg: $ty),*) {
            $on(Isa::best(), $($arg),*)
        }

        /// The same by a given variant (portable if the machine lacks it), for tests and
        /// measurements.
        #[allow(clippy::too_many_arguments)]
        pub fn $on(isa: Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) { $avx2($($arg),*) }
                #[target_feature(enable = "avx2,avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) { $avx512($($arg),*) }
                match isa {
                    // SAFETY: the features were detected on this machine.
                    Isa::Avx512 if isa.is_available() => return unsafe { avx512($($arg),*) },
                    Isa::Avx2 if isa.is_available() => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            $portable($($arg),*)
        }
    };
}

kernel! {
    /// `out[m·stride + c] += Σ_k w[m][k]·x[k][c] mod q`: `w` is `[M][K]` row-major with
    /// `K = x.len()`, the rows `x[k]` have equal length `C ≤ stride`, `out` holds `M` rows at
    /// distance `stride`. All residues canonical.
    gemm_mod, gemm_mod_on(modulus: &Modulus, w: &[u32], x: &[&[u32]], out: &mut [u32], stride: usize),
    gemm::gemm::<8>, gemm::avx2::gemm, gemm::avx512::gemm
}

kernel! {
    /// `acc[i] += (acc[i] mod 2^32)·w mod 2^64`, `n` times: multiply-adds in registers and nothing
    /// else, which benchmarks measure the others against.
    multiply_add_chain, multiply_add_chain_on(acc: &mut [u64; CHAIN], w: u32, n: usize),
    chain::multiply_add::<3, 8>, chain::multiply_add::<12, 4>, chain::multiply_add_avx512
}

kernel! {
    /// `out[i] += constant + Σ_j w[j]·x[j][i] mod q`: at most 15 rows of any 32-bit numbers with
    /// canonical weights.
    weighted_sum, weighted_sum_on(modulus: &Modulus, w: &[u32], x: &[&[u32]], constant: u32, out: &mut [u32]),
    gemm::weighted_sum::<16>, gemm::avx2::weighted_sum, gemm::avx512::weighted_sum
}

kernel! {
    /// `out[i] += x[i]·y[i] mod q`, canonical residues.
    multiply_add, multiply_add_on(modulus: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]),
    pointwise::multiply_add, pointwise::avx2::multiply_add, pointwise::avx512::multiply_add
}

kernel! {
    /// `out[i] = x[i]·y[i] mod q`, canonical residues.
    multiply, multiply_on(modulus: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]),
    pointwise::multiply, pointwise::avx2::multiply, pointwise::avx512::multiply
}

kernel! {
    /// `out[i] = (x[i] as a number in (−t/2, t/2)) mod q`, `x` canonical modulo the odd `t`.
    centred_residues, centred_residues_on(modulus: &Modulus, t: u64, x: &[u64], out: &mut [u32]),
    pointwise::centred_residues, pointwise::avx2::centred_residues, pointwise::avx512::centred_residues
}

kernel! {
    /// `out[i] = (out[i] − (x[i] as a number in (−l/2, l/2)))·w mod q`, `x` canonical modulo
    /// `last < 2q`: one step of dropping the limb `last` with rounding, for `w = last^{−1} mod q`.
    drop_limb, drop_limb_on(modulus: &Modulus, last: &Modulus, w: Factor, x: &[u32], out: &mut [u32]),
    pointwise::drop_limb, pointwise::avx2::drop_limb, pointwise::avx512::drop_limb
}

kernel! {
    /// `out[k][c] = Σ_i x[i][c]·y[k][i][c] mod q` for `k = 0, 1` over any number of rows, canonical
    /// residues.
    multiply_sum, multiply_sum_on(modulus: &Modulus, x: &[&[u32]], y: [&[&[u32]]; 2], out: [&mut [u32]; 2]),
    gemm::multiply_sum, gemm::avx2::multiply_sum, gemm::avx512::multiply_sum
}

kernel! {
    /// `out[l][r][c] = Σ_k left[l][k][c]·right[r][k][c] mod q` for `k < depth.0`, canonical
    /// residues: a panel is `[blocks][lines][BLOCK]` with the line of (row, k) given by
    /// [`left_line`] and [`right_line`]. Operands come with their rows; the right one may be deeper
    /// (`depth.1`).
    panel_product, panel_product_on(modulus: &Modulus, left: (&[u32], usize), right: (&[u32], usize), depth: (usize, usize),
        out: &mut [u32]),
    panel::portable, panel::avx2, panel::avx512
}

kernel! {
    /// `out[c] = round(Σ_i w[i]·x[i][c] / 2^shift)`, the number itself, not a residue: at most 7
    /// rows below `2^28` or 8 below `2^26`, `shift ≤ 60`, so that nothing overflows 64 bits; the
    /// result must fit 32.
    rounded_sum, rounded_sum_on(w: &[u32], x: &[&[u32]], shift: u32, out: &mut [u32]),
    gemm::rounded_sum::<8>, gemm::avx2::rounded_sum, gemm::avx512::rounded_sum
}

kernel! {
    /// `out[i] = (x[i] as a number in (−l/2, l/2)) mod q`, `x` canonical modulo `last`.
    lift, lift_on(modulus: &Modulus, last: &Modulus, x: &[u32], out: &mut [u32]),
    pointwise::lift, pointwise::avx2::lift, pointwise::avx512::lift
}

kernel! {
    /// The sum of the lowest `η` bits of each word minus that of the next `η`, plus `η`; `η ≤ 32`.
    binomial, binomial_on(eta: u32, words: &[u64], out: &mut [u32]),
    pointwise::binomial, pointwise::binomial, pointwise::binomial
}

kernel! {
    /// `out[i] = (out[i] − x[i])·w mod q`, canonical residues.
    subtract_scale, subtract_scale_on(modulus: &Modulus, w: Factor, x: &[u32], out: &mut [u32]),
    pointwise::subtract_scale, pointwise::avx2::subtract_scale, pointwise::avx512::subtract_scale
}

kernel! {
    /// `out[i] = x[from[i]]`; fast where aligned blocks of 16 go to such blocks, as automorphisms
    /// of the transform domain do.
    permute, permute_on(from: &[u32], x: &[u32], out: &mut [u32]),
    pointwise::permute, pointwise::avx2::permute, pointwise::avx512::permute
}

kernel! {
    /// The levels of the forward transform; see [`crate::Ntt::forward`].
    ntt_forward, ntt_forward_on(modulus: &Modulus, values: &[u32], quotients: &[u32], a: &mut [u32], levels: Range<u32>),
    butterfly::forward, butterfly::avx2::forward, butterfly::avx512::forward
}

kernel! {
    /// The levels of the inverse transform, times `scale`; see [`crate::Ntt::inverse`].
    ntt_inverse, ntt_inverse_on(modulus: &Modulus, values: &[u32], quotients: &[u32], scale: Factor, a: &mut [u32],
        levels: Range<u32>),
    butterfly::inverse, butterfly::avx2::inverse, butterfly::avx512::inverse
}

kernel! {
    /// The levels of the forward transform over `F_p`; see [`crate::FpNtt::forward`].
    fp_ntt_forward, fp_ntt_forward_on(table: &[Fp], a: &mut [Fp], levels: Range<u32>),
    field_transform::forward, field_transform::forward, field_transform::forward_avx512
}

kernel! {
    /// The levels of the inverse transform over `F_p`, times `scale`; see
    /// [`crate::FpNtt::inverse`].
    fp_ntt_inverse, fp_ntt_inverse_on(table: &[Fp], scale: Fp, a: &mut [Fp], levels: Range<u32>),
    field_transform::inverse, field_transform::inverse, field_transform::inverse_avx512
}

kernel! {
    /// `out[o][t] = Σ_i w[o][i]·x[t][i] mod p`; `w` is `[rows][d_in]` row-major, `out` `[rows][T]`.
    /// Each row of `w` is read once per four inputs. Callers split `w` and `out` by rows to use
    /// several cores.
    matvec_i16_rows, matvec_i16_rows_on(w: &[i16], x: &SplitInput, out: &mut [Fp]),
    matvec::rows, matvec::rows, matvec::rows
}

kernel! {
    /// The same for weights of 8 bits.
    matvec_i8_rows, matvec_i8_rows_on(w: &[i8], x: &SplitInput, out: &mut [Fp]),
    matvec::rows, matvec::rows, matvec::rows
}

/// The canonical representatives.
pub fn integers(x: &[Fp]) -> &[u64] {
    // SAFETY: `Fp` is a transparent `u64`.
    unsafe { core::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}

/// `out[t][o] = Σ_i w[o][i]·x[t][i] mod p` on one core; `w` is `[d_out][d_in]`, `x` `[T][d_in]`,
/// `out` `[T][d_out]`, row-major.
pub fn matvec_i16(w: &[i16], d_in: usize, x: &[Fp], out: &mut [Fp]) {
    let input = SplitInput::new(x, d_in);
    let (d_out, t) = (w.len() / d_in, input.count());
    let mut columns = vec![Fp::ZERO; d_out * t];
    matvec_i16_rows(w, &input, &mut columns);
    for (o, row) in columns.chunks_exact(t.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(t, &y)| out[t * d_out + o] = y);
    }
}
