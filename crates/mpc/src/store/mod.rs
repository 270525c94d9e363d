//! Single-use material on disk: made in batches, handed out once, never again, whatever is killed
//! when.
//!
//! A [`Store`] is a directory (mode 0700, one process at a time) with a state file and one file of
//! fixed-size records per [`Pool`]. The rule that everything here serves: **the cursor is moved
//! durably before a record is read.** A crash can lose records, it cannot release one twice. Taken
//! records are overwritten with zeros, as soon as they are read ([`Pool::take`]) or when the pool
//! changes after that ([`Unread`]).
//!
//! In a child that was forked from the process that opened a store, all of it fails with
//! [`StoreError::Forked`], and dropping it changes nothing on disk.
//!
//! Cost of a take: one write of the state file and two `fsync`s; a third where it empties the pool.
//! Opening costs one write of the state file. Zeros reach the disk with the next batch or when the
//! store is closed; until then the state file does not count them, so that a store which is opened
//! after a crash writes them again.

mod error;
mod file;
mod pool;
mod record;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptogen_party::Role;
use rand_core::{CryptoRng, RngCore};

pub use error::StoreError;
pub use pool::{Batch, Pool};
pub use record::{Record, Unread};
pub use state::{PoolCursor, StoreState, FORMAT};

use file::PoolFile;
use state::{check_name, Disk, PoolEntry};

use crate::files::{Existing, File};
use crate::{durable, Home};

/// What the material is good for. Made for one, useless (and refused) for any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The other party: the client's id, or the server's fingerprint.
    pub peer: String,
    /// Digest of the model.
    pub model: String,
    /// Digest of the plan.
    pub plan: String,
    /// Which party we are.
    pub role: Role,
}

impl Binding {
    fn fields(&self) -> [(&'static str, String); 4] {
        let role = match self.role {
            Role::Client => "client",
            Role::Server => "server",
        };
        let text = String::clone;
        [
            ("peer", text(&self.peer)),
            ("model", text(&self.model)),
            ("plan", text(&self.plan)),
            ("role", role.into()),
        ]
    }
}

/// An open store. Handles of its pools keep it open.
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    home: Home,
    dir: PathBuf,
    inner: Mutex<Inner>,
    /// Holds the lock as long as it is open.
    _lock: File,
}

struct Inner {
    disk: Disk,
    files: BTreeMap<String, Arc<PoolFile>>,
    /// A write of the state file failed so that its content is unknown: only reading it again
    /// helps.
    failed: bool,
}

impl Store {
    /// Opens or creates the store in `dir` and completes what a crash may have left half-done.
    ///
    /// # Errors
    /// `Locked`, `Binding` if it was made for something else, `Corrupt`, `DiskFull`, `Io`.
    pub fn open(dir: &Path, binding: &Binding) -> Result<Store, StoreError> {
        let failed = |e: io::Error| StoreError::io("opening", dir, &e);
        durable::create_folder(dir).map_err(failed)?;
        let lock = File::open(&dir.join("lock"), Existing::Kept).map_err(failed)?;
        lock.lock().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked { dir: dir.to_owned() },
            _ => failed(e),
        })?;
        let wanted = binding.fields();
        let disk = match Disk::load(dir)? {
            Some(disk) => {
                for (field, expected) in wanted {
                    let actual = disk.binding.get(field).cloned().unwrap_or_default();
                    if actual != expected {
                        return Err(StoreError::Binding { field, expected, actual });
                    }
                }
                disk
            }
            None => Disk::new(wanted.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        };
        // Also what was found: a process killed between renaming and syncing leaves a state that a
        // power cut still takes back, and with it a cursor over records that are wiped by then.
        disk.save(dir).map_err(|(e, _)| e)?;
        let mut inner = Inner { disk, files: BTreeMap::new(), failed: false };
        for (name, entry) in &mut inner.disk.pools {
            if entry.record_bytes > 0 {
                let file = PoolFile::open(dir, name, entry.record_bytes, true)?;
                file.recover(entry)?;
                inner.files.insert(name.clone(), Arc::new(file));
            }
        }
        let (home, dir, inner) = (Home::here(), dir.to_owned(), Mutex::new(inner));
        Ok(Store { shared: Arc::new(Shared { home, dir, inner, _lock: lock }) })
    }

    /// The directory, for files that belong to the same pair of parties; locked as long as the
    /// store is open.
    pub fn directory(&self) -> &Path {
        &self.shared.dir
    }

    /// The pool `name` (`[a-z0-9][a-z0-9._-]{0,63}`) of records of `record_bytes` bytes; made on
    /// first use.
    ///
    /// # Errors
    /// `PoolName`, `RecordBytes` if it exists with another size, `Size` for 0 bytes, `Io`,
    /// `DiskFull`.
    pub fn pool(&self, name: &str, record_bytes: usize) -> Result<Pool, StoreError> {
        check_name(name)?;
        let expected = record_bytes as u64;
        if record_bytes == 0 {
            return Err(StoreError::Size { pool: name.to_owned(), records: 0, record_bytes: 0 });
        }
        let mut inner = self.shared.change()?;
        if let Some(file) = inner.files.get(name) {
            if file.record_bytes != expected {
                let actual = file.record_bytes;
                return Err(StoreError::RecordBytes { pool: name.to_owned(), expected, actual });
            }
            return Ok(Pool { shared: self.shared.clone(), file: file.clone() });
        }
        let file = Arc::new(PoolFile::open(&self.shared.dir, name, expected, false)?);
        inner.update(&self.shared.dir, |disk| {
            disk.pools.entry(name.to_owned()).or_default().record_bytes = expected;
        })?;
        inner.files.insert(name.to_owned(), file.clone());
        inner.settle(name)?;
        Ok(Pool { shared: self.shared.clone(), file })
    }

    /// A fresh random store id for both parties; the server proposes it.
    pub fn new_store_id(rng: &mut (impl RngCore + CryptoRng)) -> String {
        let mut id = [0u8; 16];
        rng.fill_bytes(&mut id);
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Names the pair of stores, once, as the server has proposed. The same id again is accepted.
    ///
    /// # Errors
    /// `StoreId` if another id is set, `PeerState` if this is not 32 hex digits, `Io`, `DiskFull`.
    pub fn set_store_id(&self, id: &str) -> Result<(), StoreError> {
        let mut inner = self.shared.change()?;
        match &inner.disk.store_id {
            Some(set) if set == id => Ok(()),
            Some(set) => {
                Err(StoreError::StoreId { expected: set.clone(), actual: id.chars().take(32).collect() })
            }
            None if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Err(StoreError::PeerState("a store id is not 32 hex digits"))
            }
            None => inner.update(&self.shared.dir, |disk| disk.store_id = Some(id.to_owned())),
        }
    }

    /// What to send to the peer when a session opens, and to compare with [`StoreState::compare`].
    pub fn state(&self) -> StoreState {
        self.shared.lock().disk.public()
    }

    /// Gives up what either party has spent or lacks: each pool's cursor moves to the larger of
    /// both, its end to the smaller. Both parties call it with the other's state and then agree.
    /// Never moves a cursor back.
    ///
    /// # Errors
    /// `StoreId`, `PeerState`, `BatchOpen`, `Io`, `DiskFull`, `Failed`.
    pub fn resync(&self, theirs: &StoreState) -> Result<(), StoreError> {
        let mut inner = self.shared.change()?;
        let mine = inner.disk.public();
        mine.check_pair(theirs)?;
        for (name, file) in &inner.files {
            if file.has_batch() {
                return Err(StoreError::BatchOpen { pool: name.clone() });
            }
        }
        inner.update(&self.shared.dir, |disk| {
            for pool in mine.pools.keys().chain(theirs.pools.keys()) {
                let (a, b) = (mine.at(pool), theirs.at(pool));
                let entry = disk.pools.entry(pool.clone()).or_default();
                entry.cursor = a.cursor.max(b.cursor);
                entry.committed = a.committed.min(b.committed).max(entry.cursor);
            }
        })?;
        inner.settle_all()
    }
}

impl Shared {
    /// For whatever spends, writes or reads material: not in a child of the process that opened the
    /// store, where the lock of the folder, the files and the cursor are the parent's.
    fn change(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        self.check_home()?;
        Ok(self.lock())
    }

    fn check_home(&self) -> Result<(), StoreError> {
        if self.home.is_here() {
            Ok(())
        } else {
            Err(StoreError::Forked)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics half-way through a change of `Inner`: it is replaced as a whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.home.is_here() {
            return; // The parent has not done with what would be wiped here.
        }
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !inner.failed {
            // Whatever fails here is made up for when the store is opened.
            let _ = inner.close(&self.dir);
        }
    }
}

impl Inner {
    /// Changes the state on disk first, then in memory.
    fn update(&mut self, dir: &Path, change: impl FnOnce(&mut Disk)) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        let mut next = self.disk.clone();
        change(&mut next);
        next.save(dir).map_err(|(error, unsure)| {
            self.failed |= unsure;
            error
        })?;
        self.disk = next;
        Ok(())
    }

    fn entry(&self, name: &str) -> PoolEntry {
        self.disk.pools.get(name).cloned().unwrap_or_default()
    }

    /// Brings one pool's file in line with its entry: see [`PoolFile::settle`].
    fn settle(&mut self, name: &str) -> Result<(), StoreError> {
        match (self.files.get(name), self.disk.pools.get_mut(name)) {
            (Some(file), Some(entry)) => file.settle(entry),
            _ => Ok(()),
        }
    }

    fn settle_all(&mut self) -> Result<(), StoreError> {
        let names: Vec<String> = self.disk.pools.keys().cloned().collect();
        names.iter().try_for_each(|name| self.settle(name))
    }

    /// Overwrites the rest of what is spent, and saves that the next opening need not.
    fn close(&mut self, dir: &Path) -> Result<(), StoreError> {
        self.settle_all()?;
        let mut more = false;
        for (name, file) in &self.files {
            if let Some(entry) = self.disk.pools.get_mut(name) {
                more |= entry.wiped < entry.zeroed;
                file.sync_zeros(entry)?;
            }
        }
        if more {
            self.update(dir, |_| ())?;
        }
        Ok(())
    }
}
