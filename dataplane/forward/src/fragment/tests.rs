use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing::{Spec, bytes, checksums_ok};

fn fragmentable(length: usize) -> Vec<u8> {
    Spec::udp(Family::V4, &bytes(length, 1)).with(|spec| spec.dont_fragment = false).build()
}

/// All fragments, each written into a dirty buffer.
fn cut(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, DropReason> {
    let layout = packet::parse(packet).unwrap();
    let mut plan = fragments(packet, &layout, mtu)?;
    let mut pieces = Vec::new();
    let mut out = vec![0xa5; mtu];
    while let Some(length) = plan.next(packet, &mut out) {
        assert!(out[length..].iter().all(|byte| *byte == 0xa5));
        pieces.push(out[..length].to_vec());
        out.fill(0xa5);
    }
    assert_eq!(plan.next(packet, &mut out), None);
    Ok(pieces)
}

/// Offset in bytes, more-fragments flag and payload of a fragment whose header is right.
fn inspect(fragment: &[u8]) -> (usize, bool, &[u8]) {
    let layout = packet::parse(fragment).unwrap();
    assert!(packet::header_checksum_ok(fragment, &layout));
    let word = packet::header_v4(fragment).fragment.get();
    let offset = usize::from(word & ipv4::OFFSET_MASK) * UNIT;
    (offset, word & ipv4::MORE_FRAGMENTS != 0, &fragment[layout.transport_offset()..])
}

/// The payload that the fragments say, offsets starting at `start`, and whether more must follow.
fn reassemble(pieces: &[Vec<u8>], start: usize) -> (Vec<u8>, bool) {
    let mut payload = Vec::new();
    let mut open = true;
    for piece in pieces {
        let (offset, more, content) = inspect(piece);
        assert!(open);
        assert_eq!(offset, start + payload.len());
        assert!(!more || content.len() % UNIT == 0);
        payload.extend_from_slice(content);
        open = more;
    }
    (payload, open)
}

#[test]
fn golden_bytes() {
    let packet =
        Spec::udp(Family::V4, b"0123456789").with(|spec| spec.dont_fragment = false).build();
    let pieces = cut(&packet, 35).unwrap();
    let first =
        [0x45, 0, 0, 28, 0x12, 0x34, 0x20, 0, 63, 17, 0x30, 0xb1, 10, 244, 1, 2, 10, 244, 2, 3];
    let second =
        [0x45, 0, 0, 30, 0x12, 0x34, 0, 1, 63, 17, 0x50, 0xae, 10, 244, 1, 2, 10, 244, 2, 3];
    assert_eq!(pieces[0][..20], first);
    assert_eq!(pieces[0][20..], packet[20..28]);
    assert_eq!(pieces[1][..20], second);
    assert_eq!(&pieces[1][20..], b"0123456789");
    assert_eq!(pieces.len(), 2);
}

#[test]
fn what_fits_stays_whole() {
    let packet = fragmentable(1000);
    assert_eq!(cut(&packet, packet.len()).unwrap(), core::slice::from_ref(&packet));
    assert_eq!(cut(&packet, packet.len() - 1).unwrap().len(), 2);
}

#[test]
fn what_must_not_or_cannot_be_cut() {
    let refused =
        |packet: &[u8], mtu| assert_eq!(cut(packet, mtu), Err(DropReason::FragmentFailed));
    refused(&Spec::udp(Family::V4, b"DF").build(), 1500);
    refused(&Spec::udp(Family::V6, b"v6").build(), 1500);
    refused(&fragmentable(100), 27);
    assert_eq!(cut(&fragmentable(100), 28).unwrap().len(), 14);
    // The last byte of a datagram may be at 65,535 and no further.
    let mut far = fragmentable(100);
    (far[6], far[7]) = (0x1f, 0xf2);
    assert!(cut(&far, 60).is_ok());
    far[7] = 0xf3;
    refused(&far, 60);
}

#[test]
fn only_copied_options_are_in_later_fragments() {
    // No operation; record route (not copied); stream identifier (copied); padding.
    let options = [1, 7, 3, 4, 0x88, 4, 0xbe, 0xef, 0, 0, 0, 0];
    let plain = fragmentable(40);
    let mut packet = [&plain[..20], &options, &plain[20..]].concat();
    packet[0] = 0x48;
    packet[3] += 12;
    packet[10..12].fill(0);
    let sum = !checksum::naive(&packet[..32]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let pieces = cut(&packet, 48).unwrap();
    assert_eq!(pieces[0][20..32], options);
    assert_eq!(pieces[0].len(), 48);
    for later in &pieces[1..] {
        assert_eq!(later[0], 0x46);
        assert_eq!(later[20..24], [0x88, 4, 0xbe, 0xef]);
    }
    assert_eq!(reassemble(&pieces, 0), (packet[32..].to_vec(), false));
}

#[test]
fn malformed_options_end_the_list() {
    let copied = |options: &[u8]| {
        let mut out = [0xa5; 40];
        let length = copy_options(options, &mut out);
        out[..length].to_vec()
    };
    assert_eq!(copied(&[0x88]), []);
    assert_eq!(copied(&[0x88, 0, 1, 1]), []);
    assert_eq!(copied(&[0x88, 1, 1, 1]), []);
    assert_eq!(copied(&[0x88, 5, 1, 1]), []);
    assert_eq!(copied(&[0x88, 3, 7, 0x88]), [0x88, 3, 7, 0]);
    assert_eq!(copied(&[0, 0x88, 3, 7]), []);
    assert_eq!(copied(&[1, 0x82, 2, 0x83, 2]), [0x82, 2, 0x83, 2]);
}

#[test]
fn fragments_are_cut_again() {
    let packet = fragmentable(1000);
    let whole = cut(&packet, 300).unwrap();
    let again: Vec<_> = whole.iter().flat_map(|piece| cut(piece, 100).unwrap()).collect();
    assert!(again.len() > whole.len());
    assert_eq!(reassemble(&again, 0), (packet[20..].to_vec(), false));
}

proptest! {
    #[test]
    fn fragments_are_the_packet(length in 0usize..3000, mtu in 28usize..1600, id: u16) {
        let packet = Spec::udp(Family::V4, &bytes(length, 2)).with(|spec| {
            spec.dont_fragment = false;
            spec.id = id;
        }).build();
        let pieces = cut(&packet, mtu).unwrap();
        prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu));
        prop_assert!(pieces.iter().all(|piece| piece[4..6] == packet[4..6]));
        let (payload, open) = reassemble(&pieces, 0);
        prop_assert!(!open);
        let whole = [&packet[..20], &payload].concat();
        prop_assert!(checksums_ok(&whole));
        prop_assert_eq!(whole, packet);
    }
}
