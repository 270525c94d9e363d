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
        ["94c431554a6d1558", "ca074d8b0e3d1539"],
        ["838c553a8c1f2868", "f40d57c28ade8f70"],
        ["ae3c07e8d5679215", "20648424968ae7d2"],
        ["72f65bf4e5a4cd1e", "5ddea04533c816f7"],
        ["0660725cbcb454c0", "b076d6d8b43bfba6"],
        ["e3b0c44298fc1c14", "fb9eada3d85816e1"],
    ];
    assert_eq!(hashes(Arch::Gpt), gpt, "{CHANGED}");
    let llama = [
        ["4492f0b1f5316880", "f0d3b3fc75261736"],
        ["944426c67a29a2c0", "f75128accc8deb3d"],
        ["8fc0386a5e303269", "9e7674ad1f54ccbd"],
        ["514f32d9340a3862", "3e484308b8ae7c73"],
        ["4bf086cdab2bceff", "7c4f3a0b20063592"],
        ["e3b0c44298fc1c14", "dc55c5bf6a3719a6"],
    ];
    assert_eq!(hashes(Arch::Llama), llama, "{CHANGED}");
}
