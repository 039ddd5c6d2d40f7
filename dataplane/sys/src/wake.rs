//! Waking a worker that sleeps in its ring.

#![expect(unsafe_code, reason = "calls eventfd, read and write")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The writing half of an eventfd. Any thread may use it at any time.
#[derive(Debug)]
pub struct Waker(OwnedFd);

/// Makes an eventfd: the half that wakes, and the half that goes into the ring.
///
/// # Errors
/// What `eventfd(2)` or `dup(2)` say.
pub fn wake_pair() -> io::Result<(Waker, OwnedFd)> {
    // SAFETY: eventfd takes two numbers and no address.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now, and nobody else has it.
    let event = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let other = event.try_clone()?;
    Ok((Waker(event), other))
}

impl Waker {
    /// Wakes the worker. Does nothing if it has a wake-up pending.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the eight bytes are a local array. A full counter (EAGAIN) means that a
        // wake-up is pending already, so the result does not matter.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Takes back the wake-ups that have come. The next one will be reported again.
pub fn clear(event: &OwnedFd) {
    let mut count = [0u8; 8];
    // SAFETY: an eventfd read writes eight bytes, and the array has eight. EAGAIN (nothing was
    // pending) is as good.
    let _ = unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}
