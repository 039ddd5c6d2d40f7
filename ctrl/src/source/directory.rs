//! Leases in a directory: for one machine, labs and static clusters.
//!
//! ```text
//! DIR/config                  the network config
//! DIR/subnets/10.5.34.0-24    a lease, with the value that flanneld would keep in etcd
//! ```
//!
//! A lease is claimed with `link(2)`, which fails if the name exists, so a claim is atomic also
//! among programs that know nothing of our lock. Updates take `flock(2)` on the directory and look
//! at the owner again before they replace the file. Nothing here expires. Names that begin with a
//! dot are not leases; temporary files use that.

mod answers;
mod watch;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use tracing::warn;

use super::Record;

/// A lock is held for a few file operations. On a network file system these may be slow; beyond
/// this somebody else holds it for another reason.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// More than any config or lease can sensibly be; keeps a misplaced file from filling the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A file operation failed.
    #[error("Could not {action} {}. Check that --lease-dir exists and can be written", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The lock stayed taken.
    #[error(
        "The lock on {} stayed taken for {} s. Another program may be stuck with it; see fuser(1)",
        .path.display(),
        LOCK_PATIENCE.as_secs()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The lease is ours.
    Won,
    /// The name exists already.
    Lost,
}

/// How a change to an existing lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done.
    Done,
    /// The lease belongs to somebody else now; nothing was changed.
    NotOurs,
    /// The lease does not exist any more.
    Gone,
}

/// The `--lease-dir`. Cheap to clone; any number of threads and processes may use one directory.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl Directory {
    /// Names the directory. Nothing is touched yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn subnets(&self) -> PathBuf {
        self.path.join("subnets")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.subnets().join(name)
    }

    /// The network config as stored, or `None` if the directory has none.
    ///
    /// # Errors
    /// If it cannot be read, or the directory itself is missing.
    pub fn config(&self) -> Result<Option<Vec<u8>>, DirectoryError> {
        let path = self.path.join("config");
        match read_bounded(&path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.is_dir() => Ok(None),
            Err(error) => Err(failed("read the network config", &path)(error)),
        }
    }

    /// All leases, oldest write first. A missing `subnets` directory holds none.
    ///
    /// # Errors
    /// If the directory or one of its files cannot be read. A file that vanishes meanwhile is no
    /// error.
    pub fn list(&self) -> Result<Vec<Record>, DirectoryError> {
        let path = self.subnets();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Only a directory that is there itself can be known to be empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.is_dir() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed("list", &path)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &path))?;
            let Some(name) = lease_name(&entry.file_name()) else { continue };
            let modified = entry.metadata().and_then(|data| data.modified()).ok();
            match self.read(&name) {
                Ok(Some(record)) => found.push((modified, record)),
                Ok(None) => {}
                // One file that cannot be read must not hide the others. It is refused as a lease
                // without a value would be, and nobody takes its subnet.
                Err(error) => {
                    warn!(%error, "a lease cannot be read");
                    found.push((modified, Record::lasting(name, [])));
                }
            }
        }
        found.sort_by(|(a_time, a), (b_time, b)| (a_time, &a.name).cmp(&(b_time, &b.name)));
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }

    /// One lease, or `None` if there is none of that name.
    ///
    /// # Errors
    /// If it exists and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Record>, DirectoryError> {
        let path = self.file(name);
        match read_bounded(&path) {
            Ok(value) => Ok(Some(Record::lasting(name, value))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // A directory or a pipe among the leases is nobody's lease.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Waits for the lock that keeps other nodes from changing leases. Listing and claiming need
    /// none.
    ///
    /// # Errors
    /// If the directory cannot be opened, or the lock stays taken for two seconds.
    pub fn lock(&self) -> Result<Lock, DirectoryError> {
        let file = File::open(&self.path).map_err(failed("open", &self.path))?;
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => sleep(LOCK_PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(DirectoryError::Locked { path: self.path.clone() });
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed("lock", &self.path)(error.into())),
            }
        }
    }

    /// Creates a lease if its name is free.
    ///
    /// # Errors
    /// If it cannot be written; then the name is as it was.
    pub fn claim(&self, name: &str, value: &[u8]) -> Result<Claim, DirectoryError> {
        let subnets = self.subnets();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(&subnets).map_err(failed("make", &subnets))?;
        let aside = self.write_aside(value)?;
        let path = self.file(name);
        let linked = fs::hard_link(aside.path(), &path);
        drop(aside);
        match linked {
            Ok(()) => self.sync().map(|()| Claim::Won),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Claim::Lost),
            Err(error) => Err(failed("create", &path)(error)),
        }
    }

    /// Writes a lease again if it is still ours. The lock shows that nobody else is at it.
    ///
    /// # Errors
    /// If it cannot be read or written; then it is as it was.
    pub fn update(
        &self,
        _lock: &Lock,
        name: &str,
        value: &[u8],
        is_ours: impl Fn(&[u8]) -> bool,
    ) -> Result<Changed, DirectoryError> {
        match self.read(name)? {
            None => return Ok(Changed::Gone),
            Some(record) if !is_ours(&record.value) => return Ok(Changed::NotOurs),
            Some(record) if record.value == value => return Ok(Changed::Done),
            Some(_) => {}
        }
        let aside = self.write_aside(value)?;
        let path = self.file(name);
        fs::rename(aside.path(), &path).map_err(failed("replace", &path))?;
        self.sync().map(|()| Changed::Done)
    }

    /// Deletes a lease if it is still ours.
    ///
    /// # Errors
    /// If it cannot be read or deleted.
    pub fn remove(
        &self,
        _lock: &Lock,
        name: &str,
        is_ours: impl Fn(&[u8]) -> bool,
    ) -> Result<Changed, DirectoryError> {
        match self.read(name)? {
            None => return Ok(Changed::Gone),
            Some(record) if !is_ours(&record.value) => return Ok(Changed::NotOurs),
            Some(_) => {}
        }
        let path = self.file(name);
        fs::remove_file(&path).map_err(failed("delete", &path))?;
        self.sync().map(|()| Changed::Done)
    }

    fn sync(&self) -> Result<(), DirectoryError> {
        let path = self.subnets();
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))
    }

    fn write_aside(&self, value: &[u8]) -> Result<Aside, DirectoryError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let host: u64 = rand::random();
        let path = self.file(&format!(".new-{host:016x}-{}-{number}", std::process::id()));
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            file.write_all(value)?;
            file.sync_all()
        };
        let result = write();
        let aside = Aside(path);
        result.map_err(failed("write", aside.path())).map(|()| aside)
    }
}

/// A temporary file, deleted when dropped; after a rename there is nothing to delete.
struct Aside(PathBuf);

impl Aside {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { action, path, source }
}

/// A pipe that somebody put there would be waited for for ever, and the whole control loop with it.
/// The flag holds for one that comes between the two calls.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut value = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut value)?;
    Ok(value)
}

/// The name of a lease file; names of another encoding cannot be leases but are shown as bad ones.
fn lease_name(name: &std::ffi::OsStr) -> Option<String> {
    let name = name.to_string_lossy();
    (!name.starts_with('.')).then(|| name.into_owned())
}

#[cfg(test)]
mod tests;
