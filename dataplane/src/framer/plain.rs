//! flannel's format: the payload is the inner packet.

use std::{net::SocketAddr, ops::Range};

use weft_forward::drops::DropReason;
use weft_sys::{gather::Gather, ring::Datagram};

use super::{COPY_MAX, Framer, Origin, Room, Segment, Senders, Unframed};
use crate::sealing::PeerName;

/// The framer of flannel's format.
#[derive(Debug, Default)]
pub(crate) struct Plain;

impl Framer for Plain {
    const SENDERS: Senders = Senders::Address;

    fn overhead(&self, _peer: PeerName) -> usize {
        0
    }

    fn is_plain(&self, _peer: PeerName) -> bool {
        true
    }

    #[inline]
    fn admit(&mut self, _peer: PeerName, _count: usize) -> Result<Option<SocketAddr>, DropReason> {
        Ok(None)
    }

    fn keep(&mut self, _peer: PeerName, _packet: &[u8]) -> bool {
        false
    }

    fn want(&mut self, _peer: PeerName) {}

    #[inline]
    fn room(&self, segment: &Segment<'_>, _mtu: usize) -> Room {
        Room { length: segment.len(), written: segment.plan.header_len(), copy: COPY_MAX }
    }

    #[inline]
    fn frame(&mut self, segment: &Segment<'_>, _mtu: usize, train: &mut Gather) {
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

    fn room_copy(&self, length: usize, _mtu: usize) -> Room {
        Room { length, written: length, copy: 0 }
    }

    fn frame_copy(&mut self, packet: &[u8], _mtu: usize, train: &mut Gather) {
        train.push_copy(packet);
    }

    fn recover(&self, _peer: PeerName, datagram: &mut [u8]) -> Option<Range<usize>> {
        Some(0..datagram.len())
    }

    fn open(&mut self, _datagram: &mut Datagram, _size: usize) -> usize {
        0
    }

    #[inline]
    fn unframe(&mut self, _number: usize, datagram: &[u8]) -> Result<Option<Unframed>, DropReason> {
        Ok(Some(Unframed { range: 0..datagram.len(), origin: Origin::Outer }))
    }
}
