//! Any inputs at all: the steps equal `docs/protocols/arithmetic.md` far outside all windows too,
//! events included.
//!
//! [`Wild`] computes modulo p and modulo `2^64`, from both parties' shares where it knows them,
//! otherwise from their logs, which must be what shares of the right value give. So a wrong wrap is
//! not assumed to be impossible, only to be rare for small values.

mod exp2;
mod model;

use cryptogen_ring::exponential::{MAX_PRIMES, MODULUS_BITS};
use cryptogen_ring::{Fp, Prg, P};
use rand_core::RngCore;
use serde_json::{json, Value};

use self::model::{Met, Pair, Wild};
use super::dealer::{insecure_deal, Session};
use super::online::events;
use super::steps::{run_step, Out, Step};
use super::tiny::{build_with, Settings, Tiny, BOTH};
use super::{between, rng};
use crate::model::Site;

const PLANS: u8 = 8;
const ROWS: usize = 3;
const LARGEST: i64 = (1 << 46) - 1;

/// Overwrites every shift, window, anchor and table of the steps with random ones; the ends of what
/// is allowed are likely.
fn scramble(plan: &mut Value, tables: &mut [Vec<i64>], rng: &mut Prg) {
    let mut pick = |low: i64, high: i64| match rng.next_u64() % 4 {
        0 => low,
        1 => high - 1,
        _ => between(rng, low, high),
    };
    let mut bits = vec![];
    /// One more than the largest h for a k.
    fn segment(k: &Value) -> i64 {
        33 - k.as_i64().expect("a number")
    }
    fn scalar(s: &mut Value, pick: &mut impl FnMut(i64, i64) -> i64, bits: &mut Vec<Value>) {
        s["out_shift"] = json!(pick(1, 33));
        for range in ["hi", "lo"].into_iter().filter(|r| !s[*r].is_null()).collect::<Vec<_>>() {
            let (h, k) = (pick(1, segment(&s[range]["k"])), s[range]["k"].as_i64().expect("a number"));
            // The net reaches to 2^54.
            (s[range]["mu"], s[range]["h"]) = (json!(pick(1, 33.min(55 - h - k))), json!(h));
            bits.extend([s[range]["g"].clone(), s[range]["z"].clone()]);
        }
    }
    let list = |value: &mut Value| value.as_array_mut().expect("a list").iter_mut().collect::<Vec<_>>().len();
    for n in 0..list(&mut plan["norms"]) {
        plan["norms"][n]["pre_shift"] = json!(pick(0, 33));
        scalar(&mut plan["norms"][n]["scalar"], &mut pick, &mut bits);
    }
    for l in 0..list(&mut plan["attention"]) {
        for g in 0..list(&mut plan["attention"][l]["heads"]) {
            let head = &mut plan["attention"][l]["heads"][g];
            head["anchor"] = json!(["first", "own", "both", "spread", "own_spread"][pick(0, 5) as usize]);
            scalar(&mut head["scalar"], &mut pick, &mut bits);
            let primes = pick(2, MAX_PRIMES as i64 + 1);
            // Weights of 1 to 24 bits, whose shares are 58 bits and longer.
            let shift = pick(1, i64::from(MODULUS_BITS[primes as usize]) - 57);
            let bottom = pick((shift - 19).max(1), shift + 5);
            (head["primes"], head["bottom"], head["shift"]) = (json!(primes), json!(bottom), json!(shift));
            head["o_shift"] = json!(pick(0, 33));
        }
    }
    for l in 0..list(&mut plan["activations"]) {
        let most = segment(&plan["activations"][l]["k"]);
        for w in 0..list(&mut plan["activations"][l]["windows"]) {
            let window = &mut plan["activations"][l]["windows"][w];
            window["h"] = json!(pick(1, most));
            bits.push(window["g"].clone());
        }
    }
    for (_, linear) in plan["linears"].as_object_mut().expect("an object") {
        for shift in linear["in_shift"].as_array_mut().expect("a list") {
            *shift = json!(pick(0, 33));
        }
    }
    for l in 0..list(&mut plan["rope"]) {
        if !plan["rope"][l].is_null() {
            plan["rope"][l]["bits"] = json!(pick(0, 33));
        }
    }
    let bits: Vec<usize> = bits.iter().filter_map(Value::as_u64).map(|id| id as usize).collect();
    for (id, table) in tables.iter_mut().enumerate() {
        let (low, high) = if bits.contains(&id) { (0, 2) } else { (-LARGEST, LARGEST + 1) };
        let edge = pick(0, 8);
        for entry in table.iter_mut() {
            *entry = match edge {
                0 => low,
                1 => high - 1,
                _ => pick(low, high),
            };
        }
    }
}

/// Where inputs lie.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Regime {
    /// in every window that is not very small
    Inside,
    /// around powers of two: ends of windows, and what no window reaches
    Ends,
    /// anywhere in the field
    Anywhere,
    /// the server's shares lie at the ends of the field, where they wrap the other way
    Wrapped,
}
use Regime::{Anywhere, Ends, Inside, Wrapped};

/// The server's shares of inputs whose shares the client has.
fn inputs(regime: Regime, client: &[Fp], width: usize, rng: &mut Prg) -> Vec<Fp> {
    let mut exponents = vec![];
    (client.iter().enumerate())
        .map(|(i, c)| {
            if i % width == 0 {
                // Rows of one size now and then, so that sums of squares are of that size too.
                exponents = match rng.next_u64() % 2 {
                    0 => vec![between(rng, 1, 63)],
                    _ => (0..width).map(|_| between(rng, 1, 63)).collect(),
                };
            }
            let near = between(rng, -2, 3);
            let x = match regime {
                Inside => Fp::from_i64(between(rng, -(1 << 12), 1 << 12)),
                Ends => {
                    let end = (1i64 << exponents[i % width % exponents.len()]) + near;
                    Fp::from_i64(if rng.next_u64().is_multiple_of(2) { end } else { -end })
                }
                Anywhere => rng.fp_vec(1)[0],
                Wrapped => {
                    let ends = [0, 1, 1 << 32, P / 2, P - (1 << 32), P - 1];
                    Fp::new(ends[rng.next_u64() as usize % ends.len()]) + Fp::from_i64(near) + *c
                }
            };
            x - *c
        })
        .collect()
}

fn pairs(client: &[Fp], server: &[Fp]) -> Vec<Pair> {
    client.iter().zip(server).map(|(c, s)| [*c, *s]).collect()
}

/// Runs a step on inputs of a regime and compares.
fn check(tiny: &Tiny, session: &Session, step: Step, regime: Regime, rng: &mut Prg) -> Met {
    let (mut client, mut server) = session.active(tiny, 0..ROWS);
    let (mut shares, width) =
        (step.share(tiny, session, 0..ROWS, &vec![0; ROWS * step.width(tiny)]), step.width(tiny));
    let masks = match step {
        Step::Logits => session.heads.concat(),
        _ => shares.0.data.to_vec(),
    };
    let x = inputs(regime, &masks, width, rng);
    shares.1.data.copy_from_slice(&x);
    let x = pairs(&masks, &x);
    let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
    let (out, next) = (c.result.expect("an honest client"), s.result.expect("an honest server"));
    let mut wild = Wild::new(tiny, client.trace.insecure_take(), server.trace.insecure_take());
    let layers = tiny.plan.model.layers;
    let entered = |site: Site| -> Vec<Pair> {
        let r = |i: usize| match site {
            Site::Head => session.heads[i].clone(),
            _ => session.known[i].inputs[site.index(layers)].clone(),
        };
        pairs(&(0..ROWS).flat_map(r).collect::<Vec<_>>(), &next.as_ref().expect("a next input").data)
    };
    match step {
        Step::Norm(site) => {
            let x = wild.norm(&x, site);
            wild.enter(&x, site, &entered(site));
        }
        Step::Attention(l) => {
            let x = wild.attention(&x, l);
            wild.enter(&x, Site::O(l), &entered(Site::O(l)));
        }
        Step::Activation(l) => {
            let x = wild.activation(&x, l);
            wild.enter_words(&x, Site::Down(l), &entered(Site::Down(l)));
        }
        Step::Logits => {
            let Out::Logits((logits, counted)) = out else { panic!("logits") };
            assert_eq!((logits, counted), (wild.logits(&x), vec![0; ROWS]));
        }
    }
    wild.finish();
    assert_eq!(events(&client, &server), (wild.events, 0));
    wild.met
}

#[test]
fn every_input_is_computed_as_the_arithmetic_says() {
    let (mut outside, mut met) = (0, [0; 4]);
    for arch in BOTH {
        for seed in 0..PLANS {
            let mut rng = rng(150 + 2 * seed + arch as u8);
            let tiny = build_with(&Settings::of(arch), |plan, tables| scramble(plan, tables, &mut rng));
            let session = insecure_deal(&tiny, 1, ROWS, ROWS, seed).remove(0);
            for regime in [Inside, Ends, Anywhere, Wrapped] {
                let norms = [Site::Qkv(0), Site::Up(1), Site::Head].map(Step::Norm);
                let layers = [0, 1].map(|l| [Step::Attention(l), Step::Activation(l)]).into_iter().flatten();
                for step in norms.into_iter().chain(layers).chain([Step::Logits]) {
                    let Met { below, inside, above, caught } = check(&tiny, &session, step, regime, &mut rng);
                    met.iter_mut().zip([below, inside, above, caught]).for_each(|(all, n)| *all += n);
                    outside += 1;
                }
            }
        }
    }
    assert_eq!(outside, 2 * usize::from(PLANS) * 4 * 8);
    println!("{met:?} scores below their window, in it and above, rows caught");
    assert!(met.iter().all(|n| *n > 50), "{met:?}");
}
