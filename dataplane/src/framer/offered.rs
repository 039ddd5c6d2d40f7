//! Sealed to and from peers that have a key, and flannel's format with those that have none: while
//! sealing is rolled out, some hosts have a key already and others not yet.
//!
//! Who has none is what the control side says, and nothing that a peer or anybody on the way can change.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use weft_forward::drops::DropReason;
use weft_seal::aead::Aead;
use weft_sys::{gather::Gather, ring::Datagram};

use super::{Framer, Plain, Room, Sealed, Segment, Senders, Unframed};
use crate::sealing::{PeerName, Sealing};

/// The framer of traffic that is sealed where it can be.
#[derive(Debug)]
pub(crate) struct Offered<A> {
    sealing: Arc<Sealing<A>>,
    sealed: Sealed<A>,
    plain: Plain,
    /// The peer that was admitted last has no key.
    admitted_plain: bool,
}

impl<A: Aead> Offered<A> {
    pub(crate) fn new(sealing: Arc<Sealing<A>>) -> Self {
        let sealed = Sealed::new(Arc::clone(&sealing));
        Self { sealing, sealed, plain: Plain, admitted_plain: false }
    }
}

impl<A: Aead> Framer for Offered<A> {
    const SENDERS: Senders = Senders::KeyOrAddress;

    fn overhead(&self, peer: PeerName) -> usize {
        if self.is_plain(peer) { self.plain.overhead(peer) } else { self.sealed.overhead(peer) }
    }

    #[inline]
    fn is_plain(&self, peer: PeerName) -> bool {
        self.sealing.is_plain(peer)
    }

    fn begin_turn(&mut self) {
        self.sealed.begin_turn();
    }

    fn admit(&mut self, peer: PeerName, count: usize) -> Result<Option<SocketAddr>, DropReason> {
        self.admitted_plain = self.is_plain(peer);
        if self.admitted_plain {
            self.plain.admit(peer, count)
        } else {
            self.sealed.admit(peer, count)
        }
    }

    fn keep(&mut self, peer: PeerName, packet: &[u8]) -> bool {
        self.sealed.keep(peer, packet)
    }

    fn want(&mut self, peer: PeerName) {
        self.sealed.want(peer);
    }

    #[inline]
    fn room(&self, segment: &Segment<'_>, mtu: usize) -> Room {
        if self.admitted_plain {
            self.plain.room(segment, mtu)
        } else {
            self.sealed.room(segment, mtu)
        }
    }

    #[inline]
    fn frame(&mut self, segment: &Segment<'_>, mtu: usize, train: &mut Gather) {
        if self.admitted_plain {
            self.plain.frame(segment, mtu, train);
        } else {
            self.sealed.frame(segment, mtu, train);
        }
    }

    fn room_copy(&self, length: usize, mtu: usize) -> Room {
        if self.admitted_plain {
            self.plain.room_copy(length, mtu)
        } else {
            self.sealed.room_copy(length, mtu)
        }
    }

    fn frame_copy(&mut self, packet: &[u8], mtu: usize, train: &mut Gather) {
        if self.admitted_plain {
            self.plain.frame_copy(packet, mtu, train);
        } else {
            self.sealed.frame_copy(packet, mtu, train);
        }
    }

    fn recover(&self, peer: PeerName, datagram: &mut [u8]) -> Option<Range<usize>> {
        if self.is_plain(peer) {
            self.plain.recover(peer, datagram)
        } else {
            self.sealed.recover(peer, datagram)
        }
    }

    fn open(&mut self, datagram: &mut Datagram, size: usize) -> usize {
        self.sealed.open(datagram, size)
    }

    /// No message of the protocol begins as an IP packet does, and opening has left those as they were.
    #[inline]
    fn unframe(&mut self, number: usize, datagram: &[u8]) -> Result<Option<Unframed>, DropReason> {
        match self.sealed.unframe(number, datagram) {
            Err(DropReason::NotSealed) => self.plain.unframe(number, datagram),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests;
