//! The lattice operations' speed and distance from the machine's limits, on one thread:
//! `make bench-kernels`.

#[path = "../../ring/benches/support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use cryptogen_he::evaluate::{self, Context, Evaluator, Plaintext};
use cryptogen_he::{Ciphertext, Combiner, Layout, ParamSet, Params, N};
use cryptogen_ring::kernels::Isa;
use cryptogen_ring::{Prg, Seed};
use support::{Report, Work};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Limbs of an online ciphertext, and with the special prime; limbs of the preparation's.
const LIMBS: usize = 8;
const EXTENDED: usize = 9;
const COMBINED: usize = 7;
/// Products of a transform: 13 levels of N / 2 butterflies of three
/// (`crates/ring/benches/kernels.rs`).
const TRANSFORM: usize = 3 * 13 * N / 2;
/// Summands of a ct × pt sum.
const TERMS: usize = 64;

fn main() {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("no pool yet");
    let mut report = Report::new();
    online(&mut report);
    combination(&mut report);
    report.print();
}

/// Ciphertexts that are computed on online: sums of ct × pt, rotations.
fn online(report: &mut Report) {
    let (context, mut rng, isa) = (Context::get(), Prg::new(&Seed::from_bytes([1; 32])), Isa::best());
    let secret = evaluate::SecretKey::generate(context, &mut rng);
    let keys = secret.evaluation_keys(&BTreeSet::from([1]), &mut rng);
    let evaluator = Evaluator::new(context, &keys);
    let cts: Vec<_> = (0..TERMS)
        .map(|_| secret.encrypt(&rng.fp_vec(N), &mut rng).expect("N slots").expand(context))
        .collect();
    let pts: Vec<_> =
        (0..TERMS).map(|_| Plaintext::encode(context, &rng.fp_vec(N)).expect("N slots")).collect();
    let (cts, pts): (Vec<_>, Vec<_>) = (cts.iter().collect(), pts.iter().collect());
    let work = Work {
        bytes: 4 * N * LIMBS * (3 * TERMS + 2),
        multiply_adds: 2 * TERMS * LIMBS * N,
        ..Work::default()
    };
    report.time(&format!("dot_plain, {TERMS} terms"), isa, work, || evaluator.dot_plain(&cts, &pts));

    let inner = 2 * LIMBS * EXTENDED * N;
    // Eight residues back, each forward to the other eight primes; the division by P: two back, two
    // for each limb forward.
    let (digits, divide) = (LIMBS + LIMBS * (EXTENDED - 1), 2 + 2 * LIMBS);
    let work = |transforms, inner| Work { multiply_adds: transforms * TRANSFORM + inner, ..Work::default() };
    let ct = evaluator.rotate(cts[0], 1).expect("a key"); // in the transform domain
    report.time("rotation", isa, work(digits + divide, inner), || evaluator.rotate(&ct, 1));
    report.time("hoisting", isa, work(digits, 0), || evaluator.hoist(&ct));
    let hoisted = evaluator.hoist(&ct);
    report.time("hoisted rotation", isa, work(divide, inner), || hoisted.rotate(1));
}

/// The preparation's `Combiner`: `M` sums of `K` ciphertexts with slot-wise weights.
fn combination(report: &mut Report) {
    let (params, mut rng) = (Params::get(ParamSet::N8192Q196), Prg::new(&Seed::from_bytes([1; 32])));
    let secret = cryptogen_he::SecretKey::generate(params, &mut rng);
    for (log_f, m, k) in [(0, 32, 576), (3, 32, 72), (7, 32, 72)] {
        let layout = Layout::new(log_f).expect("in range");
        let fresh = secret.encrypt(&rng.fp_vec(N), layout, &mut rng).expect("N elements");
        let cts: Vec<Ciphertext> = (0..k).map(|_| fresh.expand(params)).collect();
        let weights = rng.fp_vec(m * k * layout.slots());
        let work = Work { multiply_adds: 2 * COMBINED * m * k * N, ..Work::default() };
        report.time_prepared(
            &format!("combination F={} M={m} K={k}", layout.slots()),
            Isa::best(),
            work,
            || Combiner::new(params, layout, m),
            |mut combiner| combiner.add_block(&cts, &weights),
        );
    }
}
