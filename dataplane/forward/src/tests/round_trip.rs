//! Cutting and joining undo each other, and joining keeps the order of every flow.

use std::vec;
use std::vec::Vec;

use proptest::collection::vec as any_vec;
use proptest::prelude::*;

use crate::checksum;
use crate::coalesce::Limits;
use crate::packet::{self, Family};
use crate::testing::{ALL, Spec, Written, bytes, join, split};
use crate::virtio::Gso;
use crate::{ipv4, tcp, udp};

/// A flow's first packet, without payload.
pub(super) fn specs() -> impl Strategy<Value = Spec> {
    let header = (any::<u16>(), any::<bool>(), 1u8.., any::<u8>(), 0u32..0x10_0000);
    let transport = (any::<u32>(), any::<u32>(), any::<u16>(), 0usize..=10);
    (any::<(bool, bool)>(), 0u8..2, 0u16..3, header, transport).prop_map(
        |((is_v6, is_tcp), host, port, header, transport)| Spec {
            family: if is_v6 { Family::V6 } else { Family::V4 },
            protocol: if is_tcp { tcp::PROTOCOL } else { udp::PROTOCOL },
            hosts: (host, 9),
            ports: (port + 1, 80),
            id: header.0,
            dont_fragment: header.1,
            hop_limit: header.2,
            traffic_class: header.3,
            flow_label: header.4,
            sequence: transport.0,
            acknowledgement: transport.1,
            window: transport.2,
            flags: tcp::ACK,
            options: if is_tcp { [1].repeat(transport.3 * 4) } else { Vec::new() },
            payload: Vec::new(),
        },
    )
}

/// Payload lengths: the short and the usual.
pub(super) fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..20, 1440usize..1460, 0usize..3000]
}

/// What happens next in a flow.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next segment, full, shorter or longer.
    Next(usize),
    Flags(u8),
    /// A lost segment.
    Gap,
    Again,
    /// No payload.
    Empty,
    Corrupt(usize),
    OtherHopLimit,
    OtherOption,
    OtherId,
    Fragment,
    /// A packet without ports between the same addresses.
    Portless,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Next(100)),
        2 => (1usize..200).prop_map(Step::Next),
        2 => prop_oneof![
            Just(tcp::PSH), Just(tcp::FIN), Just(tcp::SYN), Just(tcp::RST), Just(tcp::CWR), Just(tcp::ECE),
        ].prop_map(Step::Flags),
        1 => Just(Step::Gap),
        1 => Just(Step::Again),
        1 => Just(Step::Empty),
        1 => any::<usize>().prop_map(Step::Corrupt),
        1 => Just(Step::OtherHopLimit),
        1 => Just(Step::OtherOption),
        1 => Just(Step::OtherId),
        1 => Just(Step::Fragment),
        1 => Just(Step::Portless),
    ]
}

/// The packet of a step; the flow goes on behind it.
fn packet_of(flow: &mut Spec, step: Step, seed: u32) -> Vec<u8> {
    let payload = bytes(100, seed);
    let mut spec = flow.next(&payload);
    match step {
        Step::Next(length) => spec.payload = bytes(length, seed),
        Step::Flags(flags) => spec.flags |= flags,
        Step::Gap => spec.sequence = spec.sequence.wrapping_add(1000),
        Step::Again => spec.sequence = flow.sequence,
        Step::Empty => spec.payload.clear(),
        Step::OtherHopLimit => spec.hop_limit = spec.hop_limit.wrapping_add(1).max(1),
        Step::OtherOption if !spec.options.is_empty() => spec.options[0] ^= 1,
        Step::OtherId => spec.id = spec.id.wrapping_add(7),
        Step::OtherOption | Step::Corrupt(_) | Step::Fragment | Step::Portless => {}
    }
    let mut packet = spec.build();
    match step {
        Step::Corrupt(at) => {
            let length = packet.len();
            packet[length - 1 - at % 100] ^= 0x10;
        }
        Step::Fragment if spec.family == Family::V4 => rewrite(&mut packet, 6, 0x20),
        Step::Portless if spec.family == Family::V4 => rewrite(&mut packet, 9, 1),
        Step::Portless => packet[6] = 58,
        _ => {}
    }
    let flags = spec.flags & (tcp::ACK | tcp::ECE);
    *flow = Spec { flags, ..spec };
    packet
}

/// Changes a byte of the IPv4 header and its checksum.
fn rewrite(packet: &mut [u8], at: usize, value: u8) {
    packet[at] = value;
    packet[10..12].fill(0);
    let sum = !checksum::naive(&packet[..ipv4::LENGTH]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The id of a packet with DF has no meaning and is not kept.
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Addresses, protocol and, unless it has none, the ports.
fn flow_of(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let layout = packet::parse(packet).unwrap();
    let addresses = match layout.family() {
        Family::V4 => packet[12..20].to_vec(),
        Family::V6 => packet[8..40].to_vec(),
    };
    let has_ports = [tcp::PROTOCOL, udp::PROTOCOL].contains(&layout.protocol());
    let start = layout.transport_offset();
    let ports = [&[layout.protocol()][..], &packet[start..start + 4]].concat();
    (addresses, (has_ports && !layout.is_fragment()).then_some(ports))
}

/// The packets of one flow and those that may belong to it because they have no ports, in order.
fn of_flow(packets: &[Vec<u8>], flow: &(Vec<u8>, Option<Vec<u8>>)) -> Vec<Vec<u8>> {
    let belongs = |packet: &&Vec<u8>| {
        let (pair, ports) = flow_of(packet);
        pair == flow.0 && (ports.is_none() || ports == flow.1)
    };
    packets.iter().filter(belongs).cloned().collect()
}

fn check_order(packets: &[Vec<u8>], written: &[Written]) -> Result<(), TestCaseError> {
    let back: Vec<Vec<u8>> =
        written.iter().flat_map(|(header, bytes)| split(header, bytes)).collect();
    prop_assert_eq!(back.len(), packets.len());
    let normal =
        |packets: Vec<Vec<u8>>| packets.iter().map(|packet| without_id(packet)).collect::<Vec<_>>();
    for flow in packets.iter().map(|packet| flow_of(packet)) {
        prop_assert_eq!(normal(of_flow(&back, &flow)), normal(of_flow(packets, &flow)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What is joined is cut back into the same packets, in the same order in every flow.
    #[test]
    fn cutting_undoes_joining(
        mut flows in any_vec(specs(), 1..6),
        steps in any_vec((0usize..6, steps()), 0..150),
        segments_max in 1usize..200,
        bytes_max in 0usize..70_000,
        switches: [bool; 3],
    ) {
        // One flow, one state: the others of the same name go.
        flows.sort_by_key(|spec| (spec.family == Family::V4, spec.protocol, spec.hosts, spec.ports));
        flows.dedup_by_key(|spec| (spec.family, spec.protocol, spec.hosts, spec.ports));
        let count = flows.len();
        let packet = |(seed, (index, step)): (usize, (usize, Step))| {
            packet_of(&mut flows[index % count], step, seed as u32)
        };
        let packets: Vec<Vec<u8>> = steps.into_iter().enumerate().map(packet).collect();
        check_order(&packets, &join(ALL, &packets))?;
        let [udp, tcp, ecn] = switches;
        let limits = Limits { udp, tcp, ecn, segments_max, bytes_max };
        let written = join(limits, &packets);
        check_order(&packets, &written)?;
        for (header, bytes) in &written {
            let is_one = header.gso == Gso::None;
            prop_assert!(is_one || bytes.len() <= bytes_max);
            prop_assert!(!header.ecn || ecn);
        }
    }

    /// Without changed ids not even those differ.
    #[test]
    fn cutting_undoes_joining_to_the_bit(first in specs(), runs in any_vec((1usize..300, 1usize..20), 1..8)) {
        let mut flow = first;
        let mut packets = Vec::new();
        for (length, count) in runs {
            for _ in 0..count {
                packets.push(packet_of(&mut flow, Step::Next(length), packets.len() as u32));
            }
        }
        let written = join(ALL, &packets);
        prop_assert!(packets.len() < 40 || written.len() < packets.len());
        let back: Vec<_> = written.iter().flat_map(|(header, bytes)| split(header, bytes)).collect();
        prop_assert_eq!(back, packets);
    }

    /// What is cut is joined back into the same super-packet, virtio header included.
    #[test]
    fn joining_undoes_cutting(spec in specs(), size in 1u16..9000, segments in 2usize..=128, last in 1u16.., flags: u8) {
        let room = 65_535 - spec.header_length();
        let size = size.min((room / segments) as u16);
        let last = usize::from(last % size) + 1;
        let length = usize::from(size) * (segments - 1) + last;
        let whole = spec.with(|spec| {
            spec.payload = bytes(length, 4);
            spec.flags |= flags & (tcp::PSH | tcp::FIN | tcp::CWR | tcp::ECE);
        });
        let (header, packet) = whole.build_super(size);
        let pieces = split(&header, &packet);
        prop_assert_eq!(pieces.len(), segments);
        prop_assert_eq!(join(ALL, &pieces), vec![(header, packet)]);
    }
}
