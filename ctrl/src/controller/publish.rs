//! Tables go out one at a time and not too often.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;
use weft_forward::table::{Table, TableInput};

use super::{PeerKeys, Rebinding, TableSink};

/// Changes within this time go out as one table, so that a storm of leases cannot keep the workers
/// busy with adopting tables.
const PERIOD: Duration = Duration::from_millis(5);

/// Publishes tables with growing epochs.
pub(super) struct Publisher<S> {
    sink: S,
    last: Arc<Table>,
    last_keys: PeerKeys,
    last_at: Option<Instant>,
    /// What making the last one took.
    cost: Duration,
    due: bool,
}

impl<S: TableSink> Publisher<S> {
    /// `first` is what the workers have already.
    pub(super) fn new(sink: S, first: &Arc<Table>) -> Self {
        Self {
            sink,
            last: Arc::clone(first),
            last_keys: PeerKeys::default(),
            last_at: None,
            cost: Duration::ZERO,
            due: false,
        }
    }

    /// See [`TableSink::rebind`].
    pub(super) fn rebind(&mut self, addresses: Vec<SocketAddr>) -> Rebinding {
        self.sink.rebind(addresses)
    }

    /// Something changed that may change the table.
    pub(super) fn mark(&mut self) {
        self.due = true;
    }

    /// When to call [`Publisher::publish`]; `None` while nothing is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let pause = PERIOD.max(self.cost);
        let earliest = self.last_at.map_or_else(Instant::now, |last| last + pause);
        self.due.then_some(earliest)
    }

    /// Making the last table took so long. The next pause is at least as long, so that under a lasting
    /// storm half of the thread's time is left for everything else.
    pub(super) fn spend(&mut self, cost: Duration) {
        self.cost = cost;
    }

    /// The epoch that a table built now gets.
    pub(super) fn next_epoch(&self) -> u64 {
        self.last.epoch() + 1
    }

    /// Says who has a key, unless it was said last.
    pub(super) fn seal(&mut self, peers: PeerKeys) {
        if peers != self.last_keys {
            self.sink.seal(peers.clone());
            self.last_keys = peers;
        }
    }

    /// Publishes the table unless it is the last one again, and returns its epoch. A table that cannot
    /// be built leaves the last one in force.
    pub(super) fn publish(&mut self, mut input: TableInput) -> u64 {
        self.due = false;
        let epoch = std::mem::replace(&mut input.epoch, self.last.epoch());
        if input == *self.last.input() {
            return self.last.epoch();
        }
        match Table::new(TableInput { epoch, ..input }) {
            Ok(table) => {
                self.last = Arc::new(table);
                self.sink.publish(Arc::clone(&self.last));
                self.last_at = Some(Instant::now());
            }
            Err(error) => error!(%error, "the table was not built; the last one stays in force"),
        }
        self.last.epoch()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    struct Epochs(Rc<RefCell<Vec<u64>>>);

    impl TableSink for Epochs {
        fn publish(&mut self, table: Arc<Table>) {
            self.0.borrow_mut().push(table.epoch());
        }

        fn seal(&mut self, _: PeerKeys) {}

        fn rebind(&mut self, _: Vec<SocketAddr>) -> Rebinding {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn input(epoch: u64, strict_source: bool) -> TableInput {
        TableInput { epoch, strict_source, ..TableInput::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn tables_grow_and_keep_their_distance() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let first = Arc::new(Table::new(input(1, false)).unwrap());
        let mut publisher = Publisher::new(Epochs(Rc::clone(&seen)), &first);
        assert_eq!(publisher.deadline(), None);
        publisher.mark();
        assert_eq!(publisher.deadline(), Some(Instant::now()), "the first one at once");
        assert_eq!(publisher.publish(input(2, false)), 1, "nothing new");
        assert!(seen.borrow().is_empty());
        assert_eq!(publisher.deadline(), None);
        publisher.mark();
        assert_eq!(publisher.publish(input(publisher.next_epoch(), true)), 2);
        publisher.mark();
        assert_eq!(publisher.deadline(), Some(Instant::now() + PERIOD));
        assert_eq!(publisher.publish(input(publisher.next_epoch(), false)), 3);
        assert_eq!(*seen.borrow(), [2, 3]);
        publisher.spend(4 * PERIOD);
        publisher.mark();
        assert_eq!(publisher.deadline(), Some(Instant::now() + 4 * PERIOD));
    }
}
