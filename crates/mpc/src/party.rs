//! The two parties as types, so that mixing up whose share is whose does not compile.

use cryptogen_ot::Role;

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
