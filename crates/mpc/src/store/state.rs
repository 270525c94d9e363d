//! The small file that says what is spent: written whole, atomically and durably, before anything
//! is handed out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::durable::{self, NotReplaced};
use crate::files;

/// Version of a store's files. 5: pools are named `rows` and `logits`, not `slots` and `heads`. 7:
/// table keys carry the number of their tree, `linears` is a pool. 8: exponentials are numbers
/// modulo primes, one pool for each number of primes.
pub const FORMAT: u32 = 10;
const FILE: &str = "state.json";
/// No honest pool comes near; keeps arithmetic on a peer's numbers from overflowing.
const INDEX_MAX: u64 = 1 << 48;
const POOLS_MAX: usize = 4096;

/// Position of one pool. Records `[cursor, committed)` are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCursor {
    /// Records spent so far.
    pub cursor: u64,
    /// Records made so far.
    pub committed: u64,
}

/// What the parties compare when a session opens. Public.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// The random name that both parties gave to their pair of stores.
    pub store_id: Option<String>,
    /// Position of each pool.
    pub pools: BTreeMap<String, PoolCursor>,
}

impl StoreState {
    /// Whether both parties hold the same material and have spent the same of it. A pool that one
    /// side lacks counts as empty.
    ///
    /// # Errors
    /// `StoreId`, `PeerState`, or `CursorMismatch` with the first pool that differs.
    pub fn compare(&self, theirs: &StoreState) -> Result<(), StoreError> {
        self.check_pair(theirs)?;
        for pool in self.pools.keys().chain(theirs.pools.keys()) {
            let (mine, theirs) = (self.at(pool), theirs.at(pool));
            if mine != theirs {
                return Err(StoreError::CursorMismatch { pool: pool.clone(), mine, theirs });
            }
        }
        Ok(())
    }

    /// The id for two stores that have held nothing yet: the server's proposal, or that of the one
    /// that has it already, if a crash came before the other had. None where there is nothing to
    /// name.
    pub fn id_to_take(&self, theirs: &StoreState, proposed: &str) -> Option<String> {
        let unused = |s: &StoreState| s.pools.values().all(|at| *at == PoolCursor::default());
        match (&self.store_id, &theirs.store_id) {
            _ if !unused(self) || !unused(theirs) => None,
            (None, None) => Some(proposed.to_owned()),
            (Some(id), None) | (None, Some(id)) => Some(id.clone()),
            (Some(_), Some(_)) => None,
        }
    }

    /// The same store, and numbers that can be computed with.
    pub(super) fn check_pair(&self, theirs: &StoreState) -> Result<(), StoreError> {
        if self.store_id.is_none() || self.store_id != theirs.store_id {
            let show = |id: &Option<String>| id.as_deref().unwrap_or("none").chars().take(32).collect();
            return Err(StoreError::StoreId {
                expected: show(&self.store_id),
                actual: show(&theirs.store_id),
            });
        }
        if theirs.pools.len() > POOLS_MAX {
            return Err(StoreError::PeerState("too many pools"));
        }
        for (name, at) in &theirs.pools {
            check_name(name).map_err(|_| StoreError::PeerState("a pool name is not allowed"))?;
            if at.cursor > at.committed || at.committed > INDEX_MAX {
                return Err(StoreError::PeerState("a cursor is out of range"));
            }
        }
        Ok(())
    }

    pub(super) fn at(&self, pool: &str) -> PoolCursor {
        self.pools.get(pool).copied().unwrap_or_default()
    }
}

/// One pool as the file knows it. Indices are logical and only grow; record `i` lies at
/// `(i − base)` in the pool's file. `base ≤ wiped ≤ zeroed ≤ cursor ≤ committed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolEntry {
    /// 0 until the pool is first used here.
    pub(super) record_bytes: u64,
    pub(super) base: u64,
    /// Everything before is known to be overwritten, on the disk.
    pub(super) wiped: u64,
    /// Everything before is overwritten, but a power cut may undo it; not saved.
    #[serde(skip)]
    pub(super) zeroed: u64,
    pub(super) cursor: u64,
    pub(super) committed: u64,
}

/// Content of the state file.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Disk {
    format: u32,
    pub(super) binding: BTreeMap<String, String>,
    pub(super) store_id: Option<String>,
    pub(super) pools: BTreeMap<String, PoolEntry>,
}

impl Disk {
    pub(super) fn new(binding: BTreeMap<String, String>) -> Disk {
        Disk { format: FORMAT, binding, store_id: None, pools: BTreeMap::new() }
    }

    /// `None` if there is no state file yet.
    pub(super) fn load(dir: &Path) -> Result<Option<Disk>, StoreError> {
        let path = path(dir);
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("reading", &path, &e)),
        };
        let disk: Disk = serde_json::from_slice(&bytes).map_err(|e| StoreError::corrupt(&path, e))?;
        if disk.format != FORMAT {
            let reason = format!("format {}, expected {FORMAT}: made by another version", disk.format);
            return Err(StoreError::corrupt(&path, reason));
        }
        for (name, e) in &disk.pools {
            check_name(name).map_err(|e| StoreError::corrupt(&path, e))?;
            if !(e.base <= e.wiped
                && e.wiped <= e.cursor
                && e.cursor <= e.committed
                && e.committed <= INDEX_MAX)
            {
                return Err(StoreError::corrupt(&path, format!("positions of pool {name} are out of order")));
            }
        }
        Ok(Some(disk))
    }

    /// Replaces the state file. On `Err((_, true))` it is unknown which of the two states a crash
    /// would leave.
    pub(super) fn save(&self, dir: &Path) -> Result<(), (StoreError, bool)> {
        let (path, draft) = (path(dir), dir.join(".state.json.new"));
        let text = serde_json::to_vec(self).map_err(|e| (StoreError::corrupt(&path, e), false))?;
        durable::replace(&path, &draft, |file| file.write_all(&text)).map_err(|e| {
            let unsure = matches!(e, NotReplaced::Rename(_));
            (StoreError::io("writing", &path, &io::Error::from(e)), unsure)
        })
    }

    /// What the peer may see.
    pub(super) fn public(&self) -> StoreState {
        let at = |e: &PoolEntry| PoolCursor { cursor: e.cursor, committed: e.committed };
        let pools = self.pools.iter().map(|(name, e)| (name.clone(), at(e))).collect();
        StoreState { store_id: self.store_id.clone(), pools }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"._-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(StoreError::PoolName(name.chars().take(64).collect()))
    }
}

/// Whether `committed + n` stays below the limit that keeps all index arithmetic from overflowing.
pub(super) fn fits(committed: u64, n: u64) -> bool {
    n <= INDEX_MAX && committed <= INDEX_MAX - n
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
