//! The file of the node's private key: 32 bytes in base64, as `wg genkey` writes them, readable by its
//! owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRng;
use rand::rngs::SysRng;
use rustix::process::geteuid;
use weft_ctrl::key::{LENGTH, decode, encode};
use weft_seal::keys::PrivateKey;
use zeroize::Zeroizing;

/// Name of the file in the state directory.
const FILE_NAME: &str = "key";

/// Where a new one is written.
const ASIDE_NAME: &str = ".key.new";

/// Bits of others and of the group.
const OTHERS: u32 = 0o077;

/// A key has 44 letters. More than this is something else.
const LETTERS_MAX: u64 = 64;

/// Why there is no key. Nothing of its contents is in any text.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum KeyError {
    /// The file cannot be made, written or read.
    #[error("Could not {action} the private key {}; see that --state-dir can be written", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may have read it.
    #[error(
        "The private key {} can be read by others (mode {mode:04o}), so it may be no secret any more. \
         Remove the file and start again, which makes another key, or, if nobody has read it, \
         chmod 0400 it",
        .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its owner may have read or written it, whatever its mode.
    #[error(
        "The private key {} belongs to the user {owner}, so it may be no secret any more. Remove the \
         file and start again, which makes another key, or, if only you have had it, chown it to the \
         user of this daemon",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Who has it.
        owner: u32,
    },
    /// It is no key.
    #[error(
        "The private key {} is damaged: it is not 32 bytes in base64. Restore it, or remove the file \
         and start again, which makes another key",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the key, or makes one if there is none. The directory is there, and nobody else writes to it.
pub(super) fn load_or_create(directory: &Path) -> Result<PrivateKey, KeyError> {
    let path = directory.join(FILE_NAME);
    let failed = |source| KeyError::Io { action: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return replace(directory),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
    if owner != geteuid().as_raw() {
        return Err(KeyError::Foreign { path, owner });
    }
    if mode & OTHERS != 0 {
        return Err(KeyError::Open { path, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(LETTERS_MAX as usize));
    match file.take(LETTERS_MAX).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(KeyError::Malformed { path });
        }
        Err(error) => return Err(failed(error)),
    }
    let mut bytes = decode(&text).map_err(|_| KeyError::Malformed { path: path.clone() })?;
    Ok(PrivateKey::take(&mut bytes))
}

/// Makes another key and stores it in the place of the one before.
pub(super) fn replace(directory: &Path) -> Result<PrivateKey, KeyError> {
    let path = directory.join(FILE_NAME);
    let mut bytes = Zeroizing::new([0; LENGTH]);
    let filled = SysRng.try_fill_bytes(&mut *bytes).map_err(io::Error::other);
    let written = filled.and_then(|()| write(directory, &encode(&bytes)));
    written.map_err(|source| KeyError::Io { action: "write", path, source })?;
    Ok(PrivateKey::take(&mut bytes))
}

/// Written aside and renamed, so that no crash leaves half a key.
fn write(directory: &Path, text: &str) -> io::Result<()> {
    let aside = directory.join(ASIDE_NAME);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&aside)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&aside, directory.join(FILE_NAME))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_key_is_made_once_kept_and_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let first = load_or_create(place.path()).unwrap().public();
        assert_eq!(load_or_create(place.path()).unwrap().public(), first);
        assert_eq!(mode(&path), 0o400);
        assert_eq!(fs::read_to_string(&path).unwrap().len(), 45);
        // Left behind by a crash.
        fs::write(place.path().join(".key.new"), "half").unwrap();
        let second = replace(place.path()).unwrap().public();
        assert_ne!(second, first);
        assert_eq!(load_or_create(place.path()).unwrap().public(), second);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn the_key_of_wg_is_understood() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        fs::write(&path, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let public = super::super::told(load_or_create(place.path()).unwrap().public());
        assert_eq!(public.to_string(), "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        load_or_create(place.path()).unwrap();
        for open in [0o440, 0o404, 0o600 | 0o020, 0o777] {
            fs::set_permissions(&path, PermissionsExt::from_mode(open)).unwrap();
            let error = load_or_create(place.path()).unwrap_err();
            assert!(matches!(error, KeyError::Open { mode, .. } if mode == open));
            assert!(error.to_string().contains("chmod 0400"), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_user_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        load_or_create(place.path()).unwrap();
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
            let line = b"SKIPPED: the owner of a key needs a user who may give files away\n";
            io::stderr().write_all(line).unwrap();
            return;
        }
        let error = load_or_create(place.path()).unwrap_err();
        assert!(matches!(error, KeyError::Foreign { owner: 12_345, .. }), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_not_shown() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        let secret = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBm";
        for text in [secret.as_bytes(), b"", &[0xff; 32], &[b'A'; 1000]] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
            let error = load_or_create(place.path()).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains(&secret[..8]));
            fs::remove_file(&path).unwrap();
        }
    }
}
