//! The two parties as types, so that mixing up whose share is whose does not compile.

use crate::channel::Turn;

/// Which of the two parties we are. `Client` is party 0, `Server` is party 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Party 0: holds the prompt.
    Client,
    /// Party 1: holds the model.
    Server,
}

impl Role {
    /// 0 for the client, 1 for the server.
    pub const fn index(self) -> usize {
        match self {
            Role::Client => 0,
            Role::Server => 1,
        }
    }

    /// The peer's role.
    pub const fn other(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    /// The fixed order of an exchange: the client speaks first.
    pub const fn turn(self) -> Turn {
        match self {
            Role::Client => Turn::SendFirst,
            Role::Server => Turn::ReceiveFirst,
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Client {}
    impl Sealed for super::Server {}
}

/// One of the two parties. Sealed: there are exactly [`Client`] and [`Server`].
///
/// A protocol in which both do the same is one function generic over `P: Party`.
pub trait Party: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// The other party.
    type Peer: Party<Peer = Self>;
    /// The same as a value, for code that branches on it.
    const ROLE: Role;
}

/// Holds the prompt and learns the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client;

/// Holds the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server;

impl Party for Client {
    type Peer = Server;
    const ROLE: Role = Role::Client;
}

impl Party for Server {
    type Peer = Client;
    const ROLE: Role = Role::Server;
}
