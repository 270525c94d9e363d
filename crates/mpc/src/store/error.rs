//! Errors of the store: names, counts and digests only.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::state::PoolCursor;
use crate::durable::no_room;

/// Why material could not be stored or handed out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{action} {}: {kind}", path.display())]
    Io {
        /// What we tried.
        action: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// The system's answer.
        kind: io::ErrorKind,
    },
    /// The file system has no room; nothing was committed.
    #[error("disk full: no room for {}{}", path.display(), room(needed, available))]
    DiskFull {
        /// The file concerned.
        path: PathBuf,
        /// Bytes asked for, where known beforehand.
        needed: Option<u64>,
        /// Bytes the file system offers, where known.
        available: Option<u64>,
    },
    /// Another process (or another handle) has the store open.
    #[error("store {} is in use by another process", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The store was made for another peer, model, plan or role.
    #[error("store is bound to {field} {actual:?}, expected {expected:?}")]
    Binding {
        /// `peer`, `model`, `plan` or `role`.
        field: &'static str,
        /// What was asked for.
        expected: String,
        /// What the store holds.
        actual: String,
    },
    /// A file is not what we wrote.
    #[error("{} cannot be used: {reason}", path.display())]
    Corrupt {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// This process was forked from the one that opened the store.
    #[error("this process was forked from the one that opened the store, and must open its own")]
    Forked,
    /// An earlier write failed half-way; the store has to be opened again.
    #[error("the store failed earlier and must be reopened")]
    Failed,
    /// Fewer records are left than were asked for; none was taken.
    #[error("pool {pool} has {available} records left, {needed} are needed")]
    Short {
        /// The pool.
        pool: String,
        /// Records asked for.
        needed: u64,
        /// Records left.
        available: u64,
    },
    /// A pool name outside `[a-z0-9][a-z0-9._-]{0,63}`.
    #[error("pool name {0:?} is not 1 to 64 of a-z 0-9 . _ - starting with a letter or digit")]
    PoolName(String),
    /// The pool holds records of another size.
    #[error("pool {pool} has records of {actual} bytes, expected {expected}")]
    RecordBytes {
        /// The pool.
        pool: String,
        /// Bytes asked for.
        expected: u64,
        /// Bytes of the pool on disk.
        actual: u64,
    },
    /// Sizes that no file can have.
    #[error("pool {pool}: {records} records of {record_bytes} bytes are too much")]
    Size {
        /// The pool.
        pool: String,
        /// Number of records.
        records: u64,
        /// Bytes per record.
        record_bytes: u64,
    },
    /// A write outside its batch or record.
    #[error("write to record {record}, bytes {offset}..+{len}, of a batch of {records} records of {record_bytes} bytes")]
    Bounds {
        /// Record index within the batch.
        record: u64,
        /// First byte within the record.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Records in the batch.
        records: u64,
        /// Bytes per record.
        record_bytes: u64,
    },
    /// A batch is being written to the pool.
    #[error("pool {pool} already has an open batch")]
    BatchOpen {
        /// The pool.
        pool: String,
    },
    /// A batch was to be committed before all of it was written: an unwritten mask would be zero.
    #[error("batch of pool {pool} has {actual} bytes written, expected {expected}")]
    Incomplete {
        /// The pool.
        pool: String,
        /// Bytes of the whole batch.
        expected: u64,
        /// Bytes written.
        actual: u64,
    },
    /// A cursor only moves forward, up to the committed end.
    #[error("pool {pool}: cannot skip to {asked}, the cursor is {cursor} and the end is {committed}")]
    Skip {
        /// The pool.
        pool: String,
        /// Where to.
        asked: u64,
        /// Where it is.
        cursor: u64,
        /// End of the pool.
        committed: u64,
    },
    /// The two parties hold different stores.
    #[error("store id is {actual:?}, expected {expected:?}: the parties' material does not belong together")]
    StoreId {
        /// Ours.
        expected: String,
        /// The peer's.
        actual: String,
    },
    /// The two parties have spent different amounts.
    #[error(
        "pool {pool}: we have spent {} of {} records, the peer {} of {}; one side lost its last step or was \
         restored from a copy. Records spent by either are lost to both: resynchronise to go on",
        mine.cursor, mine.committed, theirs.cursor, theirs.committed
    )]
    CursorMismatch {
        /// The pool.
        pool: String,
        /// Our position.
        mine: PoolCursor,
        /// The peer's position.
        theirs: PoolCursor,
    },
    /// The peer's state makes no sense.
    #[error("the peer's store state is invalid: {0}")]
    PeerState(&'static str),
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, error: &io::Error) -> StoreError {
        match error.kind() {
            kind if no_room(kind) => {
                StoreError::DiskFull { path: path.to_owned(), needed: None, available: None }
            }
            kind => StoreError::Io { action, path: path.to_owned(), kind },
        }
    }

    pub(super) fn corrupt(path: &Path, reason: impl ToString) -> StoreError {
        StoreError::Corrupt { path: path.to_owned(), reason: reason.to_string() }
    }
}

fn room(needed: &Option<u64>, available: &Option<u64>) -> String {
    match (needed, available) {
        (Some(needed), Some(available)) => format!(" ({needed} bytes needed, {available} free)"),
        _ => String::new(),
    }
}
