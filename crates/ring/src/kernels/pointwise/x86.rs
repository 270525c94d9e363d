//! The vector variants: 256 and 512 bits from one body. What does not fill a vector goes to the
//! portable one.

use super::super::vector::{narrow, wide};
use super::{Factor, Modulus};

macro_rules! variant {
    ($variant:ident, $features:literal, $ops:ident) => {
        pub(in super::super) mod $variant {
            use super::$ops::*;
            use super::*;

            /// From below `4q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn canonical(k: &Constants, x: V) -> V {
                below(below(x, k.q2), k.q)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn products(k: &Constants, x: &[u32; LANES], y: &[u32; LANES]) -> V {
                let (x, y) = (load(x), load(y));
                reduce(k, even_products(x, y), even_products(odd_to_even(x), odd_to_even(y)))
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn multiply_add(q: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]) {
                assert!(x.len() == out.len() && y.len() == out.len(), "lengths disagree");
                let k = constants(q);
                let ((x, x_rest), (y, y_rest), (out, rest)) =
                    (x.as_chunks(), y.as_chunks(), out.as_chunks_mut());
                for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
                    store(o, canonical(&k, below(add(load(o), products(&k, x, y)), k.q4)));
                }
                super::super::multiply_add(q, x_rest, y_rest, rest);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn multiply(q: &Modulus, x: &[u32], y: &[u32], out: &mut [u32]) {
                assert!(x.len() == out.len() && y.len() == out.len(), "lengths disagree");
                let k = constants(q);
                let ((x, x_rest), (y, y_rest), (out, rest)) =
                    (x.as_chunks(), y.as_chunks(), out.as_chunks_mut());
                for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
                    store(o, canonical(&k, products(&k, x, y)));
                }
                super::super::multiply(q, x_rest, y_rest, rest);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn centred_residues(q: &Modulus, t: u64, x: &[u64], out: &mut [u32]) {
                assert!(x.len() == out.len(), "lengths disagree");
                let (k, t_mod) = (constants(q), splat(q.reduce(t)));
                let ((x, x_rest), (out, rest)) = (x.as_chunks::<LANES>(), out.as_chunks_mut());
                for (o, x) in out.iter_mut().zip(x) {
                    let [a, b] = load_wide(x);
                    let (lows, highs) = separate(a, b);
                    let residue = canonical(&k, reduce_halves(&k, lows, highs));
                    // t is subtracted from the upper half.
                    let upper = where_greater64(a, b, t / 2, t_mod);
                    store(o, below(sub(add(residue, k.q), upper), k.q));
                }
                super::super::centred_residues(q, t, x_rest, rest);
            }

            /// `x` in `(−l/2, l/2)` as a number below `3q`, for `x < 2q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn centred(x: V, half: V, minus_l: V) -> V {
                add(x, where_greater(x, half, minus_l))
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn drop_limb(
                q: &Modulus,
                last: &Modulus,
                w: Factor,
                x: &[u32],
                out: &mut [u32],
            ) {
                assert!(x.len() == out.len(), "lengths disagree");
                let l = last.value();
                assert!(l < 2 * q.value(), "limbs differ by a factor of two");
                let (k, w_all) = (constants(q), factor(w.value, w.quotient));
                let (half, minus_l) = (splat(l / 2), splat(q.neg(q.below_q(l))));
                let ((x, x_rest), (out, rest)) = (x.as_chunks(), out.as_chunks_mut());
                for (o, x) in out.iter_mut().zip(x) {
                    let difference = sub(add(load(o), k.q4), centred(load(x), half, minus_l));
                    store(o, below(product(&k, difference, w_all), k.q));
                }
                super::super::drop_limb(q, last, w, x_rest, rest);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn lift(q: &Modulus, last: &Modulus, x: &[u32], out: &mut [u32]) {
                assert!(x.len() == out.len(), "lengths disagree");
                let (l, k) = (last.value(), constants(q));
                let (half, minus_l) = (splat(l / 2), splat(q.neg(q.reduce(l as u64))));
                let ((x, x_rest), (out, rest)) = (x.as_chunks(), out.as_chunks_mut());
                if l < 2 * q.value() {
                    for (o, x) in out.iter_mut().zip(x) {
                        store(o, canonical(&k, centred(load(x), half, minus_l)));
                    }
                } else {
                    for (o, x) in out.iter_mut().zip(x) {
                        let x = load(x);
                        let sum = add(remainder(&k, x), where_greater(x, half, minus_l));
                        store(o, canonical(&k, sum));
                    }
                }
                super::super::lift(q, last, x_rest, rest);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn subtract_scale(
                q: &Modulus,
                w: Factor,
                x: &[u32],
                out: &mut [u32],
            ) {
                assert!(x.len() == out.len(), "lengths disagree");
                let (k, w_all) = (constants(q), factor(w.value, w.quotient));
                let ((x, x_rest), (out, rest)) = (x.as_chunks(), out.as_chunks_mut());
                for (o, x) in out.iter_mut().zip(x) {
                    let difference = sub(add(load(o), k.q), load(x));
                    store(o, below(product(&k, difference, w_all), k.q));
                }
                super::super::subtract_scale(q, w, x_rest, rest);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn permute(from: &[u32], x: &[u32], out: &mut [u32]) {
                assert!(from.len() == out.len(), "lengths disagree");
                let ((from, from_rest), (out, rest)) = (from.as_chunks::<LANES>(), out.as_chunks_mut());
                for (from, out) in from.iter().zip(out) {
                    let first = from[0] as usize / LANES * LANES;
                    let moved = match x[first..].first_chunk() {
                        Some(block) => permuted(load(from), first as u32, load(block)),
                        None => None,
                    };
                    match moved {
                        Some(moved) => store(out, moved),
                        None => super::super::permute(from, x, out),
                    }
                }
                super::super::permute(from_rest, x, rest);
            }
        }
    };
}

variant!(avx512, "avx512f", wide);
variant!(avx2, "avx2", narrow);
