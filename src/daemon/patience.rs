//! Waiting for a predecessor that was killed a moment ago.
//!
//! A process that was killed keeps its locks and sockets until the kernel has gone through them, and
//! the device and the port even longer, because a ring is torn down asynchronously. So what is taken
//! is tried again for a while; what is still taken then belongs to somebody.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};
use tracing::info;

/// How long a killed predecessor may take to let go.
const TAKEN_PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two tries. A predecessor usually lets go within a few of them, and no packet flows
/// meanwhile.
const TAKEN_PAUSE: Duration = Duration::from_millis(5);

/// Calls `open` until it gives something else than an error that says `is_taken`, or until the
/// patience ends.
pub(super) async fn patiently<T, E: std::fmt::Display>(
    what: &str,
    mut open: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + TAKEN_PATIENCE;
    let mut said = false;
    loop {
        match open() {
            Err(error) if is_taken(&error) && Instant::now() < end => {
                if !said {
                    info!(%error, "the {what} is taken; waiting for a predecessor to let go");
                    said = true;
                }
                sleep(TAKEN_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails `failures` times, each with this text.
    fn failing(failures: usize) -> impl FnMut() -> Result<usize, &'static str> {
        let mut tries = 0;
        move || {
            tries += 1;
            if tries > failures { Ok(tries) } else { Err("taken") }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_tried_again() {
        assert_eq!(patiently("x", failing(0), |_| true).await, Ok(1));
        assert_eq!(patiently("x", failing(50), |_| true).await, Ok(51));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let start = Instant::now();
        assert_eq!(patiently("x", failing(usize::MAX), |_| true).await, Err("taken"));
        let waited = start.elapsed();
        assert!(waited >= TAKEN_PATIENCE && waited < TAKEN_PATIENCE + 2 * TAKEN_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn other_errors_end_at_once() {
        let start = Instant::now();
        assert_eq!(patiently("x", failing(1), |_| false).await, Err("taken"));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
