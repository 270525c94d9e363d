//! Errors of the protocols: what was expected and what came, never a secret.

use cryptogen_party::ChannelError;
use thiserror::Error;

/// A plan document that cannot be used.
#[derive(Debug, Error)]
pub enum PlanError {
    /// Not JSON.
    #[error("the plan is not valid JSON: {0}")]
    Json(String),
    /// A field, site or table is not there.
    #[error("the plan lacks {0}")]
    Missing(String),
    /// A value that no plan may have.
    #[error("plan field {field}: expected {expected}, got {got}")]
    Value {
        /// The field.
        field: String,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
}

/// Anything that stops a protocol step.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// The plan cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The connection failed.
    #[error("connection: {0}")]
    Channel(#[from] ChannelError),
    /// The store of material failed.
    #[error("material store: {0}")]
    Store(#[from] cryptogen_mpc::store::StoreError),
    /// The session failed, or the parties do not agree on what it is about.
    #[error("connection: {0}")]
    Session(#[from] cryptogen_mpc::session::SessionError),
    /// An operand or argument is not what the step needs.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The operand.
        what: &'static str,
        /// What the step needs.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// Lattice encryption failed.
    #[error("lattice encryption: {0}")]
    He(#[from] cryptogen_he::HeError),
    /// Oblivious transfer failed.
    #[error("oblivious transfer: {0}")]
    Ot(#[from] cryptogen_ot::OtError),
    /// Bytes that no honest party makes.
    #[error("malformed {what} from the peer")]
    Malformed {
        /// What they should have been.
        what: &'static str,
    },
    /// The server's weights lack a matrix or a vector.
    #[error("the server's weights lack {0}")]
    MissingWeights(String),
    /// A file cannot be read or written, or is not what it should be.
    #[error("file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What happened.
        reason: String,
    },
    /// A saved cache is of another model, key or layout, or damaged.
    #[error("saved cache {path}: {reason}")]
    Cache {
        /// The file.
        path: String,
        /// Why it was refused.
        reason: String,
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
}

/// Shorthand of this crate.
pub type Result<T, E = ProtocolError> = std::result::Result<T, E>;
