//! Spoiled messages of every online step are typed errors, never panics; honest ones hash to the
//! recorded values.

use cryptogen_party::{ChannelError, MessageError};
use cryptogen_ring::exponential::PRIMES;

use super::channel::Fault;
use super::online::session;
use super::steps::{run_step, Step, STEPS};
use super::tiny::{tiny, Arch, BOTH};
use super::{integers, rng};
use crate::error::ProtocolError;

/// Errors of the party that received message `at` of party `by` (0: client) spoiled, and of its
/// sender.
fn spoil(arch: Arch, step: Step, by: usize, at: usize, fault: Fault) -> [Option<ProtocolError>; 2] {
    let (tiny, session) = (tiny(arch), session(arch));
    let x = integers(&mut rng(4), 2 * step.width(tiny), step.bound(arch));
    let (mut client, mut server) = session.active(tiny, 0..2);
    client.logits_now.truncate(2);
    server.logits_now.truncate(2);
    let mut faults = [None, None];
    faults[by] = Some((at, fault));
    let shares = step.share(tiny, session, 0..2, &x);
    let (c, s) = run_step(tiny, step, faults, (&mut client, &mut server), shares);
    let [client, server] = [c.result.err(), s.result.err()];
    if by == 0 {
        [server, client]
    } else {
        [client, server]
    }
}

fn each_message(mut test: impl FnMut(Arch, Step, usize, usize)) {
    for arch in BOTH {
        for step in STEPS {
            for (by, n) in step.messages().into_iter().enumerate() {
                (0..n).for_each(|at| test(arch, step, by, at));
            }
        }
    }
}

#[test]
fn wrong_lengths_and_hangups_are_errors() {
    each_message(|arch, step, by, at| {
        for fault in [Fault::Truncate, Fault::Extend] {
            let [error, _] = spoil(arch, step, by, at, fault);
            let of_length = matches!(
                error,
                Some(ProtocolError::Channel(ChannelError::Message(MessageError::Length { .. })))
            );
            assert!(of_length, "{arch:?} {step:?} message {at} of {by}, {fault:?}: {error:?}");
        }
        let [error, sender] = spoil(arch, step, by, at, Fault::Hangup);
        assert!(matches!(error, Some(ProtocolError::Channel(ChannelError::Closed))), "{error:?}");
        assert!(matches!(sender, Some(ProtocolError::Channel(ChannelError::Interrupted))), "{sender:?}");
    });
}

/// Whether message `at` of party `by` holds nothing but rotations, leading bits and integers modulo
/// `2^64`, which any bytes are.
fn has_no_field_element(step: Step, by: usize, at: usize) -> bool {
    match step {
        Step::Norm(_) => (by, at) == (0, 0),
        Step::Activation(_) => by == 0,
        Step::Logits => true,
        _ => false,
    }
}

#[test]
fn numbers_outside_the_field_are_errors() {
    each_message(|arch, step, by, at| {
        let [error, _] = spoil(arch, step, by, at, Fault::Ones);
        let as_expected = match error {
            Some(ProtocolError::Peer { .. }) => !has_no_field_element(step, by, at),
            None => has_no_field_element(step, by, at),
            _ => false,
        };
        assert!(as_expected, "{arch:?} {step:?} message {at} of {by}: {error:?}");
    });
}

#[test]
fn a_factor_that_is_not_reduced_is_refused() {
    let step = Step::Attention(0);
    for arch in BOTH {
        let heads = tiny(arch).plan.attention[0].heads.iter().map(|head| head.primes);
        // Row 1 alone runs the softmax, over two rows.
        let moduli: Vec<u64> = heads.flat_map(|n| [&PRIMES[..n]; 2].concat()).collect();
        for (i, prime) in moduli.into_iter().enumerate() {
            let sent = |number| spoil(arch, step, 1, 1, Fault::Number(8 * i, number));
            assert!(sent(prime - 1)[0].is_none(), "{arch:?}: number {i}");
            for above in [prime, prime | 1 << 63, u64::MAX] {
                let [error, sender] = sent(above);
                let text = error.map(|e| e.to_string()).unwrap_or_default();
                let expected =
                    "malformed opened factor from the peer: expected numbers below their prime, got one above it";
                assert_eq!(text, expected, "{arch:?}: number {i}");
                assert!(matches!(sender, Some(ProtocolError::Channel(ChannelError::Closed))), "{sender:?}");
            }
        }
    }
}

#[test]
fn wrong_contents_never_panic() {
    // Semi-honest: the result is wrong, and nothing worse happens. A random word is above p with
    // probability 2^-32, above most of the other primes of A9 nearly always.
    each_message(|arch, step, by, at| {
        let [error, _] = spoil(arch, step, by, at, Fault::Random);
        match (step, by, at) {
            (Step::Attention(_), 1, 1) => {
                assert!(matches!(error, Some(ProtocolError::Peer { .. })), "{error:?}")
            }
            _ => assert!(error.is_none(), "{error:?}"),
        }
    });
}

#[test]
fn transcripts_are_reproducible() {
    let hashes = |arch: Arch| -> Vec<[String; 2]> {
        let (tiny, session) = (tiny(arch), session(arch));
        let one = |step: Step| {
            let x = integers(&mut rng(5), 4 * step.width(tiny), step.bound(arch));
            let (mut client, mut server) = session.active(tiny, 0..4);
            let shares = step.share(tiny, session, 0..4, &x);
            let (c, s) = run_step(tiny, step, [None, None], (&mut client, &mut server), shares);
            [c.hash(), s.hash()]
        };
        STEPS.into_iter().map(one).collect()
    };
    const CHANGED: &str = "the wire format or the derivation of a mask has changed";
    let gpt = [
        ["7911476fe149d91f", "a53a93e215f0a69d"],
        ["f75e71dc8a08a6ee", "94de8c95500eabdf"],
        ["525cfb9539468008", "c69b3fa05c9e834f"],
        ["a63d3b21281e0696", "7a48e3a8873b5597"],
        ["102c086334ed41d1", "fcae32783ec08c3e"],
        ["e3b0c44298fc1c14", "6f12e8ca63af4584"],
    ];
    assert_eq!(hashes(Arch::Gpt), gpt, "{CHANGED}");
    let llama = [
        ["f8068c6ff83e8b14", "5ff94ec88a520758"],
        ["9b13b41b871e1c2c", "084b728c807c2d57"],
        ["def1515f93990c97", "6af4cebbaad02bca"],
        ["226dae8ec84da225", "c61b5452896c95c0"],
        ["1bb3ba0bf593e347", "47f6fb8c4fd5f9f6"],
        ["e3b0c44298fc1c14", "f316fe08aa60f4f8"],
    ];
    assert_eq!(hashes(Arch::Llama), llama, "{CHANGED}");
}
