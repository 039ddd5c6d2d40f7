use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::packet;
use crate::testing::{Spec, checksums_ok};

fn syn(family: Family, options: &[u8]) -> Spec {
    Spec::tcp(family, b"").with(|spec| {
        spec.flags = tcp::SYN;
        spec.options = options.to_vec();
    })
}

/// The packet after clamping, if it was changed.
fn clamped(packet: &[u8], mtu: usize, partial: bool) -> Option<Vec<u8>> {
    let layout = packet::parse(packet).unwrap();
    let mut changed = packet.to_vec();
    if clamp(&mut changed, &layout, mtu, partial) {
        return Some(changed);
    }
    assert_eq!(changed, packet);
    None
}

#[test]
fn golden() {
    for (family, mss) in [(Family::V4, 1360u16), (Family::V6, 1340)] {
        for flags in [tcp::SYN, tcp::SYN | tcp::ACK] {
            let [high, low] = mss.to_be_bytes();
            let before =
                syn(family, &[2, 4, 0x05, 0xb4, 1, 3, 3, 7]).with(|spec| spec.flags = flags);
            let after =
                before.clone().with(|spec| spec.options[2..4].copy_from_slice(&[high, low]));
            assert_eq!(clamped(&before.build(), 1400, false), Some(after.build()));
            assert_eq!(clamped(&after.build(), 1400, false), None);
        }
    }
}

#[test]
fn only_the_value_changes_while_the_checksum_is_partial() {
    let (_, packet) = syn(Family::V4, &[2, 4, 0x05, 0xb4]).build_super(1);
    let changed = clamped(&packet, 1400, true).unwrap();
    let differing: Vec<usize> =
        (0..packet.len()).filter(|at| packet[*at] != changed[*at]).collect();
    // 1460 and 1360 have the same high byte.
    assert_eq!(differing, [43]);
    assert_eq!(changed[42..44], [5, 0x50]);
}

#[test]
fn an_option_at_an_odd_place() {
    let packet = syn(Family::V4, &[1, 2, 4, 0x05, 0xb4, 1, 1, 0]).build();
    let changed = clamped(&packet, 1400, false).unwrap();
    assert_eq!(changed[43..45], [5, 0x50]);
    assert!(checksums_ok(&changed));
}

#[test]
fn what_is_left_alone() {
    const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
    let same = |packet: &[u8]| assert_eq!(clamped(packet, 1400, false), None);
    same(&syn(Family::V4, &MSS).with(|spec| spec.flags = tcp::ACK).build());
    same(&syn(Family::V4, &[]).build());
    same(&Spec::udp(Family::V4, &[0xff; 40]).build());
    let mut later = syn(Family::V4, &MSS).build();
    later[7] = 1;
    same(&later);
    // A wrong length, the end of the list before it, a list that is cut off.
    same(&syn(Family::V4, &[2, 3, 5, 1]).build());
    same(&syn(Family::V4, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4]).build());
    same(&syn(Family::V4, &[1, 1, 2, 4]).build());
    same(&syn(Family::V4, &[3, 0, 1, 1, 2, 4, 0x05, 0xb4]).build());
    same(&syn(Family::V4, &[3, 1, 1, 1, 2, 4, 0x05, 0xb4]).build());
    same(&syn(Family::V4, &[3, 9, 1, 1, 2, 4, 0x05, 0xb4]).build());
    // A path that has no room for headers, and one so wide that no segment size exceeds it.
    let packet = syn(Family::V4, &MSS).build();
    assert_eq!(clamped(&packet, 39, false), None);
    assert_eq!(clamped(&packet, 65_535, false), None);
    assert_eq!(clamped(&packet, 70_000, false), None);
}

#[test]
fn every_truncation_is_left_alone() {
    let whole = syn(Family::V4, &[2, 4, 0x05, 0xb4]).build();
    for length in 20..whole.len() {
        let mut packet = whole[..length].to_vec();
        packet[3] = length as u8;
        assert_eq!(clamped(&packet, 1400, false), None, "{length}");
    }
}

proptest! {
    #[test]
    fn the_checksum_stays_right(mss: u16, mtu in 576usize..9000, padding in 0usize..5, v6: bool) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut options = [1].repeat(padding);
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(12, 0);
        let packet = syn(family, &options).build();
        let room = mtu - packet.len() + options.len();
        match clamped(&packet, mtu, false) {
            Some(changed) => {
                prop_assert!(usize::from(mss) > room);
                prop_assert!(checksums_ok(&changed));
            }
            None => prop_assert!(usize::from(mss) <= room),
        }
    }
}
