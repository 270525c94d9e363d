//! Errors of the protocols. Each says whose fault it is, what was expected and what came, never a
//! secret.

use std::io;
use std::path::{Path, PathBuf};

use cryptogen_party::ChannelError;
use thiserror::Error;

/// A plan document that cannot be used, or a model that no plan makes possible.
#[derive(Debug, Error)]
pub enum PlanError {
    /// Not JSON.
    #[error("the plan is not valid JSON: {0}")]
    Json(String),
    /// A field, site or table is not there.
    #[error("the plan lacks {0}")]
    Missing(String),
    /// A value that no plan may have.
    #[error("plan field {field}: expected {expected}, got {actual}")]
    Value {
        /// The field.
        field: String,
        /// What it may be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The model does not fit into the ciphertexts of the paper's protocols.
    #[error("{what}: expected {expected}, got {actual}")]
    Unfit {
        /// The part of the model that does not.
        what: &'static str,
        /// What fits.
        expected: String,
        /// What it is.
        actual: String,
    },
}

/// Anything that stops a protocol step, by whose fault it is. The errors of the crates below carry
/// their own.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// The plan cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The connection failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The store of material failed.
    #[error(transparent)]
    Store(#[from] cryptogen_mpc::store::StoreError),
    /// The session failed, or the parties do not agree on what it is about.
    #[error(transparent)]
    Session(#[from] cryptogen_mpc::session::SessionError),
    /// Bytes that decode to no key or ciphertext are the peer's, who sent them; those of a file of
    /// ours are [`ProtocolError::Corrupt`].
    #[error("lattice encryption: {0}")]
    He(#[from] cryptogen_he::HeError),
    /// Oblivious transfer failed.
    #[error("oblivious transfer: {0}")]
    Ot(cryptogen_ot::OtError),
    /// The caller asked for what the step does not accept. Nothing was sent for it.
    #[error("{what}: expected {expected}, got {actual}")]
    Caller {
        /// The operand or argument.
        what: &'static str,
        /// What the step accepts.
        expected: String,
        /// What it was given.
        actual: String,
    },
    /// The peer sent something that the protocol does not allow.
    #[error("malformed {what} from the peer: expected {expected}, got {actual}")]
    Peer {
        /// The message or number.
        what: &'static str,
        /// What the protocol allows.
        expected: String,
        /// What came.
        actual: String,
    },
    /// A file of ours is not what we wrote there, or belongs to something else.
    #[error("file {}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// How that was noticed.
        reason: String,
    },
    /// The operating system did not read or write a file of ours.
    #[error("file {}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// One-time material was to be used a second time. It was not.
    #[error("{what}: expected a fresh one, got one used before")]
    Spent {
        /// The material.
        what: &'static str,
    },
    /// Less material is left than a step needs.
    #[error("not enough prepared material: {what} needs {needed}, {available} left")]
    Short {
        /// The kind of material.
        what: &'static str,
        /// How much the step needs.
        needed: u64,
        /// How much is left.
        available: u64,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// What no caller, no peer and no file can bring about.
    #[error("{what}: expected {expected}, got {actual}")]
    Bug {
        /// The value.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        actual: String,
    },
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
