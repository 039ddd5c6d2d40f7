//! The worker as the rest of the daemon sees it: it takes tables, is counted, tells events and is
//! stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::mpsc;
use tracing::{debug, error};
use weft_ctrl::controller::TableSink;
use weft_dataplane::progress::Watch;
use weft_dataplane::{Event, NotTold, Worker, WorkerInfo, WorkerOptions};
use weft_forward::counters::{Counters, Snapshot};
use weft_forward::table::Table;
use weft_sys::limits::raise_memlock;

/// How long a worker may take to stop. It turns many thousand times a second.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Events on their way from the worker's thread to the control thread.
const EVENTS_WAITING_MAX: usize = 64;

/// Bytes of memory that the kernel may pin for us: its own default since Linux 5.16
/// (`MLOCK_LIMIT`, include/uapi/linux/resource.h), of which a ring takes a small part. Containers
/// may start with less than that part.
const LOCKED_BYTES: u64 = 8 << 20;

/// A running worker.
#[derive(Debug)]
pub(super) struct Forwarding {
    control: Mutex<Control>,
    counters: Arc<Counters>,
    info: WorkerInfo,
}

/// The control side's hand on the worker.
#[derive(Debug)]
struct Control {
    /// `None` once it was told to stop.
    worker: Option<Worker>,
    /// The newest table, while the worker has not taken it.
    pending: Option<Arc<Table>>,
}

impl Control {
    /// Offers the newest table to the worker, if it has not taken it yet.
    fn offer(&mut self) -> Result<(), NotTold> {
        let Some(worker) = &self.worker else { return Ok(()) };
        offer_newest(&mut self.pending, |table| worker.adopt(table))
    }
}

/// Offers what is pending. It stays pending where it may be taken later.
fn offer_newest(
    pending: &mut Option<Arc<Table>>,
    adopt: impl FnOnce(Arc<Table>) -> Result<(), NotTold>,
) -> Result<(), NotTold> {
    let Some(table) = pending.take() else { return Ok(()) };
    let outcome = adopt(Arc::clone(&table));
    if outcome == Err(NotTold::Busy) {
        *pending = Some(table);
    }
    outcome
}

impl Forwarding {
    /// Starts the worker. Its events come out of the receiver, which ends with the worker.
    pub(super) fn start(options: WorkerOptions) -> Result<(Arc<Self>, mpsc::Receiver<Event>)> {
        if let Err(error) = raise_memlock(LOCKED_BYTES) {
            // If it is too low, making the ring fails and says so.
            debug!(%error, "the limit of locked memory stays as it is");
        }
        let worker = weft_dataplane::spawn(options).context("could not start the engine")?;
        let events = carry_events(&worker)?;
        let forwarding = Self {
            counters: worker.counters(),
            info: worker.info().clone(),
            control: Mutex::new(Control { worker: Some(worker), pending: None }),
        };
        Ok((Arc::new(forwarding), events))
    }

    /// Makes the worker use a table, now or, if it is busy, when it is [offered](Self::offer)
    /// again. After a stop it does nothing.
    pub(super) fn adopt(&self, table: Arc<Table>) -> Result<(), NotTold> {
        let mut control = self.control();
        control.pending = Some(table);
        control.offer()
    }

    /// Offers the newest table again, if the worker has not taken it yet.
    pub(super) fn offer(&self) -> Result<(), NotTold> {
        self.control().offer()
    }

    /// Watches whether the worker goes on. `None` after a stop.
    pub(super) fn watch(&self) -> Option<Watch> {
        self.control().worker.as_ref().map(Worker::watch)
    }

    /// Nothing panics while it holds the lock in a way that would leave halves behind.
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the worker counted.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// What the worker found when it started.
    pub(super) fn info(&self) -> &WorkerInfo {
        &self.info
    }

    /// Stops the worker and so closes the device and the sockets. Waits, at most
    /// [`STOP_PATIENCE`]; nothing happens a second time.
    pub(super) fn stop(&self) -> Result<()> {
        let worker = self.control().worker.take();
        match worker {
            Some(worker) => worker.stop(STOP_PATIENCE).map_err(|error| anyhow!(error)),
            None => Ok(()),
        }
    }
}

/// Where the control loop puts its tables.
#[derive(Debug)]
pub(super) struct Tables(pub(super) Arc<Forwarding>);

impl TableSink for Tables {
    fn publish(&mut self, table: Arc<Table>) {
        match self.0.adopt(table) {
            Ok(()) => {}
            // The watchdog offers it again, and tells if the worker is stuck.
            Err(error @ NotTold::Busy) => debug!(%error, "a new table has to wait"),
            // Its last event ends the daemon.
            Err(error @ NotTold::Ended) => error!(%error, "a new table could not be handed on"),
        }
    }
}

/// The worker must not wait, so its events lie in a queue of threads; this carries them over into
/// one of tasks without anybody polling.
fn carry_events(worker: &Worker) -> Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let events = worker.events().clone();
    let carry = move || {
        for event in events {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("weft-events".to_owned())
        .spawn(carry)
        .context("could not start a thread")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_forward::table::TableInput;

    fn table(epoch: u64) -> Arc<Table> {
        Arc::new(Table::new(TableInput { epoch, ..TableInput::default() }).unwrap())
    }

    #[test]
    fn the_newest_table_stays_pending_until_it_is_taken() {
        let mut pending = None;
        let mut offered = Vec::new();
        for (newest, answer, expected) in [
            (Some(2), Err(NotTold::Busy), vec![2]),
            (None, Err(NotTold::Busy), vec![2, 2]),
            (Some(3), Err(NotTold::Busy), vec![2, 2, 3]),
            (None, Ok(()), vec![2, 2, 3, 3]),
            (None, Ok(()), vec![2, 2, 3, 3]),
            (Some(4), Err(NotTold::Ended), vec![2, 2, 3, 3, 4]),
            (None, Ok(()), vec![2, 2, 3, 3, 4]),
        ] {
            if let Some(epoch) = newest {
                pending = Some(table(epoch));
            }
            let outcome = offer_newest(&mut pending, |table| {
                offered.push(table.epoch());
                answer
            });
            assert_eq!(offered, expected);
            if offered.len() < 4 {
                assert_eq!(outcome, answer);
            }
        }
    }
}
