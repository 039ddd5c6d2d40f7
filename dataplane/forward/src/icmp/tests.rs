use std::vec;
use std::vec::Vec;

use super::*;
use crate::testing::{Spec, bytes, checksums_ok};

const FROM_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 9, 0));
const FROM_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0));
const TOO_BIG: Problem = Problem::FragmentationNeeded { mtu: 1400 };

fn answer(offender: &[u8], problem: Problem, from: IpAddr) -> Option<Vec<u8>> {
    let layout = packet::parse(offender).unwrap();
    let mut out = vec![0xa5; 2000];
    let length = error(offender, &layout, problem, from, &mut out, checksum::portable)?;
    assert!(out[length..].iter().all(|byte| *byte == 0xa5));
    out.truncate(length);
    assert!(checksums_ok_icmp(&out));
    Some(out)
}

/// ICMP has no pseudo header in IPv4 and has one in IPv6.
fn checksums_ok_icmp(packet: &[u8]) -> bool {
    if packet[0] >> 4 == 6 {
        return checksums_ok(packet);
    }
    checksum::naive(&packet[..20]) == 0xffff && checksum::naive(&packet[20..]) == 0xffff
}

#[test]
fn golden_v4() {
    let offender = Spec::udp(Family::V4, b"0123").build();
    let sent = answer(&offender, TOO_BIG, FROM_V4).unwrap();
    let head =
        [0x45, 0xc0, 0, 60, 0, 0, 0x40, 0, 64, 1, 0x1a, 0x18, 10, 244, 9, 0, 10, 244, 1, 2, 3, 4];
    assert_eq!(sent[..22], head);
    assert_eq!(sent[24..28], [0, 0, 0x05, 0x78]);
    assert_eq!(sent[28..], offender);
    let sent = answer(&offender, Problem::NetworkUnreachable, FROM_V4).unwrap();
    assert_eq!((&sent[20..22], &sent[24..28]), (&[3, 0][..], &[0; 4][..]));
}

#[test]
fn golden_v6() {
    let offender = Spec::tcp(Family::V6, b"0123").build();
    let sent = answer(&offender, TOO_BIG, FROM_V6).unwrap();
    assert_eq!(sent[..8], [0x60, 0, 0, 0, 0, 72, 58, 64]);
    assert_eq!(sent[8..24], [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(sent[24..40], offender[8..24]);
    assert_eq!((&sent[40..42], &sent[44..48]), (&[2, 0][..], &[0, 0, 0x05, 0x78][..]));
    assert_eq!(sent[48..], offender);
    let sent = answer(&offender, Problem::NetworkUnreachable, FROM_V6).unwrap();
    assert_eq!((&sent[40..42], &sent[44..48]), (&[1, 0][..], &[0; 4][..]));
}

#[test]
fn the_quote_is_bounded() {
    let v4 = Spec::udp(Family::V4, &bytes(1400, 1)).build();
    let sent = answer(&v4, TOO_BIG, FROM_V4).unwrap();
    assert_eq!(sent.len(), LENGTH_MAX_V4);
    assert_eq!(sent[28..], v4[..548]);
    let v6 = Spec::udp(Family::V6, &bytes(1400, 1)).build();
    let sent = answer(&v6, TOO_BIG, FROM_V6).unwrap();
    assert_eq!(sent.len(), LENGTH_MAX);
    assert_eq!(sent[48..], v6[..1232]);
}

#[test]
fn room_is_respected() {
    for (spec, from, headers) in
        [(Spec::udp(Family::V4, b"x"), FROM_V4, 28), (Spec::udp(Family::V6, b"x"), FROM_V6, 48)]
    {
        let offender = spec.build();
        let layout = packet::parse(&offender).unwrap();
        for room in 0..offender.len() + headers + 5 {
            let mut out = vec![0; room];
            let length = error(&offender, &layout, TOO_BIG, from, &mut out, checksum::portable);
            let expected = room.min(offender.len() + headers);
            assert_eq!(length, (room >= headers).then_some(expected));
            if let Some(length) = length {
                assert!(checksums_ok_icmp(&out[..length]));
            }
        }
    }
}

#[test]
fn never_about_errors() {
    let sent = |family: Family, protocol: u8, kind: u8| {
        let mut offender = Spec::udp(family, b"").build();
        let (at, transport, from) = match family {
            Family::V4 => (9, 20, FROM_V4),
            Family::V6 => (6, 40, FROM_V6),
        };
        offender[at] = protocol;
        offender[transport] = kind;
        answer(&offender, TOO_BIG, from).is_some()
    };
    let silent: Vec<u8> = (0..=255).filter(|kind| !sent(Family::V4, 1, *kind)).collect();
    assert_eq!(silent, [3, 4, 5, 11, 12]);
    let silent: Vec<u8> = (0..=255).filter(|kind| !sent(Family::V6, 58, *kind)).collect();
    assert_eq!(silent, (0..128).chain([137]).collect::<Vec<u8>>());
    assert!(sent(Family::V4, 58, 3));
    // Cut off before the type: nobody knows.
    let mut short = Spec::udp(Family::V4, b"").build();
    short.truncate(20);
    (short[3], short[9]) = (20, 1);
    assert_eq!(answer(&short, TOO_BIG, FROM_V4), None);
}

#[test]
fn never_about_later_fragments() {
    let mut offender = Spec::udp(Family::V4, b"0123").build();
    offender[6] = 0x20;
    assert!(answer(&offender, TOO_BIG, FROM_V4).is_some());
    offender[7] = 1;
    assert_eq!(answer(&offender, TOO_BIG, FROM_V4), None);
}

#[test]
fn never_to_or_about_many() {
    let v4 = |at: usize, address: [u8; 4]| {
        let mut offender = Spec::udp(Family::V4, b"").build();
        offender[at..at + 4].copy_from_slice(&address);
        answer(&offender, TOO_BIG, FROM_V4).is_some()
    };
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert!(!v4(12, source), "{source:?}");
    }
    assert!(v4(12, [10, 0, 0, 1]));
    assert!(!v4(16, [239, 1, 1, 1]) && !v4(16, [255; 4]));
    let v6 = |at: usize, address: Ipv6Addr| {
        let mut offender = Spec::udp(Family::V6, b"").build();
        offender[at..at + 16].copy_from_slice(&address.octets());
        answer(&offender, TOO_BIG, FROM_V6).is_some()
    };
    let multicast = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, multicast] {
        assert!(!v6(8, source), "{source}");
    }
    assert!(!v6(24, multicast));
}

#[test]
fn never_from_the_other_family() {
    let v4 = Spec::udp(Family::V4, b"").build();
    let v6 = Spec::udp(Family::V6, b"").build();
    assert_eq!(answer(&v4, TOO_BIG, FROM_V6), None);
    assert_eq!(answer(&v6, TOO_BIG, FROM_V4), None);
}

#[test]
fn the_bucket_empties_and_fills() {
    let mut limit = RateLimit::new(10, 3);
    let allowed = |limit: &mut RateLimit, now: u64| (0..10).filter(|_| limit.allow(now)).count();
    assert_eq!(allowed(&mut limit, 5000), 3);
    assert_eq!(allowed(&mut limit, 5099), 0);
    assert_eq!(allowed(&mut limit, 5100), 1);
    // Time that went backwards gives nothing, and neither does the same time again.
    assert_eq!(allowed(&mut limit, 1000), 0);
    assert_eq!(allowed(&mut limit, 5199), 0);
    assert_eq!(allowed(&mut limit, 5300), 2);
    assert_eq!(allowed(&mut limit, u64::MAX), 3);
    assert_eq!(allowed(&mut RateLimit::new(0, 0), u64::MAX), 0);
}
