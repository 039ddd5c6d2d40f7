//! pnet as a third implementation of checksums and header fields, beside etherparse and tun-rs.

use std::net::IpAddr;
use std::vec::Vec;

use etherparse::checksum::Sum16BitWords;
use pnet_packet::Packet;
use pnet_packet::ipv4::{self as pnet_v4, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{self as pnet_tcp, TcpPacket};
use pnet_packet::udp::{self as pnet_udp, UdpPacket};
use proptest::prelude::*;

use super::round_trip::{lengths, specs};
use crate::packet::{self, Family};
use crate::testing::{Spec, bytes, join, split};
use crate::{checksum, tcp};

/// Longest sum that is compared at every length in bytes.
const SUMMED_MAX: usize = 4096;

/// pnet inverts, and gives 0 for no bytes at all.
fn by_pnet(content: &[u8]) -> u16 {
    if content.is_empty() { 0 } else { !pnet_packet::util::checksum(content, usize::MAX) }
}

/// etherparse inverts, and sums in the processor's byte order.
fn by_etherparse(content: &[u8]) -> u16 {
    !u16::from_be(Sum16BitWords::new().add_slice(content).ones_complement())
}

#[test]
fn five_sums_agree_at_every_length_and_alignment() {
    let content = bytes(SUMMED_MAX + 8, 5);
    for length in 0..=SUMMED_MAX {
        for start in [0, 1, 2, 3, 7] {
            let part = &content[start..start + length];
            let ours = checksum::portable(part);
            assert_eq!(ours, checksum::naive(part), "{length} at {start}");
            assert_eq!(ours, by_pnet(part), "{length} at {start}");
            assert_eq!(ours, by_etherparse(part), "{length} at {start}");
            // tun-rs has no sum of nothing.
            let theirs = if length == 0 { 0 } else { tun_rs::checksum(part, 0) };
            assert_eq!(ours, theirs, "{length} at {start}");
        }
    }
}

/// The stored checksum of a TCP or UDP header and what pnet makes of the packet.
fn transport_sums(bytes: &[u8]) -> (u16, u16) {
    let layout = packet::parse(bytes).unwrap();
    let transport = &bytes[layout.transport_offset()..];
    let (source, destination) =
        (packet::source(bytes, &layout), packet::destination(bytes, &layout));
    if layout.protocol() == tcp::PROTOCOL {
        let packet = TcpPacket::new(transport).unwrap();
        let sum = match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => pnet_tcp::ipv4_checksum(&packet, &from, &to),
            (IpAddr::V6(from), IpAddr::V6(to)) => pnet_tcp::ipv6_checksum(&packet, &from, &to),
            _ => unreachable!("both addresses are of one family"),
        };
        return (packet.get_checksum(), sum);
    }
    let packet = UdpPacket::new(transport).unwrap();
    let sum = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => pnet_udp::ipv4_checksum(&packet, &from, &to),
        (IpAddr::V6(from), IpAddr::V6(to)) => pnet_udp::ipv6_checksum(&packet, &from, &to),
        _ => unreachable!("both addresses are of one family"),
    };
    // pnet does not know that a computed zero is sent as all ones (RFC 768).
    (packet.get_checksum(), if sum == 0 { 0xffff } else { sum })
}

/// Every field of the IP header as pnet reads it.
fn check_network(bytes: &[u8]) -> Result<(), TestCaseError> {
    let layout = packet::parse(bytes).unwrap();
    match layout.family() {
        Family::V4 => {
            let theirs = Ipv4Packet::new(bytes).unwrap();
            prop_assert_eq!(usize::from(theirs.get_header_length()) * 4, layout.transport_offset());
            prop_assert_eq!(usize::from(theirs.get_total_length()), layout.len());
            prop_assert_eq!(theirs.get_next_level_protocol().0, layout.protocol());
            prop_assert_eq!(theirs.get_flags() & 2 != 0, layout.dont_fragment());
            prop_assert_eq!(IpAddr::V4(theirs.get_source()), packet::source(bytes, &layout));
            prop_assert_eq!(
                IpAddr::V4(theirs.get_destination()),
                packet::destination(bytes, &layout)
            );
            let is_right = theirs.get_checksum() == pnet_v4::checksum(&theirs);
            prop_assert_eq!(is_right, packet::header_checksum_ok(bytes, &layout));
        }
        Family::V6 => {
            let theirs = Ipv6Packet::new(bytes).unwrap();
            prop_assert_eq!(usize::from(theirs.get_payload_length()) + 40, layout.len());
            prop_assert_eq!(theirs.get_next_header().0, layout.protocol());
            prop_assert_eq!(IpAddr::V6(theirs.get_source()), packet::source(bytes, &layout));
            prop_assert_eq!(
                IpAddr::V6(theirs.get_destination()),
                packet::destination(bytes, &layout)
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn fields_are_read_as_pnet_reads_them(spec in specs(), payload in lengths(), wrong: bool) {
        let mut packet = spec.with(|spec| spec.payload = bytes(payload, 1)).build();
        if wrong && packet[0] >> 4 == 4 {
            packet[10] ^= 0x20;
        }
        check_network(&packet)?;
        let (stored, expected) = transport_sums(&packet);
        prop_assert_eq!(stored, expected);
    }

    /// Segments have the headers and checksums that pnet computes, with every byte of the payload.
    #[test]
    fn segments_are_right_for_pnet(spec in specs(), length in 1usize..9000, size in 8u16..1500) {
        let payload = bytes(length, 2);
        let first = spec.sequence;
        let (header, packet) = spec.with(|spec| spec.payload.clone_from(&payload)).build_super(size);
        let mut back = Vec::new();
        for segment in split(&header, &packet) {
            check_network(&segment)?;
            let (stored, expected) = transport_sums(&segment);
            prop_assert_eq!(stored, expected);
            let layout = packet::parse(&segment).unwrap();
            let transport = &segment[layout.transport_offset()..];
            if layout.protocol() == tcp::PROTOCOL {
                let theirs = TcpPacket::new(transport).unwrap();
                prop_assert_eq!(theirs.get_sequence(), first.wrapping_add(back.len() as u32));
                back.extend_from_slice(theirs.payload());
            } else {
                let theirs = UdpPacket::new(transport).unwrap();
                prop_assert_eq!(usize::from(theirs.get_length()), transport.len());
                back.extend_from_slice(theirs.payload());
            }
        }
        prop_assert_eq!(back, payload);
    }

    /// The header of a joined packet: its length is that of all, its checksum the pseudo header's.
    #[test]
    fn joined_headers_are_right_for_pnet(spec in specs(), size in 1usize..1400, count in 2usize..40) {
        let mut run = std::vec![spec.with(|spec| spec.payload = bytes(size, 9))];
        while run.len() < count {
            run.push(run[run.len() - 1].next(&bytes(size, run.len() as u32)));
        }
        let packets: Vec<Vec<u8>> = run.iter().map(Spec::build).collect();
        for (header, joined) in join(crate::testing::ALL, &packets) {
            check_network(&joined)?;
            let mut completed = joined.clone();
            crate::segment::complete_checksum(&mut completed, &header, checksum::naive).unwrap();
            let (stored, expected) = transport_sums(&completed);
            prop_assert_eq!(stored, expected);
        }
    }
}
