//! What a packet is to the coalescer.

use zerocopy::FromBytes;

use super::Limits;
use crate::checksum::{self, Sum};
use crate::packet::{self, Family, Layout};
use crate::{ipv4, ipv6, tcp, udp};

/// Flags that a joined segment may have.
const JOINABLE: u8 = tcp::ACK | tcp::PSH | tcp::FIN | tcp::ECE | tcp::CWR;

/// A flow: addresses, ports, protocol and family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    /// Ports (32 bits), protocol (8) and family (8). It differs most often, so it is compared first.
    tail: u64,
    addresses: [u64; 4],
}

impl Key {
    /// The key of a packet without ports.
    #[inline]
    fn pair(packet: &[u8], layout: &Layout) -> Self {
        match layout.family() {
            Family::V4 => {
                let header = packet::header_v4(packet);
                let source = u64::from(u32::from_ne_bytes(header.source));
                let destination = u64::from(u32::from_ne_bytes(header.destination));
                Self { tail: 4 << 40, addresses: [source << 32 | destination, 0, 0, 0] }
            }
            Family::V6 => {
                let header = packet::header_v6(packet);
                let [s0, s1] = words(header.source);
                let [d0, d1] = words(header.destination);
                Self { tail: 6 << 40, addresses: [s0, s1, d0, d1] }
            }
        }
    }

    #[inline]
    fn with_ports(self, protocol: u8, ports: [u8; 4]) -> Self {
        let ports = u64::from(u32::from_ne_bytes(ports));
        Self { tail: self.tail | u64::from(protocol) << 32 | ports, ..self }
    }

    /// Whether both have the same addresses.
    pub(super) fn is_same_pair(&self, other: &Self) -> bool {
        self.tail >> 40 == other.tail >> 40 && self.addresses == other.addresses
    }
}

#[inline]
const fn words(address: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_ne_bytes(address);
    [bits as u64, (bits >> 64) as u64]
}

/// What can be done with a packet.
pub(super) enum Class {
    /// It may join others, or others may join it.
    Joinable(Segment),
    /// It stays alone, behind what is open of its flow.
    OfFlow(Key),
    /// It stays alone, behind what is open between its two addresses: its ports are not known.
    OfPair(Key),
}

/// A packet that may be joined: TCP or UDP with payload, neither a fragment nor with IP options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    key: Key,
    family: Family,
    transport: Transport,
    header_length: u8,
    payload_length: u16,
}

/// What differs between the protocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

/// Decides what can be done with the packet, without looking at its checksum's value.
#[inline]
pub(super) fn classify(packet: &[u8], layout: &Layout, limits: &Limits) -> Class {
    let pair = Key::pair(packet, layout);
    if layout.is_fragment() {
        return Class::OfPair(pair);
    }
    let transport = packet.get(layout.transport_offset()..).unwrap_or_default();
    let protocol = layout.protocol();
    let Some(&ports) = transport.first_chunk::<4>() else {
        return Class::OfPair(pair);
    };
    let (key, parts) = match protocol {
        tcp::PROTOCOL => (pair.with_ports(protocol, ports), tcp_parts(transport, limits)),
        udp::PROTOCOL => (pair.with_ports(protocol, ports), udp_parts(transport, limits)),
        _ => return Class::OfPair(pair),
    };
    let Some((parts, length)) = parts.filter(|_| is_plain(packet, layout)) else {
        return Class::OfFlow(key);
    };
    Class::Joinable(Segment {
        key,
        family: layout.family(),
        transport: parts,
        header_length: (layout.transport_offset() + length) as u8,
        payload_length: (transport.len() - length) as u16,
    })
}

/// No options, and a header checksum that cutting would write too: the other zero is never written.
#[inline]
fn is_plain(packet: &[u8], layout: &Layout) -> bool {
    let canonical = match layout.family() {
        Family::V4 => packet::header_v4(packet).checksum.get() != 0xffff,
        Family::V6 => true,
    };
    canonical && !layout.has_options()
}

/// The TCP values and the header length, if the segment may be joined.
#[inline]
fn tcp_parts(transport: &[u8], limits: &Limits) -> Option<(Transport, usize)> {
    let (header, _) = tcp::Header::ref_from_prefix(transport).ok()?;
    let (length, flags) = (header.length(), header.flags);
    let joinable = limits.tcp
        && length >= tcp::LENGTH
        && length < transport.len()
        && flags & tcp::ACK != 0
        && flags & !JOINABLE == 0
        && (limits.ecn || flags & tcp::CWR == 0)
        // A sum is never zero, so its inverse never is all ones: nobody computes that.
        && header.checksum.get() != 0xffff;
    joinable.then_some((Transport::Tcp { sequence: header.sequence.get(), flags }, length))
}

/// The UDP values and the header length, if the datagram may be joined.
#[inline]
fn udp_parts(transport: &[u8], limits: &Limits) -> Option<(Transport, usize)> {
    let (header, payload) = udp::Header::ref_from_prefix(transport).ok()?;
    let joinable = limits.udp
        && !payload.is_empty()
        && usize::from(header.length.get()) == transport.len()
        && header.checksum.get() != 0;
    joinable.then_some((Transport::Udp, udp::LENGTH))
}

impl Segment {
    #[inline]
    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    #[inline]
    pub(super) const fn family(&self) -> Family {
        self.family
    }

    #[inline]
    pub(super) const fn transport(&self) -> Transport {
        self.transport
    }

    /// Length of IP and transport header in bytes.
    #[inline]
    pub(super) const fn header_length(&self) -> usize {
        self.header_length as usize
    }

    /// Length of what follows the headers in bytes; not zero.
    #[inline]
    pub(super) const fn payload_length(&self) -> u16 {
        self.payload_length
    }

    /// Nothing may follow this segment in a group.
    #[inline]
    pub(super) const fn ends(&self) -> bool {
        match self.transport {
            Transport::Tcp { flags, .. } => flags & (tcp::PSH | tcp::FIN) != 0,
            Transport::Udp => false,
        }
    }

    /// Whether the transport checksum is right.
    #[inline]
    pub(super) fn checksum_ok(&self, packet: &[u8], sum: Sum) -> bool {
        let offset = transport_offset(self.family);
        let Some(transport) = packet.get(offset..) else {
            return false;
        };
        let length = transport.len() as u32;
        checksum::add(pseudo(packet, self.family, self.transport, length), sum(transport)) == 0xffff
    }
}

/// Sum of the pseudo header of a packet with the given transport length in bytes.
#[inline]
pub(super) fn pseudo(header: &[u8], family: Family, transport: Transport, length: u32) -> u16 {
    let protocol = match transport {
        Transport::Tcp { .. } => tcp::PROTOCOL,
        Transport::Udp => udp::PROTOCOL,
    };
    match family {
        Family::V4 => {
            let header = packet::header_v4(header);
            checksum::pseudo_v4(header.source, header.destination, protocol, length as u16)
        }
        Family::V6 => {
            let header = packet::header_v6(header);
            checksum::pseudo_v6(header.source, header.destination, protocol, length)
        }
    }
}

/// Where the transport header of a joinable packet starts.
#[inline]
pub(super) const fn transport_offset(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::LENGTH,
        Family::V6 => ipv6::LENGTH,
    }
}
