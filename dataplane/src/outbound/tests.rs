//! One packet or train in, exact bytes and exactly the counters out.

mod again;
mod oversize;
mod random;

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header,
    icmpv4::DestUnreachableHeader, icmpv6::DestUnreachableCode,
};
use weft_forward::virtio;
use weft_sys::tun::Offloads;

use crate::testing::{Inner, Rig, Sent, Transport};

/// A pod of ours, one of each peer, and their IPv6 selves.
const POD: &str = "10.244.1.9";
const POD_V6: &str = "fd00:244:0:1::9";
const AT: [&str; 3] = ["10.244.2.7", "10.244.3.7", "10.244.4.7"];
const AT_V6: [&str; 3] = ["fd00:244:0:2::7", "fd00:244:0:3::7", "fd00:244:0:4::7"];

fn udp(destination: &str, length: usize) -> Inner {
    let source = if destination.contains(':') { POD_V6 } else { POD };
    Inner::udp(source, destination, length)
}

fn tcp(destination: &str, length: usize) -> Inner {
    let source = if destination.contains(':') { POD_V6 } else { POD };
    Inner::tcp(source, destination, length)
}

fn build(packets: &[Inner]) -> Vec<Vec<u8>> {
    packets.iter().map(Inner::build).collect()
}

/// The ICMP error about `offender` as the kernel would accept it: from the offender's destination.
fn icmp_v4(offender: &[u8], problem: DestUnreachableHeader) -> Vec<u8> {
    let quote = &offender[..offender.len().min(548)];
    let error = Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(problem), quote);
    let (to, from) = (&offender[12..16], &offender[16..20]);
    let (from, to) = (from.try_into().unwrap(), to.try_into().unwrap());
    let length = (8 + quote.len()) as u16;
    let mut ip = Ipv4Header::new(length, 64, IpNumber::ICMP, from, to).unwrap();
    ip.dscp = (0xc0_u8 >> 2).try_into().unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    [&ip.to_bytes()[..], &error.to_bytes()[..], quote].concat()
}

fn icmp_v6(offender: &[u8], problem: Icmpv6Type) -> Vec<u8> {
    let quote = &offender[..offender.len().min(1232)];
    let destination: [u8; 16] = offender[8..24].try_into().unwrap();
    let source: [u8; 16] = offender[24..40].try_into().unwrap();
    let error = Icmpv6Header::with_checksum(problem, source, destination, quote).unwrap();
    let ip = Ipv6Header {
        payload_length: (8 + quote.len()) as u16,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    [&ip.to_bytes()[..], &error.to_bytes()[..], quote].concat()
}

#[test]
fn a_packet_leaves_as_it_is() {
    // One that is copied, one that stays in its frame until the kernel has it.
    for (payload, held) in [(100, 0), (1000, 1)] {
        let mut rig = Rig::new();
        let packet = udp(AT[0], payload).build();
        rig.read_plain(&packet);
        assert!(rig.outbound.has_work());
        let trains = rig.send();
        assert_eq!(trains.len(), 1);
        assert_eq!(trains[0].bytes, packet);
        assert_eq!(trains[0].to, "127.0.0.2:8285".parse().unwrap());
        assert_eq!((trains[0].socket, trains[0].segment, trains[0].linked), (0, None, false));
        assert_eq!(rig.held(), (held, 0));
        rig.assert_moved(&[("out.segments_in", 1)]);
        rig.accept(trains);
        assert_eq!(rig.held(), (0, 0));
        assert!(!rig.outbound.has_work());
        let bytes = packet.len() as u64;
        rig.assert_moved(&[
            ("out.segments_out", 1),
            ("out.trains_out", 1),
            ("out.bytes_out", bytes),
        ]);
    }
}

#[test]
fn a_checksum_left_to_us_is_completed() {
    for packet in [udp(AT[0], 333), tcp(AT[0], 333), udp(AT_V6[0], 333), tcp(AT_V6[0], 333)] {
        let mut rig = Rig::new();
        let (header, partial) = packet.build_partial(0);
        assert!(rig.read(header, &partial));
        let trains = rig.send();
        assert_ne!(partial, packet.build());
        assert_eq!(trains[0].datagrams(), [packet.build()]);
        rig.assert_moved(&[("out.segments_in", 1)]);
    }
}

#[test]
fn a_super_packet_becomes_linked_trains_of_its_segments() {
    let packet = tcp(AT[1], 65_000)
        .with(|packet| packet.transport = Transport::Tcp { sequence: 0xffff_f000, push: true });
    let mut rig = Rig::new();
    let (header, bytes) = packet.build_partial(1432);
    assert!(rig.read(header, &bytes));
    let trains = rig.send();
    let shape: Vec<_> = trains.iter().map(|train| (train.segment, train.linked)).collect();
    assert_eq!(shape, [(Some(1472), true), (Some(1472), false)]);
    let sent: Vec<Vec<u8>> = trains.iter().flat_map(Sent::datagrams).collect();
    assert_eq!(sent.len(), 46);
    assert_eq!(trains[0].datagrams().len(), 44, "65,400 bytes at most");
    assert_eq!(sent, build(&packet.cut(1432)));
    rig.assert_moved(&[("out.segments_in", 46), ("out.super_packets_in", 1)]);
    rig.accept(trains);
    let bytes = 65_000 + 46 * 40;
    rig.assert_moved(&[("out.segments_out", 46), ("out.trains_out", 2), ("out.bytes_out", bytes)]);
    assert_eq!(rig.held(), (0, 0));
}

#[test]
fn super_packets_of_every_kind_are_cut() {
    for packet in [udp(AT[0], 5000), udp(AT_V6[0], 5000), tcp(AT_V6[0], 5000)] {
        let mut rig = Rig::new();
        let (header, bytes) = packet.build_partial(1200);
        assert!(rig.read(header, &bytes));
        let trains = rig.send();
        assert_eq!(trains.len(), 1);
        assert_eq!(trains[0].datagrams(), build(&packet.cut(1200)));
    }
}

#[test]
fn packets_of_one_size_share_a_train() {
    let mut rig = Rig::new();
    let sizes = [100, 100, 60, 60, 200, 200, 300];
    let packets: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(id, size)| udp(AT[0], *size).with(|packet| packet.id = id as u16).build())
        .collect();
    for packet in &packets {
        rig.read_plain(packet);
    }
    let trains = rig.send();
    let sent: Vec<_> = trains.iter().map(Sent::datagrams).collect();
    // A shorter one closes its train, a longer one opens the next.
    let expected: [&[Vec<u8>]; 4] = [&packets[..3], &packets[3..4], &packets[4..6], &packets[6..]];
    assert_eq!(sent, expected);
    let shape: Vec<_> = trains.iter().map(|train| (train.segment, train.linked)).collect();
    assert_eq!(shape, [(Some(128), true), (None, true), (Some(228), true), (None, false)]);
    rig.assert_moved(&[("out.segments_in", 7)]);
}

#[test]
fn a_train_has_no_more_datagrams_than_the_kernel_cuts() {
    for segments_max in [1, 5] {
        let mut rig = Rig::with(segments_max, Offloads::default());
        for _ in 0..11 {
            rig.read_plain(&udp(AT[0], 10).build());
        }
        let counts: Vec<_> = rig.send().iter().map(|train| train.datagrams().len()).collect();
        let expected = if segments_max == 1 { vec![1; 11] } else { vec![5, 5, 1] };
        assert_eq!(counts, expected);
    }
}

#[test]
fn trains_are_brought_together_by_peer() {
    let mut rig = Rig::new();
    let packet = |peer: usize, size: usize| udp(AT[peer], size).build();
    // Peer 1 first, and both grow, so that every packet opens a train.
    let order = [(1, 10), (0, 10), (1, 20), (0, 20), (1, 30)];
    for (peer, size) in order {
        rig.read_plain(&packet(peer, size));
    }
    let trains = rig.send();
    let sent: Vec<_> = trains.iter().map(|train| train.bytes.clone()).collect();
    let expected = [(0, 10), (0, 20), (1, 10), (1, 20), (1, 30)];
    assert_eq!(sent, expected.map(|(peer, size)| packet(peer, size)));
    let linked: Vec<_> = trains.iter().map(|train| train.linked).collect();
    assert_eq!(linked, [true, false, true, true, false], "links end with a peer");
}

#[test]
fn ipv6_goes_to_peers_that_take_it() {
    let mut rig = Rig::new();
    let packet = udp(AT_V6[1], 50).build();
    rig.read_plain(&packet);
    let trains = rig.send();
    assert_eq!(trains[0].bytes, packet);
    rig.assert_moved(&[("out.segments_in", 1)]);
    rig.accept(trains);
    rig.assert_moved(&[("out.segments_out", 1), ("out.trains_out", 1), ("out.bytes_out", 98)]);

    let refused = udp(AT_V6[2], 50).build();
    rig.read_plain(&refused);
    assert!(rig.send().is_empty());
    let problem = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::NoRoute);
    assert_eq!(rig.write_plain(), [icmp_v6(&refused, problem)]);
    rig.assert_moved(&[
        ("out.segments_in", 1),
        ("out.drop.no_route_inner_v6", 1),
        ("icmp_sent", 1),
    ]);
}

#[test]
fn without_a_route_the_sender_is_told() {
    for (destination, reason) in
        [("10.244.99.1", "out.drop.no_route"), ("10.244.1.200", "out.drop.own_destination")]
    {
        let mut rig = Rig::new();
        let offender = udp(destination, 700).build();
        rig.read_plain(&offender);
        assert!(rig.send().is_empty());
        let told = rig.write_plain();
        assert_eq!(told, [icmp_v4(&offender, DestUnreachableHeader::Network)]);
        assert_eq!(told[0][12..16], offender[16..20], "an address that is not this host's");
        rig.assert_moved(&[("out.segments_in", 1), (reason, 1), ("icmp_sent", 1)]);
    }
}

#[test]
fn a_super_packet_without_a_route_counts_as_its_segments() {
    let mut rig = Rig::new();
    let (header, bytes) = tcp("10.244.99.1", 5000).build_partial(1000);
    assert!(rig.read(header, &bytes));
    assert!(rig.send().is_empty());
    assert_eq!(rig.write_plain().len(), 1);
    rig.assert_moved(&[("out.segments_in", 5), ("out.drop.no_route", 5), ("icmp_sent", 1)]);
}

#[test]
fn icmp_errors_are_limited() {
    let mut rig = Rig::new();
    let offender = udp("10.244.99.1", 10).build();
    let mut told = 0;
    for _ in 0..4 {
        for _ in 0..100 {
            rig.read_plain(&offender);
        }
        assert!(rig.send().is_empty());
        told += rig.write_plain().len();
    }
    assert_eq!(told, 50);
    rig.assert_moved(&[("out.segments_in", 400), ("out.drop.no_route", 400), ("icmp_sent", 50)]);
    rig.shared.now_ms = 1000;
    rig.read_plain(&offender);
    rig.send();
    assert_eq!(rig.write_plain().len(), 1);
}

#[test]
fn what_is_for_many_is_dropped_quietly() {
    for destination in ["224.0.0.251", "255.255.255.255", "ff02::fb"] {
        let mut rig = Rig::new();
        rig.read_plain(&udp(destination, 10).build());
        assert!(rig.send().is_empty());
        assert!(rig.write_plain().is_empty());
        rig.assert_moved(&[("out.segments_in", 1), ("out.drop.multicast", 1)]);
    }
}

#[test]
fn what_is_broken_is_dropped_under_its_reason() {
    let good = udp(AT[0], 20).build();
    let changed = |place: usize, value: u8| {
        let mut packet = good.clone();
        packet[place] = value;
        packet
    };
    let cases = [
        (changed(8, 0), "out.drop.hop_limit_zero"),
        (changed(0, 0x55), "out.drop.bad_version"),
        (changed(0, 0x44), "out.drop.bad_header_length"),
        (changed(3, 47), "out.drop.length_mismatch"),
        (good[..good.len() - 1].to_vec(), "out.drop.length_mismatch"),
        (good[..19].to_vec(), "out.drop.too_short"),
        (Vec::new(), "out.drop.too_short"),
    ];
    for (packet, reason) in cases {
        let mut rig = Rig::new();
        rig.read_plain(&packet);
        assert!(rig.send().is_empty());
        assert!(rig.write_plain().is_empty());
        rig.assert_moved(&[("out.segments_in", 1), (reason, 1)]);
        assert_eq!(rig.held(), (0, 0));
    }
}

#[test]
fn a_broken_offload_header_is_a_drop() {
    let (header, bytes) = tcp(AT[0], 5000).build_partial(1000);
    let broken = [
        virtio::Header { checksum_start: header.checksum_start + 1, ..header },
        virtio::Header { segment_size: 0, ..header },
        virtio::Header { gso: virtio::Gso::Udp, ..header },
        // Without segmentation the checksum may be anywhere, but not behind the packet.
        virtio::Header { gso: virtio::Gso::None, checksum_start: 60_000, ..header },
    ];
    for header in broken {
        let mut rig = Rig::new();
        assert!(rig.read(header, &bytes));
        assert!(rig.send().is_empty());
        rig.assert_moved(&[("out.segments_in", 1), ("out.drop.bad_virtio_header", 1)]);
    }
    for length in 0..virtio::LENGTH {
        let mut rig = Rig::new();
        rig.read_raw(&[0; virtio::LENGTH][..length]);
        assert!(rig.send().is_empty());
        rig.assert_moved(&[("out.segments_in", 1), ("out.drop.bad_virtio_header", 1)]);
    }
}

#[test]
fn a_handshake_is_clamped_to_the_path() {
    for (destination, headers) in [(AT[0], 40), (AT_V6[0], 60)] {
        let syn =
            |mss: u16| tcp(destination, 0).with(|packet| packet.transport = Transport::Syn { mss });
        for (path, largest) in [(1472, 1472 - headers), (900, 900 - headers)] {
            let mut rig = Rig::new();
            rig.shared.peers.state(0).unwrap().lower_path_mtu(path + 1, Some(path), 0);
            rig.read_plain(&syn(8960).build());
            let (header, partial) = syn(8960).build_partial(0);
            assert!(rig.read(header, &partial));
            rig.read_plain(&syn(400).build());
            let expected = [syn(largest as u16), syn(largest as u16), syn(400)];
            assert_eq!(rig.send()[0].datagrams(), build(&expected));
            rig.assert_moved(&[("out.segments_in", 3), ("mss_clamped", 2)]);
        }
    }
}
