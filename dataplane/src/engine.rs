//! What both engines share: the order of a turn, the sources' failures, commands, and the end.
//!
//! A turn is: wait → take what came → obey → outbound → inbound → hand over sends and writes. How
//! that is asked of the kernel is an [`Io`]'s business.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use weft_forward::drops::DropReason;
use weft_sys::{
    frame::Frame,
    gather::Gather,
    ring::{Datagram, Errno, Pools},
};

use crate::{
    framer::Framer,
    inbound::{self, Inbound},
    memory::TUN_FRAMES,
    outbound::Outbound,
    precedence::Precedence,
    progress::Phase,
    shared::Shared,
    spin::Spin,
    worker::{Command, Discarded, Habits},
};

/// Failures of one source in a row after which it is taken for gone.
const FAILURES_MAX: u32 = 1000;

/// How long a stop waits for the kernel to give back what it has.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// How an engine talks with the kernel.
pub(crate) trait Io {
    /// Its name, for users.
    const NAME: &'static str;

    /// Begins to receive.
    fn start(&mut self);

    /// Whether something is left to be done or to be taken, so that nobody may sleep.
    fn is_busy(&mut self) -> bool;

    /// Asks the kernel what has happened; if `sleep`, waits until something has.
    fn enter(&mut self, sleep: bool) -> std::io::Result<()>;

    /// Whether the last `enter` found something.
    fn has_news(&mut self) -> bool;

    /// Hands over what has come since.
    fn collect<F: Framer>(&mut self, core: &mut Core<F>);

    /// Sends and writes what this turn made.
    fn depart<F: Framer>(&mut self, core: &mut Core<F>);

    /// Gives everything back within `patience`, and hands over what still comes.
    fn end<F: Framer>(&mut self, core: &mut Core<F>, patience: Duration);

    /// The frames it receives into.
    fn pools(&self) -> &Pools;

    /// What other threads wake the worker by.
    fn wake(&self) -> &OwnedFd;
}

/// How the worker and its control side talk.
pub(crate) struct Talk {
    pub commands: Receiver<Command>,
    pub discarded: Sender<Discarded>,
}

/// What is known of a source of packets.
#[derive(Debug, Default, Clone, Copy)]
struct Source {
    /// Failures in a row.
    failures: u32,
    /// Datagrams that the socket had dropped when it last said so.
    overflow: u32,
}

impl Source {
    /// `SO_RXQ_OVFL` counts all that the socket ever dropped, modulo 2³². What is new in that?
    fn new_overflow(&mut self, total: u32) -> u32 {
        total.wrapping_sub(std::mem::replace(&mut self.overflow, total))
    }
}

/// One worker's machines, and what it was told.
pub(crate) struct Core<F> {
    pub outbound: Outbound<F>,
    pub inbound: Inbound<F>,
    pub shared: Shared,
    talk: Talk,
    tun: Source,
    sockets: Vec<Source>,
    spin: Spin,
    precedence: Option<Precedence>,
    /// Whether the last turn filled all frames of the device.
    flooded: bool,
    woken: bool,
    stopping: bool,
    /// Why the engine cannot go on.
    fault: Option<String>,
}

impl<F: Framer> Core<F> {
    pub(crate) fn new(
        outbound: Outbound<F>,
        inbound: Inbound<F>,
        shared: Shared,
        talk: Talk,
        habits: Habits,
    ) -> Self {
        let sockets = vec![Source::default(); shared.locals.len()];
        Core {
            outbound,
            inbound,
            shared,
            talk,
            tun: Source::default(),
            sockets,
            spin: Spin::new(habits.spin),
            precedence: habits.precedence.then(Precedence::take),
            flooded: false,
            woken: false,
            stopping: false,
            fault: None,
        }
    }

    /// A read of the device brought a packet or an error.
    pub(crate) fn handle_packet(&mut self, result: Result<Frame, Errno>) {
        match result {
            Ok(frame) => {
                self.spin.rest();
                self.tun.failures = 0;
                self.outbound.handle_frame(frame);
            }
            Err(Errno::NOBUFS) => self.shared.counters.buffers_exhausted_tun.add(1),
            Err(error) => self.fail("the device flannel0", error, None),
        }
    }

    /// A receive on socket number `socket` brought a datagram or an error.
    pub(crate) fn handle_datagram(&mut self, socket: usize, result: Result<Datagram, Errno>) {
        match result {
            Ok(datagram) => {
                self.spin.rest();
                self.sockets[socket].failures = 0;
                if let Some(overflow) = datagram.control.overflow {
                    let news = self.sockets[socket].new_overflow(overflow);
                    self.shared.counters.receive_overflow.add(u64::from(news));
                }
                self.inbound.handle_datagram(datagram);
            }
            Err(Errno::NOBUFS) => self.shared.counters.buffers_exhausted_udp.add(1),
            Err(error) => self.fail("the UDP socket", error, Some(socket)),
        }
    }

    /// A send is over. Returns the number of the socket if it is full now and must be watched
    /// until it is writable.
    pub(crate) fn handle_sent(
        &mut self,
        gather: Gather,
        result: Result<u32, Errno>,
    ) -> Option<usize> {
        self.outbound.handle_sent(gather, result, &mut self.shared)
    }

    /// A write into the device is over.
    pub(crate) fn handle_written(&mut self, gather: Gather, result: Result<u32, Errno>) {
        inbound::handle_written(gather, result, &mut self.shared);
    }

    /// Another thread wants to be heard.
    pub(crate) fn handle_wake(&mut self) {
        self.woken = true;
    }

    /// The engine itself failed.
    pub(crate) fn handle_fault(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }

    /// A source reported an error. One that keeps failing is gone.
    fn fail(&mut self, what: &str, error: Errno, socket: Option<usize>) {
        let source = match socket {
            None => &mut self.tun,
            Some(socket) => &mut self.sockets[socket],
        };
        source.failures += 1;
        if error == Errno::BADFD || source.failures >= FAILURES_MAX {
            self.handle_fault(format!("{what} can no longer be read: {error}"));
        }
    }

    fn has_work(&self) -> bool {
        self.outbound.has_work() || self.inbound.has_work()
    }

    fn obey(&mut self, wake: &OwnedFd) {
        self.shared.counters.syscalls.add(1);
        weft_sys::wake::clear(wake);
        loop {
            let command = match self.talk.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return,
                // Nobody is left who could say stop.
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
            };
            match command {
                Command::Adopt { table, mut peers } => {
                    peers.inherit(&mut self.shared.peers);
                    let old = Discarded {
                        _table: std::mem::replace(&mut self.shared.table, table),
                        _peers: std::mem::replace(&mut self.shared.peers, peers),
                    };
                    // Freed by the control side; here only if that has fallen behind.
                    drop(self.talk.discarded.try_send(old));
                }
                Command::Stop => self.stopping = true,
                #[cfg(test)]
                Command::Panic => panic!("told to"),
                #[cfg(test)]
                Command::Stall(time) => std::thread::sleep(time),
            }
        }
    }

    /// Counts what never left as dropped.
    fn stop(&mut self) {
        let shared = &mut self.shared;
        self.outbound.stop(shared);
        self.inbound.stop(shared);
        for gather in shared.writes.drain_all() {
            let segments = shared.writes.finished(gather).segments;
            shared.drop_inbound(DropReason::Stopped, usize::from(segments));
        }
    }
}

/// One worker's engine.
pub(crate) struct Engine<F, I> {
    core: Core<F>,
    io: I,
}

impl<F: Framer, I: Io> Engine<F, I> {
    pub(crate) fn new(core: Core<F>, io: I) -> Self {
        Engine { core, io }
    }

    /// Receives, and turns until told to stop; then everything is given back, and what was on its
    /// way is counted.
    ///
    /// # Errors
    /// Why the engine cannot go on.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.io.start();
        let outcome = loop {
            if self.core.stopping {
                break Ok(());
            }
            if let Err(fault) = self.turn() {
                break Err(fault);
            }
        };
        self.core.shared.progress.enter(Phase::Stop);
        self.io.end(&mut self.core, STOP_PATIENCE);
        self.core.stop();
        outcome
    }

    fn turn(&mut self) -> Result<(), String> {
        self.enter().map_err(|error| format!("the engine {} cannot go on: {error}", I::NAME))?;
        let core = &mut self.core;
        core.shared.begin_turn();

        self.io.collect(core);
        if let Some(fault) = core.fault.take() {
            return Err(fault);
        }
        if std::mem::take(&mut core.woken) {
            core.shared.progress.enter(Phase::Commands);
            core.obey(self.io.wake());
        }

        core.shared.progress.enter(Phase::Outbound);
        let handled = core.outbound.run(&mut core.shared);
        if let Some(precedence) = &mut core.precedence {
            core.flooded = handled >= usize::from(TUN_FRAMES);
            precedence.turn(core.flooded, core.shared.now_ms);
        }
        core.shared.progress.enter(Phase::Inbound);
        core.inbound.run(&mut core.shared);

        core.shared.progress.enter(Phase::Departures);
        self.io.depart(core);
        core.shared.count_buffers(self.io.pools(), core.outbound.trains_in_use());
        Ok(())
    }

    /// Sleeps if there is nothing to do even after a few more looks. Sends and writes are over
    /// before anybody sleeps, so that the counters of a worker at rest are exact. In a flood,
    /// whoever shall receive what this turn has sent may run before the next turn.
    fn enter(&mut self) -> std::io::Result<()> {
        let Engine { core, io } = self;
        let syscalls = &core.shared.counters.syscalls;
        core.shared.progress.enter(Phase::Submission);
        syscalls.add(1);
        if core.has_work() || io.is_busy() {
            io.enter(false)?;
            if std::mem::take(&mut core.flooded) {
                syscalls.add(1);
                std::thread::yield_now();
            }
            return Ok(());
        }
        let idle_since = loop {
            let now = Instant::now();
            if !core.spin.again(now) {
                break now;
            }
            io.enter(false)?;
            if io.has_news() {
                return Ok(());
            }
            std::thread::yield_now();
            syscalls.add(2);
        };
        core.spin.rest();
        core.shared.progress.sleep(idle_since);
        io.enter(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_counts_its_own_overflow() {
        let mut sockets = [Source::default(); 2];
        let mut news = |socket: usize, total| sockets[socket].new_overflow(total);
        assert_eq!([news(0, 10), news(1, 3), news(0, 10), news(1, 5)], [10, 3, 0, 2]);
        assert_eq!([news(0, u32::MAX), news(0, 1)], [u32::MAX - 10, 2]);
    }
}
