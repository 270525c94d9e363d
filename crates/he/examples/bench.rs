//! Times on this machine:
//! `RAYON_NUM_THREADS=1 cargo run --release -p cryptogen-he --example bench`.

use std::time::Instant;

use cryptogen_he::shares::{Nonces, RESULT_BYTES};
use cryptogen_he::{
    multiply_modulo, Ciphertext, Combiner, Layout, ParamSet, Params, SecretKey, SeededCiphertext, LOG_N, N,
};
use cryptogen_ring::{exponential, Prg, Seed};

fn main() {
    let params = Params::get(ParamSet::N8192Q196);
    let mut rng = Prg::new(&Seed::from_bytes([1; 32]));
    let sk = SecretKey::generate(params, &mut rng);
    let pk = sk.public_key(&Nonces { client: [1; 32], server: [2; 32] }, &mut rng);
    println!("{} worker threads", rayon::current_num_threads());
    for log_f in [0, 3, 13] {
        let layout = Layout::new(log_f).expect("in range");
        let message = rng.fp_vec(N);
        let (ct, t) = best(10, || sk.encrypt(&message, layout, &mut rng).expect("N elements"));
        println!("F = {:4}: encrypt {:.2} ms", layout.slots(), t * 1e3);
        let bytes = ct.to_bytes();
        let (ct, t) = best(10, || SeededCiphertext::from_bytes(params, layout, &bytes).expect("valid"));
        println!("F = {:4}: from_bytes {:.2} ms", layout.slots(), t * 1e3);
        let (_, t) = best(10, || ct.expand(params));
        println!("F = {:4}: expand {:.2} ms", layout.slots(), t * 1e3);
    }
    for (log_f, m, k) in [(3, 32, 72), (3, 64, 96), (0, 32, 576), (7, 32, 72), (13, 8, 8)] {
        let layout = Layout::new(log_f).expect("in range");
        let message = rng.fp_vec(N);
        let fresh = sk.encrypt(&message, layout, &mut rng).expect("N elements");
        let cts: Vec<Ciphertext> = (0..k).map(|_| fresh.expand(params)).collect();
        let weights = rng.fp_vec(m * k * layout.slots());
        let (mut add, mut finish, mut share) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
        for _ in 0..3 {
            let mut combiner = Combiner::new(params, layout, m);
            add = add.min(best(1, || combiner.add_block(&cts, &weights).expect("fits")).1);
            let mut combiner = Some(combiner);
            let mut take = || combiner.take().expect("once").finish_shares(&pk, &mut rng).expect("fits");
            let ((results, _), t) = best(1, &mut take);
            finish = finish.min(t);
            share = share.min(best(3, || sk.share(&results[..RESULT_BYTES], layout)).1);
        }
        let madds = (14 * m * k * N) as f64;
        println!(
            "F = {:4}, M = {m}, K = {k}: add_block {:.1} ms ({:.2} G multiply-adds/s), finish {:.2} ms each, share {:.2} ms",
            layout.slots(),
            add * 1e3,
            madds / add / 1e9,
            finish * 1e3 / m as f64,
            share * 1e3
        );
    }
    for (prime, t) in exponential::PRIMES.iter().enumerate() {
        let mut numbers = || (0..N).map(|_| exponential::uniform(prime, &mut rng)).collect::<Vec<u64>>();
        let (x, y) = (numbers(), numbers());
        let (ct, encrypt) = best(20, || sk.encrypt_modulo(prime, &x, &mut rng).expect("N numbers"));
        let bytes = ct.to_bytes();
        let slots = Layout::new(LOG_N).expect("in range");
        let ((result, _), multiply) = best(20, || {
            let ct = SeededCiphertext::from_bytes(params, slots, &bytes).expect("valid");
            multiply_modulo(params, prime, &ct, &y, &pk, &mut rng).expect("N numbers")
        });
        let (_, share) = best(20, || sk.share_modulo(prime, &result).expect("a result"));
        println!(
            "modulo {t:20}: client {:.2} + {:.2} ms, server {:.2} ms for {N} products",
            encrypt * 1e3,
            share * 1e3,
            multiply * 1e3
        );
    }
}

/// The last result and the shortest time in seconds.
fn best<T>(repetitions: usize, mut f: impl FnMut() -> T) -> (T, f64) {
    let mut shortest = f64::INFINITY;
    let mut result = None;
    for _ in 0..repetitions {
        let start = Instant::now();
        result = Some(f());
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    (result.expect("at least one repetition"), shortest)
}
