//! Two parties in two threads over the in-memory channel.

mod faults;
mod tables;
mod transfers;

use cryptogen_party::memory::{self, MemoryChannel};
use cryptogen_party::{Channel, Role};
use cryptogen_ring::{Prg, Seed};

use crate::error::OtError;
use crate::extension::{OtPair, RotReceived, RotSent};

/// The generator of a party, seeded: every test is reproducible.
fn rng(role: Role, seed: u8) -> Prg {
    let mut bytes = [seed; 32];
    bytes[0] = role.index() as u8;
    Prg::new(&Seed::from_bytes(bytes))
}

/// Runs `party` in both roles, each end wrapped by `wrap`.
fn run_over<C: Channel, T: Send>(
    wrap: impl Fn(Role, MemoryChannel) -> C + Sync,
    party: impl Fn(Role, &mut C) -> T + Sync,
) -> [T; 2] {
    let (client, server) = memory::pair();
    // Each end is dropped with its party, so that the other one cannot wait for ever.
    let over = |role, end| {
        let mut channel = wrap(role, end);
        party(role, &mut channel)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| over(Role::Server, server));
        let own = over(Role::Client, client);
        [own, other.join().expect("server panicked")]
    })
}

pub(crate) fn run<T: Send>(party: impl Fn(Role, &mut MemoryChannel) -> Result<T, OtError> + Sync) -> [T; 2] {
    run_over(|_, channel| channel, party).map(|result| result.expect("honest run"))
}

/// An extension with the server's proof in a message of its own.
fn extend(
    pair: &mut OtPair,
    channel: &mut impl Channel,
    n: usize,
    rng: &mut Prg,
) -> Result<(RotSent, RotReceived), OtError> {
    let transfers = pair.extend(channel, n, rng)?.prove_apart(channel)?;
    pair.settle();
    Ok(transfers)
}

pub(crate) fn setup(role: Role, channel: &mut impl Channel, seed: u8) -> Result<(OtPair, Prg), OtError> {
    let mut rng = rng(role, seed);
    Ok((OtPair::setup(role, channel, &mut rng)?, rng))
}
