//! No bytes make anything in here panic, and nothing is lost or made up whatever they are.

use std::vec;
use std::vec::Vec;

use proptest::collection::vec as any_vec;
use proptest::prelude::*;

use super::round_trip::specs;
use crate::checksum;
use crate::coalesce::Coalescer;
use crate::icmp::{self, Problem};
use crate::packet::{self, Family};
use crate::segment::{self, Plan};
use crate::testing::{ALL, Device, bytes};
use crate::virtio::{self, Gso};
use crate::{fragment, mss};

/// Bytes that are a packet as far as its first checks go: version and length are made right.
pub(super) fn packets() -> impl Strategy<Value = Vec<u8>> {
    let noise = (any::<bool>(), any_vec(any::<u8>(), 20..200)).prop_map(|(is_v6, mut bytes)| {
        let length = bytes.len() as u16;
        if is_v6 && length >= 40 {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
            bytes[6] = [0, 6, 17, 43, 44, 58, 60, bytes[6]][usize::from(bytes[6] % 8)];
        } else {
            bytes[0] = 0x45 + bytes[0] % 11 * u8::from(length >= 60);
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[9] = [1, 6, 17, bytes[9]][usize::from(bytes[9] % 4)];
        }
        bytes
    });
    let bent =
        (specs(), 0usize..100, any::<[(usize, u8); 4]>()).prop_map(|(spec, length, noise)| {
            let mut packet = spec.with(|spec| spec.payload = bytes(length, 1)).build();
            for (at, value) in noise {
                let at = at % packet.len();
                packet[at] = value;
            }
            packet
        });
    prop_oneof![noise, bent]
}

fn virtio_headers() -> impl Strategy<Value = virtio::Header> {
    let kinds = prop_oneof![Just(Gso::None), Just(Gso::TcpV4), Just(Gso::TcpV6), Just(Gso::Udp)];
    let starts = prop_oneof![Just(20u16), Just(40), Just(48), any::<u16>()];
    let offsets = prop_oneof![Just(16u16), Just(6), any::<u16>()];
    (kinds, any::<[bool; 3]>(), any::<u16>(), 0u16..300, starts, offsets).prop_map(
        |(gso, flags, header_length, segment_size, checksum_start, checksum_offset)| {
            virtio::Header {
                gso,
                ecn: flags[0],
                needs_checksum: flags[1],
                checksum_valid: flags[2],
                header_length,
                segment_size,
                checksum_start,
                checksum_offset,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in any_vec(any::<u8>(), 0..200)) {
        if let Ok(layout) = packet::parse(&bytes) {
            prop_assert_eq!(layout.len(), bytes.len());
            prop_assert!(layout.transport_offset() <= bytes.len());
        }
        let _ = virtio::Header::parse(&bytes);
    }

    #[test]
    fn any_packet_is_looked_at(packet in packets()) {
        let Ok(layout) = packet::parse(&packet) else { return Ok(()) };
        prop_assert!(layout.transport_offset() <= packet.len());
        prop_assert!(!layout.is_later_fragment() || layout.is_fragment());
        let _ = packet::header_checksum_ok(&packet, &layout);
        let is_v4 = packet::source(&packet, &layout).is_ipv4();
        prop_assert_eq!(is_v4, layout.family() == Family::V4);
        prop_assert_eq!(packet::destination(&packet, &layout).is_ipv4(), is_v4);
    }

    #[test]
    fn any_packet_is_planned_or_refused(packet in packets(), header in virtio_headers()) {
        let Ok(layout) = packet::parse(&packet) else { return Ok(()) };
        let mut completed = packet.clone();
        if segment::complete_checksum(&mut completed, &header, checksum::portable).is_err() {
            prop_assert_eq!(&completed, &packet);
        }
        let Ok(plan) = Plan::new(&packet, &layout, &header) else { return Ok(()) };
        let after = packet::parse(&completed).expect("completing leaves the headers alone");
        prop_assert_eq!(after.transport_offset(), layout.transport_offset());
        let mut out = [0; segment::HEADER_MAX];
        let mut at = plan.header_len();
        for index in 0..plan.count() {
            plan.write_header(&packet, index, &mut out, checksum::portable);
            let payload = plan.payload(index);
            prop_assert_eq!(payload.start, at);
            at = payload.end;
            if plan.header_len() > 0 {
                let segment = [&out[..plan.header_len()], &packet[payload]].concat();
                prop_assert!(packet::parse(&segment).is_ok());
                prop_assert!(crate::testing::checksums_ok(&segment));
            }
        }
        prop_assert_eq!(at, packet.len());
    }

    #[test]
    fn any_packets_are_joined_without_loss(packets in any_vec(packets(), 0..20)) {
        let mut coalescer = Coalescer::new(ALL, checksum::portable);
        let mut device = Device::default();
        for packet in &packets {
            if packet::parse(packet).is_ok() {
                device.push(&mut coalescer, packet);
            }
        }
        coalescer.flush(&mut device);
        let segments = device.written.iter().flat_map(|(header, bytes)| crate::testing::split(header, bytes));
        prop_assert_eq!(segments.count(), device.packets.len());
    }

    #[test]
    fn any_packet_is_answered_or_not(packet in packets(), mtu: u16, room in 0usize..1400) {
        let Ok(layout) = packet::parse(&packet) else { return Ok(()) };
        for problem in [Problem::NetworkUnreachable, Problem::FragmentationNeeded { mtu }] {
            for from in ["10.0.0.1", "fd00::1"] {
                let mut out = vec![0; room];
                let from = from.parse().unwrap();
                let sent = icmp::error(&packet, &layout, problem, from, &mut out, checksum::portable);
                if let Some(length) = sent {
                    prop_assert!(packet::parse(&out[..length]).is_ok());
                }
            }
        }
    }

    #[test]
    fn any_packet_is_cut_or_refused(packet in packets(), mtu in 0usize..300) {
        let Ok(layout) = packet::parse(&packet) else { return Ok(()) };
        let Ok(mut plan) = fragment::fragments(&packet, &layout, mtu) else { return Ok(()) };
        let mut out = vec![0; mtu];
        let mut payload = 0;
        while let Some(length) = plan.next(&packet, &mut out) {
            let piece = packet::parse(&out[..length]).unwrap();
            prop_assert!(packet::header_checksum_ok(&out[..length], &piece));
            payload += length - piece.transport_offset();
        }
        prop_assert_eq!(payload, packet.len() - layout.transport_offset());
    }

    #[test]
    fn any_packet_is_clamped_or_left(mut packet in packets(), mtu in 0usize..2000, partial: bool) {
        let Ok(layout) = packet::parse(&packet) else { return Ok(()) };
        let before = packet.clone();
        let changed = mss::clamp(&mut packet, &layout, mtu, partial);
        prop_assert_eq!(changed, packet != before);
        prop_assert_eq!(&packet[..layout.transport_offset()], &before[..layout.transport_offset()]);
    }
}
