//! What goes out.

use std::net::SocketAddr;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{Device, Output, Place, WAITING_MAX};
use crate::aead::Aead;
use crate::context::Context;
use crate::handshake::Initiator;
use crate::message::Initiation;
use crate::peer::Pending;
use crate::session::{Load, Session, sealed_length};
use crate::timers::Event;
use crate::timestamp::Timestamp;

impl<A: Aead> Device<A> {
    /// Seals a packet for a peer, or keeps it until there is a session. A packet for no peer, or one
    /// whose address nobody knows, is dropped; the latter is counted.
    pub fn handle_packet(&mut self, context: &mut Context<'_>, slot: u16, packet: &[u8]) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let sealed = peer
            .usable(context.now)
            .cloned()
            .and_then(|session| seal(&session, context, (packet, self.mtu)));
        match (sealed, peer.endpoint) {
            (Some(datagram), Some(to)) => {
                self.outputs.push_back(Output::Send { to, datagram });
                self.observe(context, slot);
            }
            (Some(_), None) => peer.dropped += 1,
            (None, _) => {
                if self.waiting < WAITING_MAX {
                    self.waiting += peer.enqueue(packet);
                } else {
                    peer.dropped += 1;
                }
                self.handle_wanted(context, slot);
            }
        }
    }

    /// Sends what waits for a session. False if nothing did.
    pub(super) fn flush(&mut self, context: &mut Context<'_>, slot: u16) -> bool {
        let Some(peer) = self.peers.get_mut(&slot) else { return false };
        let packets = std::mem::take(&mut peer.queue);
        self.waiting -= packets.len();
        let is_any = !packets.is_empty();
        for packet in packets {
            self.handle_packet(context, slot, &packet);
        }
        is_any
    }

    /// Sends an empty message, or begins a handshake if there is no session to send it with.
    pub(super) fn send_nothing(&mut self, context: &mut Context<'_>, slot: u16) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let sealed = peer
            .usable(context.now)
            .cloned()
            .and_then(|session| seal(&session, context, (&[], self.mtu)));
        match (sealed, peer.endpoint) {
            (Some(datagram), Some(to)) => {
                self.outputs.push_back(Output::Send { to, datagram });
                self.observe(context, slot);
            }
            (Some(_), None) => {}
            (None, _) => peer.want(context.now),
        }
    }

    /// Sends an initiation if one is wanted, allowed, and the pace permits it.
    pub(super) fn initiate_if_due(&mut self, context: &mut Context<'_>, slot: u16) {
        let Some(peer) = self.peers.get(&slot) else { return };
        let Some(to) = peer.endpoint else { return };
        let is_due = peer.wants_session && peer.timers.may_initiate(context.now);
        if is_due && self.initiations.take(context.now) {
            self.last_served = slot;
            self.initiate(context, slot, to);
        }
    }

    fn initiate(&mut self, context: &mut Context<'_>, slot: u16, to: SocketAddr) {
        self.forget_pending(slot);
        let local = self.allocate(context, slot);
        let jitter = context.jitter();
        let message = self.begin(context, slot, local);
        let peer = self.peers.get_mut(&slot).expect("the caller found the peer");
        peer.wants_session = false;
        peer.sent_handshake(context.now);
        peer.timers.handle(Event::InitiationSent, context.now, jitter);
        self.indices.insert(local, Place::Handshake(slot));
        self.outputs.push_back(Output::Send { to, datagram: message.as_bytes().to_vec() });
    }

    /// Makes an initiation with a time stamp above all that the peer may have seen.
    fn begin(&mut self, context: &mut Context<'_>, slot: u16, local: u32) -> Initiation {
        let peer = self.peers.get_mut(&slot).expect("the caller found the peer");
        peer.stamp = Timestamp::from_unix(context.since_1970)
            .max(self.stamp_floor.next())
            .max(peer.stamp.next());
        let (initiator, mut message) =
            Initiator::begin(&self.private, &peer.remote, peer.stamp, local, context.bytes());
        peer.stamper.stamp(&mut message, context.now);
        peer.pending = Some(Pending { initiator, looked_at: 0 });
        message
    }
}

/// Seals a packet of `content` with its MTU. `None` if the session seals no more.
fn seal<A: Aead>(
    session: &Arc<Session<A>>,
    context: &Context<'_>,
    content: (&[u8], usize),
) -> Option<Vec<u8>> {
    let (packet, mtu) = content;
    let load = if packet.is_empty() { Load::Nothing } else { Load::Packet };
    let counter = session.reserve(1, load, context.now).ok()?.next()?;
    let mut datagram = vec![0; sealed_length(packet.len(), mtu)];
    session.seal(counter, &[packet], &mut datagram, mtu);
    Some(datagram)
}
