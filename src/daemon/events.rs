//! What workers tell: logged, and remembered for the answers to `weft peers`.

use std::collections::{BTreeSet, HashMap};
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

/// A worker among those that had its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkerId {
    /// How often all workers had been replaced when it was started.
    pub(super) replacements: u64,
    pub(super) number: usize,
}

/// A path that takes smaller packets.
#[derive(Debug)]
struct Lowered {
    told_by: WorkerId,
    peer: PeerId,
    mtu: u16,
    since: Instant,
}

/// What is known about the paths to peers beyond the table. Bounded by the number of slots, since
/// an entry of an earlier holder is replaced by the next one's.
#[derive(Debug)]
pub(super) struct Paths {
    mtu: HashMap<u16, Lowered>,
    /// With the workers that have said so. Each finds out for itself.
    unsegmented: HashMap<u16, (PeerId, BTreeSet<WorkerId>)>,
    /// How often all workers were replaced.
    replacements: u64,
    lines: Lines,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            mtu: HashMap::new(),
            unsegmented: HashMap::new(),
            replacements: 0,
            lines: Lines::new(Instant::now()),
        }
    }
}

impl Paths {
    /// All workers were replaced, so often by now. Their successors inherit nothing, and may have told
    /// something already.
    pub(super) fn handle_replacement(&mut self, replacements: u64) {
        self.replacements = replacements;
        self.mtu.retain(|_, lowered| lowered.told_by.replacements >= replacements);
        self.unsegmented.retain(|_, (_, workers)| {
            workers.retain(|worker| worker.replacements >= replacements);
            !workers.is_empty()
        });
    }

    /// Whether a worker was replaced, so that what it told last is of no use.
    pub(super) fn is_gone(&self, worker: WorkerId) -> bool {
        worker.replacements < self.replacements
    }

    /// The path to a peer takes only `mtu` inner bytes.
    pub(super) fn handle_path_mtu(&mut self, told_by: WorkerId, peer: PeerId, mtu: u16) {
        let now = Instant::now();
        self.mtu.insert(peer.slot, Lowered { told_by, peer, mtu, since: now });
        if let Some(suppressed) = self.lines.allow(now) {
            info!(slot = peer.slot, mtu, suppressed, "the path to a peer takes smaller packets");
        }
    }

    /// The kernel does not segment to a peer for a worker. Said once for each peer.
    pub(super) fn handle_segmentation_off(&mut self, worker: WorkerId, peer: PeerId, error: &str) {
        let (holder, workers) =
            self.unsegmented.entry(peer.slot).or_insert_with(|| (peer, BTreeSet::new()));
        if *holder != peer {
            (*holder, *workers) = (peer, BTreeSet::new());
        }
        if workers.is_empty() {
            warn!(
                slot = peer.slot,
                error, "no segmentation to a peer; its packets are sent singly"
            );
        }
        workers.insert(worker);
    }

    /// The kernel segments to a peer again for a worker.
    pub(super) fn handle_segmentation_on(&mut self, worker: WorkerId, peer: PeerId) {
        let Some((holder, workers)) = self.unsegmented.get_mut(&peer.slot) else { return };
        if *holder == peer && workers.remove(&worker) && workers.is_empty() {
            self.unsegmented.remove(&peer.slot);
            info!(slot = peer.slot, "segmentation to a peer works again");
        }
    }

    /// MTU of the path to a peer in inner bytes, if it is smaller than expected.
    pub(super) fn path_mtu(&self, peer: PeerId) -> Option<u16> {
        let lowered = self.mtu.get(&peer.slot).filter(|lowered| lowered.peer == peer)?;
        (lowered.since.elapsed() < PATH_MTU_AGE_MAX).then_some(lowered.mtu)
    }

    /// Whether the kernel segments to a peer for all workers.
    pub(super) fn segments(&self, peer: PeerId) -> bool {
        self.unsegmented.get(&peer.slot).is_none_or(|(holder, _)| *holder != peer)
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
    const WORKER: WorkerId = WorkerId { replacements: 0, number: 0 };
    const OTHER: WorkerId = WorkerId { replacements: 0, number: 1 };
    const SUCCESSOR: WorkerId = WorkerId { replacements: 1, number: 0 };

    #[tokio::test(start_paused = true)]
    async fn a_lowered_mtu_is_forgotten_in_time() {
        let mut paths = Paths::default();
        assert_eq!(paths.path_mtu(FIRST), None);
        paths.handle_path_mtu(WORKER, FIRST, 1280);
        assert_eq!(paths.path_mtu(FIRST), Some(1280));
        advance(PATH_MTU_AGE_MAX).await;
        assert_eq!(paths.path_mtu(FIRST), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_holder_of_a_slot_inherits_nothing() {
        let mut paths = Paths::default();
        paths.handle_path_mtu(WORKER, FIRST, 1280);
        paths.handle_segmentation_off(WORKER, FIRST, "EIO");
        assert!(!paths.segments(FIRST));
        assert!(paths.segments(NEXT));
        assert_eq!(paths.path_mtu(NEXT), None);
        paths.handle_segmentation_off(WORKER, NEXT, "EIO");
        assert!(!paths.segments(NEXT));
        paths.handle_segmentation_on(WORKER, FIRST);
        assert!(!paths.segments(NEXT), "news of an earlier holder");
        paths.handle_segmentation_on(WORKER, NEXT);
        assert!(paths.segments(NEXT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_segmented_to_when_every_worker_does() {
        let mut paths = Paths::default();
        paths.handle_segmentation_off(WORKER, FIRST, "EIO");
        paths.handle_segmentation_off(OTHER, FIRST, "EIO");
        paths.handle_segmentation_on(OTHER, FIRST);
        assert!(!paths.segments(FIRST), "the other worker does not yet");
        paths.handle_segmentation_on(WORKER, FIRST);
        assert!(paths.segments(FIRST));
    }

    #[tokio::test(start_paused = true)]
    async fn successors_of_workers_inherit_nothing() {
        let mut paths = Paths::default();
        let other = PeerId { slot: 4, generation: 1 };
        for peer in [FIRST, other] {
            paths.handle_path_mtu(WORKER, peer, 1280);
            paths.handle_segmentation_off(WORKER, peer, "EIO");
        }
        paths.handle_path_mtu(SUCCESSOR, FIRST, 1400);
        paths.handle_segmentation_off(SUCCESSOR, FIRST, "EIO");
        assert!(!paths.is_gone(WORKER) && !paths.is_gone(SUCCESSOR));
        paths.handle_replacement(1);
        assert!(paths.is_gone(WORKER) && !paths.is_gone(SUCCESSOR));
        assert_eq!((paths.path_mtu(other), paths.segments(other)), (None, true));
        assert_eq!((paths.path_mtu(FIRST), paths.segments(FIRST)), (Some(1400), false));
        paths.handle_segmentation_on(SUCCESSOR, FIRST);
        assert!(paths.segments(FIRST), "its predecessor is not waited for");
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
