//! Packets that do not fit the path.

use super::*;
use crate::peers::Peers;

fn lower(rig: &mut Rig, slot: u16, mtu: usize) {
    rig.shared.peers.state(slot).unwrap().lower_path_mtu(mtu + 1, Some(mtu), 0);
}

/// Puts the fragments of one packet together again, in the order of their offsets.
pub(super) fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0].clone();
    for (place, fragment) in fragments.iter().enumerate() {
        let (header, payload) = Ipv4Header::from_slice(fragment).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let last = place + 1 == fragments.len();
        assert_eq!(header.more_fragments, !last);
        if place == 0 {
            assert_eq!(header.fragment_offset.value(), 0);
            continue;
        }
        assert_eq!(usize::from(header.fragment_offset.value()) * 8, whole.len() - 20);
        whole.extend_from_slice(payload);
    }
    let mut header = Ipv4Header::from_slice(&whole).unwrap().0;
    header.more_fragments = false;
    header.total_len = whole.len() as u16;
    header.header_checksum = header.calc_header_checksum();
    whole[..20].copy_from_slice(&header.to_bytes());
    whole
}

#[test]
fn dont_fragment_is_answered() {
    let mut rig = Rig::new();
    lower(&mut rig, 0, 1000);
    let fits = udp(AT[0], 972).build();
    let offender = udp(AT[0], 973).build();
    rig.read_plain(&fits);
    rig.read_plain(&offender);
    let trains = rig.send();
    assert_eq!(trains.len(), 1);
    assert_eq!(trains[0].bytes, fits);
    let problem = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1000 };
    assert_eq!(rig.write_plain(), [icmp_v4(&offender, problem)]);
    rig.assert_moved(&[("out.segments_in", 2), ("out.drop.packet_too_big", 1), ("icmp_sent", 1)]);

    rig.accept(trains);

    // Other peers have their own paths.
    let other = udp(AT[1], 973).build();
    rig.read_plain(&other);
    assert_eq!(rig.send()[0].bytes, other);
}

#[test]
fn ipv6_never_hears_of_less_than_its_minimum() {
    for (path, advertised) in [(1400, 1400), (1000, 1280)] {
        let mut rig = Rig::new();
        lower(&mut rig, 0, path);
        let offender = udp(AT_V6[0], 1380).build();
        rig.read_plain(&offender);
        assert!(rig.send().is_empty());
        let problem = Icmpv6Type::PacketTooBig { mtu: advertised };
        assert_eq!(rig.write_plain(), [icmp_v6(&offender, problem)]);
        rig.assert_moved(&[
            ("out.segments_in", 1),
            ("out.drop.packet_too_big", 1),
            ("icmp_sent", 1),
        ]);
    }
}

#[test]
fn a_lowered_path_is_forgotten_after_ten_minutes() {
    let mut rig = Rig::new();
    lower(&mut rig, 0, 1000);
    let packet = udp(AT[0], 1200).build();
    rig.shared.now_ms = 10 * 60 * 1000 - 1;
    rig.read_plain(&packet);
    assert!(rig.send().is_empty());
    rig.shared.now_ms += 1;
    rig.read_plain(&packet);
    assert_eq!(rig.send()[0].bytes, packet);
}

#[test]
fn without_dont_fragment_it_goes_in_pieces_and_counts_once() {
    let mut rig = Rig::new();
    lower(&mut rig, 0, 600);
    let packet = udp(AT[0], 1400).with(|packet| packet.dont_fragment = false).build();
    rig.read_plain(&packet);
    let trains = rig.send();
    let fragments: Vec<_> = trains.iter().flat_map(Sent::datagrams).collect();
    assert_eq!(fragments.len(), 3);
    assert!(fragments.iter().all(|fragment| fragment.len() <= 600));
    assert_eq!(reassemble(&fragments), packet);
    rig.assert_moved(&[("out.segments_in", 1), ("fragments_made", 3)]);
    let bytes = fragments.iter().map(Vec::len).sum::<usize>() as u64;
    let count = trains.len() as u64;
    rig.accept(trains);
    rig.assert_moved(&[
        ("out.segments_out", 1),
        ("out.trains_out", count),
        ("out.bytes_out", bytes),
    ]);
}

#[test]
fn a_super_packet_over_the_path_is_answered_once() {
    let mut rig = Rig::new();
    lower(&mut rig, 0, 1000);
    let packet = tcp(AT[0], 60_000);
    let (header, bytes) = packet.build_partial(1432);
    assert!(rig.read(header, &bytes));
    assert!(rig.send().is_empty());
    let first = packet.cut(1432)[0].build();
    let problem = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1000 };
    assert_eq!(rig.write_plain(), [icmp_v4(&first, problem)]);
    rig.assert_moved(&[
        ("out.segments_in", 42),
        ("out.super_packets_in", 1),
        ("out.drop.packet_too_big", 42),
        ("icmp_sent", 1),
    ]);
    assert_eq!(rig.held(), (0, 0));
}

#[test]
fn a_super_packet_that_allows_it_is_fragmented_segment_by_segment() {
    let mut rig = Rig::new();
    lower(&mut rig, 0, 800);
    let packet = udp(AT[0], 3000).with(|packet| packet.dont_fragment = false);
    let (header, bytes) = packet.build_partial(1400);
    assert!(rig.read(header, &bytes));
    let trains = rig.send();
    let sent: Vec<_> = trains.iter().flat_map(Sent::datagrams).collect();
    assert_eq!(sent.len(), 5, "two fragments, two fragments, and a last segment that fits");
    let whole = [reassemble(&sent[..2]), reassemble(&sent[2..4]), sent[4].clone()];
    assert_eq!(whole.to_vec(), build(&packet.cut(1400)));
    rig.assert_moved(&[("out.segments_in", 3), ("out.super_packets_in", 1), ("fragments_made", 4)]);
    rig.accept(trains);
    rig.assert_accounted();
}

#[test]
fn the_smallest_device_has_room_for_fragments() {
    let mut rig = Rig::new();
    // RFC 791: every link takes 68 bytes, so no device has a smaller MTU.
    rig.shared.peers = Peers::new(&rig.shared.table, 68);
    let packet = udp(AT[0], 200).with(|packet| packet.dont_fragment = false).build();
    rig.read_plain(&packet);
    let trains = rig.send();
    let fragments: Vec<_> = trains.iter().flat_map(Sent::datagrams).collect();
    assert!(fragments.iter().all(|fragment| fragment.len() <= 68));
    assert_eq!(reassemble(&fragments), packet);
    rig.assert_moved(&[("out.segments_in", 1), ("fragments_made", 5)]);
}
