//! Times the generation of table keys (both parties in one process) and their use.
//!
//! `cargo run --release -p cryptogen-ot --example bench [tables]`

use std::num::Wrapping;
use std::time::Instant;

use cryptogen_ot::{cost, generate, DotScratch, OtError, OtPair, Table, TableBatch, TableKey, TableShape};
use cryptogen_party::{memory, Role};
use cryptogen_ring::{Prg, Seed};
use rand_core::RngCore;

/// Batches generated; the best counts.
const BATCHES: usize = 5;
/// Tables used in one timed run.
const RUN: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n = std::env::args().nth(1).map_or(Ok(8192), |s| s.parse())?;
    let shapes = [
        TableShape::new(9, 1)?,
        TableShape::new(7, 2)?,
        TableShape::drawn(6, 2)?,
        TableShape::drawn(7, 2)?,
        TableShape::drawn(8, 2)?,
    ];
    for shape in shapes {
        let (mut client, mut server) = memory::pair();
        let (client, server) = std::thread::scope(|scope| {
            let server = scope.spawn(move || party(Role::Server, &mut server, shape, n));
            (party(Role::Client, &mut client, shape, n), server.join().expect("server thread"))
        });
        let ((client, seconds), (_server, _)) = (client?, server?);
        let cost = cost(shape, n);
        println!(
            "k={} m={}{}: generation {:.2} us per table, both parties on this machine; {} + {} bytes per table, {} messages",
            shape.k(),
            shape.m(),
            if shape.is_drawn() { " drawn" } else { "" },
            seconds * 1e6 / n as f64,
            cost.client_bytes / n,
            cost.server_bytes / n,
            cost.messages
        );

        let mut rng = Prg::new(&Seed::from_bytes([5; 32]));
        let mut table = || Table::new(&(0..shape.size()).map(|_| rng.next_u64() as i64).collect::<Vec<_>>());
        // Those of a linear or quadratic piece.
        let all: Vec<Table> = (0..shape.m()).map(|_| table()).collect();
        let tables: Vec<&Table> = all.iter().collect();
        let (mut scratch, mut out) = (DotScratch::new(), vec![Wrapping(0); tables.len() * shape.m()]);
        // The best of short runs: what other processes take away does not count.
        let mut best = f64::INFINITY;
        for run in 0..n / RUN {
            let start = Instant::now();
            for i in run * RUN..(run + 1) * RUN {
                let key = TableKey::from_record(shape, client.record(i))?;
                key.dot_into(Role::Client, i as u32, &tables, &mut scratch, &mut out)?;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let seconds = best * 1e6 / RUN as f64;
        println!("    look-up, {} tables: {seconds:.2} us per table, one core", tables.len());
    }
    Ok(())
}

/// The last batch and the best time of a batch in seconds.
fn party(
    role: Role,
    channel: &mut memory::MemoryChannel,
    shape: TableShape,
    n: usize,
) -> Result<(TableBatch, f64), OtError> {
    let mut rng = Prg::new(&Seed::from_bytes([role.index() as u8; 32]));
    let start = Instant::now();
    let mut pair = OtPair::setup(role, channel, &mut rng)?;
    if role == Role::Client {
        println!("base transfers, both directions: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let betas = rng.word_vec(n * shape.given());
    let (mut last, mut best) = (None, f64::INFINITY);
    for _ in 0..BATCHES {
        let start = Instant::now();
        last = Some(generate(channel, &mut pair, shape, n, &betas, &mut rng)?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok((last.expect("at least one batch"), best))
}
