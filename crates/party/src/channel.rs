//! The byte pipe between the two parties.
//!
//! Every protocol of this workspace knows the length of the next message, so a [`Channel`] carries
//! bare bytes and a message of any other length is an error. Framing, authentication and encryption
//! belong to whoever implements the trait.

use thiserror::Error;

/// Our half of an exchange. The two parties must hold opposite turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send our message, then wait for the peer's.
    SendFirst,
    /// Wait for the peer's message, then send ours.
    ReceiveFirst,
}

/// Why what the peer sent is not the message that the protocol prescribes at this point. Carries no
/// payload bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// It has another length.
    #[error("peer message has {actual} bytes, expected {expected}")]
    Length {
        /// Bytes the protocol prescribes.
        expected: usize,
        /// Bytes received (or announced by the frame).
        actual: usize,
    },
    /// It exceeds what the transport carries.
    #[error("peer message of {actual} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Largest message allowed, bytes.
        limit: usize,
        /// Bytes announced.
        actual: usize,
    },
    /// The bytes are no message of the transport or the protocol.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
}

/// Why a message was not delivered. Carries no payload bytes, so it can be logged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// The peer has gone away.
    #[error("channel closed by the peer")]
    Closed,
    /// The peer sent something else than the protocol prescribes.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer reported that it failed (its short text, bounded by the transport).
    #[error("peer failed: {0}")]
    Peer(String),
    /// We were asked to stop while waiting.
    #[error("interrupted")]
    Interrupted,
    /// The peer was silent for too long.
    #[error("timed out waiting for the peer")]
    Timeout,
    /// This process was forked from the one that opened the channel.
    #[error("this process was forked from the one that opened the channel, and must open its own")]
    Forked,
    /// The transport below failed.
    #[error("transport failed: {0}")]
    Io(std::io::ErrorKind),
}

/// A reliable, ordered pipe of whole messages to the peer.
pub trait Channel {
    /// Sends one message.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] or [`ChannelError::Io`].
    fn send(&mut self, bytes: &[u8]) -> Result<(), ChannelError>;

    /// Receives the next message, which must have exactly `len` bytes. `len` comes from the
    /// protocol, never from the peer, so it bounds the allocation.
    ///
    /// # Errors
    /// [`MessageError::Length`] for any other length; [`ChannelError::Closed`] or
    /// [`ChannelError::Io`].
    fn recv(&mut self, len: usize) -> Result<Vec<u8>, ChannelError>;

    /// Sends `bytes` and receives `len` bytes: one round. The parties pass opposite turns
    /// ([`crate::Role::turn`]), so one of them is always reading while the other writes and a
    /// bounded pipe cannot deadlock.
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
