use cryptogen_party::memory::MemoryChannel;
use cryptogen_party::{Channel, ChannelError, MessageError, Role};
use cryptogen_ring::Word;
use rand_core::RngCore;
use sha2::{Digest, Sha256};

use super::{extend, rng, run_over, setup};
use crate::extension::SILENT_FROM;
use crate::silent::message_bytes;
use crate::{generate, OtError, Table, TableBatch, TableKey, TableShape};

/// What to do with the bytes of one message on its way.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Truncate,
    Extend,
    Ones,
    Random,
    Hangup,
    /// the lowest bit of this byte
    Flip(usize),
}

/// Spoils message `at` of one party and hashes everything sent.
struct Spoiled {
    inner: MemoryChannel,
    fault: Fault,
    at: usize,
    sent: usize,
    transcript: Sha256,
}

impl Channel for Spoiled {
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let mut bytes = bytes.to_vec();
        if self.sent == self.at {
            match self.fault {
                Fault::None => {}
                Fault::Truncate => drop(bytes.pop()),
                Fault::Extend => bytes.push(0),
                Fault::Ones => bytes.fill(0xff),
                Fault::Random => rng(Role::Client, 200).fill_bytes(&mut bytes),
                Fault::Flip(byte) => bytes[byte] ^= 1,
                Fault::Hangup => return Err(ChannelError::Interrupted),
            }
        }
        self.sent += 1;
        self.transcript.update(&bytes);
        self.inner.send(&bytes)
    }

    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError> {
        self.inner.recv(len)
    }
}

fn shape() -> TableShape {
    TableShape::new(5, 1).expect("valid shape")
}

/// One whole run with the client's message `at` spoiled: each party's result and transcript hash.
fn spoil(fault: Fault, at: usize) -> [(Result<TableBatch, OtError>, [u8; 32]); 2] {
    spoil_from(Role::Client, fault, at)
}

/// The same with a message of `spoiler`.
fn spoil_from(spoiler: Role, fault: Fault, at: usize) -> [(Result<TableBatch, OtError>, [u8; 32]); 2] {
    run_over(
        |role, inner| {
            let fault = if role == spoiler { fault } else { Fault::None };
            Spoiled { inner, fault, at, sent: 0, transcript: Sha256::new() }
        },
        |role, channel| {
            let result = setup(role, channel, 20).and_then(|(mut pair, mut rng)| {
                let betas: Vec<Word> = rng.word_vec(7);
                generate(channel, &mut pair, shape(), 7, &betas, &mut rng)
            });
            (result, channel.transcript.clone().finalize().into())
        },
    )
}

/// Of the client: 3 of the base transfers, 2 of the extension, 4 of the levels, 3 of the final
/// words. The server's proof travels with its first words, so it has one less.
const MESSAGES: usize = 12;
/// The message with the holder's sums of either party.
const SEEDS: usize = 2;
/// The message with the corrections of either party.
const CORRECTIONS: usize = 3;
/// The message that begins with the proof of either party.
const PROOF: usize = 4;

#[test]
fn wrong_lengths_and_hangups_are_errors() {
    for at in 0..MESSAGES {
        for fault in [Fault::Truncate, Fault::Extend] {
            let [_, (server, _)] = spoil(fault, at);
            let error = server.err().expect("the server must notice");
            assert!(
                matches!(error, OtError::Channel(ChannelError::Message(MessageError::Length { .. }))),
                "{fault:?} {at}: {error}"
            );
        }
        let [(client, _), (server, _)] = spoil(Fault::Hangup, at);
        assert_eq!(client.err(), Some(OtError::Channel(ChannelError::Interrupted)));
        assert_eq!(server.err(), Some(OtError::Channel(ChannelError::Closed)));
    }
}

#[test]
fn the_servers_messages_have_their_lengths_too() {
    for at in 0..MESSAGES - 1 {
        for fault in [Fault::Truncate, Fault::Extend] {
            let [(client, _), _] = spoil_from(Role::Server, fault, at);
            let error = client.err().expect("the client must notice");
            assert!(
                matches!(error, OtError::Channel(ChannelError::Message(MessageError::Length { .. }))),
                "{fault:?} {at}: {error}"
            );
        }
    }
}

/// Whichever party deviates, the other one says so. (A wrong correction passes where the bits of
/// `Δ` of its block are 0, which these seeds avoid for the blocks used here.)
#[test]
fn inconsistent_transfers_are_the_peers_fault() {
    let faults = [
        (SEEDS, Fault::Random, "seeds"),
        (SEEDS, Fault::Flip(4096 + 5), "seeds"),
        (CORRECTIONS, Fault::Flip(16 * 20 + 15), "transfers"),
        (CORRECTIONS, Fault::Flip(0), "transfers"),
        (CORRECTIONS, Fault::Flip(16 * 7 + 9), "transfers"),
        (PROOF, Fault::Random, "transfers"),
        (PROOF, Fault::Flip(0), "transfers"),
        (PROOF, Fault::Flip(47), "transfers"),
    ];
    for spoiler in [Role::Client, Role::Server] {
        for (at, fault, what) in faults {
            let results = spoil_from(spoiler, fault, at).map(|(result, _)| result.err());
            assert_eq!(
                results[spoiler.other().index()],
                Some(OtError::Inconsistent(what)),
                "{spoiler:?} {at} {fault:?}"
            );
        }
    }
}

/// The same of silent transfers: a word of a tree, the challenge's masked sum, the answer. A party
/// whose own challenge was changed on its way sees an answer to another one.
#[test]
fn inconsistent_silent_transfers_are_the_peers_fault() {
    let spoil = |spoiler: Role, fault: Fault, at: usize| {
        run_over(
            |role, inner| {
                let fault = if role == spoiler { fault } else { Fault::None };
                Spoiled { inner, fault, at, sent: 0, transcript: Sha256::new() }
            },
            |role, channel| {
                let (mut pair, mut rng) = setup(role, channel, 21).expect("honest set-up");
                extend(&mut pair, channel, SILENT_FROM, &mut rng).err()
            },
        )
    };
    // After three messages of the set-up and two of the reserve.
    let (words, answer) = (5, 6);
    let of_words = message_bytes(SILENT_FROM);
    let inconsistent = Some(OtError::Inconsistent("silent transfers"));
    for spoiler in [Role::Client, Role::Server] {
        let other = spoiler.other().index();
        for byte in [0, 448 - 1, of_words / 2, of_words - 1] {
            assert_eq!(spoil(spoiler, Fault::Flip(byte), words)[other], inconsistent, "{spoiler:?} {byte}");
        }
        assert_eq!(spoil(spoiler, Fault::Flip(31), answer)[other], inconsistent, "{spoiler:?}");
    }
    assert_eq!(spoil(Role::Server, Fault::Flip(of_words + 33), words)[Role::Server.index()], inconsistent);
    assert_eq!(spoil(Role::Client, Fault::Flip(32 + 33), answer)[Role::Client.index()], inconsistent);
}

#[test]
fn a_pair_that_failed_refuses_to_go_on() {
    let results = run_over(
        |role, inner| {
            let fault = if role == Role::Server { Fault::Flip(0) } else { Fault::None };
            Spoiled { inner, fault, at: PROOF, sent: 0, transcript: Sha256::new() }
        },
        |role, channel| {
            let (mut pair, mut rng) = setup(role, channel, 20).expect("honest set-up");
            let mut make = || generate(channel, &mut pair, shape(), 1, &[Word::default()], &mut rng).err();
            match role {
                Role::Client => [make(), make()],
                // It sees the client go away.
                Role::Server => [make(), None],
            }
        },
    );
    assert_eq!(results[0], [Some(OtError::Inconsistent("transfers")), Some(OtError::Failed)]);
    assert_eq!(results[1][0], Some(OtError::Channel(ChannelError::Closed)));
}

#[test]
fn bytes_that_encode_nothing_are_errors() {
    // Curve points; any eight bytes are an integer modulo 2^64.
    for (at, what) in [(0, "curve point"), (1, "curve point")] {
        let [_, (server, _)] = spoil(Fault::Ones, at);
        assert_eq!(server.err(), Some(OtError::Malformed { what, index: 0 }));
    }
}

#[test]
fn wrong_contents_never_panic() {
    for at in 0..MESSAGES {
        for fault in [Fault::Ones, Fault::Random] {
            for (batch, _) in spoil(fault, at).into_iter().filter_map(|(r, h)| r.ok().map(|r| (r, h))) {
                // Semi-honest: the keys are wrong, but they are well formed and usable without a
                // panic.
                let key = TableKey::from_record(shape(), batch.record(0)).expect("well-formed record");
                assert_eq!(
                    key.dot(Role::Server, 1, &[&Table::new(&[1; 32])]).expect("valid tables").len(),
                    2
                );
            }
        }
    }
}

#[test]
fn corrupt_records_are_errors() {
    let [(client, _), _] = spoil(Fault::None, 0);
    let batch = client.expect("honest run");
    let good = batch.record(0).to_vec();
    let change = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] |= value;
        TableKey::from_record(shape(), &bad).err()
    };
    assert_eq!(change(0, 0), None);
    assert!(matches!(change(1, 1), Some(OtError::Record(_))), "index");
    assert!(matches!(TableKey::from_record(shape(), &good[1..]), Err(OtError::Size { .. })));
}

#[test]
fn transcript_is_reproducible() {
    let hex = |hash: [u8; 32]| hash[..8].iter().map(|b| format!("{b:02x}")).collect::<String>();
    let [(client, from_client), (server, from_server)] = spoil(Fault::None, 0);
    assert!(client.is_ok() && server.is_ok());
    assert_eq!(
        (hex(from_client).as_str(), hex(from_server).as_str()),
        ("f834482ef15a77f9", "9b000d6b97d93fb5")
    );
}
