//! Times of the online ciphertexts' operations:
//! `RAYON_NUM_THREADS=1 cargo run --release -p cryptogen-he --example evaluate`.
//!
//! Beside each figure SEAL 4.1 without HEXL at N = 8192, log2 q = 218 (design/paper.md; thread CPU
//! time on the reference machine).

use std::collections::BTreeSet;
use std::time::Instant;

use cryptogen_he::evaluate::{Context, Evaluator, Plaintext, SecretKey, N};
use cryptogen_ring::{Modulus, Ntt, Prg, Seed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let (context, mut rng) = (Context::get(), Prg::new(&Seed::from_bytes([1; 32])));
    println!("{} worker threads; log2 qP = {:.1}", rayon::current_num_threads(), context.log_q());
    let secret = SecretKey::generate(context, &mut rng);
    let keys = secret.evaluation_keys(&BTreeSet::from([1]), &mut rng);
    let evaluator = Evaluator::new(context, &keys);
    let slots = rng.fp_vec(N);
    let encrypt = |rng: &mut Prg| secret.encrypt(&slots, rng).expect("N slots");
    let ct = encrypt(&mut rng).expand(context);
    let plaintexts: Vec<Plaintext> =
        (0..64).map(|_| Plaintext::encode(context, &rng.fp_vec(N)).expect("N slots")).collect();
    let (cts, pts): (Vec<_>, Vec<_>) = plaintexts.iter().map(|p| (&ct, p)).unzip();
    let (left, right) = (evaluator.left(&ct), evaluator.right(&ct));
    let pairs = [(&left, &right); 16];
    let ntt = Ntt::new(Modulus::new(18_006_017), 13);
    let mut polynomial = vec![1; N];

    let ntt_us = microseconds(200, || ntt.forward(&mut polynomial, 0..13));
    report("transform of one prime", ntt_us, Some(121.0));
    // Nine small primes are as many bits as SEAL's four: log2 qP = 214 and 218.
    report("transform of all 9 primes, SEAL's 4", 9.0 * ntt_us, Some(4.0 * 121.0));
    report("encrypt", microseconds(20, || encrypt(&mut rng)), None);
    report("expand", microseconds(20, || encrypt(&mut rng).expand(context)), None);
    report("encode a plaintext", microseconds(50, || Plaintext::encode(context, &slots)), None);
    let sum = microseconds(20, || evaluator.dot_plain(&cts, &pts)) / 64.0;
    report("ct × pt, in a sum of 64", sum, Some(145.0));
    report("rotation", microseconds(50, || evaluator.rotate(&ct, 1)), Some(2360.0));
    let hoisted = evaluator.hoist(&ct);
    report("hoisted rotation", microseconds(50, || hoisted.rotate(1)), None);
    report("hoisting", microseconds(50, || evaluator.hoist(&ct)), None);
    report("left operand", microseconds(50, || evaluator.left(&ct)), None);
    report("right operand", microseconds(50, || evaluator.right(&ct)), None);
    let product = microseconds(50, || evaluator.dot(&[(&left, &right)]));
    report("ct × ct and relinearisation of prepared operands", product, None);
    let whole = microseconds(50, || evaluator.dot(&[(&evaluator.left(&ct), &evaluator.right(&ct))]));
    report("ct × ct and relinearisation, operands included", whole, Some(9100.0 + 2340.0));
    report("16 × (ct × ct) in one sum", microseconds(20, || evaluator.dot(&pairs)), None);
    let masks = rng.fp_vec(N);
    let result = evaluator.dot(&[(&left, &right)]).expect("keys");
    report("mask and shrink", microseconds(20, || evaluator.mask(&result, &masks, &mut rng)), None);
    let masked = evaluator.mask(&result, &masks, &mut rng).expect("fits");
    report("decrypt", microseconds(20, || secret.decrypt(&masked)), None);
}

fn report(what: &str, us: f64, seal: Option<f64>) {
    match seal {
        Some(seal) => println!("{what:52} {us:9.0} us   SEAL {seal:6.0} us   {:.1}x", seal / us),
        None => println!("{what:52} {us:9.0} us"),
    }
}

/// The median time of a call.
fn microseconds<T>(repetitions: usize, mut f: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(f());
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[repetitions / 2]
}
