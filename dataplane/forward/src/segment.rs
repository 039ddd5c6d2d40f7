//! Cutting a super-packet into wire packets: headers only, the payload stays where it is.
//!
//! The rules are those of the kernel's own segmentation (`tcp_gso_segment`, `__udp_gso_segment`): the
//! IPv4 id counts up, FIN and PSH go on the last segment, CWR on the first, everything else is copied.

use core::ops::Range;

use zerocopy::FromBytes;

use crate::checksum::{self, Sum};
use crate::drops::DropReason;
use crate::packet::{self, Family, Layout};
use crate::virtio::{self, Gso};
use crate::{ipv4, ipv6, tcp, udp};

#[cfg(test)]
mod tests;

/// Longest header that [`Plan::write_header`] writes, in bytes: IPv4 and TCP with all options.
pub const HEADER_MAX: usize = ipv4::LENGTH_MAX + tcp::LENGTH_MAX;

/// How one packet read from the device leaves as wire packets. A packet without segmentation is one
/// wire packet that is all payload.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    kind: Kind,
    family: Family,
    transport_offset: u16,
    header_length: u16,
    count: u16,
    /// Payload bytes of every segment but the last.
    size: u32,
    payload_length: u32,
    /// Sum of the IPv4 header without total length, id and checksum.
    network_sum: u16,
    /// Sum of pseudo header and transport header without what differs from segment to segment.
    transport_sum: u16,
    /// IPv4 identification of the first segment.
    id: u16,
    /// TCP sequence number of the first segment.
    sequence: u32,
    /// TCP header length, reserved bits and flags of the whole.
    offset_flags: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Whole,
    Tcp,
    Udp,
}

impl Plan {
    /// Plans the packet behind a virtio header. Of the header only the kind and the segment size are
    /// used; the checksum position must be where the packet itself says it is.
    ///
    /// # Errors
    /// [`DropReason::BadVirtioHeader`] if it contradicts the packet, [`DropReason::BadTransportHeader`]
    /// if there is no whole TCP or UDP header, [`DropReason::ExtensionHeaders`] for a super-packet with
    /// a routing header or with more headers than [`HEADER_MAX`].
    #[inline]
    pub fn new(
        packet: &[u8],
        layout: &Layout,
        header: &virtio::Header,
    ) -> Result<Self, DropReason> {
        match header.gso {
            Gso::None if completes_network(layout, header) => Err(DropReason::BadVirtioHeader),
            Gso::None => Ok(Self::whole(layout)),
            Gso::TcpV4 | Gso::TcpV6 | Gso::Udp => Self::segmented(packet, layout, header),
        }
    }

    /// How many wire packets there are; at least one.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes that [`Plan::write_header`] writes; zero if the packet leaves as it is.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_length as usize
    }

    /// Inner length of every wire packet but the last in bytes.
    #[inline]
    #[must_use]
    pub const fn segment_len(&self) -> usize {
        self.header_len() + self.size as usize
    }

    /// Inner length of the last wire packet in bytes; at most [`Plan::segment_len`].
    #[inline]
    #[must_use]
    pub const fn last_len(&self) -> usize {
        let before = (self.count as u32 - 1) * self.size;
        self.header_len() + (self.payload_length - before) as usize
    }

    /// Where the payload of wire packet `index` is in the packet; empty behind the last.
    #[inline]
    #[must_use]
    pub fn payload(&self, index: usize) -> Range<usize> {
        let size = self.size as usize;
        let length = self.payload_length as usize;
        let start = index.saturating_mul(size).min(length);
        let end = start.saturating_add(size).min(length);
        self.header_len() + start..self.header_len() + end
    }

    /// Writes the header of wire packet `index` over the first [`Plan::header_len`] bytes of `out`,
    /// checksums complete.
    ///
    /// # Panics
    /// If `packet` is not the one that was planned, or `out` is shorter than the header.
    #[inline]
    pub fn write_header(&self, packet: &[u8], index: usize, out: &mut [u8], sum: Sum) {
        if self.kind == Kind::Whole {
            return;
        }
        let payload = &packet[self.payload(index)];
        let out = &mut out[..self.header_len()];
        out.copy_from_slice(&packet[..self.header_len()]);
        let (network, transport) = out.split_at_mut(usize::from(self.transport_offset));
        let transport_length = (transport.len() + payload.len()) as u16;
        self.write_network(network, transport_length, index);
        let sums =
            u64::from(self.transport_sum) + u64::from(transport_length) + u64::from(sum(payload));
        match self.kind {
            Kind::Whole => {}
            Kind::Tcp => self.write_tcp(transport, index, sums),
            Kind::Udp => write_udp(transport, transport_length, sums),
        }
    }

    fn whole(layout: &Layout) -> Self {
        Self {
            kind: Kind::Whole,
            family: layout.family(),
            transport_offset: 0,
            header_length: 0,
            count: 1,
            size: layout.len() as u32,
            payload_length: layout.len() as u32,
            network_sum: 0,
            transport_sum: 0,
            id: 0,
            sequence: 0,
            offset_flags: 0,
        }
    }

    fn segmented(
        packet: &[u8],
        layout: &Layout,
        header: &virtio::Header,
    ) -> Result<Self, DropReason> {
        let kind = checked_kind(layout, header)?;
        let transport = packet.get(layout.transport_offset()..).unwrap_or_default();
        let length = match kind {
            Kind::Tcp => tcp_length(transport)?,
            _ => udp_length(transport)?,
        };
        let header_length = layout.transport_offset() + length;
        if header_length > HEADER_MAX || layout.has_routing_header() {
            return Err(DropReason::ExtensionHeaders);
        }
        let payload_length = (packet.len() - header_length) as u32;
        let size = u32::from(header.segment_size).min(payload_length);
        let count = if size == 0 { 1 } else { payload_length.div_ceil(size) };
        let mut plan = Self {
            kind,
            transport_offset: layout.transport_offset() as u16,
            header_length: header_length as u16,
            count: u16::try_from(count).map_err(|_| DropReason::BadVirtioHeader)?,
            size,
            payload_length,
            ..Self::whole(layout)
        };
        plan.sum_network(packet);
        plan.sum_transport(&transport[..length]);
        Ok(plan)
    }

    /// Sums what all segments have in common in the IP header and the pseudo header.
    fn sum_network(&mut self, packet: &[u8]) {
        match self.family {
            Family::V4 => {
                let header = packet::header_v4(packet);
                let all = checksum::portable(&packet[..usize::from(self.transport_offset)]);
                let differing = [header.total_length.get(), header.id.get(), header.checksum.get()];
                self.network_sum = without(all, &differing);
                self.id = header.id.get();
                let (source, destination) = (header.source, header.destination);
                self.transport_sum = checksum::pseudo_v4(source, destination, self.protocol(), 0);
            }
            Family::V6 => {
                let header = packet::header_v6(packet);
                let (source, destination) = (header.source, header.destination);
                self.transport_sum = checksum::pseudo_v6(source, destination, self.protocol(), 0);
            }
        }
    }

    /// Adds what all segments have in common in the transport header.
    fn sum_transport(&mut self, transport: &[u8]) {
        let all = checksum::portable(transport);
        let common = if self.kind == Kind::Tcp {
            let header = tcp_header(transport);
            self.sequence = header.sequence.get();
            self.offset_flags = u16::from_be_bytes([header.offset_reserved, header.flags]);
            let [high, low] = halves(self.sequence);
            without(all, &[high, low, self.offset_flags, header.checksum.get()])
        } else {
            let (header, _) =
                udp::Header::ref_from_prefix(transport).expect("the plan has checked the length");
            without(all, &[header.length.get(), header.checksum.get()])
        };
        self.transport_sum = checksum::add(self.transport_sum, common);
    }

    const fn protocol(&self) -> u8 {
        if matches!(self.kind, Kind::Tcp) { tcp::PROTOCOL } else { udp::PROTOCOL }
    }

    #[inline]
    fn write_network(&self, network: &mut [u8], transport_length: u16, index: usize) {
        let network_length = network.len() as u16;
        match self.family {
            Family::V4 => {
                let (header, _) = ipv4::Header::mut_from_prefix(network)
                    .expect("the plan's transport offset is behind the IP header");
                let length = network_length + transport_length;
                let id = self.id.wrapping_add(index as u16);
                let sum = u64::from(self.network_sum) + u64::from(length) + u64::from(id);
                header.total_length.set(length);
                header.id.set(id);
                header.checksum.set(!checksum::fold(sum));
            }
            Family::V6 => {
                let (header, _) = ipv6::Header::mut_from_prefix(network)
                    .expect("the plan's transport offset is behind the IP header");
                // The length of the fixed header does not count, and might not fit.
                header.payload_length.set(network_length - ipv6::LENGTH as u16 + transport_length);
            }
        }
    }

    #[inline]
    fn write_tcp(&self, transport: &mut [u8], index: usize, sums: u64) {
        let (header, _) =
            tcp::Header::mut_from_prefix(transport).expect("the plan has checked the length");
        let sequence = self.sequence.wrapping_add(index as u32 * self.size);
        let mut flags = self.offset_flags;
        if index > 0 {
            flags &= !u16::from(tcp::CWR);
        }
        if index + 1 < self.count() {
            flags &= !u16::from(tcp::FIN | tcp::PSH);
        }
        let [high, low] = halves(sequence);
        let sums = sums + u64::from(high) + u64::from(low) + u64::from(flags);
        header.sequence.set(sequence);
        header.flags = flags as u8;
        header.checksum.set(!checksum::fold(sums));
    }
}

#[inline]
fn write_udp(transport: &mut [u8], length: u16, sums: u64) {
    let (header, _) =
        udp::Header::mut_from_prefix(transport).expect("the plan has checked the length");
    header.length.set(length);
    header.checksum.set(never_zero(!checksum::fold(sums + u64::from(length))));
}

/// Completes the checksum of a packet that is not to be segmented, in place. The field holds the pseudo
/// header's sum; nothing happens if the header does not say so.
///
/// # Errors
/// [`DropReason::BadVirtioHeader`] if the checksum lies outside the packet.
#[inline]
pub fn complete_checksum(
    packet: &mut [u8],
    header: &virtio::Header,
    sum: Sum,
) -> Result<(), DropReason> {
    if !header.needs_checksum {
        return Ok(());
    }
    let start = usize::from(header.checksum_start);
    let offset = usize::from(header.checksum_offset);
    let bytes = packet.get_mut(start..).ok_or(DropReason::BadVirtioHeader)?;
    let complete = !sum(bytes);
    let field = bytes.get_mut(offset..offset + 2).ok_or(DropReason::BadVirtioHeader)?;
    let complete = if offset == udp::CHECKSUM_OFFSET { never_zero(complete) } else { complete };
    field.copy_from_slice(&complete.to_be_bytes());
    Ok(())
}

/// RFC 768: a computed checksum of zero is sent as all ones, since zero means that there is none.
#[inline]
const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Whether completing the checksum would write into the IP header, which would not be what was parsed
/// any more.
const fn completes_network(layout: &Layout, header: &virtio::Header) -> bool {
    header.needs_checksum && (header.checksum_start as usize) < layout.transport_offset()
}

/// The kind of segmentation, if packet and virtio header agree about it.
fn checked_kind(layout: &Layout, header: &virtio::Header) -> Result<Kind, DropReason> {
    let (kind, protocol, offset) = match (header.gso, layout.family()) {
        (Gso::TcpV4, Family::V4) | (Gso::TcpV6, Family::V6) => {
            (Kind::Tcp, tcp::PROTOCOL, tcp::CHECKSUM_OFFSET)
        }
        (Gso::Udp, _) => (Kind::Udp, udp::PROTOCOL, udp::CHECKSUM_OFFSET),
        _ => return Err(DropReason::BadVirtioHeader),
    };
    let agrees = layout.protocol() == protocol
        && !layout.is_fragment()
        && header.segment_size > 0
        && header.needs_checksum
        && usize::from(header.checksum_start) == layout.transport_offset()
        && usize::from(header.checksum_offset) == offset;
    if agrees { Ok(kind) } else { Err(DropReason::BadVirtioHeader) }
}

fn tcp_length(transport: &[u8]) -> Result<usize, DropReason> {
    let Ok((header, _)) = tcp::Header::ref_from_prefix(transport) else {
        return Err(DropReason::BadTransportHeader);
    };
    let length = header.length();
    let fits = length >= tcp::LENGTH && length <= transport.len();
    if fits { Ok(length) } else { Err(DropReason::BadTransportHeader) }
}

fn udp_length(transport: &[u8]) -> Result<usize, DropReason> {
    let fits = transport.len() >= udp::LENGTH;
    if fits { Ok(udp::LENGTH) } else { Err(DropReason::BadTransportHeader) }
}

fn tcp_header(transport: &[u8]) -> &tcp::Header {
    let (header, _) =
        tcp::Header::ref_from_prefix(transport).expect("the plan has checked the length");
    header
}

/// Takes words out of a sum.
fn without(sum: u16, words: &[u16]) -> u16 {
    words.iter().fold(sum, |sum, word| checksum::add(sum, !word))
}

#[inline]
const fn halves(word: u32) -> [u16; 2] {
    [(word >> 16) as u16, word as u16]
}
