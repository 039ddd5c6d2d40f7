//! `sendmsg` and `recvmsg`, one message a call.
#![expect(unsafe_code, reason = "the standard library sends no control messages")]

use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::SockAddr;
use super::control::{RECEIVE_CONTROL_LENGTH, Received, SegmentControl, parse_control};

/// What was received besides the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes of payload in the buffer.
    pub length: usize,
    /// The outer source.
    pub from: Option<SocketAddr>,
    /// Segment size and drop count.
    pub received: Received,
    /// The payload did not fit the buffer; its end is lost.
    pub truncated: bool,
}

/// Control bytes, aligned as the kernel lays them out.
#[repr(align(8))]
struct ControlBuffer([u8; RECEIVE_CONTROL_LENGTH]);

pub(super) fn send(
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    parts: &[IoSlice<'_>],
    control: Option<&SegmentControl>,
) -> io::Result<usize> {
    let name = to.as_bytes();
    let mut message = empty_message();
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len() as libc::socklen_t;
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if let Some(control) = control {
        let bytes = control.as_bytes();
        message.msg_control = bytes.as_ptr().cast_mut().cast();
        message.msg_controllen = bytes.len() as _;
    }
    // SAFETY: for `sendmsg` the kernel only reads. Name and control are described by pointer and
    // length of slices, `parts` is an array of `struct iovec` (the documented layout of `IoSlice`)
    // with its own count, and all are borrowed by this function for longer than the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut name = [0_u8; SockAddr::STORAGE_LENGTH];
    let mut control = ControlBuffer([0; RECEIVE_CONTROL_LENGTH]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = empty_message();
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = name.len() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the kernel writes into name, control and the one part, each at most as long as the
    // length beside its pointer, which is that of the array or slice it was taken from. All three
    // are borrowed mutably or owned here and not looked at until the call has returned.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Datagram {
        length,
        from: SockAddr::parse(written(&name, message.msg_namelen)),
        received: parse_control(written(&control.0, message.msg_controllen)),
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// The part of `buffer` that the kernel says it filled. The integer type of such lengths differs
/// between C libraries. The kernel may name more than there was room for.
fn written(buffer: &[u8], length: impl TryInto<usize>) -> &[u8] {
    let length = length.try_into().unwrap_or(usize::MAX);
    &buffer[..buffer.len().min(length)]
}

/// A `struct msghdr` that describes nothing. It has private padding on some C libraries, so it
/// cannot be written out.
fn empty_message() -> libc::msghdr {
    // SAFETY: `struct msghdr` consists of integers and raw pointers, for which all zero bytes are
    // valid values (a null pointer, length 0).
    unsafe { mem::zeroed() }
}
