//! Packets made right after a fuzzer has changed them, and what two packets have in common.

use weft_forward::checksum::{add, portable, pseudo_v4, pseudo_v6};
use weft_forward::packet::{self, Family, Layout};
use weft_forward::{ipv4, ipv6, tcp, udp};

/// What [`mend`] makes right.
pub(crate) const LENGTHS: u8 = 1;
pub(crate) const NETWORK_CHECKSUM: u8 = 2;
pub(crate) const TRANSPORT_CHECKSUM: u8 = 4;
pub(crate) const MEND_ALL: u8 = LENGTHS | NETWORK_CHECKSUM | TRANSPORT_CHECKSUM;

/// Makes length fields and checksums right, as `what` says, so that a changed packet gets past the
/// checks that would refuse almost every change.
pub(crate) fn mend(packet: &mut [u8], what: u8) {
    if what & LENGTHS != 0 {
        mend_lengths(packet);
    }
    let Ok(layout) = packet::parse(packet) else { return };
    if what & LENGTHS != 0 && layout.protocol() == udp::PROTOCOL && !layout.is_later_fragment() {
        let length = (packet.len() - layout.transport_offset()) as u16;
        if let Some(field) = packet.get_mut(layout.transport_offset() + 4..).and_then(first_two) {
            *field = length.to_be_bytes();
        }
    }
    if what & NETWORK_CHECKSUM != 0 && layout.family() == Family::V4 {
        packet[10..12].fill(0);
        let sum = !portable(&packet[..layout.transport_offset()]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if what & TRANSPORT_CHECKSUM != 0 {
        store_checksum(packet, &layout, |packet, layout| {
            let transport = &packet[layout.transport_offset()..];
            let sum = !add(pseudo(packet, layout), portable(transport));
            if sum == 0 && layout.protocol() == udp::PROTOCOL { 0xffff } else { sum }
        });
    }
}

/// Puts the pseudo header's sum in the place of the transport checksum.
pub(crate) fn leave_checksum_open(packet: &mut [u8]) {
    let Ok(layout) = packet::parse(packet) else { return };
    store_checksum(packet, &layout, pseudo);
}

fn store_checksum(packet: &mut [u8], layout: &Layout, value: fn(&[u8], &Layout) -> u16) {
    let offset = layout.transport_offset() + checksum_offset(layout.protocol());
    let is_known = [tcp::PROTOCOL, udp::PROTOCOL].contains(&layout.protocol());
    if !is_known || layout.is_fragment() || packet.len() < offset + 2 {
        return;
    }
    packet[offset..offset + 2].fill(0);
    let value = value(packet, layout);
    packet[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// Where the checksum is in a TCP or UDP header.
pub(crate) fn checksum_offset(protocol: u8) -> usize {
    if protocol == tcp::PROTOCOL { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET }
}

fn first_two(bytes: &mut [u8]) -> Option<&mut [u8; 2]> {
    bytes.first_chunk_mut()
}

fn mend_lengths(packet: &mut [u8]) {
    let length = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if length >= ipv4::LENGTH => {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            packet[2..4].copy_from_slice(&length.to_be_bytes());
        }
        Some(6) if length >= ipv6::LENGTH => {
            let length = u16::try_from(length - ipv6::LENGTH).unwrap_or(u16::MAX);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        _ => {}
    }
}

/// The pseudo header's sum, from the bytes of the packet.
pub(crate) fn pseudo(packet: &[u8], layout: &Layout) -> u16 {
    let length = packet.len() - layout.transport_offset();
    let protocol = layout.protocol();
    let array = |start: usize| *packet[start..].first_chunk().expect("the packet was parsed");
    let wide = |start: usize| *packet[start..].first_chunk().expect("the packet was parsed");
    match layout.family() {
        Family::V4 => pseudo_v4(array(12), array(16), protocol, length as u16),
        Family::V6 => pseudo_v6(wide(8), wide(24), protocol, length as u32),
    }
}

/// Whether the transport checksum is right; for TCP and UDP only.
pub(crate) fn transport_checksum_ok(packet: &[u8], layout: &Layout) -> bool {
    add(pseudo(packet, layout), portable(&packet[layout.transport_offset()..])) == 0xffff
}

/// Addresses, and ports with the protocol where they are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow {
    pair: (u8, [u8; 32]),
    ports: Option<[u8; 5]>,
}

impl Flow {
    pub(crate) fn of(packet: &[u8], layout: &Layout) -> Self {
        let mut addresses = [0; 32];
        let version = packet[0] >> 4;
        match layout.family() {
            Family::V4 => addresses[..8].copy_from_slice(&packet[12..20]),
            Family::V6 => addresses.copy_from_slice(&packet[8..40]),
        }
        let protocol = layout.protocol();
        let has_ports = [tcp::PROTOCOL, udp::PROTOCOL].contains(&protocol) && !layout.is_fragment();
        let ports = packet.get(layout.transport_offset()..).and_then(|rest| rest.first_chunk());
        let ports = ports.filter(|_| has_ports).map(|[a, b, c, d]| [protocol, *a, *b, *c, *d]);
        Self { pair: (version, addresses), ports }
    }

    /// Whether packets of the two must keep their order: one flow, or it cannot be told.
    pub(crate) fn is_tied_to(&self, other: &Self) -> bool {
        let known = self.ports.is_some() && other.ports.is_some();
        self.pair == other.pair && (!known || self.ports == other.ports)
    }
}

/// How many bytes of payload a fuzzer's byte asks for: mostly few, which is quick, and once the most.
pub(crate) fn payload_length(choice: u8) -> usize {
    if choice == u8::MAX { usize::from(u16::MAX) } else { usize::from(choice) * 8 }
}

/// `length` bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(length: usize, seed: u8) -> impl Iterator<Item = u8> {
    (0..length).map(move |at| (at as u8).wrapping_mul(31).wrapping_add(seed) ^ (at >> 8) as u8)
}
