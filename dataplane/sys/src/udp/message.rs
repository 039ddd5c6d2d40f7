//! `sendmsg` of slices, and `sendmmsg` and `recvmmsg` of what a worker has.
#![expect(unsafe_code, reason = "the standard library sends no control messages")]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{iter, mem, ptr};

use arrayvec::ArrayVec;

use super::address::SockAddr;
use super::control::SegmentControl;
use crate::frame::{Frame, FramePool};
use crate::gather::Gather;
use crate::ring::{Datagram, Errno, Lengths};

/// Trains that one call sends at most.
pub const SEND_BATCH: usize = 64;

/// Datagrams or trains that one call receives at most.
pub const RECEIVE_BATCH: usize = 32;

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

pub(super) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    trains: impl IntoIterator<Item = (&'a mut Gather, Option<u16>)>,
) -> Result<usize, Errno> {
    let mut messages = ArrayVec::<libc::mmsghdr, SEND_BATCH>::new();
    for (gather, segment) in trains.into_iter().take(SEND_BATCH) {
        messages.push(libc::mmsghdr { msg_hdr: *gather.message(segment), msg_len: 0 });
    }
    let count = messages.len() as libc::c_uint;
    // SAFETY: the kernel writes the lengths into `count` headers, which the array has, and reads
    // what they describe: names, pieces and control messages of gathers, each with its own length.
    // The gathers are borrowed for longer than this function runs, and nobody touches them.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT as _)
    };
    usize::try_from(sent).map_err(|_| Errno::last())
}

pub(super) fn receive_many(
    socket: BorrowedFd<'_>,
    pool: &FramePool,
    mut handle: impl FnMut(Datagram),
) -> Result<bool, Errno> {
    let free = iter::from_fn(|| pool.free_frame());
    let mut frames: ArrayVec<Frame, RECEIVE_BATCH> = free.take(RECEIVE_BATCH).collect();
    if frames.is_empty() {
        return Err(Errno::NOBUFS);
    }
    let mut parts = ArrayVec::<libc::iovec, RECEIVE_BATCH>::new();
    let mut messages = ArrayVec::<libc::mmsghdr, RECEIVE_BATCH>::new();
    for frame in &mut frames {
        let bytes = frame.bytes_mut().expect("a free frame has one handle");
        let [name, control, payload] = Datagram::places(bytes);
        parts.push(libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() });
        let mut message = empty_message();
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = name.len() as libc::socklen_t;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
        messages.push(libc::mmsghdr { msg_hdr: message, msg_len: 0 });
    }
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = messages.len() as libc::c_uint;
    // SAFETY: the kernel writes into `count` headers, which the array has, and where they point:
    // name, control and payload places of frames that nobody else holds, each at most as long as
    // the length beside it, which is that of the slice. Frames and arrays outlive the call, and
    // the frames are not looked at until it has returned.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| Errno::last())?;
    let is_full = received == messages.len();
    for (frame, message) in frames.into_iter().zip(&messages).take(received) {
        handle(Datagram::assemble(frame, lengths(message)));
    }
    Ok(is_full)
}

/// The integer types of such lengths differ between C libraries.
fn lengths(message: &libc::mmsghdr) -> Lengths {
    Lengths {
        name: message.msg_hdr.msg_namelen as usize,
        control: message.msg_hdr.msg_controllen as _,
        payload: message.msg_len as usize,
        truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
    }
}

/// A `struct msghdr` that describes nothing. It has private padding on some C libraries, so it
/// cannot be written out.
fn empty_message() -> libc::msghdr {
    // SAFETY: `struct msghdr` consists of integers and raw pointers, for which all zero bytes are
    // valid values (a null pointer, length 0).
    unsafe { mem::zeroed() }
}
