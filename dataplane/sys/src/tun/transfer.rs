//! One packet a system call, virtio-net header first.
#![expect(unsafe_code, reason = "reads into frames and writes gathers")]

use std::os::fd::AsRawFd;

use super::Tun;
use crate::{
    frame::{Frame, FramePool},
    gather::Gather,
    ring::Errno,
};

impl Tun {
    /// Reads the next packet into a frame of `pool`. Never waits.
    ///
    /// # Errors
    /// [`Errno::NOBUFS`]: the pool has no frame; nothing was read. [`Errno::AGAIN`]: no packet is
    /// there. [`Errno::BADFD`]: the device is gone.
    pub fn read_packet(&self, pool: &FramePool) -> Result<Frame, Errno> {
        let mut frame = pool.free_frame().ok_or(Errno::NOBUFS)?;
        let place = frame.bytes_mut().expect("a free frame has one handle");
        // SAFETY: the kernel writes at most as many bytes as the slice has, which is borrowed
        // mutably until the call returns.
        let length =
            unsafe { libc::read(self.as_raw_fd(), place.as_mut_ptr().cast(), place.len()) };
        let length = usize::try_from(length).map_err(|_| Errno::last())?;
        frame.narrow(0..length);
        Ok(frame)
    }

    /// Writes a gather as one packet; gives the bytes that the kernel took. Never waits.
    ///
    /// # Errors
    /// What the kernel says to the packet, or [`Errno::BADFD`]: the device is gone.
    pub fn write_packet(&self, gather: &Gather) -> Result<u32, Errno> {
        let (pieces, count) = gather.vectors();
        let count = libc::c_int::try_from(count).expect("a gather has few pieces");
        // SAFETY: the kernel only reads; `count` pieces lie in the gather, and what they point to
        // (its arena, and frames that it holds) lives as long as the gather, which is borrowed.
        let length = unsafe { libc::writev(self.as_raw_fd(), pieces, count) };
        u32::try_from(length).map_err(|_| Errno::last())
    }
}
