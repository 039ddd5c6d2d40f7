//! What became of a train, and trains that go once more.

use weft_forward::{drops::DropReason, packet};
use weft_sys::{gather::Gather, ring::Errno, udp};

use super::{Outbound, Step, oversize::Offender};
use crate::{
    framer::{Framer, Senders},
    sealing::PeerName,
    shared::Shared,
    worker::Event,
};

impl<F: Framer> Outbound<F> {
    /// Learns what became of a train. Returns the number of the socket if it is full now and
    /// must be watched until it is writable.
    pub(crate) fn handle_sent(
        &mut self,
        gather: Gather,
        result: Result<u32, Errno>,
        shared: &mut Shared,
    ) -> Option<usize> {
        let number = self.trains.arrive(gather);
        let meta = *self.trains.meta(number);
        let peer = PeerName { slot: meta.slot, generation: meta.generation };
        match result {
            Ok(bytes) => {
                let out = &shared.counters.outbound;
                out.segments_out.add(meta.segments() as u64);
                out.trains_out.add(1);
                out.train_segments.record(meta.segments() as u64);
                if F::SENDERS == Senders::KeyOrAddress && self.framer.is_plain(peer) {
                    out.plain_segments.add(meta.segments() as u64);
                }
                let overhead = meta.datagrams * self.framer.overhead(peer);
                out.bytes_out.add(u64::from(bytes).saturating_sub(overhead as u64));
                self.trains.release(number);
                if meta.datagrams > 1 {
                    segmentation_works(meta.slot, meta.generation, shared);
                }
                None
            }
            Err(Errno::AGAIN) => {
                shared.counters.send_retries.add(1);
                self.trains.wait(number);
                let was_blocked = std::mem::replace(&mut self.blocked[meta.socket], true);
                (!was_blocked).then_some(meta.socket)
            }
            Err(Errno::CANCELED) => {
                match self.refused {
                    // The same host or firewall would refuse each train of the chain in turn.
                    Some((peer, reason)) if peer == (meta.slot, meta.generation) => {
                        shared.drop_outbound(reason, meta.segments());
                        self.trains.release(number);
                    }
                    _ => self.trains.wait(number),
                }
                None
            }
            Err(error) => {
                self.handle_refusal(number, error, shared);
                None
            }
        }
    }

    fn handle_refusal(&mut self, number: u16, error: Errno, shared: &mut Shared) {
        let meta = *self.trains.meta(number);
        let again = match error {
            Errno::MSGSIZE => self.path_shrank(number, shared),
            Errno::IO | Errno::INVAL if meta.datagrams > 1 => {
                segmentation_off(meta.slot, meta.generation, error, shared)
            }
            _ => false,
        };
        if again {
            self.trains.wait(number);
            return;
        }
        let reason = match error {
            Errno::NETUNREACH | Errno::HOSTUNREACH => DropReason::SendUnreachable,
            _ => DropReason::SendFailed,
        };
        if matches!(error, Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::PERM | Errno::ACCES) {
            self.refused = Some(((meta.slot, meta.generation), reason));
        }
        shared.drop_outbound(reason, meta.segments());
        self.trains.release(number);
    }

    /// The path to a train's peer takes less than thought. True if the train may go again, in
    /// parts: then its datagrams are above the new path MTU, so that this comes to an end.
    fn path_shrank(&mut self, number: u16, shared: &mut Shared) -> bool {
        let meta = *self.trains.meta(number);
        let local = shared.locals[meta.socket];
        let peer = PeerName { slot: meta.slot, generation: meta.generation };
        let overhead = self.framer.overhead(peer);
        let Some(state) = shared.peers.same(meta.slot, meta.generation) else { return false };
        let refused = meta.length.saturating_sub(overhead);
        let known = udp::path_mtu(local, state.outer).ok();
        let known =
            known.map(|mtu| (mtu as usize).saturating_sub(state.outer_headers() + overhead));
        let lowered = state.lower_path_mtu(refused, known, shared.now_ms);
        // Kernels before 6.14 say EINVAL of a train for what is the path's fault.
        let was_refused = state.segmentation.acquit();
        shared.counters.path_mtu_lowered.add(1);
        if was_refused {
            let (slot, generation) = (meta.slot, meta.generation);
            shared.tell(Event::SegmentationOn { slot, generation });
        }
        shared.tell(Event::PathMtu { slot: meta.slot, generation: meta.generation, mtu: lowered });
        usize::from(lowered) < refused
    }

    /// Sends what waits, in order, as far as trains go.
    pub(super) fn send_again(&mut self, shared: &mut Shared) -> Step {
        self.trains.queue_returned();
        while let Some(number) = self.trains.first_retry() {
            let meta = *self.trains.meta(number);
            let Some(state) = shared.peers.same(meta.slot, meta.generation) else {
                shared.drop_outbound(DropReason::PeerGone, meta.segments_left());
                self.trains.retried();
                self.trains.release(number);
                continue;
            };
            let peer = PeerName { slot: meta.slot, generation: meta.generation };
            // A peer may have got a key since the train was made.
            let length = meta.length.saturating_sub(self.framer.overhead(peer));
            let fits = length <= state.path_mtu(shared.now_ms);
            let may_be_cut = meta.datagrams == 1 || state.segmentation.is_on(shared.now_ms);
            if meta.redone == 0 && fits && may_be_cut {
                // What follows must not board a train in front of this one.
                state.open = None;
                self.trains.retry_whole();
                continue;
            }
            if self.one_by_one(number, shared) == Step::NoTrain {
                if !self.trains.are_stuck() {
                    return Step::NoTrain;
                }
                // Every train waits, and this one needs another to be taken apart into.
                let left = self.trains.meta(number).segments_left();
                shared.drop_outbound(DropReason::SendFailed, left);
            }
            self.trains.retried();
            self.trains.release(number);
        }
        Step::Done
    }

    /// Takes a train apart and sends its datagrams as packets of their own.
    fn one_by_one(&mut self, number: u16, shared: &mut Shared) -> Step {
        let mut packet = self.scratch.take_packet();
        let mut step = Step::Done;
        while self.trains.meta(number).redone < self.trains.meta(number).datagrams {
            let meta = *self.trains.meta(number);
            let gather = self.trains.gather(number);
            let start = meta.redone * meta.length;
            let end = gather.len().min(start + meta.length);
            gather.copy_out(start..end, &mut packet);
            let counted = meta.counted >> meta.redone & 1 == 1;
            let peer = PeerName { slot: meta.slot, generation: meta.generation };
            let Some(inner) = self.framer.recover(peer, &mut packet[..end - start]) else {
                shared.drop_outbound(DropReason::NoSession, usize::from(counted));
                self.trains.meta(number).redone += 1;
                continue;
            };
            let packet = &packet[inner];
            let layout = packet::parse(packet).expect("what boarded a train was parsed");
            let offender = Offender { packet, layout: &layout, slot: meta.slot, counted };
            step = self.send_one(&offender, shared);
            if step == Step::NoTrain {
                break;
            }
            self.trains.meta(number).redone += 1;
        }
        self.scratch.return_packet(packet);
        step
    }
}

/// The kernel does not cut trains for this peer. True if the train may go again, one by one.
fn segmentation_off(slot: u16, generation: u32, error: Errno, shared: &mut Shared) -> bool {
    let Some(state) = shared.peers.same(slot, generation) else { return false };
    if state.segmentation.refuse(shared.now_ms) {
        shared.counters.segmentation_off.add(1);
        shared.tell(Event::SegmentationOff { slot, generation, error });
    }
    true
}

/// The kernel cut a train for this peer.
#[inline]
fn segmentation_works(slot: u16, generation: u32, shared: &mut Shared) {
    let Some(state) = shared.peers.same(slot, generation) else { return };
    if state.segmentation.confirm() {
        shared.tell(Event::SegmentationOn { slot, generation });
    }
}
