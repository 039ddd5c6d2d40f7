//! Joining wire packets of one flow into super-packets: the inverse of [`crate::segment`].
//!
//! A packet joins the open group of its flow if it continues it (TCP: next sequence number) and every
//! header field that cutting copies is the same. It closes the group if it is shorter than the others or
//! carries PSH or FIN. Everything else stays alone and first flushes its flow, so the order within a
//! flow never changes. Checksums are verified before anything is joined: a wrong one is passed on wrong.
//!
//! Cutting a joined packet gives the very bytes that were joined. The one exception is the IPv4 id of
//! packets with DF, which has no meaning (RFC 6864 section 4.1): many senders leave it constant, so it is
//! not compared and comes out counting up. Without DF the id must count up by one.

mod group;
mod segment;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use arrayvec::ArrayVec;

use crate::checksum::Sum;
use crate::packet::Layout;
pub use group::{Group, Piece};
use segment::{Class, Key, Segment};

/// Segments in one joined packet: the kernel's `UDP_MAX_SEGMENTS` (`include/linux/udp.h`, Linux 6.9).
pub const SEGMENTS_MAX: usize = 128;
/// Flows open at once. Looking one up walks them all, so there are not more than fit a few cache lines.
pub const FLOWS_MAX: usize = 32;
/// Longest header of a joined packet in bytes: IPv6 and TCP with all options.
pub const HEADER_MAX: usize = 100;
/// Longest joined packet in bytes: what an IPv4 length field can say.
const BYTES_MAX: usize = 65_535;

/// What may be joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The device takes UDP super-packets (USO).
    pub udp: bool,
    /// The device takes TCP super-packets (TSO).
    pub tcp: bool,
    /// The device takes TCP super-packets whose first segment has CWR (`TUN_F_TSO_ECN`).
    pub ecn: bool,
    /// Segments in one joined packet; at most [`SEGMENTS_MAX`].
    pub segments_max: usize,
    /// Length of one joined packet in bytes; at most 65,535.
    pub bytes_max: usize,
}

/// Takes what comes out, in the order in which it is to be written into the device.
pub trait Sink<R> {
    /// A joined packet, or a single one that could have been joined.
    fn group(&mut self, group: &Group<R>);
    /// A packet that cannot be joined, to be written as it is behind [`crate::virtio::Header::NONE`].
    fn alone(&mut self, place: R, length: usize);
}

/// Joins packets. All memory is allocated by [`Coalescer::new`].
#[derive(Debug)]
pub struct Coalescer<R> {
    limits: Limits,
    sum: Sum,
    groups: Vec<Group<R>>,
    /// The groups in use, in the order of their first packets.
    open: ArrayVec<Open, FLOWS_MAX>,
    /// The positions of the others.
    free: ArrayVec<u8, FLOWS_MAX>,
}

/// A group in use.
#[derive(Clone, Copy, Debug)]
struct Open {
    key: Key,
    position: u8,
}

impl Open {
    #[inline]
    const fn position(self) -> usize {
        self.position as usize
    }
}

impl<R: Copy> Coalescer<R> {
    /// An empty one. Limits above what a packet can be are lowered to that.
    #[must_use]
    pub fn new(limits: Limits, sum: Sum) -> Self {
        let segments_max = limits.segments_max.min(SEGMENTS_MAX);
        let joins = segments_max > 1;
        let limits = Limits {
            udp: limits.udp && joins,
            tcp: limits.tcp && joins,
            ecn: limits.ecn,
            segments_max,
            bytes_max: limits.bytes_max.min(BYTES_MAX),
        };
        Self {
            limits,
            sum,
            groups: (0..FLOWS_MAX).map(|_| Group::new()).collect(),
            open: ArrayVec::new(),
            free: (0..FLOWS_MAX as u8).collect(),
        }
    }

    /// Takes one complete packet whose IPv4 header checksum is right. `place` is the caller's name for
    /// its first byte; `at` gives the place that many bytes further on. Whatever this packet closes goes
    /// to `sink` at once.
    #[expect(clippy::too_many_arguments, reason = "a packet, where it is, and where it goes")]
    #[inline]
    pub fn push(
        &mut self,
        packet: &[u8],
        layout: &Layout,
        place: R,
        at: fn(R, usize) -> R,
        sink: &mut impl Sink<R>,
    ) {
        match segment::classify(packet, layout, &self.limits) {
            Class::Joinable(segment) => {
                let payload = at(place, segment.header_length());
                if !self.join(&segment, packet, payload, sink) {
                    sink.alone(place, packet.len());
                }
            }
            Class::OfFlow(key) => {
                self.close_flow(&key, sink);
                sink.alone(place, packet.len());
            }
            Class::OfPair(key) => {
                self.close_pair(&key, sink);
                sink.alone(place, packet.len());
            }
        }
    }

    /// Hands out everything open, in the order of each group's first packet.
    pub fn flush(&mut self, sink: &mut impl Sink<R>) {
        for order in 0..self.open.len() {
            self.emit(self.open[order], sink);
        }
        self.open.clear();
    }

    /// Puts the packet into the group of its flow or into a new one. False if it has to stay alone; its
    /// flow is closed then.
    #[inline]
    fn join(
        &mut self,
        segment: &Segment,
        packet: &[u8],
        payload: R,
        sink: &mut impl Sink<R>,
    ) -> bool {
        let order = self.open.iter().position(|open| open.key == *segment.key());
        if let Some(order) = order {
            let position = self.open[order].position();
            let group = &mut self.groups[position];
            let joins =
                group.takes(segment, packet, &self.limits) && segment.checksum_ok(packet, self.sum);
            if joins {
                group.join(segment, payload);
            }
            if !joins || group.is_complete(&self.limits) {
                self.close(order, sink);
            }
            if joins {
                return true;
            }
        }
        // What ends a group cannot begin one, so its checksum is not worth looking at.
        if segment.ends() || !segment.checksum_ok(packet, self.sum) {
            return false;
        }
        self.begin(segment, packet, payload, sink);
        true
    }

    fn begin(&mut self, segment: &Segment, packet: &[u8], payload: R, sink: &mut impl Sink<R>) {
        if self.open.is_full() {
            self.close(0, sink);
        }
        let position = self.free.pop().expect("a group that is not open is free");
        self.groups[usize::from(position)].begin(segment, packet, payload);
        self.open.push(Open { key: *segment.key(), position });
    }

    #[inline]
    fn close_flow(&mut self, key: &Key, sink: &mut impl Sink<R>) {
        if let Some(order) = self.open.iter().position(|open| open.key == *key) {
            self.close(order, sink);
        }
    }

    fn close_pair(&mut self, key: &Key, sink: &mut impl Sink<R>) {
        while let Some(order) = self.open.iter().position(|open| open.key.is_same_pair(key)) {
            self.close(order, sink);
        }
    }

    fn close(&mut self, order: usize, sink: &mut impl Sink<R>) {
        let open = self.open.remove(order);
        self.emit(open, sink);
    }

    fn emit(&mut self, open: Open, sink: &mut impl Sink<R>) {
        let group = &mut self.groups[open.position()];
        group.finish();
        sink.group(group);
        self.free.push(open.position);
    }
}
