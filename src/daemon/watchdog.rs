//! Looks whether the workers go on, and offers them again what they could not take at once.

use std::collections::BTreeMap;
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
    /// The stalls at the moment, by the workers' numbers.
    now: BTreeMap<usize, Stall>,
    /// How many there were, with those at the moment.
    pub(super) count: u64,
}

impl Stalls {
    /// The stall at the moment that has lasted longest.
    pub(super) fn now(&self) -> Option<Stall> {
        self.now.values().copied().min_by_key(|stall| stall.since)
    }

    /// Remembers news of a worker and writes them into the log.
    pub(super) fn handle(&mut self, worker: usize, news: News, now: Instant) {
        match news {
            News::Stalled { phase, lasted } => {
                let since = now.checked_sub(lasted).unwrap_or(now);
                self.now.insert(worker, Stall { phase, since });
                self.count += 1;
                error!(worker, %phase, ?lasted, "a packet worker is stuck");
            }
            News::Recovered { phase, lasted } => {
                self.now.remove(&worker);
                warn!(worker, %phase, ?lasted, "a packet worker goes on");
            }
        }
    }

    /// All workers were replaced. Nobody watches the old ones any more, so that none of them would
    /// ever recover.
    pub(super) fn handle_replacement(&mut self) {
        self.now.clear();
    }
}

/// Watches until the future is dropped.
pub(super) async fn watch(forwarding: &Forwarding, state: &State) -> Infallible {
    // In this order, so that a replacement between the two is noticed.
    let mut replacements = forwarding.replacements();
    let mut watches = forwarding.watches();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        if forwarding.replacements() != replacements {
            replacements = forwarding.replacements();
            watches = forwarding.watches();
            state.handle_replacement(replacements);
        }
        for (worker, watch) in watches.iter_mut().enumerate() {
            if let Some(news) = watch.look(now) {
                state.with_stalls(|stalls| stalls.handle(worker, news, now));
            }
        }
        let is_stuck = state.with_stalls(|stalls| stalls.now().is_some());
        let has_ended = forwarding.offer() == Err(NotTold::Ended);
        // The last event of one that has ended says so, too, but only if there is a table to offer.
        if is_stuck || has_ended {
            forwarding.set_works(false);
        } else if !state.has_failed() {
            forwarding.set_works(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_counted_and_end_each_by_itself() {
        let mut stalls = Stalls::default();
        let now = Instant::now() + Duration::from_secs(60);
        let (phase, lasted) = (Phase::Inbound, Duration::from_secs(2));
        let [first, second] =
            [lasted, 2 * lasted].map(|lasted| Stall { phase, since: now - lasted });
        stalls.handle(0, News::Stalled { phase, lasted }, now);
        assert_eq!((stalls.now(), stalls.count), (Some(first), 1));
        stalls.handle(1, News::Stalled { phase, lasted: 2 * lasted }, now);
        assert_eq!((stalls.now(), stalls.count), (Some(second), 2), "the longer one is told");
        stalls.handle(1, News::Recovered { phase, lasted }, now);
        assert_eq!(stalls.now(), Some(first));
        stalls.handle(0, News::Recovered { phase, lasted }, now);
        assert_eq!((stalls.now(), stalls.count), (None, 2));
    }

    #[test]
    fn a_stall_ends_with_its_worker() {
        let mut stalls = Stalls::default();
        let (phase, lasted) = (Phase::Outbound, Duration::from_secs(2));
        stalls.handle(1, News::Stalled { phase, lasted }, Instant::now());
        stalls.handle_replacement();
        assert_eq!((stalls.now(), stalls.count), (None, 1), "counted all the same");
    }
}
