//! What becomes of a daemon whose workers have ended or are stuck: with other paths to all peers it
//! starts workers anew; else it ends, and its supervisor starts it anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info};
use weft_ctrl::config::PathKind;
use weft_dataplane::Event;
use weft_sys::tun::Tun;

use super::device;
use super::forwarding::{Forwarding, Told};
use super::state::State;
use crate::options::Without;

/// The control loop moves peers to other paths within this, also where others want the processor.
const MOVING_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const MOVING_PERIOD: Duration = Duration::from_millis(50);

/// A worker that is stuck for so long is not waited for any more. Its peers have been moved long
/// before.
const STUCK_PATIENCE: Duration = Duration::from_secs(5);

/// Pauses before workers are started anew.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Workers that went on for so long have earned a short pause again.
const CALM: Duration = Duration::from_secs(120);

/// Looks after workers.
pub(super) struct Care<'a> {
    pub(super) state: &'a State,
    pub(super) forwarding: &'a Arc<Forwarding>,
    /// Peers may be reached without workers.
    pub(super) has_other_paths: bool,
    pub(super) without: Without,
}

impl Care<'_> {
    /// Comes back only with what ends the daemon.
    pub(super) async fn look_after(self, events: &mut mpsc::Receiver<Told>) -> Result<Infallible> {
        let mut pause = PAUSE_FIRST;
        loop {
            let started = Instant::now();
            let reason = self.failure(events).await;
            if !self.has_other_paths {
                bail!("A packet worker has ended: {reason}");
            }
            error!(reason, "packets are not moved any more; peers are reached on other paths");
            self.state.set_failed(Some(reason.clone()));
            self.forwarding.set_works(false);
            if started.elapsed() > CALM {
                pause = PAUSE_FIRST;
            }
            pause = self.start_anew(&reason, pause).await?;
            info!("new packet workers have begun");
            self.state.handle_replacement(self.forwarding.replacements());
            self.state.set_failed(None);
            self.forwarding.set_works(true);
        }
    }

    /// Why packets are not moved any more.
    async fn failure(&self, events: &mut mpsc::Receiver<Told>) -> String {
        let works = self.forwarding.works();
        tokio::select! {
            reason = self.follow_events(events) => reason,
            () = stuck(works), if self.has_other_paths => {
                format!("it did not go on for {} s", STUCK_PATIENCE.as_secs())
            }
        }
    }

    /// Ends with the reason when a worker has ended by itself. Where workers are replaced, the end of
    /// one that was replaced means nothing.
    async fn follow_events(&self, events: &mut mpsc::Receiver<Told>) -> String {
        while let Some(told) = events.recv().await {
            match told.event {
                Event::Dead { reason }
                    if !self.has_other_paths || self.state.is_current(told.worker) =>
                {
                    return reason;
                }
                Event::Dead { .. } => {}
                _ => self.state.handle_event(&told),
            }
        }
        "it left no reason".to_owned()
    }

    /// Tries until there are workers again, and returns the pause for the next time.
    async fn start_anew(&self, reason: &str, mut pause: Duration) -> Result<Duration> {
        loop {
            let stranded = self.stranded_at_last().await;
            if stranded > 0 {
                bail!(
                    "A packet worker has ended ({reason}), and {stranded} peers have no other path"
                );
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
            match self.restart().await {
                Ok(()) => return Ok(pause),
                Err(problem) => {
                    error!(
                        problem = format!("{problem:#}"),
                        "no new packet workers; it is tried again"
                    );
                }
            }
        }
    }

    /// How many peers only the workers can reach, once the others were moved.
    async fn stranded_at_last(&self) -> usize {
        let end = Instant::now() + MOVING_PATIENCE;
        loop {
            let stranded = stranded(self.state);
            if stranded == 0 || Instant::now() >= end {
                return stranded;
            }
            sleep(MOVING_PERIOD).await;
        }
    }

    async fn restart(&self) -> Result<()> {
        let queues = self.queues_instead().await?;
        let forwarding = Arc::clone(self.forwarding);
        let restarting = spawn_blocking(move || forwarding.restart(queues));
        restarting.await.context("the thread that starts the workers ended")?
    }

    /// Queues of a new device, if somebody has deleted the one in use.
    async fn queues_instead(&self) -> Result<Option<Vec<Tun>>> {
        if !self.forwarding.has_lost_device() {
            return Ok(None);
        }
        let mut crew = self.forwarding.crew().clone();
        let queues = device::open_device(&mut crew, self.without).await?;
        if crew.count != self.forwarding.crew().count {
            bail!("The new device has too few queues");
        }
        Ok(Some(queues))
    }
}

/// Comes back when packets were not moved for a long time.
async fn stuck(mut works: watch::Receiver<bool>) {
    loop {
        let gone = "the workers outlive those who look after them";
        works.wait_for(|works| !works).await.expect(gone);
        if timeout(STUCK_PATIENCE, works.wait_for(|works| *works)).await.is_err() {
            return;
        }
    }
}

/// How many peers only the workers can reach.
fn stranded(state: &State) -> usize {
    let peers = state.control().snapshot().peers;
    let only_engine = |path: &str| path.split(", ").any(|one| one == PathKind::Udp.name());
    peers.iter().filter(|peer| only_engine(&peer.path)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn only_who_is_stuck_for_long_is_given_up() {
        let works = watch::Sender::new(true);
        let mut waiting = tokio::spawn(stuck(works.subscribe()));
        for pause in [STUCK_PATIENCE / 2, STUCK_PATIENCE * 3 / 4] {
            works.send_replace(false);
            assert!(timeout(pause, &mut waiting).await.is_err());
            works.send_replace(true);
            assert!(timeout(STUCK_PATIENCE, &mut waiting).await.is_err());
        }
        works.send_replace(false);
        tokio::task::yield_now().await;
        advance(STUCK_PATIENCE).await;
        waiting.await.unwrap();
    }
}
