//! What the source said last, on disk, so that a node that starts while the source is away can forward
//! packets at once.
//!
//! The first line of the file names its format and a checksum of the rest, which is JSON. A file that
//! is damaged is set aside and forgotten: it only ever shortens an outage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::source::Record;

const FILE_NAME: &str = "leases";

/// Where a damaged file goes.
const DAMAGED_NAME: &str = "leases.damaged";

const FORMAT: &str = "weft leases 1";

/// Everything that a start needs from a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Description of the source: leases of one are nothing to another.
    pub(crate) source: String,
    /// Seconds since 1970 when the source last said so.
    pub(crate) confirmed_at: u64,
    /// How long leases live that expire.
    pub(crate) lifetime_seconds: Option<u64>,
    /// The network config.
    pub(crate) config: String,
    /// Name of the own lease.
    pub(crate) own: String,
    leases: Vec<SavedLease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedLease {
    name: String,
    value: String,
    expires: bool,
}

impl Saved {
    /// Takes down what is known now.
    pub(crate) fn new(
        source: String,
        lifetime: Option<Duration>,
        config: String,
        own: String,
        records: &[&Record],
    ) -> Self {
        let keep = |record: &&Record| {
            // A value that is no text cannot be a lease.
            let value = String::from_utf8(record.value.clone()).ok()?;
            Some(SavedLease { name: record.name.clone(), value, expires: record.expires })
        };
        Self {
            source,
            confirmed_at: seconds(wall_clock()),
            lifetime_seconds: lifetime.map(|lifetime| lifetime.as_secs()),
            config,
            own,
            leases: records.iter().filter_map(keep).collect(),
        }
    }

    /// The leases that have not run out meanwhile, as far as that can be known. In doubt about the
    /// clock they have not.
    pub(crate) fn records(&self, now: SystemTime) -> Vec<Record> {
        let age = seconds(now).saturating_sub(self.confirmed_at);
        let has_run_out = self.lifetime_seconds.is_some_and(|lifetime| age >= lifetime);
        let alive = self.leases.iter().filter(|lease| !(lease.expires && has_run_out));
        let record = |lease: &SavedLease| Record {
            expires: lease.expires,
            ..Record::lasting(&lease.name, lease.value.as_bytes())
        };
        alive.map(record).collect()
    }

    /// Replaces the file at once. Blocks.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let body = serde_json::to_string(self).expect("texts and numbers can always be written");
        let aside = directory.join(format!(".{FILE_NAME}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        write!(file, "{FORMAT} {:016x}\n{body}", checksum(body.as_bytes()))?;
        file.sync_all()?;
        fs::rename(&aside, directory.join(FILE_NAME))?;
        File::open(directory)?.sync_all()
    }

    /// Deletes the file. Blocks.
    pub(crate) fn remove(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads the file, if there is one that is sound and of this source. Blocks.
    pub(crate) fn load(directory: &Path, source: &str) -> Option<Self> {
        let path = directory.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "the saved leases cannot be read");
                return None;
            }
        };
        let Some(saved) = parse(&text) else {
            set_aside(&path, directory);
            return None;
        };
        if saved.source != source {
            info!(saved = saved.source, "the saved leases are those of another source");
            return None;
        }
        Some(saved)
    }
}

fn set_aside(path: &Path, directory: &Path) {
    let damaged: PathBuf = directory.join(DAMAGED_NAME);
    warn!(path = %damaged.display(), "the saved leases are damaged and set aside");
    if let Err(error) = fs::rename(path, &damaged) {
        warn!(%error, "they could not be set aside");
    }
}

fn parse(text: &[u8]) -> Option<Saved> {
    let text = std::str::from_utf8(text).ok()?;
    let (head, body) = text.split_once('\n')?;
    let sum = head.strip_prefix(FORMAT)?.strip_prefix(' ')?;
    let sum = u64::from_str_radix(sum, 16).ok()?;
    if sum != checksum(body.as_bytes()) {
        return None;
    }
    serde_json::from_str(body).ok()
}

/// FNV-1a: finds halves and flipped bits, which is all that is feared here.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The time that outlives a restart.
#[expect(
    clippy::disallowed_methods,
    reason = "no other clock goes on while the program does not run; in doubt a lease has not run out"
)]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let static_one = Record::lasting("10.5.3.0-24", "{}");
        let expiring = Record { expires: true, ..Record::lasting("10.5.2.0-24", "{\"a\":1}") };
        let binary = Record::lasting("10.5.4.0-24", [0xff]);
        let day = Some(Duration::from_secs(86_400));
        let records = [&expiring, &static_one, &binary];
        Saved::new("etcd x".into(), day, "{}".into(), "10.5.1.0-24".into(), &records)
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(directory.path(), "etcd x"), None);
        saved().write(directory.path()).unwrap();
        saved().write(directory.path()).unwrap();
        let loaded = Saved::load(directory.path(), "etcd x").unwrap();
        assert_eq!(Saved { confirmed_at: 0, ..loaded }, Saved { confirmed_at: 0, ..saved() });
        assert_eq!(Saved::load(directory.path(), "etcd y"), None, "another source");
        assert!(Saved::load(directory.path(), "etcd x").is_some(), "and it was left alone");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn leases_run_out_and_reservations_do_not() {
        let saved = saved();
        let names = |after: u64| -> Vec<String> {
            let now = UNIX_EPOCH + Duration::from_secs(saved.confirmed_at + after);
            saved.records(now).into_iter().map(|record| record.name).collect()
        };
        assert_eq!(names(0), ["10.5.2.0-24", "10.5.3.0-24"]);
        assert_eq!(names(86_399).len(), 2);
        assert_eq!(names(86_400), ["10.5.3.0-24"]);
        assert_eq!(saved.records(UNIX_EPOCH).len(), 2, "the clock was set back");
        assert!(saved.records(UNIX_EPOCH)[0].expires);
    }

    #[test]
    fn every_damage_is_found_and_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        saved().write(directory.path()).unwrap();
        let sound = fs::read(&path).unwrap();
        let cut: Vec<Vec<u8>> = (0..sound.len()).map(|length| sound[..length].to_vec()).collect();
        let flipped = (0..sound.len()).map(|index| {
            let mut bytes = sound.clone();
            bytes[index] ^= 0x10;
            bytes
        });
        for damaged in cut.into_iter().chain(flipped) {
            fs::write(&path, &damaged).unwrap();
            assert_eq!(Saved::load(directory.path(), "etcd x"), None, "{damaged:?}");
            assert_eq!(fs::read(directory.path().join(DAMAGED_NAME)).unwrap(), damaged);
            assert!(!path.exists());
        }
    }
}
