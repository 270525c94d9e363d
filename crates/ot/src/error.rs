//! What can go wrong while making or reading table keys.

use cryptogen_party::ChannelError;
use thiserror::Error;

/// Errors of this crate. They name sizes and phases, never secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OtError {
    /// The pipe to the peer failed. Both parties must set up a new [`crate::OtPair`].
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The peer sent bytes that do not encode what the protocol prescribes.
    #[error("peer sent a malformed {what} (item {index})")]
    Malformed {
        /// What was expected, e.g. `"curve point"`.
        what: &'static str,
        /// Position of the first offending item.
        index: usize,
    },
    /// What the peer sent fails a check that every party passes that follows the protocol.
    #[error("peer deviated from the protocol: its {0} are inconsistent")]
    Inconsistent(&'static str),
    /// A pair that met an error before: the two parties may disagree, or the peer deviated.
    #[error("transfers of a pair that failed before are not used")]
    Failed,
    /// A size given by the caller is wrong.
    #[error("{what}: expected {expected}, got {actual}")]
    Size {
        /// Which size.
        what: &'static str,
        /// What it must be.
        expected: usize,
        /// What it is.
        actual: usize,
    },
    /// A parameter given by the caller is out of its range.
    #[error("{what} must be in {min}..={max}, got {actual}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// Smallest value allowed.
        min: usize,
        /// Largest value allowed.
        max: usize,
        /// The value given.
        actual: usize,
    },
    /// A stored record is not one that [`crate::generate`] wrote for this shape.
    #[error("corrupt table record: {0}")]
    Record(&'static str),
}
