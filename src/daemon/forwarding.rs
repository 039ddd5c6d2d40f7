//! The worker as the rest of the daemon sees it: it takes tables, is counted, tells events and is
//! stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{debug, error};
use weft_ctrl::controller::{Rebinding, TableSink};
use weft_dataplane::progress::Watch;
use weft_dataplane::{EngineWish, Event, NotTold, Worker, WorkerInfo, WorkerOptions};
use weft_forward::counters::{BuffersSnapshot, Counters, Snapshot};
use weft_forward::table::Table;
use weft_sys::limits::raise_memlock;
use weft_sys::ring::Without as WithoutRing;
use weft_sys::tun::Tun;
use weft_sys::udp::UdpSocket;

use super::device;
use crate::options::Without;

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
    info: WorkerInfo,
    events: mpsc::WeakSender<Event>,
}

/// The control side's hand on the worker.
#[derive(Debug)]
struct Control {
    /// `None` once it was told to stop.
    worker: Option<Worker>,
    /// The newest table, while the worker has not taken it.
    pending: Option<Arc<Table>>,
    /// Workers before this one.
    predecessors: u64,
    counters: Arc<Counters>,
    /// What the predecessors counted.
    earlier: Snapshot,
    /// What a successor is made from. `None` once the worker was told to stop.
    recipe: Option<Recipe>,
}

/// What all workers of a daemon have in common.
#[derive(Debug)]
struct Recipe {
    tun: Tun,
    inner_mtu: u16,
    engine: EngineWish,
    without: WithoutRing,
    /// The newest table.
    table: Arc<Table>,
}

impl Recipe {
    fn of(options: &WorkerOptions) -> Result<Self> {
        Ok(Self {
            tun: options.tun.try_clone().context("could not share the device")?,
            inner_mtu: options.inner_mtu,
            engine: options.engine,
            without: options.without,
            table: Arc::clone(&options.table),
        })
    }

    fn with(&self, sockets: Vec<UdpSocket>) -> Result<WorkerOptions> {
        Ok(WorkerOptions {
            number: 0,
            tun: self.tun.try_clone().context("could not share the device")?,
            segments_max: sockets.iter().map(UdpSocket::segments_max).min().unwrap_or(1),
            joined_max: sockets.iter().map(UdpSocket::kernel_segments_max).min().unwrap_or(1),
            sockets,
            senders: vec![],
            inner_mtu: self.inner_mtu,
            table: Arc::clone(&self.table),
            engine: self.engine,
            without: self.without,
        })
    }
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
        let recipe = Recipe::of(&options)?;
        let worker = weft_dataplane::spawn(options).context("could not start the engine")?;
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let events = sender.downgrade();
        carry_events(&worker, sender)?;
        let info = worker.info().clone();
        let control = Control {
            counters: worker.counters(),
            worker: Some(worker),
            pending: None,
            predecessors: 0,
            earlier: Snapshot::default(),
            recipe: Some(recipe),
        };
        let forwarding = Self { control: Mutex::new(control), info, events };
        Ok((Arc::new(forwarding), receiver))
    }

    /// Moves packets over other sockets from now on. Waits until the worker has gone over.
    ///
    /// A worker keeps its sockets, so a successor is started on the same device, and only then its
    /// predecessor stopped: nobody misses a packet, and a failure leaves everything as it was.
    pub(super) fn replace_sockets(&self, sockets: Vec<UdpSocket>) -> Result<()> {
        let options = match &self.control().recipe {
            Some(recipe) => recipe.with(sockets)?,
            None => bail!("The daemon is about to stop"),
        };
        let worker = weft_dataplane::spawn(options).context("could not start the engine")?;
        let events = self.events.upgrade().context("the worker has ended")?;
        carry_events(&worker, events)?;
        let (old, counters) = {
            let mut control = self.control();
            let Some(recipe) = &control.recipe else { bail!("The daemon is about to stop") };
            // It may have changed meanwhile.
            control.pending = Some(Arc::clone(&recipe.table));
            control.predecessors += 1;
            let counters = std::mem::replace(&mut control.counters, worker.counters());
            let old = control.worker.replace(worker);
            // What it cannot take now the watchdog offers again.
            let _ = control.offer();
            (old, counters)
        };
        let stopped = old.map_or(Ok(()), |old| old.stop(STOP_PATIENCE));
        // Its buffers are gone with it.
        let counted = Snapshot { buffers: BuffersSnapshot::default(), ..counters.snapshot() };
        self.control().earlier.merge(&counted);
        if let Err(error) = stopped {
            error!(%error, "the worker of the old sockets did not stop");
        }
        Ok(())
    }

    /// How many workers there were before this one.
    pub(super) fn predecessors(&self) -> u64 {
        self.control().predecessors
    }

    /// Makes the worker use a table, now or, if it is busy, when it is [offered](Self::offer)
    /// again. After a stop it does nothing.
    pub(super) fn adopt(&self, table: Arc<Table>) -> Result<(), NotTold> {
        let mut control = self.control();
        if let Some(recipe) = &mut control.recipe {
            recipe.table = Arc::clone(&table);
        }
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

    /// What the worker and those before it counted.
    pub(super) fn snapshot(&self) -> Snapshot {
        let control = self.control();
        let mut snapshot = control.counters.snapshot();
        snapshot.merge(&control.earlier);
        snapshot
    }

    /// What the first worker found when it started; it holds for its successors.
    pub(super) fn info(&self) -> &WorkerInfo {
        &self.info
    }

    /// Stops the worker and so closes the device and the sockets. Waits, at most
    /// [`STOP_PATIENCE`]; nothing happens a second time.
    pub(super) fn stop(&self) -> Result<()> {
        let worker = {
            let mut control = self.control();
            control.recipe = None;
            control.worker.take()
        };
        match worker {
            Some(worker) => worker.stop(STOP_PATIENCE).map_err(|error| anyhow!(error)),
            None => Ok(()),
        }
    }
}

/// Where the control loop puts its tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) without: Without,
}

impl TableSink for Tables {
    fn publish(&mut self, table: Arc<Table>) {
        match self.forwarding.adopt(table) {
            Ok(()) => {}
            // The watchdog offers it again, and tells if the worker is stuck.
            Err(error @ NotTold::Busy) => debug!(%error, "a new table has to wait"),
            // Its last event ends the daemon.
            Err(error @ NotTold::Ended) => error!(%error, "a new table could not be handed on"),
        }
    }

    fn rebind(&mut self, addresses: Vec<SocketAddr>) -> Rebinding {
        let (forwarding, without) = (Arc::clone(&self.forwarding), self.without);
        let replace = async move {
            let sockets = device::open_sockets(&addresses, without).await?;
            let replacing = spawn_blocking(move || forwarding.replace_sockets(sockets));
            replacing.await.context("the thread that replaces the sockets ended")?
        };
        Box::pin(async move { replace.await.map_err(|error| format!("{error:#}")) })
    }
}

/// The worker must not wait, so its events lie in a queue of threads; this carries them over into
/// one of tasks without anybody polling.
fn carry_events(worker: &Worker, sender: mpsc::Sender<Event>) -> Result<()> {
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
    Ok(())
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
