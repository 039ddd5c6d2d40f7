//! What is known goes to disk now and then.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::warn;

use crate::saved::Saved;

/// What is known goes to disk this long after a change, so that what belongs together goes together.
const SAVE_SOON: Duration = Duration::from_millis(200);

/// Least time between two writes, however much changes.
const SAVE_PAUSE: Duration = Duration::from_secs(2);

/// It goes there at least this often, so that what does not change is known not to be old.
const SAVE_PERIOD: Duration = Duration::from_secs(600);

/// Writes what is known to disk, on a thread of its own.
pub(super) struct Saver {
    directory: PathBuf,
    due_at: Instant,
    /// Before this time nothing is written again.
    rests_until: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Saver {
    pub(super) fn new(directory: PathBuf) -> Self {
        let now = Instant::now();
        Self { directory, due_at: now + SAVE_PERIOD, rests_until: now, writing: None }
    }

    pub(super) fn mark(&mut self) {
        let soon = (Instant::now() + SAVE_SOON).max(self.rests_until);
        self.due_at = self.due_at.min(soon);
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
        self.rests_until = Instant::now() + SAVE_PAUSE;
        let Some(saved) = saved else { return };
        let directory = self.directory.clone();
        self.writing = Some(spawn_blocking(move || {
            if let Err(error) = saved.write(&directory) {
                warn!(%error, "the leases could not be saved; the next start needs the source");
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_change_is_saved_soon_and_later_ones_with_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(directory.path().to_owned());
        let wait = |saver: &Saver| saver.due_at.saturating_duration_since(Instant::now());
        assert_eq!(wait(&saver), SAVE_PERIOD);
        saver.mark();
        assert_eq!(wait(&saver), SAVE_SOON);
        saver.save(None);
        assert_eq!(wait(&saver), SAVE_PERIOD);
        saver.mark();
        assert_eq!(wait(&saver), SAVE_PAUSE);
        tokio::time::advance(SAVE_PAUSE * 2).await;
        saver.save(None);
        tokio::time::advance(SAVE_PAUSE * 2).await;
        saver.mark();
        assert_eq!(wait(&saver), SAVE_SOON);
    }
}
