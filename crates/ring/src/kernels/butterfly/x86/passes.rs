//! The passes over vectors, one body for all widths: the operations by name from `$ops`.

/// `stages`: half a block, how elements are exchanged so that `u` and `v` hold halves of blocks,
/// how factors are repeated, and where the quotients of odd elements are found.
macro_rules! variant {
    ($variant:ident, $features:literal, $ops:ident, [$($forward:tt),*], [$($inverse:tt),*]) => {
        pub(in super::super) mod $variant {
            use super::$ops::*;
            use super::*;

            /// Elements of the pairs of vectors that short blocks are done on.
            const PAIR: usize = 2 * LANES;

            /// From below `16q` to canonical.
            #[inline]
            #[target_feature(enable = $features)]
            fn canonical(k: &Constants, x: V) -> V {
                below(below(below(below(x, k.q8), k.q4), k.q2), k.q)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn forward_pair(k: &Constants, u: V, v: V, w: W) -> (V, V) {
                let t = product(k, v, w);
                (add(u, t), sub(add(u, k.q2), t))
            }

            /// In and out below `4q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn inverse_pair(k: &Constants, u: V, v: V, w: W) -> (V, V) {
                (below(add(u, v), k.q4), product(k, sub(add(u, k.q4), v), w))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load_pair(pair: &[u32; PAIR]) -> (V, V) {
                let [x, y] = pair.as_chunks().0 else { unreachable!("two vectors") };
                (load(x), load(y))
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store_pair(pair: &mut [u32; PAIR], a: V, b: V) {
                let [x, y] = pair.as_chunks_mut().0 else { unreachable!("two vectors") };
                store(x, a);
                store(y, b);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn forward(
                q: &Modulus,
                values: &[u32],
                quotients: &[u32],
                a: &mut [u32],
                levels: Range<u32>,
            ) {
                if a.is_empty() {
                    return;
                }
                let (k, w) = (constants(q), (values, quotients));
                let (mut level, long) = (levels.start, long_levels(a.len(), &levels, LANES));
                // What residues are below, in multiples of q.
                let mut bound = 1;
                if long % 2 == 1 {
                    forward_level(&k, w, a, level);
                    (level, bound) = (level + 1, bound + 2);
                }
                while level < levels.start + long {
                    let correct = bound + 4 > 16;
                    match correct {
                        true => forward_levels::<true>(&k, w, a, level),
                        false => forward_levels::<false>(&k, w, a, level),
                    }
                    (level, bound) = (level + 2, if correct { 12 } else { bound + 4 });
                }
                if level < levels.end && a.len().is_power_of_two() && a.len() >= PAIR {
                    let rest = level..levels.end;
                    return forward_short(&k, w, a, rest.clone(), bound + 2 * rest.len() > 16);
                }
                if long > 0 {
                    a.as_chunks_mut().0.iter_mut().for_each(|x| store(x, canonical(&k, load(x))));
                }
                if level < levels.end {
                    portable_forward(q, values, quotients, a, level..levels.end);
                }
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn inverse(
                q: &Modulus,
                values: &[u32],
                quotients: &[u32],
                scale: Factor,
                a: &mut [u32],
                levels: Range<u32>,
            ) {
                if a.is_empty() {
                    return;
                }
                let (k, w) = (constants(q), (values, quotients));
                let long = long_levels(a.len(), &levels, LANES);
                let mut end = levels.start + long;
                if end < levels.end {
                    if a.len().is_power_of_two() && a.len() >= PAIR {
                        inverse_short(&k, w, a, end..levels.end);
                    } else {
                        portable_inverse(q, values, quotients, q.factor(1), a, end..levels.end);
                    }
                }
                while end > levels.start + 1 {
                    end -= 2;
                    inverse_levels(&k, w, a, end);
                }
                if end > levels.start {
                    inverse_level(&k, w, a, levels.start);
                }
                let (whole, rest) = a.as_chunks_mut();
                let w = factor(scale.value, scale.quotient);
                whole.iter_mut().for_each(|x| store(x, below(product(&k, load(x), w), k.q)));
                rest.iter_mut().for_each(|x| *x = q.mul_factor(*x, scale));
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn forward_level(k: &Constants, w: Tables, a: &mut [u32], level: u32) {
                let (m, half) = (1usize << level, a.len() >> (level + 1));
                let twiddles = w.0[m..2 * m].iter().zip(&w.1[m..2 * m]);
                for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(twiddles) {
                    let w = factor(value, quotient);
                    let (low, high) = block.split_at_mut(half);
                    for (x, y) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                        let (u, v) = forward_pair(k, load(x), load(y), w);
                        store(x, u);
                        store(y, v);
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn inverse_level(k: &Constants, w: Tables, a: &mut [u32], level: u32) {
                let (m, half) = (1usize << level, a.len() >> (level + 1));
                let twiddles = w.0[m..2 * m].iter().zip(&w.1[m..2 * m]);
                for (block, (&value, &quotient)) in a.chunks_exact_mut(2 * half).zip(twiddles) {
                    let w = factor(value, quotient);
                    let (low, high) = block.split_at_mut(half);
                    for (x, y) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                        let (u, v) = inverse_pair(k, load(x), load(y), w);
                        store(x, u);
                        store(y, v);
                    }
                }
            }

            /// `level` and the next; corrected: from below `16q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn forward_levels<const CORRECT: bool>(k: &Constants, w: Tables, a: &mut [u32], level: u32) {
                let quarter = a.len() >> (level + 2);
                for (block, [w, wu, wv]) in a.chunks_exact_mut(4 * quarter).zip(factors(w, level)) {
                    let [w, wu, wv] = [w, wu, wv].map(|(value, quotient)| factor(value, quotient));
                    for [x0, x1, x2, x3] in quarters(block) {
                        let (mut u0, mut u1) = (load(x0), load(x1));
                        if CORRECT {
                            (u0, u1) = (below(u0, k.q8), below(u1, k.q8));
                        }
                        let (u0, v0) = forward_pair(k, u0, load(x2), w);
                        let (u1, v1) = forward_pair(k, u1, load(x3), w);
                        let (u0, u1) = forward_pair(k, u0, u1, wu);
                        let (v0, v1) = forward_pair(k, v0, v1, wv);
                        store(x0, u0);
                        store(x1, u1);
                        store(x2, v0);
                        store(x3, v1);
                    }
                }
            }

            /// The level after `level`, then `level`; in and out below `4q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn inverse_levels(k: &Constants, w: Tables, a: &mut [u32], level: u32) {
                let quarter = a.len() >> (level + 2);
                for (block, [w, wu, wv]) in a.chunks_exact_mut(4 * quarter).zip(factors(w, level)) {
                    let [w, wu, wv] = [w, wu, wv].map(|(value, quotient)| factor(value, quotient));
                    for [x0, x1, x2, x3] in quarters(block) {
                        let (u0, u1, v0, v1) = (load(x0), load(x1), load(x2), load(x3));
                        // Sums below 8q, products below 2q.
                        let (s, t) = (add(u0, u1), add(v0, v1));
                        let u = product(k, sub(add(u0, k.q4), u1), wu);
                        let v = product(k, sub(add(v0, k.q4), v1), wv);
                        store(x0, below(below(add(s, t), k.q8), k.q4));
                        store(x1, add(u, v));
                        store(x2, product(k, sub(add(s, k.q8), t), w));
                        store(x3, product(k, sub(add(u, k.q2), v), w));
                    }
                }
            }

            /// Levels with blocks of at most a vector, and the last correction; `correct`: from
            /// below `16q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn forward_short(k: &Constants, w: Tables, a: &mut [u32], levels: Range<u32>, correct: bool) {
                let len = a.len();
                let runs = |half: usize| levels.contains(&(len / half).ilog2().wrapping_sub(1));
                // Half a block of the first level, which corrects.
                let corrects = if correct { len >> (levels.start + 1) } else { 0 };
                for (i, pair) in a.as_chunks_mut::<PAIR>().0.iter_mut().enumerate() {
                    let (mut u, mut v) = load_pair(pair);
                    $( forward_stage!(k, w, i, len, u, v, runs, corrects, $forward); )*
                    let (a, b) = interleave(canonical(k, u), canonical(k, v));
                    store_pair(pair, a, b);
                }
            }

            /// Levels with blocks of at most a vector, from canonical to below `4q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn inverse_short(k: &Constants, w: Tables, a: &mut [u32], levels: Range<u32>) {
                let len = a.len();
                let runs = |half: usize| levels.contains(&(len / half).ilog2().wrapping_sub(1));
                for (i, pair) in a.as_chunks_mut::<PAIR>().0.iter_mut().enumerate() {
                    let (a, b) = load_pair(pair);
                    let (mut u, mut v) = separate(a, b);
                    $( inverse_stage!(k, w, i, len, u, v, runs, $inverse); )*
                    store_pair(pair, u, v);
                }
            }
        }
    };
}

macro_rules! forward_stage {
    ($k:ident, $w:ident, $i:ident, $len:ident, $u:ident, $v:ident, $runs:ident, $corrects:ident,
     ($half:literal, $exchange:ident, $repeat:ident, $odd:ident)) => {
        ($u, $v) = $exchange($u, $v);
        if $runs($half) {
            if $half == $corrects {
                $u = below($u, $k.q8);
            }
            let at = $len / (2 * $half) + $i * (LANES / $half);
            let quotient = $repeat($w.1, at);
            ($u, $v) = forward_pair($k, $u, $v, ($repeat($w.0, at), quotient, $odd(quotient)));
        }
    };
}

macro_rules! inverse_stage {
    ($k:ident, $w:ident, $i:ident, $len:ident, $u:ident, $v:ident, $runs:ident,
     ($half:literal, $exchange:ident, $repeat:ident, $odd:ident)) => {
        if $runs($half) {
            let at = $len / (2 * $half) + $i * (LANES / $half);
            let quotient = $repeat($w.1, at);
            ($u, $v) = inverse_pair($k, $u, $v, ($repeat($w.0, at), quotient, $odd(quotient)));
        }
        ($u, $v) = $exchange($u, $v);
    };
}
