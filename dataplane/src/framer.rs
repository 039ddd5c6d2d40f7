//! How inner packets are put into datagrams and taken out again.

mod offered;
mod plain;
mod sealed;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, ops::Range};

use weft_forward::{checksum::Sum, drops::DropReason, segment::Plan};
use weft_sys::{frame::Frame, gather::Gather, ring::Datagram};

pub(crate) use offered::Offered;
pub(crate) use plain::Plain;
pub(crate) use sealed::Sealed;

use crate::sealing::PeerName;

/// Payloads up to this length are copied into the train: cheaper than a piece of their own, which
/// the kernel would have to walk, and the frame is free again at once. In bytes.
pub(crate) const COPY_MAX: usize = 256;

/// Datagrams that one [`Framer::admit`] is good for.
pub(crate) const ADMITTED_MAX: usize = weft_sys::gather::SEGMENTS_MAX;

/// One inner wire packet on its way out, still in the frame it was read into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// The frame; the packet starts at `offset`.
    pub frame: &'a Frame,
    /// Where the packet starts in the frame.
    pub offset: usize,
    /// How the packet is cut.
    pub plan: &'a Plan,
    /// Which of the wire packets this is.
    pub index: usize,
    /// The fast checksum.
    pub sum: Sum,
}

impl Segment<'_> {
    /// Inner bytes of the segment.
    pub(crate) fn len(&self) -> usize {
        if self.index + 1 == self.plan.count() {
            self.plan.last_len()
        } else {
            self.plan.segment_len()
        }
    }
}

/// What a datagram takes of a train.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes of the datagram.
    pub length: usize,
    /// Bytes of it that are written into the train's arena.
    pub written: usize,
    /// Bytes of the rest that may be copied there.
    pub copy: usize,
}

/// Who sent an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Whoever the datagram's outer source belongs to.
    Outer,
    /// A peer that has proved it.
    Peer(PeerName),
}

/// The inner packet in a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unframed {
    pub range: Range<usize>,
    pub origin: Origin,
}

/// How the sender of a packet is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Senders {
    /// By the outer source of the datagram.
    Address,
    /// From the datagram itself, so that its outer source does not matter.
    Key,
    /// By its key, or by the outer source if it has none.
    KeyOrAddress,
}

/// The datagram format of a worker's peers. Each direction has one of its own.
pub(crate) trait Framer {
    /// How the sender of a packet is known.
    const SENDERS: Senders;

    /// Bytes that a datagram to this peer is longer than the inner packet that it was made for, at
    /// least.
    fn overhead(&self, peer: PeerName) -> usize;

    /// Whether datagrams to and from this peer are in flannel's format.
    fn is_plain(&self, peer: PeerName) -> bool;

    /// A turn begins.
    fn begin_turn(&mut self) {}

    /// Packets of this peer are framed next, at most `count` of them and [`ADMITTED_MAX`]. Gives the
    /// address that they go to, if the framer knows it better than the table.
    ///
    /// # Errors
    /// Why nothing can be sent to the peer now.
    fn admit(&mut self, peer: PeerName, count: usize) -> Result<Option<SocketAddr>, DropReason>;

    /// Takes a whole inner packet for a peer that was not admitted. False if it is not kept.
    fn keep(&mut self, peer: PeerName, packet: &[u8]) -> bool;

    /// Packets for a peer that was not admitted are dropped.
    fn want(&mut self, peer: PeerName);

    /// What a datagram takes that carries `segment`, to a peer of which the path takes `mtu`.
    fn room(&self, segment: &Segment<'_>, mtu: usize) -> Room;

    /// Appends `segment` to a train that has room for it, for a peer that was admitted.
    fn frame(&mut self, segment: &Segment<'_>, mtu: usize, train: &mut Gather);

    /// The same as [`Framer::room`] for an inner packet of `length` bytes that lies in plain memory: a
    /// fragment, or a segment that is sent once more.
    fn room_copy(&self, length: usize, mtu: usize) -> Room;

    /// The same as [`Framer::frame`] for such a packet.
    fn frame_copy(&mut self, packet: &[u8], mtu: usize, train: &mut Gather);

    /// The range of the inner packet in a datagram that was framed for this peer and did not leave.
    /// `None` if nobody can say any more.
    fn recover(&self, peer: PeerName, datagram: &mut [u8]) -> Option<Range<usize>>;

    /// Looks at a received train of datagrams of `size` bytes before any is unframed. Returns how many
    /// of them carry no packet and are dealt with.
    fn open(&mut self, datagram: &mut Datagram, size: usize) -> usize;

    /// The inner packet in `datagram`, number `number` of the train that was opened last. `None` if it
    /// carries none.
    ///
    /// # Errors
    /// Why the datagram holds no packet for us.
    fn unframe(&mut self, number: usize, datagram: &[u8]) -> Result<Option<Unframed>, DropReason>;
}
