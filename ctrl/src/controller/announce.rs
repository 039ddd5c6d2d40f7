//! Tells the source whether the pods of this node have a network, for whoever schedules them.
//!
//! | the node | what is told |
//! | --- | --- |
//! | is ready | they have |
//! | has no working device or routes for a minute | they have not, and why |
//! | anything else, such as a source that does not answer | nothing: packets are forwarded all the same |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::source::{Network, Source};
use crate::status::{Status, StatusHandle};

/// What is broken for less than this is being repaired.
const REPAIR_MAX: Duration = Duration::from_secs(60);

/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Tells every change, again and again where that fails.
pub(super) async fn keep(source: Arc<dyn Source>, status: StatusHandle) -> Infallible {
    let mut statuses = status.subscribe();
    let mut announcer = Announcer::default();
    loop {
        let standing = Standing::of(&statuses.borrow_and_update());
        let now = Instant::now();
        if let Some(network) = announcer.look(standing, now) {
            match source.announce(network.clone()).await {
                Ok(()) => announcer.handle_told(network),
                Err(error) => announcer.handle_failure(&error.sentence(), Instant::now()),
            }
        }
        tokio::select! {
            changed = statuses.changed() => changed.expect("the handle outlives this loop"),
            () = at(announcer.deadline()) => {}
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Works,
    Broken(String),
    Unclear,
}

impl Standing {
    fn of(status: &Status) -> Self {
        match status.broken_network() {
            Some(problem) => Self::Broken(problem),
            None if status.ready => Self::Works,
            None => Self::Unclear,
        }
    }
}

/// What was told, and what is to be.
#[derive(Debug, Default)]
struct Announcer {
    told: Option<Network>,
    broken_since: Option<Instant>,
    retry_at: Option<Instant>,
    has_failed: bool,
}

impl Announcer {
    /// What is to be told now.
    fn look(&mut self, standing: Standing, now: Instant) -> Option<Network> {
        let wanted = match standing {
            Standing::Broken(_) if self.is_down() => None,
            Standing::Broken(problem) => {
                let since = *self.broken_since.get_or_insert(now);
                (now >= since + REPAIR_MAX).then_some(Network::Down(problem))
            }
            standing => {
                self.broken_since = None;
                (standing == Standing::Works).then_some(Network::Up)
            }
        };
        let may_try = self.retry_at.is_none_or(|retry_at| now >= retry_at);
        wanted.filter(|wanted| self.told.as_ref() != Some(wanted) && may_try)
    }

    fn is_down(&self) -> bool {
        matches!(self.told, Some(Network::Down(_)))
    }

    /// When to look again although nothing has changed.
    fn deadline(&self) -> Option<Instant> {
        self.retry_at.or(self.broken_since.map(|since| since + REPAIR_MAX))
    }

    fn handle_told(&mut self, network: Network) {
        match &network {
            Network::Up if self.is_down() => info!("pods of this node have a network again"),
            Network::Up => {}
            Network::Down(problem) => warn!(problem, "pods of this node have no network"),
        }
        self.told = Some(network);
        (self.retry_at, self.has_failed, self.broken_since) = (None, false, None);
    }

    fn handle_failure(&mut self, problem: &str, now: Instant) {
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!(problem, "whether pods have a network could not be told");
        }
        self.retry_at = Some(now + RETRY_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> Standing {
        Standing::Broken("no device".into())
    }

    #[test]
    fn only_lasting_trouble_is_told() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        assert_eq!(announcer.look(Standing::Unclear, start), None);
        assert_eq!(announcer.look(Standing::Works, start), Some(Network::Up));
        announcer.handle_told(Network::Up);
        assert_eq!(announcer.look(Standing::Works, start), None);
        assert_eq!(
            (announcer.look(broken(), start), announcer.deadline()),
            (None, Some(start + REPAIR_MAX))
        );
        assert_eq!(announcer.look(Standing::Works, start), None);
        assert_eq!(announcer.deadline(), None, "it was repaired");

        assert_eq!(announcer.look(broken(), start), None);
        let late = start + REPAIR_MAX;
        let down = Network::Down("no device".into());
        assert_eq!(announcer.look(broken(), late), Some(down.clone()));
        announcer.handle_told(down);
        assert_eq!((announcer.look(broken(), late), announcer.deadline()), (None, None));
        assert_eq!(announcer.look(Standing::Unclear, late), None);
        assert_eq!(announcer.look(Standing::Works, late), Some(Network::Up));
    }

    #[test]
    fn a_failure_is_tried_again_after_a_pause() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        assert!(announcer.look(Standing::Works, start).is_some());
        announcer.handle_failure("x", start);
        assert_eq!(announcer.look(Standing::Works, start), None);
        assert_eq!(announcer.deadline(), Some(start + RETRY_PAUSE));
        assert!(announcer.look(Standing::Works, start + RETRY_PAUSE).is_some());
    }
}
