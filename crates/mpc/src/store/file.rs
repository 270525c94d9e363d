//! The records' file of a pool, and how it follows the state file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptogen_ring::Wiped;

use super::error::StoreError;
use super::state::PoolEntry;
use crate::durable::no_room;
use crate::files::{Existing, File};

const MAGIC: &[u8; 8] = b"CGPOOL01";
/// `magic | record_bytes: u64 LE`, then the records.
const HEADER: u64 = 16;

/// The records' file.
pub(super) struct PoolFile {
    pub(super) name: String,
    pub(super) path: Arc<Path>,
    pub(super) file: File,
    pub(super) record_bytes: u64,
    /// A batch is open behind the committed records.
    pub(super) batch: AtomicBool,
    /// Spent records that still have unread pieces, with the number of these.
    held: Mutex<BTreeMap<u64, usize>>,
}

impl PoolFile {
    /// Opens the file of a pool; a pool the state file does not know starts empty, whatever a crash
    /// left there.
    pub(super) fn open(
        dir: &Path,
        name: &str,
        record_bytes: u64,
        known: bool,
    ) -> Result<PoolFile, StoreError> {
        let path = dir.join(format!("{name}.records"));
        let existing = if known { Existing::Kept } else { Existing::Emptied };
        let file = File::open(&path, existing).map_err(|e| StoreError::io("opening", &path, &e))?;
        let (name, batch, held) = (name.to_owned(), AtomicBool::new(false), Mutex::default());
        let pool = PoolFile { name, path: path.into(), file, record_bytes, batch, held };
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&record_bytes.to_le_bytes());
        if pool.bytes()? < HEADER {
            // New; if records should be there, `recover` misses them.
            pool.file.write_all_at(&header, 0).map_err(|e| pool.failed("writing", &e))?;
            // Before the state file knows the pool, or room for records is on the disk without it.
            pool.sync()?;
            return Ok(pool);
        }
        let mut found = [0; HEADER as usize];
        pool.file.read_exact_at(&mut found, 0).map_err(|e| pool.failed("reading", &e))?;
        match found == header {
            true => Ok(pool),
            false => Err(StoreError::corrupt(&pool.path, "another header than the state file says")),
        }
    }

    pub(super) fn has_batch(&self) -> bool {
        self.batch.load(Ordering::Acquire)
    }

    /// A piece of a spent record is to be read later: until [`PoolFile::release`] the record stays.
    pub(super) fn hold(&self, record: u64) {
        *self.held().entry(record).or_default() += 1;
    }

    pub(super) fn release(&self, record: u64) {
        let mut held = self.held();
        if let Some(pieces) = held.get_mut(&record) {
            *pieces -= 1;
            if *pieces == 0 {
                held.remove(&record);
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        // A count is changed in one step: nobody panics half-way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a crash: finishes wiping and cuts off what was not committed.
    pub(super) fn recover(&self, entry: &mut PoolEntry) -> Result<(), StoreError> {
        let (expected, actual) = (self.offset(entry, entry.committed), self.bytes()?);
        // An empty pool may already be compacted, which the state file learns with its next change
        // only.
        if entry.cursor < entry.committed && actual < expected {
            return Err(StoreError::corrupt(&self.path, format!("{actual} bytes, expected {expected}")));
        }
        self.settle(entry)
    }

    /// Overwrites what is spent and read, cuts off what is not committed, and starts the file
    /// afresh when it is empty. `entry.base` and `entry.wiped` change in memory; they reach the
    /// disk with the next change of state, and until then a crash only repeats this.
    pub(super) fn settle(&self, entry: &mut PoolEntry) -> Result<(), StoreError> {
        self.zero(entry)?;
        if self.has_batch() {
            return Ok(());
        }
        if entry.zeroed == entry.committed {
            // Cut off before the zeros are on the disk, the records would be given back to the file
            // system as they were.
            self.sync_zeros(entry)?;
            entry.base = entry.committed;
        }
        let end = self.offset(entry, entry.committed);
        match self.bytes()? > end {
            true => self.file.set_len(end).map_err(|e| self.failed("cutting", &e)),
            false => Ok(()),
        }
    }

    /// Zeros over `[zeroed, cursor)`, up to the first record with unread pieces and as far as the
    /// file reaches.
    fn zero(&self, entry: &mut PoolEntry) -> Result<(), StoreError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        entry.zeroed = entry.zeroed.max(entry.wiped);
        let mut at = self.offset(entry, entry.zeroed);
        let to = self.held().keys().next().map_or(entry.cursor, |held| entry.cursor.min(*held));
        let end = self.offset(entry, to).min(self.bytes()?);
        while at < end {
            let n = (end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..n as usize], at).map_err(|e| self.failed("wiping", &e))?;
            at += n;
        }
        entry.zeroed = to;
        Ok(())
    }

    /// Brings zeros to the disk, after which `entry.wiped` counts them. A take does not wait for
    /// that; committing a batch and closing the store do.
    pub(super) fn sync_zeros(&self, entry: &mut PoolEntry) -> Result<(), StoreError> {
        if entry.wiped < entry.zeroed {
            self.sync().inspect_err(|_| entry.zeroed = entry.wiped)?;
            entry.wiped = entry.zeroed;
        }
        Ok(())
    }

    /// Brings what was written to the disk. After a failure the system may have dropped any of it:
    /// it has to be written again.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync().map_err(|e| self.failed("syncing", &e))
    }

    /// Gets room for a batch now, so that a full disk shows before any work is done.
    pub(super) fn reserve(&self, at: u64, bytes: u64) -> Result<(), StoreError> {
        let free = self.file.room().unwrap_or(u64::MAX);
        let full = || StoreError::DiskFull {
            path: self.path.to_path_buf(),
            needed: Some(bytes),
            available: Some(free),
        };
        if bytes > free {
            return Err(full());
        }
        if bytes == 0 {
            return Ok(());
        }
        match self.file.reserve(at, bytes) {
            Ok(()) => Ok(()),
            Err(e) if no_room(e.kind()) => Err(full()),
            // This file system cannot reserve; writing will tell.
            Err(_) => self.file.set_len(at + bytes).map_err(|e| self.failed("extending", &e)),
        }
    }

    /// Reads `n` bytes of records into a buffer of their own.
    pub(super) fn read(&self, at: u64, n: usize) -> Result<Wiped<u8>, StoreError> {
        let mut bytes = Wiped::zeros(n);
        self.file.read_exact_at(&mut bytes, at).map_err(|e| self.failed("reading", &e))?;
        Ok(bytes)
    }

    pub(super) fn offset(&self, entry: &PoolEntry, index: u64) -> u64 {
        HEADER.saturating_add((index - entry.base).saturating_mul(self.record_bytes))
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        self.file.len().map_err(|e| self.failed("examining", &e))
    }

    pub(super) fn failed(&self, action: &'static str, error: &io::Error) -> StoreError {
        StoreError::io(action, &self.path, error)
    }
}
