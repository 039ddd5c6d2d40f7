//! A node: its key, its peers, and all handshakes and sessions with them.
//!
//! A device belongs to one thread, which gives it datagrams, packets, and the time at least every
//! [`TICK`], and takes everything from [`Device::poll_output`] after each call. Workers seal and open
//! with the sessions that outputs name; what they then know better than the device, they say by
//! [`Device::handle_wanted`], [`Device::handle_roamed`] and [`Device::handle_used`].
//!
//! An error concerns one datagram. It has changed nothing but counters, timers and, if it was
//! [`CookieWanted`](crate::rejected::Rejected::CookieWanted), the outputs; the device goes on as if it had not come.

mod arrivals;
mod departures;
mod output;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::aead::Aead;
use crate::bucket::Bucket;
use crate::context::Context;
use crate::cookie::{Checker, MacKeys};
use crate::handshake::{KeyRefused, Remote};
use crate::index;
use crate::keys::{PrivateKey, PublicKey};
use crate::peer::Peer;
use crate::rejected::Rejections;
use crate::session::{Session, WORKERS_MAX};
use crate::sessions::Retired;
use crate::source::SourceLimit;
use crate::timers::Action;
use crate::timestamp::Timestamp;

pub use crate::peer::{PeerConfig, PeerStatus, QUEUE_MAX};
pub use output::{DeviceConfig, Output, Received};

/// How often the device wants to know the time: timers are late by at most this.
pub const TICK: Duration = Duration::from_millis(100);

/// Initiations that are answered a second without asking for cookies. Each costs about five
/// agreements, so this is some hundredths of a processor.
const ANSWERS_PER_SECOND: u32 = 200;
/// All peers of a middling cluster may come back at once.
const ANSWERS_BURST: u32 = 400;
/// Cookies are asked for until nobody came too many for that long.
const LOAD_LINGERS: Duration = Duration::from_secs(1);

/// Initiations that we send a second, and at once: all peers are re-keyed after a restart, but neither
/// we nor they get more than they can answer.
const INITIATIONS_PER_SECOND: u32 = 200;
const INITIATIONS_BURST: u32 = 64;

/// Packets that wait for sessions, of all peers together.
const WAITING_MAX: usize = 4096;

/// Whose an index of ours is.
enum Place<A> {
    Handshake(u16),
    Session(u16, Arc<Session<A>>),
}

/// A node with its peers.
pub struct Device<A> {
    private: PrivateKey,
    mac_keys: MacKeys,
    workers: u8,
    mtu: usize,
    stamp_floor: Timestamp,
    peers: BTreeMap<u16, Peer<A>>,
    slots: HashMap<PublicKey, u16>,
    indices: HashMap<u32, Place<A>>,
    checker: Checker,
    sources: SourceLimit,
    answers: Bucket,
    loaded_until: Duration,
    initiations: Bucket,
    /// The peer whose turn it was last, so that pacing starves nobody.
    last_served: u16,
    /// Packets in all peers' queues.
    waiting: usize,
    outputs: VecDeque<Output<A>>,
    rejections: Rejections,
}

impl<A: Aead> Device<A> {
    /// A node without peers.
    ///
    /// # Panics
    /// If there are no workers or too many.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        let workers = usize::from(config.workers);
        assert!((1..=WORKERS_MAX).contains(&workers), "1 to {WORKERS_MAX} workers, not {workers}");
        Self {
            mac_keys: MacKeys::new(&config.private.public()),
            private: config.private,
            workers: config.workers,
            mtu: config.mtu,
            stamp_floor: config.greatest_sent,
            peers: BTreeMap::new(),
            slots: HashMap::new(),
            indices: HashMap::new(),
            checker: Checker::new(),
            sources: SourceLimit::new(),
            answers: Bucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST),
            loaded_until: Duration::ZERO,
            initiations: Bucket::new(INITIATIONS_PER_SECOND, INITIATIONS_BURST),
            last_served: 0,
            waiting: 0,
            outputs: VecDeque::new(),
            rejections: Rejections::default(),
        }
    }

    /// The node's public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.private.public()
    }

    /// Adds a peer under the caller's number for it.
    ///
    /// # Errors
    /// Why its key cannot be a peer's. The device is unchanged.
    ///
    /// # Panics
    /// If the number is in use.
    pub fn add_peer(&mut self, slot: u16, mut config: PeerConfig) -> Result<(), KeyRefused> {
        assert!(!self.peers.contains_key(&slot), "slot {slot} belongs to another peer");
        if self.slots.contains_key(&config.public) {
            return Err(KeyRefused::Duplicate);
        }
        let preshared = std::mem::take(&mut config.preshared);
        let remote = Remote::new(&self.private, config.public, preshared)?;
        self.slots.insert(config.public, slot);
        self.peers.insert(slot, Peer::new(remote, &config));
        Ok(())
    }

    /// Forgets a peer and all its sessions. Returns what it was.
    pub fn remove_peer(&mut self, slot: u16) -> Option<PeerStatus> {
        let mut peer = self.peers.remove(&slot)?;
        self.slots.remove(&peer.remote.public());
        self.waiting -= peer.queue.len();
        // Its stamps are not to go back if it returns.
        self.stamp_floor = self.stamp_floor.max(peer.stamp);
        if let Some(pending) = &peer.pending {
            self.indices.remove(&pending.initiator.local());
        }
        let retired = peer.sessions.clear();
        self.retire(retired);
        self.outputs.push_back(Output::Publish { slot, session: None });
        Some(peer.status())
    }

    /// Says where a peer is, as somebody who knows it claims.
    pub fn set_endpoint(&mut self, slot: u16, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.endpoint = Some(endpoint);
        }
    }

    /// What is to be done next. Nothing is, if a call's outputs were all taken.
    pub fn poll_output(&mut self) -> Option<Output<A>> {
        self.outputs.pop_front()
    }

    /// All peers, in the order of their numbers.
    pub fn peers(&self) -> impl Iterator<Item = (u16, PeerStatus)> {
        self.peers.iter().map(|(slot, peer)| (*slot, peer.status()))
    }

    /// The peer with this key.
    #[must_use]
    pub fn slot_of(&self, public: &PublicKey) -> Option<u16> {
        self.slots.get(public).copied()
    }

    /// How many datagrams were not accepted, by reason.
    #[must_use]
    pub fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// The greatest time stamp that was sent. Peers accept only greater ones, so it is to be kept on
    /// disk for a start with a clock that was set back.
    #[must_use]
    pub fn greatest_sent(&self) -> Timestamp {
        self.peers.values().map(|peer| peer.stamp).fold(self.stamp_floor, Ord::max)
    }

    /// A worker has a packet for a peer without a session.
    pub fn handle_wanted(&mut self, context: &mut Context<'_>, slot: u16) {
        if let Some(peer) = self.peers.get_mut(&slot) {
            peer.want(context.now);
        }
        self.initiate_if_due(context, slot);
    }

    /// A worker admitted a message that came from another address than those before, for the session
    /// with this index of ours. The index tells a peer from another that had its slot before. Of a peer
    /// that sends from several ports (`has_several_ports`) only the address is news: one of the ports
    /// receives, and it is that which its handshakes come from.
    pub fn handle_roamed(&mut self, local: u32, mut from: SocketAddr, has_several_ports: bool) {
        let Some(&Place::Session(slot, _)) = self.indices.get(&local) else { return };
        let known = self.peers.get(&slot).and_then(|peer| peer.endpoint);
        if let Some(known) = known.filter(|_| has_several_ports) {
            from.set_port(known.port());
        }
        self.roam(slot, from);
    }

    /// A worker admitted the first message for a session that we answered, which has this index of
    /// ours. Ticks notice it too.
    pub fn handle_used(&mut self, context: &mut Context<'_>, local: u32) {
        if let Some(Place::Session(slot, _)) = self.indices.get(&local) {
            self.observe(context, *slot);
        }
    }

    /// Does what is due.
    pub fn handle_tick(&mut self, context: &mut Context<'_>) {
        let slots: Vec<u16> = self.peers.keys().copied().collect();
        for slot in &slots {
            self.observe(context, *slot);
            self.expire(context.now, *slot);
            self.run_timers(context, *slot);
        }
        // Those behind the last served come first.
        let start = slots.partition_point(|slot| *slot <= self.last_served);
        for slot in slots[start..].iter().chain(&slots[..start]) {
            self.initiate_if_due(context, *slot);
        }
    }

    /// A peer has proved that it is at `to`.
    fn roam(&mut self, slot: u16, to: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        if peer.endpoint != Some(to) {
            peer.endpoint = Some(to);
            self.outputs.push_back(Output::Roamed { slot, to });
        }
    }

    /// Takes notice of what workers did, and of a session that the peer has begun to use.
    fn observe(&mut self, context: &mut Context<'_>, slot: u16) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        peer.observe(context);
        if let Some(retired) = peer.sessions.promote() {
            peer.handshake_done(context.now);
            self.retire(retired);
            self.publish(slot);
            self.flush(context, slot);
        }
        self.initiate_if_due(context, slot);
    }

    fn expire(&mut self, now: Duration, slot: u16) {
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let had_session = peer.sessions.current().is_some();
        let retired = peer.sessions.expire(now);
        let lost_session = had_session && peer.sessions.current().is_none();
        self.retire(retired);
        if lost_session {
            self.publish(slot);
        }
    }

    fn run_timers(&mut self, context: &mut Context<'_>, slot: u16) {
        loop {
            let Some(peer) = self.peers.get_mut(&slot) else { return };
            if peer.timers.deadline().is_none_or(|deadline| deadline > context.now) {
                return;
            }
            match peer.timers.poll(context.now, context.jitter()) {
                Some(Action::Initiate) => peer.wants_session = true,
                Some(Action::Keepalive) => self.send_nothing(context, slot),
                Some(Action::GiveUp) => {
                    peer.given_up += 1;
                    peer.wants_session = false;
                    self.waiting -= peer.drop_queue();
                    self.forget_pending(slot);
                }
                Some(Action::Erase) => self.erase(slot),
                None => return,
            }
        }
    }

    /// Forgets all keys of a peer.
    fn erase(&mut self, slot: u16) {
        self.forget_pending(slot);
        let Some(peer) = self.peers.get_mut(&slot) else { return };
        let retired = peer.sessions.clear();
        if !retired.is_empty() {
            self.retire(retired);
            self.publish(slot);
        }
    }

    fn forget_pending(&mut self, slot: u16) {
        let pending = self.peers.get_mut(&slot).and_then(|peer| peer.pending.take());
        if let Some(pending) = pending {
            self.indices.remove(&pending.initiator.local());
        }
    }

    /// Makes a session known under its index.
    fn install(&mut self, slot: u16, session: Arc<Session<A>>) {
        self.indices.insert(session.local(), Place::Session(slot, Arc::clone(&session)));
        self.outputs.push_back(Output::Install { slot, session });
    }

    /// Makes the session known that a peer's packets are sealed with now.
    fn publish(&mut self, slot: u16) {
        let session = self.peers.get(&slot).and_then(|peer| peer.sessions.current().cloned());
        self.outputs.push_back(Output::Publish { slot, session });
    }

    fn retire(&mut self, retired: Retired<A>) {
        for session in retired {
            self.indices.remove(&session.local());
            self.outputs.push_back(Output::Retire { local: session.local() });
        }
    }

    /// An index for a handshake or session with a peer.
    fn allocate(&self, context: &mut Context<'_>, slot: u16) -> u32 {
        let worker = (slot % u16::from(self.workers)) as u8;
        index::allocate(context, worker, |index| !self.indices.contains_key(&index))
    }
}

impl<A> fmt::Debug for Device<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Device")
            .field("private", &self.private)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
