//! Readiness of a worker's files, for kernels without a ring.
//!
//! Readiness is told when it begins and not again while it lasts (edge-triggered), so whoever is
//! told remembers it until the file says that it has no more.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use crate::ring::{Files, SOCKETS_MAX};

const TUN: Token = Token(0);
const WAKE: Token = Token(1);
const FIRST_SOCKET: usize = 2;

/// A file and what it is ready for. An error counts as readable: reading tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The TUN device has packets.
    Tun,
    /// Another thread wrote to the wake eventfd.
    Wake,
    /// A socket has datagrams, takes some again, or both.
    Socket {
        /// The number of the socket.
        number: usize,
        /// It has datagrams.
        readable: bool,
        /// It takes data. Told only while it is watched for that.
        writable: bool,
    },
}

/// Waits for the files of one worker, which stay the worker's.
#[derive(Debug)]
pub struct Poller {
    poll: Poll,
    events: Events,
}

impl Poller {
    /// Watches all files for what they bring.
    ///
    /// # Errors
    /// What `epoll_create1(2)` or `epoll_ctl(2)` say.
    pub fn new(files: &Files) -> io::Result<Poller> {
        let poll = Poll::new()?;
        let watch = |file: RawFd, token| {
            poll.registry().register(&mut SourceFd(&file), token, Interest::READABLE)
        };
        watch(files.tun.as_raw_fd(), TUN)?;
        watch(files.wake.as_raw_fd(), WAKE)?;
        for (number, socket) in files.sockets.iter().enumerate() {
            watch(socket.as_raw_fd(), Token(FIRST_SOCKET + number))?;
        }
        Ok(Poller { poll, events: Events::with_capacity(FIRST_SOCKET + SOCKETS_MAX) })
    }

    /// Watches socket number `socket` for room too, or no longer. If it has room already, that is
    /// told. Not for ever, because each datagram that leaves the buffer would be told.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` says.
    pub fn watch_writable(&self, files: &Files, socket: usize, watch: bool) -> io::Result<()> {
        let file = files.sockets[socket].as_raw_fd();
        let interest =
            if watch { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let token = Token(FIRST_SOCKET + socket);
        self.poll.registry().reregister(&mut SourceFd(&file), token, interest)
    }

    /// Asks what has become ready; if `sleep`, waits until something has.
    ///
    /// # Errors
    /// What `epoll_wait(2)` says. `EINTR` is not an error.
    pub fn wait(&mut self, sleep: bool) -> io::Result<()> {
        let timeout = if sleep { None } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether the last [`Poller::wait`] found something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the last [`Poller::wait`] found.
    pub fn ready(&self) -> impl Iterator<Item = Ready> + '_ {
        self.events.iter().map(|event| match event.token() {
            TUN => Ready::Tun,
            WAKE => Ready::Wake,
            Token(token) => Ready::Socket {
                number: token - FIRST_SOCKET,
                readable: event.is_readable() || event.is_error() || event.is_read_closed(),
                writable: event.is_writable(),
            },
        })
    }
}
