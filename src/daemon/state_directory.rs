//! The directory for what must survive a restart, and the lock that keeps a second daemon out.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name of the lock file. It holds the process number of its owner, for people.
const LOCK_NAME: &str = "lock";

/// Longest process number that is read back from a lock file.
const OWNER_BYTES_MAX: u64 = 32;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    /// A running process has the lock.
    #[error(
        "Another daemon ({owner}) uses the state directory {path}; stop it, or give this one other \
         --state-dir, --admin-socket and --subnet-file values"
    )]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        owner: String,
    },
    /// The directory or a file in it could not be made.
    #[error(
        "Could not use the state directory {path}; see that it can be written, or choose another --state-dir"
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The directory, locked until this is dropped. The kernel releases the lock when the process ends
/// in any way, so a crash leaves nothing to clean up.
#[derive(Debug)]
pub(super) struct StateDirectory {
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory with mode 0700 if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let unusable = |source| StateError::Unusable { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let mut lock = open_lock(&path.join(LOCK_NAME)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = read_owner(&mut lock);
                return Err(StateError::Taken { path: path.to_owned(), owner });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        write_owner(&mut lock).map_err(unusable)?;
        Ok(Self { _lock: lock })
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

fn read_owner(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(OWNER_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "process unknown".to_owned(),
    }
}

fn write_owner(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_user_is_refused_and_told_who_has_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("deep/state");
        let first = StateDirectory::open(&path).unwrap();
        let refused = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains(path.to_str().unwrap()));
        drop(first);
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn a_new_directory_is_private() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let _state = StateDirectory::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_its_place_is_an_error_with_the_path() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(matches!(error, StateError::Unusable { .. }));
        assert!(error.to_string().contains("file"));
    }
}
