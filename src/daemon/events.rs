//! What workers tell: logged, and remembered for the answers to `weft peers`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// A lowered path MTU is forgotten by the worker after this time, and so it is here.
const PATH_MTU_AGE_MAX: Duration = Duration::from_secs(600);

/// Lines about paths within one [`LINE_PERIOD`]; more are only counted.
const LINES_MAX: u32 = 10;

/// See [`LINES_MAX`].
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// A peer among those that had a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PeerId {
    /// Its place in the workers' arrays.
    pub(super) slot: u16,
    /// How often the place was given to somebody.
    pub(super) generation: u32,
}

/// What is known about the paths to peers beyond the table. Bounded by the number of slots, since
/// an entry of an earlier holder is replaced by the next one's.
#[derive(Debug)]
pub(super) struct Paths {
    mtu: HashMap<u16, (PeerId, u16, Instant)>,
    unsegmented: HashMap<u16, PeerId>,
    lines: Lines,
}

impl Default for Paths {
    fn default() -> Self {
        Self { mtu: HashMap::new(), unsegmented: HashMap::new(), lines: Lines::new(Instant::now()) }
    }
}

impl Paths {
    /// The path to a peer takes only `mtu` inner bytes.
    pub(super) fn handle_path_mtu(&mut self, peer: PeerId, mtu: u16) {
        let now = Instant::now();
        self.mtu.insert(peer.slot, (peer, mtu, now));
        if let Some(suppressed) = self.lines.allow(now) {
            info!(slot = peer.slot, mtu, suppressed, "the path to a peer takes smaller packets");
        }
    }

    /// The kernel does not segment to a peer. Said once for each peer.
    pub(super) fn handle_segmentation_off(&mut self, peer: PeerId, error: &str) {
        if self.unsegmented.insert(peer.slot, peer) != Some(peer) {
            warn!(
                slot = peer.slot,
                error, "no segmentation to a peer; its packets are sent singly"
            );
        }
    }

    /// The kernel segments to a peer again.
    pub(super) fn handle_segmentation_on(&mut self, peer: PeerId) {
        if self.unsegmented.get(&peer.slot) == Some(&peer) {
            self.unsegmented.remove(&peer.slot);
            info!(slot = peer.slot, "segmentation to a peer works again");
        }
    }

    /// MTU of the path to a peer in inner bytes, if it is smaller than expected.
    pub(super) fn path_mtu(&self, peer: PeerId) -> Option<u16> {
        let (holder, mtu, since) = self.mtu.get(&peer.slot)?;
        (*holder == peer && since.elapsed() < PATH_MTU_AGE_MAX).then_some(*mtu)
    }

    /// Whether the kernel segments to a peer.
    pub(super) fn segments(&self, peer: PeerId) -> bool {
        self.unsegmented.get(&peer.slot) != Some(&peer)
    }
}

/// Limits log lines.
#[derive(Debug)]
struct Lines {
    since: Instant,
    written: u32,
    suppressed: u32,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { since: now, written: 0, suppressed: 0 }
    }

    /// `Some` if a line may be written, with the number of those that were not before it.
    fn allow(&mut self, now: Instant) -> Option<u32> {
        if now.duration_since(self.since) >= LINE_PERIOD {
            (self.since, self.written) = (now, 0);
        }
        if self.written >= LINES_MAX {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const FIRST: PeerId = PeerId { slot: 3, generation: 1 };
    const NEXT: PeerId = PeerId { slot: 3, generation: 2 };

    #[tokio::test(start_paused = true)]
    async fn a_lowered_mtu_is_forgotten_in_time() {
        let mut paths = Paths::default();
        assert_eq!(paths.path_mtu(FIRST), None);
        paths.handle_path_mtu(FIRST, 1280);
        assert_eq!(paths.path_mtu(FIRST), Some(1280));
        advance(PATH_MTU_AGE_MAX).await;
        assert_eq!(paths.path_mtu(FIRST), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_holder_of_a_slot_inherits_nothing() {
        let mut paths = Paths::default();
        paths.handle_path_mtu(FIRST, 1280);
        paths.handle_segmentation_off(FIRST, "EIO");
        assert!(!paths.segments(FIRST));
        assert!(paths.segments(NEXT));
        assert_eq!(paths.path_mtu(NEXT), None);
        paths.handle_segmentation_off(NEXT, "EIO");
        assert!(!paths.segments(NEXT));
        paths.handle_segmentation_on(FIRST);
        assert!(!paths.segments(NEXT), "news of an earlier holder");
        paths.handle_segmentation_on(NEXT);
        assert!(paths.segments(NEXT));
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_limited_and_the_rest_counted() {
        let mut lines = Lines::new(Instant::now());
        for _ in 0..LINES_MAX {
            assert_eq!(lines.allow(Instant::now()), Some(0));
        }
        assert_eq!(lines.allow(Instant::now()), None);
        assert_eq!(lines.allow(Instant::now()), None);
        advance(LINE_PERIOD).await;
        assert_eq!(lines.allow(Instant::now()), Some(2));
        assert_eq!(lines.allow(Instant::now()), Some(0));
    }
}
