use std::vec::Vec;

use super::*;
use crate::testing::{Spec, bytes, checksums_ok, split};

/// Ten payload bytes cut into four, four and two: IPv4, TCP with a timestamp option, and every flag that
/// has a place of its own.
#[test]
fn golden_tcp_v4() {
    let spec = Spec::tcp(Family::V4, b"0123456789").with(|spec| {
        spec.id = 0xffff;
        spec.sequence = 0xffff_fffe;
        spec.flags = tcp::ACK | tcp::PSH | tcp::FIN | tcp::CWR | tcp::ECE;
        spec.options = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9].to_vec();
    });
    let (header, packet) = spec.build_super(4);
    let segments = split(&header, &packet);
    let first = [
        0x45, 0, 0, 56, 0xff, 0xff, 0x40, 0, 63, 6, 0x22, 0xd4, 10, 244, 1, 2, 10, 244, 2,
        3, //
        0x9c, 0x40, 0x14, 0x51, 0xff, 0xff, 0xff, 0xfe, 0x20, 0, 0, 0, 0x80, 0xd0, 1, 0xf5, 0x28,
        0x13, 0, 0, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, b'0', b'1', b'2', b'3',
    ];
    let second = [
        0x45, 0, 0, 56, 0, 0, 0x40, 0, 63, 6, 0x22, 0xd4, 10, 244, 1, 2, 10, 244, 2, 3, //
        0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 2, 0x20, 0, 0, 0, 0x80, 0x50, 1, 0xf5, 0x20, 0x88, 0, 0,
        1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, b'4', b'5', b'6', b'7',
    ];
    let third = [
        0x45, 0, 0, 54, 0, 1, 0x40, 0, 63, 6, 0x22, 0xd5, 10, 244, 1, 2, 10, 244, 2, 3, //
        0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 6, 0x20, 0, 0, 0, 0x80, 0x59, 1, 0xf5, 0x52, 0xb0, 0, 0,
        1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, b'8', b'9',
    ];
    assert_eq!(segments, [&first[..], &second, &third]);
    assert!(segments.iter().all(|segment| checksums_ok(segment)));
}

#[test]
fn golden_udp_v6() {
    let (header, packet) = Spec::udp(Family::V6, b"abcde").build_super(3);
    let mut network = [0xfd; 40];
    network[..8].copy_from_slice(&[0x60, 0x0a, 0xbc, 0xde, 0, 11, 17, 63]);
    (network[23], network[39]) = (2, 3);
    let first =
        [&network[..], &[0x9c, 0x40, 0x14, 0x51, 0, 11, 0xac, 0xf9, b'a', b'b', b'c']].concat();
    network[5] = 10;
    let second = [&network[..], &[0x9c, 0x40, 0x14, 0x51, 0, 10, 0x0c, 0xf9, b'd', b'e']].concat();
    assert_eq!(split(&header, &packet), [first, second]);
}

/// The segments of each kind are what the other implementation builds as single packets.
#[test]
fn segments_are_ordinary_packets() {
    for family in [Family::V4, Family::V6] {
        for (protocol, options) in [(tcp::PROTOCOL, 0), (tcp::PROTOCOL, 40), (udp::PROTOCOL, 0)] {
            for (length, size) in
                [(1, 1), (5, 5), (3000, 1000), (3001, 1001), (4097, 1448), (17, 2)]
            {
                let whole = Spec::tcp(family, &bytes(length, 7)).with(|spec| {
                    spec.protocol = protocol;
                    spec.options = [1].repeat(options);
                });
                let mut expected = Vec::new();
                let mut next = whole.clone();
                for chunk in whole.payload.chunks(size) {
                    next.payload = chunk.to_vec();
                    expected.push(next.build());
                    next = next.next(&[]);
                }
                let (header, packet) = whole.build_super(size as u16);
                assert_eq!(split(&header, &packet), expected);
            }
        }
    }
}

#[test]
fn without_segmentation_the_packet_is_its_own_segment() {
    let packet = Spec::udp(Family::V4, b"payload").build();
    let layout = packet::parse(&packet).unwrap();
    let plan = Plan::new(&packet, &layout, &virtio::Header::NONE).unwrap();
    assert_eq!((plan.count(), plan.header_len()), (1, 0));
    assert_eq!((plan.segment_len(), plan.last_len()), (packet.len(), packet.len()));
    assert_eq!(plan.payload(0), 0..packet.len());
    let mut out = [0xa5; 4];
    plan.write_header(&packet, 0, &mut out, checksum::naive);
    assert_eq!(out, [0xa5; 4]);
}

#[test]
fn shapes_of_a_plan() {
    let shape = |length: usize, size: u16| {
        let (header, packet) = Spec::tcp(Family::V4, &bytes(length, 3)).build_super(size);
        let layout = packet::parse(&packet).unwrap();
        let plan = Plan::new(&packet, &layout, &header).unwrap();
        (plan.count(), plan.segment_len(), plan.last_len())
    };
    assert_eq!(shape(100, 50), (2, 90, 90));
    assert_eq!(shape(101, 50), (3, 90, 41));
    assert_eq!(shape(50, 50), (1, 90, 90));
    assert_eq!(shape(10, 50), (1, 50, 50));
    assert_eq!(shape(0, 50), (1, 40, 40));
    assert_eq!(shape(65_495, 1), (65_495, 41, 41));
}

#[test]
fn payload_ranges_cover_the_payload_once() {
    let (header, packet) = Spec::tcp(Family::V4, &bytes(101, 3)).build_super(50);
    let layout = packet::parse(&packet).unwrap();
    let plan = Plan::new(&packet, &layout, &header).unwrap();
    let ranges: Vec<_> = (0..4).map(|index| plan.payload(index)).collect();
    assert_eq!(ranges, [40..90, 90..140, 140..141, 141..141]);
}

#[test]
fn contradictions_are_refused() {
    let (header, packet) = Spec::tcp(Family::V4, b"payload").build_super(3);
    let refused = |header: virtio::Header| {
        let layout = packet::parse(&packet).unwrap();
        assert_eq!(
            Plan::new(&packet, &layout, &header).unwrap_err(),
            DropReason::BadVirtioHeader,
            "{header:?}"
        );
    };
    refused(virtio::Header { gso: Gso::TcpV6, ..header });
    refused(virtio::Header { gso: Gso::Udp, ..header });
    refused(virtio::Header { segment_size: 0, ..header });
    refused(virtio::Header { needs_checksum: false, ..header });
    refused(virtio::Header { checksum_start: 21, ..header });
    refused(virtio::Header { checksum_offset: 6, ..header });
    // The length hint is not believed, so it cannot be wrong.
    let layout = packet::parse(&packet).unwrap();
    let hint = virtio::Header { header_length: 9999, ..header };
    assert_eq!(Plan::new(&packet, &layout, &hint).unwrap().count(), 3);
}

/// Found by fuzzing: completing a checksum that was said to be in the IP header wrote over the header,
/// and the worker took what it had parsed for granted.
#[test]
fn a_checksum_in_the_ip_header_is_refused() {
    for family in [Family::V4, Family::V6] {
        let packet = Spec::udp(family, b"x").build();
        let layout = packet::parse(&packet).unwrap();
        let start = layout.transport_offset() as u16;
        for (checksum_start, is_right) in [(0, false), (start - 1, false), (start, true)] {
            let header =
                virtio::Header { needs_checksum: true, checksum_start, ..virtio::Header::NONE };
            assert_eq!(Plan::new(&packet, &layout, &header).is_ok(), is_right);
            let unused = virtio::Header { needs_checksum: false, ..header };
            assert!(Plan::new(&packet, &layout, &unused).is_ok());
        }
    }
}

/// The longest packet that IPv6 can name is longer than 16 bits can count with its header.
#[test]
fn the_longest_packet_of_v6_is_cut() {
    let mut whole = Spec::udp(Family::V6, b"x").build();
    whole.resize(65_575, 7);
    whole[4..6].copy_from_slice(&[0xff, 0xff]);
    let (mut header, _) = Spec::udp(Family::V6, b"x").build_super(1);
    for (segment_size, count) in [(u16::MAX, 1), (65_526, 2)] {
        header.segment_size = segment_size;
        let segments = split(&header, &whole);
        assert_eq!(segments.len(), count);
        assert!(segments.iter().all(|segment| checksums_ok(segment)));
    }
}

#[test]
fn broken_packets_are_refused() {
    let reason = |packet: &[u8], header: &virtio::Header| {
        let layout = packet::parse(packet).unwrap();
        Plan::new(packet, &layout, header).unwrap_err()
    };
    let (header, mut packet) = Spec::tcp(Family::V4, b"payload").build_super(3);
    packet[6] = 0x20;
    assert_eq!(reason(&packet, &header), DropReason::BadVirtioHeader);
    packet[6] = 0x40;
    for offset in [0, 4, 7, 15] {
        packet[32] = offset << 4;
        assert_eq!(reason(&packet, &header), DropReason::BadTransportHeader);
    }
    for length in 20..40 {
        packet[3] = length;
        assert_eq!(reason(&packet[..usize::from(length)], &header), DropReason::BadTransportHeader);
    }
    let (header, mut packet) = Spec::udp(Family::V4, b"").build_super(3);
    packet.truncate(27);
    packet[3] = 27;
    assert_eq!(reason(&packet, &header), DropReason::BadTransportHeader);
}

/// A UDP super-packet behind one IPv6 extension header of the given kind and length in units of eight.
fn behind_extension(kind: u8, units: u8) -> (virtio::Header, Vec<u8>) {
    let (mut header, packet) = Spec::udp(Family::V6, b"payload").build_super(3);
    let length = usize::from(units) * 8;
    let mut extension = std::vec![0; length];
    (extension[0], extension[1]) = (udp::PROTOCOL, units - 1);
    let mut longer = [&packet[..40], &extension, &packet[40..]].concat();
    longer[5] += length as u8;
    longer[6] = kind;
    header.checksum_start += length as u16;
    (header, longer)
}

#[test]
fn extension_headers_are_copied_unless_they_change_the_pseudo_header() {
    let (header, packet) = behind_extension(ipv6::DESTINATION, 2);
    let segments = split(&header, &packet);
    assert_eq!(segments.len(), 3);
    for segment in &segments {
        assert!(checksums_ok(segment));
        assert_eq!(segment[40..56], packet[40..56]);
    }
    for (kind, units) in [(ipv6::ROUTING, 1), (ipv6::DESTINATION, 10)] {
        let (header, packet) = behind_extension(kind, units);
        let layout = packet::parse(&packet).unwrap();
        let refused = Plan::new(&packet, &layout, &header).unwrap_err();
        assert_eq!(refused, DropReason::ExtensionHeaders);
    }
}

#[test]
fn a_computed_udp_checksum_is_never_zero() {
    // The last payload word is chosen so that everything sums to all ones.
    let mut spec = Spec::udp(Family::V4, &[1, 2, 3, 4, 0, 0]);
    let whole = spec.build();
    let word = u16::from_be_bytes([whole[26], whole[27]]);
    spec.payload[4..].copy_from_slice(&word.to_be_bytes());
    let (header, packet) = spec.build_super(6);
    assert_eq!(split(&header, &packet)[0][26..28], [0xff, 0xff]);
    let single = virtio::Header { gso: Gso::None, ..header };
    let mut complete = packet.clone();
    complete_checksum(&mut complete, &single, checksum::portable).unwrap();
    assert_eq!(complete, spec.build());
    assert_eq!(complete[26..28], [0xff, 0xff]);
}

#[test]
fn completing_gives_the_ordinary_packet() {
    for family in [Family::V4, Family::V6] {
        for length in [0, 1, 2, 999, 1448] {
            for spec in [Spec::tcp(family, &bytes(length, 5)), Spec::udp(family, &bytes(length, 5))]
            {
                let (header, mut packet) = spec.build_super(1);
                let header = virtio::Header { gso: Gso::None, ..header };
                assert_eq!(complete_checksum(&mut packet, &header, checksum::portable), Ok(()));
                assert_eq!(packet, spec.build());
            }
        }
    }
}

#[test]
fn completing_stays_inside_the_packet() {
    let packet = Spec::udp(Family::V4, b"").build();
    let complete = |start: u16, offset: u16| {
        let header = virtio::Header {
            needs_checksum: true,
            checksum_start: start,
            checksum_offset: offset,
            ..virtio::Header::NONE
        };
        complete_checksum(&mut packet.clone(), &header, checksum::portable)
    };
    assert_eq!(complete(20, 6), Ok(()));
    assert_eq!(complete(20, 7), Err(DropReason::BadVirtioHeader));
    assert_eq!(complete(29, 0), Err(DropReason::BadVirtioHeader));
    assert_eq!(complete(u16::MAX, u16::MAX), Err(DropReason::BadVirtioHeader));
    let mut untouched = packet.clone();
    let header = virtio::Header { checksum_start: 20, checksum_offset: 6, ..virtio::Header::NONE };
    assert_eq!(complete_checksum(&mut untouched, &header, checksum::portable), Ok(()));
    assert_eq!(untouched, packet);
}
