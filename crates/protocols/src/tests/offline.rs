//! The offline protocols equal their functionalities, at their declared costs.

use std::ops::Range;
use std::sync::OnceLock;

use cryptogen_he::linear::{Params as LinearParams, SecretKey as LinearKey};
use cryptogen_he::opening;
use cryptogen_he::shares::{Nonces, PublicKey};
use cryptogen_he::{Params, SecretKey, N};
use cryptogen_party::{Channel, ChannelError, Client, MessageError, Party, Role, Server};
use cryptogen_ring::exponential::{canonical, factors_client, multiply_add, subtract};
use cryptogen_ring::Fp;

use super::channel::{measured, run, run_spoiled, Fault, Ran, Tap};
use super::clear::{Clear, OFF};
use super::dealer::insecure_deal;
use super::tiny::{build, tiny, Arch, Settings, Tiny};
use super::{elements, ideal, rng};
use crate::endpoint::PARAMETERS;
use crate::error::{ProtocolError, Result};
use crate::material::{exponential_record_bytes, Held, LatticeKeys};
use crate::model::{matrices_of_row, Matrix, Site};
use crate::offline::{cross, exponentials, linear};
use crate::online::embed;

/// Both parties' lattice keys.
pub fn keys() -> &'static (LatticeKeys<Client>, LatticeKeys<Server>) {
    static KEYS: OnceLock<(LatticeKeys<Client>, LatticeKeys<Server>)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let (client, server) = run(exchange, exchange);
        (client.result.expect("honest parties"), server.result.expect("honest parties"))
    })
}

fn exchange<P: Party>(ch: &mut Tap) -> Result<LatticeKeys<P>> {
    LatticeKeys::exchange(ch, Params::get(PARAMETERS), &mut rng(100 + P::ROLE.index() as u8))
}

/// `Cross` of one party, with its factors.
pub fn cross<P: Party>(ch: &mut Tap, keys: &LatticeKeys<P>, factors: &[Vec<Fp>]) -> Result<Vec<Fp>> {
    match &keys.held {
        Held::Client { slots, .. } => cross::client(ch, slots, factors, &mut rng(3)),
        Held::Server { params, slots, .. } => cross::server(ch, params, slots, factors, &mut rng(4)),
    }
}

/// `Factors` of one party: its `n` records.
pub fn factors<P: Party>(
    ch: &mut Tap,
    keys: &LatticeKeys<P>,
    (primes, n): (usize, usize),
) -> Result<Vec<Vec<u64>>> {
    let (mut kept, size) = (vec![], exponential_record_bytes::<P>(primes));
    let mut keep = |first: usize, bytes: &[u8]| {
        assert_eq!(first, kept.len());
        let word = |word: &[u8]| u64::from_le_bytes(word.try_into().expect("eight bytes"));
        kept.extend(bytes.chunks(size).map(|record| record.chunks(8).map(word).collect()));
        Ok(())
    };
    match &keys.held {
        Held::Client { slots, .. } => exponentials::client(ch, slots, (primes, n), &mut rng(5), &mut keep)?,
        Held::Server { params, slots, .. } => {
            exponentials::server(ch, params, slots, (primes, n), &mut rng(6), &mut keep)?
        }
    }
    Ok(kept)
}

/// `Linear` of one party; `input` is asked by the client. The shares of each matrix, `[T, d_out]`.
fn linear<P: Party>(
    ch: &mut Tap,
    keys: &LatticeKeys<P>,
    batch: linear::Batch<'_>,
    tiny: &Tiny,
    input: impl Fn(Matrix) -> Vec<Fp>,
    done: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Vec<Fp>>> {
    let mut rng = rng(8 + P::ROLE.index() as u8);
    let shape = |matrix: Matrix| matrix.shape(&tiny.plan);
    let mut y: Vec<Vec<Fp>> =
        batch.matrices.iter().map(|m| vec![Fp::ZERO; batch.rows * shape(*m).0]).collect();
    let mut put = |matrix: Matrix, rows: Range<usize>, part: &[Fp]| {
        let at = batch.matrices.iter().position(|m| *m == matrix).expect("one of these");
        let each = y[at].chunks_mut(shape(matrix).0).zip(part.chunks(rows.len()));
        each.for_each(|(y, part)| y[rows.clone()].copy_from_slice(part));
        Ok(())
    };
    let columns = |matrix, columns: Range<usize>| {
        input(matrix).chunks(shape(matrix).1).flat_map(|r| r[columns.clone()].to_vec()).collect()
    };
    match &keys.held {
        Held::Client { linear: key, .. } => {
            linear::client(ch, key, batch, columns, &mut rng, &mut put, done)?
        }
        Held::Server { linear: key, .. } => {
            linear::server(ch, key, batch, &tiny.model, &mut rng, &mut put, done)?
        }
    }
    Ok(y)
}

/// Whether shares of products with a matrix are off by no more than they may be: the larger numbers
/// of an embedding make larger errors.
pub fn near(matrix: Matrix, a: &[Fp], b: &[Fp]) -> bool {
    let off = match matrix {
        Matrix::Embed => 1 << 13,
        Matrix::Linear(_) => OFF as u64,
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (*a - *b).to_i64().unsigned_abs() <= off)
}

fn add(a: &[Fp], b: &[Fp]) -> Vec<Fp> {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| *a + *b).collect()
}

/// A vocabulary beyond one ciphertext, full-size weights.
fn wide() -> Tiny {
    build(&Settings { vocab: N + 8, weights: 1 << 15, ..Settings::of(Arch::Gpt) })
}

#[test]
fn linear_gives_shares_of_the_product() {
    for (tiny, rows) in [(tiny(Arch::Gpt), 3), (tiny(Arch::Llama), 65), (&wide(), 2)] {
        let plan = &tiny.plan;
        let input = |matrix: Matrix| {
            let seed = match matrix {
                Matrix::Embed => 99,
                Matrix::Linear(site) => site.index(9) as u8,
            };
            elements(&mut rng(seed), rows * matrix.shape(plan).1)
        };
        for matrices in [matrices_of_row(plan), vec![Matrix::Linear(Site::Head)]] {
            let (client, server, done) = both_linear(tiny, &matrices, rows, input);
            assert_eq!(done, [matrices.len() as u64; 2]);
            assert_eq!(measured(&client, &server), linear::cost(plan, &matrices, rows).unwrap());
            let shares = client.result.unwrap().into_iter().zip(server.result.unwrap());
            for (matrix, (c, s)) in matrices.into_iter().zip(shares) {
                let ((d_out, d_in), y) = (matrix.shape(plan), add(&c, &s));
                for (y, r) in y.chunks(d_out).zip(input(matrix).chunks(d_in)) {
                    assert!(near(matrix, y, &ideal::multiply(tiny, matrix, r)), "{matrix:?}");
                }
            }
        }
    }
}

pub type Shares = Ran<Result<Vec<Vec<Fp>>>>;

/// Both parties' shares of some matrices, and how many matrices each reported.
pub fn both_linear(
    tiny: &Tiny,
    matrices: &[Matrix],
    rows: usize,
    input: impl Fn(Matrix) -> Vec<Fp> + Sync,
) -> (Shares, Shares, [u64; 2]) {
    let mut counts = [0; 2];
    let [c, s] = &mut counts;
    fn count(at: &mut u64) -> impl FnMut(u64) -> Result<()> + '_ {
        |n| {
            *at = n;
            Ok(())
        }
    }
    let batch = linear::Batch { plan: &tiny.plan, matrices, rows };
    let (client, server) = run(
        |ch| linear(ch, &keys().0, batch, tiny, &input, count(c)),
        |ch| linear(ch, &keys().1, batch, tiny, &input, count(s)),
    );
    (client, server, counts)
}

#[test]
fn embeddings_equal_the_clear_ones() {
    for (tiny, tokens) in
        [(tiny(Arch::Gpt), vec![0, 19, 7]), (tiny(Arch::Llama), vec![3]), (&wide(), vec![0, N, N + 7, 1024])]
    {
        let session = insecure_deal(tiny, 1, tokens.len(), 1, 41).remove(0);
        let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
        let (c, s) =
            run(|ch| client.embed(ch, &tokens, 1), |ch| server.embed(ch, &tiny.model, tokens.len(), 1));
        assert_eq!(measured(&c, &s), embed::cost(&tiny.plan, tokens.len()));
        let sum = add(&c.result.unwrap().data, &s.result.unwrap().data);
        let mut clear = Clear::new(tiny, client.trace.insecure_take(), server.trace.insecure_take());
        assert_eq!(sum.iter().map(|x| x.to_i64()).collect::<Vec<_>>(), clear.embed(&tokens, 0));
        clear.finish();
    }
}

#[test]
fn bad_tokens_and_passes_are_refused() {
    let tiny = tiny(Arch::Gpt);
    let session = insecure_deal(tiny, 1, 2, 1, 42).remove(0);
    for (tokens, heads) in [(vec![20], 1), (vec![0], 2), (vec![0, 1], 2), (vec![0, 1, 2], 1), (vec![], 0)] {
        let mut client = session.online::<Client>(tiny);
        let (c, _) = run(|ch| client.embed(ch, &tokens, heads), |_| ());
        assert!(
            matches!(c.result, Err(ProtocolError::Short { .. } | ProtocolError::Caller { .. })),
            "{tokens:?}"
        );
        assert!(c.sent.is_empty());
    }
}

#[test]
fn cross_gives_shares_of_the_products() {
    for (n, terms) in [(1, 1), (N, 2), (N + 5, 1), (32 * N + 1, 1)] {
        let [x, y] = [1, 2].map(|seed| (0..terms).map(|_| elements(&mut rng(seed), n)).collect::<Vec<_>>());
        let (client, server) = run(|ch| cross(ch, &keys().0, &x), |ch| cross(ch, &keys().1, &y));
        assert_eq!(measured(&client, &server), cross::cost(n, terms));
        let z = add(&client.result.unwrap(), &server.result.unwrap());
        let expected: Vec<Fp> = (0..n).map(|i| (0..terms).map(|t| x[t][i] * y[t][i]).sum()).collect();
        assert!(z == expected);
    }
}

#[test]
fn factors_are_multiplied_modulo_every_prime() {
    // One record, more than a message, messages beyond those that are under way at a time.
    for (primes, n) in [(2, 1), (3, 4 * N + 5), (6, 17 * N), (5, N)] {
        let (client, server) =
            run(|ch| factors(ch, &keys().0, (primes, n)), |ch| factors(ch, &keys().1, (primes, n)));
        assert_eq!(measured(&client, &server), exponentials::cost(primes, n));
        let (client, server) = (client.result.unwrap(), server.result.unwrap());
        assert_eq!((client.len(), server.len()), (n, n));
        let mut expected = vec![0; primes];
        for (client, server) in client.iter().zip(&server) {
            let (c, (a, w_c), (b, w_s)) = (client[0], client[1..].split_at(primes), server.split_at(primes));
            assert!(canonical(0, c));
            factors_client(Fp::new(c), &mut expected);
            assert_eq!(a, expected);
            for i in 0..primes {
                assert!([b[i], w_c[i], w_s[i]].iter().all(|number| canonical(i, *number)));
                assert_eq!(subtract(i, multiply_add(i, 0, a[i], b[i]), w_c[i]), w_s[i], "prime {i}");
            }
        }
    }
}

#[test]
fn spoiled_offline_messages_are_errors() {
    let (tiny, (client_keys, server_keys)) = (tiny(Arch::Gpt), keys());
    let matrices = [Matrix::Linear(Site::Qkv(0))];
    let batch = linear::Batch { plan: &tiny.plan, matrices: &matrices, rows: 1 };
    let r = elements(&mut rng(1), N);
    let input = |matrix: Matrix| r[..matrix.shape(&tiny.plan).1].to_vec();
    for fault in [Fault::Truncate, Fault::Extend, Fault::Ones, Fault::Random, Fault::Hangup] {
        let (of_client, of_server) = ([Some((0, fault)), None], [None, Some((0, fault))]);
        let linear = |faults| {
            let (c, s) = run_spoiled(
                faults,
                |ch| linear(ch, client_keys, batch, tiny, input, |_| Ok(())),
                |ch| linear(ch, server_keys, batch, tiny, input, |_| Ok(())),
            );
            [c.result.err(), s.result.err()]
        };
        check_error("linear, client's", fault, linear(of_client)[1].take());
        check_shares("linear, server's", fault, linear(of_server)[0].take());
        let inputs = [vec![r.clone()], vec![r.clone()]];
        let cross = |faults| {
            let (c, s) = run_spoiled(
                faults,
                |ch| cross(ch, client_keys, &inputs[0]),
                |ch| cross(ch, server_keys, &inputs[1]),
            );
            [c.result.err(), s.result.err()]
        };
        check_error("cross, client's", fault, cross(of_client)[1].take());
        check_shares("cross, server's", fault, cross(of_server)[0].take());
        let factors = |faults| {
            let (c, s) = run_spoiled(
                faults,
                |ch| factors(ch, client_keys, (2, 1)),
                |ch| factors(ch, server_keys, (2, 1)),
            );
            [c.result.err(), s.result.err()]
        };
        check_error("factors, client's", fault, factors(of_client)[1].take());
        check_shares("factors, server's", fault, factors(of_server)[0].take());
        // Nonces, keys, and each message of the test of the keys. Whoever sees first that the
        // parties mean different keys ends the connection.
        let wrong_bytes = matches!(fault, Fault::Ones | Fault::Random);
        for (by, messages) in [(Role::Client, 4), (Role::Server, 3)] {
            for at in 0..messages {
                let mut faults = [None, None];
                faults[by.index()] = Some((at, fault));
                let (c, s) = run_spoiled(faults, exchange::<Client>, exchange::<Server>);
                let errors = [c.result.err(), s.result.err()];
                let refused = errors.iter().any(|e| matches!(e, Some(ProtocolError::He(_))));
                match wrong_bytes {
                    true => assert!(refused && errors[1 - by.index()].is_some(), "{by:?} {at}: {errors:?}"),
                    false => {
                        let [c, s] = errors;
                        check_error(
                            &format!("keys, message {at} of {by:?}"),
                            fault,
                            if by == Role::Client { s } else { c },
                        );
                    }
                }
            }
        }
        let session = insecure_deal(tiny, 1, 1, 1, 43).remove(0);
        let (mut client, mut server) = (session.online::<Client>(tiny), session.online::<Server>(tiny));
        let (_, s) =
            run_spoiled(of_client, |ch| client.embed(ch, &[1], 1), |ch| server.embed(ch, &tiny.model, 1, 1));
        match s.result.err() {
            Some(ProtocolError::Peer { .. }) if matches!(fault, Fault::Ones | Fault::Random) => {}
            error => check_shares("embedding", fault, error),
        }
    }
}

/// The receiver's error where any bytes of the right length are some shares.
pub fn check_shares(what: &str, fault: Fault, error: Option<ProtocolError>) {
    match fault {
        Fault::Ones | Fault::Random => assert!(error.is_none(), "{what}, {fault:?}: {error:?}"),
        _ => check_error(what, fault, error),
    }
}

/// The receiver's error: of the channel, of the lattice encryption; random bytes may also be
/// well-formed.
pub fn check_error(what: &str, fault: Fault, error: Option<ProtocolError>) {
    let expected = match fault {
        Fault::Truncate | Fault::Extend => {
            matches!(error, Some(ProtocolError::Channel(ChannelError::Message(MessageError::Length { .. }))))
        }
        Fault::Hangup => matches!(error, Some(ProtocolError::Channel(ChannelError::Closed))),
        Fault::Ones => matches!(error, Some(ProtocolError::He(_))),
        Fault::Random | Fault::Number(..) => matches!(error, None | Some(ProtocolError::He(_))),
    };
    assert!(expected, "{what}, {fault:?}: {error:?}");
}

/// A client of whose two public keys one is off, in byte `at` of their message; otherwise it does
/// what the exchange asks of it.
fn exchange_malformed(ch: &mut Tap, at: usize) -> Result<()> {
    let (params, rng) = (Params::get(PARAMETERS), &mut rng(100));
    let (slots, linear) = (SecretKey::generate(params, rng), LinearKey::generate(rng));
    let rings = [params.ring(), LinearParams::get().ring()];
    let server = ch.exchange(Client::ROLE.turn(), &[1; 32], 32)?;
    let nonces = Nonces { client: [1; 32], server: server.try_into().expect("32 bytes") };
    let honest = [slots.public_key(&nonces, rng), linear.public_key(&nonces, rng)];
    let mut bytes = honest.map(|key| key.to_bytes()).concat();
    bytes[at] ^= 1;
    ch.send(&bytes)?;
    let (first, second) = bytes.split_at(PublicKey::bytes(rings[0]));
    let malformed =
        [PublicKey::from_bytes(rings[0], &nonces, first)?, PublicKey::from_bytes(rings[1], &nonces, second)?];
    let lengths = rings.map(opening::challenge_bytes);
    let challenges = ch.recv(lengths.iter().sum())?;
    let (first, second) = challenges.split_at(lengths[0]);
    let ((slots, one), (linear, other)) = (slots.answer(first, rng)?, linear.answer(second, rng)?);
    ch.send(&[one, other].concat())?;
    let seeds = ch.recv(2 * opening::BYTES)?;
    let seed = |i: usize| seeds[i * opening::BYTES..][..opening::BYTES].try_into().expect("a seed");
    let openings = [slots.open(&malformed[0], seed(0))?, linear.open(&malformed[1], seed(1))?];
    Ok(ch.send(&openings.concat())?)
}

#[test]
fn a_public_key_that_the_client_cannot_decrypt_under_is_refused() {
    let first = PublicKey::bytes(Params::get(PARAMETERS).ring());
    for at in [0, first] {
        let (client, server) = run(|ch| exchange_malformed(ch, at), |ch| exchange::<Server>(ch).err());
        assert!(client.result.is_ok(), "{:?}", client.result);
        assert!(matches!(server.result, Some(ProtocolError::He(_))), "{:?}", server.result);
    }
}

#[test]
fn offline_transcripts_are_reproducible() {
    let tiny = tiny(Arch::Llama);
    let matrices = matrices_of_row(&tiny.plan);
    let input = |matrix: Matrix| elements(&mut rng(1), 2 * matrix.shape(&tiny.plan).1);
    let (of_client, of_server, _) = both_linear(tiny, &matrices, 2, input);
    let r = [elements(&mut rng(1), 2 * tiny.plan.linear(Site::Qkv(0)).d_in)];
    let (client, server) = run(|ch| cross(ch, &keys().0, &r), |ch| cross(ch, &keys().1, &r));
    let (of_factors, to_factors) =
        run(|ch| factors(ch, &keys().0, (2, 3)), |ch| factors(ch, &keys().1, (2, 3)));
    assert!(of_factors.result.is_ok() && to_factors.result.is_ok());
    assert_eq!([of_factors.hash(), to_factors.hash()], ["8f2cfc7c7bcbf4af", "fba78b6067496ba8"]);
    assert_eq!(
        [of_client.hash(), of_server.hash(), client.hash(), server.hash()],
        ["9bf311fb1d5f576d", "b35e91e0487c547e", "cad6f17246eea26e", "8feb2fae993633e2"]
    );
}
