//! What a device keeps of one peer, and what the peer's sessions tell its timers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::aead::Aead;
use crate::context::Context;
use crate::cookie::Stamper;
use crate::handshake::{Initiator, Remote};
use crate::keys::{PublicKey, Secret};
use crate::limits::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT};
use crate::session::{Activity, Session};
use crate::sessions::Sessions;
use crate::timers::{Event, Timers};
use crate::timestamp::Timestamp;

/// Packets of one peer that wait for a session; the oldest goes when another comes.
pub const QUEUE_MAX: usize = 32;

/// A receiver begins a new session when the current one is that old, so that there is one before the
/// old one ends: a sender has tried since [`REKEY_AFTER_TIME`] if it sends at all.
const REKEY_ON_RECEIVE: Duration = Duration::from_secs(
    REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs(),
);

/// What is to be known of a peer to exchange sealed packets with it.
#[derive(Debug)]
pub struct PeerConfig {
    /// The peer's public key.
    pub public: PublicKey,
    /// The secret that both have beside their keys; all zero for none.
    pub preshared: Secret,
    /// Where the peer is, until it shows that it is elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// Send something that often in any case.
    pub keepalive: Option<Duration>,
    /// The greatest time stamp that the peer has used, if the caller has kept it.
    pub greatest: Option<Timestamp>,
}

/// What can be shown of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer's public key.
    pub public: PublicKey,
    /// Where the peer is.
    pub endpoint: Option<SocketAddr>,
    /// When the session that we send with was made. `None`: there is none.
    pub session_made: Option<Duration>,
    /// Sessions that were made and used.
    pub handshakes: u64,
    /// Handshakes that were given up without an answer.
    pub given_up: u64,
    /// Packets dropped because they waited too long, or too many did.
    pub dropped: u64,
    /// The greatest time stamp that the peer has used, to be kept on disk.
    pub greatest: Option<Timestamp>,
}

/// A handshake that we began.
pub(crate) struct Pending {
    pub(crate) initiator: Initiator,
    /// Responses that were looked at.
    pub(crate) looked_at: u32,
}

pub(crate) struct Peer<A> {
    pub(crate) remote: Remote,
    pub(crate) stamper: Stamper,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) sessions: Sessions<A>,
    pub(crate) pending: Option<Pending>,
    pub(crate) timers: Timers,
    pub(crate) queue: VecDeque<Vec<u8>>,
    /// The greatest time stamp of the peer.
    pub(crate) greatest: Option<Timestamp>,
    /// When the peer's last initiation was answered.
    pub(crate) answered: Option<Duration>,
    /// Our last time stamp.
    pub(crate) stamp: Timestamp,
    /// An initiation is to be sent as soon as it may be.
    pub(crate) wants_session: bool,
    pub(crate) handshakes: u64,
    pub(crate) given_up: u64,
    pub(crate) dropped: u64,
    /// What timers know of the sessions' use.
    seen: Activity,
    /// A new session was asked for because the current one is old and still received from.
    asked_on_receive: bool,
}

impl<A: Aead> Peer<A> {
    pub(crate) fn new(remote: Remote, config: &PeerConfig) -> Self {
        Self {
            stamper: Stamper::new(&remote.public()),
            remote,
            endpoint: config.endpoint,
            sessions: Sessions::new(),
            pending: None,
            timers: Timers::new(config.keepalive),
            queue: VecDeque::new(),
            greatest: config.greatest,
            answered: None,
            stamp: Timestamp::default(),
            wants_session: false,
            handshakes: 0,
            given_up: 0,
            dropped: 0,
            seen: Activity::default(),
            asked_on_receive: false,
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            public: self.remote.public(),
            endpoint: self.endpoint,
            session_made: self.sessions.current().map(|session| session.made()),
            handshakes: self.handshakes,
            given_up: self.given_up,
            dropped: self.dropped,
            greatest: self.greatest,
        }
    }

    /// The session to send with at `now`.
    pub(crate) fn usable(&self, now: Duration) -> Option<&Arc<Session<A>>> {
        self.sessions.current().filter(|session| !session.has_expired(now))
    }

    /// Keeps a packet until there is a session. Returns how many more wait now.
    pub(crate) fn enqueue(&mut self, packet: &[u8]) -> usize {
        let is_full = self.queue.len() == QUEUE_MAX;
        if is_full {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(packet.to_vec());
        usize::from(!is_full)
    }

    /// Drops what waits and returns how many that were.
    pub(crate) fn drop_queue(&mut self) -> usize {
        let count = self.queue.len();
        self.dropped += count as u64;
        self.queue.clear();
        count
    }

    /// A handshake message of ours left.
    pub(crate) fn sent_handshake(&mut self, now: Duration) {
        self.timers.handle(Event::Sent, now, Duration::ZERO);
    }

    /// An authentic handshake message came.
    pub(crate) fn received_handshake(&mut self, now: Duration) {
        self.timers.handle(Event::Received, now, Duration::ZERO);
    }

    /// New keys are confirmed.
    pub(crate) fn handshake_done(&mut self, now: Duration) {
        self.timers.handle(Event::HandshakeDone, now, Duration::ZERO);
        self.asked_on_receive = false;
        self.wants_session = false;
        self.handshakes += 1;
    }

    /// Tells the timers what has happened to the sessions since the last time, in the order in which
    /// it happened, and asks for a new session if it is time for one.
    pub(crate) fn observe(&mut self, context: &mut Context<'_>) {
        let newest = self.newest_activity();
        if newest == self.seen {
            return;
        }
        let seen = std::mem::replace(&mut self.seen, newest);
        let jitter = context.jitter();
        let mut events = [
            (newest.packet_sent, seen.packet_sent, Event::PacketSent),
            (newest.packet_received, seen.packet_received, Event::PacketReceived),
            // Behind the others: what was sent answers what came in the same moment.
            (newest.sent, seen.sent, Event::Sent),
            (newest.received, seen.received, Event::Received),
        ];
        events.sort_by_key(|(newest, ..)| *newest);
        for (newest, seen, event) in events {
            if let Some(at) = newest.filter(|_| newest > seen) {
                self.timers.handle(event, at, jitter);
            }
        }
        self.keep_fresh(context.now, newest.sent > seen.sent, newest.received > seen.received);
    }

    /// When any session was last used for each purpose.
    fn newest_activity(&self) -> Activity {
        self.sessions.all().fold(self.seen, |newest, session| {
            let activity = session.activity();
            Activity {
                packet_sent: newest.packet_sent.max(activity.packet_sent),
                sent: newest.sent.max(activity.sent),
                packet_received: newest.packet_received.max(activity.packet_received),
                received: newest.received.max(activity.received),
            }
        })
    }

    fn keep_fresh(&mut self, now: Duration, has_sent: bool, has_received: bool) {
        let Some(session) = self.sessions.current() else { return };
        let age = now.saturating_sub(session.made());
        let is_old = session.is_initiator() && age >= REKEY_AFTER_TIME;
        let is_last_minute = session.is_initiator() && age >= REKEY_ON_RECEIVE;
        let asks_on_receive = has_received && is_last_minute && !self.asked_on_receive;
        if asks_on_receive || has_sent && (is_old || session.is_worn()) {
            self.asked_on_receive |= asks_on_receive;
            self.want(now);
        }
    }

    /// Asks for a new session, unless an initiation was sent a moment ago.
    pub(crate) fn want(&mut self, now: Duration) {
        if self.timers.want(now) {
            self.wants_session = true;
        }
    }
}
