//! The ring of one worker: what is armed, what is sent, what came back.
//!
//! A ring belongs to the thread that made it (`SINGLE_ISSUER`): completions appear only when that
//! thread enters the kernel (`DEFER_TASKRUN`), which it does once a turn. It owns everything that
//! the kernel may touch while a request runs: the files, the frame pools, and every gather that
//! was submitted. Dropping it cancels all requests and waits for them; only then is the memory
//! given back. If the kernel does not return them in time, the memory is leaked, not freed.

#![expect(unsafe_code, reason = "submits addresses to the kernel")]

mod completion;
mod setup;

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, squeue, squeue::Flags, types};

pub(crate) use self::completion::Lengths;
use self::{completion::Kind, setup::fixed};
pub use self::{
    completion::{Completion, Datagram, Errno},
    setup::{SetupError, Without, probe},
};
use crate::{frame::FramePool, gather::Gather, tun::Tun, udp::UdpSocket};

/// Sockets a ring can have: for each address family one that receives, and one that only sends.
pub const SOCKETS_MAX: usize = 4;

/// How long dropping a ring waits for its requests to come back.
const TEARDOWN: Duration = Duration::from_secs(1);

/// What a ring works on. It is closed when the ring is dropped.
#[derive(Debug)]
pub struct Files {
    /// The TUN device.
    pub tun: Tun,
    /// The sockets, at most two for each address family and so [`SOCKETS_MAX`].
    pub sockets: Vec<UdpSocket>,
    /// An eventfd by which other threads wake the owner of the ring.
    pub wake: OwnedFd,
}

/// The frames that a ring receives into.
#[derive(Debug)]
pub struct Pools {
    /// For packets read from the TUN device.
    pub tun: FramePool,
    /// For datagrams. A frame holds [`Datagram::OVERHEAD`] bytes before the payload.
    pub udp: FramePool,
}

/// One worker's ring.
pub struct Ring {
    ring: IoUring,
    files: Files,
    pools: Pools,
    /// Gathers in the kernel, by their number.
    submitted: Vec<Option<Gather>>,
    /// What the multishot `recvmsg` requests read their lengths from.
    receive_header: Box<libc::msghdr>,
    /// Requests of which the last completion has not come yet.
    running: u32,
    /// Of these, sends and writes. They never wait for anything (`MSG_DONTWAIT`, a non-blocking
    /// device), so they complete within the next [`Ring::enter`].
    running_now: u32,
}

impl Ring {
    /// Makes a ring on this thread for `files`, receiving into `pools`. `gathers` is the number
    /// of gathers there will be; their numbers are below it. Nothing is armed yet.
    ///
    /// # Errors
    /// [`SetupError`] says which step the kernel refused and what can be done. The files come back
    /// with it; the pools are lost.
    pub fn new(
        files: Files,
        pools: Pools,
        gathers: u16,
        without: Without,
    ) -> Result<Ring, Box<(SetupError, Files)>> {
        assert!(files.sockets.len() <= SOCKETS_MAX, "there are two sockets for each family");
        match setup::ring(&files, &pools, without) {
            Ok(ring) => Ok(Ring {
                ring,
                files,
                pools,
                submitted: (0..gathers).map(|_| None).collect(),
                receive_header: Box::new(completion::receive_header()),
                running: 0,
                running_now: 0,
            }),
            Err(error) => Err(Box::new((error, files))),
        }
    }

    /// The files the ring works on.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The frame pools.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Reads packets from the TUN device until a completion says `more: false`.
    pub fn arm_tun(&mut self) {
        // io-uring 0.7.15 forgets FIXED_FILE when it builds this entry; without the flag the
        // kernel would read from the process's descriptor of that number.
        let entry = opcode::ReadMulti::new(types::Fixed(fixed::TUN), 0, self.pools.tun.group())
            .build()
            .flags(Flags::FIXED_FILE);
        self.push_lasting(&entry.user_data(Kind::Packet.tag(0)));
    }

    /// Receives datagrams from socket number `socket` until a completion says `more: false`.
    pub fn arm_socket(&mut self, socket: usize) {
        let file = types::Fixed(fixed::socket(socket));
        let group = self.pools.udp.group();
        let entry = opcode::RecvMsgMulti::new(file, &raw const *self.receive_header, group).build();
        self.push_lasting(&entry.user_data(Kind::Datagram.tag(socket)));
    }

    /// Reports writes to the wake eventfd until a completion says `more: false`.
    pub fn arm_wake(&mut self) {
        let entry = opcode::PollAdd::new(types::Fixed(fixed::WAKE), libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push_lasting(&entry.user_data(Kind::Wake.tag(0)));
    }

    /// Reports once when socket number `socket` takes data again.
    pub fn arm_writable(&mut self, socket: usize) {
        let file = types::Fixed(fixed::socket(socket));
        let entry = opcode::PollAdd::new(file, libc::POLLOUT as u32).build();
        self.push_lasting(&entry.user_data(Kind::Writable.tag(socket)));
    }

    /// Sends a gather to its name over socket number `socket`, cut into datagrams of `segment`
    /// bytes if that is given. It does not wait for room: `EAGAIN` comes back instead. With
    /// `linked` the next send starts only if this one succeeds, else it comes back with
    /// `ECANCELED`.
    pub fn send(&mut self, mut gather: Gather, socket: usize, segment: Option<u16>, linked: bool) {
        let file = types::Fixed(fixed::socket(socket));
        let entry = opcode::SendMsg::new(file, gather.message(segment))
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .flags(if linked { Flags::IO_LINK } else { Flags::empty() })
            .user_data(Kind::Sent.tag(usize::from(gather.number())));
        self.hold(gather);
        self.push(&entry);
    }

    /// Writes a gather, virtio-net header first, to the TUN device as one packet.
    pub fn write(&mut self, gather: Gather) {
        let (pieces, count) = gather.vectors();
        let entry = opcode::Writev::new(types::Fixed(fixed::TUN), pieces, count)
            .build()
            .user_data(Kind::Written.tag(usize::from(gather.number())));
        self.hold(gather);
        self.push(&entry);
    }

    fn hold(&mut self, gather: Gather) {
        self.running += 1;
        self.running_now += 1;
        let place = &mut self.submitted[usize::from(gather.number())];
        assert!(place.is_none(), "a gather has one owner and its number is unique");
        *place = Some(gather);
    }

    fn push_lasting(&mut self, entry: &squeue::Entry) {
        self.running += 1;
        self.push(entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to lives until its last completion was reaped: gathers
        // are in `submitted`, the receive header is boxed in `self`, and frames are in `pools`.
        // All three outlast the requests because `Drop` reaps first, and they are leaked where
        // it cannot.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the submission queue is sized for every request there can be");
    }

    /// Submits everything, and runs the sends and writes to their end unless other completions
    /// come first. If `wait`, sleeps until something besides them has happened.
    ///
    /// # Errors
    /// What `io_uring_enter(2)` says. `EINTR`, and `EBUSY` or `EAGAIN` of a completion queue that
    /// must be drained first, are not errors.
    pub fn enter(&mut self, wait: bool) -> io::Result<()> {
        const GETEVENTS: u32 = 1;
        // With nothing to wait for, the kernel would run one link of a chain an entry.
        let want = self.running_now + u32::from(wait);
        let submissions = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed, so the kernel reads nothing but the submission queue,
        // whose entries are valid as `push` says.
        let entered = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(submissions, want, GETEVENTS, None)
        };
        ignore_passing(entered)
    }

    /// Whether sends or writes are to be submitted or reaped.
    #[must_use]
    pub fn has_submissions(&self) -> bool {
        self.running_now > 0
    }

    /// Whether there is a completion to reap.
    pub fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// The next completion, if there is one.
    pub fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let (kind, number) = Kind::of(entry.user_data());
        let more = io_uring::cqueue::more(entry.flags());
        let frame = io_uring::cqueue::buffer_select(entry.flags());
        let result = Errno::check(entry.result());
        if !more {
            self.running -= 1;
        }
        Some(match kind {
            Kind::Packet => {
                // SAFETY: this completion is of the multishot read in the TUN pool's group, and
                // it was popped from the queue just now.
                let take = |index, length| unsafe { self.pools.tun.take(index, length) };
                Completion::Packet { result: completion::received(frame, result, take), more }
            }
            Kind::Datagram => {
                // SAFETY: as above, for the multishot receive in the UDP pool's group.
                let take = |index, length| unsafe { self.pools.udp.take(index, length) };
                let result = completion::received(frame, result, take);
                let result = result.map(Datagram::new);
                Completion::Datagram { socket: number, result, more }
            }
            Kind::Sent => Completion::Sent { gather: self.release(number), result },
            Kind::Written => Completion::Written { gather: self.release(number), result },
            Kind::Wake => Completion::Woken { more },
            Kind::Writable => Completion::Writable { socket: number },
            Kind::Cancel => Completion::Cancelled,
        })
    }

    fn release(&mut self, number: usize) -> Gather {
        self.running_now -= 1;
        self.submitted[number].take().expect("the kernel completes what was submitted, once")
    }

    /// Cancels every request and waits for all of them, for `patience` at most. True when the
    /// kernel has none left. What they still bring is handed to `handle`.
    pub fn cancel_all(&mut self, patience: Duration, mut handle: impl FnMut(Completion)) -> bool {
        let deadline = Instant::now() + patience;
        while self.running > 0 {
            let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
            self.push_lasting(&cancel.user_data(Kind::Cancel.tag(0)));
            let pause = types::Timespec::from(Duration::from_millis(20));
            let arguments = types::SubmitArgs::new().timespec(&pause);
            let entered = self.ring.submitter().submit_with_args(1, &arguments);
            let timed_out =
                matches!(&entered, Err(error) if error.raw_os_error() == Some(libc::ETIME));
            if !timed_out && ignore_passing(entered).is_err() {
                break;
            }
            while let Some(completion) = self.completion() {
                handle(completion);
            }
            if Instant::now() > deadline {
                break;
            }
        }
        self.running == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let idle = self.cancel_all(TEARDOWN, drop);
        // Without this the device would live until the kernel has torn the ring down, which it
        // does some time after the close.
        let _ = self.ring.submitter().unregister_files();
        if !idle {
            for gather in self.submitted.drain(..) {
                std::mem::forget(gather);
            }
            self.pools.tun.leak();
            self.pools.udp.leak();
            std::mem::forget(std::mem::replace(
                &mut self.receive_header,
                Box::new(completion::receive_header()),
            ));
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("fd", &self.ring.as_raw_fd())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

fn ignore_passing(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}
