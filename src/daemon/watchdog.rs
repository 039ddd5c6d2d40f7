//! Looks whether the worker goes on, and offers it again what it could not take at once.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};
use weft_dataplane::NotTold;
use weft_dataplane::progress::{News, Phase};

use super::forwarding::Forwarding;
use super::state::State;

/// How often it looks. A stall is told so much later at most, and a table handed on.
const PERIOD: Duration = Duration::from_millis(100);

/// A turn that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    /// What the worker does.
    pub(super) phase: Phase,
    /// When it was first seen in this turn.
    pub(super) since: Instant,
}

/// What the watchdog knows.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// The stall at the moment.
    pub(super) now: Option<Stall>,
    /// How many there were, with the one at the moment.
    pub(super) count: u64,
}

impl Stalls {
    /// Remembers news and writes them into the log.
    fn handle(&mut self, news: News, now: Instant) {
        match news {
            News::Stalled { phase, lasted } => {
                self.now = Some(Stall { phase, since: now.checked_sub(lasted).unwrap_or(now) });
                self.count += 1;
                error!(%phase, ?lasted, "the packet worker is stuck");
            }
            News::Recovered { phase, lasted } => {
                self.now = None;
                warn!(%phase, ?lasted, "the packet worker goes on");
            }
        }
    }
}

/// Watches until the future is dropped.
pub(super) async fn watch(forwarding: &Forwarding, state: &State) -> Infallible {
    let mut watch = forwarding.watch();
    let mut predecessors = forwarding.predecessors();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        if forwarding.predecessors() != predecessors {
            predecessors = forwarding.predecessors();
            watch = forwarding.watch();
        }
        if let Some(news) = watch.as_mut().and_then(|watch| watch.look(now)) {
            state.with_stalls(|stalls| stalls.handle(news, now));
        }
        if forwarding.offer() == Err(NotTold::Ended) {
            // Its last event ends the daemon.
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_counted_and_ends() {
        let mut stalls = Stalls::default();
        let now = Instant::now() + Duration::from_secs(60);
        let (phase, lasted) = (Phase::Inbound, Duration::from_secs(2));
        stalls.handle(News::Stalled { phase, lasted }, now);
        assert_eq!(stalls.now, Some(Stall { phase, since: now - lasted }));
        stalls.handle(News::Recovered { phase, lasted }, now);
        assert_eq!((stalls.now, stalls.count), (None, 1));
    }
}
