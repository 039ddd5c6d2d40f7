//! Packets joined so far, and the headers they are written with.

use arrayvec::ArrayVec;
use zerocopy::FromBytes;

use super::segment::{Segment, Transport, pseudo, transport_offset};
use super::{HEADER_MAX, Limits, SEGMENTS_MAX};
use crate::checksum;
use crate::packet::{self, Family};
use crate::virtio::{self, Gso};
use crate::{ipv4, ipv6, tcp, udp};

/// Flags in which the segments of a group may differ: they are put where they belong when it is cut.
const PLACED: u8 = tcp::FIN | tcp::PSH | tcp::CWR;

/// Where a piece of payload lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<R> {
    /// The caller's meaning.
    pub place: R,
    /// Length in bytes.
    pub length: u16,
}

/// One joined packet, or one that could have been joined and stayed alone.
#[derive(Debug)]
pub struct Group<R> {
    family: Family,
    transport: Transport,
    header: [u8; HEADER_MAX],
    header_length: u8,
    virtio: virtio::Header,
    pieces: ArrayVec<Piece<R>, SEGMENTS_MAX>,
    /// Payload bytes of the first segment and so of every one but the last.
    size: u16,
    payload_length: u32,
    /// FIN and PSH of the last segment.
    last_flags: u8,
    ended: bool,
}

impl<R: Copy> Group<R> {
    /// The virtio header to write first; [`virtio::Header::NONE`] if there is one segment.
    #[inline]
    #[must_use]
    pub const fn virtio(&self) -> virtio::Header {
        self.virtio
    }

    /// The IP and transport header to write next. Of a single segment it is as it was received, of
    /// several it has the whole length and the pseudo header's sum in the place of the checksum.
    #[inline]
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_length)]
    }

    /// The payload, in order, one piece a segment.
    #[inline]
    #[must_use]
    pub fn pieces(&self) -> &[Piece<R>] {
        &self.pieces
    }

    /// How many wire packets this is.
    #[inline]
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.pieces.len()
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> usize {
        self.header_length as usize + self.payload_length as usize
    }

    pub(super) fn new() -> Self {
        Self {
            family: Family::V4,
            transport: Transport::Udp,
            header: [0; HEADER_MAX],
            header_length: 0,
            virtio: virtio::Header::NONE,
            pieces: ArrayVec::new(),
            size: 0,
            payload_length: 0,
            last_flags: 0,
            ended: false,
        }
    }

    /// Starts over with one segment.
    #[inline]
    pub(super) fn begin(&mut self, segment: &Segment, packet: &[u8], payload: R) {
        let length = segment.header_length();
        self.family = segment.family();
        self.transport = segment.transport();
        self.header[..length].copy_from_slice(&packet[..length]);
        self.header_length = length as u8;
        self.virtio = virtio::Header::NONE;
        self.pieces.clear();
        self.size = segment.payload_length();
        self.payload_length = 0;
        self.last_flags = 0;
        self.ended = false;
        self.add(segment, payload);
    }

    /// Whether a segment of the same flow continues this group.
    #[inline]
    pub(super) fn takes(&self, segment: &Segment, packet: &[u8], limits: &Limits) -> bool {
        segment.payload_length() <= self.size
            && segment.header_length() == usize::from(self.header_length)
            && self.length() + usize::from(segment.payload_length()) <= limits.bytes_max
            && self.network_continues(packet)
            && self.transport_continues(segment, packet)
    }

    /// Adds a segment that this group takes.
    #[inline]
    pub(super) fn join(&mut self, segment: &Segment, payload: R) {
        if let Transport::Tcp { flags, .. } = segment.transport() {
            self.last_flags = flags & (tcp::FIN | tcp::PSH);
        }
        self.ended = segment.ends() || segment.payload_length() < self.size;
        self.add(segment, payload);
    }

    /// Whether nothing can be added any more.
    #[inline]
    pub(super) const fn is_complete(&self, limits: &Limits) -> bool {
        self.ended || self.pieces.len() >= limits.segments_max
    }

    /// Writes the headers of the whole. Called once, before the group is handed out.
    pub(super) fn finish(&mut self) {
        if self.segments() < 2 {
            return;
        }
        let offset = transport_offset(self.family);
        let (kind, checksum_offset) = match (self.transport, self.family) {
            (Transport::Tcp { .. }, Family::V4) => (Gso::TcpV4, tcp::CHECKSUM_OFFSET),
            (Transport::Tcp { .. }, Family::V6) => (Gso::TcpV6, tcp::CHECKSUM_OFFSET),
            (Transport::Udp, _) => (Gso::Udp, udp::CHECKSUM_OFFSET),
        };
        self.virtio = virtio::Header {
            gso: kind,
            ecn: matches!(self.transport, Transport::Tcp { flags, .. } if flags & tcp::CWR != 0),
            needs_checksum: true,
            checksum_valid: false,
            header_length: u16::from(self.header_length),
            segment_size: self.size,
            checksum_start: offset as u16,
            checksum_offset: checksum_offset as u16,
        };
        let length = self.length();
        let partial = pseudo(&self.header, self.family, self.transport, (length - offset) as u32);
        let (network, transport) = self.header.split_at_mut(offset);
        write_network(network, self.family, length as u16);
        match self.transport {
            Transport::Tcp { flags, .. } => write_tcp(transport, flags | self.last_flags, partial),
            Transport::Udp => write_udp(transport, (length - offset) as u16, partial),
        }
    }

    #[inline]
    fn add(&mut self, segment: &Segment, payload: R) {
        self.payload_length += u32::from(segment.payload_length());
        self.pieces.push(Piece { place: payload, length: segment.payload_length() });
    }

    /// Whether the IP header has what cutting this group would write. Addresses are equal already.
    #[inline]
    fn network_continues(&self, packet: &[u8]) -> bool {
        match self.family {
            Family::V4 => {
                let (first, this) = (packet::header_v4(&self.header), packet::header_v4(packet));
                let id = first.id.get().wrapping_add(self.pieces.len() as u16);
                let fragment = this.fragment.get();
                this.traffic_class == first.traffic_class
                    && this.hop_limit == first.hop_limit
                    && this.fragment == first.fragment
                    && (fragment & ipv4::DONT_FRAGMENT != 0 || this.id.get() == id)
            }
            Family::V6 => {
                let (first, this) = (packet::header_v6(&self.header), packet::header_v6(packet));
                this.version_class_flow == first.version_class_flow
                    && this.hop_limit == first.hop_limit
            }
        }
    }

    /// Whether the transport header has what cutting this group would write. Ports are equal already.
    #[inline]
    fn transport_continues(&self, segment: &Segment, packet: &[u8]) -> bool {
        let (Transport::Tcp { sequence, flags }, Transport::Tcp { sequence: start, flags: first }) =
            (segment.transport(), self.transport)
        else {
            return true;
        };
        let offset = transport_offset(self.family);
        let end = usize::from(self.header_length);
        let (Some(this), Some(mine)) = (packet.get(offset..end), self.header.get(offset..end))
        else {
            return false;
        };
        sequence == start.wrapping_add(self.payload_length)
            && flags & !PLACED == first & !PLACED
            && flags & tcp::CWR == 0
            && is_same_tcp(this, mine)
    }
}

/// Whether two TCP headers of one length agree in everything but sequence number, flags and checksum.
#[inline]
fn is_same_tcp(this: &[u8], first: &[u8]) -> bool {
    let (Ok((this, this_options)), Ok((first, first_options))) =
        (tcp::Header::ref_from_prefix(this), tcp::Header::ref_from_prefix(first))
    else {
        return false;
    };
    this.acknowledgement == first.acknowledgement
        && this.offset_reserved == first.offset_reserved
        && this.window == first.window
        && this.urgent == first.urgent
        && this_options == first_options
}

/// Writes the whole length, and the IPv4 checksum that goes with it.
fn write_network(network: &mut [u8], family: Family, length: u16) {
    match family {
        Family::V4 => {
            let (header, _) = ipv4::Header::mut_from_prefix(network)
                .expect("a group's header starts with an IP header");
            let old = header.total_length.get();
            header.total_length.set(length);
            header.checksum.set(checksum::replace(header.checksum.get(), old, length));
        }
        Family::V6 => {
            let (header, _) = ipv6::Header::mut_from_prefix(network)
                .expect("a group's header starts with an IP header");
            header.payload_length.set(length - ipv6::LENGTH as u16);
        }
    }
}

fn write_tcp(transport: &mut [u8], flags: u8, partial: u16) {
    let (header, _) =
        tcp::Header::mut_from_prefix(transport).expect("a TCP group's header has a TCP header");
    header.flags = flags;
    header.checksum.set(partial);
}

fn write_udp(transport: &mut [u8], length: u16, partial: u16) {
    let (header, _) =
        udp::Header::mut_from_prefix(transport).expect("a UDP group's header has a UDP header");
    header.length.set(length);
    header.checksum.set(partial);
}
