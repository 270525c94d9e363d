//! The file system itself: a name for each call, nothing more.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{fallocate, flock, fstatvfs, FallocateFlags, FlockOperation};

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is opened as it is.
    Kept,
    /// It is emptied.
    Emptied,
    /// Opening fails.
    Refused,
}

/// A file open for reading and writing, for its owner only (0600).
pub(crate) struct File(fs::File);

impl File {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, existing: Existing) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match existing {
            Existing::Kept => options.create(true).truncate(false),
            Existing::Emptied => options.create(true).truncate(true),
            Existing::Refused => options.create_new(true),
        };
        options.open(path).map(File)
    }

    /// Keeps everybody else from locking it until it is closed; `WouldBlock` if somebody has.
    pub(crate) fn lock(&self) -> io::Result<()> {
        Ok(flock(&self.0, FlockOperation::NonBlockingLockExclusive)?)
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, at)
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Has the file system set aside room for `bytes` bytes from `at` on; the file grows to there.
    pub(crate) fn reserve(&self, at: u64, bytes: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::empty(), at, bytes)?)
    }

    /// Bytes that the file system has left for us.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let system = fstatvfs(&self.0)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }

    /// Brings content and length to the disk. The name is the folder's: [`sync_folder`].
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Makes a folder that is missing; this or an older one is then for its owner only (0700).
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Brings the names in a folder to the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
