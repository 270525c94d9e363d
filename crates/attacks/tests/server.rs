//! The server deviates, the client does not: its end is the one that everybody runs, over the real
//! session. What each attack yields, as a number that the test computes.

mod support;

use cryptogen_he::linear::OUTPUT_BYTES;
use cryptogen_he::shares::RESULT_BYTES;
use cryptogen_he::HeError;
use cryptogen_ot::TableKey;
use cryptogen_party::{Client, Role, Server};
use cryptogen_protocols::endpoint::Stock;
use cryptogen_protocols::material::{activation_shape, expand_mask, MaskLabel, FACTOR};
use cryptogen_protocols::model::Site;
use cryptogen_protocols::testing::rng;
use cryptogen_protocols::testing::sessions::pair;
use cryptogen_protocols::testing::tiny::{tiny, Arch, BOTH};
use cryptogen_protocols::ProtocolError;
use cryptogen_ring::{fp_from_bytes, Fp, Seed};
use rand_core::RngCore;

use support::*;

/// The server's data messages with the challenges to the client's keys and with their seeds.
const CHALLENGES: usize = 1;
const SEEDS: usize = 2;

/// Makes up results, all but their constant coefficient 0, which is the fraction `b/2^64` of the
/// modulus: the client's share then is `b` times its secret, coefficient by coefficient.
fn make_up(message: &mut [u8], b: u64) {
    // Of `Linear` 8 bytes a coefficient, in slots 15.
    for (bytes, width) in [(OUTPUT_BYTES, 8), (RESULT_BYTES, 15)] {
        if message.len().is_multiple_of(bytes) {
            return message.chunks_exact_mut(bytes).for_each(|result| {
                result.fill(0);
                result[width - 8..width].copy_from_slice(&b.to_le_bytes());
            });
        }
    }
}

fn half_words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half).into()).collect()
}

/// The client's shares of prepared products then are its secret; what it sends of them is masked,
/// and neither how much it sends nor when depends on them.
#[test]
fn made_up_results_show_nothing_of_the_clients_key() {
    const ROWS: usize = 128;
    for arch in BOTH {
        let tiny = tiny(arch);
        let plan = &tiny.plan;
        let want = Stock { linears: ROWS as u64, rows: ROWS as u64, logits: 4, exponentials: 0 };
        // With this the index of an activation's input lies a quarter of its window above 0 or
        // below it, or is 0, as the coefficient of the secret is 1, −1 or 0.
        let (h, k) = (plan.activations[0].windows[0].h, plan.activations[0].k);
        let b = 1u64 << (plan.linear(Site::Up(0)).out_shift(0) + h + k - 2);
        let run = |b: Option<u64>| {
            let (dir, theirs, mine) = (tempfile::tempdir().unwrap(), Hand::default(), Hand::default());
            let (client, server) = pair(
                |conn| {
                    let mut e = open::<Client>(conn, tiny, dir.path(), &theirs)?;
                    Client::prepare(&mut e, tiny, want)
                },
                |conn| {
                    let mut e = open::<Server>(conn, tiny, dir.path(), &mine)?;
                    mine.change(move |_, message| b.into_iter().for_each(|b| make_up(message, b)));
                    Server::prepare(&mut e, tiny, want)
                },
            );
            assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
            (dir, theirs.sent())
        };
        let lengths = |sent: &[Vec<u8>]| sent.iter().map(Vec::len).collect::<Vec<_>>();
        let ((_, honest), (dir, sent)) = (run(None), run(Some(b)));
        assert_eq!(lengths(&sent), lengths(&honest), "what the client sends depends on what it gets");

        // What the server has of each index: the client's rotation, and its own share of the
        // table's point. What it wants to know: the sign of the coefficient.
        let (layout, ff) = (&tiny.layout, plan.model.ff);
        let records = [rows::<Client>(tiny, dir.path(), ROWS), rows::<Server>(tiny, dir.path(), ROWS)];
        let (mut right, mut known, mut all) = ([0; 6], 0, 0);
        for (client, server) in records[0].iter().zip(&records[1]) {
            let shape = activation_shape(plan, 0);
            let alpha = |record: &[u8], i: usize| {
                let at = layout.activation_tables(0) + i * shape.record_bytes();
                TableKey::from_record(shape, &record[at..][..shape.record_bytes()]).unwrap().alpha()
            };
            // A drawn payload is of the client's share, too: the server's part is what the client
            // opened, and the server's own share.
            let payload = |record: &[u8], i: usize| {
                let at = layout.activation_tables(0) + i * shape.record_bytes();
                let bytes = shape.is_drawn().then(|| &record[at + shape.share_at(FACTOR)..][..8]);
                bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
            };
            let up = fp_from_bytes(&client[layout.linear(Site::Up(0))..][..8 * ff]).unwrap();
            let rotations = half_words(&server[layout.activation_deltas(0)..][..2 * ff]);
            for (i, (x, d)) in up.iter().zip(&rotations).enumerate() {
                let x = x.to_i64();
                if x.unsigned_abs() < b / 2 || plan.activations[0].of[i] != 0 {
                    continue;
                }
                let size = 1u32 << k;
                let above = |index: u32| (index % size) < size / 2;
                let guesses = [
                    above(*d),
                    above(d.wrapping_sub(alpha(server, i))),
                    above(d.wrapping_add(alpha(server, i))),
                    d % 2 == 0,
                    payload(server, i) >> 63 == 0,
                    payload(server, i) % 2 == 0,
                ];
                all += 1;
                for (guess, right) in guesses.into_iter().zip(&mut right) {
                    *right += usize::from(guess == (x > 0));
                }
                // The client's own share of the point would say it.
                known += usize::from(above(d.wrapping_add(alpha(client, i))) == (x > 0));
            }
        }
        for right in right {
            let advantage = check_chance(right, all, 0.5, &format!("{arch:?}, signs of the client's secret"));
            assert!(advantage < 0.15, "{all} guesses are too few");
        }
        assert_eq!(known, all, "without the point every sign is right");
    }
}

/// Where protocol 3 lost all tokens: the server marks what it returns for the embedding, and looks
/// for the marks in what the client sends with its tokens.
#[test]
fn marked_embeddings_show_no_token() {
    const ROWS: usize = 60;
    for arch in BOTH {
        let (tiny, dir, kept) = (tiny(arch), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let vocab = tiny.plan.model.vocab;
        let tokens: Vec<usize> = rng(5).fp_vec(ROWS).iter().map(|x| x.value() as usize % vocab).collect();
        let (theirs, mine) = (Hand::default(), Hand::default());
        let want = stock(ROWS, 0);
        let (sent, ()) = pair(
            |conn| {
                let mut e = open::<Client>(conn, tiny, dir.path(), &theirs).unwrap();
                Client::prepare(&mut e, tiny, want).unwrap();
                copy(dir.path(), kept.path());
                e.extend(ROWS).unwrap();
                theirs.sent();
                // What follows the embedding is of no interest here.
                e.embed(&tokens, 0).unwrap();
                theirs.sent()
            },
            |conn| {
                let mut e = open::<Server>(conn, tiny, dir.path(), &mine).unwrap();
                // Each result has a mark of its own.
                let mut mark = 0;
                mine.change(move |_, message| {
                    if message.len().is_multiple_of(OUTPUT_BYTES) {
                        message.chunks_exact_mut(OUTPUT_BYTES).for_each(|result| {
                            mark += 1;
                            make_up(result, mark << 40);
                        });
                    }
                });
                Server::prepare(&mut e, tiny, want).unwrap();
                e.extend(ROWS).unwrap();
                e.embed(&tiny.model, ROWS, 0).unwrap();
            },
        );
        let opened = fp_from_bytes(&sent.concat()).unwrap();
        let masks = rows::<Client>(tiny, kept.path(), ROWS);
        let [mut least, mut most, mut known] = [0; 3];
        for ((x, token), record) in opened.chunks(vocab).zip(&tokens).zip(&masks) {
            let by = |key: &dyn Fn(&Fp) -> u64, x: &[Fp]| (0..vocab).min_by_key(|i| key(&x[*i])).unwrap();
            let size = |x: &Fp| x.to_i64().unsigned_abs();
            least += usize::from(by(&size, x) == *token);
            most += usize::from(by(&|x| u64::MAX - size(x), x) == *token);
            let seed = Seed::from_bytes(*record.first_chunk().unwrap());
            let r = expand_mask(&seed, MaskLabel::Embed, 0, vocab);
            let unit: Vec<Fp> = x.iter().zip(&r).map(|(x, r)| *x + *r).collect();
            known += usize::from(by(&|x| u64::MAX - size(x), &unit) == *token);
        }
        // All numbers of all rows, each of which is the token's or is not.
        let all = ROWS * vocab;
        let high = opened.iter().filter(|x| x.value() >> 63 == 1).count();
        check_chance(high, all, 0.5, &format!("{arch:?}, upper half"));
        for (right, what) in [(least, "least"), (most, "largest")] {
            let away = deviations(right, ROWS, 1.0 / vocab as f64);
            println!(
                "{arch:?}: {right} of {ROWS} tokens by the {what} number, {:.1} by chance",
                ROWS as f64 / vocab as f64
            );
            assert!(away < 5.0, "{right} of {ROWS} tokens");
        }
        assert_eq!(known, ROWS, "with the mask every token is read");
    }
}

/// The test of the client's keys is no oracle: it opens encryptions alone, and what it commits to
/// does not show before.
#[test]
fn challenges_that_are_no_encryptions_get_no_answer() {
    const TRIES: usize = 4;
    let tiny = tiny(Arch::Gpt);
    #[derive(Clone, Copy, Debug)]
    enum Challenge {
        /// one bit of the encryption
        Flipped,
        Zeros,
        /// of another seed than is revealed
        Other,
    }
    let mut commitments = vec![];
    for challenge in [Challenge::Flipped, Challenge::Zeros, Challenge::Other] {
        for attempt in 0..TRIES {
            let (dir, theirs, mine) = (tempfile::tempdir().unwrap(), Hand::default(), Hand::default());
            mine.change(move |n, message| match challenge {
                Challenge::Flipped if n == CHALLENGES => message[100_000 * attempt] ^= 1,
                Challenge::Zeros if n == CHALLENGES => message.fill(0),
                Challenge::Other if n == SEEDS => message[8 * attempt] ^= 1,
                _ => {}
            });
            let (client, _) = pair(
                |conn| open::<Client>(conn, tiny, dir.path(), &theirs).map(drop),
                |conn| open::<Server>(conn, tiny, dir.path(), &mine).map(drop),
            );
            let refusal = matches!(client, Err(ProtocolError::He(HeError::Opening { .. })));
            assert!(refusal, "{challenge:?}: {client:?}");
            // A nonce, keys and commitments, but no openings.
            let sent = theirs.sent();
            assert_eq!(sent.len(), 3, "{challenge:?}");
            commitments.extend(sent[2].chunks(32).map(<[u8]>::to_vec));
        }
    }
    // Of zeros each key's decryption is the same every time; commitments to it are not.
    commitments.sort();
    let all = commitments.len();
    commitments.dedup();
    assert_eq!(commitments.len(), all, "a commitment comes twice");
}

/// The server makes up all results, so that the client's shares are its two secrets, and opens what
/// it likes: the client's messages stay uniform, as many and as long.
#[test]
fn shifted_openings_show_nothing() {
    const ROWS: usize = 16;
    for arch in BOTH {
        let tiny = tiny(arch);
        let want = stock(ROWS, 1);
        let tokens: Vec<usize> = (0..ROWS).map(|i| i % tiny.plan.model.vocab).collect();
        let run = |deviates: bool| {
            let (dir, theirs, mine) = (tempfile::tempdir().unwrap(), Hand::default(), Hand::default());
            let (client, server) = pair(
                |conn| {
                    let mut e = open::<Client>(conn, tiny, dir.path(), &theirs)?;
                    Client::prepare(&mut e, tiny, want)?;
                    e.extend(ROWS)?;
                    e.take_logits(1)?;
                    theirs.sent();
                    Client::pass(&mut e, tiny, &tokens, 1)
                },
                |conn| {
                    let mut e = open::<Server>(conn, tiny, dir.path(), &mine)?;
                    mine.change(move |_, message| {
                        if deviates {
                            make_up(message, 1 << 62);
                        }
                    });
                    Server::prepare(&mut e, tiny, want)?;
                    e.extend(ROWS)?;
                    e.take_logits(1)?;
                    let mut random = rng(7);
                    mine.change(move |_, message| {
                        if deviates {
                            random.fill_bytes(message);
                            // Below every modulus, so that it is accepted.
                            message.iter_mut().skip(7).step_by(8).for_each(|byte| *byte &= 0x1f);
                        }
                    });
                    Server::pass(&mut e, tiny, &tokens, 1)
                },
            );
            assert!(client.is_ok() && server.is_ok(), "{client:?}");
            theirs.sent()
        };
        let (honest, sent) = (run(false), run(true));
        let lengths = |sent: &[Vec<u8>]| sent.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&sent), lengths(&honest));
        assert_eq!(sent.len(), client_messages(tiny.plan.model.layers));
        // Messages without rotations, which do not fill what they travel in: embedding, scores, and
        // what leaves a norm, attention and an activation.
        let whole = |n: usize| n == 0 || [1, 2, 4, 6, 7].contains(&((n - 1) % 8));
        let words_of = |sent: &[Vec<u8>]| -> Vec<u64> {
            let whole = sent.iter().enumerate().filter(|(n, _)| whole(*n));
            whole.flat_map(|(_, message)| words(message)).collect()
        };
        let mut all = words_of(&sent);
        for place in [0, 3, 7] {
            check_bytes(all.iter().map(|x| x.to_le_bytes()[place]), &format!("{arch:?}, byte {place}"));
        }
        let n = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), n, "a number comes twice");
    }
}

/// Known, in SECURITY: the server says what the answer is. The client is not told.
#[test]
fn altered_logits_are_the_answer() {
    const WANTED: usize = 13;
    let (tiny, dir, mine) = (tiny(Arch::Gpt), tempfile::tempdir().unwrap(), Hand::default());
    let want = stock(1, 1);
    let (client, server) = pair(
        |conn| {
            let mut e = open::<Client>(conn, tiny, dir.path(), &Hand::default())?;
            Client::prepare(&mut e, tiny, want)?;
            Client::pass_new(&mut e, tiny, &[3], 1)
        },
        |conn| {
            let mut e = open::<Server>(conn, tiny, dir.path(), &mine)?;
            Server::prepare(&mut e, tiny, want)?;
            let vocab = tiny.plan.model.vocab;
            mine.change(move |_, message| {
                if message.len() == 3 * vocab + 8 {
                    // The upper byte of 24 bits, an eighth of their range.
                    let byte = &mut message[3 * WANTED + 2];
                    *byte = byte.wrapping_add(0x20);
                }
            });
            Server::pass_new(&mut e, tiny, &[3], 1)
        },
    );
    server.unwrap();
    let (logits, _) = client.unwrap();
    let best = (0..logits.len()).max_by_key(|i| logits[*i]).unwrap();
    assert_eq!(best, WANTED);
}

#[test]
fn a_server_that_puts_its_store_back_gets_no_record_twice() {
    put_back(tiny(Arch::Gpt), Role::Server);
}
