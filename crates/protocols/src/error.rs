//! Errors of the protocols. Each says whose fault it is, what was expected and what came, never a
//! secret.

use std::io;
use std::path::{Path, PathBuf};

use cryptogen_party::ChannelError;
use thiserror::Error;

/// A plan document that cannot be used, or a model that no plan makes possible.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("the plan is not valid JSON: {0}")]
    Json(String),
    #[error("the plan lacks {0}")]
    Missing(String),
    #[error("plan field {field}: expected {expected}, got {actual}")]
    Value { field: String, expected: String, actual: String },
    /// The model does not fit into the ciphertexts of the paper's protocols.
    #[error("{what}: expected {expected}, got {actual}")]
    Unfit { what: &'static str, expected: String, actual: String },
}

/// Anything that stops a protocol step, by whose fault it is. The errors of the crates below carry
/// their own.
#[derive(Debug, Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Store(#[from] cryptogen_mpc::store::StoreError),
    #[error(transparent)]
    Session(#[from] cryptogen_mpc::session::SessionError),
    /// Bytes that decode to no key or ciphertext are the peer's, who sent them; those of a file of
    /// ours are [`ProtocolError::Corrupt`].
    #[error("lattice encryption: {0}")]
    He(#[from] cryptogen_he::HeError),
    #[error("oblivious transfer: {0}")]
    Ot(cryptogen_ot::OtError),
    /// The caller asked for what the step does not accept. Nothing was sent for it.
    #[error("{what}: expected {expected}, got {actual}")]
    Caller { what: &'static str, expected: String, actual: String },
    /// The peer sent something that the protocol does not allow.
    #[error("malformed {what} from the peer: expected {expected}, got {actual}")]
    Peer { what: &'static str, expected: String, actual: String },
    /// A file of ours is not what we wrote there, or belongs to something else.
    #[error("file {}: {reason}", file.display())]
    Corrupt { file: PathBuf, reason: String },
    /// The operating system did not read or write a file of ours.
    #[error("file {}: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
    /// One-time material was to be used a second time. It was not.
    #[error("{what}: expected a fresh one, got one used before")]
    Spent { what: &'static str },
    #[error("not enough prepared material: {what} needs {needed}, {available} left")]
    Short { what: &'static str, needed: u64, available: u64 },
    #[error("interrupted")]
    Interrupted,
    /// What no caller, no peer and no file can bring about.
    #[error("{what}: expected {expected}, got {actual}")]
    Bug { what: &'static str, expected: String, actual: String },
}

impl ProtocolError {
    /// [`ProtocolError::Caller`].
    pub fn caller(what: &'static str, expected: impl ToString, actual: impl ToString) -> ProtocolError {
        ProtocolError::Caller { what, expected: expected.to_string(), actual: actual.to_string() }
    }

    /// [`ProtocolError::Peer`].
    pub fn peer(what: &'static str, expected: impl ToString, actual: impl ToString) -> ProtocolError {
        ProtocolError::Peer { what, expected: expected.to_string(), actual: actual.to_string() }
    }

    /// [`ProtocolError::Bug`]. Neither text may hold a secret: the user is asked to send it to us.
    pub fn bug(what: &'static str, expected: impl ToString, actual: impl ToString) -> ProtocolError {
        ProtocolError::Bug { what, expected: expected.to_string(), actual: actual.to_string() }
    }

    /// [`ProtocolError::Corrupt`].
    pub fn corrupt(file: &Path, reason: impl ToString) -> ProtocolError {
        ProtocolError::Corrupt { file: file.to_owned(), reason: reason.to_string() }
    }

    /// [`ProtocolError::File`].
    pub fn file(file: &Path, error: io::Error) -> ProtocolError {
        ProtocolError::File { file: file.to_owned(), error }
    }
}

impl From<cryptogen_ot::OtError> for ProtocolError {
    /// A connection that fails during a transfer is an error of the connection.
    fn from(error: cryptogen_ot::OtError) -> ProtocolError {
        match error {
            cryptogen_ot::OtError::Channel(error) => ProtocolError::Channel(error),
            error => ProtocolError::Ot(error),
        }
    }
}

/// Shorthand of this crate.
pub type Result<T, E = ProtocolError> = std::result::Result<T, E>;
