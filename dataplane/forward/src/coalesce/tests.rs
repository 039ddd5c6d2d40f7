use std::vec;
use std::vec::Vec;

use super::*;
use crate::packet::Family;
use crate::testing::{ALL, Device, Spec, Written, bytes, join};
use crate::virtio::Header;
use crate::{checksum, ipv4, tcp, udp};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A run of segments with these payload lengths.
fn run(first: &Spec, lengths: &[usize]) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        let payload = bytes(*length, index as u32);
        let spec = match specs.last() {
            Some(last) => last.next(&payload),
            None => first.clone().with(|spec| spec.payload = payload),
        };
        specs.push(spec);
    }
    specs
}

fn build(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::build).collect()
}

/// How many segments each write into the device stands for.
fn shape(specs: &[Spec]) -> Vec<usize> {
    shape_with(ALL, specs)
}

fn shape_with(limits: Limits, specs: &[Spec]) -> Vec<usize> {
    let written = join(limits, &build(specs));
    let segments = |(header, bytes): &Written| {
        if header.segment_size == 0 {
            return 1;
        }
        let payload = bytes.len() - usize::from(header.header_length);
        payload.div_ceil(usize::from(header.segment_size))
    };
    written.iter().map(segments).collect()
}

fn tcp(family: Family) -> Spec {
    Spec::tcp(family, &[])
}

fn udp(family: Family) -> Spec {
    Spec::udp(family, &[])
}

/// Three TCP segments of IPv4, written as one.
#[test]
fn golden_tcp_v4() {
    let mut specs = run(&tcp(Family::V4), &[2, 2, 1]);
    specs[0].flags |= tcp::CWR;
    specs[2].flags |= tcp::PSH;
    specs[0].payload = b"ab".to_vec();
    specs[1].payload = b"cd".to_vec();
    specs[2].payload = b"e".to_vec();
    let expected = [
        0x45, 0, 0, 45, 0x12, 0x34, 0x40, 0, 63, 6, 0x10, 0xab, 10, 244, 1, 2, 10, 244, 2,
        3, //
        0x9c, 0x40, 0x14, 0x51, 0x10, 0, 0, 0, 0x20, 0, 0, 0, 0x50, 0x98, 1, 0xf5, 0x19, 0x0c, 0,
        0, b'a', b'b', b'c', b'd', b'e',
    ];
    let header = Header {
        gso: crate::virtio::Gso::TcpV4,
        ecn: true,
        needs_checksum: true,
        checksum_valid: false,
        header_length: 40,
        segment_size: 2,
        checksum_start: 20,
        checksum_offset: 16,
    };
    assert_eq!(join(ALL, &build(&specs)), [(header, expected.to_vec())]);
}

#[test]
fn a_run_is_joined_and_a_shorter_segment_ends_it() {
    for family in FAMILIES {
        for first in [tcp(family), udp(family)] {
            assert_eq!(shape(&run(&first, &[100, 100, 100])), [3]);
            assert_eq!(shape(&run(&first, &[100, 100, 99, 99])), [3, 1]);
            assert_eq!(shape(&run(&first, &[100, 101, 101])), [1, 2]);
            assert_eq!(shape(&run(&first, &[1, 1])), [2]);
        }
    }
}

#[test]
fn a_single_packet_is_written_as_it_came() {
    for family in FAMILIES {
        for first in [tcp(family), udp(family)] {
            let packets = build(&run(&first, &[100]));
            assert_eq!(join(ALL, &packets), [(Header::NONE, packets[0].clone())]);
        }
    }
}

#[test]
fn push_and_fin_end_a_group() {
    for flag in [tcp::PSH, tcp::FIN, tcp::PSH | tcp::FIN] {
        let mut specs = run(&tcp(Family::V4), &[100; 4]);
        specs[1].flags |= flag;
        assert_eq!(shape(&specs), [2, 2]);
        let written = join(ALL, &build(&specs));
        assert_eq!(written[0].1[33], tcp::ACK | flag);
        assert_eq!(written[1].1[33], tcp::ACK);
        specs[0].flags |= flag;
        assert_eq!(shape(&specs), [1, 1, 2]);
    }
}

/// One field of the second of three segments differs; then nothing is joined with it, except that the
/// third still follows it where the field is one that the third need not repeat.
#[test]
fn every_copied_field_must_be_equal() {
    type Change = fn(&mut Spec);
    let both: [Change; 2] = [|spec| spec.hop_limit = 9, |spec| spec.traffic_class = 1];
    let only_tcp: [Change; 4] = [
        |spec| spec.acknowledgement += 1,
        |spec| spec.window += 1,
        |spec| spec.flags |= tcp::ECE,
        |spec| spec.options = vec![1; 8],
    ];
    let check = |first: &Spec, change: Change| {
        let mut specs = run(first, &[100; 3]);
        assert_eq!(shape(&specs), [3]);
        change(&mut specs[1]);
        assert_eq!(shape(&specs), [1, 1, 1]);
        change(&mut specs[2]);
        assert_eq!(shape(&specs), [1, 2]);
    };
    for family in FAMILIES {
        for change in both {
            check(&tcp(family), change);
            check(&udp(family), change);
        }
        for change in only_tcp {
            check(&tcp(family).with(|spec| spec.options = vec![1; 4]), change);
        }
    }
    check(&udp(Family::V6), |spec| spec.flow_label = 1);
    check(&udp(Family::V4), |spec| spec.dont_fragment = false);
    // Options of equal length whose bytes differ.
    check(&tcp(Family::V6).with(|spec| spec.options = vec![1; 4]), |spec| spec.options[3] = 0);
}

#[test]
fn reserved_bits_and_urgent_pointer_are_compared() {
    for (at, value) in [(32, 0x51), (39, 1)] {
        let mut packets = build(&run(&tcp(Family::V4), &[100; 2]));
        let old = packets[1][at];
        packets[1][at] = value;
        let word = at & !1;
        let old =
            u16::from_be_bytes(if at % 2 == 0 { [old, packets[1][at + 1]] } else { [0, old] });
        let new = u16::from_be_bytes([packets[1][word], packets[1][word + 1]]);
        let stored = u16::from_be_bytes([packets[1][36], packets[1][37]]);
        let fixed = checksum::replace(stored, old, new);
        packets[1][36..38].copy_from_slice(&fixed.to_be_bytes());
        assert!(crate::testing::checksums_ok(&packets[1]));
        assert_eq!(join(ALL, &packets).len(), 2);
    }
}

#[test]
fn other_flows_are_joined_apart() {
    for family in FAMILIES {
        for first in [tcp(family), udp(family)] {
            let mut specs = Vec::new();
            let runs = [
                run(&first, &[100; 3]),
                run(&first.clone().with(|spec| spec.ports.0 += 1), &[100; 3]),
                run(&first.clone().with(|spec| spec.ports.1 += 1), &[100; 3]),
                run(&first.clone().with(|spec| spec.hosts.0 += 1), &[100; 3]),
                run(&first.clone().with(|spec| spec.hosts.1 += 1), &[100; 3]),
            ];
            for index in 0..3 {
                specs.extend(runs.iter().map(|run| run[index].clone()));
            }
            assert_eq!(shape(&specs), [3; 5]);
        }
    }
}

#[test]
fn flags_that_are_never_joined() {
    for flags in [tcp::ACK | tcp::SYN, tcp::ACK | tcp::RST, tcp::ACK | tcp::URG, 0] {
        let mut specs = run(&tcp(Family::V4), &[100; 3]);
        for spec in &mut specs {
            spec.flags = flags;
        }
        assert_eq!(shape(&specs), [1; 3]);
    }
}

#[test]
fn congestion_window_reduced_only_comes_first() {
    let mut specs = run(&tcp(Family::V6), &[100; 3]);
    specs[0].flags |= tcp::CWR;
    assert_eq!(shape(&specs), [3]);
    assert!(join(ALL, &build(&specs))[0].0.ecn);
    assert_eq!(shape_with(Limits { ecn: false, ..ALL }, &specs), [1, 2]);
    specs[1].flags |= tcp::CWR;
    assert_eq!(shape(&specs), [1, 2]);
}

#[test]
fn sequence_gaps_and_repeats_are_not_joined() {
    for offset in [1, u32::MAX, 100, u32::MAX - 99] {
        let mut specs = run(&tcp(Family::V4), &[100; 2]);
        specs[1].sequence = specs[1].sequence.wrapping_add(offset);
        assert_eq!(shape(&specs), [1, 1], "{offset}");
    }
    let wrapping = tcp(Family::V4).with(|spec| spec.sequence = u32::MAX - 149);
    assert_eq!(shape(&run(&wrapping, &[100; 3])), [3]);
}

#[test]
fn identification_counts_up_or_does_not_matter() {
    for first in [tcp(Family::V4), udp(Family::V4)] {
        let fragmentable = first.clone().with(|spec| {
            spec.dont_fragment = false;
            spec.id = 0xfffe;
        });
        let mut specs = run(&fragmentable, &[100; 3]);
        assert_eq!(shape(&specs), [3]);
        specs[1].id = specs[0].id;
        assert_eq!(shape(&specs), [1, 1, 1]);
        let mut specs = run(&first, &[100; 3]);
        specs[1].id = 0;
        assert_eq!(shape(&specs), [3]);
    }
}

#[test]
fn a_wrong_checksum_is_passed_on_wrong_and_in_order() {
    for family in FAMILIES {
        for first in [tcp(family), udp(family)] {
            for wrong in 0..3 {
                let mut packets = build(&run(&first, &[100; 3]));
                *packets[wrong].last_mut().unwrap() ^= 1;
                let written = join(ALL, &packets);
                assert_eq!(written[wrong.min(1)], (Header::NONE, packets[wrong].clone()));
                // Datagrams around it may not be joined either: that would change their order.
                let expected = if wrong == 1 { 3 } else { 2 };
                assert_eq!(written.len(), expected);
            }
        }
    }
}

#[test]
fn the_zero_nobody_computes_is_not_joined() {
    // A packet whose sum without the checksum is zero modulo 0xffff has checksum 0, or 0xffff if it was
    // not computed. Only the first would come out of cutting again.
    let mut specs = run(&tcp(Family::V4), &[100; 2]);
    let stored = |packet: &[u8]| u16::from_be_bytes([packet[36], packet[37]]);
    let word = u16::from_be_bytes([specs[0].payload[0], specs[0].payload[1]]);
    let lifted = checksum::add(word, stored(&specs[0].build()));
    specs[0].payload[..2].copy_from_slice(&lifted.to_be_bytes());
    let mut packets = build(&specs);
    assert_eq!(stored(&packets[0]), 0);
    assert_eq!(join(ALL, &packets).len(), 1);
    packets[0][36..38].copy_from_slice(&[0xff, 0xff]);
    assert!(crate::testing::checksums_ok(&packets[0]));
    assert_eq!(join(ALL, &packets).len(), 2);
}

/// Gives the 16-bit word at `at` the value that makes the checksum at `field` come out as zero.
fn lift(packet: &mut [u8], at: usize, field: usize) {
    let word = |place: usize| u16::from_be_bytes([packet[place], packet[place + 1]]);
    let lifted = checksum::add(word(at), word(field));
    packet[at..at + 2].copy_from_slice(&lifted.to_be_bytes());
    packet[field..field + 2].fill(0);
}

#[test]
fn udp_without_checksum_stays_alone_even_where_zero_would_be_right() {
    for family in FAMILIES {
        let header = udp(family).header_length();
        let mut packets = build(&run(&udp(family), &[100; 2]));
        for packet in &mut packets {
            lift(packet, header, header - 2);
            assert!(crate::testing::checksums_ok(packet));
        }
        assert_eq!(join(ALL, &packets).len(), 2);
        for packet in &mut packets {
            packet[header - 2..header].fill(0xff);
        }
        assert_eq!(join(ALL, &packets).len(), 1);
    }
}

#[test]
fn a_udp_length_that_differs_stays_alone() {
    for family in FAMILIES {
        let start = udp(family).header_length() - udp::LENGTH;
        let mut packets = build(&run(&udp(family), &[100; 2]));
        for packet in &mut packets {
            let stored = u16::from_be_bytes([packet[start + 6], packet[start + 7]]);
            let fixed = checksum::replace(stored, 108, 107);
            packet[start + 5] = 107;
            packet[start + 6..start + 8].copy_from_slice(&fixed.to_be_bytes());
            assert!(crate::testing::checksums_ok(packet));
        }
        assert_eq!(join(ALL, &packets).len(), 2);
    }
}

#[test]
fn the_zero_nobody_computes_in_an_ip_header_is_not_joined() {
    let mut packets = build(&run(&tcp(Family::V4), &[100; 2]));
    // The id may be anything with DF.
    lift(&mut packets[0], 4, 10);
    assert_eq!(join(ALL, &packets).len(), 1);
    packets[0][10..12].fill(0xff);
    assert!(crate::testing::checksums_ok(&packets[0]));
    assert_eq!(join(ALL, &packets).len(), 2);
}

#[test]
fn switched_off_means_alone() {
    let tcp_run = run(&tcp(Family::V4), &[100; 3]);
    let udp_run = run(&udp(Family::V4), &[100; 3]);
    let without_tcp = Limits { tcp: false, ..ALL };
    let without_udp = Limits { udp: false, ..ALL };
    assert_eq!(shape_with(without_tcp, &tcp_run), [1; 3]);
    assert_eq!(shape_with(without_tcp, &udp_run), [3]);
    assert_eq!(shape_with(without_udp, &udp_run), [1; 3]);
    assert_eq!(shape_with(without_udp, &tcp_run), [3]);
    for segments_max in [0, 1] {
        assert_eq!(shape_with(Limits { segments_max, ..ALL }, &tcp_run), [1; 3]);
    }
}

#[test]
fn limits_hold() {
    for first in [tcp(Family::V4), udp(Family::V6)] {
        assert_eq!(shape(&run(&first, &[10; 300])), [128, 128, 44]);
        let more = Limits { segments_max: 1000, bytes_max: 100_000, ..ALL };
        assert_eq!(shape_with(more, &run(&first, &[10; 300])), [128, 128, 44]);
        assert_eq!(
            shape_with(Limits { segments_max: 64, ..ALL }, &run(&first, &[10; 65])),
            [64, 1]
        );
        let header = first.header_length();
        let exact = Limits { bytes_max: header + 300, ..ALL };
        assert_eq!(shape_with(exact, &run(&first, &[100; 4])), [3, 1]);
        let below = Limits { bytes_max: header + 299, ..ALL };
        assert_eq!(shape_with(below, &run(&first, &[100; 4])), [2, 2]);
        assert_eq!(shape_with(below, &run(&first, &[100, 100, 99])), [3]);
        let longest = run(&first, &[1400; 47]);
        let joined = join(ALL, &build(&longest));
        assert_eq!(joined[0].1.len(), header + 46 * 1400);
    }
}

#[test]
fn acknowledgements_only_flush_their_own_flow() {
    let one = run(&tcp(Family::V4), &[100; 4]);
    let two = run(&tcp(Family::V4).with(|spec| spec.ports.0 = 1), &[100; 4]);
    let pure = one[1].next(&[]).with(|spec| spec.sequence = one[2].sequence);
    let specs = [&one[..2], &two[..2], &[pure], &one[2..], &two[2..]].concat();
    // What the acknowledgement closes, itself, then the groups in the order of their first packets.
    assert_eq!(shape(&specs), [2, 1, 4, 2]);
}

#[test]
fn what_has_no_ports_flushes_its_pair_of_addresses() {
    for family in FAMILIES {
        let one = build(&run(&tcp(family), &[100; 2]));
        let two = build(&run(&udp(family), &[100; 2]));
        let far = build(&run(&udp(family).with(|spec| spec.hosts.0 = 9), &[100; 2]));
        let mut portless = Spec::udp(family, b"echo").build();
        let (at, protocol) = if family == Family::V4 { (9, 1) } else { (6, 58) };
        portless[at] = protocol;
        let first = [one[0].clone(), far[0].clone(), two[0].clone(), portless.clone()];
        let then = [one[1].clone(), two[1].clone(), far[1].clone()];
        let written = join(ALL, &[&first[..], &then].concat());
        let lengths: Vec<usize> = written.iter().map(|(_, bytes)| bytes.len()).collect();
        let (far_length, portless_length) = (far[0].len() + 100, portless.len());
        let (one_length, two_length) = (one[0].len(), two[0].len());
        let expected =
            [one_length, two_length, portless_length, far_length, one_length, two_length];
        assert_eq!(lengths, expected);
    }
}

#[test]
fn fragments_flush_their_pair_and_stay_alone() {
    let mut packets =
        build(&run(&udp(Family::V4).with(|spec| spec.dont_fragment = false), &[96; 3]));
    packets[1][6] |= 0x20;
    let word = u16::from_be_bytes([packets[1][10], packets[1][11]]);
    let sum = checksum::replace(word, 0x0000, ipv4::MORE_FRAGMENTS);
    packets[1][10..12].copy_from_slice(&sum.to_be_bytes());
    let written = join(ALL, &packets);
    let expected: Vec<Written> = packets.into_iter().map(|bytes| (Header::NONE, bytes)).collect();
    assert_eq!(written, expected);
}

#[test]
fn a_full_table_lets_the_oldest_go() {
    let first = |port: usize| udp(Family::V4).with(|spec| spec.ports.0 = port as u16);
    let runs: Vec<_> = (0..=FLOWS_MAX).map(|port| run(&first(port), &[100; 2])).collect();
    let mut specs: Vec<Spec> = runs.iter().map(|run| run[0].clone()).collect();
    specs.extend(runs.iter().skip(1).map(|run| run[1].clone()));
    let mut expected = vec![1];
    expected.resize(FLOWS_MAX + 1, 2);
    assert_eq!(shape(&specs), expected);
}

#[test]
fn nothing_is_left_after_a_flush() {
    let mut coalescer = Coalescer::new(ALL, checksum::portable);
    let mut device = Device::default();
    let packets = build(&run(&tcp(Family::V4), &[100; 4]));
    for (index, packet) in packets.iter().enumerate() {
        device.push(&mut coalescer, packet);
        assert_eq!(device.written.len(), index);
        coalescer.flush(&mut device);
        coalescer.flush(&mut device);
        assert_eq!(device.written.len(), index + 1);
    }
}
