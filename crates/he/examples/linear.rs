//! Times and bytes of the linear layers of a model on this machine, and of results in slots:
//! `RAYON_NUM_THREADS=1 cargo run --release -p cryptogen-he --example linear [TOKENS...]`.
//!
//! The layers are GPT-2's (12 blocks, d = 768, without the head) with random weights of 16 bits.
//! Times are processor times, which others on the machine disturb least; transfers are not
//! included.

use cryptogen_he::linear::{evaluate, Inputs, Packing, Params, SecretKey, INPUT_BYTES, OUTPUT_BYTES};
use cryptogen_he::shares::{self, Nonces};
use cryptogen_he::{Combiner, Layout, ParamSet, N};
use cryptogen_ring::{Prg, Seed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOCKS: usize = 12;
/// Name, inputs, outputs.
const MATRICES: [(&str, usize, usize); 4] =
    [("qkv", 768, 2304), ("o", 768, 768), ("up", 768, 3072), ("down", 3072, 768)];
/// Results at a time.
const PIECE: usize = 128;

fn main() {
    let tokens: Vec<usize> = std::env::args().skip(1).map(|t| t.parse().expect("a number")).collect();
    let tokens = if tokens.is_empty() { vec![1024, 32] } else { tokens };
    println!("{} worker threads", rayon::current_num_threads());
    tokens.into_iter().for_each(layers);
    slots();
}

/// One block's matrices; the model's figures are 12 times that.
fn layers(tokens: usize) {
    let mut rng = Prg::new(&Seed::from_bytes([1; 32]));
    let nonces = Nonces { client: [1; 32], server: [2; 32] };
    let sk = SecretKey::generate(&mut rng);
    let pk = sk.public_key(&nonces, &mut rng).to_bytes();
    let pk = shares::PublicKey::from_bytes(Params::get().ring(), &nonces, &pk).expect("valid");
    let per_token = |seconds: f64| seconds * 1e3 / tokens as f64 * BLOCKS as f64;
    let (mut all_ms, mut all_bytes, mut worst) = ([0.0; 4], 0.0, 0);
    println!("T = {tokens}: ms of one core and KB for each token, 12 blocks");
    for (name, d_in, d_out) in MATRICES {
        let p = Packing::choose(tokens, d_in, d_out).expect("in range");
        let x = rng.fp_vec(tokens * d_in);
        let w: Vec<i16> = rng.fp_vec(d_in * d_out).iter().map(|x| x.value() as i16).collect();
        let row = |o: usize, row: &mut [i32]| {
            row.iter_mut().zip(&w[o * d_in..]).for_each(|(row, w)| *row = i32::from(*w));
        };
        let mut seconds = [0.0; 4];
        let mut inputs = Inputs::new(p);
        for start in (0..p.inputs()).step_by(PIECE) {
            let groups = start..(start + PIECE).min(p.inputs());
            let columns = p.columns(&groups).expect("in range");
            let x: Vec<_> = x.chunks(d_in).flat_map(|x| x[columns.clone()].iter().copied()).collect();
            let sent = timed(&mut seconds[0], || sk.encrypt(&p, groups, &x, &mut rng).expect("in range"));
            timed(&mut seconds[1], || inputs.add(&sent).expect("valid"));
        }
        for start in (0..p.outputs()).step_by(PIECE) {
            let outputs = start..(start + PIECE).min(p.outputs());
            let (results, server) = timed(&mut seconds[2], || {
                evaluate(&inputs, outputs.clone(), row, &pk, &mut rng).expect("valid")
            });
            let rows = p.rows(&outputs).expect("in range");
            let client = timed(&mut seconds[3], || sk.shares(&p, outputs, &results).expect("valid"));
            // The first token's first row, against the clear product.
            let w = &w[rows.start * d_in..];
            let clear = x[..d_in].iter().zip(w).map(|(&x, &w)| x * cryptogen_ring::Fp::from_i64(w as i64));
            worst = worst.max((client[0] + server[0] - clear.sum()).to_i64().unsigned_abs());
        }
        let bytes = (p.input_bytes() + p.output_bytes()) as f64 / tokens as f64 * BLOCKS as f64;
        let [encrypt, receive, multiply, decrypt] = seconds.map(per_token);
        println!(
            "{name:5} {} × {} inputs, {} × {} outputs: client {encrypt:.2} + {decrypt:.2}, server {receive:.2} + {multiply:.2} \
             ({:.1} G multiply-adds/s, transforms and hiding included), {:.0} KB",
            p.inputs(),
            p.f_in(),
            p.outputs(),
            p.f_out(),
            6.0 * (tokens * d_in * d_out) as f64 / seconds[2] / 1e9,
            bytes / 1e3
        );
        all_ms.iter_mut().zip([encrypt, receive, multiply, decrypt]).for_each(|(sum, ms)| *sum += ms);
        all_bytes += bytes;
    }
    let [encrypt, receive, multiply, decrypt] = all_ms;
    println!(
        "together: client {:.1} ms ({encrypt:.1} encrypting, {decrypt:.1} decrypting), server {:.1} ms ({receive:.1} receiving, \
         {multiply:.1} multiplying and hiding), {:.2} MB; {INPUT_BYTES} bytes an input, {OUTPUT_BYTES} a result; largest error seen {worst}",
        encrypt + decrypt,
        receive + multiply,
        all_bytes / 1e6
    );
}

/// Results in slots, the products apart.
fn slots() {
    let params = cryptogen_he::Params::get(ParamSet::N8192Q196);
    let mut rng = Prg::new(&Seed::from_bytes([2; 32]));
    let nonces = Nonces { client: [1; 32], server: [2; 32] };
    let sk = cryptogen_he::SecretKey::generate(params, &mut rng);
    let pk = sk.public_key(&nonces, &mut rng);
    for log_f in [0, 13] {
        let layout = Layout::new(log_f).expect("in range");
        let ct = sk.encrypt(&rng.fp_vec(N), layout, &mut rng).expect("N elements").expand(params);
        let results = 32;
        let mut combiner = Combiner::new(params, layout, results);
        combiner.add_block(&[ct], &rng.fp_vec(results * layout.slots())).expect("fits");
        let (mut finish, mut share) = (0.0, 0.0);
        let (messages, _) = timed(&mut finish, || combiner.finish_shares(&pk, &mut rng).expect("own key"));
        for message in messages.chunks_exact(shares::RESULT_BYTES) {
            timed(&mut share, || sk.share(message, layout).expect("whole"));
        }
        let each = |seconds: f64| seconds * 1e3 / results as f64;
        println!(
            "slots, F = {}: {} bytes a result, server {:.2} ms to hide it, client {:.2} ms for its share",
            layout.slots(),
            shares::RESULT_BYTES,
            each(finish),
            each(share)
        );
    }
}

/// The result, with the processor time that all threads took for it added.
fn timed<T>(seconds: &mut f64, f: impl FnOnce() -> T) -> T {
    let start = processor_seconds();
    let result = f();
    *seconds += processor_seconds() - start;
    result
}

/// Nanoseconds on a processor are the first number of each thread's `schedstat` (Linux).
fn processor_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let seconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.expect("a thread").path().join("schedstat"));
        let text = text.expect("a thread of this process");
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") * 1e-9
    });
    seconds.sum()
}
