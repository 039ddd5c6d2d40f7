//! What packet workers and the handshake thread share when traffic is sealed.
//!
//! The handshake thread makes sessions and puts them here; workers seal and open with what they find,
//! without waiting for anybody. What only the handshake thread can deal with, they put into a bounded
//! queue, and count what finds no room there.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::{Receiver, Sender, bounded};
use weft_forward::table::PEERS_MAX;
use weft_seal::{
    aead::{Aead, Ring},
    session::Session,
};

/// What messages are sealed with: the fastest of the bench `aead`.
pub type Cipher = Ring;

/// What may wait for the handshake thread. A datagram of a handshake has at most 148 bytes, a packet
/// without a session at most the device's MTU.
const NEWS: usize = 1024;

/// A peer among those that had its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerName {
    /// Its slot in the table.
    pub slot: u16,
    /// Tells it from others that had the slot before.
    pub generation: u32,
}

/// What packets to a peer are sealed with, and where they go.
pub struct Outgoing<A> {
    /// Who has this slot.
    pub peer: PeerName,
    /// The session.
    pub session: Arc<Session<A>>,
    /// Where the peer was last heard.
    pub to: SocketAddr,
    /// How many ports, from that one on, it sends from: its workers have one each, and only the first
    /// receives.
    pub ports: u16,
}

impl<A> Outgoing<A> {
    fn is_at(&self, from: SocketAddr) -> bool {
        let first = self.to.port();
        let ports = first..=first.saturating_add(self.ports.saturating_sub(1));
        from.ip() == self.to.ip() && ports.contains(&from.port())
    }
}

/// A session that may receive, and from whom.
pub struct Incoming<A> {
    /// Who has the other keys.
    pub peer: PeerName,
    /// The session.
    pub session: Arc<Session<A>>,
}

/// Sessions that may receive, by their local index.
pub type Receiving<A> = HashMap<u32, Incoming<A>>;

/// What a worker has for the handshake thread.
#[derive(Debug)]
pub enum News {
    /// A message of a handshake.
    Datagram {
        /// Its outer source.
        from: SocketAddr,
        /// The message.
        bytes: Box<[u8]>,
    },
    /// There is no session with a peer, and this packet for it.
    Packet {
        /// The peer.
        peer: PeerName,
        /// The inner packet.
        bytes: Box<[u8]>,
    },
    /// There is no session with a peer. The packets for it were dropped.
    Wanted {
        /// The peer.
        peer: PeerName,
    },
    /// A message for the session with this index came from another address than before.
    Roamed {
        /// Our index.
        local: u32,
        /// Its outer source.
        from: SocketAddr,
    },
    /// The first message for a session that we answered.
    Used {
        /// Our index.
        local: u32,
    },
}

/// The sessions of a node and the way to its handshake thread.
pub struct Sealing<A> {
    /// By slot.
    outgoing: Box<[ArcSwapOption<Outgoing<A>>]>,
    receiving: ArcSwap<Receiving<A>>,
    news: Sender<News>,
    /// Times of sessions count from here.
    start: Instant,
}

impl<A: Aead> Sealing<A> {
    /// Without any session, and what workers have to say.
    #[must_use]
    pub fn new() -> (Arc<Self>, Receiver<News>) {
        let (news, receiver) = bounded(NEWS);
        let outgoing = (0..PEERS_MAX).map(|_| ArcSwapOption::empty()).collect();
        let receiving = ArcSwap::from_pointee(HashMap::new());
        (Arc::new(Self { outgoing, receiving, news, start: Instant::now() }), receiver)
    }

    /// The time that sessions go by.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Packets to the peer in `slot` are sealed like this from now on, or cannot be sent.
    ///
    /// # Panics
    /// If there is no such slot in any table.
    pub fn publish(&self, slot: u16, outgoing: Option<Outgoing<A>>) {
        self.outgoing[usize::from(slot)].store(outgoing.map(Arc::new));
    }

    /// These sessions receive from now on, and no other does.
    pub fn receive_with(&self, receiving: Receiving<A>) {
        self.receiving.store(Arc::new(receiving));
    }

    /// How packets to the peer are sealed.
    #[inline]
    pub(crate) fn outgoing(&self, peer: PeerName) -> Option<Arc<Outgoing<A>>> {
        let found = self.outgoing.get(usize::from(peer.slot))?.load_full()?;
        (found.peer == peer).then_some(found)
    }

    /// Whether a message from `from` comes from where packets to the peer in this slot go.
    pub(crate) fn is_place_of(&self, slot: u16, from: SocketAddr) -> bool {
        let found = self.outgoing.get(usize::from(slot)).map(ArcSwapOption::load);
        found.is_some_and(|found| found.as_ref().is_some_and(|outgoing| outgoing.is_at(from)))
    }

    pub(crate) fn receiving(&self) -> arc_swap::Guard<Arc<Receiving<A>>> {
        self.receiving.load()
    }

    /// Tells the handshake thread. False if it has too much to do.
    pub(crate) fn tell(&self, news: News) -> bool {
        self.news.try_send(news).is_ok()
    }
}

impl<A> fmt::Debug for Sealing<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sealing").finish_non_exhaustive()
    }
}
