//! The worker as the rest of the daemon sees it: it takes tables, is counted, tells events and is
//! stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::mpsc;
use tracing::{debug, error};
use weft_ctrl::controller::TableSink;
use weft_dataplane::{Event, Gone, Worker, WorkerInfo, WorkerOptions};
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
    /// `None` once it was told to stop.
    worker: Mutex<Option<Worker>>,
    counters: Arc<Counters>,
    info: WorkerInfo,
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
            worker: Mutex::new(Some(worker)),
        };
        Ok((Arc::new(forwarding), events))
    }

    /// Makes the worker use a table. After a stop it does nothing.
    pub(super) fn adopt(&self, table: Arc<Table>) -> Result<(), Gone> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map_or(Ok(()), |worker| worker.adopt(table))
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
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
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
        if let Err(error) = self.0.adopt(table) {
            // If it has ended, its last event ends the daemon; if it is stuck, this is all we know.
            error!(%error, "a new table could not be handed on");
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
