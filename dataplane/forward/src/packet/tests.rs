use core::net::IpAddr;
use std::vec::Vec;

use super::*;
use crate::testing::{Spec, bytes};
use crate::{tcp, udp};

/// A ping as flanneld sends it: 28 bytes, header checksum right.
const PING: [u8; 28] = [
    0x45, 0x00, 0x00, 0x1c, 0xbe, 0xef, 0x40, 0x00, 0x3f, 0x01, 0x64, 0x05, 10, 244, 1, 2, 10, 244,
    2, 3, 8, 0, 0xf7, 0xff, 0, 0, 0, 0,
];

#[test]
fn golden_v4() {
    let layout = parse(&PING).unwrap();
    assert_eq!(layout.family(), Family::V4);
    assert_eq!((layout.len(), layout.transport_offset(), layout.protocol()), (28, 20, 1));
    assert!(!layout.is_fragment() && !layout.is_later_fragment() && !layout.has_options());
    assert!(layout.dont_fragment());
    assert!(header_checksum_ok(&PING, &layout));
    assert_eq!(source(&PING, &layout), IpAddr::from([10, 244, 1, 2]));
    assert_eq!(destination(&PING, &layout), IpAddr::from([10, 244, 2, 3]));
}

#[test]
fn every_bit_of_the_header_checksum_counts() {
    let layout = parse(&PING).unwrap();
    for bit in 0..160 {
        let mut wrong = PING;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(!header_checksum_ok(&wrong, &layout), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_one_byte_more() {
    let packets = [PING.to_vec(), Spec::tcp(Family::V6, b"payload").build(), with_extensions(&[])];
    for packet in packets {
        for length in 0..packet.len() {
            let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let expected =
                if length < header { DropReason::TooShort } else { DropReason::LengthMismatch };
            assert_eq!(parse(&packet[..length]).unwrap_err(), expected, "{length}");
        }
        let longer = [&packet[..], &[0]].concat();
        assert_eq!(parse(&longer).unwrap_err(), DropReason::LengthMismatch);
    }
}

#[test]
fn each_fault_has_its_reason() {
    let fault = |at: usize, value: u8| {
        let mut packet = PING;
        packet[at] = value;
        parse(&packet).unwrap_err()
    };
    for version in (0..16).filter(|version| ![4, 6].contains(version)) {
        assert_eq!(fault(0, version << 4 | 5), DropReason::BadVersion);
    }
    assert_eq!(fault(0, 0x44), DropReason::BadHeaderLength);
    assert_eq!(fault(0, 0x48), DropReason::TooShort);
    assert_eq!(fault(3, 0x1b), DropReason::LengthMismatch);
    assert_eq!(fault(8, 0), DropReason::HopLimitZero);
    let mut v6 = Spec::udp(Family::V6, b"x").build();
    v6[7] = 0;
    assert_eq!(parse(&v6).unwrap_err(), DropReason::HopLimitZero);
}

#[test]
fn fragments_of_v4() {
    let with = |high: u8, low: u8| {
        let mut packet = PING;
        (packet[6], packet[7]) = (high, low);
        let layout = parse(&packet).unwrap();
        (layout.is_fragment(), layout.is_later_fragment(), layout.dont_fragment())
    };
    assert_eq!(with(0x00, 0x00), (false, false, false));
    assert_eq!(with(0x20, 0x00), (true, false, false));
    assert_eq!(with(0x20, 0x01), (true, true, false));
    assert_eq!(with(0x1f, 0xff), (true, true, false));
    assert_eq!(with(0x80, 0x00), (false, false, false));
}

#[test]
fn options_of_v4() {
    let mut packet = PING.to_vec();
    packet[0] = 0x47;
    let layout = parse(&packet).unwrap();
    assert_eq!((layout.transport_offset(), layout.has_options()), (28, true));
    assert!(!header_checksum_ok(&packet, &layout));
}

/// An IPv6 packet with the given extension headers (kind, bytes) before an empty UDP datagram.
fn with_extensions(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let datagram = [0, 1, 0, 2, 0, 8, 0xff, 0xff];
    let mut behind = Vec::new();
    for (index, (_, content)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(udp::PROTOCOL, |(kind, _)| *kind);
        behind.push(next);
        behind.extend_from_slice(content);
    }
    behind.extend_from_slice(&datagram);
    let mut packet = Spec::udp(Family::V6, &[]).build();
    packet.truncate(ipv6::LENGTH);
    packet[4..6].copy_from_slice(&(behind.len() as u16).to_be_bytes());
    packet[6] = extensions.first().map_or(udp::PROTOCOL, |(kind, _)| *kind);
    packet.extend(behind);
    packet
}

const SHORT: &[u8] = &[0; 7];

#[test]
fn extension_headers_are_walked() {
    let long = [&[1][..], &[0; 14]].concat();
    let packet = with_extensions(&[
        (ipv6::HOP_BY_HOP, SHORT),
        (ipv6::DESTINATION, &long),
        (ipv6::ROUTING, SHORT),
        (ipv6::FRAGMENT, &[99, 0, 0, 1, 2, 3, 4]),
        (ipv6::DESTINATION, SHORT),
    ]);
    let layout = parse(&packet).unwrap();
    assert_eq!(layout.transport_offset(), 40 + 8 + 16 + 8 + 8 + 8);
    assert_eq!(layout.protocol(), udp::PROTOCOL);
    assert!(layout.has_options() && layout.has_routing_header() && layout.dont_fragment());
    // Neither more fragments nor an offset: a whole packet (RFC 6946).
    assert!(!layout.is_fragment());
}

#[test]
fn fragments_of_v6() {
    let first = parse(&with_extensions(&[(ipv6::FRAGMENT, &[0, 0, 1, 0, 0, 0, 0])])).unwrap();
    assert!(first.is_fragment() && !first.is_later_fragment());
    // Behind a later fragment header is data, whatever number it carries.
    for number in [ipv6::ROUTING, ipv6::HOP_BY_HOP] {
        let headers = [(ipv6::FRAGMENT, &[0, 0, 8, 0, 0, 0, 0][..]), (number, SHORT)];
        let layout = parse(&with_extensions(&headers)).unwrap();
        assert!(layout.is_fragment() && layout.is_later_fragment());
        assert_eq!((layout.transport_offset(), layout.protocol()), (48, number));
    }
}

/// Found by fuzzing: the second fragment header hid the first one.
#[test]
fn a_fragment_header_is_not_undone_by_another() {
    let more = &[0, 0, 1, 0, 0, 0, 0];
    let none = &[0, 0, 0, 0, 0, 0, 0];
    for headers in [[more, none], [none, more]] {
        let packet = with_extensions(&headers.map(|header| (ipv6::FRAGMENT, &header[..])));
        let layout = parse(&packet).unwrap();
        assert!(layout.is_fragment() && !layout.is_later_fragment());
    }
}

#[test]
fn bad_extension_headers() {
    let refused = |extensions: &[(u8, &[u8])]| {
        assert_eq!(parse(&with_extensions(extensions)).unwrap_err(), DropReason::ExtensionHeaders);
    };
    // Not first, longer than the packet, too many.
    refused(&[(ipv6::DESTINATION, SHORT), (ipv6::HOP_BY_HOP, SHORT)]);
    refused(&[(ipv6::ROUTING, &[2, 0, 0, 0, 0, 0, 0])]);
    refused(&[(ipv6::DESTINATION, SHORT); 6]);
    assert!(parse(&with_extensions(&[(ipv6::DESTINATION, SHORT); 5])).is_ok());
    // Announced, but the packet ends.
    let mut packet = with_extensions(&[]);
    packet.truncate(44);
    packet[5] = 4;
    packet[6] = ipv6::ROUTING;
    assert_eq!(parse(&packet).unwrap_err(), DropReason::ExtensionHeaders);
}

#[test]
fn largest_packets() {
    let v4 = Spec::tcp(Family::V4, &bytes(65_535 - 40, 1)).build();
    assert_eq!(parse(&v4).unwrap().len(), 65_535);
    let mut v6 = Spec::tcp(Family::V6, &bytes(1, 1)).build();
    v6.resize(65_575, 0);
    v6[4..6].copy_from_slice(&[0xff, 0xff]);
    let layout = parse(&v6).unwrap();
    assert_eq!((layout.len(), layout.protocol()), (65_575, tcp::PROTOCOL));
}
