//! Who this node is: a random number that outlives restarts and address changes.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rand::{RngExt, rng};
use serde::{Serialize, Serializer};

/// Name of the file in the state directory.
const FILE_NAME: &str = "id";

/// 128 random bits, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u128);

impl Identity {
    /// A new one; two never collide in practice.
    #[must_use]
    pub fn random() -> Self {
        Self(rng().random())
    }

    /// The bits, the first digit's first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// The text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("An identity is 32 hexadecimal digits")]
pub struct ParseIdentityError;

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or(ParseIdentityError)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why there is no identity. The start cannot go on: a node that changes its identity with every
/// start would leave leases behind that nobody owns.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Directory or file cannot be made, written or read.
    #[error("Could not {action} {}. Check that the directory exists and can be written", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file has other content.
    #[error(
        "The identity in {} is damaged. Remove the file to get a new identity; the node then takes \
         its lease over by its public address only if the lease carries none",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the identity kept in `directory`, or creates it once. The directory is made with mode 0700
/// if it is missing.
///
/// # Errors
/// If it can be neither read nor created, or is damaged.
pub fn load_or_create(directory: &Path) -> Result<Identity, IdentityError> {
    if let Some(identity) = load(directory)? {
        return Ok(identity);
    }
    let path = directory.join(FILE_NAME);
    let failed = |action| {
        let path = path.clone();
        move |source| IdentityError::Io { action, path, source }
    };
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("make the directory of"))?;
    create(directory, &path).map_err(failed("create"))?;
    // Whoever linked first is the identity, also when two started at once.
    let text = fs::read_to_string(&path).map_err(failed("read"))?;
    text.trim_end().parse().map_err(|_| IdentityError::Damaged { path })
}

/// Reads the identity kept in `directory`, if there is one. Writes nothing.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub fn load(directory: &Path) -> Result<Option<Identity>, IdentityError> {
    let path = directory.join(FILE_NAME);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let identity = text.trim_end().parse();
            identity.map(Some).map_err(|_| IdentityError::Damaged { path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io { action: "read", path, source }),
    }
}

/// Written aside and linked, so that no crash leaves half an identity.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    let identity = Identity::random();
    let aside = directory.join(format!(".{FILE_NAME}.{identity}"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        writeln!(file, "{identity}")?;
        file.sync_all()?;
        match fs::hard_link(&aside, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    })();
    // A left-over dot-file is harmless; the first failure is the one to report.
    let _ = fs::remove_file(&aside);
    written?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/state");
        let first = load_or_create(&directory).unwrap();
        assert_eq!(load_or_create(&directory).unwrap(), first);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let text = fs::read_to_string(directory.join("id")).unwrap();
        assert_eq!(text, format!("{first}\n"));
        assert_eq!(text.len(), 33);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no file is left aside");
    }

    #[test]
    fn two_at_once_agree() {
        let root = tempfile::tempdir().unwrap();
        let found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(root.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    }

    #[test]
    fn a_damaged_one_is_not_replaced_silently() {
        let root = tempfile::tempdir().unwrap();
        for text in
            ["", "xyz", "0123456789abcdef0123456789abcde", "+123456789abcdef0123456789abcdef"]
        {
            fs::write(root.path().join("id"), text).unwrap();
            let error = load_or_create(root.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{text}");
        }
    }

    #[test]
    fn an_unusable_directory_is_told() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = load_or_create(&file.join("state")).unwrap_err();
        assert!(matches!(error, IdentityError::Io { .. }), "{error}");
    }
}
