//! Material that one step takes as a whole, and that stays in the store until then: a prompt's would fill the memory.

use cryptogen_mpc::store::Unread;
use cryptogen_ring::Wiped;

use super::table_keys::used_before;
use crate::error::Result;

/// Bytes of material in memory, or in the store, or used. No Clone, Debug or codec.
#[derive(Default)]
pub enum Deferred {
    /// In memory.
    Here(Wiped<u8>),
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
            Deferred::Stored(unread) => Deferred::Here(unread.read()?),
            other => other,
        })
    }

    /// All of it; it leaves once.
    ///
    /// # Errors
    /// Those of the store; `Shape` for a second use.
    pub fn take(&mut self) -> Result<Wiped<u8>> {
        match std::mem::take(self).read()? {
            Deferred::Here(bytes) => Ok(bytes),
            _ => Err(used_before()),
        }
    }

    /// What is in memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Deferred::Here(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The same, to be wiped where it is used.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Deferred::Here(bytes) => Some(bytes),
            _ => None,
        }
    }
}
