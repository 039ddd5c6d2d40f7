//! From the peers to the TUN device.
//!
//! A received train is split, each packet parsed and checked, and consecutive segments of one
//! flow are joined into one write. What cannot be joined is written alone, in order.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use weft_forward::{
    checksum::Sum,
    coalesce::{Coalescer, FLOWS_MAX, Group, Limits, Sink},
    drops::DropReason,
    mss, packet,
    table::{Sender, Table},
    virtio,
};
use weft_sys::{
    gather::Gather,
    ring::{Datagram, Errno},
    tun::Offloads,
};

use crate::{
    framer::{COPY_MAX, Framer, Origin, Senders},
    memory::UDP_FRAMES,
    sealing::PeerName,
    shared::Shared,
    writes::Writes,
};

/// The longest packet that IP can say the length of.
const BYTES_MAX: usize = 65_535;

/// Writes that one more packet can cause: all open groups, and itself.
const WRITES_A_PACKET: usize = FLOWS_MAX + 2;

/// Where a packet lies: which of the waiting datagrams, and where in it.
#[derive(Clone, Copy, Debug)]
struct Place {
    datagram: u16,
    offset: u32,
}

impl Place {
    fn at(self, offset: usize) -> Place {
        Place { datagram: self.datagram, offset: self.offset + offset as u32 }
    }
}

/// The inbound machine of one worker.
#[derive(Debug)]
pub(crate) struct Inbound<F> {
    framer: F,
    waiting: Vec<Datagram>,
    /// Bytes of the first waiting datagram that are done.
    cursor: usize,
    coalescer: Coalescer<Place>,
}

impl<F: Framer> Inbound<F> {
    /// `offloads` is what the device takes, `joined_max` how many segments in one packet.
    pub(crate) fn new(framer: F, offloads: Offloads, joined_max: u16, sum: Sum) -> Self {
        let limits = Limits {
            udp: offloads.uso && offloads.checksum,
            tcp: offloads.tso && offloads.checksum,
            ecn: offloads.tso_ecn && offloads.checksum,
            segments_max: usize::from(joined_max),
            bytes_max: BYTES_MAX,
        };
        Inbound {
            framer,
            waiting: Vec::with_capacity(usize::from(UDP_FRAMES)),
            cursor: 0,
            coalescer: Coalescer::new(limits, sum),
        }
    }

    /// Takes a datagram or train from a socket. It is handled in the next `run`.
    pub(crate) fn handle_datagram(&mut self, datagram: Datagram) {
        self.waiting.push(datagram);
    }

    /// Whether something waits that a `run` can handle, now or once the writes in the kernel are
    /// back.
    pub(crate) fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Handles what is waiting, as far as writes go. They are in `shared.writes` then.
    pub(crate) fn run(&mut self, shared: &mut Shared) {
        if self.waiting.is_empty() {
            return;
        }
        self.framer.begin_turn();
        let table = std::sync::Arc::clone(&shared.table);
        let mut done = 0;
        while done < self.waiting.len() && self.datagram(done, &table, shared) {
            done += 1;
        }
        let mut writer = Writer { waiting: &self.waiting, shared };
        self.coalescer.flush(&mut writer);
        self.waiting.drain(..done);
        if done > 0 {
            shared.counters.inbound.batches.record(done as u64);
        }
    }

    /// Handles one datagram from where it was left. False if writes ran out first.
    fn datagram(&mut self, index: usize, table: &Table, shared: &mut Shared) -> bool {
        // Asked before anything is counted, so that a cursor of 0 says that nothing was.
        if shared.writes.free() < WRITES_A_PACKET {
            return false;
        }
        let datagram = &mut self.waiting[index];
        let length = datagram.payload.len();
        let size = datagram.control.segment_size.map_or(length, usize::from);
        let size = size.clamp(1, length.max(1));
        let mut without_packet = 0;
        if self.cursor == 0 && !datagram.truncated {
            without_packet = self.framer.open(datagram, size);
        }
        let datagram = &self.waiting[index];
        let bytes = datagram.payload.bytes();
        let outer = datagram.sender.map(|sender| sender.ip());
        let sender = outer.map_or(Sender::Unknown, |outer| table.peer_from(outer));
        if self.cursor == 0 {
            let counters = &shared.counters;
            let segments = bytes.len().div_ceil(size).max(1);
            counters.inbound.trains_in.add(1);
            counters.inbound.train_segments.record(segments as u64);
            counters.inbound.segments_in.add(segments.saturating_sub(without_packet) as u64);
            counters.inbound.bytes_in.add(bytes.len() as u64);
            let refusal = match sender {
                _ if datagram.truncated => Some(DropReason::Truncated),
                Sender::Unknown if F::SENDERS == Senders::Address => {
                    Some(DropReason::UnknownSender)
                }
                _ if bytes.is_empty() => Some(DropReason::TooShort),
                _ => None,
            };
            if let Some(reason) = refusal {
                shared.drop_inbound(reason, segments);
                return true;
            }
        }
        while self.cursor < length {
            if shared.writes.free() < WRITES_A_PACKET {
                return false;
            }
            let end = length.min(self.cursor + size);
            let place = Place { datagram: index as u16, offset: self.cursor as u32 };
            let number = place.offset as usize / size;
            let passed = self.packet(place, (number, end), (table, &sender), shared);
            if let Err(reason) = passed {
                shared.drop_inbound(reason, 1);
            }
            self.cursor = end;
        }
        self.cursor = 0;
        true
    }

    /// One datagram's worth of bytes, from `place` to `end`: number `number` of its train.
    #[inline]
    fn packet(
        &mut self,
        place: Place,
        (number, end): (usize, usize),
        (table, sender): (&Table, &Sender<'_>),
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let payload = &self.waiting[usize::from(place.datagram)].payload;
        let bytes = &payload.bytes()[place.offset as usize..end];
        let Some(unframed) = self.framer.unframe(number, bytes)? else { return Ok(()) };
        let is_plain = F::SENDERS == Senders::KeyOrAddress && unframed.origin == Origin::Outer;
        let proved;
        let sender = match unframed.origin {
            Origin::Outer => sender,
            Origin::Peer(PeerName { slot, generation }) => {
                let peer = table.peer_in(slot, generation).ok_or(DropReason::UnknownSender)?;
                proved = Sender::Proved(peer);
                &proved
            }
        };
        let place = place.at(unframed.range.start);
        let packet = &bytes[unframed.range];
        let layout = packet::parse(packet)?;
        if !packet::header_checksum_ok(packet, &layout) {
            return Err(DropReason::BadHeaderChecksum);
        }
        let source: IpAddr = packet::source(packet, &layout);
        let destination: IpAddr = packet::destination(packet, &layout);
        table.check_inbound(sender, source, destination)?;
        if is_plain {
            check_plain(&self.framer, table, sender, source)?;
            shared.counters.inbound.plain_segments.add(1);
        }
        let mut writer = Writer { waiting: &self.waiting, shared };
        self.coalescer.push(packet, &layout, place, Place::at, &mut writer);
        Ok(())
    }

    /// Counts what is still waiting as dropped: the worker stops.
    pub(crate) fn stop(&mut self, shared: &mut Shared) {
        for datagram in self.waiting.drain(..) {
            let length = datagram.payload.len();
            let size = datagram.control.segment_size.map_or(length, usize::from);
            let left = length.saturating_sub(self.cursor).div_ceil(size.max(1)).max(1);
            if self.cursor == 0 {
                shared.counters.inbound.segments_in.add(left as u64);
            }
            self.cursor = 0;
            shared.drop_inbound(DropReason::Stopped, left);
        }
    }
}

/// Whether a packet that is not sealed may come from `sender`, as far as its outer source tells: neither
/// it nor the peer that `source` belongs to may have a key.
///
/// # Errors
/// [`DropReason::NotSealed`].
fn check_plain(
    framer: &impl Framer,
    table: &Table,
    sender: &Sender<'_>,
    source: IpAddr,
) -> Result<(), DropReason> {
    let owner = table.route_for(source);
    let owner = owner.map(|route| PeerName { slot: route.slot, generation: route.generation });
    let sender = match sender {
        Sender::Peer(peer) | Sender::Proved(peer) => {
            Some(PeerName { slot: peer.slot, generation: peer.generation })
        }
        Sender::Allowed | Sender::Unknown => None,
    };
    let mut named = sender.iter().chain(&owner).peekable();
    // Of a packet that names nobody it cannot be said whether its sender has a key.
    let is_fine = named.peek().is_some() && named.all(|peer| framer.is_plain(*peer));
    if is_fine { Ok(()) } else { Err(DropReason::NotSealed) }
}

/// Learns what became of a write.
pub(crate) fn handle_written(gather: Gather, result: Result<u32, Errno>, shared: &mut Shared) {
    let meta = shared.writes.finished(gather);
    let segments = u64::from(meta.segments);
    if segments == 0 {
        return;
    }
    let counters = &shared.counters.inbound;
    match result {
        Ok(_) => {
            counters.segments_out.add(segments);
            counters.writes_out.add(1);
        }
        Err(_) => counters.drops.add(DropReason::TunWriteFailed, segments),
    }
}

/// Turns what the coalescer hands out into writes.
struct Writer<'a> {
    waiting: &'a [Datagram],
    shared: &'a mut Shared,
}

impl Writer<'_> {
    fn gather(writes: &mut Writes) -> Gather {
        writes.take().expect("no packet is begun without enough free writes")
    }

    fn push(&self, gather: &mut Gather, place: Place, length: usize) {
        let frame = &self.waiting[usize::from(place.datagram)].payload;
        let range = place.offset as usize..place.offset as usize + length;
        if length <= COPY_MAX {
            gather.push_copy(&frame.bytes()[range]);
        } else {
            gather.push_frame(frame, range);
        }
    }
}

fn virtio_space(gather: &mut Gather, header: virtio::Header) {
    let space = gather.push_space(virtio::LENGTH);
    header.write(space.try_into().expect("the space is as long as asked"));
}

impl Sink<Place> for Writer<'_> {
    fn group(&mut self, group: &Group<Place>) {
        let mut gather = Self::gather(&mut self.shared.writes);
        virtio_space(&mut gather, group.virtio());
        gather.push_copy(group.header());
        for piece in group.pieces() {
            self.push(&mut gather, piece.place, usize::from(piece.length));
        }
        self.shared.writes.push(gather, group.segments());
    }

    fn alone(&mut self, place: Place, length: usize) {
        let mut gather = Self::gather(&mut self.shared.writes);
        virtio_space(&mut gather, virtio::Header::NONE);
        if length <= COPY_MAX {
            let frame = &self.waiting[usize::from(place.datagram)].payload;
            let start = place.offset as usize;
            let packet = gather.push_space(length);
            packet.copy_from_slice(&frame.bytes()[start..start + length]);
            clamp(packet, self.shared);
        } else {
            self.push(&mut gather, place, length);
        }
        self.shared.writes.push(gather, 1);
    }
}

/// Clamps the MSS of a handshake from a peer that does not do so itself to what fits our device.
fn clamp(packet: &mut [u8], shared: &Shared) {
    if let Ok(layout) = packet::parse(packet)
        && mss::clamp(packet, &layout, usize::from(shared.inner_mtu), false)
    {
        shared.counters.mss_clamped.add(1);
    }
}
