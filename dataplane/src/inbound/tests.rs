//! One datagram or train in, exact writes and exactly the counters out.

use proptest::{collection::vec, prelude::*};
use weft_forward::virtio::{self, Gso};
use weft_sys::{ring::Errno, tun::Offloads};

use super::WRITES_A_PACKET;
use crate::{
    memory::WRITES,
    testing::{ALL, Inner, Rig, Transport, table_input},
};

/// A pod of ours, and one of the peer that sends from [`OUTER`].
const POD: &str = "10.244.1.9";
const POD_V6: &str = "fd00:244:0:1::9";
const FAR: &str = "10.244.2.7";
const FAR_V6: &str = "fd00:244:0:2::7";
const OUTER: &str = "127.0.0.2";

fn udp(length: usize) -> Inner {
    Inner::udp(FAR, POD, length)
}

fn tcp(length: usize) -> Inner {
    Inner::tcp(FAR, POD, length)
}

fn concat(packets: &[Inner]) -> Vec<u8> {
    packets.iter().flat_map(Inner::build).collect()
}

/// Splits a write into its virtio header and the packet.
fn open(bytes: &[u8]) -> (virtio::Header, &[u8]) {
    (virtio::Header::parse(bytes).unwrap(), &bytes[virtio::LENGTH..])
}

#[test]
fn a_datagram_is_written_as_it_is() {
    for packet in [udp(100), udp(1000), tcp(100), tcp(1000), Inner::udp(FAR_V6, POD_V6, 300)] {
        let mut rig = Rig::new();
        let bytes = packet.build();
        assert!(!rig.inbound.has_work());
        assert!(rig.receive(OUTER, &bytes, None));
        assert!(rig.inbound.has_work());
        assert_eq!(rig.write_plain(), std::slice::from_ref(&bytes));
        rig.assert_moved(&[
            ("in.trains_in", 1),
            ("in.segments_in", 1),
            ("in.bytes_in", bytes.len() as u64),
            ("in.segments_out", 1),
            ("in.writes_out", 1),
        ]);
        assert_eq!(rig.held(), (0, 0));
    }
}

/// What is cut from a super-packet is joined to the very same super-packet.
#[test]
fn a_train_of_one_flow_is_one_write() {
    let push = Transport::Tcp { sequence: 0xffff_ff00, push: true };
    let cases = [
        (tcp(20_000).with(|packet| packet.transport = push), 1400, Gso::TcpV4, 16),
        // Short enough to be copied.
        (tcp(1000).with(|packet| packet.transport = push), 200, Gso::TcpV4, 16),
        (Inner::tcp(FAR_V6, POD_V6, 20_000), 1400, Gso::TcpV6, 16),
        (udp(20_000), 1400, Gso::Udp, 6),
        (Inner::udp(FAR_V6, POD_V6, 5000), 200, Gso::Udp, 6),
    ];
    for (packet, size, gso, checksum_offset) in cases {
        let mut rig = Rig::new();
        let segments = packet.cut(size);
        let train = concat(&segments);
        let segment = segments[0].build().len() as u16;
        assert!(rig.receive(OUTER, &train, Some(segment)));
        let written = rig.write(Ok(0));
        assert_eq!(written.len(), 1);
        let (header, joined) = open(&written[0]);
        let (_, whole) = packet.build_partial(size as u16);
        assert_eq!(joined, whole);
        let transport = if packet.source.is_ipv4() { 20 } else { 40 };
        let expected = virtio::Header {
            gso,
            needs_checksum: true,
            header_length: (whole.len() - packet.payload.len()) as u16,
            segment_size: size as u16,
            checksum_start: transport,
            checksum_offset,
            ..virtio::Header::NONE
        };
        assert_eq!(header, expected);
        rig.assert_moved(&[
            ("in.trains_in", 1),
            ("in.segments_in", segments.len() as u64),
            ("in.bytes_in", train.len() as u64),
            ("in.segments_out", segments.len() as u64),
            ("in.writes_out", 1),
        ]);
        assert_eq!(rig.held(), (0, 0));
    }
}

/// Segments also join across the datagrams of a turn.
#[test]
fn datagrams_of_one_turn_are_joined() {
    let mut rig = Rig::new();
    let packet = tcp(3 * 1000);
    for segment in packet.cut(1000) {
        assert!(rig.receive(OUTER, &segment.build(), None));
    }
    let written = rig.write(Ok(0));
    assert_eq!(written.len(), 1);
    assert_eq!(open(&written[0]).1, packet.build_partial(1000).1);
    rig.assert_moved(&[
        ("in.trains_in", 3),
        ("in.segments_in", 3),
        ("in.bytes_in", 3 * 1040),
        ("in.segments_out", 3),
        ("in.writes_out", 1),
    ]);
}

#[test]
fn what_the_device_does_not_take_joined_is_written_alone() {
    let without_uso = Offloads { uso: false, ..ALL };
    let without_tso = Offloads { tso: false, tso_ecn: false, ..ALL };
    let without_checksum = Offloads { checksum: false, ..ALL };
    for (offloads, packet) in [
        (without_uso, udp(4000)),
        (without_tso, tcp(4000)),
        (without_checksum, udp(4000)),
        (without_checksum, tcp(4000)),
    ] {
        let mut rig = Rig::with(64, offloads);
        let segments = packet.cut(1000);
        let train = concat(&segments);
        let size = segments[0].build().len() as u16;
        assert!(rig.receive(OUTER, &train, Some(size)));
        let expected: Vec<_> = segments.iter().map(Inner::build).collect();
        assert_eq!(rig.write_plain(), expected);
    }
}

/// Linux before 6.9 takes 64 segments.
#[test]
fn no_more_is_joined_than_the_kernel_takes() {
    for (joined_max, lengths) in [(128, vec![10_000]), (64, vec![6400, 3600])] {
        let mut rig = Rig::joining(joined_max, 64, ALL);
        assert!(rig.receive(OUTER, &concat(&udp(10_000).cut(100)), Some(128)));
        let written = rig.write(Ok(0));
        let payload = |bytes: &Vec<u8>| bytes.len() - virtio::LENGTH - 28;
        assert_eq!(written.iter().map(payload).collect::<Vec<_>>(), lengths);
    }
}

#[test]
fn a_stranger_is_not_heard() {
    let mut rig = Rig::new();
    let train = concat(&udp(4000).cut(1000));
    assert!(rig.receive("127.0.0.99", &train, Some(1028)));
    assert!(rig.receive("no address", &train, Some(1028)));
    assert!(rig.write(Ok(0)).is_empty());
    rig.assert_moved(&[
        ("in.trains_in", 2),
        ("in.segments_in", 8),
        ("in.bytes_in", 8 * 1028),
        ("in.drop.unknown_sender", 8),
    ]);
    assert_eq!(rig.held(), (0, 0));
}

#[test]
fn an_allowed_source_may_send_for_any_peer() {
    let mut rig = Rig::new();
    let mut input = table_input();
    input.allowed_sources = vec!["192.0.2.0/24".parse().unwrap()];
    rig.adopt(input);
    let packet = udp(10).build();
    assert!(rig.receive("192.0.2.7", &packet, None));
    assert_eq!(rig.write_plain(), [packet]);
}

#[test]
fn what_was_cut_off_is_dropped_as_a_whole() {
    let mut rig = Rig::new();
    let packet = udp(100).build();
    assert!(rig.receive_as(OUTER, &packet, None, true));
    assert!(rig.write(Ok(0)).is_empty());
    rig.assert_moved(&[
        ("in.trains_in", 1),
        ("in.segments_in", 1),
        ("in.bytes_in", 128),
        ("in.drop.truncated", 1),
    ]);
}

#[test]
fn an_empty_datagram_is_a_drop() {
    for segment in [None, Some(100)] {
        let mut rig = Rig::new();
        assert!(rig.receive(OUTER, &[], segment));
        assert!(rig.write(Ok(0)).is_empty());
        rig.assert_moved(&[("in.trains_in", 1), ("in.segments_in", 1), ("in.drop.too_short", 1)]);
    }
}

#[test]
fn one_bad_packet_does_not_harm_its_train() {
    let good = udp(100).build();
    let changed = |place: usize, value: u8| {
        let mut packet = good.clone();
        packet[place] = value;
        packet
    };
    let cases = [
        (changed(10, !good[10]), "in.drop.bad_header_checksum"),
        (changed(8, 0), "in.drop.hop_limit_zero"),
        (changed(3, 127), "in.drop.length_mismatch"),
        (changed(0, 0x00), "in.drop.bad_version"),
        (Inner::udp(FAR, "10.244.3.1", 100).build(), "in.drop.destination_not_ours"),
        (Inner::udp("10.244.3.1", POD, 100).build(), "in.drop.source_spoofed"),
        (Inner::udp("10.244.1.1", POD, 100).build(), "in.drop.source_forbidden"),
        (Inner::udp("127.0.0.1", POD, 100).build(), "in.drop.source_forbidden"),
    ];
    for (bad, reason) in cases {
        let mut rig = Rig::new();
        let train = [&good[..], &bad, &good].concat();
        assert!(rig.receive(OUTER, &train, Some(128)));
        assert_eq!(rig.write(Ok(0)).len(), 1, "both good ones, joined");
        rig.assert_moved(&[
            ("in.trains_in", 1),
            ("in.segments_in", 3),
            ("in.bytes_in", 3 * 128),
            (reason, 1),
            ("in.segments_out", 2),
            ("in.writes_out", 1),
        ]);
    }
}

#[test]
fn a_strict_table_takes_no_source_outside_the_network() {
    for strict in [false, true] {
        let mut rig = Rig::new();
        let mut input = table_input();
        input.strict_source = strict;
        rig.adopt(input);
        assert!(rig.receive(OUTER, &Inner::udp("192.0.2.1", POD, 10).build(), None));
        assert_eq!(rig.write(Ok(0)).len(), usize::from(!strict));
        let drops = rig.shared.counters.snapshot().inbound.drops;
        let reason = weft_forward::drops::DropReason::SourceOutsideNetwork;
        assert_eq!(drops.value(reason), u64::from(strict));
    }
}

/// It never gets a right checksum by being joined: the receiver must see that it is wrong.
#[test]
fn a_wrong_checksum_is_passed_on_wrong() {
    let mut rig = Rig::new();
    let segments = tcp(4 * 1000).cut(1000);
    let mut wire: Vec<_> = segments.iter().map(Inner::build).collect();
    wire[2][1030] ^= 1;
    assert!(rig.receive(OUTER, &wire.concat(), Some(1040)));
    let written = rig.write(Ok(0));
    assert_eq!(written.len(), 3);
    let first_two = tcp(2 * 1000).build_partial(1000).1;
    assert_eq!(open(&written[0]).1, first_two);
    assert_eq!(open(&written[1]), (virtio::Header::NONE, &wire[2][..]));
    assert_eq!(open(&written[2]), (virtio::Header::NONE, &wire[3][..]));
    rig.assert_moved(&[
        ("in.trains_in", 1),
        ("in.segments_in", 4),
        ("in.bytes_in", 4 * 1040),
        ("in.segments_out", 4),
        ("in.writes_out", 3),
    ]);
}

#[test]
fn a_handshake_is_clamped_to_the_device() {
    let syn = |mss: u16| tcp(0).with(|packet| packet.transport = Transport::Syn { mss });
    let mut rig = Rig::new();
    let wire = concat(&[syn(8960), syn(1432)]);
    assert!(rig.receive(OUTER, &wire, Some(44)));
    assert_eq!(rig.write_plain(), [syn(1432).build(), syn(1432).build()]);
    rig.assert_moved(&[
        ("in.trains_in", 1),
        ("in.segments_in", 2),
        ("in.bytes_in", 88),
        ("in.segments_out", 2),
        ("in.writes_out", 2),
        ("mss_clamped", 1),
    ]);
}

#[test]
fn a_device_that_refuses_is_counted() {
    let mut rig = Rig::new();
    assert!(rig.receive(OUTER, &concat(&udp(3000).cut(1000)), Some(1028)));
    assert_eq!(rig.write(Err(Errno::IO)).len(), 1);
    rig.assert_moved(&[
        ("in.trains_in", 1),
        ("in.segments_in", 3),
        ("in.bytes_in", 3 * 1028),
        ("in.drop.tun_write_failed", 3),
    ]);
    assert_eq!(rig.shared.writes.free(), usize::from(WRITES));
}

/// Packets that cannot be joined, with numbers that say what came first.
fn unjoinable(count: u16) -> Vec<Vec<u8>> {
    let numbered = |id: u16| {
        let packet = udp(30).with(|packet| (packet.id, packet.dont_fragment) = (id * 2, false));
        packet.build()
    };
    (0..count).map(numbered).collect()
}

/// As many single datagrams as there are frames, each a train: more packets than writes.
#[test]
fn without_free_writes_packets_wait_and_none_is_lost() {
    // Writes run out in the middle of a datagram, between two of them, and not at all.
    // A packet is written when the next one does not join it.
    let enough = usize::from(WRITES) - WRITES_A_PACKET + 2;
    for (count, each) in [(400, 400), (600, 100), (640, enough / 2), (60, 1)] {
        let mut rig = Rig::new();
        let packets = unjoinable(count as u16);
        let mut left = packets.chunks(each);
        let mut written = Vec::new();
        let mut rounds = 0;
        loop {
            for train in left.by_ref().take(60) {
                assert!(rig.receive(OUTER, &train.concat(), Some(58)));
            }
            if !rig.inbound.has_work() {
                break;
            }
            // The kernel keeps all writes while turns go on, until the machine can do no more.
            let mut kept = Vec::new();
            loop {
                rig.inbound.run(&mut rig.shared);
                let before = kept.len();
                kept.extend(rig.shared.writes.drain());
                if kept.len() == before {
                    break;
                }
            }
            for gather in kept {
                let mut bytes = vec![0; gather.len()];
                gather.copy_out(0..gather.len(), &mut bytes);
                written.push(bytes.split_off(virtio::LENGTH));
                super::handle_written(gather, Ok(0), &mut rig.shared);
            }
            rounds += 1;
        }
        assert!(rounds > 1 || count <= enough as u64, "the test did not reach its point");
        assert_eq!(written, packets);
        let trains = count.div_ceil(each as u64);
        rig.assert_moved(&[
            ("in.trains_in", trains),
            ("in.segments_in", count),
            ("in.bytes_in", count * 58),
            ("in.segments_out", count),
            ("in.writes_out", count),
        ]);
        assert_eq!(rig.held(), (0, 0));
    }
}

#[test]
fn what_still_waits_at_the_end_is_counted() {
    let mut rig = Rig::new();
    let packets = unjoinable(400).concat();
    assert!(rig.receive(OUTER, &packets, Some(58)));
    assert!(rig.receive(OUTER, &packets[..580], Some(58)));
    rig.inbound.run(&mut rig.shared);
    let ready: Vec<_> = rig.shared.writes.drain().collect();
    let written = ready.len();
    assert!((1..=usize::from(WRITES)).contains(&written));
    for gather in ready {
        super::handle_written(gather, Ok(0), &mut rig.shared);
    }
    rig.stop();
    rig.assert_accounted();
    let now = rig.shared.counters.snapshot().inbound;
    assert_eq!((now.segments_in, now.segments_out), (410, written as u64));
}

fn hostile() -> impl Strategy<Value = (u8, Vec<u8>, Option<u16>, bool)> {
    let shape = (0..3_u8, 1..40_usize, 1..300_usize);
    let packets = shape.prop_map(|(kind, count, length)| {
        let packet = match kind {
            0 => udp(length * count),
            1 => tcp(length * count),
            _ => Inner::udp(FAR_V6, POD_V6, length * count),
        };
        let segments = packet.cut(length);
        (segments[0].build().len() as u16, concat(&segments))
    });
    let spoiled = (packets, vec((any::<prop::sample::Index>(), any::<u8>()), 0..6));
    let almost_right = spoiled.prop_map(|((size, mut bytes), changes)| {
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        (Some(size), bytes)
    });
    let noise = (proptest::option::of(any::<u16>()), vec(any::<u8>(), 0..3000));
    let size_zero = vec(any::<u8>(), 0..300).prop_map(|bytes| (Some(0), bytes));
    let trains = prop_oneof![6 => almost_right, 2 => noise, 1 => size_zero];
    (1..6_u8, trains, proptest::bool::weighted(0.05))
        .prop_map(|(from, (size, bytes), truncated)| (from, bytes, size, truncated))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_datagrams_are_accounted_for(
        turns in vec((vec(hostile(), 0..12), any::<bool>(), any::<bool>()), 0..6),
        stops_early: bool,
    ) {
        let mut rig = Rig::new();
        let mut kept = Vec::new();
        for (datagrams, finish, refuse) in turns {
            for (from, bytes, size, truncated) in datagrams {
                let from = format!("127.0.0.{from}");
                rig.receive_as(&from, &bytes, size, truncated);
            }
            rig.inbound.run(&mut rig.shared);
            kept.extend(rig.shared.writes.drain());
            if finish {
                let result = if refuse { Err(Errno::INVAL) } else { Ok(0) };
                for gather in kept.drain(..) {
                    super::handle_written(gather, result, &mut rig.shared);
                }
            }
        }
        for gather in kept.drain(..) {
            super::handle_written(gather, Ok(0), &mut rig.shared);
        }
        for round in 0.. {
            if stops_early || !rig.inbound.has_work() {
                break;
            }
            assert!(round < 10_000, "the machine comes to no end");
            rig.write(Ok(0));
        }
        rig.stop();
        rig.assert_accounted();
        prop_assert_eq!(rig.shared.writes.free(), usize::from(WRITES));
    }
}
