//! The way in: what the underlay's device has received.

use super::{
    BEHIND_ETHERNET, CONTEXT, ETHERNET, IN, IPV4, KEY, Maps, NEXT, OUTER, ShortcutOptions, context,
    count_packet, drop_packet, fold_sum, half_in_packet, in_packet, load_packet, look_up, mask,
};
use crate::bpf::Register::{R0, R1, R2, R3, R4, R5, R7, R10};
use crate::bpf::{Assembler, Helper, Instruction, Register, Size};

/// Where the headers are on the stack, from the outer IPv4 header to the end of the inner one.
const HEADERS: i16 = -56;

/// In these headers.
const UDP: i16 = HEADERS + 20;
const INNER: i16 = HEADERS + 28;
const LENGTH: i32 = 48;

/// Bytes of the inner packet, in a register that a call leaves alone.
const INNER_LENGTH: Register = R7;

/// `BPF_F_INGRESS`.
const INTO: i32 = 1;

pub(super) fn program(options: &ShortcutOptions, maps: &Maps) -> Vec<Instruction> {
    let mut p = Assembler::default();
    p.copy(CONTEXT, R1);
    p.load(Size::Word, R0, CONTEXT, context::PROTOCOL);
    p.if_not_equal(R0, IPV4, "next");
    // Neither one for another host, which a device that listens to all receives, nor a broadcast.
    p.load(Size::Word, R0, CONTEXT, context::TO_WHOM);
    p.if_not_equal(R0, i32::from(libc::PACKET_HOST), "next");
    p.load(Size::Word, R0, CONTEXT, context::SEGMENT_LENGTH);
    p.if_not_equal(R0, 0, "next");
    judge_outside(&mut p, options);
    judge_lengths(&mut p);
    judge_inside(&mut p, options, maps);
    p.copy(R1, CONTEXT);
    p.copy(R2, -OUTER);
    p.copy(R3, BEHIND_ETHERNET);
    p.copy(R4, 0);
    p.call(Helper::AdjustRoom);
    p.if_not_equal(R0, 0, "drop");
    count_packet(&mut p, maps, IN, INNER_LENGTH);
    p.copy(R1, i32::try_from(options.device).expect("devices are numbered from 1"));
    p.copy(R2, INTO);
    p.call(Helper::Redirect);
    p.exit();

    drop_packet(&mut p, maps, IN);
    p.label("next");
    p.copy(R0, NEXT);
    p.exit();
    p.finish()
}

/// Whether it is a datagram without checksum to us, from nobody in particular.
fn judge_outside(p: &mut Assembler, options: &ShortcutOptions) {
    load_packet(p, ETHERNET, HEADERS, LENGTH);
    p.if_not_equal(R0, 0, "next");
    // First what tells it from the datagrams of workers, which come in great numbers.
    p.load(Size::Half, R0, R10, UDP + 6);
    p.if_not_equal(R0, 0, "next");
    p.load(Size::Half, R0, R10, UDP + 2);
    p.if_not_equal(R0, half_in_packet(options.local.port()), "next");
    p.load(Size::Byte, R0, R10, HEADERS);
    p.if_not_equal(R0, 0x45, "next");
    p.load(Size::Byte, R0, R10, HEADERS + 9);
    p.if_not_equal(R0, libc::IPPROTO_UDP, "next");
    p.load(Size::Half, R0, R10, HEADERS + 6);
    p.and(R0, half_in_packet(0x3fff));
    p.if_not_equal(R0, 0, "next");
    p.load(Size::Word, R0, R10, HEADERS + 16);
    p.if_other_word(R0, in_packet(*options.local.ip()), "next");
    // Nobody looks at the outer header's checksum again.
    p.copy(R1, 0);
    p.copy(R2, 0);
    p.copy(R3, R10);
    p.add(R3, i32::from(HEADERS));
    p.copy(R4, 20);
    p.copy(R5, 0);
    p.call(Helper::SumDifference);
    fold_sum(p);
    p.if_not_equal(R0, 0xffff, "next");
}

/// Whether all three lengths agree with each other, and the packet is as long.
fn judge_lengths(p: &mut Assembler) {
    p.load(Size::Byte, R0, R10, INNER);
    p.if_not_equal(R0, 0x45, "next");
    p.load(Size::Half, INNER_LENGTH, R10, INNER + 2);
    p.swap_to_network(INNER_LENGTH);
    p.load(Size::Half, R0, R10, UDP + 4);
    p.swap_to_network(R0);
    p.subtract(R0, 8);
    p.if_not_equal(R0, INNER_LENGTH, "next");
    p.load(Size::Half, R0, R10, HEADERS + 2);
    p.swap_to_network(R0);
    p.copy(R1, R0);
    p.subtract(R1, OUTER);
    p.if_not_equal(R1, INNER_LENGTH, "next");
    p.load(Size::Word, R1, CONTEXT, context::LENGTH);
    p.subtract(R1, ETHERNET);
    p.if_less(R1, R0, "next");
}

/// Whether it goes to a pod of ours and comes from a pod of the peer that has the outer source.
fn judge_inside(p: &mut Assembler, options: &ShortcutOptions, maps: &Maps) {
    p.load(Size::Word, R0, R10, INNER + 16);
    p.and(R0, mask(options.prefix));
    p.if_other_word(R0, in_packet(options.own), "next");
    p.load(Size::Word, R0, R10, INNER + 12);
    p.and(R0, mask(options.prefix));
    p.load(Size::Word, R1, R10, HEADERS + 12);
    p.store(Size::Word, R10, KEY, R1);
    p.store(Size::Word, R10, KEY + 4, R0);
    look_up(p, maps.senders.as_raw_fd());
    p.if_equal(R0, 0, "next");
}
