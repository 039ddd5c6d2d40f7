//! Gathers: what one `sendmsg` or `writev` puts together.
//!
//! A gather is a list of pieces. A piece lies either in the gather's own arena (headers, and
//! payloads small enough that copying them is cheaper than a piece of their own) or in a
//! received [`Frame`], which the gather then holds until it is reset. A gather is submitted by
//! value and comes back with its completion, so nothing it refers to can change meanwhile.

#![expect(unsafe_code, reason = "builds the iovec array that the kernel reads")]

use std::{ops::Range, ptr};

use arrayvec::ArrayVec;

use crate::{
    frame::Frame,
    region::{Region, Span},
    udp::{SegmentControl, SockAddr},
};

/// Segments that one train can have, and so the headers of one gather: `UDP_MAX_SEGMENTS` of
/// Linux 6.9 and newer (`include/linux/udp.h`).
pub const SEGMENTS_MAX: usize = 128;

/// A header and a payload for each segment, and one more header (virtio-net).
pub const PIECES_MAX: usize = 2 * SEGMENTS_MAX + 1;

/// Bytes of a gather's arena: 128 headers of 100 bytes, or 128 copies of up to 256 bytes, and
/// the virtio-net and IP headers of a joined packet.
pub const ARENA: usize = 128 * 256 + 256;

/// A reusable list of pieces for one send or write.
#[derive(Debug)]
pub struct Gather(Box<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES_MAX],
    count: usize,
    length: usize,
    arena: Span,
    arena_bytes: usize,
    used: usize,
    frames: ArrayVec<Frame, SEGMENTS_MAX>,
    name: SockAddr,
    control: SegmentControl,
    number: u16,
}

impl Gather {
    /// Makes an empty gather with an arena of [`ARENA`] bytes in `region`. `number` is the caller's name
    /// for it and never changes.
    #[must_use]
    pub fn new(region: &Region, number: u16) -> Gather {
        Gather::with_arena(region, number, ARENA)
    }

    /// The same with an arena of `bytes`.
    #[must_use]
    pub fn with_arena(region: &Region, number: u16, bytes: usize) -> Gather {
        const EMPTY: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: msghdr is plain old data; all zero means no name, no pieces, no control.
        let header = unsafe { std::mem::zeroed() };
        Gather(Box::new(Inner {
            header,
            pieces: [EMPTY; PIECES_MAX],
            count: 0,
            length: 0,
            arena: region.take(bytes, 64),
            arena_bytes: bytes,
            used: 0,
            frames: ArrayVec::new(),
            name: SockAddr::default(),
            control: SegmentControl::default(),
            number,
        }))
    }

    /// Bytes of its arena.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.0.arena_bytes
    }

    /// The caller's name for this gather.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.0.number
    }

    /// Forgets all pieces and lets go of the frames.
    pub fn reset(&mut self) {
        self.0.count = 0;
        self.0.length = 0;
        self.0.used = 0;
        self.0.frames.clear();
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether there are no pieces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Whether a header of `header` bytes in the arena and one more piece fit, whatever it is:
    /// a frame's bytes, or a copy of up to `copy` bytes.
    #[must_use]
    #[inline]
    pub fn has_room(&self, header: usize, copy: usize) -> bool {
        self.0.count + 2 <= PIECES_MAX
            && self.0.used + header + copy <= self.0.arena_bytes
            && !self.0.frames.is_full()
    }

    /// Appends `length` bytes of the arena, to be filled by the caller. They hold old bytes.
    ///
    /// # Panics
    /// When the arena or the piece list is full: ask [`Gather::has_room`] first.
    #[inline]
    pub fn push_space(&mut self, length: usize) -> &mut [u8] {
        let start = self.0.used;
        let end = start + length;
        assert!(end <= self.0.arena_bytes, "has_room was asked");
        self.0.used = end;
        let base = self.0.arena.base().as_ptr().wrapping_add(start);
        self.push_piece(base.cast_const(), length);
        &mut self.0.arena.bytes_mut()[start..end]
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Panics
    /// As [`Gather::push_space`].
    #[inline]
    pub fn push_copy(&mut self, bytes: &[u8]) {
        self.push_space(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends `range` of what `frame` shows, without copying; holds the frame.
    ///
    /// # Panics
    /// When the range is not within the frame, or there is no room.
    #[inline]
    pub fn push_frame(&mut self, frame: &Frame, range: Range<usize>) {
        let bytes = &frame.bytes()[range];
        if !self.0.frames.last().is_some_and(|last| last.same_frame(frame)) {
            self.0.frames.push(frame.clone());
        }
        self.push_piece(bytes.as_ptr(), bytes.len());
    }

    #[inline]
    fn push_piece(&mut self, base: *const u8, length: usize) {
        let inner = &mut *self.0;
        inner.length += length;
        if let Some(last) = inner.count.checked_sub(1).map(|last| &mut inner.pieces[last])
            && last.iov_base.cast_const().cast::<u8>().wrapping_add(last.iov_len) == base
        {
            last.iov_len += length;
            return;
        }
        inner.pieces[inner.count] =
            libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length };
        inner.count += 1;
    }

    /// Copies the bytes at `range` of the whole gather to the start of `out`, across pieces.
    ///
    /// # Panics
    /// When the range is not within the gather, or `out` is shorter than it.
    pub fn copy_out(&self, range: Range<usize>, out: &mut [u8]) {
        assert!(range.end <= self.0.length && range.start <= range.end, "range is in the gather");
        let mut skip = range.start;
        let mut filled = 0;
        let wanted = range.end - range.start;
        for piece in &self.0.pieces[..self.0.count] {
            if filled == wanted {
                break;
            }
            if skip >= piece.iov_len {
                skip -= piece.iov_len;
                continue;
            }
            // SAFETY: `skip < iov_len`, so the result is inside the piece.
            let base = unsafe { piece.iov_base.cast_const().cast::<u8>().add(skip) };
            // SAFETY: a piece lies in our arena, which `&self` keeps from being written, or in a
            // frame of which we hold a handle; both are initialised for the piece's length.
            let bytes = unsafe { std::slice::from_raw_parts(base, piece.iov_len - skip) };
            let take = bytes.len().min(wanted - filled);
            out[filled..filled + take].copy_from_slice(&bytes[..take]);
            filled += take;
            skip = 0;
        }
    }

    /// Where a send goes.
    #[must_use]
    pub fn name(&self) -> &SockAddr {
        &self.0.name
    }

    /// Sets where a send goes.
    pub fn set_name(&mut self, name: SockAddr) {
        self.0.name = name;
    }

    /// The message header for a send: to the name set, cut into datagrams of `segment` bytes if
    /// that is given. Valid until the gather is touched again or dropped.
    pub(crate) fn message(&mut self, segment: Option<u16>) -> &libc::msghdr {
        let inner = &mut *self.0;
        let name = inner.name.as_bytes();
        inner.header.msg_namelen = name.len() as libc::socklen_t;
        inner.header.msg_name = name.as_ptr().cast_mut().cast();
        inner.header.msg_iov = inner.pieces.as_mut_ptr();
        inner.header.msg_iovlen = inner.count as _;
        match segment {
            None => {
                inner.header.msg_control = ptr::null_mut();
                inner.header.msg_controllen = 0;
            }
            Some(size) => {
                inner.control = SegmentControl::new(size);
                let control = inner.control.as_bytes();
                inner.header.msg_controllen = control.len() as _;
                inner.header.msg_control = control.as_ptr().cast_mut().cast();
            }
        }
        &inner.header
    }

    /// The pieces for a `writev`. Valid until the gather is touched again or dropped.
    pub(crate) fn vectors(&self) -> (*const libc::iovec, u32) {
        (self.0.pieces.as_ptr(), self.0.count as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FramePool, PoolShape};

    fn bytes_of(gather: &Gather) -> Vec<u8> {
        let mut out = vec![0; gather.len()];
        gather.copy_out(0..gather.len(), &mut out);
        out
    }

    #[test]
    fn neighbours_in_the_arena_are_one_piece() {
        let region = Region::map(2 * ARENA).unwrap();
        let mut gather = Gather::new(&region, 0);
        gather.push_copy(b"abc");
        gather.push_space(2).copy_from_slice(b"de");
        assert_eq!(gather.vectors().1, 1);
        assert_eq!(bytes_of(&gather), b"abcde");
        gather.reset();
        assert!(gather.is_empty());
        gather.push_copy(b"x");
        assert_eq!(bytes_of(&gather), b"x");
    }

    #[test]
    fn a_frame_is_held_until_reset() {
        let shape = PoolShape { frames: 2, capacity: 64, stride: 96 };
        let region = Region::map(shape.footprint() + 2 * ARENA).unwrap();
        let pool = FramePool::new(&region, shape, 0);
        pool.fill();
        // SAFETY: no kernel has the ring of this test, and frame 1 is in it.
        let mut frame = unsafe { pool.take(1, 10) };
        frame.bytes_mut().unwrap().copy_from_slice(b"0123456789");
        let mut gather = Gather::new(&region, 0);
        gather.push_copy(b"h");
        gather.push_frame(&frame, 2..4);
        gather.push_copy(b"H");
        gather.push_frame(&frame, 4..6);
        drop(frame);
        assert_eq!(pool.held(), 1);
        assert_eq!(bytes_of(&gather), b"h23H45");
        let mut middle = [0; 3];
        gather.copy_out(2..5, &mut middle);
        assert_eq!(&middle, b"3H4");
        gather.reset();
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn room_ends_with_pieces_and_with_arena() {
        let region = Region::map(2 * ARENA).unwrap();
        let mut gather = Gather::new(&region, 0);
        assert!(gather.has_room(100, ARENA - 100));
        assert!(!gather.has_room(100, ARENA - 99));
        gather.push_space(ARENA - 10);
        assert!(gather.has_room(10, 0));
        assert!(!gather.has_room(11, 0));
    }
}
