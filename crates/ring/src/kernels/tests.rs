//! Every variant the machine can run against the definition.

mod streams;
mod transforms;

use super::*;
use crate::field::P;
use rand::{rngs::StdRng, Rng, SeedableRng};

const Q: u32 = 268_369_921;

fn residues(rng: &mut StdRng, n: usize) -> Vec<u32> {
    (0..n).map(|i| if i % 7 == 0 { Q - 1 } else { rng.gen_range(0..Q) }).collect()
}

#[test]
fn gemm_is_the_matrix_product() {
    let (q, mut rng) = (Modulus::new(Q), StdRng::seed_from_u64(1));
    for (m, k, c) in [(1, 1, 1), (3, 5, 17), (4, 255, 8), (9, 600, 33), (32, 72, 64), (2, 0, 8)] {
        let stride = c + 3;
        let w = if k == 300 { vec![Q - 1; m * k] } else { residues(&mut rng, m * k) };
        let x: Vec<Vec<u32>> = (0..k).map(|_| residues(&mut rng, c)).collect();
        let rows: Vec<&[u32]> = x.iter().map(|r| r.as_slice()).collect();
        let start = residues(&mut rng, m * stride);
        let mut expected = start.clone();
        for i in 0..m {
            for j in 0..c {
                let sum = (0..k)
                    .fold(start[i * stride + j] as u128, |s, l| s + w[i * k + l] as u128 * x[l][j] as u128);
                expected[i * stride + j] = (sum % Q as u128) as u32;
            }
        }
        for isa in Isa::available() {
            let mut out = start.clone();
            gemm_mod_on(isa, &q, &w, &rows, &mut out, stride);
            assert_eq!(out, expected, "{isa:?} {m} {k} {c}");
        }
    }
}

#[test]
fn accumulators_hold_the_largest_products() {
    let q = Modulus::new(Q);
    let row = vec![Q - 1; 16];
    let rows = vec![row.as_slice(); 255];
    for isa in Isa::available() {
        let mut out = vec![Q - 1; 16];
        gemm_mod_on(isa, &q, &vec![Q - 1; 255], &rows, &mut out, 16);
        assert!(out.iter().all(|&y| y == 254), "{isa:?}");
    }
}

#[test]
fn weighted_sums_take_any_words() {
    let (q, mut rng, n) = (Modulus::new(Q), StdRng::seed_from_u64(5), 103);
    let x: Vec<Vec<u32>> =
        (0..15).map(|_| (0..n).map(|i| if i < 40 { u32::MAX } else { rng.gen() }).collect()).collect();
    let rows: Vec<&[u32]> = x.iter().map(|r| r.as_slice()).collect();
    for count in [0, 1, 15] {
        let start = residues(&mut rng, n);
        for isa in Isa::available() {
            let mut out = start.clone();
            weighted_sum_on(isa, &q, &vec![Q - 1; count], &rows[..count], Q - 2, &mut out);
            for i in 0..n {
                let sum: u128 = rows[..count].iter().map(|r| r[i] as u128 * (Q as u128 - 1)).sum();
                assert_eq!(out[i] as u128, (sum + start[i] as u128 + Q as u128 - 2) % Q as u128);
            }
        }
    }
}

#[test]
fn pointwise_loops_agree_with_the_definition() {
    let (q, last, mut rng) = (Modulus::new(Q), Modulus::new(267_583_489), StdRng::seed_from_u64(2));
    let n = 101;
    let (x, y, z) = (residues(&mut rng, n), residues(&mut rng, n), residues(&mut rng, n));
    let fp: Vec<Fp> =
        (0..n as u64).map(|i| if i < 4 { Fp::new(P / 2 + i - 1) } else { Fp::new(rng.gen()) }).collect();
    let dropped: Vec<u32> = x.iter().map(|&v| v % last.value()).collect();
    let w = q.factor(q.inv(last.value() % Q));
    for isa in Isa::available() {
        let mut out = z.clone();
        multiply_add_on(isa, &q, &x, &y, &mut out);
        assert!((0..n).all(|i| out[i] as u64 == (x[i] as u64 * y[i] as u64 + z[i] as u64) % Q as u64));
        multiply_on(isa, &q, &x, &y, &mut out);
        assert!((0..n).all(|i| out[i] as u64 == x[i] as u64 * y[i] as u64 % Q as u64));
        centred_residues_on(isa, &q, P, integers(&fp), &mut out);
        assert!((0..n).all(|i| out[i] as i64 == fp[i].to_i64().rem_euclid(Q as i64)));
        for t in crate::exponential::PRIMES {
            let words: Vec<u64> = fp
                .iter()
                .enumerate()
                .map(|(i, x)| match i {
                    0..4 => t / 2 + i as u64 - 1,
                    _ => x.value() % t,
                })
                .collect();
            centred_residues_on(isa, &q, t, &words, &mut out);
            let centred = |x: u64| if x > t / 2 { x as i128 - t as i128 } else { x as i128 };
            assert!((0..n).all(|i| out[i] as i128 == centred(words[i]).rem_euclid(Q as i128)));
        }
        out.copy_from_slice(&z);
        drop_limb_on(isa, &q, &last, w, &dropped, &mut out);
        for i in 0..n {
            let l = last.value() as i64;
            let centred = if dropped[i] as i64 > l / 2 { dropped[i] as i64 - l } else { dropped[i] as i64 };
            let expected = q.mul((z[i] as i64 - centred).rem_euclid(Q as i64) as u32, w.value);
            assert_eq!(out[i], expected);
        }
    }
}

#[test]
fn linear_layer_agrees_with_field_arithmetic() {
    let mut rng = StdRng::seed_from_u64(4);
    for (d_out, d_in, t) in [(1, 1, 1), (5, 37, 1), (3, 130, 6), (2, 8192, 4)] {
        let w: Vec<i16> = (0..d_out * d_in).map(|i| if i % 5 == 0 { i16::MIN } else { rng.gen() }).collect();
        let edges = [P / 2 - 1, P / 2, P / 2 + 1, P - 1, 0x7FFF_FFFF_8000_0000, 0x8000_0000, 0];
        let x: Vec<Fp> = (0..t * d_in).map(|i| Fp::new(*edges.get(i).unwrap_or(&rng.gen()))).collect();
        let mut expected = vec![Fp::ZERO; t * d_out];
        for (i, y) in expected.iter_mut().enumerate() {
            let (t, o) = (i / d_out, i % d_out);
            *y = (0..d_in).map(|j| Fp::from_i64(w[o * d_in + j] as i64) * x[t * d_in + j]).sum();
        }
        let mut out = vec![Fp::ZERO; t * d_out];
        matvec_i16(&w, d_in, &x, &mut out);
        assert_eq!(out, expected);
        let split = SplitInput::new(&x, d_in);
        for isa in Isa::available() {
            let mut columns = vec![Fp::ZERO; t * d_out];
            matvec_i16_rows_on(isa, &w, &split, &mut columns);
            assert!((0..t * d_out).all(|i| columns[(i % d_out) * t + i / d_out] == expected[i]), "{isa:?}");
        }
        // Weights of 8 bits as the same numbers of 16.
        let short: Vec<i8> = w.iter().map(|w| *w as i8).collect();
        let long: Vec<i16> = short.iter().map(|w| i16::from(*w)).collect();
        matvec_i16(&long, d_in, &x, &mut out);
        for isa in Isa::available() {
            let mut columns = vec![Fp::ZERO; t * d_out];
            matvec_i8_rows_on(isa, &short, &split, &mut columns);
            assert!(
                (0..t * d_out).all(|i| columns[(i % d_out) * t + i / d_out] == out[i]),
                "{isa:?}, 8 bits"
            );
        }
    }
}

#[test]
fn the_longest_row_does_not_overflow() {
    let d_in = MAX_D_IN;
    for weight in [i16::MIN, i16::MAX] {
        for value in [P / 2 - 1, P / 2, P / 2 + 1, 0x8000_0000, P - 0x8000_0000] {
            let (w, x) = (vec![weight; d_in], vec![Fp::new(value); d_in]);
            let mut out = [Fp::ZERO];
            matvec_i16(&w, d_in, &x, &mut out);
            assert_eq!(out[0], Fp::from_i64(i64::from(weight) * d_in as i64) * x[0]);
        }
    }
}

fn slices(rows: &[Vec<u32>]) -> Vec<&[u32]> {
    rows.iter().map(Vec::as_slice).collect()
}

#[test]
fn sums_of_products_of_any_depth() {
    let (q, mut rng) = (Modulus::new(Q), StdRng::seed_from_u64(8));
    for (depth, n) in [(0, 77), (1, 512), (3, 1), (255, 77), (256, 520), (700, 77)] {
        let mut rows = || (0..depth).map(|_| residues(&mut rng, n)).collect::<Vec<_>>();
        let (x, y, z) = (rows(), rows(), rows());
        let sum =
            |y: &[Vec<u32>], c: usize| (0..depth).map(|i| x[i][c] as u128 * y[i][c] as u128).sum::<u128>();
        for isa in Isa::available() {
            let mut out = [vec![7; n], vec![7; n]];
            let [a, b] = &mut out;
            multiply_sum_on(isa, &q, &slices(&x), [&slices(&y), &slices(&z)], [a, b]);
            for (out, y) in out.iter().zip([&y, &z]) {
                let equal = |c: usize| out[c] as u128 == sum(y, c) % Q as u128;
                assert!((0..n).all(equal), "{isa:?} {depth}");
            }
        }
    }
    // The largest products, as many as an accumulator must hold.
    let row = vec![Q - 1; 16];
    let rows = vec![row.as_slice(); 300];
    for isa in Isa::available() {
        let mut out = [vec![0; 16], vec![0; 16]];
        let [a, b] = &mut out;
        multiply_sum_on(isa, &q, &rows, [&rows, &rows], [a, b]);
        assert!(out.iter().flatten().all(|&x| x == 300), "{isa:?}");
    }
}

/// A panel of rows `[row][k][column]`.
fn panel(x: &[Vec<Vec<u32>>], line: impl Fn(usize, usize, usize, usize) -> usize) -> Vec<u32> {
    let (rows, depth, n) = (x.len(), x[0].len(), x[0][0].len());
    let mut out = vec![0; rows * depth * n];
    for (row, x) in x.iter().enumerate() {
        for (k, x) in x.iter().enumerate() {
            for (c, x) in x.iter().enumerate() {
                out[(c / BLOCK * rows * depth + line(rows, depth, row, k)) * BLOCK + c % BLOCK] = *x;
            }
        }
    }
    out
}

#[test]
fn panels_multiply_like_their_rows() {
    let (q, mut rng, n) = (Modulus::new(Q), StdRng::seed_from_u64(12), 3 * BLOCK);
    for (l, r, depth, right_depth) in [
        (1, 1, 1, 1),
        (1, 4, 3, 5),
        (2, 2, 7, 7),
        (3, 6, 2, 9),
        (5, 7, 11, 11),
        (4, 8, 300, 301),
        (2, 3, 255, 255),
    ] {
        // The largest residues wherever many are added.
        let mut rows = |rows: usize, depth: usize| -> Vec<Vec<Vec<u32>>> {
            let residue = |rng: &mut StdRng| if depth > 100 { Q - 1 } else { rng.gen_range(0..Q) };
            let row = |rng: &mut StdRng| (0..n).map(|_| residue(rng)).collect();
            (0..rows).map(|_| (0..depth).map(|_| row(&mut rng)).collect()).collect()
        };
        let (x, y) = (rows(l, depth), rows(r, right_depth));
        let (left, right) = (panel(&x, left_line), panel(&y, right_line));
        for isa in Isa::available() {
            let mut out = vec![7; l * r * n];
            panel_product_on(isa, &q, (&left, l), (&right, r), (depth, right_depth), &mut out);
            for (i, &out) in out.iter().enumerate() {
                let (x, y, c) = (&x[i / n / r], &y[i / n % r], i % n);
                let sum: u128 = (0..depth).map(|k| x[k][c] as u128 * y[k][c] as u128).sum();
                assert_eq!(out as u128, sum % Q as u128, "{isa:?} {l}x{r}, {depth}");
            }
        }
    }
}

#[test]
fn rounded_sums_are_rounded() {
    let (mut rng, n) = (StdRng::seed_from_u64(9), 45);
    for (rows, bits, shift) in [(7, 28, 32), (7, 28, 59), (8, 25, 56), (1, 28, 1)] {
        let w: Vec<u32> =
            (0..rows).map(|i| if i == 0 && shift > 1 { u32::MAX } else { rng.gen_range(0..16) }).collect();
        let x: Vec<Vec<u32>> =
            (0..rows).map(|_| (0..n).map(|_| rng.gen_range(0..1 << bits)).collect()).collect();
        let x: Vec<&[u32]> = x.iter().map(Vec::as_slice).collect();
        for isa in Isa::available() {
            let mut out = vec![0; n];
            rounded_sum_on(isa, &w, &x, shift, &mut out);
            let sum = |c: usize| (0..rows).map(|i| w[i] as u128 * x[i][c] as u128).sum::<u128>();
            assert!((0..n).all(|c| out[c] as u128 == (sum(c) + (1 << (shift - 1))) >> shift), "{isa:?}");
        }
    }
}

#[test]
fn permutations_move_elements() {
    let mut rng = StdRng::seed_from_u64(16);
    let x = residues(&mut rng, 133);
    // Within blocks, across blocks, and anything.
    let within: Vec<u32> = (0..133).map(|i| if i < 128 { i ^ 45 } else { i }).collect();
    let across: Vec<u32> = (0..133).map(|i| (i * 2 + 1) % 133).collect();
    let any: Vec<u32> = (0..50).map(|_| rng.gen_range(0..128)).collect();
    for from in [within, across, any] {
        for isa in Isa::available() {
            let mut out = vec![0; from.len()];
            permute_on(isa, &from, &x[..133], &mut out);
            assert!(out.iter().zip(&from).all(|(o, i)| *o == x[*i as usize]), "{isa:?}");
        }
    }
}

#[test]
fn lifts_are_centred() {
    let (last, mut rng, n) = (Modulus::new(268_271_617), StdRng::seed_from_u64(10), 53);
    let l = last.value();
    let edges = [0, 1, l / 2, l / 2 + 1, l - 1];
    let x: Vec<u32> = (0..n).map(|i| edges.get(i).copied().unwrap_or(rng.gen_range(0..l))).collect();
    for q in [Q, 2_768_897] {
        let q = Modulus::new(q);
        let start: Vec<u32> = (0..n).map(|_| rng.gen_range(0..q.value())).collect();
        for isa in Isa::available() {
            let (mut out, mut scaled) = (vec![0; n], start.clone());
            lift_on(isa, &q, &last, &x, &mut out);
            subtract_scale_on(isa, &q, q.factor(12345), &out, &mut scaled);
            for i in 0..n {
                let centred = if x[i] > l / 2 { x[i] as i64 - l as i64 } else { x[i] as i64 };
                assert_eq!(out[i] as i64, centred.rem_euclid(q.value() as i64), "{isa:?}");
                let expected = ((start[i] as i64 - out[i] as i64) * 12345).rem_euclid(q.value() as i64);
                assert_eq!(scaled[i] as i64, expected, "{isa:?}");
            }
        }
    }
}

#[test]
fn chains_are_n_multiply_adds() {
    let mut rng = StdRng::seed_from_u64(77);
    let start: [u64; CHAIN] = core::array::from_fn(|i| if i < 5 { u64::MAX } else { rng.gen() });
    for (w, n) in [(0, 3), (u32::MAX, 1), (77_777_777, 10)] {
        let mut expected = start;
        for _ in 0..n {
            expected.iter_mut().for_each(|a| *a = a.wrapping_add((*a & 0xffff_ffff) * w as u64));
        }
        for isa in Isa::available() {
            let mut acc = start;
            multiply_add_chain_on(isa, &mut acc, w, n);
            assert_eq!(acc, expected, "{isa:?} {w} {n}");
        }
    }
}

/// The product of two polynomials, bit by bit, and what is left of it modulo the field's
/// polynomial.
fn long_multiplication(a: u128, b: u128) -> ([u128; 2], u128) {
    let (mut product, mut power, mut reduced) = ([0; 2], a, 0);
    for i in 0..128 {
        let bit = (b >> i & 1).wrapping_neg();
        product[0] ^= bit & a << i;
        product[1] ^= bit & a.checked_shr(128 - i).unwrap_or(0);
        reduced ^= bit & power;
        power = (power << 1) ^ ((power >> 127) * 0x87);
    }
    (product, reduced)
}

#[test]
fn carryless_products_are_long_multiplications() {
    let mut rng = StdRng::seed_from_u64(12);
    let mut words: Vec<u128> = (0..40).map(|_| rng.gen()).collect();
    words.extend([0, 1, u128::MAX, 1 << 127, u64::MAX as u128, !(u64::MAX as u128)]);
    for factor in [0, 1, u128::MAX, 1 << 127, rng.gen(), rng.gen()] {
        let start: Vec<[u128; 2]> = words.iter().map(|_| rng.gen()).collect();
        let products: Vec<_> = words.iter().map(|word| long_multiplication(*word, factor)).collect();
        for isa in Isa::available() {
            let mut sums = start.clone();
            carryless_multiply_add_on(isa, &words, factor, &mut sums);
            for ((sum, start), (product, reduced)) in sums.iter().zip(&start).zip(&products) {
                assert_eq!([sum[0] ^ start[0], sum[1] ^ start[1]], *product, "{isa:?} {factor:x}");
                assert_eq!(carryless_reduce(*product), *reduced, "{factor:x}");
            }
        }
    }
}

#[test]
fn fixed_key_hash_is_aes_128() {
    use ::aes::cipher::{BlockEncrypt, KeyInit};
    let (key, mut rng) = (*b"a public constant", StdRng::seed_from_u64(9));
    let key: [u8; 16] = key[..16].try_into().unwrap();
    let (fixed, reference) = (FixedKey::new(&key), ::aes::Aes128::new(&key.into()));
    for n in [0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 200] {
        let start: Vec<u128> = (0..n).map(|_| rng.gen()).collect();
        let expected: Vec<u128> = start
            .iter()
            .map(|x| {
                let mut block = x.to_le_bytes().into();
                reference.encrypt_block(&mut block);
                x ^ u128::from_le_bytes(block.into())
            })
            .collect();
        for isa in Isa::available() {
            let mut blocks = start.clone();
            fixed.mmo_on(isa, &mut blocks);
            assert_eq!(blocks, expected, "{isa:?} {n}");
        }
    }
}

/// `n` groups of four keys, and `MMO` under each.
fn four_keys(isa: Isa, n: usize, rng: &mut StdRng) -> (Vec<FixedKeys>, impl Fn(usize, u128) -> u128) {
    let (first, step): ([u128; TREES], u64) = rng.gen();
    let mut groups = Vec::new();
    FixedKeys::schedule_on(isa, &mut groups, n, first, step);
    let mmo = move |key: usize, x: u128| {
        let (mut block, mut key, group) = ([x], first[key % TREES], (key / TREES) as u64);
        let upper = ((key >> 64) as u64).wrapping_add(group.wrapping_mul(step));
        key = (upper as u128) << 64 | key as u64 as u128;
        FixedKey::new(&key.to_le_bytes()).mmo_on(Isa::Portable, &mut block);
        block[0]
    };
    (groups, mmo)
}

#[test]
fn trees_grow_and_add_up() {
    let mut rng = StdRng::seed_from_u64(10);
    let words: [u128; TREES] = core::array::from_fn(|_| rng.gen());
    let sigma = |x: u128| (x ^ x >> 64) << 64 | x >> 64;
    for (isa, one) in Isa::available().into_iter().flat_map(|isa| [(isa, None), (isa, Some(3))]) {
        let (groups, mmo) = four_keys(isa, 3, &mut rng);
        // Group by group: the keys of a level, of the next, of the conversion.
        let keys = |group: usize| match one {
            None => Keys::four(&groups[group]),
            Some(lane) => Keys::one(&groups[group], lane),
        };
        let mmo = |group: usize, i: usize, x| mmo(TREES * group + one.unwrap_or(i % TREES), x);
        for n in [0, 1, 2, 4, 8, 16, 32, 64, 256] {
            let parents: Vec<u128> = (0..n).map(|_| rng.gen()).collect();
            let left: Vec<u128> = (parents.iter().enumerate())
                .map(|(i, x)| mmo(0, i, sigma(*x)) ^ ((x & 1) * words[i % TREES]))
                .collect();
            let right: Vec<u128> = left.iter().zip(&parents).map(|(l, x)| l ^ x).collect();
            let (mut sums, mut counts, mut converted) = ([0; TREES], [0; TREES], [[[0u64; 2]; TREES]; 2]);
            for (i, x) in left.iter().enumerate().chain(right.iter().enumerate()) {
                sums[i % TREES] ^= mmo(1, i, sigma(*x));
                counts[i % TREES] += *x as u32 & 1;
                for (pair, converted) in converted.iter_mut().enumerate() {
                    let value = mmo(2, i, x ^ pair as u128);
                    let [low, high] = &mut converted[i % TREES];
                    *low = low.wrapping_add(value as u64);
                    *high = high.wrapping_add((value >> 64) as u64);
                }
            }
            let mut nodes = parents.clone();
            nodes.resize(n + n.max(SPARE), 0);
            keys(0).grow_on(isa, &mut nodes, n, &words);
            nodes.truncate(2 * n);
            assert_eq!((&nodes[..n], &nodes[n..]), (&left[..], &right[..]), "{isa:?} {n}");
            if n % TREES != 0 {
                continue; // one tree alone is grown, never summed up
            }
            assert_eq!(keys(1).hash_sums_on(isa, &nodes), sums, "{isa:?} {n}");
            assert_eq!(keys(0).grown_hash_sums_on(isa, &parents, &words, keys(1)), sums, "{isa:?} {n}");
            let mut sums = [[[7; 2]; TREES]; 2];
            let odd = keys(0).grown_leaf_sums_on(isa, &parents, &words, keys(2), &mut sums);
            assert_eq!((odd, sums), (counts, converted), "{isa:?} {n}");
        }
    }
}

#[test]
fn inner_products_follow_the_rotation() {
    let mut rng = StdRng::seed_from_u64(11);
    for (n, size) in [(4usize, 4), (8, 16), (16, 16), (32, 32), (64, 128), (512, 512)] {
        let nodes: Vec<u128> = (0..n).map(|_| rng.gen()).collect();
        let finals = [rng.gen(), rng.gen()];
        let tables: Vec<Vec<i64>> = (0..3).map(|_| (0..size).map(|_| rng.gen()).collect()).collect();
        let wide: Vec<Table> = tables.iter().map(|table| Table::new(table)).collect();
        let wide: Vec<&Table> = wide.iter().collect();
        for isa in Isa::available() {
            let (groups, mmo) = four_keys(isa, 1, &mut rng);
            for first in [0, 1, size / 2, size - 1, size + 1] {
                let mut expected = [[7u64; 2]; 3];
                for (i, x) in nodes.iter().enumerate() {
                    let value = mmo(2, x ^ 5);
                    for (table, sums) in tables.iter().zip(&mut expected) {
                        for (l, sum) in sums.iter_mut().enumerate() {
                            let last = if x & 1 == 1 { finals[l] } else { 0 };
                            let x = ((value >> (64 * l)) as u64).wrapping_add(last);
                            *sum = sum.wrapping_add(x.wrapping_mul(table[(i + first) % size] as u64));
                        }
                    }
                }
                let mut sums = [[7; 2]; 3];
                Keys::one(&groups[0], 2).dot_on(isa, &nodes, (5, finals), &wide, first, &mut sums);
                assert_eq!(sums, expected, "{isa:?} {n} {first}");
            }
        }
    }
}
