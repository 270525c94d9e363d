//! A disk in memory that keeps what POSIX makes it keep, and no more.
//!
//! It notes every call. From the notes it tells what a power cut after any of them may leave: what
//! was synced is there; of all else any part may be missing, also half a write, also a write that
//! others followed. It can stop after the n-th call, as a killed process does, and fail the n-th.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) mod layer;

/// A file, whatever its names are.
type Node = usize;

/// One call, with all that is needed to do it again.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// Changes nothing: reading, locking, asking for a length; or failed without effect.
    Look,
    Name {
        path: PathBuf,
        node: Node,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        node: Node,
    },
    Remove {
        path: PathBuf,
    },
    Folder {
        path: PathBuf,
    },
    Write {
        node: Node,
        at: u64,
        bytes: Vec<u8>,
    },
    Resize {
        node: Node,
        len: u64,
    },
    Sync {
        node: Node,
        failed: bool,
    },
    SyncFolder {
        path: PathBuf,
        failed: bool,
    },
}

/// What a call concerns, and what a sync is of.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Of<'a> {
    Node(Node),
    Folder(&'a Path),
    Nothing,
}

impl Call {
    fn of(&self) -> Of<'_> {
        match self {
            Call::Look => Of::Nothing,
            Call::Name { path, .. } | Call::Remove { path } | Call::Folder { path } => {
                Of::Folder(path.parent().unwrap())
            }
            Call::Rename { to, .. } => Of::Folder(to.parent().unwrap()),
            Call::Write { node, .. } | Call::Resize { node, .. } | Call::Sync { node, .. } => Of::Node(*node),
            Call::SyncFolder { path, .. } => Of::Folder(path),
        }
    }

    /// What is left of it where it fails. After a failed sync of a file the system has given up
    /// what it should have written, and a later sync does not make up for it (Rebello et al., *Can
    /// Applications Recover from fsync Failures?*, USENIX ATC 2020).
    fn failing(self) -> Call {
        match self {
            Call::Write { node, at, bytes } => Call::Write { node, at, bytes: half(bytes) },
            Call::Sync { node, .. } => Call::Sync { node, failed: true },
            Call::SyncFolder { path, .. } => Call::SyncFolder { path, failed: true },
            _ => Call::Look,
        }
    }
}

fn half(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// What became of a call that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Of a write, the first half.
    Torn,
}

/// Folders, names and contents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    folders: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, Node>,
    contents: BTreeMap<Node, Vec<u8>>,
}

impl Tree {
    fn apply(&mut self, call: &Call) {
        match call {
            Call::Look | Call::Sync { .. } | Call::SyncFolder { .. } => {}
            Call::Name { path, node } => {
                self.names.insert(path.clone(), *node);
            }
            Call::Rename { from, to, node } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *node);
            }
            Call::Remove { path } => {
                self.names.remove(path);
            }
            Call::Folder { path } => {
                self.folders.insert(path.clone());
            }
            Call::Write { node, at, bytes } => {
                let (content, at) = (self.contents.entry(*node).or_default(), *at as usize);
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Call::Resize { node, len } => self.contents.entry(*node).or_default().resize(*len as usize, 0),
        }
    }

    /// What can be reached by a name, to tell trees apart.
    pub(crate) fn visible(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let content = |node| self.contents.get(node).cloned().unwrap_or_default();
        let found = self.names.iter().filter(|(path, _)| self.folders.contains(path.parent().unwrap()));
        found.map(|(path, node)| (path.clone(), content(node))).collect()
    }
}

/// What happens at a call, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process is killed before the call: this and all later ones do nothing.
    Killed { at: usize },
    /// The call fails: without effect (of a write, the first half), or although it was done.
    Error { at: usize, kind: io::ErrorKind, done: bool },
}

/// The disk. Paths below its root are on it, for the whole process, as long as it lives.
pub(crate) struct Disk {
    root: PathBuf,
    state: Mutex<State>,
}

struct State {
    start: Tree,
    calls: Vec<Call>,
    /// What processes see: all calls done, synced or not.
    seen: Tree,
    locked: HashSet<Node>,
    fault: Option<Fault>,
    /// Whether the fault has happened.
    struck: bool,
    /// What somebody else does while the next sync of a file is under way.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

/// One that was not there before, for disks and nodes.
fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn disks() -> MutexGuard<'static, Vec<Weak<Disk>>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new() -> Arc<Disk> {
        let root = PathBuf::from(format!("/simulated-disk-{}", number()));
        Disk::with(root.clone(), Tree { folders: [root].into(), ..Tree::default() })
    }

    /// The disk after a power cut that left `tree`, under the same root, which it takes over.
    pub(crate) fn after(&self, tree: Tree) -> Arc<Disk> {
        Disk::with(self.root.clone(), tree)
    }

    fn with(root: PathBuf, start: Tree) -> Arc<Disk> {
        let (calls, seen, locked) = (vec![], start.clone(), HashSet::new());
        let state = State { start, calls, seen, locked, fault: None, struck: false, meanwhile: None };
        let state = Mutex::new(state);
        let disk = Arc::new(Disk { root, state });
        let mut disks = disks();
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        disk
    }

    /// The disk that has this path, if it is a simulated one; the latest of that root.
    fn of(path: &Path) -> Option<Arc<Disk>> {
        disks().iter().rev().filter_map(Weak::upgrade).find(|disk| path.starts_with(&disk.root))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// What is to happen, instead of what was.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.struck) = (fault, false);
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state().fault
    }

    /// Whether that has happened.
    pub(crate) fn has_struck(&self) -> bool {
        self.state().struck
    }

    /// Has that done right after the next sync of a file, before its caller goes on.
    pub(crate) fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        self.state().meanwhile = Some(Box::new(act));
    }

    /// The content of a file as processes see it.
    pub(crate) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.seen.names.get(path).map(|node| state.seen.contents.get(node).cloned().unwrap_or_default())
    }

    fn call(&self, call: Call) -> io::Result<()> {
        self.state().call(call)
    }

    /// The calls among the first `n` that a power cut after them may undo.
    pub(crate) fn unsynced(&self, n: usize) -> Vec<usize> {
        self.state().unsynced(n)
    }

    /// What a power cut after the first `n` calls leaves if that became of those not synced.
    pub(crate) fn cut(&self, n: usize, unsynced: &[usize], fates: &[Fate]) -> Tree {
        self.state().cut(n, unsynced, fates)
    }

    /// What was cut off files, as it was on the disk then: an overwriting that had not been synced
    /// is dropped with what it was of, and the blocks are given back as they were.
    pub(crate) fn given_back(&self) -> Vec<Vec<u8>> {
        let state = self.state();
        let mut given_back = vec![];
        for (i, call) in state.calls.iter().enumerate() {
            let Call::Resize { node, len } = call else { continue };
            let unsynced = state.unsynced(i);
            let before = state.cut(i, &unsynced, &vec![Fate::Lost; unsynced.len()]);
            let tail = before.contents.get(node).and_then(|content| content.get(*len as usize..));
            given_back.extend(tail.map(<[u8]>::to_vec));
        }
        given_back
    }
}

impl State {
    /// One call: noted and done, unless the fault falls on it.
    fn call(&mut self, call: Call) -> io::Result<()> {
        let now = self.calls.len();
        let (call, result) = match self.fault {
            Some(Fault::Killed { at }) if now >= at => {
                self.struck = true;
                return Err(io::Error::other("killed"));
            }
            Some(Fault::Error { at, kind, done }) if now == at => {
                self.struck = true;
                (if done { call } else { call.failing() }, Err(kind.into()))
            }
            _ => (call, Ok(())),
        };
        self.seen.apply(&call);
        self.calls.push(call);
        result
    }

    fn unsynced(&self, n: usize) -> Vec<usize> {
        let (mut synced, mut unsynced) = (HashSet::new(), vec![]);
        for (i, call) in self.calls[..n].iter().enumerate().rev() {
            match call {
                Call::Look => {}
                // A folder's names are in a journal, which a later sync still writes.
                Call::SyncFolder { failed: true, .. } => {}
                Call::Sync { failed: true, .. } => {
                    synced.remove(&call.of());
                }
                Call::Sync { .. } | Call::SyncFolder { .. } => {
                    synced.insert(call.of());
                }
                _ if synced.contains(&call.of()) => {}
                _ => unsynced.push(i),
            }
        }
        unsynced.reverse();
        unsynced
    }

    fn cut(&self, n: usize, unsynced: &[usize], fates: &[Fate]) -> Tree {
        let mut fates = unsynced.iter().zip(fates).peekable();
        let mut tree = self.start.clone();
        for (i, call) in self.calls[..n].iter().enumerate() {
            let fate = fates.next_if(|(at, _)| **at == i).map_or(Fate::Kept, |(_, fate)| *fate);
            match (fate, call) {
                (Fate::Lost, _) => {}
                (Fate::Torn, Call::Write { .. }) => tree.apply(&call.clone().failing()),
                _ => tree.apply(call),
            }
        }
        // Without its folder a file is gone.
        let folders = &tree.folders;
        let there = |folder: &Path| folder.parent().is_none() || folders.contains(folder);
        tree.names.retain(|path, _| path.ancestors().skip(1).all(there));
        tree
    }
}
