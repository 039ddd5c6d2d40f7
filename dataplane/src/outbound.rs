//! From the TUN device to the peers.
//!
//! A packet is parsed, its peer looked up, and its segments appended to that peer's open train.
//! Trains of one turn leave together when the batch ends, never by a timer. Three tiers:
//!
//! * the fast one: the packet fits the path and trains are free;
//! * *again*: trains that the kernel did not take wait in order, and nothing newer passes them;
//! * *one by one*: a train that must not go as it is, because the path shrank or the kernel does
//!   not cut for this peer, is taken apart, and what does not fit is answered or fragmented.

mod oversize;
mod retry;
#[cfg(test)]
mod tests;
mod train;

use std::collections::VecDeque;

use weft_forward::{
    drops::DropReason,
    icmp::Problem,
    mss,
    packet::{self, Layout},
    segment::{self, Plan},
    virtio,
};
use weft_sys::{frame::Frame, gather::Gather};

pub(crate) use self::train::Departure;
use self::{
    oversize::Scratch,
    train::{Load, Trains},
};
use crate::{
    framer::{ADMITTED_MAX, Framer, Segment},
    memory::TUN_FRAMES,
    sealing::PeerName,
    shared::Shared,
};

/// A packet whose segments did not all find a train.
#[derive(Debug)]
struct Unfinished {
    frame: Frame,
    layout: Layout,
    plan: Plan,
    slot: u16,
    generation: u32,
    next: usize,
}

/// Whether a step did what it should, or there is no train to do it with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Done,
    NoTrain,
}

/// The outbound machine of one worker.
#[derive(Debug)]
pub(crate) struct Outbound<F> {
    framer: F,
    waiting: VecDeque<Frame>,
    unfinished: Option<Unfinished>,
    trains: Trains,
    /// Sockets that take nothing at the moment.
    blocked: Vec<bool>,
    /// The peer that the host itself refuses to send to, and why, until the next turn.
    refused: Option<((u16, u32), DropReason)>,
    scratch: Scratch,
}

impl<F: Framer> Outbound<F> {
    /// `gathers` are those for trains; `segments_max` is what the kernel can cut.
    pub(crate) fn new(framer: F, gathers: Vec<Gather>, segments_max: u16, sockets: usize) -> Self {
        Outbound {
            framer,
            waiting: VecDeque::with_capacity(usize::from(TUN_FRAMES)),
            unfinished: None,
            trains: Trains::new(gathers, segments_max),
            blocked: vec![false; sockets],
            refused: None,
            scratch: Scratch::new(),
        }
    }

    /// Takes a frame from the device. It is handled in the next `run`.
    pub(crate) fn handle_frame(&mut self, frame: Frame) {
        self.waiting.push_back(frame);
    }

    /// Whether something waits that a `run` can handle, now or once the trains in the kernel are
    /// back. They come back without anything else happening, so nobody may sleep on it.
    pub(crate) fn has_work(&self) -> bool {
        let waits =
            self.trains.has_retries() || self.unfinished.is_some() || !self.waiting.is_empty();
        waits && !self.is_blocked()
    }

    /// Trains that are not free.
    pub(crate) fn trains_in_use(&self) -> usize {
        self.trains.in_use()
    }

    fn is_blocked(&self) -> bool {
        self.blocked.contains(&true)
    }

    /// Socket number `socket` takes data again.
    pub(crate) fn handle_writable(&mut self, socket: usize) {
        self.blocked[socket] = false;
    }

    /// Handles what is waiting, as far as trains go. What left is in `departures`.
    /// Returns how many frames were handled.
    pub(crate) fn run(&mut self, shared: &mut Shared) -> usize {
        self.refused = None;
        self.framer.begin_turn();
        // What is still in the kernel may come back, and nothing may pass it.
        if self.is_blocked() || self.trains.are_away() {
            return 0;
        }
        let mut handled = 0;
        if self.send_again(shared) == Step::Done && self.finish(shared) == Step::Done {
            let waiting = self.waiting.len();
            while let Some(frame) = self.waiting.pop_front() {
                if self.packet(frame, shared) == Step::NoTrain {
                    break;
                }
            }
            handled = waiting - self.waiting.len();
            if handled > 0 {
                shared.counters.outbound.batches.record(handled as u64);
            }
        }
        self.trains.close_all(&mut shared.peers);
        handled
    }

    /// Hands the trains of this turn to `depart`, those of one peer behind each other.
    pub(crate) fn departures(&mut self, depart: impl FnMut(Departure)) {
        self.trains.depart(depart);
    }

    /// One packet read from the device.
    fn packet(&mut self, mut frame: Frame, shared: &mut Shared) -> Step {
        let bytes = frame.bytes_mut().expect("a frame that was just read has one handle");
        let Some((header, packet)) = bytes.split_at_mut_checked(virtio::LENGTH) else {
            return refuse(shared, DropReason::BadVirtioHeader, 1);
        };
        let planned = virtio::Header::parse(header).and_then(|header| {
            let layout = packet::parse(packet)?;
            let plan = Plan::new(packet, &layout, &header)?;
            Ok((header, layout, plan))
        });
        let (header, layout, plan) = match planned {
            Ok(planned) => planned,
            Err(reason) => return refuse(shared, reason, 1),
        };
        let Some((slot, generation)) = route(packet, &layout, plan.count(), shared) else {
            return Step::Done;
        };
        shared.counters.outbound.segments_in.add(plan.count() as u64);
        if header.gso == virtio::Gso::None {
            let Some(state) = shared.peers.state(slot) else {
                return drop_counted(shared, DropReason::PeerGone, 1);
            };
            let mtu = state.path_mtu(shared.now_ms);
            if mss::clamp(packet, &layout, mtu, header.needs_checksum) {
                shared.counters.mss_clamped.add(1);
            }
            if header.needs_checksum
                && let Err(reason) = segment::complete_checksum(packet, &header, shared.sum)
            {
                return drop_counted(shared, reason, 1);
            }
        } else {
            shared.counters.outbound.super_packets_in.add(1);
        }
        let next = 0;
        self.unfinished = Some(Unfinished { frame, layout, plan, slot, generation, next });
        self.finish(shared)
    }

    /// Puts the segments that are left of the packet at hand into trains.
    fn finish(&mut self, shared: &mut Shared) -> Step {
        let Some(mut packet) = self.unfinished.take() else { return Step::Done };
        let Some(state) = shared.peers.same(packet.slot, packet.generation) else {
            let left = packet.plan.count() - packet.next;
            return drop_counted(shared, DropReason::PeerGone, left);
        };
        let is_ipv4 = state.outer.is_ipv4();
        if !shared.locals.iter().any(|local| local.is_ipv4() == is_ipv4) {
            let left = packet.plan.count() - packet.next;
            return drop_counted(shared, DropReason::SendUnreachable, left);
        }
        let mtu = state.path_mtu(shared.now_ms);
        let step = if packet.plan.segment_len() <= mtu {
            self.load(&mut packet, mtu, shared)
        } else {
            self.oversize(&mut packet, shared)
        };
        if step == Step::NoTrain {
            self.unfinished = Some(packet);
        }
        step
    }

    /// The fast tier: every segment fits the path.
    fn load(&mut self, packet: &mut Unfinished, mtu: usize, shared: &mut Shared) -> Step {
        let peer = PeerName { slot: packet.slot, generation: packet.generation };
        let mut admitted = 0;
        while packet.next < packet.plan.count() {
            if admitted == 0 {
                let left = packet.plan.count() - packet.next;
                if let Err(reason) = self.admit(peer, left, shared) {
                    return self.refuse_packet(packet, peer, reason, shared);
                }
                admitted = left.min(ADMITTED_MAX);
            }
            let segment = Segment {
                frame: &packet.frame,
                offset: virtio::LENGTH,
                plan: &packet.plan,
                index: packet.next,
                sum: shared.sum,
            };
            let room = self.framer.room(&segment, mtu);
            let load = Load { slot: packet.slot, room, counted: true, urgent: false };
            let Some(train) = self.trains.board(&load, shared) else { return Step::NoTrain };
            self.framer.frame(&segment, mtu, train);
            self.trains.boarded(&load, shared);
            packet.next += 1;
            admitted -= 1;
        }
        Step::Done
    }

    /// Lets packets for a peer be framed, which may have moved.
    fn admit(
        &mut self,
        peer: PeerName,
        count: usize,
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let to = self.framer.admit(peer, count)?;
        if let Some(to) = to
            && let Some(state) = shared.peers.state(peer.slot)
        {
            state.move_to(to);
        }
        Ok(())
    }

    /// A packet for a peer that nothing can be framed for: one that is whole is kept where possible.
    fn refuse_packet(
        &mut self,
        packet: &Unfinished,
        peer: PeerName,
        reason: DropReason,
        shared: &Shared,
    ) -> Step {
        let left = packet.plan.count() - packet.next;
        let is_whole = packet.plan.count() == 1;
        if is_whole && self.framer.keep(peer, &packet.frame.bytes()[virtio::LENGTH..]) {
            shared.counters.outbound.segments_out.add(1);
            return Step::Done;
        }
        self.framer.want(peer);
        drop_counted(shared, reason, left)
    }

    /// Counts what is still waiting as dropped: the worker stops.
    pub(crate) fn stop(&mut self, shared: &mut Shared) {
        let mut left = self.trains.counted_in_retries();
        if let Some(packet) = self.unfinished.take() {
            left += packet.plan.count() - packet.next;
        }
        shared.drop_outbound(DropReason::Stopped, left);
        for _ in self.waiting.drain(..) {
            shared.counters.outbound.segments_in.add(1);
            shared.drop_outbound(DropReason::Stopped, 1);
        }
    }
}

/// The peer that takes `packet`. Without one the packet is counted, and answered where the rules
/// want it.
fn route(
    packet: &[u8],
    layout: &Layout,
    segments: usize,
    shared: &mut Shared,
) -> Option<(u16, u32)> {
    let destination = packet::destination(packet, layout);
    let reason = match shared.table.route_for(destination) {
        Some(route) if destination.is_ipv4() || route.inner_v6 => {
            return Some((route.slot, route.generation));
        }
        Some(_) => DropReason::NoRouteInnerV6,
        None if is_for_many(destination) => {
            refuse(shared, DropReason::Multicast, segments);
            return None;
        }
        None if shared.table.is_ours(destination) => DropReason::OwnDestination,
        None => DropReason::NoRoute,
    };
    refuse(shared, reason, segments);
    shared.answer(packet, layout, Problem::NetworkUnreachable);
    None
}

fn is_for_many(destination: std::net::IpAddr) -> bool {
    match destination {
        std::net::IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        std::net::IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Counts packets that were read and dropped at once.
fn refuse(shared: &Shared, reason: DropReason, segments: usize) -> Step {
    shared.counters.outbound.segments_in.add(segments as u64);
    drop_counted(shared, reason, segments)
}

/// Counts segments that were counted as read before.
fn drop_counted(shared: &Shared, reason: DropReason, segments: usize) -> Step {
    shared.drop_outbound(reason, segments);
    Step::Done
}
