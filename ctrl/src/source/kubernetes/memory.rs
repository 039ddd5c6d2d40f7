//! What a start without the API server needs: real addresses of it behind that of its service, and
//! what it has said about this node. A file in the state directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// Its name in the state directory.
const FILE_NAME: &str = "kubernetes";

/// More servers are not remembered. Clusters have one, three or five.
pub(super) const SERVERS_MAX: usize = 5;

/// What was learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Learnt {
    /// URLs of servers.
    pub(super) servers: Vec<String>,
    /// This node's name.
    pub(super) node: Option<String>,
    /// What was read of this node; `None` before the first time.
    pub(super) addresses: Option<LearntAddresses>,
}

/// The node's `node-public-ip` annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LearntAddresses {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    learnt: Mutex<Learnt>,
}

impl Memory {
    /// Reads the file. One that cannot be read is as good as none.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(FILE_NAME);
        let learnt = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(path = %path.display(), %error, "what was learnt of the API server is damaged");
                Learnt::default()
            }),
            Err(_) => Learnt::default(),
        };
        Self { path, learnt: Mutex::new(learnt) }
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learnt(&self) -> Learnt {
        self.lock().clone()
    }

    /// Takes something in. Only what is new is written.
    pub(super) fn learn(&self, change: impl FnOnce(&mut Learnt)) {
        let mut learnt = self.lock();
        let before = learnt.clone();
        change(&mut learnt);
        learnt.servers.truncate(SERVERS_MAX);
        if *learnt == before {
            return;
        }
        if let Err(error) = write(&self.path, &learnt) {
            warn!(path = %self.path.display(), %error, "a start without the API server may fail");
        }
    }
}

/// A few hundred bytes, written when they change, which is rare.
fn write(path: &Path, learnt: &Learnt) -> io::Result<()> {
    let text = serde_json::to_vec(learnt)?;
    let aside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_outlives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::open(directory.path());
        assert_eq!(memory.learnt(), Learnt::default());
        memory.learn(|learnt| {
            learnt.servers =
                (0..9).map(|number| format!("https://192.0.2.{number}:6443")).collect();
            learnt.node = Some("left".into());
            learnt.addresses = Some(LearntAddresses { v4: Some([192, 0, 2, 5].into()), v6: None });
        });
        let again = Memory::open(directory.path()).learnt();
        assert_eq!(again, memory.learnt());
        assert_eq!(again.servers.len(), SERVERS_MAX);
        fs::write(directory.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(Memory::open(directory.path()).learnt(), Learnt::default());
    }
}
