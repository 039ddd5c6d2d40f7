//! The engine for kernels without io_uring, or where it is forbidden: readiness, and a system call
//! for each packet of the device and for each batch of a socket.
//!
//! Readiness comes as an edge, so each source remembers that it is readable until it says that it
//! has no more. A source for which no frame is free stays readable, and is read again when frames
//! are back. Sends and writes never wait, and are over when their call returns.

use std::{os::fd::OwnedFd, time::Duration};

use arrayvec::ArrayVec;
use weft_sys::{
    frame::FramePool,
    gather::Gather,
    poll::{Poller, Ready},
    ring::{Errno, Files, Pools},
    udp::SEND_BATCH,
};

use crate::{
    engine::{Core, Io},
    framer::Framer,
    memory::{TRAINS, WRITES},
    outbound::Departure,
};

/// Bytes after which a source has to wait for the next turn, so that the other direction gets its
/// share: some sixteen super-packets. Small packets are bounded by the frames.
const BYTES_A_TURN: usize = 1 << 20;

const _: () = assert!(TRAINS as usize <= SEND_BATCH, "a turn's trains go with one call");

/// One worker's files, and what they are ready for.
pub(crate) struct Epoll {
    files: Files,
    pools: Pools,
    poller: Poller,
    tun_readable: bool,
    sockets_readable: Vec<bool>,
    /// The trains and the writes of one turn, on their way into the kernel.
    departing: ArrayVec<Departure, { TRAINS as usize }>,
    writing: ArrayVec<Gather, { WRITES as usize }>,
}

impl Epoll {
    /// Watches `files`, which bring their packets into frames of `pools`.
    pub(crate) fn new(files: Files, pools: Pools) -> std::io::Result<Epoll> {
        let poller = Poller::new(&files)?;
        Ok(Epoll {
            sockets_readable: vec![false; files.sockets.len()],
            files,
            pools,
            poller,
            tun_readable: false,
            departing: ArrayVec::new(),
            writing: ArrayVec::new(),
        })
    }

    fn take_news<F: Framer>(&mut self, core: &mut Core<F>) {
        for ready in self.poller.ready() {
            match ready {
                Ready::Tun => self.tun_readable = true,
                Ready::Wake => core.handle_wake(),
                Ready::Socket { number, readable, writable } => {
                    self.sockets_readable[number] |= readable;
                    if writable {
                        core.outbound.handle_writable(number);
                        watch_writable(&self.poller, &self.files, core, number, false);
                    }
                }
            }
        }
    }

    fn read_device<F: Framer>(&mut self, core: &mut Core<F>) {
        let mut bytes = 0;
        while self.tun_readable && bytes < BYTES_A_TURN && has_frames(&self.pools.tun) {
            core.shared.counters.syscalls.add(1);
            let result = self.files.tun.read_packet(&self.pools.tun);
            match &result {
                Err(Errno::AGAIN) => {
                    self.tun_readable = false;
                    return;
                }
                Ok(frame) => bytes += frame.len(),
                // Once a turn, so that commands are heard.
                Err(_) => bytes = BYTES_A_TURN,
            }
            core.handle_packet(result);
            if !has_frames(&self.pools.tun) {
                core.handle_packet(Err(Errno::NOBUFS));
            }
        }
    }

    fn receive<F: Framer>(&mut self, number: usize, core: &mut Core<F>) {
        let mut bytes = 0;
        while self.sockets_readable[number] && bytes < BYTES_A_TURN && has_frames(&self.pools.udp) {
            core.shared.counters.syscalls.add(1);
            let socket = &self.files.sockets[number];
            let received = socket.receive_trains(&self.pools.udp, |datagram| {
                bytes += datagram.payload.len();
                core.handle_datagram(number, Ok(datagram));
            });
            match received {
                Ok(more) => self.sockets_readable[number] = more,
                Err(Errno::AGAIN) => self.sockets_readable[number] = false,
                Err(error) => {
                    core.handle_datagram(number, Err(error));
                    return;
                }
            }
            if self.sockets_readable[number] && !has_frames(&self.pools.udp) {
                core.handle_datagram(number, Err(Errno::NOBUFS));
            }
        }
    }

    /// Sends the trains of this turn in order. A call that stops early leaves the reason to the
    /// next one, whose first train is the refused one.
    fn send<F: Framer>(&mut self, core: &mut Core<F>) {
        core.outbound.departures(|train| self.departing.push(train));
        while let Some(socket) = self.departing.first().map(|train| train.socket) {
            core.shared.counters.syscalls.add(1);
            let same_socket = self.departing.iter_mut().take_while(|train| train.socket == socket);
            let batch = same_socket.map(|train| (&mut train.gather, train.segment));
            match self.files.sockets[socket].send_trains(batch) {
                Ok(sent) => {
                    for train in self.departing.drain(..sent) {
                        let bytes = train.gather.len() as u32;
                        core.handle_sent(train.gather, Ok(bytes));
                    }
                }
                Err(error) => self.handle_refused(error, core),
            }
        }
    }

    /// The first train was refused. What must not pass it comes back untried, as from a chain of
    /// linked requests: the rest of its chain, or everything if the socket is full, because then
    /// nothing newer is sent before there is room.
    fn handle_refused<F: Framer>(&mut self, error: Errno, core: &mut Core<F>) {
        let first = self.departing.remove(0);
        let behind = match error {
            Errno::AGAIN => self.departing.len(),
            _ if !first.linked => 0,
            _ => {
                let last = self.departing.iter().position(|train| !train.linked);
                last.map_or(self.departing.len(), |last| last + 1)
            }
        };
        if let Some(socket) = core.handle_sent(first.gather, Err(error)) {
            watch_writable(&self.poller, &self.files, core, socket, true);
        }
        for train in self.departing.drain(..behind) {
            core.handle_sent(train.gather, Err(Errno::CANCELED));
        }
    }

    fn write<F: Framer>(&mut self, core: &mut Core<F>) {
        self.writing.extend(core.shared.writes.drain());
        for gather in self.writing.drain(..) {
            core.shared.counters.syscalls.add(1);
            let result = self.files.tun.write_packet(&gather);
            core.handle_written(gather, result);
        }
    }
}

impl Io for Epoll {
    const NAME: &'static str = "epoll";

    /// What is ready already is told by the first `enter`.
    fn start(&mut self) {}

    fn is_busy(&mut self) -> bool {
        let socket_readable = self.sockets_readable.contains(&true);
        (self.tun_readable && has_frames(&self.pools.tun))
            || (socket_readable && has_frames(&self.pools.udp))
    }

    fn enter(&mut self, sleep: bool) -> std::io::Result<()> {
        self.poller.wait(sleep)
    }

    fn has_news(&mut self) -> bool {
        self.poller.has_news()
    }

    fn collect<F: Framer>(&mut self, core: &mut Core<F>) {
        self.take_news(core);
        self.read_device(core);
        for number in 0..self.sockets_readable.len() {
            self.receive(number, core);
        }
    }

    fn depart<F: Framer>(&mut self, core: &mut Core<F>) {
        self.send(core);
        self.write(core);
    }

    /// The kernel has nothing of ours: every call was over when it returned.
    fn end<F: Framer>(&mut self, _core: &mut Core<F>, _patience: Duration) {}

    fn pools(&self) -> &Pools {
        &self.pools
    }

    fn wake(&self) -> &OwnedFd {
        &self.files.wake
    }
}

fn has_frames(pool: &FramePool) -> bool {
    pool.held() < pool.frames()
}

fn watch_writable<F: Framer>(
    poller: &Poller,
    files: &Files,
    core: &mut Core<F>,
    socket: usize,
    watch: bool,
) {
    core.shared.counters.syscalls.add(1);
    if let Err(error) = poller.watch_writable(files, socket, watch) {
        core.handle_fault(format!("the UDP socket can no longer be watched: {error}"));
    }
}
