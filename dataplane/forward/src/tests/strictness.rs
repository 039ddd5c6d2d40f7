//! Where another implementation takes what we refuse, or joins what we leave alone, and why.

use std::vec::Vec;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice};
use proptest::prelude::*;
use tun_rs::{GROTable, VIRTIO_NET_HDR_LEN};

use super::hostile::packets;
use crate::packet::{self, Family};
use crate::testing::{ALL, Spec, bytes, join};
use crate::virtio::Gso;
use crate::{ipv6, tcp};

/// The authentication header, which etherparse walks and we leave to the receiver.
const AUTHENTICATION: IpNumber = IpNumber::AUTHENTICATION_HEADER;

/// What etherparse finds: protocol and start of what is behind all headers.
enum Theirs {
    Refused,
    Taken {
        protocol: u8,
        start: usize,
    },
    /// They look into the payload of a later fragment, or into an authentication header.
    NotComparable,
}

fn theirs(bytes: &[u8]) -> Theirs {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => theirs_v4(bytes),
        Some(6) => theirs_v6(bytes),
        _ => Theirs::Refused,
    }
}

/// Stricter than etherparse: the length must be exact, and a hop must be left.
fn theirs_v4(bytes: &[u8]) -> Theirs {
    match Ipv4HeaderSlice::from_slice(bytes) {
        Ok(header) if usize::from(header.total_len()) == bytes.len() && header.ttl() > 0 => {
            Theirs::Taken { protocol: header.protocol().0, start: header.slice().len() }
        }
        _ => Theirs::Refused,
    }
}

/// Stricter than etherparse: the same, and at most five extension headers.
fn theirs_v6(bytes: &[u8]) -> Theirs {
    let Ok(header) = Ipv6HeaderSlice::from_slice(bytes) else { return Theirs::Refused };
    let length = usize::from(header.payload_length()) + ipv6::LENGTH;
    if length != bytes.len() || header.hop_limit() == 0 {
        return Theirs::Refused;
    }
    let behind = &bytes[ipv6::LENGTH..];
    let walked = headers(header.next_header(), behind);
    if walked.contains(&AUTHENTICATION) || is_later_fragment(&walked, behind) {
        return Theirs::NotComparable;
    }
    match Ipv6ExtensionsSlice::from_slice(header.next_header(), behind) {
        Ok((_, protocol, rest)) if walked.len() <= 5 => {
            Theirs::Taken { protocol: protocol.0, start: bytes.len() - rest.len() }
        }
        _ => Theirs::Refused,
    }
}

/// The numbers of the extension headers, walked without any check.
fn headers(first: IpNumber, behind: &[u8]) -> Vec<IpNumber> {
    let (mut number, mut rest, mut found) = (first, behind, Vec::new());
    while number.is_ipv6_ext_header_value() && found.len() < 20 {
        found.push(number);
        let [next, units, ..] = *rest else { break };
        let length = match number {
            IpNumber::IPV6_FRAGMENTATION_HEADER => 8,
            AUTHENTICATION => (usize::from(units) + 2) * 4,
            _ => (usize::from(units) + 1) * 8,
        };
        number = IpNumber(next);
        rest = rest.get(length..).unwrap_or_default();
    }
    found
}

fn is_later_fragment(walked: &[IpNumber], behind: &[u8]) -> bool {
    let mut rest = behind;
    for number in walked {
        let [_, units, high, low, ..] = *rest else { return false };
        if *number == IpNumber::IPV6_FRAGMENTATION_HEADER {
            if u16::from_be_bytes([high, low]) >> 3 != 0 {
                return true;
            }
            rest = rest.get(8..).unwrap_or_default();
        } else {
            rest = rest.get((usize::from(units) + 1) * 8..).unwrap_or_default();
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// On any bytes we take exactly what etherparse takes within our stricter rules, and find the
    /// same protocol in the same place.
    #[test]
    fn parse_takes_what_etherparse_takes(packet in packets(), cut in prop_oneof![9 => Just(0), 1 => 0usize..4]) {
        let packet = &packet[..packet.len().saturating_sub(cut)];
        match (packet::parse(packet), theirs(packet)) {
            (_, Theirs::NotComparable) | (Err(_), Theirs::Refused) => {}
            (Ok(layout), Theirs::Taken { protocol, start }) => {
                prop_assert_eq!(layout.transport_offset(), start);
                prop_assert_eq!(layout.protocol(), protocol);
            }
            (Ok(layout), Theirs::Refused) => prop_assert!(false, "only we take it: {layout:?}"),
            (Err(reason), _) => prop_assert!(false, "only we refuse it: {reason:?}"),
        }
    }
}

/// How many super-packets the other implementation makes.
fn joined_by_tun_rs(packets: &[Vec<u8>]) -> usize {
    let room = |packet: &Vec<u8>| {
        let mut buffer = Vec::with_capacity(VIRTIO_NET_HDR_LEN + 65_535);
        buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        buffer.extend_from_slice(packet);
        buffer
    };
    let mut buffers: Vec<Vec<u8>> = packets.iter().map(room).collect();
    GROTable::new().apply_gro(&mut buffers, VIRTIO_NET_HDR_LEN, true).unwrap();
    // The second byte of the header says what the packet is to be cut into.
    buffers.iter().filter(|buffer| buffer[1] != 0).count()
}

fn joined_by_us(packets: &[Vec<u8>]) -> usize {
    join(ALL, packets).iter().filter(|(header, _)| header.gso != Gso::None).count()
}

/// One change of the second of two packets that would be joined: its name, whether we and whether
/// tun-rs still join them, and why not the same.
type Row = (&'static str, Family, bool, bool, fn(&mut Spec));

const ROWS: &[Row] = &[
    ("nothing", Family::V4, true, true, |_| {}),
    ("hop limit", Family::V4, false, false, |spec| spec.hop_limit -= 1),
    ("traffic class", Family::V4, false, false, |spec| spec.traffic_class ^= 4),
    ("DF", Family::V4, false, false, |spec| spec.dont_fragment = false),
    // Cutting writes the first one's window, so a change would be lost: the kernel ignores it too.
    ("window", Family::V4, false, true, |spec| spec.window += 1),
    // Cutting writes one flow label into all.
    ("flow label", Family::V6, false, true, |spec| spec.flow_label ^= 1),
    // FIN goes on the last segment when it is cut, so a last FIN can be joined.
    ("FIN", Family::V4, true, false, |spec| spec.flags |= tcp::FIN),
    ("PSH", Family::V4, true, true, |spec| spec.flags |= tcp::PSH),
    ("URG", Family::V4, false, false, |spec| spec.flags |= tcp::URG),
    // It has a flag that the first has not.
    ("ECE", Family::V4, false, false, |spec| spec.flags |= tcp::ECE),
    ("gap", Family::V4, false, false, |spec| spec.sequence += 1),
    // tun-rs puts a packet that comes too late in front; we keep the order.
    ("before", Family::V4, false, true, |spec| spec.sequence -= 200),
    ("longer", Family::V4, false, false, |spec| spec.payload.push(1)),
    ("acknowledgement", Family::V4, false, false, |spec| spec.acknowledgement += 1),
];

#[test]
fn where_joining_differs_from_tun_rs() {
    for (name, family, ours, theirs, change) in ROWS {
        let first = Spec::tcp(*family, &bytes(100, 1));
        let mut second = first.next(&bytes(100, 2));
        change(&mut second);
        let packets = [first.build(), second.build()];
        assert_eq!(joined_by_us(&packets) == 1, *ours, "{name}: ours");
        assert_eq!(joined_by_tun_rs(&packets) == 1, *theirs, "{name}: theirs");
    }
}
