//! Errors of the protocols: what was expected and what came, never a secret.

use cryptogen_party::ChannelError;
use thiserror::Error;

/// A plan document that cannot be used.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("the plan is not valid JSON: {0}")]
    Json(String),
    #[error("the plan lacks {0}")]
    Missing(String),
    #[error("plan field {field}: expected {expected}, got {got}")]
    Value { field: String, expected: String, got: String },
}

/// Anything that stops a protocol step.
#[derive(Debug, Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("connection: {0}")]
    Channel(#[from] ChannelError),
    #[error("material store: {0}")]
    Store(#[from] cryptogen_mpc::store::StoreError),
    #[error("connection: {0}")]
    Session(#[from] cryptogen_mpc::session::SessionError),
    #[error("{what}: expected {expected}, got {got}")]
    Shape { what: &'static str, expected: String, got: String },
    #[error("lattice encryption: {0}")]
    He(#[from] cryptogen_he::HeError),
    #[error("oblivious transfer: {0}")]
    Ot(#[from] cryptogen_ot::OtError),
    #[error("malformed {what} from the peer")]
    Malformed { what: &'static str },
    #[error("the server's weights lack {0}")]
    MissingWeights(String),
    #[error("file {path}: {reason}")]
    File { path: String, reason: String },
    #[error("saved cache {path}: {reason}")]
    Cache { path: String, reason: String },
    #[error("not enough prepared material: {what} needs {needed}, {available} left")]
    Short { what: &'static str, needed: u64, available: u64 },
    #[error("interrupted")]
    Interrupted,
}

/// Shorthand of this crate.
pub type Result<T, E = ProtocolError> = std::result::Result<T, E>;
