//! The byte pipe between the two parties.
//!
//! Every protocol of this workspace knows the length of the next message, so a [`Channel`] carries bare bytes and
//! a message of any other length is an error. Framing, authentication and encryption belong to whoever implements
//! the trait.

use thiserror::Error;

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

/// Our half of an exchange. The two parties must hold opposite turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send our message, then wait for the peer's.
    SendFirst,
    /// Wait for the peer's message, then send ours.
    ReceiveFirst,
}

/// Why a message was not delivered.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer's message has another length than the protocol prescribes at this point.
    #[error("peer message has {actual} bytes, expected {expected}")]
    Length {
        /// Bytes the protocol prescribes.
        expected: usize,
        /// Bytes received (or announced by the frame).
        actual: usize,
    },
    /// The peer has gone away.
    #[error("channel closed by the peer, expected {expected} more bytes")]
    Closed {
        /// Bytes of the message that was under way.
        expected: usize,
    },
    /// The transport below failed.
    #[error("transport failed: {0}")]
    Io(#[from] std::io::Error),
}

/// A reliable, ordered pipe of whole messages to the peer.
pub trait Channel {
    /// Sends one message.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] or [`ChannelError::Io`].
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError>;

    /// Receives the next message, which must have exactly `len` bytes. `len` comes from the protocol, never from
    /// the peer, so it bounds the allocation.
    ///
    /// # Errors
    /// [`ChannelError::Length`] for any other length; [`ChannelError::Closed`] or [`ChannelError::Io`].
    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError>;

    /// Sends `bytes` and receives `len` bytes: one round. The parties pass opposite turns ([`Role::turn`]), so one
    /// of them is always reading while the other writes and a bounded pipe cannot deadlock.
    ///
    /// # Errors
    /// Those of [`Channel::send`] and [`Channel::recv`].
    fn exchange(&mut self, first: Turn, bytes: &[u8], len: usize) -> Result<Vec<u8>, ChannelError> {
        match first {
            Turn::SendFirst => {
                self.send(bytes)?;
                self.recv(len)
            }
            Turn::ReceiveFirst => {
                let received = self.recv(len)?;
                self.send(bytes)?;
                Ok(received)
            }
        }
    }
}
