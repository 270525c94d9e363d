//! Files that are replaced as a whole or not at all, and stay replaced after a power cut.

use std::io::{self, Write};
use std::path::Path;

use crate::files::{self, Existing, File};

/// Why a file was not replaced. The draft is gone in any case.
#[derive(Debug)]
pub enum NotReplaced<E = io::Error> {
    /// The new content could not be made; the old file stands.
    Content(E),
    /// The draft could not be opened or brought to the disk; the old file stands.
    Draft(io::Error),
    /// The draft could not be renamed, or its new name not brought to the disk: a crash may leave
    /// either file.
    Rename(io::Error),
}

impl From<NotReplaced> for io::Error {
    fn from(e: NotReplaced) -> io::Error {
        match e {
            NotReplaced::Content(e) | NotReplaced::Draft(e) | NotReplaced::Rename(e) => e,
        }
    }
}

/// Whether an error of the file system says that a file cannot grow.
pub fn no_room(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
}

/// Makes a file with the content that `write` gives it, readable by its owner only, or replaces one
/// of that name.
///
/// The content is written to `draft`, in the same folder, which is brought to the disk and renamed;
/// then the folder is brought to the disk, without which a power cut could undo the new name.
/// Nobody else may write the same draft meanwhile: where several processes may replace one file,
/// each needs a name of its own for it.
///
/// # Errors
/// What `write` returns, and those of the file system; whether the old file stands, see
/// [`NotReplaced`].
pub fn replace<E>(
    path: &Path,
    draft: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), NotReplaced<E>> {
    let done = write_draft(draft, write).and_then(|()| rename(draft, path).map_err(NotReplaced::Rename));
    if done.is_err() {
        // Best effort: the error being reported matters more than a left-over file.
        let _ = files::remove(draft);
    }
    done
}

fn write_draft<E>(
    draft: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), NotReplaced<E>> {
    // What an earlier crash may have left goes first: overwritten, it would keep its mode.
    let _ = files::remove(draft);
    let mut file = File::open(draft, Existing::Refused).map_err(NotReplaced::Draft)?;
    write(&mut file).map_err(NotReplaced::Content)?;
    file.sync().map_err(NotReplaced::Draft)
}

fn rename(draft: &Path, path: &Path) -> io::Result<()> {
    files::rename(draft, path)?;
    files::sync_folder(folder_of(path))
}

/// Makes a folder, and those above it that are missing, each for its owner only and with its name
/// brought to the disk: without that a power cut could undo it with all that is in it.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    match files::create_folder(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_folder(folder_of(path))?;
            files::create_folder(path)?;
        }
        made => made?,
    }
    files::sync_folder(folder_of(path))
}

/// The parent of a bare name is the empty path, which cannot be opened.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::simulated::Disk;

    #[test]
    fn new_folders_are_on_the_disk() {
        let disk = Disk::new();
        create_folder(&disk.root().join("one/in/another")).unwrap();
        assert!(disk.unsynced(disk.calls()).is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (path, draft) = (dir.path().join("file"), dir.path().join("file.new"));
        let replace = |content: &[u8]| super::replace(&path, &draft, |file| file.write_all(content));
        for content in [&b"the first, which is longer"[..], b"the second"] {
            // What an earlier crash left does not matter.
            fs::write(&draft, [0; 100]).unwrap();
            replace(content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
            assert!(!draft.exists());
        }
        let stopped = super::replace(&path, &draft, |file| {
            file.write_all(b"the thi").unwrap();
            Err("stopped")
        });
        assert!(matches!(stopped, Err(NotReplaced::Content("stopped"))));
        assert_eq!(fs::read(&path).unwrap(), b"the second");
        assert!(!draft.exists());
        // A folder stands in the way: first of the draft, then of the file.
        fs::create_dir(&draft).unwrap();
        assert!(matches!(replace(b"the third"), Err(NotReplaced::Draft(_))));
        fs::remove_dir(&draft).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(replace(b"the third"), Err(NotReplaced::Rename(_))));
        assert!(!draft.exists());
    }
}
