//! The two ways of a packet, each step as the worker takes it, without a kernel.

use std::net::IpAddr;
use std::sync::LazyLock;

use weft_forward::checksum::portable;
use weft_forward::coalesce::Limits;
use weft_forward::icmp::Problem;
use weft_forward::packet::{self, Layout};
use weft_forward::segment::{self, Plan};
use weft_forward::table::{Peer, Sender, Table, TableInput};
use weft_forward::virtio::{self, Gso};
use weft_forward::{mss, tcp};
use weft_sys::udp::{RECEIVE_CONTROL_LENGTH, parse_control};

use crate::coalesce::{Received, check_train};
use crate::input::Input;
use crate::oversize::{check_error, check_fragments};
use crate::packets::{leave_checksum_open, mend, pattern, payload_length};
use crate::segment::{agree, check_cut};

/// Four nodes, of which the first is ours; the third has the fourth's address too.
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let net = |text: &str| text.parse().expect("a constant");
    let v6 = |text: &str| text.parse().expect("a constant");
    let peer = |slot: u16, host: u8| Peer {
        slot,
        generation: 1,
        outer: ([192, 0, 2, host], 8285).into(),
        subnet_v4: Some(net(&format!("10.244.{}.0/24", slot + 2))),
        subnet_v6: Some(v6(&format!("fd00:244:0:{}::/64", slot + 2))),
        addresses: vec![[192, 0, 2, host].into()],
        inner_v6: slot != 1,
        source_ports: false,
        shortcut: false,
        mtu: None,
    };
    let input = TableInput {
        epoch: 1,
        network_v4: Some(net("10.244.0.0/16")),
        network_v6: Some(v6("fd00:244::/48")),
        own_v4: Some(net("10.244.1.0/24")),
        own_v6: Some(v6("fd00:244:0:1::/64")),
        own_addresses: vec![[192, 0, 2, 1].into()],
        allowed_sources: vec!["198.51.100.0/24".parse().expect("a constant")],
        strict_source: false,
        peers: vec![peer(0, 2), peer(1, 3), peer(2, 4), peer(3, 4)],
    };
    Table::new(input).expect("the table is right")
});

/// A train from a peer: who sent it, what the kernel says beside it, and its bytes. With the lowest
/// bits of the first byte each datagram is mended, with the fourth its addresses are made friendly.
pub fn inbound(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, from) = (input.u8(), input.u8());
    let outer: IpAddr = match from {
        0..=127 => [192, 0, 2, 2 + from % 4].into(),
        _ => [198, 51, 100, from].into(),
    };
    let control = usize::from(input.u8()) % (RECEIVE_CONTROL_LENGTH + 1);
    let control = parse_control(input.take(control));
    let train = input.rest();
    let size = control.segment_size.map_or(train.len(), usize::from).clamp(1, train.len().max(1));
    let sender = TABLE.peer_from(outer);
    let mut passed = Vec::new();
    let mut refused = 0;
    for datagram in train.chunks(size) {
        let mut bytes = datagram.to_vec();
        if what & 8 != 0 {
            befriend(&mut bytes, from % 4);
        }
        mend(&mut bytes, what);
        match Received::new(bytes).filter(|packet| may_enter(packet, &sender)) {
            Some(packet) => passed.push(packet),
            None => refused += 1,
        }
    }
    assert_eq!(passed.len() + refused, train.len().div_ceil(size));
    passed.truncate(160);
    let limits =
        Limits { udp: true, tcp: true, ecn: what & 16 == 0, segments_max: 128, bytes_max: 65_535 };
    check_train(limits, &passed);
}

fn may_enter(packet: &Received, sender: &Sender<'_>) -> bool {
    let source = packet::source(&packet.bytes, &packet.layout);
    let destination = packet::destination(&packet.bytes, &packet.layout);
    let passed = TABLE.check_inbound(sender, source, destination).is_ok();
    if passed {
        assert!(TABLE.is_ours(destination) && !TABLE.is_ours(source));
        assert!(!source.is_multicast() && !source.is_loopback() && !source.is_unspecified());
        assert_ne!(source, IpAddr::from([192, 0, 2, 1]));
        assert_ne!(*sender, Sender::Unknown);
        let owner = TABLE.peer_for(source);
        if let (Sender::Peer(peer), Some(owner)) = (sender, owner) {
            assert_eq!(peer.outer.ip(), owner.outer.ip());
        }
    }
    passed
}

/// Gives the packet addresses in a peer's subnet and in ours.
fn befriend(bytes: &mut [u8], peer: u8) {
    match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= 20 => {
            bytes[12..15].copy_from_slice(&[10, 244, 2 + peer]);
            bytes[16..19].copy_from_slice(&[10, 244, 1]);
        }
        Some(6) if bytes.len() >= 40 => {
            bytes[8..16].copy_from_slice(&[0xfd, 0, 2, 0x44, 0, 0, 0, 2 + peer]);
            bytes[24..32].copy_from_slice(&[0xfd, 0, 2, 0x44, 0, 0, 0, 1]);
        }
        _ => {}
    }
}

/// What the device gives: mending, MTU of the path and added payload, then virtio header and packet.
pub fn outbound(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, mtu, longer) = (input.u8(), input.u16(), payload_length(input.u8()));
    let Ok(mut header) = virtio::Header::parse(input.take(virtio::LENGTH)) else { return };
    let mut bytes = input.rest().to_vec();
    bytes.extend(pattern(longer, what));
    bytes.truncate(usize::from(u16::MAX));
    mend(&mut bytes, what);
    let Ok(layout) = packet::parse(&bytes) else { return };
    if what & 8 != 0 {
        leave_checksum_open(&mut bytes);
        agree(&mut header, &layout);
    }
    let Ok(plan) = Plan::new(&bytes, &layout, &header) else { return };
    let destination = packet::destination(&bytes, &layout);
    let Some(peer) = TABLE.peer_for(destination) else {
        check_error(&bytes, &layout, Problem::NetworkUnreachable, 1280);
        return;
    };
    assert!(!TABLE.is_ours(destination) && (2..6).contains(&(peer.slot + 2)));
    if header.gso == Gso::None {
        let is_partial = header.needs_checksum;
        let clamped = mss::clamp(&mut bytes, &layout, usize::from(mtu), is_partial);
        assert!(!clamped || layout.protocol() == tcp::PROTOCOL);
        let _ = segment::complete_checksum(&mut bytes, &header, portable);
    }
    check_cut(&bytes, &header, &plan);
    if plan.segment_len() > usize::from(mtu) {
        too_big(&bytes, &plan, mtu);
    }
}

/// Each segment is fragmented, or the first one answered.
fn too_big(bytes: &[u8], plan: &Plan, mtu: u16) {
    // A few segments tell as much as all.
    for index in 0..plan.count().min(4) {
        let mut out = [0; segment::HEADER_MAX];
        plan.write_header(bytes, index, &mut out, portable);
        let segment = [&out[..plan.header_len()], &bytes[plan.payload(index)]].concat();
        let layout: Layout = packet::parse(&segment).expect("a segment is a packet");
        if layout.dont_fragment() {
            check_error(&segment, &layout, Problem::FragmentationNeeded { mtu }, 1280);
            return;
        }
        check_fragments(&segment, &layout, usize::from(mtu));
    }
}
