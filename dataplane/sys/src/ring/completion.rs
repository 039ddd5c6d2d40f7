//! What comes back from the kernel.

#![expect(unsafe_code, reason = "zeroes a msghdr")]

use std::{fmt, io, net::SocketAddr};

use crate::{
    frame::Frame,
    gather::Gather,
    udp::{RECEIVE_CONTROL_LENGTH, Received, SockAddr, parse_control},
};

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// The socket buffer is full.
    pub const AGAIN: Errno = Errno(libc::EAGAIN);
    /// An earlier request of the chain failed, or the request was cancelled.
    pub const CANCELED: Errno = Errno(libc::ECANCELED);
    /// No frame is left to receive into, or the kernel has no memory for the packet.
    pub const NOBUFS: Errno = Errno(libc::ENOBUFS);
    /// A datagram is larger than the path takes.
    pub const MSGSIZE: Errno = Errno(libc::EMSGSIZE);
    /// A train was refused: no checksum offload on the way out.
    pub const IO: Errno = Errno(libc::EIO);
    /// A train was refused.
    pub const INVAL: Errno = Errno(libc::EINVAL);
    /// There is no route to the peer's network.
    pub const NETUNREACH: Errno = Errno(libc::ENETUNREACH);
    /// The peer does not answer on its link.
    pub const HOSTUNREACH: Errno = Errno(libc::EHOSTUNREACH);
    /// A firewall refuses the datagram.
    pub const PERM: Errno = Errno(libc::EPERM);
    /// A policy or a prohibiting route refuses the datagram.
    pub const ACCES: Errno = Errno(libc::EACCES);
    /// The file was taken away: the device is gone.
    pub const BADFD: Errno = Errno(libc::EBADFD);

    /// What the last system call of this thread said when it failed.
    pub(crate) fn last() -> Errno {
        Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    pub(crate) fn check(result: i32) -> Result<u32, Errno> {
        u32::try_from(result).map_err(|_| Errno(-result))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(formatter)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// One completed step.
#[derive(Debug)]
pub enum Completion {
    /// A packet from the TUN device, virtio-net header first.
    Packet {
        /// The bytes, or why reading ended.
        result: Result<Frame, Errno>,
        /// Whether reading goes on by itself.
        more: bool,
    },
    /// A datagram, or several that the kernel joined.
    Datagram {
        /// The number of the socket.
        socket: usize,
        /// What came, or why receiving ended.
        result: Result<Datagram, Errno>,
        /// Whether receiving goes on by itself.
        more: bool,
    },
    /// A send is done; the result is the number of bytes that the kernel took.
    Sent {
        /// What was sent.
        gather: Gather,
        /// Bytes, or why not.
        result: Result<u32, Errno>,
    },
    /// A write is done; the result is the number of bytes that the kernel took.
    Written {
        /// What was written.
        gather: Gather,
        /// Bytes, or why not.
        result: Result<u32, Errno>,
    },
    /// Another thread wrote to the wake eventfd.
    Woken {
        /// Whether the next write will be reported by itself.
        more: bool,
    },
    /// A socket takes data again.
    Writable {
        /// The number of the socket.
        socket: usize,
    },
    /// A cancellation is done.
    Cancelled,
}

/// Bytes of the peer's address field; `struct sockaddr_in6` has 28.
const NAME: usize = 32;

/// Bytes of `struct io_uring_recvmsg_out` (`include/uapi/linux/io_uring.h`).
const OUT: usize = 16;

/// A received datagram, or a train of them that UDP GRO joined.
#[derive(Debug)]
pub struct Datagram {
    /// The payload.
    pub payload: Frame,
    /// Where it came from; `None` if the kernel named no IP address.
    pub sender: Option<SocketAddr>,
    /// What the kernel said beside it.
    pub control: Received,
    /// Whether payload was cut off because the frame was too small.
    pub truncated: bool,
}

impl Datagram {
    /// Bytes of a frame before the payload.
    pub const OVERHEAD: usize = OUT + NAME + RECEIVE_CONTROL_LENGTH;

    /// Takes apart what a multishot `recvmsg` wrote: header, name, control, payload.
    pub(crate) fn new(mut frame: Frame) -> Datagram {
        let bytes = frame.bytes();
        if bytes.len() < Datagram::OVERHEAD {
            let payload_start = bytes.len();
            frame.narrow(payload_start..payload_start);
            let control = Received::default();
            return Datagram { payload: frame, sender: None, control, truncated: true };
        }
        let word = |index: usize| {
            let bytes = bytes[index * 4..index * 4 + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        let lengths = Lengths {
            name: word(0) as usize,
            control: word(1) as usize,
            payload: word(2) as usize,
            truncated: word(3) & libc::MSG_TRUNC as u32 != 0,
        };
        Datagram::assemble(frame, lengths)
    }

    /// Takes apart a frame with name, control and payload in their places. It is not shorter than
    /// [`Datagram::OVERHEAD`]; what else `lengths` says is not trusted.
    pub(crate) fn assemble(mut frame: Frame, lengths: Lengths) -> Datagram {
        let bytes = frame.bytes();
        let sender = SockAddr::parse(&bytes[OUT..OUT + lengths.name.min(NAME)]);
        let control = &bytes[OUT + NAME..][..lengths.control.min(RECEIVE_CONTROL_LENGTH)];
        let control = parse_control(control);
        let available = bytes.len() - Datagram::OVERHEAD;
        let truncated = lengths.truncated || lengths.payload > available;
        let end = Datagram::OVERHEAD + lengths.payload.min(available);
        frame.narrow(Datagram::OVERHEAD..end);
        Datagram { payload: frame, sender, control, truncated }
    }

    /// Where name, control and payload go in the bytes of a frame.
    pub(crate) fn places(bytes: &mut [u8]) -> [&mut [u8]; 3] {
        let (name, rest) = bytes[OUT..].split_at_mut(NAME);
        let (control, payload) = rest.split_at_mut(RECEIVE_CONTROL_LENGTH);
        [name, control, payload]
    }
}

/// How long the parts of a received message are, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub name: usize,
    pub control: usize,
    pub payload: usize,
    /// The payload did not fit.
    pub truncated: bool,
}

/// The header that a multishot `recvmsg` takes its field lengths from.
pub(super) fn receive_header() -> libc::msghdr {
    // SAFETY: msghdr is plain old data; the kernel uses nothing of it but the two lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME as libc::socklen_t;
    header.msg_controllen = RECEIVE_CONTROL_LENGTH as _;
    header
}

/// Joins the two halves of a receive completion: its result, and the frame it filled.
pub(super) fn received(
    frame: Option<u16>,
    result: Result<u32, Errno>,
    take: impl FnOnce(u16, usize) -> Frame,
) -> Result<Frame, Errno> {
    match (frame, result) {
        (Some(index), Ok(length)) => Ok(take(index, length as usize)),
        // The frame goes back at once.
        (Some(index), Err(error)) => {
            drop(take(index, 0));
            Err(error)
        }
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(Errno::NOBUFS),
    }
}

/// What a request was, as its user data says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Packet = 1,
    Datagram,
    Sent,
    Written,
    Wake,
    Writable,
    Cancel,
}

impl Kind {
    pub(super) fn tag(self, number: usize) -> u64 {
        (self as u64) << 32 | number as u64
    }

    pub(super) fn of(tag: u64) -> (Kind, usize) {
        let number = (tag & 0xffff_ffff) as usize;
        let kind = match tag >> 32 {
            1 => Kind::Packet,
            2 => Kind::Datagram,
            3 => Kind::Sent,
            4 => Kind::Written,
            5 => Kind::Wake,
            6 => Kind::Writable,
            7 => Kind::Cancel,
            other => unreachable!("the kernel gives back the user data it got, not {other}"),
        };
        (kind, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back() {
        for kind in [
            Kind::Packet,
            Kind::Datagram,
            Kind::Sent,
            Kind::Written,
            Kind::Wake,
            Kind::Writable,
            Kind::Cancel,
        ] {
            assert_eq!(Kind::of(kind.tag(77)), (kind, 77));
        }
    }
}
