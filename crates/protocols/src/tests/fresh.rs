//! Nothing that hides serves twice, and all of it is random: nonces, seeds of ciphertexts, masks of
//! results, and the pads that the offline phase itself makes. Results would be right all the same
//! without, and tests of online messages take their material from a dealer.

use std::collections::HashSet;

use cryptogen_he::linear::{INPUT_BYTES, OUTPUT_BYTES};
use cryptogen_he::shares::RESULT_BYTES;
use cryptogen_he::{Params, SeededCiphertext, N};
use cryptogen_party::{Client, Party, Role, Server};
use cryptogen_ring::Fp;

use super::attention_material::{extend, new_rows, shape};
use super::channel::{run, Ran, Tap};
use super::dealer::insecure_deal;
use super::elements;
use super::endpoint::open;
use super::offline::{both_linear, cross, factors, keys};
use super::rng;
use super::tiny::{build, tiny, Arch, Settings, Tiny, BOTH};
use super::uniform::{check_message, check_uniform, Part};
use crate::endpoint::{exponentials_needed, Endpoint, Stock, PARAMETERS};
use crate::error::Result;
use crate::material::{HeadFactors, LatticeKeys};
use crate::model::{matrices_of_row, Matrix, Site};
use crate::offline::attention::NewRows;
use crate::online::products::Side;
use crate::testing::sessions::pair;

/// Every ciphertext's seed of `a` is another one, and so then is its error: both come from one
/// generator.
pub fn check_ciphertexts(messages: &[Vec<u8>], bytes: usize) {
    let all: Vec<&[u8]> = messages.iter().flat_map(|m| m.chunks(bytes)).collect();
    let seeds: HashSet<&[u8]> = all.iter().map(|c| &c[..32]).collect();
    assert!(all.len() > 1 && all.iter().all(|c| c.len() == bytes));
    assert_eq!(seeds.len(), all.len(), "two ciphertexts share a seed");
}

/// No two results begin alike: of sums of zero they hold nothing but the server's masks.
pub fn check_results(messages: &[Vec<u8>], bytes: usize) {
    let all: Vec<&[u8]> = messages.iter().flat_map(|m| m.chunks(bytes)).collect();
    let starts: HashSet<&[u8]> = all.iter().map(|c| &c[..32]).collect();
    assert!(all.len() > 1 && all.iter().all(|c| c.len() == bytes));
    assert_eq!(starts.len(), all.len(), "two results share a mask");
}

#[test]
fn cross_shares_no_randomness() {
    // Several terms, several ciphertexts of each, several messages.
    for (n, terms) in [(2 * N + 1, 2), (32 * N + 1, 1)] {
        let x: Vec<Vec<Fp>> = (0..terms).map(|_| elements(&mut rng(1), n)).collect();
        let y = vec![vec![Fp::ZERO; n]; terms];
        let (client, server) = run(|ch| cross(ch, &keys().0, &x), |ch| cross(ch, &keys().1, &y));
        check_ciphertexts(&client.sent, SeededCiphertext::BYTES);
        check_results(&server.sent, RESULT_BYTES);
    }
}

#[test]
fn factors_share_no_randomness() {
    // Several primes, several ciphertexts of each, several messages. What the client draws, what
    // the server draws and what hides the products never comes twice, nor do two numbers of one
    // record belong together.
    let all = (2, 9 * N);
    let (client, server) = run(|ch| factors(ch, &keys().0, all), |ch| factors(ch, &keys().1, all));
    check_ciphertexts(&client.sent, SeededCiphertext::BYTES);
    check_results(&server.sent, RESULT_BYTES);
    let (client, server) = (client.result.unwrap(), server.result.unwrap());
    let drawn = client.iter().flat_map(|record| [record[0], record[3], record[4]]);
    let drawn: Vec<u64> = drawn.chain(server.into_iter().flatten()).collect();
    assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
}

#[test]
fn linear_shares_no_randomness() {
    let tiny = build(&Settings { weights: 1, ..Settings::of(Arch::Llama) });
    let matrices = matrices_of_row(&tiny.plan);
    let zero = |matrix: Matrix| vec![Fp::ZERO; 65 * matrix.shape(&tiny.plan).1];
    let (client, server, _) = both_linear(&tiny, &matrices, 65, zero);
    check_ciphertexts(&client.sent, INPUT_BYTES);
    check_results(&server.sent, OUTPUT_BYTES);
}

#[test]
fn attention_material_shares_no_randomness() {
    let m = shape(2, 4, 2, 3);
    let blocks = || [new_rows(&m, 0, 2, 60), new_rows(&m, 2, 3, 61)];
    let zero = |mut new: NewRows| {
        let NewRows { queries, keys, values, weights, .. } = &mut new;
        [queries, keys, values, weights].into_iter().flatten().for_each(|row| row.fill(Fp::ZERO));
        new
    };
    let (mine, theirs) = (blocks(), blocks().map(zero));
    let (client, server) =
        run(|ch| extend(ch, &m, &keys().0, &mine), |ch| extend(ch, &m, &keys().1, &theirs));
    check_ciphertexts(&client.sent, SeededCiphertext::BYTES);
    check_results(&server.sent, RESULT_BYTES);
}

#[test]
fn keys_nonces_and_challenges_are_fresh() {
    fn exchange<P: Party>(ch: &mut Tap, seed: u8) -> Result<()> {
        let mut rng = rng(seed + P::ROLE.index() as u8);
        LatticeKeys::<P>::exchange(ch, Params::get(PARAMETERS), &mut rng).map(|_| ())
    }
    let runs = [10, 20].map(|seed| run(|ch| exchange::<Client>(ch, seed), |ch| exchange::<Server>(ch, seed)));
    assert!(runs.iter().all(|(c, s)| c.result.is_ok() && s.result.is_ok()));
    let messages = |(client, server): &(Ran<_>, Ran<_>)| -> Vec<Vec<u8>> {
        client.sent.iter().chain(&server.sent).map(|m| m[..32].to_vec()).collect()
    };
    let all: Vec<Vec<u8>> = runs.iter().flat_map(messages).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
}

/// What an endpoint pads its messages with, as its own `prepare`, `extend` and `take_logits` make
/// it: no number comes twice, with either party, between the two or in another session.
#[test]
fn pads_of_an_endpoint_are_fresh_and_uniform() {
    const ROWS: usize = 8;
    fn pads<P: Side>(e: &mut Endpoint<P>, tiny: &Tiny) -> Vec<u64> {
        let plan = &tiny.plan;
        let online = e.online().0;
        let mut pads: Vec<u64> = vec![];
        for row in &mut online.ready {
            let sites = (0..plan.model.layers).flat_map(|l| [Site::Qkv(l), Site::O(l), Site::Up(l)]);
            pads.extend(sites.flat_map(|site| row.remask(plan, site)).map(|x| x.value()));
            for attention in &mut row.attention {
                if P::ROLE == Role::Client {
                    pads.extend(attention.weight_mask.iter().map(|x| x.value()));
                }
                if row.position > 0 {
                    let heads = attention.exponentials.take::<P>(row.position + 1).expect("fresh ones");
                    pads.extend(heads.iter().flat_map(uniform_modulo_p::<P>));
                }
            }
        }
        online.logits_now = online.logits_ready.drain(..).collect();
        pads.extend((0..ROWS).flat_map(|i| online.remask(i, Site::Head)).map(|x| x.value()));
        pads
    }
    /// What the client opens a score under; what the server opens a factor under, of the first
    /// prime: numbers modulo others do not fill their words.
    fn uniform_modulo_p<P: Side>(factors: &HeadFactors) -> Vec<u64> {
        let numbers = if P::ROLE == Role::Client { 1 + 2 * factors.primes } else { factors.primes };
        factors.words.chunks(numbers).map(|record| record[0]).collect()
    }
    fn party<P: Side>(e: &mut Endpoint<P>, tiny: &Tiny) -> Vec<u64> {
        e.extend(ROWS).unwrap();
        e.take_logits(ROWS).unwrap();
        pads(e, tiny)
    }
    for arch in BOTH {
        let tiny = tiny(arch);
        let exponentials = exponentials_needed(0, ROWS);
        let (linears, rows) = (ROWS as u64 + 2, ROWS as u64 + 2);
        let want = Stock { linears, rows, logits: rows, exponentials };
        let session = || {
            let dir = tempfile::tempdir().unwrap();
            let (client, server) = pair(
                |conn| {
                    let mut e = open::<Client>(conn, tiny, dir.path(), false).unwrap();
                    e.prepare(want, None, &mut |_, _, _| true).unwrap();
                    party(&mut e, tiny)
                },
                |conn| {
                    let mut e = open::<Server>(conn, tiny, dir.path(), false).unwrap();
                    e.prepare(want, Some(&tiny.model), &mut |_, _, _| true).unwrap();
                    party(&mut e, tiny)
                },
            );
            [client, server].concat()
        };
        let all = [session(), session()].concat();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{arch:?}: a pad comes twice");
        let mut bytes = vec![0; 256];
        all.iter().flat_map(|x| x.to_le_bytes()).for_each(|b| bytes[usize::from(b)] += 1);
        check_uniform(&bytes, &format!("{arch:?}: pads"));
    }
}

/// The one message that the token itself is in.
#[test]
fn embedded_tokens_are_padded() {
    const RUNS: usize = 48;
    for arch in BOTH {
        let tiny = tiny(arch);
        let send = |session: &super::dealer::Session| {
            let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
            let (c, s) = run(|ch| client.embed(ch, &[3, 7], 1), |ch| server.embed(ch, &tiny.model, 2, 1));
            assert!(c.result.is_ok() && s.result.is_ok() && s.sent.is_empty());
            c.sent.concat()
        };
        let sent: Vec<Vec<u8>> = insecure_deal(tiny, RUNS, 2, 1, 61).iter().map(send).collect();
        let sent: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
        let parts = [Part::Words(2 * tiny.plan.model.vocab)];
        check_message(&sent, &parts, &format!("{arch:?}, embedding, {:?}", Role::Client));
    }
}
