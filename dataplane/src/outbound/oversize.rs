//! Packets that do not fit the path: answered with ICMP, or fragmented if they allow it.

use weft_forward::{
    drops::DropReason,
    fragment,
    icmp::Problem,
    packet::{self, Layout},
    virtio,
};

use super::{Outbound, Step, Unfinished, drop_counted, train::Load};
use crate::{
    framer::Framer, memory::TRAINS, peers::advertised_mtu, sealing::PeerName, shared::Shared,
};

/// Memory to put packets together in.
#[derive(Debug)]
pub(super) struct Scratch {
    packet: Box<[u8]>,
    fragment: Box<[u8]>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        let room = || vec![0; usize::from(u16::MAX)].into_boxed_slice();
        Scratch { packet: room(), fragment: room() }
    }

    /// Lends the packet memory out, so that the machine can be used meanwhile.
    pub(super) fn take_packet(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.packet)
    }

    pub(super) fn return_packet(&mut self, packet: Box<[u8]>) {
        self.packet = packet;
    }
}

/// A whole packet in plain memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offender<'a> {
    pub packet: &'a [u8],
    pub layout: &'a Layout,
    pub slot: u16,
    /// Whether it stands for an inner segment.
    pub counted: bool,
}

impl<F: Framer> Outbound<F> {
    /// Handles a packet from the device of which the segments do not fit the path.
    pub(super) fn oversize(&mut self, packet: &mut Unfinished, shared: &mut Shared) -> Step {
        let mut scratch = self.scratch.take_packet();
        let mut step = Step::Done;
        while packet.next < packet.plan.count() {
            let length = materialise(packet, &mut scratch, shared);
            let layout = packet::parse(&scratch[..length]).expect("a segment is a packet");
            let offender = Offender {
                packet: &scratch[..length],
                layout: &layout,
                slot: packet.slot,
                counted: true,
            };
            if !packet.layout.dont_fragment() {
                step = self.send_one(&offender, shared);
                if step == Step::NoTrain {
                    break;
                }
                packet.next += 1;
                continue;
            }
            // One answer speaks for all segments of the packet.
            self.answer_too_big(&offender, shared);
            let left = packet.plan.count() - packet.next;
            step = drop_counted(shared, DropReason::PacketTooBig, left);
            packet.next = packet.plan.count();
        }
        self.scratch.return_packet(scratch);
        step
    }

    /// Sends one packet to a peer, as it is if it fits the path.
    pub(super) fn send_one(&mut self, offender: &Offender<'_>, shared: &mut Shared) -> Step {
        let Some(state) = shared.peers.state(offender.slot) else {
            return drop_counted(shared, DropReason::PeerGone, usize::from(offender.counted));
        };
        let mtu = state.path_mtu(shared.now_ms);
        if offender.packet.len() <= mtu {
            return self.board_copy(offender, offender.packet, offender.counted, shared);
        }
        if offender.layout.dont_fragment() {
            self.answer_too_big(offender, shared);
            let segments = usize::from(offender.counted);
            return drop_counted(shared, DropReason::PacketTooBig, segments);
        }
        self.send_fragments(offender, mtu, shared)
    }

    fn send_fragments(&mut self, offender: &Offender<'_>, mtu: usize, shared: &mut Shared) -> Step {
        let planned = fragment::fragments(offender.packet, offender.layout, mtu);
        let Ok(mut fragments) = planned else {
            let segments = usize::from(offender.counted);
            return drop_counted(shared, DropReason::FragmentFailed, segments);
        };
        // All of them or none: half a packet helps nobody. The header of the first is the longest, and
        // every one but the last has room for at least one unit behind it, or none was planned.
        let header = offender.layout.transport_offset();
        let room = (mtu - header) / fragment::UNIT * fragment::UNIT;
        let most = (offender.packet.len() - header).div_ceil(room);
        if most > usize::from(TRAINS) {
            let segments = usize::from(offender.counted);
            return drop_counted(shared, DropReason::FragmentFailed, segments);
        }
        if self.trains.free() < most {
            return Step::NoTrain;
        }
        let mut memory = std::mem::take(&mut self.scratch.fragment);
        let mut counted = offender.counted;
        while let Some(length) = fragments.next(offender.packet, &mut memory) {
            shared.counters.fragments_made.add(1);
            let step = self.board_copy(offender, &memory[..length], counted, shared);
            debug_assert_eq!(step, Step::Done, "the trains were counted before");
            counted = false;
        }
        self.scratch.fragment = memory;
        Step::Done
    }

    fn board_copy(
        &mut self,
        offender: &Offender<'_>,
        packet: &[u8],
        counted: bool,
        shared: &mut Shared,
    ) -> Step {
        let Some(state) = shared.peers.state(offender.slot) else {
            return drop_counted(shared, DropReason::PeerGone, usize::from(counted));
        };
        let peer = PeerName { slot: offender.slot, generation: state.generation };
        let mtu = state.path_mtu(shared.now_ms);
        if let Err(reason) = self.admit(peer, 1, shared) {
            return drop_counted(shared, reason, usize::from(counted));
        }
        let room = self.framer.room_copy(packet.len(), mtu);
        let load = Load { slot: offender.slot, room, counted, urgent: true };
        if room.written > weft_sys::gather::ARENA {
            return drop_counted(shared, DropReason::SendFailed, usize::from(counted));
        }
        let Some(train) = self.trains.board(&load, shared) else { return Step::NoTrain };
        self.framer.frame_copy(packet, mtu, train);
        self.trains.boarded(&load, shared);
        Step::Done
    }

    fn answer_too_big(&mut self, offender: &Offender<'_>, shared: &mut Shared) {
        let Some(state) = shared.peers.state(offender.slot) else { return };
        let mtu = state.path_mtu(shared.now_ms);
        let source = packet::source(offender.packet, offender.layout);
        let mtu = advertised_mtu(source, mtu);
        shared.answer(offender.packet, offender.layout, Problem::FragmentationNeeded { mtu });
    }
}

/// Writes the segment at hand into `out`; returns its length.
fn materialise(packet: &Unfinished, out: &mut [u8], shared: &Shared) -> usize {
    let bytes = &packet.frame.bytes()[virtio::LENGTH..];
    let header = packet.plan.header_len();
    if header > 0 {
        packet.plan.write_header(bytes, packet.next, &mut out[..header], shared.sum);
    }
    let payload = &bytes[packet.plan.payload(packet.next)];
    out[header..header + payload.len()].copy_from_slice(payload);
    header + payload.len()
}
