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

/// Whether peers without a key are talked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// No: nothing is sent or taken that is not sealed.
    Require,
    /// Yes, in flannel's format. Who has a key is sealed to, and nothing else is taken from it.
    Offer,
}

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
    /// It sends from several ports: its workers have one each, and only the first receives.
    pub has_several_ports: bool,
}

impl<A> Outgoing<A> {
    /// Any port of the address is where a peer with several workers is: between it and here the ports may
    /// be translated, and packets to those of its other workers are lost. If it is behind another port
    /// than before, its next handshake tells, which comes from the one that receives.
    fn is_at(&self, from: SocketAddr) -> bool {
        from.ip() == self.to.ip() && (self.has_several_ports || from.port() == self.to.port())
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
    /// The generations of the peers without a key, by slot; 0 stands for nobody. `None` where a key is
    /// required.
    plain: Option<ArcSwap<Vec<u32>>>,
    news: Sender<News>,
    /// Times of sessions count from here.
    start: Instant,
}

impl<A: Aead> Sealing<A> {
    /// Without any session, and what workers have to say.
    #[must_use]
    pub fn new(mode: Mode) -> (Arc<Self>, Receiver<News>) {
        let (news, receiver) = bounded(NEWS);
        let plain = (mode == Mode::Offer).then(ArcSwap::default);
        let outgoing = (0..PEERS_MAX).map(|_| ArcSwapOption::empty()).collect();
        let receiving = ArcSwap::from_pointee(HashMap::new());
        (Arc::new(Self { outgoing, receiving, plain, news, start: Instant::now() }), receiver)
    }

    /// Whether peers without a key are talked with.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.plain.is_some() { Mode::Offer } else { Mode::Require }
    }

    /// These peers have no key, and all others have one. Does nothing where a key is required.
    pub fn set_plain(&self, peers: &[PeerName]) {
        let Some(plain) = &self.plain else { return };
        let slots = peers.iter().map(|peer| usize::from(peer.slot) + 1).max().unwrap_or(0);
        let mut generations = vec![0; slots];
        for peer in peers {
            generations[usize::from(peer.slot)] = peer.generation;
        }
        plain.store(Arc::new(generations));
    }

    /// How many peers have no key.
    #[must_use]
    pub fn plain_peers(&self) -> usize {
        let count =
            |plain: &ArcSwap<Vec<u32>>| plain.load().iter().filter(|one| **one != 0).count();
        self.plain.as_ref().map_or(0, count)
    }

    /// Whether the peer is known to have no key. Of one that has got a key since, the earlier
    /// generation is nobody, so that nothing is said to it in clear any more.
    #[inline]
    pub(crate) fn is_plain(&self, peer: PeerName) -> bool {
        let Some(plain) = &self.plain else { return false };
        let generation = plain.load().get(usize::from(peer.slot)).copied();
        peer.generation != 0 && generation == Some(peer.generation)
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
