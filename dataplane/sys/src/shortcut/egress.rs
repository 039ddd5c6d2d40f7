//! The way out: what IP sends to the tunnel device.
//!
//! *Order.* A flow takes one way at a time. What sends a super-packet, a long packet or many packets within
//! a millisecond is the workers' for a while ([`Habits`](super::Habits)), with everything that follows: many
//! packets cost little there. After that it takes the shortcut once there was a pause in which a worker
//! has sent everything that it held. What takes the shortcut is on its way out before the next packet of its
//! flow comes here.
//!
//! *Flows* are told apart by the kernel's hash, in a table of fixed size: no memory is taken for one, and
//! none is looked for. Two of one hash share what is known of them, which at worst sends a packet by the
//! workers that could have taken the shortcut.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::{
    BEHIND_ETHERNET, CONTEXT, ETHERNET, FLOW, Habits, IPV4, KEY, LENGTH_MAX, Maps, NEXT, OUT,
    OUTER, ROUTE, ShortcutOptions, context, count_packet, drop_packet, fold_sum, half_in_packet,
    in_packet, load_packet, look_up, mask,
};
use crate::bpf::Register::{R0, R1, R2, R3, R4, R5, R7, R8, R9, R10};
use crate::bpf::{Assembler, Helper, Instruction, Register, Size};

/// Flows that are told apart at most, a power of two.
pub(super) const FLOWS: u32 = 1 << 14;

/// Nanoseconds of a window, as a power of two: about a millisecond.
const WINDOW_BITS: i32 = 20;

/// What is known of a flow: when it last had a packet that only workers take, when a packet of it last went
/// to them, the number of a window and how many packets were in it.
const BUSY: i16 = 0;
const SENT: i16 = 8;
const WINDOW: i16 = 16;
const COUNT: i16 = 20;
const _: () = assert!(FLOW == 24);

/// Places on the stack, which is counted from its end: the inner header, the outer headers and the
/// packet's length.
const INNER: i16 = -32;
const HEADERS: i16 = -64;
const LENGTH: i16 = -72;

/// Among the flags of TCP.
const TCP_SYN: i32 = 0x02;

/// Where a sum stands behind the outer headers in a route.
const SUM: i16 = 28;

/// With which flags there is room for outer headers: the length of segments is not changed, and there is
/// IPv4 and UDP, so that devices which must leave the inner checksum alone know it.
const ENCAPSULATE: i32 = 0x01 | 0x02 | 0x10;

/// The outer headers of all datagrams to a peer, without lengths and checksum; and the sum of all words of
/// the IPv4 header.
pub(super) fn route(local: SocketAddrV4, peer: SocketAddrV4) -> [u8; ROUTE] {
    /// No fragments: nothing here is longer than a path takes.
    const DONT_FRAGMENT: u8 = 0x40;
    const HOPS: u8 = 64;
    const UDP: u8 = 17;
    let mut value = [0; ROUTE];
    value[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, DONT_FRAGMENT, 0, HOPS, UDP, 0, 0]);
    value[12..16].copy_from_slice(&local.ip().octets());
    value[16..20].copy_from_slice(&peer.ip().octets());
    value[20..22].copy_from_slice(&local.port().to_be_bytes());
    value[22..24].copy_from_slice(&peer.port().to_be_bytes());
    let words = value[..20].chunks_exact(2);
    let sum: u32 = words.map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
    value[28..].copy_from_slice(&sum.to_ne_bytes());
    value
}

/// What stays in registers besides the context.
const FLOW_STATE: Register = R7;
const NOW: Register = R8;
const ROUTE_TO_PEER: Register = R9;

pub(super) fn program(options: &ShortcutOptions, maps: &Maps) -> Vec<Instruction> {
    let mut p = Assembler::default();
    p.copy(CONTEXT, R1);
    p.load(Size::Word, R0, CONTEXT, context::PROTOCOL);
    p.if_not_equal(R0, IPV4, "next");
    find_flow(&mut p, maps);
    judge_flow(&mut p, &options.habits);
    judge_packet(&mut p, options);
    find_route(&mut p, options, maps);
    encapsulate(&mut p);
    p.load(Size::Double, ROUTE_TO_PEER, R10, LENGTH);
    count_packet(&mut p, maps, OUT, ROUTE_TO_PEER);
    // What pods' packets are marked with is not for the datagrams that carry them.
    p.copy(R0, 0);
    p.store(Size::Word, CONTEXT, context::MARK, R0);
    p.copy(R1, i32::try_from(options.underlay).expect("devices are numbered from 1"));
    p.copy(R2, 0);
    p.copy(R3, 0);
    p.copy(R4, 0);
    p.call(Helper::RedirectNeighbour);
    p.exit();

    drop_packet(&mut p, maps, OUT);

    p.label("busy");
    p.store(Size::Double, FLOW_STATE, BUSY, NOW);
    p.label("worker");
    p.store(Size::Double, FLOW_STATE, SENT, NOW);
    p.label("next");
    p.copy(R0, NEXT);
    p.exit();
    p.finish()
}

fn find_flow(p: &mut Assembler, maps: &Maps) {
    p.copy(R1, CONTEXT);
    p.call(Helper::FlowHash);
    p.and(R0, i32::try_from(FLOWS - 1).expect("a small table"));
    p.store(Size::Word, R10, KEY, R0);
    look_up(p, maps.flows.as_raw_fd());
    p.if_equal(R0, 0, "next");
    p.copy(FLOW_STATE, R0);
    p.call(Helper::Nanoseconds);
    p.copy(NOW, R0);
}

/// Whether the packet is one that only workers take, or follows one.
fn judge_flow(p: &mut Assembler, habits: &Habits) {
    p.load(Size::Word, R0, CONTEXT, context::SEGMENT_LENGTH);
    p.if_not_equal(R0, 0, "busy");
    p.load(Size::Word, R0, CONTEXT, context::LENGTH);
    p.if_greater(R0, i32::from(LENGTH_MAX), "busy");
    p.store(Size::Double, R10, LENGTH, R0);
    p.copy(R1, NOW);
    p.shift_right(R1, WINDOW_BITS);
    p.and(R1, -1);
    p.load(Size::Word, R2, FLOW_STATE, WINDOW);
    p.if_equal(R1, R2, "same window");
    p.store(Size::Word, FLOW_STATE, WINDOW, R1);
    p.store_value(Size::Word, FLOW_STATE, COUNT, 0);
    p.label("same window");
    p.load(Size::Word, R1, FLOW_STATE, COUNT);
    p.add(R1, 1);
    p.store(Size::Word, FLOW_STATE, COUNT, R1);
    p.if_greater(R1, i32::from(habits.burst), "busy");

    // With sign: another processor may have put in a later time.
    time_since(p, BUSY);
    p.if_below(R1, nanoseconds(habits.hold), "worker");
    p.if_greater(R1, nanoseconds(habits.leave), "free");
    time_since(p, SENT);
    p.if_below(R1, nanoseconds(habits.gap), "worker");
    p.label("free");
}

/// Nanoseconds since a time that is known of the flow, in R1.
fn time_since(p: &mut Assembler, time: i16) {
    p.load(Size::Double, R2, FLOW_STATE, time);
    p.copy(R1, NOW);
    p.subtract(R1, R2);
}

/// Numbers in an instruction have 31 bits.
fn nanoseconds(time: Duration) -> i32 {
    i32::try_from(time.as_nanos()).unwrap_or(i32::MAX)
}

/// Whether the packet is one of ours, and whole. What comes from the first address of our pods goes
/// by the workers: with that the control loop tries whether these work.
fn judge_packet(p: &mut Assembler, options: &ShortcutOptions) {
    load_packet(p, 0, INNER, 20);
    p.if_not_equal(R0, 0, "worker");
    p.load(Size::Byte, R0, R10, INNER);
    p.if_not_equal(R0, 0x45, "worker");
    p.load(Size::Half, R0, R10, INNER + 2);
    p.swap_to_network(R0);
    p.load(Size::Double, R1, R10, LENGTH);
    p.if_not_equal(R0, R1, "worker");
    p.load(Size::Half, R0, R10, INNER + 6);
    p.and(R0, half_in_packet(0x3fff));
    p.if_not_equal(R0, 0, "worker");
    p.load(Size::Word, R0, R10, INNER + 12);
    p.if_same_word(R0, in_packet(options.own), "worker");
    p.and(R0, mask(options.prefix));
    p.if_other_word(R0, in_packet(options.own), "worker");

    // Workers limit the length of segments where a connection of TCP begins.
    p.load(Size::Byte, R0, R10, INNER + 9);
    p.if_not_equal(R0, libc::IPPROTO_TCP, "no handshake");
    load_packet(p, 20 + 13, INNER, 1);
    p.if_not_equal(R0, 0, "worker");
    p.load(Size::Byte, R0, R10, INNER);
    p.and(R0, TCP_SYN);
    p.if_not_equal(R0, 0, "worker");
    p.label("no handshake");
}

fn find_route(p: &mut Assembler, options: &ShortcutOptions, maps: &Maps) {
    p.load(Size::Word, R0, R10, INNER + 16);
    p.and(R0, mask(options.prefix));
    p.store(Size::Word, R10, KEY, R0);
    look_up(p, maps.routes.as_raw_fd());
    p.if_equal(R0, 0, "worker");
    p.copy(ROUTE_TO_PEER, R0);
}

/// Puts the outer headers in front. The device has no link layer, and what leaves a device for another
/// that has one must have room for it.
fn encapsulate(p: &mut Assembler) {
    for offset in [0, 8, 16] {
        p.load(Size::Double, R0, ROUTE_TO_PEER, offset);
        p.store(Size::Double, R10, HEADERS + offset, R0);
    }
    p.load(Size::Word, R0, ROUTE_TO_PEER, 24);
    p.store(Size::Word, R10, HEADERS + 24, R0);
    // Both lengths.
    p.load(Size::Double, R0, R10, LENGTH);
    p.add(R0, 8);
    p.swap_to_network(R0);
    p.store(Size::Half, R10, HEADERS + 24, R0);
    p.load(Size::Double, R0, R10, LENGTH);
    p.add(R0, OUTER);
    p.swap_to_network(R0);
    p.store(Size::Half, R10, HEADERS + 2, R0);
    // The checksum.
    p.load(Size::Word, R1, ROUTE_TO_PEER, SUM);
    p.add(R0, R1);
    fold_sum(p);
    p.xor(R0, 0xffff);
    p.store(Size::Half, R10, HEADERS + 10, R0);

    // Refused for what a pod has encapsulated itself.
    p.copy(R1, CONTEXT);
    p.copy(R2, OUTER);
    p.copy(R3, BEHIND_ETHERNET);
    p.copy(R4, ENCAPSULATE);
    p.call(Helper::AdjustRoom);
    p.if_not_equal(R0, 0, "worker");
    p.copy(R1, CONTEXT);
    p.copy(R2, ETHERNET);
    p.copy(R3, 0);
    p.call(Helper::ChangeHead);
    p.if_not_equal(R0, 0, "drop");
    p.copy(R1, CONTEXT);
    p.copy(R2, ETHERNET);
    p.copy(R3, R10);
    p.add(R3, i32::from(HEADERS));
    p.copy(R4, OUTER);
    p.copy(R5, 0);
    p.call(Helper::StorePacket);
    p.if_not_equal(R0, 0, "drop");
}
