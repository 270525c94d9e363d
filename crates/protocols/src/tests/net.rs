//! What exponentials outside of their windows become, and how much of it the net of 1/σ lets
//! through (A4, A9).

use cryptogen_party::{Client, Party, Server};
use cryptogen_ring::exponential::{
    factors_client, factors_server, multiply_add, subtract, uniform, weight_client, weight_server,
    MAX_PRIMES, MODULUS_BITS,
};
use cryptogen_ring::{Fp, Prg};

use super::{between, rng};
use crate::model::{Range, Scalar, F, NET_BITS, NET_SHIFT};
use crate::share::local::{index, join, trunc};

/// Sums of σ per number of primes.
const SUMS: usize = 1 << 13;
/// Bits of a weight at its anchor.
const BITS: u32 = 8;

/// Both parties' shares of the weight of a score, as they come out of fresh material.
fn weight(x: i64, primes: usize, bottom: u32, shift: u32, rng: &mut Prg) -> [Fp; 2] {
    let c = rng.fp_vec(1)[0];
    let (mut a, mut b) = (vec![0; primes], vec![0; primes]);
    factors_client(c, &mut a);
    factors_server(Fp::from_i64(x) - c, bottom, &mut b);
    let client: Vec<u64> = (0..primes).map(|i| uniform(i, rng)).collect();
    let server: Vec<u64> =
        (0..primes).map(|i| subtract(i, multiply_add(i, 0, a[i], b[i]), client[i])).collect();
    [weight_client(&client, shift), weight_server(&server, shift)]
}

/// A 1/σ whose window ends at `2^44`.
fn scalar() -> Scalar {
    Scalar { hi: Range { mu: 22, h: 6, k: 16, a: 0, b: 0, g: 0, z: None }, lo: None, out_shift: 1 }
}

/// Whether the net catches a sum.
fn caught([c, s]: [Fp; 2]) -> bool {
    fn part<P: Party>(x: Fp) -> u32 {
        let lifted = x * Fp::new(1 << scalar().net_lift());
        index::<P>(trunc::<P>(lifted, NET_SHIFT), scalar().net_segment(), NET_BITS)
    }
    let j = join(part::<Client>(c), part::<Server>(s), NET_BITS);
    j > 2 && j + 1 != 1 << NET_BITS
}

fn add(sum: [Fp; 2], [c, s]: [Fp; 2]) -> [Fp; 2] {
    [sum[0] + c, sum[1] + s]
}

/// A sum of σ over several rows of heads, with what else is in it.
fn sum(primes: usize, other: Option<i64>, rng: &mut Prg) -> [Fp; 2] {
    // The shortest shares that a plan may have.
    let shift = MODULUS_BITS[primes] - 58;
    let bottom = shift + BITS - 20;
    let scores = (0..12).map(|_| between(rng, -20 << F, 6 << F)).chain(other).collect::<Vec<_>>();
    scores.into_iter().map(|x| weight(x, primes, bottom, shift, rng)).fold([Fp::ZERO; 2], add)
}

#[test]
fn honest_sums_are_not_caught() {
    let rng = &mut rng(120);
    for primes in 2..=MAX_PRIMES {
        assert!((0..SUMS / 8).all(|_| !caught(sum(primes, None, rng))), "{primes} primes");
        // Up to where it begins, and no further.
        for (score, bits) in [(35i64, 43), (39, 47), (45, 53)] {
            let caught = (0..64).filter(|_| caught(sum(primes, Some(score << F), rng))).count();
            assert_eq!(caught, if bits < 44 { 0 } else { 64 }, "a weight of {bits} bits");
        }
    }
}

#[test]
fn garbage_below_the_window_is_caught() {
    let rng = &mut rng(121);
    let (mut garbage, mut missed) = (0, 0);
    for (primes, bits) in MODULUS_BITS.iter().enumerate().skip(2) {
        let bottom = i64::from(bits - 58 + BITS - 20);
        for i in 0..SUMS {
            let below = [between(rng, 0, 20), between(rng, 20, 40), between(rng, 40, 5000)][i % 3];
            let x = -((bottom + below) << F) + between(rng, 0, 1 << F);
            let sum = sum(primes, Some(x), rng);
            // A little below, both mantissas together may have all factors of two that are missing:
            // then the exponential is right, and nothing is left of it.
            if (sum[0] + sum[1]).to_i64().unsigned_abs() > 1 << 20 {
                garbage += 1;
                missed += usize::from(!caught(sum));
            }
        }
    }
    // Four of the 2^12 indices are not guarded.
    let expected = f64::from(garbage) / f64::from(1 << (NET_BITS - 2));
    println!("{missed} of {garbage} sums with garbage are missed; {expected:.1} are expected");
    assert!(garbage as usize > SUMS * 4 && (missed as f64 - expected).abs() < 5.0 * expected.sqrt());
}
