//! The client deviates, the server does not: its end is the one that everybody runs, over the real
//! session. What each attack yields, as a number that the test computes.

mod support;

use std::path::Path;

use cryptogen_he::opening::challenge_bytes;
use cryptogen_he::shares::{Nonces, PublicKey};
use cryptogen_he::{linear, HeError, ParamSet, Params, SecretKey};
use cryptogen_mpc::store::Store;
use cryptogen_mpc::Connection;
use cryptogen_party::{ChannelError, Client, MessageError, Role, Server};
use cryptogen_protocols::endpoint::{Endpoint, Protocol, Stock};
use cryptogen_protocols::model::{Site, F};
use cryptogen_protocols::testing::rng;
use cryptogen_protocols::testing::sessions::{pair, store};
use cryptogen_protocols::testing::tiny::{tiny, Arch, Tiny, BOTH};
use cryptogen_protocols::{ProtocolError, Result};
use cryptogen_ring::{fp_from_bytes, Fp, Prg, Seed};
use rand_core::{OsRng, RngCore};
use serde_json::json;
use sha2::{Digest, Sha256};

use support::*;

/// The data message of either party with its nonce.
const NONCE: usize = 0;
/// Bits of a residue on the wire.
const BITS: usize = 28;
/// Numbers of a ciphertext of `Linear`, of which a prime each.
const N: usize = linear::N;

/// Replaces packed residues by `change(index, residue)`.
fn change_residues(bytes: &mut [u8], mut change: impl FnMut(usize, u32) -> u32) {
    // Two residues of 28 bits are seven bytes.
    for (i, seven) in bytes.chunks_exact_mut(2 * BITS / 8).enumerate() {
        let mut word = [0; 8];
        word[..7].copy_from_slice(seven);
        let pair = u64::from_le_bytes(word);
        let (x, y) = (pair as u32 & ((1 << BITS) - 1), (pair >> BITS) as u32);
        let pair = u64::from(change(2 * i, x)) | u64::from(change(2 * i + 1, y)) << BITS;
        seven.copy_from_slice(&pair.to_le_bytes()[..7]);
    }
}

/// Fills residues of the ring of `Linear` with random ones.
fn randomize(bytes: &mut [u8]) {
    let (mut random, primes) = (rng(9), Params::get(ParamSet::N8192Q196).primes());
    change_residues(bytes, |i, _| random.next_u32() % primes[i / N]);
}

/// How a public key is malformed.
#[derive(Clone, Copy, Debug)]
enum Malformed {
    /// `b + 2^bits`: a unit of the last place is `2^20` for `Linear` and `2^132` for slots
    Linear(u32),
    Slots(u32),
    Random,
    /// one that was good in another connection
    Stale,
}

impl Malformed {
    fn apply(self, keys: &mut [u8], stale: &[u8]) {
        let of_slots = PublicKey::bytes(Params::get(ParamSet::N8192Q196).ring());
        let primes = Params::get(ParamSet::N8192Q196).primes();
        let (slots, of_linear) = keys.split_at_mut(of_slots);
        let (key, n, bits) = match self {
            Malformed::Stale => return keys.copy_from_slice(stale),
            Malformed::Random => return randomize(of_linear),
            Malformed::Linear(bits) => (of_linear, N, bits),
            Malformed::Slots(bits) => (slots, cryptogen_he::N, bits),
        };
        // A constant is the same number in every place of the full domain.
        change_residues(key, |i, x| {
            let q = u64::from(primes[i / n]);
            let power = (0..bits).fold(1, |power, _| 2 * power % q);
            ((u64::from(x) + power) % q) as u32
        });
    }
}

/// A client's opening of a session up to the test of its keys, which it answers as its secrets say.
/// What it sends as keys is malformed.
fn open_malformed(
    conn: &mut Connection<Client>,
    dir: &Path,
    malformed: Option<Malformed>,
    stale: &[u8],
) -> Result<Vec<u8>> {
    let (params, mut rng) = (Params::get(ParamSet::N8192Q196), Prg::new(&Seed::random(&mut OsRng)));
    let rings = [params.ring(), linear::Params::get().ring()];
    let state = store::<Client>(dir)?.state();
    let (propose, protocol) = (Store::new_store_id(&mut rng), Protocol::PREPROCESSED.name);
    conn.send_control(&json!({"state": state, "resync": false, "propose": propose, "protocol": protocol}))?;
    conn.recv_control()?;
    let client = [7; 32];
    conn.send_bytes(&client)?;
    let nonces = Nonces { client, server: conn.recv_bytes(32)?.try_into().unwrap() };
    let (slots, of_linear) = (SecretKey::generate(params, &mut rng), linear::SecretKey::generate(&mut rng));
    let mut keys = slots.public_key(&nonces, &mut rng).to_bytes();
    let first = keys.len();
    keys.extend(of_linear.public_key(&nonces, &mut rng).to_bytes());
    if let Some(malformed) = malformed {
        malformed.apply(&mut keys, stale);
    }
    conn.send_bytes(&keys)?;
    let [of_slots, both] = [challenge_bytes(rings[0]), rings.into_iter().map(challenge_bytes).sum()];
    let challenges = conn.recv_bytes(both)?;
    let (answer, commitment) = slots.answer(&challenges[..of_slots], &mut rng)?;
    let (answer_linear, of_this) = of_linear.answer(&challenges[of_slots..], &mut rng)?;
    conn.send_bytes(&[commitment, of_this].concat())?;
    let seeds = conn.recv_bytes(64)?;
    let sent = |i: usize, key: &[u8]| PublicKey::from_bytes(rings[i], &nonces, key);
    let seed = |i: usize| <[u8; 32]>::try_from(&seeds[32 * i..][..32]).unwrap();
    let opening = answer.open(&sent(0, &keys[..first])?, seed(0))?;
    let of_this = answer_linear.open(&sent(1, &keys[first..])?, seed(1))?;
    conn.send_bytes(&[opening, of_this].concat())?;
    Ok(keys)
}

/// A public key that is not `−a·s + e` would make the server's share of the head, which is released
/// with the logits, tell of what hides it.
#[test]
fn malformed_public_keys_are_refused() {
    const TRIES: usize = 4;
    let tiny = tiny(Arch::Gpt);
    let open_with = |malformed: Option<Malformed>, stale: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        pair(
            |mut conn| open_malformed(&mut conn, dir.path(), malformed, stale).unwrap(),
            |conn| open::<Server>(conn, tiny, dir.path(), &Hand::default()).map(drop).unwrap_err(),
        )
    };
    // Honest keys pass: the server waits for base transfers then, which do not come.
    let (stale, error) = open_with(None, &[]);
    assert!(matches!(error, ProtocolError::Channel(ChannelError::Closed)), "{error:?}");
    let mut refused = 0;
    let kinds = [
        Malformed::Linear(22),
        Malformed::Linear(60),
        Malformed::Slots(140),
        Malformed::Random,
        Malformed::Stale,
    ];
    for malformed in kinds {
        for _ in 0..TRIES {
            let (_, error) = open_with(Some(malformed), &stale);
            assert!(matches!(error, ProtocolError::He(HeError::Opening { .. })), "{malformed:?}: {error:?}");
            refused += 1;
        }
    }
    println!("malformed public keys: {refused} of {} refused", kinds.len() * TRIES);
}

/// What a client sends in place of encrypted masks of the head.
#[derive(Clone, Copy, Debug)]
enum Ciphertexts {
    Honest,
    /// no error and no message: `b = 0`, all of one seed
    Zeros,
    /// bodies that belong to no message
    Random,
    /// with the `a` of the public key, so that `c_1` is a multiple of it but for its error
    SeedOfTheKey([u8; 32]),
}

impl Ciphertexts {
    fn apply(self, message: &mut [u8]) {
        for ciphertext in message.chunks_exact_mut(linear::INPUT_BYTES) {
            let (seed, body) = ciphertext.split_at_mut(32);
            match self {
                Ciphertexts::Honest => {}
                Ciphertexts::Random => randomize(body),
                Ciphertexts::Zeros => {
                    seed.fill(0);
                    body.fill(0);
                }
                Ciphertexts::SeedOfTheKey(of_key) => {
                    seed.copy_from_slice(&of_key);
                    body.fill(0);
                }
            }
        }
    }
}

/// The seed of the public key of `Linear`, from the messages with both nonces.
fn seed_of_the_key(hand: &Hand) -> [u8; 32] {
    let hash = Sha256::new().chain_update(&hand.sent()[NONCE]).chain_update(&hand.heard()[NONCE]);
    hash.chain_update("cryptogen public key N4096Q84").finalize().into()
}

/// Whatever ciphertexts are, what comes back is uniform, and for the same ones another time.
#[test]
fn malformed_ciphertexts_come_back_as_uniform_polynomials() {
    const ROWS: usize = 64;
    let tiny = tiny(Arch::Llama);
    let want = Stock { linears: 0, rows: 0, logits: ROWS as u64, exponentials: 0 };
    for which in 0..4 {
        let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::default());
        let (results, ()) = pair(
            |conn| {
                let mut e = open::<Client>(conn, tiny, dir.path(), &hand).unwrap();
                let seed = seed_of_the_key(&hand);
                let ciphertexts = [
                    Ciphertexts::Honest,
                    Ciphertexts::Zeros,
                    Ciphertexts::Random,
                    Ciphertexts::SeedOfTheKey(seed),
                ][which];
                let before = hand.heard().len();
                // The second time it sends the very same bytes.
                let mut first: Option<Vec<u8>> = None;
                for _ in 0..2 {
                    let again = first.clone();
                    hand.change(move |n, message| match &again {
                        _ if n > 0 => {}
                        Some(again) => message.clone_from(again),
                        None => ciphertexts.apply(message),
                    });
                    Client::prepare(&mut e, tiny, want).unwrap();
                    first = first.or(hand.sent().first().cloned());
                }
                // Results, and a byte that says that they are kept.
                let heard = hand.heard().split_off(before);
                [heard[0].clone(), heard[2].clone()]
            },
            |conn| {
                let mut e = open::<Server>(conn, tiny, dir.path(), &Hand::default()).unwrap();
                (0..2).for_each(|_| Server::prepare(&mut e, tiny, want).unwrap());
            },
        );
        let [x, y] = results.map(|results| words(&results));
        assert!(x.len() >= N && x.len() == y.len());
        let name = ["honest", "all zero", "random", "with the key's seed"][which];
        let differences = x.iter().zip(&y).map(|(x, y)| x.wrapping_sub(*y));
        for place in [0, 3, 7] {
            check_bytes(x.iter().map(|x| x.to_le_bytes()[place]), &format!("{name}, byte {place}"));
            let differences = differences.clone().map(|x| x.to_le_bytes()[place]);
            check_bytes(differences, &format!("{name}, byte {place} of a difference"));
        }
        // Of small secrets alone differences would be small: two bits of 64.
        let small = differences.filter(|x| x.wrapping_add(1 << 61) < 1 << 62).count();
        check_chance(small, x.len(), 0.25, &format!("{name}, small differences"));
    }
}

/// Known and priced in SECURITY: errors in front of the head give a column of it for each sampled
/// row whose honest logits are known, and dropping rows again makes one honest row serve for all.
#[test]
fn a_sampled_row_gives_a_column_of_the_head() {
    for arch in BOTH {
        let (tiny, dir, hand) = (tiny(arch), tempfile::tempdir().unwrap(), Hand::default());
        let (d, layers, vocab) = (tiny.plan.model.d, tiny.plan.model.layers, tiny.plan.model.vocab);
        let want = Stock {
            linears: d as u64 + 2,
            rows: d as u64 + 2,
            logits: d as u64 + 1,
            exponentials: 2 * (d as u64 + 2),
        };
        // A unit of a weight becomes 2^7 units of a logit, so 24 bits hold weights of 16.
        let unit = 7;
        let error = Fp::from_u128(1 << (40 + unit - tiny.plan.logit_shift()));
        let in_shift = tiny.plan.linear(Site::Head).in_shift.clone();
        let (logits, ()) = pair(
            |conn| {
                let mut e = open::<Client>(conn, tiny, dir.path(), &hand).unwrap();
                Client::prepare(&mut e, tiny, want).unwrap();
                let mut logits = vec![Client::pass_new(&mut e, tiny, &[3, 5], 1).unwrap().0];
                for (column, shift) in in_shift.iter().enumerate() {
                    e.crop(1).unwrap();
                    e.extend(1).unwrap();
                    e.take_logits(1).unwrap();
                    let error = error * Fp::from_u128(1 << shift);
                    hand.change(move |n, message| {
                        if n + 1 == client_messages(layers) {
                            // A share of 1/rms, then the input of the head under its mask.
                            let word = &mut message[8 + 8 * column..][..8];
                            let x = fp_from_bytes(word).unwrap()[0] + error;
                            word.copy_from_slice(&x.to_le_bytes());
                        }
                    });
                    logits.push(Client::pass(&mut e, tiny, &[5], 1).unwrap().0);
                    hand.rest();
                }
                assert_eq!(e.stock().logits, 0);
                logits
            },
            |conn| {
                // It notices nothing.
                let mut e = open::<Server>(conn, tiny, dir.path(), &Hand::default()).unwrap();
                Server::prepare(&mut e, tiny, want).unwrap();
                Server::pass_new(&mut e, tiny, &[3, 5], 1).unwrap();
                for _ in 0..d {
                    e.crop(1).unwrap();
                    Server::pass_new(&mut e, tiny, &[5], 1).unwrap();
                }
            },
        );
        let weights = tiny.model.weight(Site::Head);
        let read = |column: usize, o: usize| {
            let moved = logits[1 + column][o] - logits[0][o];
            (moved + (1 << (unit - 1))) >> unit
        };
        let right = (0..d * vocab).filter(|i| read(i % d, i / d) == i64::from(weights[*i])).count();
        println!("{arch:?}: {right} of {} weights of the head read from {} sampled rows", d * vocab, d + 1);
        assert_eq!(right, d * vocab);
    }
}

/// Known and priced in SECURITY: a client shifts a score by what it likes, exactly. What comes back
/// of it comes back through the logits.
#[test]
fn scores_are_shifted_exactly() {
    let (tiny, dir, hand) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap(), Hand::default());
    let m = &tiny.plan.model;
    const BITS: [i64; 5] = [0, -3, 2, 5, 9];
    let passes = BITS.len() as u64;
    let want =
        Stock { linears: passes + 1, rows: passes + 1, logits: passes, exponentials: 2 * (passes + 1) };
    fn go<P: Passes>(
        e: &mut Endpoint<P>,
        tiny: &Tiny,
        mut before: impl FnMut(usize),
    ) -> Result<Vec<(Vec<u64>, Vec<i64>)>> {
        P::pass_new(e, tiny, &[3], 0)?;
        let mut passes = vec![];
        for pass in 0..BITS.len() {
            e.crop(1)?;
            e.extend(1)?;
            e.take_logits(1)?;
            e.insecure_trace();
            before(pass);
            let (logits, _) = P::pass(e, tiny, &[5], 1)?;
            passes.push((e.insecure_trace(), logits));
        }
        Ok(passes)
    }
    let (client, server) = pair(
        |conn| {
            let mut e = open::<Client>(conn, tiny, dir.path(), &hand)?;
            Client::prepare(&mut e, tiny, want)?;
            go(&mut e, tiny, |pass| {
                let shift = Fp::from_i64(BITS[pass] << F);
                hand.change(move |n, message| {
                    if n == message_of_scores(0) {
                        // Of the first head and row 0, which is that head's anchor.
                        let x = fp_from_bytes(&message[..8]).unwrap()[0] + shift;
                        message[..8].copy_from_slice(&x.to_le_bytes());
                    }
                });
            })
        },
        |conn| {
            let mut e = open::<Server>(conn, tiny, dir.path(), &Hand::default())?;
            Server::prepare(&mut e, tiny, want)?;
            go(&mut e, tiny, |_| ())
        },
    );
    let (client, server) = (client.unwrap(), server.expect("it notices nothing"));
    // Of the log of a pass: embedding, norm, linear layer, scores and fractions lie before the
    // weights of each head and cached row.
    let entries = 2 * m.heads;
    let at = 3 * m.d + 5 + m.q_dim() + 2 * m.kv_dim() + 2 * entries;
    let weights: Vec<Vec<i64>> = client
        .iter()
        .zip(&server)
        .map(|((c, _), (s, _))| {
            let sum = |i: usize| (Fp::new(c[i]) + Fp::new(s[i])).to_i64();
            (at..at + entries).map(sum).collect()
        })
        .collect();
    for (pass, bits) in BITS.iter().enumerate() {
        let expected = (12.0 + *bits as f64).exp2();
        let error = weights[pass][0] as f64 / expected - 1.0;
        println!("a score shifted by {bits} bits: its weight is {} (error {error:.5})", weights[pass][0]);
        assert!(error.abs() < 2e-3 + 1.0 / expected, "{:?}", weights[pass]);
        // Others stay, but for the rounding of shares.
        let stays = weights[pass][1..].iter().zip(&weights[0][1..]);
        assert!(stays.into_iter().all(|(x, y)| (x - y).abs() <= 2 + y / 100), "{weights:?}");
        assert_eq!(*bits == 0, client[pass].1 == client[0].1, "the logits say it");
    }
}

#[test]
fn a_client_that_puts_its_store_back_gets_no_record_twice() {
    put_back(tiny(Arch::Llama), Role::Client);
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoiled {
    Shorter,
    Double,
    Ones,
    Random,
    /// the message before it once more
    Again,
}

/// Every data message that a client sends in a session, in every way: a typed error or a wrong
/// result, never a panic, and any other length is refused as such.
#[test]
#[ignore = "minutes: make test-attacks"]
fn every_spoiled_message_of_a_session_is_an_error_or_harmless() {
    fn session<P: Passes>(conn: Connection<P>, tiny: &Tiny, dir: &Path, hand: &Hand) -> Result<()> {
        let mut e = open(conn, tiny, dir, hand)?;
        P::prepare(&mut e, tiny, stock(2, 1))?;
        P::pass_new(&mut e, tiny, &[3, 5], 1).map(drop)
    }
    let tiny = tiny(Arch::Gpt);
    let run = |hand: &Hand| {
        let dir = tempfile::tempdir().unwrap();
        pair(
            |conn| session::<Client>(conn, tiny, dir.path(), hand),
            |conn| session::<Server>(conn, tiny, dir.path(), &Hand::default()),
        )
    };
    let hand = Hand::default();
    let honest = run(&hand);
    assert!(honest.0.is_ok() && honest.1.is_ok());
    let messages = hand.sent().len();
    assert!(messages >= 200, "{messages} messages");
    let [mut lengths, mut others, mut unnoticed] = [0; 3];
    for at in 0..messages {
        use Spoiled::*;
        for spoiled in [Shorter, Double, Ones, Random, Again] {
            let hand = Hand::default();
            let mut before = vec![];
            hand.change(move |n, message| {
                let sent = message.clone();
                if n == at {
                    match spoiled {
                        Shorter => drop(message.pop()),
                        Double => message.extend(sent.iter()),
                        Ones => message.fill(0xff),
                        Random => rng(200).fill_bytes(message),
                        Again => message.clone_from(&before),
                    }
                }
                before = sent;
            });
            let (_, server) = run(&hand);
            let of_length = matches!(
                server,
                Err(ProtocolError::Channel(ChannelError::Message(MessageError::Length { .. })))
            );
            let what = format!("message {at}, {spoiled:?}: {server:?}");
            match spoiled {
                Shorter | Double => assert!(of_length, "{what}"),
                _ => assert!(!matches!(server, Err(ProtocolError::Bug { .. })), "{what}"),
            }
            match server {
                Ok(()) => unnoticed += 1,
                Err(_) if of_length => lengths += 1,
                Err(_) => others += 1,
            }
        }
    }
    println!("{messages} messages: {lengths} errors of length, {others} others, {unnoticed} wrong results");
    assert!(lengths >= 2 * messages && others > 0 && unnoticed > 0);
}
