//! What comes in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::IntoBytes;

use super::{Device, LOAD_LINGERS, Output, Place, Received};
use crate::aead::Aead;
use crate::context::Context;
use crate::handshake::{Claimed, Keys, Verified};
use crate::message::{CookieReply, Initiation, Message, Response};
use crate::rejected::Rejected;
use crate::session::{Session, inner_packet};
use crate::timers::Event;

/// Initiations of one peer are answered at most that often. Nobody needs more than one in five seconds,
/// but two may meet on the way.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// Responses to one initiation that are looked at. The peer sends one; each look costs two agreements.
const RESPONSES_MAX: u32 = 16;

impl<A: Aead> Device<A> {
    /// Takes a datagram from the network. A packet in it is opened in place; what a refused datagram
    /// then holds is of no use.
    ///
    /// # Errors
    /// Why it was not accepted, which has been counted.
    pub fn handle_datagram(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Received, Rejected> {
        let received = self.dispatch(context, from, datagram);
        if let Err(reason) = received {
            self.rejections.count(reason);
        }
        received
    }

    fn dispatch(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Received, Rejected> {
        match Message::parse(datagram)? {
            Message::Initiation(message) => self.handle_initiation(context, from, message)?,
            Message::Response(message) => self.handle_response(context, from, message)?,
            Message::CookieReply(message) => self.handle_cookie_reply(context.now, message)?,
            Message::Data { receiver, .. } => {
                return self.handle_data(context, (from, receiver), datagram);
            }
        }
        Ok(Received::Handshake)
    }

    fn handle_initiation(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        message: &Initiation,
    ) -> Result<(), Rejected> {
        self.mac_keys.check(message)?;
        self.check_load(context, from, message)?;
        let claimed = Claimed::read(&self.private, message)?;
        let slot = self.slot_of(&claimed.public()).ok_or(Rejected::UnknownPeer)?;
        let peer = self.peers.get_mut(&slot).expect("a key's slot has a peer");
        let verified = claimed.verify(&peer.remote)?;
        if peer.greatest.is_some_and(|greatest| verified.stamp() <= greatest) {
            return Err(Rejected::StaleTimestamp);
        }
        let since = peer.answered.map(|answered| context.now.saturating_sub(answered));
        if since.is_some_and(|since| since < ANSWER_INTERVAL) {
            return Err(Rejected::TooFrequent);
        }
        peer.greatest = Some(verified.stamp());
        peer.answered = Some(context.now);
        self.answer(context, (slot, from), verified)
    }

    /// Answers an initiation that a peer has just made.
    fn answer(
        &mut self,
        context: &mut Context<'_>,
        to: (u16, SocketAddr),
        verified: Verified,
    ) -> Result<(), Rejected> {
        let (slot, from) = to;
        let local = self.allocate(context, slot);
        let peer = self.peers.get_mut(&slot).expect("the caller found the peer");
        let (mut response, keys) = verified.respond(&peer.remote, local, context.bytes())?;
        peer.stamper.stamp(&mut response, context.now);
        peer.received_handshake(context.now);
        let session = Arc::new(Session::new(&keys, context.now));
        let retired = peer.sessions.answered(Arc::clone(&session));
        peer.timers.handle(Event::SessionMade, context.now, Duration::ZERO);
        peer.sent_handshake(context.now);
        self.retire(retired);
        self.install(slot, session);
        self.roam(slot, from);
        self.outputs.push_back(Output::Send { to: from, datagram: response.as_bytes().to_vec() });
        Ok(())
    }

    /// Under load, only those go on who have proved their address, and none of them too often.
    fn check_load(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        message: &Initiation,
    ) -> Result<(), Rejected> {
        if !self.answers.take(context.now) {
            self.loaded_until = context.now + LOAD_LINGERS;
        }
        if context.now >= self.loaded_until {
            return Ok(());
        }
        if !self.checker.has_cookie(context, message, from) {
            let reply = self.checker.reply(context, &self.mac_keys, message, from);
            let datagram = reply.as_bytes().to_vec();
            self.outputs.push_back(Output::Send { to: from, datagram });
            return Err(Rejected::CookieWanted);
        }
        if self.sources.allow(context, from.ip()) { Ok(()) } else { Err(Rejected::RateLimited) }
    }

    /// A response names an index that only the peer and those on the way to it know, so it needs no
    /// cookie; how many are looked at is bounded.
    fn handle_response(
        &mut self,
        context: &mut Context<'_>,
        from: SocketAddr,
        message: &Response,
    ) -> Result<(), Rejected> {
        self.mac_keys.check(message)?;
        let Some(Place::Handshake(slot)) = self.indices.get(&message.receiver.get()) else {
            return Err(Rejected::UnknownIndex);
        };
        let slot = *slot;
        let peer = self.peers.get_mut(&slot).expect("an index belongs to a peer");
        let pending = peer.pending.as_mut().expect("a handshake's index is its peer's");
        pending.looked_at += 1;
        if pending.looked_at > RESPONSES_MAX {
            return Err(Rejected::RateLimited);
        }
        let keys = pending.initiator.finish(&self.private, &peer.remote, message)?;
        self.finish(context, (slot, from), &keys);
        Ok(())
    }

    /// Takes up the session that a response completed.
    fn finish(&mut self, context: &mut Context<'_>, peer: (u16, SocketAddr), keys: &Keys) {
        let (slot, from) = peer;
        // The session takes over the handshake's index.
        self.forget_pending(slot);
        let peer = self.peers.get_mut(&slot).expect("the caller found the peer");
        peer.received_handshake(context.now);
        let session = Arc::new(Session::new(keys, context.now));
        let retired = peer.sessions.initiated(Arc::clone(&session));
        peer.timers.handle(Event::SessionMade, context.now, Duration::ZERO);
        peer.handshake_done(context.now);
        self.retire(retired);
        self.install(slot, session);
        self.roam(slot, from);
        self.publish(slot);
        // The peer waits for proof that we have the keys.
        if !self.flush(context, slot) {
            self.send_nothing(context, slot);
        }
    }

    fn handle_cookie_reply(
        &mut self,
        now: Duration,
        message: &CookieReply,
    ) -> Result<(), Rejected> {
        let slot = match self.indices.get(&message.receiver.get()) {
            Some(Place::Handshake(slot) | Place::Session(slot, _)) => *slot,
            None => return Err(Rejected::UnknownIndex),
        };
        let peer = self.peers.get_mut(&slot).expect("an index belongs to a peer");
        peer.stamper.keep(message, now)
    }

    fn handle_data(
        &mut self,
        context: &mut Context<'_>,
        origin: (SocketAddr, u32),
        datagram: &mut [u8],
    ) -> Result<Received, Rejected> {
        let (from, receiver) = origin;
        let Some(Place::Session(slot, session)) = self.indices.get(&receiver) else {
            return Err(Rejected::UnknownIndex);
        };
        let slot = *slot;
        let padded = session.open(datagram, context.now)?;
        self.roam(slot, from);
        self.observe(context, slot);
        Ok(match inner_packet(datagram, padded)? {
            Some(range) => Received::Packet { slot, range },
            None => Received::Keepalive { slot },
        })
    }
}
