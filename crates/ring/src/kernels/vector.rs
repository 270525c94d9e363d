//! What the kernels need of vectors, 512 and 256 bits wide, under the same names: their bodies are
//! written once, in macros.

use core::arch::x86_64::*;

use crate::modulus::Modulus;

/// Arithmetic modulo a prime below `2^28` on vectors of `$ops`.
macro_rules! arithmetic {
    ($features:literal) => {
        /// A prime and its multiples, and the constants of its reductions.
        pub(in super::super) struct Constants {
            pub q: V,
            pub q2: V,
            pub q4: V,
            pub q8: V,
            wrap: W,
            mu: V,
        }

        /// Factors: values, quotients, and the quotients of odd elements in even ones.
        pub(in super::super) type W = (V, V, V);

        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn constants(modulus: &Modulus) -> Constants {
            let (q, wrap) = (modulus.value(), modulus.wrap());
            Constants {
                q: splat(q),
                q2: splat(2 * q),
                q4: splat(4 * q),
                q8: splat(8 * q),
                wrap: factor(wrap.value, wrap.quotient),
                mu: splat(modulus.mu()),
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn factor(value: u32, quotient: u32) -> W {
            (splat(value), splat(quotient), splat(quotient))
        }

        /// `x·w` below `2q`, any `x`.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn product(k: &Constants, x: V, w: W) -> V {
            sub(low(x, w.0), low(high(x, w.1, w.2), k.q))
        }

        /// The smaller of `x` and `x − m` as unsigned numbers.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn below(x: V, m: V) -> V {
            min(x, sub(x, m))
        }

        /// 64-bit sums modulo the prime, in the order of the elements, below `4q`: see
        /// [`Modulus::reduce`].
        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn reduce(k: &Constants, even: V, odd: V) -> V {
            reduce_halves(k, low_halves(even, odd), high_halves(even, odd))
        }

        /// `lows + 2^32·highs` modulo the prime, below `4q`.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn reduce_halves(k: &Constants, lows: V, highs: V) -> V {
            add(product(k, highs, k.wrap), remainder(k, lows))
        }

        /// `x` modulo the prime, below `2q`, any `x`.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in super::super) fn remainder(k: &Constants, x: V) -> V {
            sub(x, low(high(x, k.mu, k.mu), k.q))
        }
    };
}

pub(super) mod narrow;
pub(super) mod wide;
