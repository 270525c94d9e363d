//! One pool: a file of records that are appended in batches and taken from the front.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::error::StoreError;
use super::file::PoolFile;
use super::record::{Record, Unread};
use super::state::{fits, PoolEntry};
use super::Shared;

/// Handle of one pool.
pub struct Pool {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<PoolFile>,
}

impl Pool {
    /// Bytes per record.
    pub fn record_bytes(&self) -> usize {
        self.file.record_bytes as usize
    }

    /// The file of the records.
    pub fn path(&self) -> Arc<Path> {
        self.file.path.clone()
    }

    /// Records left.
    pub fn available(&self) -> u64 {
        let entry = self.entry();
        entry.committed - entry.cursor
    }

    /// Records spent since the store was made; the index of the next one.
    pub fn cursor(&self) -> u64 {
        self.entry().cursor
    }

    /// Records made since the store was made.
    pub fn committed(&self) -> u64 {
        self.entry().committed
    }

    /// Takes the next `n` records: durably moves the cursor, reads, overwrites with zeros.
    ///
    /// # Errors
    /// `Short` (nothing taken), `Io`, `DiskFull`, `Failed`. If reading or overwriting fails, the
    /// records are lost.
    pub fn take(&self, n: usize) -> Result<Vec<Record>, StoreError> {
        let record_bytes = self.file.record_bytes;
        self.take_with(n, |start, first| {
            let record = |i: u64| {
                let bytes = self.file.read(start + i * record_bytes, record_bytes as usize)?;
                Ok(Record { index: first + i, bytes })
            };
            (0..n as u64).map(record).collect()
        })
    }

    /// Takes the next `n` records and leaves them in the file, cut into pieces of `lengths` bytes,
    /// which together are the `n` records: each is read when it is used.
    ///
    /// # Errors
    /// Those of [`Pool::take`]; `Bounds` if the pieces are not the `n` records.
    pub fn take_unread(&self, n: usize, lengths: &[usize]) -> Result<Vec<Unread>, StoreError> {
        let (records, record_bytes) = (n as u64, self.file.record_bytes);
        let len = lengths.iter().fold(0u64, |sum, len| sum.saturating_add(*len as u64));
        if Some(len) != records.checked_mul(record_bytes) {
            return Err(StoreError::Bounds { record: 0, offset: 0, len, records, record_bytes });
        }
        self.take_with(n, |start, first| {
            let mut offset = 0;
            let piece = |len: &usize| {
                let record = first + offset / record_bytes;
                self.file.hold(record);
                let at = start + offset;
                offset += *len as u64;
                Unread { file: self.file.clone(), at, len: *len, record, shared: self.shared.clone() }
            };
            Ok(lengths.iter().map(piece).collect())
        })
    }

    /// Moves the cursor, durably, then has `read(place in the file, first index)` read or hold the
    /// `n` records, then wipes what is not held.
    fn take_with<T>(
        &self,
        n: usize,
        read: impl FnOnce(u64, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let name = &self.file.name;
        let mut inner = self.shared.change()?;
        let (needed, entry) = (n as u64, inner.entry(name));
        let (first, available) = (entry.cursor, entry.committed - entry.cursor);
        if needed > available {
            return Err(StoreError::Short { pool: name.clone(), needed, available });
        }
        // The one line that single use hangs on: nothing is read before this is on disk.
        inner.update(&self.shared.dir, |disk| {
            disk.pools.entry(name.clone()).or_default().cursor += needed;
        })?;
        let taken = read(self.file.offset(&inner.entry(name), first), first)?;
        inner.settle(name)?;
        Ok(taken)
    }

    /// Throws records away up to logical index `cursor`. Forward only.
    ///
    /// # Errors
    /// `Skip`, `Io`, `DiskFull`, `Failed`.
    pub fn skip_to(&self, cursor: u64) -> Result<(), StoreError> {
        let mut inner = self.shared.change()?;
        let entry = inner.entry(&self.file.name);
        if cursor < entry.cursor || cursor > entry.committed {
            let pool = self.file.name.clone();
            let (at, committed) = (entry.cursor, entry.committed);
            return Err(StoreError::Skip { pool, asked: cursor, cursor: at, committed });
        }
        inner.update(&self.shared.dir, |disk| {
            disk.pools.entry(self.file.name.clone()).or_default().cursor = cursor;
        })?;
        inner.settle(&self.file.name)
    }

    /// Starts writing `n` records behind the committed ones; reserves their room on disk. Takes go
    /// on meanwhile.
    ///
    /// # Errors
    /// `BatchOpen`, `Size`, `DiskFull`, `Io`, `Failed`.
    pub fn begin_batch(&self, n: usize) -> Result<Batch, StoreError> {
        let file = &self.file;
        let inner = self.shared.change()?;
        if inner.failed {
            return Err(StoreError::Failed);
        }
        let entry = inner.entry(&file.name);
        let records = n as u64;
        let size = StoreError::Size { pool: file.name.clone(), records, record_bytes: file.record_bytes };
        let origin = file.offset(&entry, entry.committed);
        let bytes = records.checked_mul(file.record_bytes).filter(|b| i64::try_from(*b).is_ok());
        let (Some(bytes), true) = (bytes, fits(entry.committed, records)) else { return Err(size) };
        if origin.checked_add(bytes).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(size);
        }
        if file.batch.swap(true, Ordering::AcqRel) {
            return Err(StoreError::BatchOpen { pool: file.name.clone() });
        }
        // From here on dropping the batch cleans up; it locks the store itself.
        drop(inner);
        let (shared, file) = (self.shared.clone(), self.file.clone());
        let batch = Batch { shared, file, origin, records, written: AtomicU64::new(0), done: false };
        batch.file.reserve(origin, bytes)?;
        Ok(batch)
    }

    fn entry(&self) -> PoolEntry {
        self.shared.lock().entry(&self.file.name)
    }
}

/// Records being written. Not available before [`Batch::commit`]; dropping it undoes it.
pub struct Batch {
    shared: Arc<Shared>,
    file: Arc<PoolFile>,
    /// Where the batch begins in the file; stays, because an open batch blocks compaction.
    origin: u64,
    records: u64,
    written: AtomicU64,
    done: bool,
}

impl Batch {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether it is a batch of no records.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Writes `bytes` at `offset` of record `record` (within the batch). Threads may write at once.
    ///
    /// # Errors
    /// `Bounds`, `DiskFull`, `Io`.
    pub fn write(&self, record: usize, offset: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let (record, offset, len) = (record as u64, offset as u64, bytes.len() as u64);
        let (records, record_bytes) = (self.records, self.file.record_bytes);
        if record >= records || offset.checked_add(len).is_none_or(|end| end > record_bytes) {
            return Err(StoreError::Bounds { record, offset, len, records, record_bytes });
        }
        self.write_at(record * record_bytes + offset, bytes)
    }

    /// Writes whole records from `record` on: `bytes` is their concatenation.
    ///
    /// # Errors
    /// Those of [`Batch::write`].
    pub fn write_records(&self, record: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let (record, len) = (record as u64, bytes.len() as u64);
        let (records, record_bytes) = (self.records, self.file.record_bytes);
        if record > records || len > (records - record) * record_bytes || len % record_bytes != 0 {
            return Err(StoreError::Bounds { record, offset: 0, len, records, record_bytes });
        }
        self.write_at(record * record_bytes, bytes)
    }

    /// Makes the records available: data to disk, then the state.
    ///
    /// # Errors
    /// `Incomplete` if fewer bytes were written than the batch has, `DiskFull`, `Io`, `Failed`;
    /// nothing is committed.
    pub fn commit(mut self) -> Result<(), StoreError> {
        self.shared.check_home()?;
        let file = &self.file;
        let (expected, actual) = (self.records * file.record_bytes, self.written.load(Ordering::Acquire));
        if actual < expected {
            return Err(StoreError::Incomplete { pool: file.name.clone(), expected, actual });
        }
        // Zeros that takes write meanwhile may miss this sync.
        let zeroed = self.shared.lock().entry(&file.name).zeroed;
        let synced = file.sync();
        let mut inner = self.shared.lock();
        if synced.is_err() {
            inner.disk.pools.entry(file.name.clone()).or_default().zeroed = 0;
        }
        let saved = synced.and_then(|()| {
            inner.update(&self.shared.dir, |disk| {
                let entry = disk.pools.entry(file.name.clone()).or_default();
                entry.committed += self.records;
                entry.wiped = entry.wiped.max(zeroed);
            })
        });
        drop(inner); // Dropping the batch locks again.
        self.done = saved.is_ok();
        saved
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.shared.check_home()?;
        self.file.file.write_all_at(bytes, self.origin + at).map_err(|e| self.file.failed("writing", &e))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let Ok(mut inner) = self.shared.change() else { return };
        self.file.batch.store(false, Ordering::Release);
        if !self.done && !inner.failed {
            // Failing to give room back is no harm: opening the store cuts the file as well.
            let _ = inner.settle(&self.file.name);
        }
    }
}
