//! Speed of the kernels on this machine: `cargo run --release -p cryptogen-ring --example kernels`.

use std::time::Instant;

use cryptogen_ring::kernels::{gemm_mod_on, matvec_i16_rows_on, multiply_add_on, Isa, SplitInput};
use cryptogen_ring::{Fp, FpNtt, Modulus, Ntt, Prg, Seed};
use rand_core::RngCore;

fn main() {
    let q = Modulus::new(268_369_921);
    let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
    let mut residues = |n: usize| (0..n).map(|_| prg.next_u32() % q.value()).collect::<Vec<u32>>();
    let (m, k, c) = (32, 72, 1024);
    let (w, x) = (residues(m * k), residues(k * c));
    let rows: Vec<&[u32]> = x.chunks_exact(c).collect();
    let (a, b) = (residues(8192), residues(8192));
    let weights: Vec<i16> = residues(3072 * 768).iter().map(|&v| v as i16).collect();
    let vectors: Vec<Fp> = residues(4 * 768).iter().map(|&v| Fp::new(v as u64 * v as u64)).collect();
    for isa in Isa::available() {
        let mut out = vec![0; m * c];
        let s = seconds(|| gemm_mod_on(isa, &q, &w, &rows, &mut out, c));
        println!("{isa:?} gemm 32x72x1024: {:.2} G multiply-adds/s", (m * k * c) as f64 / s / 1e9);
        let mut out = vec![0; 8192];
        let s = seconds(|| multiply_add_on(isa, &q, &a, &b, &mut out));
        println!("{isa:?} multiply_add 8192: {:.2} us", s * 1e6);
        for t in [1, 4] {
            let input = SplitInput::new(&vectors[..t * 768], 768);
            let mut out = vec![Fp::ZERO; 3072 * t];
            let s = seconds(|| matvec_i16_rows_on(isa, &weights, &input, &mut out));
            println!(
                "{isa:?} matvec_i16 3072x768, T={t}: {:.2} G multiply-adds/s",
                (3072 * 768 * t) as f64 / s / 1e9
            );
        }
    }
    let ntt = Ntt::new(q, 13);
    let mut v = a.clone();
    println!("Ntt 8192 forward: {:.1} us", seconds(|| ntt.forward(&mut v, 0..13)) * 1e6);
    println!("Ntt 8192 inverse: {:.1} us", seconds(|| ntt.inverse(&mut v, 0..13)) * 1e6);
    let fp = FpNtt::new(13);
    let mut v = prg.fp_vec(8192);
    println!("FpNtt 8192 forward: {:.1} us", seconds(|| fp.forward(&mut v, 13)) * 1e6);
    println!("FpNtt 8192 inverse: {:.1} us", seconds(|| fp.inverse(&mut v, 13)) * 1e6);
    let mut v = vec![Fp::ZERO; 1 << 16];
    println!("Prg fill_fp: {:.2} GB/s", (8 << 16) as f64 / seconds(|| prg.fill_fp(&mut v)) / 1e9);
}

/// The best of several repetitions: the machine is shared.
fn seconds(mut f: impl FnMut()) -> f64 {
    (0..60)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}
