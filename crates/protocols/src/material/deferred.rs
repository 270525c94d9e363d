//! Material that one step takes as a whole, and that stays in the store until then: a prompt's
//! would fill the memory.

use std::path::Path;
use std::sync::Arc;

use cryptogen_mpc::store::Unread;
use cryptogen_ring::Wiped;

use crate::error::{ProtocolError, Result};

/// Bytes of material in memory, or in the store, or used. No Clone, Debug or codec.
#[derive(Default)]
pub enum Deferred {
    /// In memory; and the file that it is from, to be named if it is damaged.
    Here(Wiped<u8>, Arc<Path>),
    /// Taken, but not yet read.
    Stored(Unread),
    /// What a use leaves behind.
    #[default]
    Used,
}

impl Deferred {
    /// Brings it into memory.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(self) -> Result<Deferred> {
        Ok(match self {
            Deferred::Stored(unread) => {
                let file = unread.path();
                Deferred::Here(unread.read()?, file)
            }
            other => other,
        })
    }

    /// All of it, and the file that it is from; it leaves once. `what` it is, to be named if it has
    /// left before.
    ///
    /// # Errors
    /// Those of the store; `Spent` for a second use.
    pub fn take(&mut self, what: &'static str) -> Result<(Wiped<u8>, Arc<Path>)> {
        match std::mem::take(self).read()? {
            Deferred::Here(bytes, file) => Ok((bytes, file)),
            _ => Err(ProtocolError::Spent { what }),
        }
    }

    /// A copy of all of it, for what has to be computed from it ahead of its use.
    ///
    /// # Errors
    /// Those of the store; `Spent` after a use.
    pub fn look(&self, what: &'static str) -> Result<(Wiped<u8>, Arc<Path>)> {
        match self {
            Deferred::Here(bytes, file) => Ok((Wiped::new(bytes.to_vec()), file.clone())),
            Deferred::Stored(unread) => Ok((unread.look()?, unread.path())),
            Deferred::Used => Err(ProtocolError::Spent { what }),
        }
    }

    /// What is in memory, and the file that it is from.
    pub fn bytes(&self) -> Option<(&[u8], &Path)> {
        match self {
            Deferred::Here(bytes, file) => Some((bytes, file)),
            _ => None,
        }
    }

    /// The same, to be wiped where it is used.
    pub fn bytes_mut(&mut self) -> Option<(&mut [u8], &Path)> {
        match self {
            Deferred::Here(bytes, file) => Some((bytes, file)),
            _ => None,
        }
    }
}
