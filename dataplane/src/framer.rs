//! How inner packets are put into datagrams and taken out again.

use std::ops::Range;

use weft_forward::{checksum::Sum, drops::DropReason, segment::Plan};
use weft_sys::{frame::Frame, gather::Gather};

/// Payloads up to this length are copied into the train: cheaper than a piece of their own, which
/// the kernel would have to walk, and the frame is free again at once. In bytes.
pub(crate) const COPY_MAX: usize = 256;

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

/// The datagram format of a peer.
pub(crate) trait Framer {
    /// Bytes that a datagram is longer than its inner packet.
    fn overhead(&self) -> usize;

    /// Appends `segment` for the peer in `slot` to a train. The train has room for it.
    fn frame(&mut self, slot: u16, segment: &Segment<'_>, train: &mut Gather);

    /// Appends a whole inner packet that lies in plain memory: a fragment, or a segment that is
    /// sent once more. The train has room for it.
    fn frame_copy(&mut self, slot: u16, packet: &[u8], train: &mut Gather);

    /// The range of the inner packet in `datagram`, which came from the peer in `slot` (`None`:
    /// from an address that is merely allowed).
    ///
    /// # Errors
    /// Why the datagram holds no packet for us.
    fn unframe(&mut self, slot: Option<u16>, datagram: &[u8]) -> Result<Range<usize>, DropReason>;
}

/// flannel's format: the payload is the inner packet.
#[derive(Debug, Default)]
pub(crate) struct Plain;

impl Framer for Plain {
    fn overhead(&self) -> usize {
        0
    }

    #[inline]
    fn frame(&mut self, _slot: u16, segment: &Segment<'_>, train: &mut Gather) {
        let packet = &segment.frame.bytes()[segment.offset..];
        let header = segment.plan.header_len();
        if header > 0 {
            let place = train.push_space(header);
            segment.plan.write_header(packet, segment.index, place, segment.sum);
        }
        let payload = segment.plan.payload(segment.index);
        if payload.len() <= COPY_MAX {
            train.push_copy(&packet[payload]);
        } else {
            let range = payload.start + segment.offset..payload.end + segment.offset;
            train.push_frame(segment.frame, range);
        }
    }

    fn frame_copy(&mut self, _slot: u16, packet: &[u8], train: &mut Gather) {
        train.push_copy(packet);
    }

    #[inline]
    fn unframe(&mut self, _slot: Option<u16>, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
        Ok(0..datagram.len())
    }
}
