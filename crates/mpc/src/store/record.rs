//! Material on its way from the store into the one step that uses it.

use std::path::Path;
use std::sync::Arc;

use cryptogen_ring::Wiped;

use super::error::StoreError;
use super::file::PoolFile;
use super::Shared;

/// One record, taken and never to be taken again. No Clone, Debug or codec; wiped on drop.
pub struct Record {
    pub(super) index: u64,
    pub(super) bytes: Wiped<u8>,
}

impl Record {
    /// Logical index in its pool; the same for both parties.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Part of a record or consecutive records, taken and never to be taken again, but still in the
/// file: whoever uses it reads it, once, and may have looked at it before. No Clone, Debug or
/// codec. The file is wiped up to the first record that has unread pieces, by whatever changes the
/// pool next, or when the store is closed.
pub struct Unread {
    pub(super) file: Arc<PoolFile>,
    /// where in the file
    pub(super) at: u64,
    pub(super) len: usize,
    /// record of the first byte
    pub(super) record: u64,
    /// keeps the store open
    pub(super) shared: Arc<Shared>,
}

impl Unread {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file that they are in.
    pub fn path(&self) -> Arc<Path> {
        self.file.path.clone()
    }

    /// The bytes, for what has to be computed from them ahead of their use; they stay in the file.
    ///
    /// # Errors
    /// `Io`, `Forked`.
    pub fn look(&self) -> Result<Wiped<u8>, StoreError> {
        self.shared.check_home()?;
        self.file.read(self.at, self.len)
    }

    /// The bytes.
    ///
    /// # Errors
    /// `Io`; then they are lost. `Forked`.
    pub fn read(self) -> Result<Wiped<u8>, StoreError> {
        self.look()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if self.shared.check_home().is_err() {
            return; // Who holds the record is the parent's business.
        }
        self.file.release(self.record);
    }
}
