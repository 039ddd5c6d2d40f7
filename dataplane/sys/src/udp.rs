//! UDP sockets that send and receive trains of datagrams.
//!
//! How every socket is set up, and why:
//!
//! * Nonblocking, closed on `exec`.
//! * `IP_MTU_DISCOVER = IP_PMTUDISC_DO` (and its IPv6 twin): never fragment the outer packet, so
//!   that a path that shrank says so (`EMSGSIZE`).
//! * IPv6 sockets take IPv6 only: a dual-stack socket cannot bind an interface's IPv4 address.
//! * `SO_RXQ_OVFL`: every received datagram tells how many were dropped before it.
//! * `UDP_GRO` as asked: a train arrives in one piece with its segment size.
//! * `IP_RECVERR` stays **off**. With it, an ICMP error about one peer would come back as the error
//!   of whatever is sent next, to any other peer. Without it the kernel keeps path MTUs by itself
//!   and reports them on the send they concern, and an unconnected socket hears of nothing else.

mod address;
mod control;
mod error;
mod group;
mod message;
mod option;
mod probe;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

pub use address::SockAddr;
pub use control::{
    RECEIVE_CONTROL_LENGTH, Received, SEGMENT_CONTROL_LENGTH, SegmentControl, parse_control,
};
pub use error::SocketError;
pub use group::SOURCE_PORTS_MAX;
pub use message::{RECEIVE_BATCH, SEND_BATCH};
pub use option::BufferSizes;
pub use probe::{SEGMENTS_MAX_UNKNOWN, path_mtu, probe_segments_max};

use crate::frame::FramePool;
use crate::gather::Gather;
use crate::ring::{Datagram, Errno};

/// What [`UdpSocket::bind`] is asked for.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Receive buffer in bytes, without the kernel's doubling.
    pub receive_buffer: usize,
    /// Send buffer in bytes, without the kernel's doubling.
    pub send_buffer: usize,
    /// Ask for received trains in one piece (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
    /// Send trains (`UDP_SEGMENT`, Linux 4.18). Otherwise [`UdpSocket::segments_max`] is 1.
    pub gso: bool,
    /// Share address and port with other sockets of this user (`SO_REUSEPORT`).
    ///
    /// With it a second daemon would silently take a part of the flows;
    /// [`UdpSocket::bind_group`] has no such gap.
    pub reuse_port: bool,
}

/// A bound, unconnected UDP socket.
///
/// Sending and receiving may happen from any thread and at the same time. Dropping it closes the
/// descriptor; address and port stay taken until a ring request in flight is gone too.
#[derive(Debug)]
pub struct UdpSocket {
    socket: std::net::UdpSocket,
    local: SocketAddr,
    gro: bool,
    segments_max: u16,
    kernel_segments_max: u16,
    buffers: BufferSizes,
}

impl UdpSocket {
    /// Open a socket at `local`. Port 0 takes any free port.
    ///
    /// Buffers and offloads that cannot be had are not errors: see [`UdpSocket::buffers`],
    /// [`UdpSocket::gro`] and [`UdpSocket::segments_max`] for what was reached.
    ///
    /// # Errors
    ///
    /// See [`SocketError`]. No socket is left open.
    pub fn bind(local: SocketAddr, options: &SocketOptions) -> Result<UdpSocket, SocketError> {
        let describe = |context| move |source| SocketError::Io { address: local, context, source };
        let socket = option::open(local.ip()).map_err(describe("open a descriptor"))?;
        let fd = socket.as_fd();
        option::set_path_mtu_discovery(fd, local.ip())
            .map_err(describe("switch on path MTU discovery"))?;
        option::set_drop_counter(fd).map_err(describe("switch on the drop counter"))?;
        if options.reuse_port {
            option::set_reuse_port(fd).map_err(describe("share the port"))?;
        }
        let buffers = option::set_buffers(fd, options.receive_buffer, options.send_buffer)
            .map_err(describe("set the buffer sizes"))?;
        let gro = options.gro && option::set_gro(fd).is_ok();
        option::bind(fd, local).map_err(|source| explain_bind(source, local))?;

        let local = socket.local_addr().map_err(describe("read the bound address"))?;
        let kernel_segments_max = probe_segments_max(local.ip());
        let segments_max = if options.gso { kernel_segments_max } else { 1 };
        Ok(UdpSocket { socket, local, gro, segments_max, kernel_segments_max, buffers })
    }

    /// Another hand on the same socket. Address and port stay taken as long as one of them is there.
    ///
    /// # Errors
    ///
    /// The process has too many files open.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        Ok(UdpSocket { socket: self.socket.try_clone()?, ..*self })
    }

    /// The bound address, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// True for IPv4, false for IPv6.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.local.is_ipv4()
    }

    /// Do received trains arrive in one piece? False if not asked for or refused.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Datagrams that one send may carry: the kernel's limit, or 1 if trains were not asked for
    /// or the kernel has none.
    #[must_use]
    pub fn segments_max(&self) -> u16 {
        self.segments_max
    }

    /// Datagrams that the kernel takes as one, wherever they come from and whether or not trains
    /// were asked for here.
    #[must_use]
    pub fn kernel_segments_max(&self) -> u16 {
        self.kernel_segments_max
    }

    /// The buffer sizes that were reached.
    #[must_use]
    pub fn buffers(&self) -> BufferSizes {
        self.buffers
    }

    /// The socket of the standard library, for sending and receiving single datagrams.
    #[must_use]
    pub fn as_std(&self) -> &std::net::UdpSocket {
        &self.socket
    }

    /// Sends trains with one system call: each gather to its name, cut into datagrams of the size
    /// beside it if that is given. At most [`SEND_BATCH`] of them; never waits.
    ///
    /// Returns how many were sent. If that is fewer than were given, the next one was refused, and
    /// sending it once more says why.
    ///
    /// # Errors
    ///
    /// The first was refused. `EAGAIN`: the send buffer is full. `EMSGSIZE`: a segment does not fit
    /// the path, or the train is longer than 65,507 bytes. `EINVAL`: more segments than
    /// [`UdpSocket::segments_max`] (older kernels also mean the path). `EIO`: this path cannot
    /// segment.
    pub fn send_trains<'a>(
        &self,
        trains: impl IntoIterator<Item = (&'a mut Gather, Option<u16>)>,
    ) -> Result<usize, Errno> {
        message::send_many(self.as_fd(), trains)
    }

    /// Receives datagrams or trains with one system call, each into a frame of `pool`, and hands
    /// them to `handle` in order. At most [`RECEIVE_BATCH`] of them; never waits.
    ///
    /// Returns whether more may be there.
    ///
    /// # Errors
    ///
    /// [`Errno::NOBUFS`]: the pool has no frame; nothing was received. [`Errno::AGAIN`]: nothing is
    /// there.
    pub fn receive_trains(
        &self,
        pool: &FramePool,
        handle: impl FnMut(Datagram),
    ) -> Result<bool, Errno> {
        message::receive_many(self.as_fd(), pool, handle)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn explain_bind(source: io::Error, address: SocketAddr) -> SocketError {
    match source.kind() {
        io::ErrorKind::AddrInUse => SocketError::Taken { address },
        io::ErrorKind::AddrNotAvailable => SocketError::AddressNotAvailable { address },
        io::ErrorKind::PermissionDenied => SocketError::PermissionDenied { address, source },
        _ => SocketError::Io { address, context: "bind the address", source },
    }
}
