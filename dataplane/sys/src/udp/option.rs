//! Socket options, by what they are for.
#![expect(unsafe_code, reason = "the standard library cannot set these options before binding")]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::address::{self, SockAddr};

/// Sizes of a socket's buffers in bytes, in the unit they are asked for: half of what the kernel
/// reports, because it doubles every request to pay for its own bookkeeping (`socket(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// For datagrams received and not yet read.
    pub receive: usize,
    /// For datagrams sent and not yet taken by the device.
    pub send: usize,
}

/// A nonblocking UDP socket of the family of `ip`, not yet bound. IPv6 means IPv6 only.
pub(super) fn open(ip: IpAddr) -> io::Result<UdpSocket> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `socket` takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(address::family(ip), kind, libc::IPPROTO_UDP) };
    check(fd)?;
    // SAFETY: `fd` was returned by `socket` just now and not shown to anybody, so this is its only
    // owner.
    let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    if ip.is_ipv6() {
        set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(socket)
}

pub(super) fn bind(socket: BorrowedFd<'_>, local: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(local);
    let bytes = address.as_bytes();
    // SAFETY: `bind` reads `bytes.len()` bytes from the pointer during the call, which is the
    // length of that very slice, and `address` outlives the call.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t)
    };
    check(result)
}

/// Never fragment, obey the path MTU.
pub(super) fn set_path_mtu_discovery(socket: BorrowedFd<'_>, ip: IpAddr) -> io::Result<()> {
    if ip.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    }
}

/// Send the number of dropped datagrams along with each received one.
pub(super) fn set_drop_counter(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

pub(super) fn set_reuse_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

pub(super) fn set_gro(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Does the kernel know `UDP_SEGMENT`?
pub(super) fn has_segmentation(socket: BorrowedFd<'_>) -> bool {
    get(socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
}

/// The path MTU of a connected socket, in bytes including the IP header.
pub(super) fn mtu(socket: BorrowedFd<'_>, ip: IpAddr) -> io::Result<u32> {
    let mtu = if ip.is_ipv4() {
        get(socket, libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        get(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU)
    }?;
    u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Set both buffers past the host's limits (`net.core.rmem_max`, `wmem_max`) if this process has
/// CAP_NET_ADMIN, else as far as they allow.
pub(super) fn set_buffers(
    socket: BorrowedFd<'_>,
    receive: usize,
    send: usize,
) -> io::Result<BufferSizes> {
    set_buffer(socket, receive, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
    set_buffer(socket, send, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
    Ok(BufferSizes {
        receive: buffer(socket, libc::SO_RCVBUF)?,
        send: buffer(socket, libc::SO_SNDBUF)?,
    })
}

fn set_buffer(
    socket: BorrowedFd<'_>,
    bytes: usize,
    forced: libc::c_int,
    limited: libc::c_int,
) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set(socket, libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| set(socket, libc::SOL_SOCKET, limited, bytes))
}

fn buffer(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<usize> {
    let doubled = get(socket, libc::SOL_SOCKET, name)?;
    Ok(usize::try_from(doubled).unwrap_or(0) / 2)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the given length says, which is the size of
    // `value`, during the call. Options that want a larger structure check the length and refuse.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result)
}

fn get(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, and the new length.
    // Both are ours alone until the call returns, and every byte pattern is an `int`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(value)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
