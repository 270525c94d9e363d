//! The kernels' speed and distance from the machine's limits: `make bench-kernels`.

#[path = "support/mod.rs"]
mod support;

use cryptogen_ring::exponential::{self, PRIMES};
use cryptogen_ring::kernels::{
    accept_on, binomial_on, centred_residues_on, drop_limb_on, gemm_mod_on, lift_on, matvec_i16_rows_on,
    multiply_add_on, multiply_on, multiply_sum_on, panel_product_on, permute_on, rounded_sum_on,
    subtract_scale_on, weighted_sum_on, FixedKeys, Isa, Keys, SplitInput, Table, BLOCK, SPARE, TREES,
};
use cryptogen_ring::{Fp, FpNtt, Modulus, Ntt, Prg, Seed, WideModulus, WideNtt, P};
use rand_core::RngCore;
use support::{Report, Work};

const N: usize = 8192;
/// 32 × 32 → 64-bit products of a butterfly by Shoup's factor: the quotient, and two low halves.
const PER_BUTTERFLY: usize = 3;

fn main() {
    let q = Modulus::new(268_369_921);
    let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
    let mut residues = |n: usize| (0..n).map(|_| prg.next_u32() % q.value()).collect::<Vec<u32>>();
    let (m, k, c) = (32, 72, 1024);
    let (w, x) = (residues(m * k), residues(k * c));
    let rows: Vec<&[u32]> = x.chunks_exact(c).collect();
    let (a, b) = (residues(N), residues(N));
    let digits = residues(3 * 8 * N);
    let digits: Vec<&[u32]> = digits.chunks_exact(N).collect();
    // GPT-2's up projections, twelve layers, twice: more than the caches hold.
    let (d_in, d_out, layers) = (768, 3072, 24);
    let weights: Vec<i16> = residues(layers * d_out * d_in).iter().map(|&v| v as i16).collect();
    let vectors: Vec<Fp> = residues(4 * d_in).iter().map(|&v| Fp::new(v as u64 * v as u64)).collect();
    let ntt = Ntt::new(q, 13);
    let butterflies = Work { multiply_adds: PER_BUTTERFLY * 13 * N / 2, ..Work::default() };

    let mut report = Report::new();
    for isa in Isa::available() {
        let madds = |multiply_adds| Work { multiply_adds, ..Work::default() };
        let mut out = vec![0; m * c];
        report.time(&format!("gemm_mod 32x72x1024 {isa:?}"), isa, madds(m * k * c), || {
            gemm_mod_on(isa, &q, &w, &rows, &mut out, c)
        });
        let (mut out, mut other) = (vec![0; N], vec![0; N]);
        report.time(&format!("multiply_add {N} {isa:?}"), isa, madds(N), || {
            multiply_add_on(isa, &q, &a, &b, &mut out)
        });
        report.time(&format!("multiply_sum 8x2x{N} {isa:?}"), isa, madds(2 * 8 * N), || {
            let (x, y) = digits.split_at(8);
            multiply_sum_on(isa, &q, x, [&y[..8], &y[8..]], [&mut out, &mut other])
        });
        for t in [1, 4] {
            let input = SplitInput::new(&vectors[..t * d_in], d_in);
            let (mut out, mut layer) = (vec![Fp::ZERO; d_out * t], 0);
            // Two halves of a field element.
            let work = Work { bytes: 2 * d_in * d_out, ..madds(2 * d_in * d_out * t) };
            report.time(&format!("matvec_i16 {d_out}x{d_in} T={t} {isa:?}"), isa, work, || {
                layer = (layer + 1) % layers;
                let rows = &weights[layer * d_out * d_in..(layer + 1) * d_out * d_in];
                matvec_i16_rows_on(isa, rows, &input, &mut out)
            });
        }
    }
    let best = Isa::best();
    let mut v = a.clone();
    report.time(&format!("Ntt {N} forward {best:?}"), best, butterflies, || ntt.forward(&mut v, 0..13));
    report.time(&format!("Ntt {N} inverse {best:?}"), best, butterflies, || ntt.inverse(&mut v, 0..13));
    let fp = FpNtt::new(13);
    let mut v = prg.fp_vec(N);
    // 64-bit products, which have no vector instruction: only the time.
    report.time(&format!("FpNtt {N} forward"), best, Work::default(), || fp.forward(&mut v, 13));
    report.time(&format!("FpNtt {N} inverse"), best, Work::default(), || fp.inverse(&mut v, 13));
    let wide = WideNtt::new(WideModulus::new(PRIMES[1]), 13);
    let mut words = vec![5; N];
    report.time(&format!("WideNtt {N} forward"), best, Work::default(), || wide.forward(&mut words));
    report.time(&format!("WideNtt {N} inverse"), best, Work::default(), || wide.inverse(&mut words));
    let mut v = vec![Fp::ZERO; N];
    let blocks = Work { aes_rounds: 14 * N / 2, ..Work::default() };
    report.time(&format!("Prg fill_fp {N}"), best, blocks, || prg.fill_fp(&mut v));
    exponentials(&mut report);
    pointwise(&mut report);
    trees(&mut report);
    report.print();
}

/// What the parties compute alone of `N` exponentials, for several numbers of primes.
fn exponentials(report: &mut Report) {
    let shares = Prg::new(&Seed::from_bytes([2; 32])).fp_vec(N);
    for n in [2, 3, 6] {
        let (mut factors, mut weights) = (vec![0; n * N], vec![Fp::ZERO; N]);
        let (isa, work) = (Isa::Portable, Work::default());
        report.time(&format!("factors {N}, {n} primes"), isa, work, || {
            let each = factors.chunks_exact_mut(n).zip(&shares);
            each.for_each(|(out, &share)| exponential::factors_server(share, 70, out));
        });
        report.time(&format!("weights {N}, {n} primes"), isa, work, || {
            let each = weights.iter_mut().zip(factors.chunks_exact(n));
            each.for_each(|(out, z)| *out = exponential::weight_client(z, 66));
        });
    }
}

/// One polynomial after another, in the caches: bytes read and written, so more than the memory's
/// rate where a kernel is good.
fn pointwise(report: &mut Report) {
    let (q, last) = (Modulus::new(268_369_921), Modulus::new(268_271_617));
    let mut prg = Prg::new(&Seed::from_bytes([2; 32]));
    let residues: Vec<Vec<u32>> =
        (0..8).map(|_| (0..N).map(|_| prg.next_u32() % last.value()).collect()).collect();
    let rows: Vec<&[u32]> = residues.iter().map(Vec::as_slice).collect();
    let (x, y, weights) = (rows[0], rows[1], [3; 7]);
    let words: Vec<u64> = prg.fp_vec(N).iter().map(|x| x.value()).collect();
    let backwards: Vec<u32> = (0..N as u32).map(|i| i ^ (N as u32 - 16)).collect();
    let (factor, panel) = (q.factor(12345), residues.concat());
    let mut out = vec![0; N];
    let mut products = vec![0; BLOCK];
    // Numbers of 4 bytes that a coefficient costs, in and out.
    let numbers = |n: usize| Work { bytes: 4 * n * N, ..Work::default() };
    for isa in Isa::available() {
        let name = |kernel: &str| format!("{kernel} {N} {isa:?}");
        report.time(&name("weighted_sum 7x"), isa, numbers(9), || {
            weighted_sum_on(isa, &q, &weights, &rows[..7], 1, &mut out)
        });
        report.time(&name("rounded_sum 7x"), isa, numbers(8), || {
            rounded_sum_on(isa, &weights, &rows[..7], 8, &mut out)
        });
        report.time(&name("multiply"), isa, numbers(3), || multiply_on(isa, &q, x, y, &mut out));
        report.time(&name("centred_residues"), isa, numbers(3), || {
            centred_residues_on(isa, &q, P, &words, &mut out)
        });
        report
            .time(&name("drop_limb"), isa, numbers(3), || drop_limb_on(isa, &q, &last, factor, x, &mut out));
        report.time(&name("lift"), isa, numbers(2), || lift_on(isa, &q, &last, x, &mut out));
        report.time(&name("subtract_scale"), isa, numbers(3), || {
            subtract_scale_on(isa, &q, factor, x, &mut out)
        });
        report.time(&name("binomial"), isa, numbers(3), || binomial_on(isa, 21, &words, &mut out));
        report.time(&name("permute"), isa, numbers(3), || permute_on(isa, &backwards, x, &mut out));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        report.time(&name("accept"), isa, numbers(2), || {
            accept_on(isa, q.value(), 4, &bytes, &mut out);
        });
        let work = Work { multiply_adds: 8 * BLOCK, ..Work::default() };
        report.time(&format!("panel_product 1x1x8 {isa:?}"), isa, work, || {
            let (left, right) = panel.split_at(8 * BLOCK);
            panel_product_on(isa, &q, (left, 1), (&right[..8 * BLOCK], 1), (8, 8), &mut products)
        });
    }
}

/// The loops of table keys, `k = 9`: one AES call per parent, one per node that is hashed.
fn trees(report: &mut Report) {
    let mut keys = Vec::new();
    FixedKeys::schedule(&mut keys, 3, [1, 2, 3, 4], 5);
    let [trees, next, leaves] = [0, 1, 2].map(|level| Keys::four(&keys[level]));
    let mut scheduled = Vec::new();
    let calls = |blocks: usize| Work { aes_rounds: 10 * blocks, ..Work::default() };
    let (words, size) = ([5; TREES], 512);
    let mut nodes: Vec<u128> = (0..2 * (size * TREES) as u128 + SPARE as u128).map(|i| i << 77 | i).collect();
    let table = Table::new(&(0..size as i64).collect::<Vec<_>>());
    for isa in Isa::available() {
        report.time(&format!("trees: schedule 12 keys {isa:?}"), isa, calls(12), || {
            FixedKeys::schedule_on(isa, &mut scheduled, 3, [1, 2, 3, 4], 5)
        });
        let half = size / 2 * TREES;
        report.time(&format!("trees: grow {half} nodes {isa:?}"), isa, calls(half), || {
            trees.grow_on(isa, &mut nodes, half, &words)
        });
        report.time(&format!("trees: grow and hash {half} nodes {isa:?}"), isa, calls(3 * half), || {
            trees.grown_hash_sums_on(isa, &nodes[..half], &words, next)
        });
        report.time(&format!("trees: grow and convert {half} nodes {isa:?}"), isa, calls(3 * half), || {
            trees.grown_leaf_sums_on(isa, &nodes[..half], &words, leaves, &mut [[[0; 2]; TREES]])
        });
        report.time(&format!("look-up: dot {size} leaves, 2 tables {isa:?}"), isa, calls(size), || {
            Keys::one(&keys[2], 0).dot_on(
                isa,
                &nodes[..size],
                (0, [3, 4]),
                &[&table, &table],
                77,
                &mut [[0; 2]; 2],
            )
        });
    }
}
