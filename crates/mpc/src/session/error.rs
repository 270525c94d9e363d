//! One error for everything between the two parties. No secrets: lengths, names, digests and short
//! peer texts only.

use std::io;
use std::path::PathBuf;

use cryptogen_party::{ChannelError, MessageError};
use thiserror::Error;

/// Why a session could not be opened or went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The peer has gone away.
    #[error("connection closed by the peer")]
    Closed,
    /// The peer sent something else than the protocol prescribes.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// We were asked to send a control message above the limit.
    #[error("message of {actual} bytes exceeds the limit of {limit} bytes")]
    Unsendable {
        /// Largest allowed, bytes.
        limit: usize,
        /// Bytes of the message.
        actual: usize,
    },
    /// The peer reported a failure.
    #[error("the peer failed during {phase}: {kind}: {text}")]
    Peer {
        /// Phase that failed, as the peer names it.
        phase: String,
        /// Kind of failure, as the peer names it.
        kind: String,
        /// Short text without secrets.
        text: String,
    },
    /// This process was forked from the one that opened the connection.
    #[error("this process was forked from the one that opened the connection, and must open its own")]
    Forked,
    /// The interrupt hook asked us to stop.
    #[error("interrupted while waiting for the peer")]
    Interrupted,
    /// The peer was silent, or the handshake took, too long.
    #[error("no answer from the peer for {seconds} s")]
    Timeout {
        /// The limit that passed.
        seconds: u64,
    },
    /// The operating system refused.
    #[error("{action} failed: {kind}")]
    Io {
        /// What we tried.
        action: &'static str,
        /// The system's answer.
        kind: io::ErrorKind,
    },
    /// Another program listens on the port.
    #[error("address {address} is already in use")]
    AddressInUse {
        /// The address asked for.
        address: String,
    },
    /// Not a usable `host:port`.
    #[error("cannot use address {address:?}: {reason}")]
    Address {
        /// The address given.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The TLS layer refused (bad certificate, alert, …).
    #[error("TLS: {0}")]
    Tls(String),
    /// The server shows another certificate than the one we pinned.
    #[error("server certificate fingerprint is {actual}, expected {expected}")]
    Fingerprint {
        /// The pinned SHA-256, hex.
        expected: String,
        /// The SHA-256 of the certificate shown, hex.
        actual: String,
    },
    /// A certificate, key or fingerprint cannot be used.
    #[error("{}: {reason}", path.display())]
    Identity {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The peers speak different versions of the wire protocol.
    #[error("wire protocol version of the peer is {actual}, ours is {expected}")]
    Version {
        /// Our version.
        expected: u32,
        /// The peer's version.
        actual: u32,
    },
    /// The peers run different private-inference protocols.
    #[error("the peer runs protocol {actual:?}, we run {expected:?}")]
    Protocol {
        /// Ours.
        expected: String,
        /// The peer's.
        actual: String,
    },
    /// The client's access token is missing or wrong.
    #[error("the access token is missing or wrong")]
    AccessToken,
    /// A client identifier outside `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
    #[error("client id must be 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit")]
    ClientId,
    /// The parties do not mean the same computation.
    #[error("the parties disagree on {field}: ours is {expected:?}, the peer's is {actual:?}")]
    Mismatch {
        /// `model`, `plan`, `tables` or `parameters`.
        field: &'static str,
        /// Ours.
        expected: String,
        /// The peer's.
        actual: String,
    },
}

impl SessionError {
    pub(super) fn io(action: &'static str, error: &io::Error) -> SessionError {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | ConnectionAborted | UnexpectedEof => SessionError::Closed,
            kind => SessionError::Io { action, kind },
        }
    }
}

impl From<SessionError> for ChannelError {
    fn from(error: SessionError) -> ChannelError {
        match error {
            SessionError::Closed => ChannelError::Closed,
            SessionError::Message(error) => ChannelError::Message(error),
            SessionError::Peer { phase, kind, text } => {
                ChannelError::Peer(format!("{phase}: {kind}: {text}"))
            }
            SessionError::Forked => ChannelError::Forked,
            SessionError::Interrupted => ChannelError::Interrupted,
            SessionError::Timeout { .. } => ChannelError::Timeout,
            SessionError::Io { kind, .. } => ChannelError::Io(kind),
            // TLS can fail in the first message only; the rest belongs to opening a session, not to
            // a channel.
            _ => ChannelError::Io(io::ErrorKind::ConnectionAborted),
        }
    }
}

/// A peer's text made fit for an error or a terminal: at most `max` characters, no control
/// characters.
pub(super) fn short(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { '?' } else { c }).collect()
}
