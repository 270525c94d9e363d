//! A channel that keeps what was sent and can spoil one message, and two parties in two threads
//! over it.

use cryptogen_party::memory::{self, MemoryChannel};
use cryptogen_party::{Channel, ChannelError};
use rand_core::RngCore;
use sha2::{Digest, Sha256};

use super::rng;
use crate::share::Cost;

/// What happens to a message on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Truncate,
    Extend,
    /// every byte 255: a number above p
    Ones,
    Random,
    /// another number at this byte
    Number(usize, u64),
    Hangup,
}

/// One end of a connection in memory.
pub struct Tap {
    inner: MemoryChannel,
    fault: Option<(usize, Fault)>,
    pub sent: Vec<Vec<u8>>,
}

impl Channel for Tap {
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let mut bytes = bytes.to_vec();
        match self.fault.filter(|(at, _)| *at == self.sent.len()) {
            None => {}
            Some((_, Fault::Truncate)) => drop(bytes.pop()),
            Some((_, Fault::Extend)) => bytes.push(0),
            Some((_, Fault::Ones)) => bytes.fill(0xff),
            Some((_, Fault::Random)) => rng(200).fill_bytes(&mut bytes),
            Some((_, Fault::Number(at, number))) => bytes[at..at + 8].copy_from_slice(&number.to_le_bytes()),
            Some((_, Fault::Hangup)) => return Err(ChannelError::Interrupted),
        }
        self.sent.push(bytes.clone());
        self.inner.send(&bytes)
    }

    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError> {
        self.inner.recv(len)
    }
}

/// What a party returned and sent.
pub struct Ran<T> {
    pub result: T,
    pub sent: Vec<Vec<u8>>,
}

impl<T> Ran<T> {
    pub fn bytes(&self) -> usize {
        self.sent.iter().map(Vec::len).sum()
    }

    /// The first half of the hash of everything sent, for regression.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        self.sent.iter().for_each(|m| hash.update(m));
        hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
    }
}

fn run_one<T>(
    inner: MemoryChannel,
    fault: Option<(usize, Fault)>,
    party: impl FnOnce(&mut Tap) -> T,
) -> Ran<T> {
    // The end is dropped with its party, so that the other one cannot wait for ever.
    let mut tap = Tap { inner, fault, sent: vec![] };
    let result = party(&mut tap);
    Ran { result, sent: tap.sent }
}

/// Runs client and server, each with its fault `(message, what)`.
pub fn run_spoiled<A, B: Send>(
    faults: [Option<(usize, Fault)>; 2],
    client: impl FnOnce(&mut Tap) -> A,
    server: impl FnOnce(&mut Tap) -> B + Send,
) -> (Ran<A>, Ran<B>) {
    let (near, far) = memory::pair();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || run_one(far, faults[1], server));
        let own = run_one(near, faults[0], client);
        (own, other.join().expect("the server panicked"))
    })
}

/// Runs client and server.
pub fn run<A, B: Send>(
    client: impl FnOnce(&mut Tap) -> A,
    server: impl FnOnce(&mut Tap) -> B + Send,
) -> (Ran<A>, Ran<B>) {
    run_spoiled([None, None], client, server)
}

/// What two parties sent.
pub fn measured<A, B>(client: &Ran<A>, server: &Ran<B>) -> Cost {
    Cost {
        messages: client.sent.len() + server.sent.len(),
        client_bytes: client.bytes(),
        server_bytes: server.bytes(),
    }
}
