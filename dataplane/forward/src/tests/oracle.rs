//! Other implementations as oracles: etherparse for parsing, tun-rs for cutting and joining.

use std::vec;
use std::vec::Vec;

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use tun_rs::{GROTable, VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::round_trip::{lengths, specs};
use crate::checksum;
use crate::packet::{self, Family};
use crate::testing::{ALL, Spec, bytes, join, split};
use crate::virtio::{self, Gso};
use crate::{segment, tcp};

fn foreign(header: &virtio::Header) -> VirtioNetHdr {
    let mut encoded = [0; virtio::LENGTH];
    header.write(&mut encoded);
    VirtioNetHdr::decode(&encoded).unwrap()
}

/// What the other implementation cuts a super-packet into.
fn foreign_split(header: &virtio::Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut input = packet.to_vec();
    let mut out = vec![vec![0; packet.len()]; 1500];
    let mut sizes = vec![0; out.len()];
    let is_v6 = packet[0] >> 4 == 6;
    let count =
        tun_rs::gso_split(&mut input, foreign(header), &mut out, &mut sizes, 0, is_v6).unwrap();
    for (segment, size) in out.iter_mut().zip(&sizes) {
        segment.truncate(*size);
    }
    out.truncate(count);
    out
}

/// What the other implementation joins packets into: what is left with a segment size is a super-packet.
fn foreign_join(packets: &[Vec<u8>]) -> Vec<(virtio::Header, Vec<u8>)> {
    // It joins only into a buffer that has the room already.
    let room = |packet: &Vec<u8>| {
        let mut buffer = Vec::with_capacity(VIRTIO_NET_HDR_LEN + 65_535);
        buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        buffer.extend_from_slice(packet);
        buffer
    };
    let mut buffers: Vec<Vec<u8>> = packets.iter().map(room).collect();
    GROTable::new().apply_gro(&mut buffers, VIRTIO_NET_HDR_LEN, true).unwrap();
    let decode = |buffer: Vec<u8>| {
        let (header, packet) = buffer.split_at(VIRTIO_NET_HDR_LEN);
        (virtio::Header::parse(header).unwrap(), packet.to_vec())
    };
    buffers.into_iter().map(decode).filter(|(header, _)| header.gso != Gso::None).collect()
}

proptest! {
    #[test]
    fn parse_agrees_with_etherparse(spec in specs(), payload in lengths()) {
        let packet = spec.with(|spec| spec.payload = bytes(payload, 1)).build();
        let layout = packet::parse(&packet).unwrap();
        let theirs = SlicedPacket::from_ip(&packet).unwrap();
        let header = match theirs.net.unwrap() {
            NetSlice::Ipv4(net) => net.header().slice().len(),
            NetSlice::Ipv6(net) => net.header().slice().len(),
            NetSlice::Arp(_) => 0,
        };
        prop_assert_eq!(layout.transport_offset(), header);
        let is_tcp = matches!(theirs.transport, Some(TransportSlice::Tcp(_)));
        prop_assert_eq!(layout.protocol() == tcp::PROTOCOL, is_tcp);
    }

    #[test]
    fn parse_never_takes_what_etherparse_refuses(
        spec in specs(),
        noise: [(usize, u8); 3],
        cut in 0usize..3,
    ) {
        let mut packet = spec.with(|spec| spec.payload = bytes(32, 1)).build();
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        for (at, value) in noise {
            packet[at % header] = value;
        }
        packet.truncate(packet.len() - cut);
        if let Ok(layout) = packet::parse(&packet) {
            let theirs = etherparse::IpSlice::from_slice(&packet);
            // It goes on behind authentication headers, and into later fragments, whose number says
            // nothing about what is in them (RFC 8200 section 4.5). We do neither.
            let goes_on = IpNumber(layout.protocol()).is_ipv6_ext_header_value();
            prop_assert!(theirs.is_ok() || goes_on, "{:?}", theirs);
        }
    }

    #[test]
    fn cutting_agrees_with_tun_rs(spec in specs(), length in 1usize..9000, size in 8u16..1500) {
        let flags = spec.flags;
        let whole = spec.with(|spec| {
            spec.payload = bytes(length, 2);
            spec.flags = flags | tcp::CWR | tcp::PSH | tcp::FIN;
        });
        let (header, packet) = whole.build_super(size);
        prop_assert_eq!(split(&header, &packet), foreign_split(&header, &packet));
    }

    #[test]
    fn completing_agrees_with_tun_rs(spec in specs(), length in lengths()) {
        let (header, packet) = spec.with(|spec| spec.payload = bytes(length, 3)).build_super(1);
        let mut ours = packet.clone();
        segment::complete_checksum(&mut ours, &header, checksum::portable).unwrap();
        let sum = tun_rs::checksum(&ours[usize::from(header.checksum_start)..], 0);
        let layout = packet::parse(&ours).unwrap();
        prop_assert_eq!(checksum::add(sum, crate::testing::pseudo(&ours, &layout)), 0xffff);
    }

    #[test]
    fn sums_agree_with_tun_rs(content in proptest::collection::vec(any::<u8>(), 1..3000)) {
        prop_assert_eq!(checksum::portable(&content), tun_rs::checksum(&content, 0));
    }

    #[test]
    fn joining_agrees_with_tun_rs(
        spec in specs(),
        size in 1usize..1400,
        segments in 2usize..40,
        last in 1usize..1400,
        push: bool,
    ) {
        let first = spec.with(|spec| spec.payload = bytes(size, 9));
        let mut run = vec![first];
        while run.len() < segments {
            let length = if run.len() + 1 == segments { last.min(size) } else { size };
            run.push(run[run.len() - 1].next(&bytes(length, run.len() as u32)));
        }
        if push && run[0].protocol == tcp::PROTOCOL {
            run.last_mut().unwrap().flags |= tcp::PSH;
        }
        let packets: Vec<Vec<u8>> = run.iter().map(Spec::build).collect();
        let ours = join(ALL, &packets);
        prop_assert_eq!(ours.len(), 1);
        prop_assert_eq!(ours, foreign_join(&packets));
    }
}

#[test]
fn an_oracle_that_sees_a_difference() {
    let (header, packet) = Spec::tcp(Family::V4, &bytes(100, 1)).build_super(30);
    let mut theirs = foreign_split(&header, &packet);
    assert_eq!(theirs.len(), 4);
    theirs[1][5] ^= 1;
    assert_ne!(split(&header, &packet), theirs);
}
