//! The workers as the rest of the daemon sees them: they take tables, are counted, tell events and are
//! stopped.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::{debug, error, warn};
use weft_ctrl::controller::{PeerKeys, Rebinding, TableSink};
use weft_ctrl::key::PublicKey;
use weft_dataplane::progress::Watch;
use weft_dataplane::sealing::{Cipher, Sealing};
use weft_dataplane::{EngineWish, Event, Habits, NotTold, Worker, WorkerInfo, WorkerOptions};
use weft_forward::counters::{BuffersSnapshot, Counters, Snapshot};
use weft_forward::table::Table;
use weft_sys::limits::raise_memlock;
use weft_sys::ring::Without as WithoutRing;
use weft_sys::shortcut::ShortcutCounts;
use weft_sys::tun::Tun;
use weft_sys::udp::UdpSocket;

use super::device;
use super::events::WorkerId;
use super::sealing::{self, Beginnings, KeyError, Keys, Sealer, Standing};
use super::shortcut::Shortcuts;
use super::workers::{Crew, WorkerSockets};
use crate::options::Without;

/// How long a worker may take to stop. It turns many thousand times a second.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Events on their way from the worker's thread to the control thread.
const EVENTS_WAITING_MAX: usize = 64;

/// Bytes of memory that the kernel may pin for us: its own default since Linux 5.16
/// (`MLOCK_LIMIT`, include/uapi/linux/resource.h), of which a ring takes a small part. Containers
/// may start with less than that part. For each worker.
const LOCKED_BYTES: u64 = 8 << 20;

/// All workers of the daemon.
#[derive(Debug)]
pub(super) struct Forwarding {
    control: Mutex<Control>,
    /// Held while workers are replaced, which happens for several reasons and takes a while.
    replacing: Mutex<()>,
    crew: Crew,
    info: WorkerInfo,
    /// For small packets, if there is one.
    shortcuts: Option<Shortcuts>,
    events: mpsc::Sender<Told>,
    /// Neither ended nor stuck.
    works: watch::Sender<bool>,
}

/// News of a worker.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) worker: WorkerId,
    pub(super) event: Event,
}

/// The control side's hand on the workers.
#[derive(Debug)]
struct Control {
    /// One for each worker, in the order of their numbers.
    lanes: Vec<Lane>,
    /// How often all workers were replaced.
    replacements: u64,
    /// Makes the sessions that traffic is sealed with, if it is. `None` once it was told to stop.
    sealer: Option<Sealer>,
    /// What successors are made from. `None` once the workers were told to stop.
    recipe: Option<Recipe>,
}

/// One worker, and those that had its number before it.
#[derive(Debug)]
struct Lane {
    /// `None` once it was told to stop.
    worker: Option<Worker>,
    engine: &'static str,
    /// The newest table, while the worker has not taken it.
    pending: Option<Arc<Table>>,
    counters: Arc<Counters>,
    /// Of the predecessor, while it stops.
    leaving: Option<Arc<Counters>>,
    /// What the predecessors before that one counted.
    earlier: Snapshot,
}

/// What all workers of a daemon have in common, and what each works on. Device and sockets are held
/// here too, so that nobody takes their places while a worker has ended.
#[derive(Debug)]
struct Recipe {
    queues: Vec<Tun>,
    sockets: Vec<WorkerSockets>,
    inner_mtu: u16,
    engine: EngineWish,
    without: WithoutRing,
    habits: Habits,
    sealing: Option<Arc<Sealing<Cipher>>>,
    /// The newest table.
    table: Arc<Table>,
}

/// What the workers of a daemon begin with.
#[derive(Debug)]
pub(super) struct Equipment {
    /// How many there are, and why.
    pub(super) crew: Crew,
    /// One for each worker.
    pub(super) queues: Vec<Tun>,
    /// One for each worker.
    pub(super) sockets: Vec<WorkerSockets>,
    pub(super) inner_mtu: u16,
    pub(super) engine: EngineWish,
    pub(super) without: WithoutRing,
    pub(super) habits: Habits,
    /// What traffic is sealed with, if it is.
    pub(super) keys: Option<Keys>,
    /// For small packets, if there is one.
    pub(super) shortcuts: Option<Shortcuts>,
    /// The first table.
    pub(super) table: Arc<Table>,
}

/// What a recipe had in the place of something new.
struct Before {
    queues: Option<Vec<Tun>>,
    sockets: Option<Vec<WorkerSockets>>,
}

/// What one worker has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) engine: &'static str,
    pub(super) snapshot: Snapshot,
}

impl Recipe {
    /// The options of all workers.
    fn options(&self) -> Result<Vec<WorkerOptions>> {
        let all = || self.sockets.iter().flat_map(|worker| &worker.receivers);
        let segments_max = all().map(UdpSocket::segments_max).min().unwrap_or(1);
        let joined_max = all().map(UdpSocket::kernel_segments_max).min().unwrap_or(1);
        let mut options = Vec::with_capacity(self.sockets.len());
        for (number, (tun, sockets)) in self.queues.iter().zip(&self.sockets).enumerate() {
            let sockets = sockets.try_clone().context("could not share the sockets")?;
            options.push(WorkerOptions {
                number,
                tun: tun.try_clone().context("could not share the device")?,
                sockets: sockets.receivers,
                senders: sockets.senders,
                segments_max,
                joined_max,
                inner_mtu: self.inner_mtu,
                table: Arc::clone(&self.table),
                engine: self.engine,
                without: self.without,
                habits: self.habits,
                sealing: self.sealing.clone(),
            });
        }
        Ok(options)
    }

    fn take_back(&mut self, before: Before) {
        if let Some(queues) = before.queues {
            self.queues = queues;
        }
        if let Some(sockets) = before.sockets {
            self.sockets = sockets;
        }
    }
}

impl Lane {
    fn new(worker: Worker) -> Self {
        Self {
            engine: worker.info().engine,
            counters: worker.counters(),
            worker: Some(worker),
            pending: None,
            leaving: None,
            earlier: Snapshot::default(),
        }
    }

    /// Puts a successor in the worker's place, which is given back to be stopped. Its counters count
    /// on until they are [folded](Self::fold_leaving).
    fn replace(&mut self, successor: Worker) -> Option<Worker> {
        let engine = successor.info().engine;
        if engine != self.engine {
            warn!(before = self.engine, engine, "the packets of a worker have another engine now");
        }
        self.engine = engine;
        self.count_by(successor.counters());
        self.worker.replace(successor)
    }

    /// Counts by others from now on. Nothing of what was counted is missing at any time.
    fn count_by(&mut self, counters: Arc<Counters>) {
        self.leaving = Some(std::mem::replace(&mut self.counters, counters));
    }

    /// The predecessor has stopped.
    fn fold_leaving(&mut self) {
        if let Some(counters) = self.leaving.take() {
            self.fold(&counters);
        }
    }

    /// Keeps what a worker counted that is no more. Its buffers are gone with it.
    fn fold(&mut self, counters: &Counters) {
        let buffers = BuffersSnapshot::default();
        self.earlier.merge(&Snapshot { buffers, ..counters.snapshot() });
    }

    /// Offers the newest table to the worker, if it has not taken it yet.
    fn offer(&mut self) -> Result<(), NotTold> {
        let Some(worker) = &self.worker else { return Ok(()) };
        offer_newest(&mut self.pending, |table| worker.adopt(table))
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.counters.snapshot();
        snapshot.merge(&self.earlier);
        if let Some(leaving) = &self.leaving {
            snapshot.merge(&leaving.snapshot());
        }
        snapshot
    }
}

impl Control {
    /// Offers the newest table to every worker that has not taken it yet.
    fn offer(&mut self) -> Result<(), NotTold> {
        let mut worst = Ok(());
        for lane in &mut self.lanes {
            match lane.offer() {
                Err(NotTold::Ended) => worst = Err(NotTold::Ended),
                Err(NotTold::Busy) if worst.is_ok() => worst = Err(NotTold::Busy),
                _ => {}
            }
        }
        worst
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
    /// Starts the workers. Their events come out of the receiver.
    pub(super) fn start(equipment: Equipment) -> Result<(Arc<Self>, mpsc::Receiver<Told>)> {
        let Equipment {
            crew,
            queues,
            sockets,
            inner_mtu,
            engine,
            without,
            habits,
            keys,
            shortcuts,
            table,
        } = equipment;
        if let Err(error) = raise_memlock(LOCKED_BYTES * u64::from(crew.count)) {
            // If it is too low, making the ring fails and says so.
            debug!(%error, "the limit of locked memory stays as it is");
        }
        let beginnings = keys.map(|keys| Beginnings::new(keys, crew.count, inner_mtu));
        let sealing = beginnings.as_ref().map(|(_, sealing)| Arc::clone(sealing));
        let recipe = Recipe { queues, sockets, inner_mtu, engine, without, habits, sealing, table };
        let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let second = second_socket(&recipe.sockets)?;
        let mut workers = Vec::new();
        spawn_all(recipe.options()?, 0, &sender, &mut workers)?;
        let info = workers.first().context("there is no worker")?.info().clone();
        let lanes = workers.into_iter().map(Lane::new).collect();
        let sealer = match beginnings {
            Some((beginnings, sealing)) => {
                Some(beginnings.start(sealing, second, tell_death(&sender.downgrade()))?)
            }
            None => None,
        };
        let control = Control { lanes, replacements: 0, sealer, recipe: Some(recipe) };
        let works = watch::Sender::new(true);
        let forwarding = Self {
            control: Mutex::new(control),
            replacing: Mutex::new(()),
            crew,
            info,
            shortcuts,
            events: sender,
            works,
        };
        Ok((Arc::new(forwarding), receiver))
    }

    /// Moves packets over other sockets, at these addresses, from now on. Waits until the workers have gone over.
    ///
    /// A worker keeps its sockets, so successors are started on the same queues, and only then their
    /// predecessors stopped, so that somebody reads the queues all the time; a failure leaves
    /// everything as it was. What a predecessor still holds is counted as `Stopped`, and datagrams that
    /// wait in its sockets are lost with them.
    fn replace_sockets(&self, sockets: Vec<WorkerSockets>, addresses: &[SocketAddr]) -> Result<()> {
        let second = second_socket(&sockets)?;
        self.replace(None, Some(sockets))?;
        if let Some(sealer) = &self.control().sealer {
            sealer.set_socket(second);
        }
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.rebind(addresses);
        }
        Ok(())
    }

    /// Starts workers in the place of those that have ended or are stuck, on the sockets in use, and on
    /// the device in use unless other queues are given. Waits, also for those that are stuck, but not
    /// long. A failure leaves everything as it was.
    pub(super) fn restart(&self, queues: Option<Vec<Tun>>) -> Result<()> {
        self.replace(queues, None)?;
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.follow_device();
        }
        Ok(())
    }

    /// Whether the device was deleted under the workers.
    pub(super) fn has_lost_device(&self) -> bool {
        let control = self.control();
        let mut queues = control.recipe.iter().flat_map(|recipe| &recipe.queues);
        queues.any(|queue| !queue.is_attached())
    }

    fn replace(&self, queues: Option<Vec<Tun>>, sockets: Option<Vec<WorkerSockets>>) -> Result<()> {
        let _turn = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let (options, before, replacements) = self.prepare(queues, sockets)?;
        let mut successors = Vec::new();
        if let Err(error) = spawn_all(options, replacements, &self.events, &mut successors) {
            self.give_up(successors);
            self.take_back(before);
            return Err(error);
        }
        let predecessors = self.hand_over(successors)?;
        if let Err(error) = stop_all(predecessors) {
            error!(%error, "a worker that was replaced did not stop");
        }
        self.control().lanes.iter_mut().for_each(Lane::fold_leaving);
        Ok(())
    }

    /// What successors begin with; what the recipe had instead of it until now; and how often workers
    /// will have been replaced.
    fn prepare(
        &self,
        queues: Option<Vec<Tun>>,
        sockets: Option<Vec<WorkerSockets>>,
    ) -> Result<(Vec<WorkerOptions>, Before, u64)> {
        let mut control = self.control();
        let replacements = control.replacements + 1;
        let Some(recipe) = &mut control.recipe else { bail!("The daemon is about to stop") };
        let before = Before {
            queues: queues.map(|queues| std::mem::replace(&mut recipe.queues, queues)),
            sockets: sockets.map(|sockets| std::mem::replace(&mut recipe.sockets, sockets)),
        };
        match recipe.options() {
            Ok(options) => Ok((options, before, replacements)),
            Err(error) => {
                recipe.take_back(before);
                Err(error)
            }
        }
    }

    /// The successors did not start.
    fn take_back(&self, before: Before) {
        if let Some(recipe) = &mut self.control().recipe {
            recipe.take_back(before);
        }
    }

    /// Makes these the workers, and gives those back that were.
    fn hand_over(&self, successors: Vec<Worker>) -> Result<Vec<Worker>> {
        let mut control = self.control();
        let Some(recipe) = &control.recipe else { bail!("The daemon is about to stop") };
        // It may have changed since the successors were given theirs.
        let table = Arc::clone(&recipe.table);
        control.replacements += 1;
        let mut predecessors = Vec::with_capacity(successors.len());
        for (lane, successor) in control.lanes.iter_mut().zip(successors) {
            lane.pending = Some(Arc::clone(&table));
            predecessors.extend(lane.replace(successor));
        }
        // What one cannot take now the watchdog offers again.
        let _ = control.offer();
        Ok(predecessors)
    }

    /// Stops successors that cannot take over, since one of them did not start. They have moved
    /// packets meanwhile.
    fn give_up(&self, successors: Vec<Worker>) {
        let counters: Vec<_> = successors.iter().map(Worker::counters).collect();
        if let Err(error) = stop_all(successors) {
            error!(%error, "a worker of sockets that cannot be used did not stop");
        }
        for (lane, counters) in self.control().lanes.iter_mut().zip(counters) {
            lane.fold(&counters);
        }
    }

    /// Whether packets are moved: no worker has ended or is stuck.
    pub(super) fn works(&self) -> watch::Receiver<bool> {
        self.works.subscribe()
    }

    /// Tells those who want to know whether packets are moved.
    pub(super) fn set_works(&self, works: bool) {
        self.works.send_if_modified(|before| std::mem::replace(before, works) != works);
    }

    /// How often all workers were replaced.
    pub(super) fn replacements(&self) -> u64 {
        self.control().replacements
    }

    /// Makes the workers use a table, now or, where one is busy, when it is [offered](Self::offer)
    /// again. After a stop it does nothing.
    pub(super) fn adopt(&self, table: &Arc<Table>) -> Result<(), NotTold> {
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.adopt(table);
        }
        let mut control = self.control();
        if let Some(recipe) = &mut control.recipe {
            recipe.table = Arc::clone(table);
        }
        for lane in &mut control.lanes {
            lane.pending = Some(Arc::clone(table));
        }
        control.offer()
    }

    /// What took the shortcut of small packets. `None` where there never is one.
    pub(super) fn shortcut_counts(&self) -> Option<ShortcutCounts> {
        self.shortcuts.as_ref().map(Shortcuts::counts)
    }

    /// Whether there is a shortcut now.
    pub(super) fn has_shortcut(&self) -> bool {
        self.shortcuts.as_ref().is_some_and(Shortcuts::is_there)
    }

    /// Keeps the shortcut at what changes on this host.
    pub(super) async fn watch_shortcuts(&self) -> Infallible {
        match &self.shortcuts {
            Some(shortcuts) => shortcuts.watch().await,
            None => pending().await,
        }
    }

    /// Offers the newest table again, where a worker has not taken it yet.
    pub(super) fn offer(&self) -> Result<(), NotTold> {
        self.control().offer()
    }

    /// Watches whether the workers go on, each by itself. None after a stop.
    pub(super) fn watches(&self) -> Vec<Watch> {
        let control = self.control();
        control.lanes.iter().filter_map(|lane| lane.worker.as_ref()).map(Worker::watch).collect()
    }

    /// Nothing panics while it holds the lock in a way that would leave halves behind.
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all workers and those before them counted.
    pub(super) fn snapshot(&self) -> Snapshot {
        total(&self.counted())
    }

    /// The same, worker by worker.
    pub(super) fn counted(&self) -> Vec<Counted> {
        let counted = |lane: &Lane| Counted { engine: lane.engine, snapshot: lane.snapshot() };
        self.control().lanes.iter().map(counted).collect()
    }

    /// How many workers there are, and why.
    pub(super) fn crew(&self) -> &Crew {
        &self.crew
    }

    /// What the first worker found when it started. It holds for the others, too, and for successors,
    /// of whom one with another engine is warned about.
    pub(super) fn info(&self) -> &WorkerInfo {
        &self.info
    }

    /// Stops the workers and so closes the device and the sockets. Waits, at most
    /// [`STOP_PATIENCE`] for each; nothing happens a second time.
    pub(super) fn stop(&self) -> Result<()> {
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.stop();
        }
        let (workers, sealer) = {
            let mut control = self.control();
            control.recipe = None;
            let workers = control.lanes.iter_mut().filter_map(|lane| lane.worker.take()).collect();
            (workers, control.sealer.take())
        };
        let stopped = stop_all(workers);
        // Its socket has the workers' port.
        let in_time = sealer.is_none_or(|sealer| sealer.stop(STOP_PATIENCE));
        stopped?;
        ensure!(in_time, "The thread of handshakes did not stop in time");
        Ok(())
    }

    /// How sealing goes, if traffic is sealed.
    pub(super) fn sealing(&self) -> Option<Standing> {
        self.control().sealer.as_ref().map(Sealer::standing)
    }

    /// Takes another key. `None` if traffic is not sealed. Blocks.
    pub(super) fn rotate_key(&self) -> Option<Result<PublicKey, KeyError>> {
        self.control().sealer.as_ref().map(Sealer::rotate)
    }

    /// These peers have keys, and those have none.
    fn seal(&self, peers: &PeerKeys) {
        if let Some(sealer) = &self.control().sealer {
            sealer.set_peers(peers);
        }
    }
}

/// Of the first worker, whose port is that of all.
fn second_socket(sockets: &[WorkerSockets]) -> Result<std::net::UdpSocket> {
    let first = sockets.iter().flat_map(|worker| &worker.receivers).next();
    sealing::second(first.context("there is no socket")?)
}

/// A thread that ends by itself ends the daemon, whichever it is.
fn tell_death(events: &mpsc::WeakSender<Told>) -> impl FnOnce(String) + Send + 'static {
    let events = events.clone();
    move |reason| {
        let worker = WorkerId { replacements: 0, number: 0 };
        let event = Event::Dead { reason: format!("the thread of handshakes: {reason}") };
        if let Some(events) = events.upgrade() {
            let _ = events.blocking_send(Told { worker, event });
        }
    }
}

/// The sum over all workers.
pub(super) fn total(counted: &[Counted]) -> Snapshot {
    let mut sum = Snapshot::default();
    counted.iter().for_each(|worker| sum.merge(&worker.snapshot));
    sum
}

/// Starts workers until one does not start; `workers` get those that did. Each one's queue has been
/// there before, so none holds a packet of a flow that another had begun with.
fn spawn_all(
    options: Vec<WorkerOptions>,
    replacements: u64,
    events: &mpsc::Sender<Told>,
    workers: &mut Vec<Worker>,
) -> Result<()> {
    for options in options {
        let id = WorkerId { replacements, number: options.number };
        let worker = weft_dataplane::spawn(options).context("could not start the engine")?;
        let told = move |event| Told { worker: id, event };
        carry_events(&worker, told, events.clone())?;
        workers.push(worker);
    }
    Ok(())
}

/// All are told before any is waited for: what a queue holds when it is closed is lost, so the first
/// must not leave its flows to others that stop as well.
fn stop_all(workers: Vec<Worker>) -> Result<()> {
    workers.iter().for_each(Worker::ask_to_stop);
    let stopped = workers.into_iter().map(|worker| worker.stop(STOP_PATIENCE));
    let failures: Vec<String> =
        stopped.filter_map(Result::err).map(|error| error.to_string()).collect();
    if failures.is_empty() { Ok(()) } else { Err(anyhow!(failures.join("; "))) }
}

/// Where the control loop puts its tables.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) without: Without,
}

impl TableSink for Tables {
    fn publish(&mut self, table: Arc<Table>) {
        match self.forwarding.adopt(&table) {
            Ok(()) => {}
            // The watchdog offers it again, and tells if the worker is stuck.
            Err(error @ NotTold::Busy) => debug!(%error, "a new table has to wait"),
            // Its last event ends the daemon, or brings a successor, who gets the newest table.
            Err(error @ NotTold::Ended) => error!(%error, "a new table could not be handed on"),
        }
    }

    fn seal(&mut self, peers: PeerKeys) {
        self.forwarding.seal(&peers);
    }

    fn rebind(&mut self, addresses: Vec<SocketAddr>) -> Rebinding {
        let (forwarding, without) = (Arc::clone(&self.forwarding), self.without);
        let replace = async move {
            let workers = forwarding.crew().count;
            let sockets = device::open_sockets(&addresses, workers, without).await?;
            let replacing = spawn_blocking(move || forwarding.replace_sockets(sockets, &addresses));
            replacing.await.context("the thread that replaces the sockets ended")?
        };
        Box::pin(async move { replace.await.map_err(|error| format!("{error:#}")) })
    }

    fn works(&self) -> watch::Receiver<bool> {
        self.forwarding.works()
    }
}

/// The worker must not wait, so its events lie in a queue of threads; this carries them over into
/// one of tasks without anybody polling.
fn carry_events(
    worker: &Worker,
    told: impl Fn(Event) -> Told + Send + 'static,
    sender: mpsc::Sender<Told>,
) -> Result<()> {
    let events = worker.events().clone();
    let carry = move || {
        for event in events {
            if sender.blocking_send(told(event)).is_err() {
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

    /// A lane whose worker is not asked for anything.
    fn lane(counters: &Arc<Counters>) -> Lane {
        Lane {
            worker: None,
            engine: "epoll",
            pending: None,
            counters: Arc::clone(counters),
            leaving: None,
            earlier: Snapshot::default(),
        }
    }

    #[test]
    fn what_a_lane_counts_never_goes_back() {
        let [first, second] = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let mut lane = lane(&first);
        first.turns.add(5);
        lane.count_by(Arc::clone(&second));
        assert_eq!(lane.snapshot().turns, 5);
        second.turns.add(2);
        first.turns.add(1);
        assert_eq!(lane.snapshot().turns, 8, "the predecessor goes on until it has stopped");
        lane.fold_leaving();
        assert_eq!(lane.snapshot().turns, 8);
        lane.fold_leaving();
        assert_eq!(lane.snapshot().turns, 8, "each is kept once");
    }

    #[test]
    fn a_total_is_the_sum_of_those_it_is_made_from() {
        let counted = [3, 4].map(|turns| {
            let counters = Counters::default();
            counters.turns.add(turns);
            Counted { engine: "epoll", snapshot: counters.snapshot() }
        });
        assert_eq!(total(&counted).turns, 7);
        assert_eq!(total(&[]), Snapshot::default());
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
