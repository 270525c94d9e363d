//! One protocol between two parties: a secret table look-up, here of GELU (A3; note:
//! `docs/protocols/tables.md`). Two threads, a channel in memory, keys from the real offline phase.
//!
//!     cargo run --release -p cryptogen-protocols --example look_up

use std::thread;

use cryptogen_ot::{OtPair, Table, TableKey, TableShape};
use cryptogen_party::memory::{pair, MemoryChannel};
use cryptogen_party::{Channel, Client, Party, Server};
use cryptogen_protocols::share::local::{index, join, lift, rotation, sub_public};
use cryptogen_protocols::share::{Opened, Opening};
use cryptogen_protocols::{offline, online, Result};
use cryptogen_ring::{Fp, Prg, Seed, Word};
use rand_core::OsRng;

/// Fractional bits of `x`, index bits, log2 of a segment: 256 segments from −8 to 8.
const F: u32 = 12;
const K: u32 = 8;
const H: u32 = 8;
const START: i64 = -8 << F;

/// From a party's share of `x` at scale F, its share of `A[j]·x + B[j]` at scale 2F.
fn party<P: Party>(ch: &mut MemoryChannel, x: Fp, [a, b]: &[Table; 2]) -> Result<Word> {
    // Offline, before there is an x: a key of a random index, with a random payload β.
    let mut rng = Prg::new(&Seed::random(&mut OsRng));
    let (shape, beta) = (TableShape::new(K, 1)?, rng.word_vec(1));
    let mut transfers = OtPair::setup(P::ROLE, ch, &mut rng)?;
    let mut records = vec![];
    offline::tables::make::<P>(ch, &mut transfers, (shape, 1), &beta, &mut rng, &mut |_, _, bytes| {
        records.extend_from_slice(bytes);
        Ok(())
    })?;
    let key = TableKey::from_record(shape, &records)?;

    // Online, step 1: what each party sends of the index is padded by α, of the argument by β.
    let mine = rotation(index::<P>(sub_public::<P>(x, START), H, K), key.alpha(), K);
    let theirs = ch.exchange(P::ROLE.turn(), &(mine as u16).to_le_bytes(), 2)?;
    let (x, mut opening) = (lift::<P>(x), Opening::new());
    opening.masked_words(&[x], &beta);
    opening.send(ch)?;
    let delta = x - beta[0] + Opened::recv(ch, 1, 0)?.ring_words(1)?[0];

    // Step 2, local: both add up the rotation, expand their keys and take inner products.
    let rho = join(mine, u32::from(theirs[0]) | u32::from(theirs[1]) << 8, K);
    let sums = key.dot(P::ROLE, rho, &[a, b])?;
    Ok(online::tables::line(delta, &sums, shape.m()))
}

fn main() -> Result<()> {
    let tables = chords();
    for x in [-5.3, -1.0, -0.2, 0.0, 0.7, 2.5, 6.1] {
        let client = Prg::new(&Seed::random(&mut OsRng)).fp_vec(1)[0];
        let server = Fp::from_i64((x * UNIT) as i64) - client;
        let (mut c, mut s) = pair();
        let (y_c, y_s) = thread::scope(|scope| {
            let other = scope.spawn(|| party::<Server>(&mut s, server, &tables));
            (party::<Client>(&mut c, client, &tables), other.join().expect("no panic"))
        });
        let y = (y_c? + y_s?).0 as i64 as f64 / (UNIT * UNIT);
        println!("GELU({x:4}) = {y:7.4}, in the clear {:7.4}", gelu(x));
        assert!((y - gelu(x)).abs() < 0.005);
    }
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}

/// One at scale F.
const UNIT: f64 = (1 << F) as f64;

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x * x * x)).tanh())
}

/// Slopes at scale F and offsets at scale 2F. Piece `j` is met in segments `j` and `j + 1` (A2).
fn chords() -> [Table; 2] {
    let ends = |j: i64| [j, j + 2].map(|j| (START + (j << H)) as f64 / UNIT);
    let slope = |j: i64| {
        let [left, right] = ends(j);
        ((gelu(right) - gelu(left)) / (right - left) * UNIT).round()
    };
    let offset = |j: i64| (gelu(ends(j)[0]) * UNIT - slope(j) * ends(j)[0]) * UNIT;
    let a: Vec<i64> = (0..1 << K).map(|j| slope(j) as i64).collect();
    let b: Vec<i64> = (0..1 << K).map(|j| offset(j) as i64).collect();
    [Table::new(&a), Table::new(&b)]
}
