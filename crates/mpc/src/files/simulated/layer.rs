//! The calls of `real`, on a simulated disk where the path is on one.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::super::real;
pub(crate) use super::super::real::Existing;
use super::{number, Call, Disk, Node};

pub(crate) enum File {
    Real(real::File),
    Simulated(Handle),
}

pub(crate) struct Handle {
    disk: Arc<Disk>,
    node: Node,
    has_lock: AtomicBool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.has_lock.load(Ordering::Relaxed) {
            self.disk.state().locked.remove(&self.node);
        }
    }
}

impl Handle {
    fn open(disk: Arc<Disk>, path: &Path, existing: Existing) -> io::Result<Handle> {
        let mut state = disk.state();
        if !state.seen.folders.contains(path.parent().unwrap()) {
            state.call(Call::Look)?;
            return Err(io::ErrorKind::NotFound.into());
        }
        let node = match (state.seen.names.get(path).copied(), existing) {
            (Some(_), Existing::Refused) => {
                state.call(Call::Look)?;
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Some(node), Existing::Emptied) => {
                state.call(Call::Resize { node, len: 0 })?;
                node
            }
            (Some(node), Existing::Kept) => {
                state.call(Call::Look)?;
                node
            }
            (None, _) => {
                let node = number();
                state.call(Call::Name { path: path.to_owned(), node })?;
                node
            }
        };
        drop(state);
        Ok(Handle { disk, node, has_lock: AtomicBool::new(false) })
    }

    fn lock(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call(Call::Look)?;
        if !state.locked.insert(self.node) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.has_lock.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.call(Call::Look)?;
        Ok(state.seen.contents.get(&self.node).map_or(0, |content| content.len() as u64))
    }

    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call(Call::Look)?;
        let content = state.seen.contents.get(&self.node).map_or(&[][..], Vec::as_slice);
        let found = content.get(at as usize..).and_then(|content| content.get(..bytes.len()));
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.disk.call(Call::Write { node: self.node, at, bytes: bytes.to_vec() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.call(Call::Resize { node: self.node, len })
    }

    fn reserve(&self, at: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let len = state.seen.contents.get(&self.node).map_or(0, |content| content.len() as u64);
        state.call(Call::Resize { node: self.node, len: len.max(at + bytes) })
    }

    fn room(&self) -> io::Result<u64> {
        self.disk.call(Call::Look)?;
        Ok(1 << 30)
    }

    fn sync(&self) -> io::Result<()> {
        let done = self.disk.call(Call::Sync { node: self.node, failed: false });
        let meanwhile = self.disk.state().meanwhile.take();
        if let Some(act) = meanwhile {
            act();
        }
        done
    }
}

macro_rules! either {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl File {
            $(pub(crate) fn $name(&self, $($argument: $type),*) -> io::Result<$result> {
                match self {
                    File::Real(file) => file.$name($($argument),*),
                    File::Simulated(file) => file.$name($($argument),*),
                }
            })*
        }
    };
}

either! {
    lock() -> ();
    len() -> u64;
    read_exact_at(bytes: &mut [u8], at: u64) -> ();
    write_all_at(bytes: &[u8], at: u64) -> ();
    set_len(len: u64) -> ();
    reserve(at: u64, bytes: u64) -> ();
    room() -> u64;
    sync() -> ();
}

impl File {
    pub(crate) fn open(path: &Path, existing: Existing) -> io::Result<File> {
        match Disk::of(path) {
            Some(disk) => Handle::open(disk, path, existing).map(File::Simulated),
            None => real::File::open(path, existing).map(File::Real),
        }
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            File::Real(file) => file.write(bytes),
            // Files are written from front to back, by one handle.
            File::Simulated(file) => {
                let at = file.disk.state().seen.contents.get(&file.node).map_or(0, Vec::len);
                file.write_all_at(bytes, at as u64).map(|()| bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let Some(disk) = Disk::of(path) else { return real::read(path) };
    disk.call(Call::Look)?;
    disk.content(path).ok_or(io::ErrorKind::NotFound.into())
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let Some(disk) = Disk::of(from) else { return real::rename(from, to) };
    let mut state = disk.state();
    let Some(node) = state.seen.names.get(from).copied() else {
        state.call(Call::Look)?;
        return Err(io::ErrorKind::NotFound.into());
    };
    state.call(Call::Rename { from: from.to_owned(), to: to.to_owned(), node })
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let Some(disk) = Disk::of(path) else { return real::remove(path) };
    if disk.content(path).is_none() {
        disk.call(Call::Look)?;
        return Err(io::ErrorKind::NotFound.into());
    }
    disk.call(Call::Remove { path: path.to_owned() })
}

pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let Some(disk) = Disk::of(path) else { return real::create_folder(path) };
    let mut state = disk.state();
    if !state.seen.folders.contains(path.parent().unwrap()) {
        state.call(Call::Look)?;
        return Err(io::ErrorKind::NotFound.into());
    }
    state.call(Call::Folder { path: path.to_owned() })
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let Some(disk) = Disk::of(path) else { return real::sync_folder(path) };
    disk.call(Call::SyncFolder { path: path.to_owned(), failed: false })
}
