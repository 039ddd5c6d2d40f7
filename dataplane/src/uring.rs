//! The io_uring engine: one turn after the other.
//!
//! A turn is one entry into the kernel, or a few more while an idle worker looks again. It submits what the last turn made, sleeps until
//! something has come if nothing is left to do, and brings back what came. Armed all the time are
//! a multishot read of the device, a multishot receive on each socket, and the wake-up.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use weft_forward::drops::DropReason;
use weft_sys::ring::{Completion, Errno, Ring};

use crate::{
    framer::Framer,
    inbound::{self, Inbound},
    outbound::Outbound,
    progress::Phase,
    shared::Shared,
    spin::Spin,
    worker::{Command, Discarded},
};

/// Failures of one source in a row after which it is taken for gone.
const FAILURES_MAX: u32 = 1000;

/// How long a stop waits for the kernel to give back what it has.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// A multishot request: armed or not, and how often it failed in a row.
#[derive(Debug, Default, Clone, Copy)]
struct Source {
    armed: bool,
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

/// One worker's engine.
pub(crate) struct Engine<F> {
    ring: Ring,
    outbound: Outbound<F>,
    inbound: Inbound<F>,
    shared: Shared,
    commands: Receiver<Command>,
    discarded: crossbeam_channel::Sender<Discarded>,
    tun: Source,
    sockets: Vec<Source>,
    wake: Source,
    woken: bool,
    stopping: bool,
    spin: Spin,
    /// Why the engine cannot go on.
    fault: Option<String>,
}

/// How the worker and its control side talk.
pub(crate) struct Talk {
    pub commands: Receiver<Command>,
    pub discarded: crossbeam_channel::Sender<Discarded>,
}

impl<F: Framer> Engine<F> {
    pub(crate) fn new(
        ring: Ring,
        outbound: Outbound<F>,
        inbound: Inbound<F>,
        shared: Shared,
        talk: Talk,
    ) -> Engine<F> {
        let sockets = vec![Source::default(); ring.files().sockets.len()];
        Engine {
            ring,
            outbound,
            inbound,
            shared,
            commands: talk.commands,
            discarded: talk.discarded,
            tun: Source::default(),
            sockets,
            wake: Source::default(),
            woken: false,
            stopping: false,
            spin: Spin::default(),
            fault: None,
        }
    }

    /// Arms everything; nothing is received before the first turn.
    pub(crate) fn arm(&mut self) {
        if !self.wake.armed {
            self.ring.arm_wake();
            self.wake.armed = true;
        }
        let pools = self.ring.pools();
        let tun_has_frames = pools.tun.held() < pools.tun.frames();
        let udp_has_frames = pools.udp.held() < pools.udp.frames();
        if !self.tun.armed && tun_has_frames {
            self.ring.arm_tun();
            self.tun.armed = true;
        }
        for socket in 0..self.sockets.len() {
            if !self.sockets[socket].armed && udp_has_frames {
                self.ring.arm_socket(socket);
                self.sockets[socket].armed = true;
            }
        }
    }

    /// Turns until told to stop.
    ///
    /// # Errors
    /// Why the engine cannot go on.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let outcome = loop {
            if self.stopping {
                break Ok(());
            }
            if let Err(fault) = self.turn() {
                break Err(fault);
            }
        };
        self.stop();
        outcome
    }

    fn turn(&mut self) -> Result<(), String> {
        self.enter().map_err(|error| format!("io_uring cannot be entered: {error}"))?;
        self.shared.begin_turn();

        while let Some(completion) = self.ring.completion() {
            self.handle(completion);
        }
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if std::mem::take(&mut self.woken) {
            self.shared.progress.enter(Phase::Commands);
            self.obey();
        }

        self.shared.progress.enter(Phase::Outbound);
        self.outbound.run(&mut self.shared);
        self.shared.progress.enter(Phase::Inbound);
        self.inbound.run(&mut self.shared);

        self.shared.progress.enter(Phase::Departures);
        for gather in self.shared.writes.drain() {
            self.ring.write(gather);
        }
        let ring = &mut self.ring;
        self.outbound.departures(|train| {
            ring.send(train.gather, train.socket, train.segment, train.linked);
        });
        self.arm();
        self.shared.count_buffers(self.ring.pools(), self.outbound.trains_in_use());
        Ok(())
    }

    /// Submits, and sleeps if there is nothing to do even after a few more looks. Sends and writes
    /// are over when their entry returns, and are reaped before anybody sleeps, so that the
    /// counters of a worker at rest are exact.
    fn enter(&mut self) -> std::io::Result<()> {
        let syscalls = &self.shared.counters.syscalls;
        self.shared.progress.enter(Phase::Submission);
        if self.outbound.has_work() || self.inbound.has_work() || self.ring.has_submissions() {
            syscalls.add(1);
            return self.ring.enter(false);
        }
        let idle_since = loop {
            let now = Instant::now();
            if !self.spin.again(now) {
                break now;
            }
            syscalls.add(1);
            self.ring.enter(false)?;
            if self.ring.has_completions() {
                return Ok(());
            }
            syscalls.add(1);
            std::thread::yield_now();
        };
        self.spin.rest();
        syscalls.add(1);
        self.shared.progress.sleep(idle_since);
        self.ring.enter(true)
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Packet { result, more } => {
                self.tun.armed = more;
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
            Completion::Datagram { socket, result, more } => {
                self.sockets[socket].armed = more;
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
            Completion::Sent { gather, result } => {
                let full = self.outbound.handle_sent(gather, result, &mut self.shared);
                if let Some(socket) = full {
                    self.ring.arm_writable(socket);
                }
            }
            Completion::Written { gather, result } => {
                inbound::handle_written(gather, result, &mut self.shared);
            }
            Completion::Writable { socket } => self.outbound.handle_writable(socket),
            Completion::Woken { more } => {
                self.wake.armed = more;
                self.woken = true;
            }
            Completion::Cancelled => {}
        }
    }

    /// A source reported an error. One that keeps failing is gone.
    fn fail(&mut self, what: &str, error: Errno, socket: Option<usize>) {
        let source = match socket {
            None => &mut self.tun,
            Some(socket) => &mut self.sockets[socket],
        };
        source.failures += 1;
        let gone = error == Errno::BADFD || source.failures >= FAILURES_MAX;
        if gone && self.fault.is_none() {
            self.fault = Some(format!("{what} can no longer be read: {error}"));
        }
    }

    fn obey(&mut self) {
        self.shared.counters.syscalls.add(1);
        weft_sys::wake::clear(&self.ring.files().wake);
        loop {
            let command = match self.commands.try_recv() {
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
                    drop(self.discarded.try_send(old));
                }
                Command::Stop => self.stopping = true,
                #[cfg(test)]
                Command::Panic => panic!("told to"),
                #[cfg(test)]
                Command::Stall(time) => std::thread::sleep(time),
            }
        }
    }

    /// Gives everything back and counts what was on its way.
    fn stop(&mut self) {
        self.shared.progress.enter(Phase::Stop);
        let (outbound, inbound) = (&mut self.outbound, &mut self.inbound);
        let shared = &mut self.shared;
        self.ring.cancel_all(STOP_PATIENCE, |completion| match completion {
            Completion::Packet { result: Ok(frame), .. } => outbound.handle_frame(frame),
            Completion::Datagram { result: Ok(datagram), .. } => inbound.handle_datagram(datagram),
            Completion::Sent { gather, result } => {
                outbound.handle_sent(gather, result, shared);
            }
            Completion::Written { gather, result } => {
                inbound::handle_written(gather, result, shared);
            }
            _ => {}
        });
        outbound.stop(shared);
        inbound.stop(shared);
        for gather in shared.writes.drain_all() {
            let segments = shared.writes.finished(gather).segments;
            shared.drop_inbound(DropReason::Stopped, usize::from(segments));
        }
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
