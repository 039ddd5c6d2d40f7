//! Several sockets at one address and port, and which of them takes a datagram.
//!
//! Worker number *n* of a sender has the source port *P + n*, where *P* is the port that all receive
//! on. The group gives a datagram to the socket of the same number, modulo how many there are, so that
//! what one worker sent stays with one worker. *P* itself is worker 0's and that of everybody who sends
//! from one port only.
#![expect(unsafe_code, reason = "the standard library cannot attach a program to a socket")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use super::{SocketError, SocketOptions, UdpSocket, option};

/// Source ports in a row that one host may have, and so its workers: what the largest machines
/// have processors for, with room before the next service's port.
pub const SOURCE_PORTS_MAX: u16 = 64;

impl UdpSocket {
    /// Opens `count` sockets at `local` that divide what arrives by its source port. The first one
    /// is bound like [`UdpSocket::bind`] does it, so nobody else can have the port.
    ///
    /// # Errors
    ///
    /// See [`SocketError`]. No socket is left open.
    pub fn bind_group(
        local: SocketAddr,
        options: &SocketOptions,
        count: u16,
    ) -> Result<Vec<UdpSocket>, SocketError> {
        let describe = |context| move |source| SocketError::Io { address: local, context, source };
        let first = UdpSocket::bind(local, options)?;
        if count <= 1 {
            return Ok(vec![first]);
        }
        // The kernel looks at the option when the next one is bound.
        option::set_reuse_port(first.as_fd()).map_err(describe("share the port"))?;
        let local = first.local();
        let mut group = vec![first];
        let shared = SocketOptions { reuse_port: true, ..*options };
        while group.len() < usize::from(count) {
            group.push(UdpSocket::bind(local, &shared)?);
        }
        let program = by_source_port(local, count);
        attach(group[0].as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, &program)
            .map_err(describe("divide what arrives"))?;
        Ok(group)
    }

    /// Opens a socket that only sends: whatever arrives for it is dropped at once.
    ///
    /// # Errors
    ///
    /// See [`SocketError`]. No socket is left open.
    pub fn bind_sender(
        local: SocketAddr,
        options: &SocketOptions,
    ) -> Result<UdpSocket, SocketError> {
        let describe = |context| move |source| SocketError::Io { address: local, context, source };
        let socket = UdpSocket::bind(local, options)?;
        attach(socket.as_fd(), libc::SO_ATTACH_FILTER, &nothing())
            .map_err(describe("refuse what arrives"))?;
        Ok(socket)
    }
}

/// `SKF_NET_OFF` of `include/uapi/linux/filter.h`: offsets from here on count from the IP header.
/// Without it they would count from the datagram's payload, behind the source port.
const NETWORK: u32 = -0x10_0000_i32 as u32;

/// Bytes of an IPv6 header. Extension headers between it and UDP are not looked for: what has some
/// is given to any socket.
const IPV6_LENGTH: u32 = 40;

/// Operations of `include/uapi/linux/bpf_common.h` and `filter.h`.
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_WORD: u16 = 0x28;
const LOAD_HALF_WORD_BEHIND_INDEX: u16 = 0x48;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SUBTRACT: u16 = 0x14;
const MODULO: u16 = 0x94;
const SET_INDEX: u16 = 0x07;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const RETURN_RESULT: u16 = 0x16;

fn by_source_port(local: SocketAddr, count: u16) -> Vec<libc::sock_filter> {
    let mut program = if local.is_ipv4() {
        vec![
            step(LOAD_BYTE, NETWORK),
            step(AND, 15),
            step(SHIFT_LEFT, 2),
            step(SET_INDEX, 0),
            step(LOAD_HALF_WORD_BEHIND_INDEX, NETWORK),
        ]
    } else {
        vec![step(LOAD_HALF_WORD, NETWORK.wrapping_add(IPV6_LENGTH))]
    };
    program.extend([
        step(SUBTRACT, u32::from(local.port())),
        // Ports below ours are far above after the subtraction.
        libc::sock_filter { code: IF_AT_LEAST, jt: 2, jf: 0, k: u32::from(SOURCE_PORTS_MAX) },
        step(MODULO, u32::from(count)),
        step(RETURN_RESULT, 0),
        step(RETURN, 0),
    ]);
    program
}

/// Takes no byte of any packet.
fn nothing() -> Vec<libc::sock_filter> {
    vec![step(RETURN, 0)]
}

fn step(code: u16, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k: operand }
}

fn attach(
    socket: BorrowedFd<'_>,
    name: libc::c_int,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("programs are short"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads one `struct sock_fprog`, the length given, and through it as many
    // instructions as it says, which is the length of the slice. Both outlive the call, and neither
    // is written to or kept.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            ptr::from_ref(&program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
