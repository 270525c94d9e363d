//! The vector variants: 256 and 512 bits from one body. LLVM widens every operand of a product with
//! a shuffle and spills the tile; here even and odd columns have accumulators of their own, and a
//! shift brings the odd ones to their place.

use super::super::vector::{narrow, wide};
use super::{gemm as portable_gemm, Modulus, BLOCK, DEPTH, TILES};

fn vectors<const LANES: usize>(row: &[u32], range: core::ops::Range<usize>) -> &[[u32; LANES]] {
    row[range].as_chunks().0
}

macro_rules! variant {
    ($variant:ident, $features:literal, $ops:ident, $tile:literal) => {
        pub(in super::super) mod $variant {
            use super::$ops::*;
            use super::*;

            /// Rows of weights that meet a vector of columns in registers.
            const MR: usize = $tile;
            /// Sums of products of even and of odd columns.
            type Sums = (V, V);

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn gemm(
                q: &Modulus,
                w: &[u32],
                x: &[&[u32]],
                out: &mut [u32],
                stride: usize,
            ) {
                let (k, columns) = (x.len(), x.first().map_or(0, |row| row.len()));
                if k == 0 || columns < LANES {
                    return portable_gemm::<8>(q, w, x, out, stride);
                }
                let rows = super::super::check(w, x, out, stride);
                let constants = constants(q);
                let most = DEPTH.min(k);
                let mut panel = vec![[0u32; LANES]; TILES.min(columns.div_ceil(LANES)) * most];
                for c0 in (0..columns).step_by(TILES * LANES) {
                    for k0 in (0..k).step_by(DEPTH) {
                        let depth = DEPTH.min(k - k0);
                        super::super::pack(&x[k0..k0 + depth], c0, &mut panel, most);
                        for (tile, c) in (c0..columns).step_by(LANES).take(TILES).enumerate() {
                            let x = &panel[tile * most..tile * most + depth];
                            let width = LANES.min(columns - c);
                            let (mut m, rest) = (rows / MR * MR, rows % MR);
                            for m in (0..m).step_by(MR) {
                                rows_of_tile::<MR>(
                                    &constants,
                                    &w[m * k + k0..],
                                    k,
                                    x,
                                    &mut out[m * stride + c..],
                                    stride,
                                    width,
                                );
                            }
                            for _ in 0..rest / 2 {
                                rows_of_tile::<2>(
                                    &constants,
                                    &w[m * k + k0..],
                                    k,
                                    x,
                                    &mut out[m * stride + c..],
                                    stride,
                                    width,
                                );
                                m += 2;
                            }
                            if rest % 2 == 1 {
                                rows_of_tile::<1>(
                                    &constants,
                                    &w[m * k + k0..],
                                    k,
                                    x,
                                    &mut out[m * stride + c..],
                                    stride,
                                    width,
                                );
                            }
                        }
                    }
                }
            }

            /// `R` rows of weights at distance `k` times a packed tile, added to `R` rows of `out`
            /// at distance `stride`.
            #[inline]
            #[target_feature(enable = $features)]
            fn rows_of_tile<const R: usize>(
                q: &Constants,
                w: &[u32],
                k: usize,
                panel: &[[u32; LANES]],
                out: &mut [u32],
                stride: usize,
                width: usize,
            ) {
                let rows: [&[u32]; R] = core::array::from_fn(|r| &w[r * k..r * k + panel.len()]);
                let mut sums: [Sums; R] = [(splat(0), splat(0)); R];
                for (i, x) in panel.iter().enumerate() {
                    let x = load(x);
                    let odd = odd_to_even(x);
                    for r in 0..R {
                        let w = splat(rows[r][i]);
                        sums[r].0 = add64(sums[r].0, even_products(x, w));
                        sums[r].1 = add64(sums[r].1, even_products(odd, w));
                    }
                }
                for (r, (even, odd)) in sums.into_iter().enumerate() {
                    let sum = reduce(q, even, odd);
                    let row = &mut out[r * stride..r * stride + width];
                    match row.first_chunk_mut::<LANES>() {
                        Some(row) => store(row, added(q, load(row), sum)),
                        None => {
                            let mut padded = [0; LANES];
                            padded[..width].copy_from_slice(row);
                            let sum = added(q, load(&padded), sum);
                            store(&mut padded, sum);
                            row.copy_from_slice(&padded[..width]);
                        }
                    }
                }
            }

            /// `x + y` canonical, from a canonical `x` and a `y` below `4q`.
            #[inline]
            #[target_feature(enable = $features)]
            fn added(q: &Constants, x: V, y: V) -> V {
                below(below(below(add(x, y), q.q4), q.q2), q.q)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn add_product(sums: &mut Sums, x: V, y: V) {
                sums.0 = add64(sums.0, even_products(x, y));
                sums.1 = add64(sums.1, even_products(odd_to_even(x), odd_to_even(y)));
            }

            /// The same with an `y` that is equal in all places.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_multiple(sums: &mut Sums, x: V, y: V) {
                sums.0 = add64(sums.0, even_products(x, y));
                sums.1 = add64(sums.1, even_products(odd_to_even(x), y));
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn weighted_sum(
                q: &Modulus,
                w: &[u32],
                x: &[&[u32]],
                constant: u32,
                out: &mut [u32],
            ) {
                assert!(w.len() == x.len() && x.len() <= 15, "shapes disagree");
                assert!(x.iter().all(|r| r.len() == out.len()), "shapes disagree");
                let (k, start) = (constants(q), splat64(constant as u64));
                let whole = out.len() / LANES * LANES;
                for (i, y) in out.as_chunks_mut().0.iter_mut().enumerate() {
                    let mut sums = (start, start);
                    for (&w, row) in w.iter().zip(x) {
                        let x: &[u32; LANES] =
                            row[i * LANES..].first_chunk().expect("within the whole vectors");
                        add_multiple(&mut sums, load(x), splat(w));
                    }
                    store(y, added(&k, load(y), reduce(&k, sums.0, sums.1)));
                }
                super::super::weighted_rest(q, w, x, constant, &mut out[whole..], whole);
            }

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn rounded_sum(w: &[u32], x: &[&[u32]], shift: u32, out: &mut [u32]) {
                assert!(w.len() == x.len() && x.iter().all(|r| r.len() == out.len()), "shapes disagree");
                assert!((1..=60).contains(&shift), "no such shift");
                let half = splat64(1 << (shift - 1));
                let whole = out.len() / LANES * LANES;
                for (i, y) in out.as_chunks_mut().0.iter_mut().enumerate() {
                    let mut sums = (half, half);
                    for (&w, row) in w.iter().zip(x) {
                        let x: &[u32; LANES] =
                            row[i * LANES..].first_chunk().expect("within the whole vectors");
                        add_multiple(&mut sums, load(x), splat(w));
                    }
                    store(y, low_halves(shift64(sums.0, shift), shift64(sums.1, shift)));
                }
                super::super::rounded_rest(w, x, shift, &mut out[whole..], whole);
            }

            /// Rows added to the sums per pass over these.
            const ABREAST: usize = 2;
            /// Sums of a vector of columns, even then odd, of both outputs.
            type Stored = [[[u32; LANES]; 2]; 2];

            #[target_feature(enable = $features)]
            pub(in super::super::super) fn multiply_sum(
                q: &Modulus,
                x: &[&[u32]],
                y: [&[&[u32]]; 2],
                out: [&mut [u32]; 2],
            ) {
                let [out0, out1] = out;
                let n = out0.len();
                super::super::check_sums(x, y, n, out1.len());
                if n % LANES != 0 {
                    return super::super::multiply_sum(q, x, y, [out0, out1]);
                }
                let k = constants(q);
                let mut sums = [[[[0; LANES]; 2]; 2]; BLOCK / LANES];
                for start in (0..n).step_by(BLOCK) {
                    let range = start..n.min(start + BLOCK);
                    let sums = &mut sums[..range.len() / LANES];
                    sums.as_flattened_mut().as_flattened_mut().as_flattened_mut().fill(0);
                    let mut first = 0;
                    while first < x.len() {
                        // A product has 56 bits; what is left after a reduction is one summand
                        // more.
                        if first > 0 && first % (DEPTH / ABREAST * ABREAST) == 0 {
                            for sums in sums.iter_mut().flatten() {
                                let sum = below(below(reduce(&k, load(&sums[0]), load(&sums[1])), k.q2), k.q);
                                store(&mut sums[0], even_products(sum, splat(1)));
                                store(&mut sums[1], odd_to_even(sum));
                            }
                        }
                        if first + ABREAST <= x.len() {
                            add_rows::<ABREAST>(x, y, first, range.clone(), sums);
                            first += ABREAST;
                        } else {
                            add_rows::<1>(x, y, first, range.clone(), sums);
                            first += 1;
                        }
                    }
                    for (which, out) in [&mut *out0, &mut *out1].into_iter().enumerate() {
                        for (out, sums) in out[range.clone()].as_chunks_mut().0.iter_mut().zip(sums.iter()) {
                            let [even, odd] = &sums[which];
                            store(out, below(below(reduce(&k, load(even), load(odd)), k.q2), k.q));
                        }
                    }
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn add_rows<const R: usize>(
                x: &[&[u32]],
                [y0, y1]: [&[&[u32]]; 2],
                first: usize,
                range: core::ops::Range<usize>,
                sums: &mut [Stored],
            ) {
                let x: [_; R] = core::array::from_fn(|r| vectors(x[first + r], range.clone()));
                let y0: [_; R] = core::array::from_fn(|r| vectors(y0[first + r], range.clone()));
                let y1: [_; R] = core::array::from_fn(|r| vectors(y1[first + r], range.clone()));
                for (i, stored) in sums.iter_mut().enumerate() {
                    let [mut sums0, mut sums1] = [
                        (load(&stored[0][0]), load(&stored[0][1])),
                        (load(&stored[1][0]), load(&stored[1][1])),
                    ];
                    for r in 0..R {
                        let x = load(&x[r][i]);
                        add_product(&mut sums0, x, load(&y0[r][i]));
                        add_product(&mut sums1, x, load(&y1[r][i]));
                    }
                    for (stored, sums) in stored.iter_mut().zip([sums0, sums1]) {
                        store(&mut stored[0], sums.0);
                        store(&mut stored[1], sums.1);
                    }
                }
            }
        }
    };
}

variant!(avx512, "avx512f", wide, 8);
variant!(avx2, "avx2", narrow, 4);
