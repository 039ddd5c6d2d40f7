//! Changes of the directory as they happen.
//!
//! inotify tells changes on a local file system at once. It tells nothing of changes that other
//! hosts make on a network file system, and may overflow, so everything is also listed regularly.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::{Directory, DirectoryError, lease_name};
use crate::source::{Change, Update};

/// How often everything is listed again.
const LIST_PERIOD: Duration = Duration::from_secs(10);

/// Holds about a hundred events; what does not fit is read in the next round.
const EVENT_BYTES: usize = 4096;

/// Several system calls make one change (create, write, close, rename); a pause joins them.
const SETTLE: Duration = Duration::from_millis(2);

/// Watches one directory.
///
/// The future of [`Watch::next`] may be dropped without losing anything: what was seen and not told
/// yet stays in here.
#[derive(Debug)]
pub struct Watch {
    directory: Directory,
    armed: Option<Armed>,
    /// When to list even if nothing happens.
    list_at: Instant,
    pending: Pending,
    problem: Option<String>,
}

/// What was seen and not told.
#[derive(Debug, Default)]
struct Pending {
    names: BTreeSet<String>,
    config: bool,
    list: bool,
}

#[derive(Debug)]
struct Armed {
    inotify: AsyncFd<Inotify>,
    subnets: WatchDescriptor,
}

impl Watch {
    /// Begins to watch; the first update is a snapshot. Must be used within a tokio runtime.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            armed: None,
            list_at: Instant::now(),
            pending: Pending::default(),
            problem: None,
        }
    }

    /// The next update. Failures are logged once and tried again with the next listing, because
    /// there is nothing better to do with them than to go on with what is known.
    pub async fn next(&mut self) -> Update {
        loop {
            if std::mem::take(&mut self.pending.config) {
                return Update::Config;
            }
            let update = if self.pending.list || Instant::now() >= self.list_at {
                self.list()
            } else {
                self.changes()
            };
            match update {
                Some(update) => return update,
                None => self.wait().await,
            }
        }
    }

    /// Why the last listing failed, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Watch first, then list, so that nothing is missed in between.
    fn list(&mut self) -> Option<Update> {
        self.list_at = Instant::now() + LIST_PERIOD;
        self.pending.list = false;
        if self.armed.is_none() {
            match Armed::new(&self.directory) {
                Ok(armed) => self.armed = Some(armed),
                Err(error) => debug!(%error, "cannot watch the lease directory; listing only"),
            }
        }
        match self.directory.list() {
            Ok(records) => {
                self.problem = None;
                Some(Update::Snapshot(records))
            }
            Err(error) => {
                self.warn(&error);
                None
            }
        }
    }

    /// Reads what was named. A file that was made and not filled yet is left for its next event.
    fn changes(&mut self) -> Option<Update> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.pending.names) {
            match self.directory.read(&name) {
                Ok(Some(record)) if record.value.is_empty() => {}
                Ok(Some(record)) => changes.push(Change::Put(record)),
                Ok(None) => changes.push(Change::Deleted(name)),
                Err(error) => self.warn(&error),
            }
        }
        (!changes.is_empty()).then_some(Update::Changes(changes))
    }

    fn warn(&mut self, error: &DirectoryError) {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let problem = format!("{error} ({cause})");
        if self.problem.as_ref() != Some(&problem) {
            warn!(problem, "the leases cannot be read; the known ones stay in force");
            self.problem = Some(problem);
        }
    }

    /// Waits for an event or the next listing, and takes the events in.
    async fn wait(&mut self) {
        let Some(armed) = &mut self.armed else {
            sleep_until(self.list_at).await;
            return;
        };
        let taken = tokio::select! {
            () = sleep_until(self.list_at) => Ok(()),
            taken = armed.take_events(&mut self.pending) => taken,
        };
        if let Err(error) = taken {
            debug!(%error, "watching the lease directory ended; starting again");
            self.pending.list = true;
        }
        if self.pending.list {
            self.armed = None;
        }
    }
}

impl Armed {
    fn new(directory: &Directory) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        // CREATE is all that link(2) tells.
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let add = |path: &Path| inotify.watches().add(path, mask);
        add(directory.path())?;
        let subnets = add(&directory.subnets())?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe because a type may lie about its descriptor; \
                      Inotify owns the one that it tells"
        )]
        let inotify = AsyncFd::with_interest(inotify, Interest::READABLE)?;
        Ok(Self { inotify, subnets })
    }

    /// Waits for events and takes them all. Readiness is cleared only after the pause and with no
    /// further waiting before the read, so that a dropped future forgets nothing.
    async fn take_events(&mut self, pending: &mut Pending) -> io::Result<()> {
        let mut guard = self.inotify.readable_mut().await?;
        sleep(SETTLE).await;
        guard.clear_ready();
        let mut buffer = [0; EVENT_BYTES];
        loop {
            let events = match guard.get_inner_mut().read_events(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                events => events?,
            };
            for event in events {
                pending.take(&event, &self.subnets);
            }
        }
    }
}

impl Pending {
    fn take(&mut self, event: &inotify::Event<&std::ffi::OsStr>, subnets: &WatchDescriptor) {
        let unsure = EventMask::DELETE_SELF
            | EventMask::MOVE_SELF
            | EventMask::IGNORED
            | EventMask::UNMOUNT
            | EventMask::Q_OVERFLOW;
        match event.name {
            _ if event.mask.intersects(unsure) => self.list = true,
            Some(name) if event.wd == *subnets => self.names.extend(lease_name(name)),
            Some(name) if name == "config" => self.config = true,
            // The directory of the leases was made or replaced.
            Some(name) if name == "subnets" => self.list = true,
            _ => {}
        }
    }
}
