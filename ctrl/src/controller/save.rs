//! What is known goes to disk now and then.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::warn;

use crate::saved::Saved;

/// What is known goes to disk this long after a change, so that many changes go together.
const SAVE_PAUSE: Duration = Duration::from_secs(2);

/// It goes there at least this often, so that what does not change is known not to be old.
const SAVE_PERIOD: Duration = Duration::from_secs(600);

/// Writes what is known to disk, on a thread of its own.
pub(super) struct Saver {
    directory: PathBuf,
    due_at: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Saver {
    pub(super) fn new(directory: PathBuf) -> Self {
        let due_at = Instant::now() + SAVE_PERIOD;
        Self { directory, due_at, writing: None }
    }

    pub(super) fn mark(&mut self) {
        self.due_at = self.due_at.min(Instant::now() + SAVE_PAUSE);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.due_at)
    }

    /// What was written must not be used by the next start.
    pub(super) async fn forget(&mut self) {
        if let Some(writing) = self.writing.take() {
            // It has logged what went wrong.
            let _ = writing.await;
        }
        let directory = self.directory.clone();
        let removed = spawn_blocking(move || Saved::remove(&directory)).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, "the saved leases could not be deleted");
        }
    }

    pub(super) fn save(&mut self, saved: Option<Saved>) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            self.due_at = Instant::now() + SAVE_PAUSE;
            return;
        }
        self.due_at = Instant::now() + SAVE_PERIOD;
        let Some(saved) = saved else { return };
        let directory = self.directory.clone();
        self.writing = Some(spawn_blocking(move || {
            if let Err(error) = saved.write(&directory) {
                warn!(%error, "the leases could not be saved; the next start needs the source");
            }
        }));
    }
}
