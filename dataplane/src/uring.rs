//! The io_uring engine.
//!
//! A turn is one entry into the kernel, or a few more while an idle worker looks again. It submits
//! what the last turn made, sleeps until something has come if nothing is left to do, and brings
//! back what came. Armed all the time are a multishot read of the device, a multishot receive on
//! each socket, and the wake-up.

use std::{os::fd::OwnedFd, time::Duration};

use weft_sys::{
    frame::FramePool,
    ring::{Completion, Errno, Pools, Ring},
};

use crate::{
    engine::{Core, Io},
    framer::Framer,
};

/// One worker's ring, and which multishot requests are armed.
pub(crate) struct Uring {
    ring: Ring,
    tun: bool,
    sockets: Vec<bool>,
    wake: bool,
}

impl Uring {
    pub(crate) fn new(ring: Ring) -> Uring {
        let sockets = vec![false; ring.files().sockets.len()];
        Uring { ring, tun: false, sockets, wake: false }
    }

    /// Arms what has ended and has frames to go on with.
    fn arm(&mut self) {
        if !self.wake {
            self.ring.arm_wake();
            self.wake = true;
        }
        let has_frames = |pool: &FramePool| pool.held() < pool.frames();
        let tun_has_frames = has_frames(&self.ring.pools().tun);
        let udp_has_frames = has_frames(&self.ring.pools().udp);
        if !self.tun && tun_has_frames {
            self.ring.arm_tun();
            self.tun = true;
        }
        for (number, armed) in self.sockets.iter_mut().enumerate() {
            if !*armed && udp_has_frames {
                self.ring.arm_socket(number);
                *armed = true;
            }
        }
    }

    fn handle<F: Framer>(&mut self, completion: Completion, core: &mut Core<F>) {
        match completion {
            Completion::Packet { result, more } => {
                self.tun = more;
                if !refilled(&result, &self.ring.pools().tun) {
                    core.handle_packet(result);
                }
            }
            Completion::Datagram { socket, result, more } => {
                self.sockets[socket] = more;
                if !refilled(&result, &self.ring.pools().udp) {
                    core.handle_datagram(socket, result);
                }
            }
            Completion::Sent { gather, result } => {
                if let Some(socket) = core.handle_sent(gather, result) {
                    self.ring.arm_writable(socket);
                }
            }
            Completion::Written { gather, result } => core.handle_written(gather, result),
            Completion::Writable { socket } => core.outbound.handle_writable(socket),
            Completion::Woken { more } => {
                self.wake = more;
                core.handle_wake();
            }
            Completion::Cancelled => {}
        }
    }
}

/// Whether a request ended only because it had used the frames that were in the ring, and there
/// are more by now.
fn refilled<T>(result: &Result<T, Errno>, pool: &FramePool) -> bool {
    matches!(result, Err(Errno::NOBUFS)) && !pool.is_exhausted()
}

impl Io for Uring {
    const NAME: &'static str = "uring";

    fn start(&mut self) {
        self.arm();
    }

    fn is_busy(&mut self) -> bool {
        self.ring.has_submissions()
    }

    fn enter(&mut self, sleep: bool) -> std::io::Result<()> {
        self.ring.enter(sleep)
    }

    fn has_news(&mut self) -> bool {
        self.ring.has_completions()
    }

    fn collect<F: Framer>(&mut self, core: &mut Core<F>) {
        while let Some(completion) = self.ring.completion() {
            self.handle(completion, core);
        }
    }

    fn depart<F: Framer>(&mut self, core: &mut Core<F>) {
        for gather in core.shared.writes.drain() {
            self.ring.write(gather);
        }
        core.outbound.departures(|train| {
            self.ring.send(train.gather, train.socket, train.segment, train.linked);
        });
        self.arm();
    }

    fn end<F: Framer>(&mut self, core: &mut Core<F>, patience: Duration) {
        self.ring.cancel_all(patience, |completion| match completion {
            Completion::Packet { result: Ok(frame), .. } => core.outbound.handle_frame(frame),
            Completion::Datagram { result: Ok(datagram), .. } => {
                core.inbound.handle_datagram(datagram);
            }
            Completion::Sent { gather, result } => {
                core.handle_sent(gather, result);
            }
            Completion::Written { gather, result } => core.handle_written(gather, result),
            _ => {}
        });
    }

    fn pools(&self) -> &Pools {
        self.ring.pools()
    }

    fn wake(&self) -> &OwnedFd {
        &self.ring.files().wake
    }
}
