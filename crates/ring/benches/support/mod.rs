//! Criterion with the distance from the machine's limits, which are measured in the same run, on
//! one thread: bytes against reading or copying memory (the faster), multiply-adds (32 × 32 → 64
//! bits) against a loop of nothing else, AES rounds (10 for AES-128, 14 for AES-256) against the
//! fixed-key hash of blocks in the first-level cache.
//!
//! Times are the best sample of each: a limit is about what the machine can do. Criterion's own
//! statistics come before.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use cryptogen_ring::kernels::{multiply_add_chain_on, FixedKey, Isa, CHAIN};

/// What a call does at least. Bytes only where they come from memory, not from a cache.
#[derive(Copy, Clone, Default)]
pub struct Work {
    pub bytes: usize,
    pub multiply_adds: usize,
    pub aes_rounds: usize,
}

/// Per second.
struct Limits {
    bytes: f64,
    multiply_adds: Vec<(Isa, f64)>,
    aes_rounds: f64,
}

struct Row {
    name: String,
    isa: Isa,
    work: Work,
    seconds: f64,
}

pub struct Report {
    criterion: Criterion,
    limits: Limits,
    rows: Vec<Row>,
}

impl Report {
    /// Measures the limits.
    pub fn new() -> Report {
        let criterion = Criterion::default()
            .without_plots()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(500))
            .configure_from_args();
        let limits = Limits { bytes: 0.0, multiply_adds: vec![], aes_rounds: 0.0 };
        let mut report = Report { criterion, limits, rows: vec![] };

        let (from, mut to) = (vec![1u64; 8 << 20], vec![0; 8 << 20]);
        let bytes = (8 * from.len()) as f64;
        let read = |()| black_box(&from).iter().fold(0, |sum, &x| sum ^ x);
        let read = bytes / report.sample("limit/memory read", || (), read);
        let copy = |()| to.copy_from_slice(black_box(&from));
        let copy = 2.0 * bytes / report.sample("limit/memory copy", || (), copy);
        report.limits.bytes = read.max(copy);
        for isa in Isa::available() {
            let n = 10_000;
            let mut acc: [u64; CHAIN] = std::array::from_fn(|i| i as u64);
            let chain = |()| multiply_add_chain_on(isa, black_box(&mut acc), black_box(77_777_777), n);
            let seconds = report.sample(&format!("limit/multiply-adds {isa:?}"), || (), chain);
            report.limits.multiply_adds.push((isa, (CHAIN * n) as f64 / seconds));
        }
        let (key, mut blocks) = (FixedKey::new(&[7; 16]), [1u128; 1024]);
        let seconds = report.sample("limit/AES", || (), |()| key.mmo(black_box(&mut blocks)));
        report.limits.aes_rounds = 10.0 * blocks.len() as f64 / seconds;
        report
    }

    /// A kernel that is called again and again.
    pub fn time<T>(&mut self, name: &str, isa: Isa, work: Work, mut call: impl FnMut() -> T) {
        self.time_prepared(name, isa, work, || (), |()| call());
    }

    /// A kernel that needs something new for each call, which is not timed.
    pub fn time_prepared<S, T>(
        &mut self,
        name: &str,
        isa: Isa,
        work: Work,
        prepare: impl FnMut() -> S,
        call: impl FnMut(S) -> T,
    ) {
        let seconds = self.sample(name, prepare, call);
        self.rows.push(Row { name: name.to_string(), isa, work, seconds });
    }

    /// The best sample; infinite if the command line's filter leaves it out.
    fn sample<S, T>(
        &mut self,
        name: &str,
        mut prepare: impl FnMut() -> S,
        mut call: impl FnMut(S) -> T,
    ) -> f64 {
        let mut best = f64::INFINITY;
        let mut group = self.criterion.benchmark_group("kernels");
        // the same number of calls each time, also of slow ones
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(name, |b| {
            b.iter_custom(|n| {
                let mut total = Duration::ZERO;
                // Groups of calls: reading the clock must not count where a call takes a
                // microsecond.
                let mut left = n;
                while left > 0 {
                    let inputs: Vec<S> = (0..left.min(16)).map(|_| prepare()).collect();
                    left -= inputs.len() as u64;
                    let start = Instant::now();
                    for input in inputs {
                        black_box(call(input));
                    }
                    total += start.elapsed();
                }
                best = best.min(total.as_secs_f64() / n as f64);
                total
            })
        });
        group.finish();
        best
    }

    /// The table.
    pub fn print(self) {
        let limits = &self.limits;
        println!(
            "\nOne thread. Limits: memory {:.1} GB/s; AES {:.1} G rounds/s; multiply-adds",
            limits.bytes / 1e9,
            limits.aes_rounds / 1e9
        );
        for (isa, rate) in &limits.multiply_adds {
            println!("    {isa:?} {:.1} G/s", rate / 1e9);
        }
        println!(
            "\n{:46} {:>11} {:>18} {:>20} {:>20}",
            "kernel", "us", "GB/s, of memory", "G madd/s, of limit", "G rounds/s, of limit"
        );
        for row in self.rows.iter().filter(|row| row.seconds.is_finite()) {
            let isa = limits.multiply_adds.iter().find(|(isa, _)| *isa == row.isa).expect("measured").1;
            let column = |work: usize, limit: f64, unit: f64| match work {
                0 => String::new(),
                _ if limit == 0.0 => String::new(), // left out by the filter
                _ => {
                    let rate = work as f64 / row.seconds;
                    format!("{:.2} {:4.0} %", rate / unit, 100.0 * rate / limit)
                }
            };
            println!(
                "{:46} {:11.2} {:>18} {:>20} {:>20}",
                row.name,
                row.seconds * 1e6,
                column(row.work.bytes, limits.bytes, 1e9),
                column(row.work.multiply_adds, isa, 1e9),
                column(row.work.aes_rounds, limits.aes_rounds, 1e9)
            );
        }
    }
}
