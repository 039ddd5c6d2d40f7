//! The receiving end of a watched source.
//!
//! The watching itself is a task, so that a slow source delays nobody, and so that dropping a wait for
//! an update loses nothing.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Update;

/// Updates on their way. A source that is ahead of the controller waits.
const UPDATES_WAITING_MAX: usize = 16;

/// Lasting trouble is logged again no sooner than this, whatever its reasons: a cluster of servers that
/// come and go gives another reason with each try.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How the watching goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing is learnt at the moment.
    pub problem: Option<String>,
    /// Who answers, if there are several that could.
    pub server: Option<String>,
    /// Times that everything was listed.
    pub listings: u64,
    /// Times that watching began again after it broke.
    pub restarts: u64,
    /// Changes seen, and leases in listings.
    pub events: u64,
    /// Failures of any kind.
    pub errors: u64,
}

/// What comes from a watched source. The watching ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    updates: mpsc::Receiver<(Instant, Update)>,
    told_at: Instant,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch. Must be used within a tokio runtime.
    pub(super) fn start<F>(run: impl FnOnce(Reporter) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, updates) = mpsc::channel(UPDATES_WAITING_MAX);
        let (health_sender, health) = watch::channel(Health::default());
        let reporter = Reporter { updates: sender, health: health_sender, logged_at: None };
        Self { updates, told_at: Instant::now(), health, task: tokio::spawn(run(reporter)) }
    }

    /// The next update. The first is a snapshot or a config. Dropping the future loses nothing.
    ///
    /// # Panics
    /// If the watching has ended, which is a defect.
    pub async fn next(&mut self) -> Update {
        let (told_at, update) =
            self.updates.recv().await.expect("watching lasts as long as its handle");
        self.told_at = told_at;
        update
    }

    /// When the source told the last update that was taken; it may have waited.
    #[must_use]
    pub fn told_at(&self) -> Instant {
        self.told_at
    }

    /// How the watching goes. The handle tells when it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Reporter {
    updates: mpsc::Sender<(Instant, Update)>,
    health: watch::Sender<Health>,
    logged_at: Option<Instant>,
}

impl Reporter {
    /// Hands an update on; waits while the controller is behind.
    pub(super) async fn send(&self, update: Update) {
        let (seen, listed) = match &update {
            Update::Snapshot(records) => (records.len(), true),
            Update::Changes(changes) => (changes.len(), false),
            Update::Config(_) => (0, false),
        };
        self.health.send_modify(|health| {
            health.events += seen as u64;
            health.listings += u64::from(listed);
        });
        // If the handle is gone, this task is about to be aborted.
        let _ = self.updates.send((Instant::now(), update)).await;
    }

    /// It does not work, for this reason.
    pub(super) fn fail(&mut self, problem: String) {
        let is_new = self.health.borrow().problem.as_ref() != Some(&problem);
        let is_due = self.logged_at.is_none_or(|logged| logged.elapsed() >= LOG_PERIOD);
        if is_new && is_due {
            warn!(problem, "the leases cannot be read; the known ones stay in force");
            self.logged_at = Some(Instant::now());
        } else {
            debug!(problem, "the leases still cannot be read");
        }
        self.health.send_modify(|health| {
            health.errors += 1;
            health.problem = Some(problem);
        });
    }

    /// It works, thanks to this server if there is a choice.
    pub(super) fn succeed(&mut self, server: Option<&str>) {
        if self.logged_at.take().is_some() {
            info!(server, "the leases can be read again");
        }
        self.health.send_if_modified(|health| {
            let recovered = health.problem.take().is_some();
            let moved = health.server.as_deref() != server;
            health.server = server.map(str::to_owned);
            recovered || moved
        });
    }

    /// Watching begins again.
    pub(super) fn restart(&self) {
        self.health.send_modify(|health| health.restarts += 1);
    }
}
