//! Spoiled messages of every online step are typed errors, never panics; honest ones hash to the recorded values.

use cryptogen_ot::ChannelError;

use super::channel::Fault;
use super::online::session;
use super::steps::{run_step, Step, STEPS};
use super::tiny::{tiny, Arch, BOTH};
use super::{integers, rng};
use crate::error::ProtocolError;

/// Errors of the party that received message `at` of party `by` (0: client) spoiled, and of its sender.
fn spoil(arch: Arch, step: Step, by: usize, at: usize, fault: Fault) -> [Option<ProtocolError>; 2] {
    let (tiny, session) = (tiny(arch), session(arch));
    let x = integers(&mut rng(4), 2 * step.width(tiny), step.bound(arch));
    let (mut client, mut server) = session.active(tiny, 0..2);
    client.head_now.truncate(2);
    server.head_now.truncate(2);
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
            let of_length = matches!(error, Some(ProtocolError::Channel(ChannelError::Length { .. })));
            assert!(of_length, "{arch:?} {step:?} message {at} of {by}, {fault:?}: {error:?}");
        }
        let [error, sender] = spoil(arch, step, by, at, Fault::Hangup);
        assert!(matches!(error, Some(ProtocolError::Channel(ChannelError::Closed))), "{error:?}");
        assert!(matches!(sender, Some(ProtocolError::Channel(ChannelError::Interrupted))), "{sender:?}");
    });
}

#[test]
fn numbers_outside_the_field_are_errors() {
    each_message(|arch, step, by, at| {
        let [error, _] = spoil(arch, step, by, at, Fault::Ones);
        let malformed = matches!(error, Some(ProtocolError::Malformed { .. }));
        assert!(malformed, "{arch:?} {step:?} message {at} of {by}: {error:?}");
    });
}

#[test]
fn wrong_contents_never_panic() {
    // Semi-honest: the result is wrong, and nothing worse happens. A random word is above p with probability 2^-32.
    each_message(|arch, step, by, at| {
        let [error, _] = spoil(arch, step, by, at, Fault::Random);
        assert!(error.is_none(), "{error:?}");
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
        ["cf545d7789cffbf3", "b2213281cea47313"],
        ["a4e1c506f7258be5", "48f46ca10c1a9484"],
        ["a40bbdf27243e014", "b187156e7a385fd0"],
        ["4124924114c26238", "b74590b2b078356d"],
        ["8c2e51542d3b4d47", "a03d0f09452f55d8"],
        ["e3b0c44298fc1c14", "fb9eada3d85816e1"],
    ];
    assert_eq!(hashes(Arch::Gpt), gpt, "{CHANGED}");
    let llama = [
        ["b5de00f3115b5777", "b7a6659487b5db08"],
        ["062ed7a62dc5d612", "2a6d059680614c91"],
        ["a4123d066e5aec26", "a176b99ec71e4417"],
        ["ebce62d204a9d0a1", "f5e3d763744fbc11"],
        ["b2cb6b2f8a2967b1", "fe93001db235af49"],
        ["e3b0c44298fc1c14", "dc55c5bf6a3719a6"],
    ];
    assert_eq!(hashes(Arch::Llama), llama, "{CHANGED}");
}
