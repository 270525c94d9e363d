use cryptogen_ring::kernels::*;
use cryptogen_ring::*;
use rand_core::RngCore;
use std::time::Instant;
fn best(mut f: impl FnMut()) -> f64 {
    let mut t = f64::INFINITY;
    for _ in 0..300 {
        let s = Instant::now();
        f();
        t = t.min(s.elapsed().as_secs_f64() * 1e6);
    }
    t
}
fn main() {
    let q = Modulus::new(268_369_921);
    let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
    let mut residues = |n: usize| (0..n).map(|_| prg.next_u32() % q.value()).collect::<Vec<u32>>();
    let values = residues(8192);
    let quotients: Vec<u32> = values.iter().map(|&w| q.factor(w).quotient).collect();
    let residues8 = residues(24 * 8192);
    let mut a = residues(8192);
    let (m, k, c) = (32, 72, 1024);
    let (w, x) = (residues(m * k), residues(k * c));
    let rows: Vec<&[u32]> = x.chunks_exact(c).collect();
    let scale = q.factor(12345);
    for round in 0..2 {
        for isa in Isa::available() {
            let t = best(|| ntt_forward_on(isa, &q, &values, &quotients, &mut a, 9..13));
            let ti = best(|| ntt_inverse_on(isa, &q, &values, &quotients, scale, &mut a, 9..13));
            let e = best(|| ntt_forward_on(isa, &q, &values, &quotients, &mut a, 1..9));
            println!("9..13 {t:.2} {ti:.2} 1..9 {e:.2}");
            let f = best(|| ntt_forward_on(isa, &q, &values, &quotients, &mut a, 0..13));
            let i = best(|| ntt_inverse_on(isa, &q, &values, &quotients, scale, &mut a, 0..13));
            let f3 = best(|| ntt_forward_on(isa, &q, &values, &quotients, &mut a, 0..3));
            let f10 = best(|| ntt_forward_on(isa, &q, &values, &quotients, &mut a, 3..13));
            let mut out = vec![0; m * c];
            let g = best(|| gemm_mod_on(isa, &q, &w, &rows, &mut out, c));
            let y = residues8.as_slice();
            let ys: Vec<&[u32]> = y.chunks_exact(8192).collect();
            let (mut o1, mut o2) = (vec![0; 8192], vec![0; 8192]);
            let ms =
                best(|| multiply_sum_on(isa, &q, &ys[..8], [&ys[8..16], &ys[16..24]], [&mut o1, &mut o2]));
            let ws = best(|| weighted_sum_on(isa, &q, &w[..9], &ys[..9], 5, &mut o1));
            let w1 = best(|| weighted_sum_on(isa, &q, &w[..1], &ys[..1], 5, &mut o1));
            let rs = best(|| rounded_sum_on(isa, &w[..7], &ys[..7], 59, &mut o1));
            println!("multiply_sum 8 {ms:.1} weighted_sum 9 {ws:.2} 1 {w1:.2} rounded 7 {rs:.2}");
            let mut acc = [3; CHAIN];
            let ch = best(|| multiply_add_chain_on(isa, &mut acc, 77777, 10000));
            println!("{round} {isa:?}: forward {f:.2} inverse {i:.2} 0..3 {f3:.2} 3..13 {f10:.2} gemm {:.2} G/s chain {:.2} G/s", (m*k*c) as f64 / g / 1e3, (CHAIN * 10000) as f64 / ch / 1e3);
        }
    }
}
