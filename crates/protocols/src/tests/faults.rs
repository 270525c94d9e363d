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
        ["6a6bfdadc7126fea", "a5109ac8793ef3bf"],
        ["76be631ea7b21ca3", "114f3117ed389598"],
        ["5f8b8aaffc4eaf92", "9da040da0338fab6"],
        ["50376cae049554bc", "b89935a31ca7f9ef"],
        ["35e9780ec29d3a42", "cef4510a44dc707c"],
        ["e3b0c44298fc1c14", "fb9eada3d85816e1"],
    ];
    assert_eq!(hashes(Arch::Gpt), gpt, "{CHANGED}");
    let llama = [
        ["a3cc2287b6d5a85f", "249fb54826d7f064"],
        ["ace2ac9dbc5568e9", "3e284d4dbda95755"],
        ["3b82598312cce550", "6c7ee68c057f0c06"],
        ["002e779ebda6d109", "ac3767911f15c4bb"],
        ["018a47defd9a7710", "546e40c46e800a37"],
        ["e3b0c44298fc1c14", "dc55c5bf6a3719a6"],
    ];
    assert_eq!(hashes(Arch::Llama), llama, "{CHANGED}");
}
