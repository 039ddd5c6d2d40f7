//! A worker as its control side sees it: a thread that is started, told, watched and stopped.

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use weft_forward::{counters::Counters, table::Table};
use weft_sys::{
    checksum,
    ring::{Errno, SetupError, Without},
    tun::{Offloads, Tun},
    udp::UdpSocket,
    wake::{Waker, wake_pair},
};

use crate::{
    choice::{self, Choice},
    engine::Talk,
    memory::MEMORY,
    peers::Peers,
    progress::{Marks, Watch},
    sealing::{Cipher, Sealing},
};

/// Commands that can wait for a worker. Tables are merged before they are published, so few do.
const COMMANDS: usize = 16;

/// Events that can wait for the control side; more are counted and dropped.
const EVENTS: usize = 1024;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerOptions {
    /// Its number among the workers of the host, from 0 on.
    pub number: usize,
    /// Its queue of the device. The worker closes it when it stops.
    pub tun: Tun,
    /// The sockets, at most one for each address family. The worker closes them when it stops.
    pub sockets: Vec<UdpSocket>,
    /// Sockets with a source port of the worker's own, at most one for each address family, from
    /// which it sends to the peers that take several source ports. Without one it sends to them like
    /// to the others. The worker closes them when it stops.
    pub senders: Vec<UdpSocket>,
    /// Datagrams that the kernel can cut one train into; 1 if it cannot.
    pub segments_max: u16,
    /// Datagrams that the kernel takes joined into one packet when it is written to the device.
    pub joined_max: u16,
    /// MTU of the device in bytes: the inner packets that every path is expected to take.
    pub inner_mtu: u16,
    /// The first table.
    pub table: Arc<Table>,
    /// Which engine is to move the packets.
    pub engine: EngineWish,
    /// Features of io_uring to do without.
    pub without: Without,
    /// How it shares the processor.
    pub habits: Habits,
    /// What its traffic is sealed with, if it is.
    pub sealing: Option<Arc<Sealing<Cipher>>>,
}

/// How a worker shares the processor with others. All is on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// It looks for packets a little longer before it sleeps.
    pub spin: bool,
    /// It takes precedence, and gives it and the processor up in a flood.
    pub precedence: bool,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits { spin: true, precedence: true }
    }
}

/// Which engine is to move the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineWish {
    /// `uring` if the kernel has and allows all that it takes, else `epoll`.
    #[default]
    Auto,
    /// `uring` or none.
    Uring,
    /// `epoll`; nothing is probed.
    Epoll,
}

/// What happened in a worker that others should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The path to a peer takes less than it did.
    PathMtu {
        /// The peer's slot.
        slot: u16,
        /// The peer among those that had the slot.
        generation: u32,
        /// Inner bytes that it takes now.
        mtu: u16,
    },
    /// The kernel does not cut trains to a peer; its datagrams are sent one by one.
    SegmentationOff {
        /// The peer's slot.
        slot: u16,
        /// The peer among those that had the slot.
        generation: u32,
        /// What the kernel said.
        error: Errno,
    },
    /// The kernel cuts trains to a peer again.
    SegmentationOn {
        /// The peer's slot.
        slot: u16,
        /// The peer among those that had the slot.
        generation: u32,
    },
    /// The worker has ended without being told to.
    Dead {
        /// Why.
        reason: String,
    },
}

/// Why a worker did not start. The texts have their causes in them.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ring could not be made.
    #[error("{0}. The engine epoll needs none of this")]
    Ring(SetupError),
    /// Readiness cannot be watched.
    #[error("The files cannot be watched: {0}")]
    Poller(io::Error),
    /// The buffers could not be mapped.
    #[error("The worker's buffers of {MEMORY} bytes cannot be mapped: {0}")]
    Memory(io::Error),
    /// The thread or its wake-up could not be made.
    #[error("The worker's thread cannot be started: {0}")]
    Thread(io::Error),
    /// The thread ended before it was ready.
    #[error("The worker ended while it was starting")]
    Ended,
}

/// Why a worker was not told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// It has not yet taken what it was told before. It may be told later.
    #[error("The worker has not yet taken what it was told before")]
    Busy,
    /// It has ended.
    #[error("The worker has ended")]
    Ended,
}

/// Why a worker did not stop cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// It did not end in time. The thread is left behind.
    #[error("The worker did not stop in time")]
    Timeout,
    /// It panicked, now or before.
    #[error("The worker had ended before it was told to: {0}")]
    Died(String),
}

/// What a worker found when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The engine's name.
    pub engine: &'static str,
    /// Why this engine.
    pub reason: String,
    /// What the device offloads.
    pub offloads: Offloads,
    /// Datagrams that the kernel cuts one train into.
    pub segments_max: u16,
    /// Whether the kernel joins received datagrams, for each socket.
    pub joins_datagrams: Vec<bool>,
    /// The form of the checksum.
    pub checksum: &'static str,
    /// Bytes of buffers, at most.
    pub memory: usize,
}

/// What the control side can tell a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Use this table from the next turn on.
    Adopt { table: Arc<Table>, peers: Peers },
    /// End.
    Stop,
    /// Panic, to see what comes of it.
    #[cfg(test)]
    Panic,
    /// Sleep, as if a turn took that long.
    #[cfg(test)]
    Stall(Duration),
}

/// What a worker no longer uses, on its way to be freed elsewhere.
#[derive(Debug)]
pub(crate) struct Discarded {
    pub _table: Arc<Table>,
    pub _peers: Peers,
}

/// A running worker. Dropping it tells the thread to stop but does not wait.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    waker: Waker,
    events: Receiver<Event>,
    discarded: Receiver<Discarded>,
    ended: Receiver<Result<(), String>>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
    marks: Arc<Marks>,
    info: WorkerInfo,
    inner_mtu: u16,
}

/// Starts a worker and waits until it receives.
///
/// # Errors
/// [`StartError`] says what the kernel refused and what can be done.
pub fn spawn(options: WorkerOptions) -> Result<Worker, StartError> {
    let (waker, wake) = wake_pair().map_err(StartError::Thread)?;
    let (commands, command_queue) = bounded(COMMANDS);
    let (event_queue, events) = bounded(EVENTS);
    let (discards, discarded) = bounded(COMMANDS);
    let (ready, started) = bounded(1);
    let (end, ended) = bounded(1);
    let counters = Arc::new(Counters::default());
    let marks = Arc::new(Marks::default());
    let (sum, checksum) = checksum::select();
    let mut info = WorkerInfo {
        engine: "",
        reason: String::new(),
        offloads: options.tun.offloads(),
        segments_max: options.segments_max,
        joins_datagrams: options.sockets.iter().map(UdpSocket::gro).collect(),
        checksum,
        memory: MEMORY,
    };
    let (number, inner_mtu) = (options.number, options.inner_mtu);
    let parts = Parts {
        wake,
        events: event_queue.clone(),
        counters: Arc::clone(&counters),
        marks: Arc::clone(&marks),
        talk: Talk { commands: command_queue, discarded: discards },
        sum,
    };
    let body = move || {
        let ran = catch_unwind(AssertUnwindSafe(|| live(options, parts, &ready)));
        let outcome = ran.unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
        if let Err(reason) = &outcome {
            let _ = event_queue.try_send(Event::Dead { reason: reason.clone() });
        }
        let _ = end.send(outcome);
    };
    let thread = thread::Builder::new()
        .name(format!("weft-worker-{number}"))
        .spawn(body)
        .map_err(StartError::Thread)?;
    let Choice { engine, reason } = started.recv().unwrap_or(Err(StartError::Ended))?;
    (info.engine, info.reason) = (engine, reason);
    let thread = Some(thread);
    Ok(Worker {
        commands,
        waker,
        events,
        discarded,
        ended,
        thread,
        counters,
        marks,
        info,
        inner_mtu,
    })
}

/// What a worker's thread gets beside its options.
pub(crate) struct Parts {
    pub wake: std::os::fd::OwnedFd,
    pub events: Sender<Event>,
    pub counters: Arc<Counters>,
    pub marks: Arc<Marks>,
    pub talk: Talk,
    pub sum: weft_forward::checksum::Sum,
}

/// The worker's thread: makes its engine, since a ring belongs to one thread, and turns.
fn live(
    options: WorkerOptions,
    parts: Parts,
    ready: &Sender<Result<Choice, StartError>>,
) -> Result<(), String> {
    match choice::choose(options, parts) {
        Ok((choice, mut engine)) => {
            let _ = ready.send(Ok(choice));
            engine.run()
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            Ok(())
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl Worker {
    /// Makes the worker use `table` from its next turn on. Does not wait.
    ///
    /// # Errors
    /// [`NotTold`] if the worker takes no command now, or none any more.
    pub fn adopt(&self, table: Arc<Table>) -> Result<(), NotTold> {
        while self.discarded.try_recv().is_ok() {}
        if self.commands.is_full() {
            // Not worth making the peers' states for.
            self.waker.wake();
            return Err(NotTold::Busy);
        }
        let peers = Peers::new(&table, self.inner_mtu);
        self.command(Command::Adopt { table, peers })
    }

    fn command(&self, command: Command) -> Result<(), NotTold> {
        let sent = self.commands.try_send(command);
        self.waker.wake();
        sent.map_err(|error| match error {
            TrySendError::Full(_) => NotTold::Busy,
            TrySendError::Disconnected(_) => NotTold::Ended,
        })
    }

    /// Watches whether the worker goes on.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(Arc::clone(&self.marks))
    }

    /// What the worker counts; valid also after it has stopped.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// What the worker found when it started.
    #[must_use]
    pub fn info(&self) -> &WorkerInfo {
        &self.info
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Tells the worker to stop and does not wait. [`Worker::stop`] does, then.
    pub fn ask_to_stop(&self) {
        let _ = self.command(Command::Stop);
    }

    /// Tells the worker to stop and waits for `patience`. The device and the sockets are closed
    /// then.
    ///
    /// # Errors
    /// [`StopError`] if it did not end in time, or had ended by itself.
    pub fn stop(mut self, patience: Duration) -> Result<(), StopError> {
        let _ = self.commands.send_timeout(Command::Stop, patience);
        self.waker.wake();
        let outcome = match self.ended.recv_timeout(patience) {
            Ok(outcome) => outcome.map_err(StopError::Died),
            Err(RecvTimeoutError::Timeout) => return Err(StopError::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(StopError::Died("no reason".to_owned())),
        };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        outcome
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.commands.try_send(Command::Stop);
        self.waker.wake();
    }
}
