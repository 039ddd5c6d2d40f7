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
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::{Directory, DirectoryError, lease_name};
use crate::source::watch::Reporter;
use crate::source::{Change, SourceError, Update};

/// How often everything is listed again.
const LIST_PERIOD: Duration = Duration::from_secs(10);

/// Holds about a hundred events; what does not fit is read in the next round.
const EVENT_BYTES: usize = 4096;

/// Several system calls make one change (create, write, close, rename); a pause joins them.
const SETTLE: Duration = Duration::from_millis(2);

/// A listing that takes longer than this is told as a problem; it is waited for all the same, since the
/// next one would hang as well.
const LIST_PATIENCE: Duration = Duration::from_secs(20);

/// Watches one directory.
#[derive(Debug)]
pub(super) struct Watcher {
    directory: Directory,
    armed: Option<Armed>,
    /// When to list even if nothing happens.
    list_at: Instant,
    pending: Pending,
    config: Option<Option<Vec<u8>>>,
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

impl Watcher {
    pub(super) fn new(directory: Directory) -> Self {
        Self {
            directory,
            armed: None,
            list_at: Instant::now(),
            pending: Pending::default(),
            config: None,
        }
    }

    /// Watches for ever. Failures are tried again with the next listing, because there is nothing
    /// better to do with them than to go on with what is known.
    pub(super) async fn run(mut self, mut reporter: Reporter) {
        loop {
            let outcome = if self.pending.list || Instant::now() >= self.list_at {
                self.list(&mut reporter).await
            } else {
                self.tell_changes(&mut reporter).await
            };
            if let Err(error) = outcome {
                reporter.fail(error.sentence());
            }
            self.wait().await;
        }
    }

    /// Watch first, then list, so that nothing is missed in between.
    async fn list(&mut self, reporter: &mut Reporter) -> Result<(), SourceError> {
        self.list_at = Instant::now() + LIST_PERIOD;
        self.pending = Pending::default();
        if self.armed.is_none() {
            reporter.restart();
            let directory = self.directory.clone();
            let armed = spawn_blocking(move || Armed::begin(&directory)).await;
            match armed.expect("arming does not panic").and_then(Armed::new) {
                Ok(armed) => self.armed = Some(armed),
                Err(error) => debug!(%error, "cannot watch the lease directory; listing only"),
            }
        }
        let records = self.patiently(reporter, |directory| directory.list()).await?;
        reporter.send(Update::Snapshot(records)).await;
        self.tell_config(reporter).await?;
        reporter.succeed(None);
        Ok(())
    }

    /// Reads what was named. A file that was made and not filled yet is left for its next event.
    async fn tell_changes(&mut self, reporter: &mut Reporter) -> Result<(), SourceError> {
        let mut changes = Vec::new();
        let mut outcome = Ok(());
        for name in std::mem::take(&mut self.pending.names) {
            let wanted = name.clone();
            match self.patiently(reporter, move |directory| directory.read(&wanted)).await {
                Ok(Some(record)) if record.value.is_empty() => {}
                Ok(Some(record)) => changes.push(Change::Put(record)),
                Ok(None) => changes.push(Change::Deleted { name, revision: 0 }),
                Err(error) => outcome = Err(error),
            }
        }
        if !changes.is_empty() {
            reporter.send(Update::Changes(changes)).await;
        }
        if std::mem::take(&mut self.pending.config) {
            self.tell_config(reporter).await?;
        }
        outcome
    }

    /// Only a config that is another one than the last is told.
    async fn tell_config(&mut self, reporter: &mut Reporter) -> Result<(), SourceError> {
        let config = self.patiently(reporter, Directory::config).await?;
        if self.config.as_ref() != Some(&config) {
            reporter.send(Update::Config(config.clone())).await;
            self.config = Some(config);
        }
        Ok(())
    }

    async fn patiently<T: Send + 'static>(
        &self,
        reporter: &mut Reporter,
        question: impl FnOnce(&Directory) -> Result<T, DirectoryError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let directory = self.directory.clone();
        let mut thread = spawn_blocking(move || question(&directory));
        let answer = match timeout(LIST_PATIENCE, &mut thread).await {
            Ok(answer) => answer,
            Err(_) => {
                let path = self.directory.path().display();
                reporter.fail(format!(
                    "Reading {path} takes more than {} s. Is its file system hanging?",
                    LIST_PATIENCE.as_secs()
                ));
                thread.await
            }
        };
        Ok(answer.expect("file operations do not panic")?)
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
    /// The part that touches the directory.
    fn begin(directory: &Directory) -> io::Result<(Inotify, WatchDescriptor)> {
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
        Ok((inotify, subnets))
    }

    fn new((inotify, subnets): (Inotify, WatchDescriptor)) -> io::Result<Self> {
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
