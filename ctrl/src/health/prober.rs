//! When to send what, over all peers and paths.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::message::{Heard, Key, Kind, LENGTH, Message};
use super::path::{Assessment, Pace, PathHealth};
use crate::bucket::Bucket;
use crate::config::PathKind;
use crate::identity::Identity;

/// Most requests that a node sends in a second, whatever the number of peers.
pub const PROBES_PER_SECOND: u32 = 1000;

/// Most replies that a node sends in a second. Peers send together as many requests to it as it does
/// to them, so this is room enough; a flood is not answered.
const REPLIES_PER_SECOND: u32 = 2 * PROBES_PER_SECOND;

/// How often [`Prober::handle_time`] wants to be called.
pub const TICK: Duration = Duration::from_millis(1000 / TICKS_PER_SECOND as u64);
const TICKS_PER_SECOND: u32 = 20;

/// Part of the budget that is planned, so that jitter and repetitions have room.
const PLANNED_PER_SECOND: u32 = 950;

/// Between two requests on one path, as long as the budget allows it.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Requests come so much earlier or later, in parts of the interval, so that nodes that started
/// together do not go on together.
const JITTER: f64 = 0.1;

/// Bytes of the headers around a message (RFC 791, RFC 8200, RFC 768).
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// Whom to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its subnet. The first address of it is where probes go to and come from.
    pub subnet: IpNet,
    /// Its identity.
    pub identity: Identity,
    /// The paths that both nodes have open.
    pub paths: Vec<PathKind>,
}

/// Something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The path that it is to take; [`super::port`] says from and to which port.
    pub path: PathKind,
    /// Where to.
    pub to: IpAddr,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// A peer in one address family.
#[derive(Debug)]
struct Peer {
    identity: Identity,
    sending: Key,
    receiving: Key,
    /// Random number of its start; 0 before it is known.
    session: u32,
    paths: BTreeMap<PathKind, PathHealth>,
}

/// All peers that are probed.
#[derive(Debug)]
pub struct Prober {
    own: Identity,
    session: u32,
    /// Bytes of the largest packet that pods send.
    full_size: usize,
    /// The engine that carries `udp` works.
    engine_works: bool,
    peers: BTreeMap<IpNet, Peer>,
    by_address: HashMap<IpAddr, IpNet>,
    requests: Bucket,
    replies: Bucket,
    /// Something that choices depend on is another one.
    news: bool,
}

impl Prober {
    /// `session` is random and not 0. Pods send packets of `full_size` bytes.
    #[must_use]
    pub fn new(own: Identity, session: u32, full_size: usize, now: Instant) -> Self {
        Self {
            own,
            session,
            full_size,
            engine_works: true,
            peers: BTreeMap::new(),
            by_address: HashMap::new(),
            requests: budget(PROBES_PER_SECOND, now),
            replies: budget(REPLIES_PER_SECOND, now),
            news: false,
        }
    }

    /// The engine that carries `udp` works, or does not any more, which peers are told, too. Once it
    /// works again, its path has to prove itself like any that was left.
    pub fn set_engine(&mut self, works: bool, now: Instant) {
        if self.engine_works && !works {
            let paths =
                self.peers.values_mut().filter_map(|peer| peer.paths.get_mut(&PathKind::Udp));
            paths.for_each(|health| health.handle_failure(now));
        }
        self.engine_works = works;
    }

    /// Probes these, and nobody else. What is known of those that stay is kept. `random` gives any
    /// numbers.
    pub fn set_targets(
        &mut self,
        targets: Vec<Target>,
        now: Instant,
        random: &mut impl FnMut() -> u64,
    ) {
        let mut before = std::mem::take(&mut self.peers);
        let count = targets.iter().map(|target| target.paths.len()).sum();
        let interval = interval(count);
        for Target { subnet, identity, paths } in targets {
            let known = before.remove(&subnet).filter(|peer| peer.identity == identity);
            let mut peer = known.unwrap_or_else(|| Peer {
                identity,
                sending: Key::new(self.own, identity),
                receiving: Key::new(identity, self.own),
                session: 0,
                paths: BTreeMap::new(),
            });
            peer.paths.retain(|path, _| paths.contains(path));
            let (small, full) = (headers(subnet) + LENGTH, self.full_size);
            for path in paths {
                let due = now + interval.mul_f64(part(random()));
                let new = || PathHealth::new(now, due, small, full.max(small));
                peer.paths.entry(path).or_insert_with(new);
            }
            self.peers.insert(subnet, peer);
        }
        self.by_address = self.peers.keys().map(|subnet| (subnet.network(), *subnet)).collect();
    }

    /// How fast it goes with so many peers.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let interval = interval(self.peers.values().map(|peer| peer.paths.len()).sum());
        Pace { interval, patience: interval.mul_f64(2.5) }
    }

    /// Whether there is anybody.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether anything that choices depend on has changed since the last time.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What is known of the paths to a peer.
    pub fn assessments(
        &self,
        subnet: &IpNet,
    ) -> impl Iterator<Item = (PathKind, Assessment)> + use<'_> {
        let peer = self.peers.get(subnet);
        let paths = peer.into_iter().flat_map(|peer| &peer.paths);
        paths.map(|(path, health)| (*path, health.assessment()))
    }

    /// The subnets to which the engine's path takes no packets as large as pods send them, with the
    /// bytes of the largest that it takes.
    pub fn narrow_engine_paths(&self) -> impl Iterator<Item = (IpNet, usize)> + use<'_> {
        let mtu = move |subnet: &IpNet| Some((*subnet, self.narrow_path(subnet, PathKind::Udp)?));
        self.peers.keys().filter_map(mtu)
    }

    /// Bytes of the largest packet that a path takes, if this is less than pods send.
    #[must_use]
    pub fn narrow_path(&self, subnet: &IpNet, path: PathKind) -> Option<usize> {
        let assessment = self.peers.get(subnet)?.paths.get(&path)?.assessment();
        let is_known = assessment.is_up() && !assessment.is_full && !assessment.is_searched;
        assessment.mtu.filter(|_| is_known)
    }

    /// Time has passed. Gives the requests that are due, those that have waited longest first, as far
    /// as the budget goes. `random` gives any numbers.
    pub fn handle_time(&mut self, now: Instant, random: &mut impl FnMut() -> u64) -> Vec<Datagram> {
        let pace = self.pace();
        let mut due = Vec::new();
        for (subnet, peer) in &mut self.peers {
            for (path, health) in &mut peer.paths {
                health.handle_time(now, pace);
                self.news |= health.take_news();
                if health.due() <= now {
                    due.push((health.due(), *subnet, *path));
                }
            }
        }
        due.sort_unstable();
        let mut datagrams = Vec::new();
        for (_, subnet, path) in due {
            if !self.requests.take(now) {
                break;
            }
            let factor = 1.0 + JITTER * (2.0 * part(random()) - 1.0);
            let next = now + pace.interval.mul_f64(factor);
            datagrams.extend(self.request(subnet, path, (now, next), random()));
        }
        datagrams
    }

    fn request(
        &mut self,
        subnet: IpNet,
        path: PathKind,
        (now, next): (Instant, Instant),
        nonce: u64,
    ) -> Option<Datagram> {
        let peer = self.peers.get_mut(&subnet)?;
        let health = peer.paths.get_mut(&path)?;
        let size = health.next_size();
        let sequence = health.handle_request(now, next, nonce, size);
        let message = Message {
            kind: Kind::Request,
            path,
            usable: peer.usable(self.engine_works),
            session: self.session,
            sequence,
            nonce,
            heard: peer.heard(),
        };
        let bytes = message.emit(&peer.sending, size - headers(subnet));
        Some(Datagram { path, to: subnet.network(), bytes })
    }

    /// Something came in on a path. Gives the reply, if it is a request of a peer. Whatever is not
    /// from a peer is ignored.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: PathKind,
        from: IpAddr,
        bytes: &[u8],
    ) -> Option<Datagram> {
        let peer = self.peers.get_mut(self.by_address.get(&from)?)?;
        let message = Message::parse(bytes, &peer.receiving)?;
        if message.path != path || !peer.paths.contains_key(&path) {
            return None;
        }
        if message.session != peer.session {
            peer.session = message.session;
            peer.paths.values_mut().for_each(PathHealth::handle_restart);
        }
        for (kind, health) in &mut peer.paths {
            let is_about_us = message.heard.session == self.session;
            let heard = if is_about_us { message.heard.sequences[kind.index()] } else { 0 };
            health.handle_confirmation(heard, message.usable[kind.index()]);
        }
        let health = peer.paths.get_mut(&path)?;
        health.handle_heard(now, message.sequence);
        if message.kind == Kind::Reply {
            health.handle_answer(now, message.nonce);
            return None;
        }
        if !self.replies.take(now) {
            return None;
        }
        let sequence = health.handle_sent(now);
        let reply = Message {
            kind: Kind::Reply,
            path,
            usable: peer.usable(self.engine_works),
            session: self.session,
            sequence,
            nonce: message.nonce,
            heard: peer.heard(),
        };
        Some(Datagram { path, to: from, bytes: reply.emit(&peer.sending, 0) })
    }
}

impl Peer {
    fn usable(&self, engine_works: bool) -> [bool; PathKind::COUNT] {
        PathKind::ALL.map(|path| {
            let is_good = self.paths.get(&path).is_some_and(|one| one.assessment().is_good());
            is_good && (path != PathKind::Udp || engine_works)
        })
    }

    fn heard(&self) -> Heard {
        let heard = |path| self.paths.get(&path).map_or(0, PathHealth::heard);
        Heard { session: self.session, sequences: PathKind::ALL.map(heard) }
    }
}

/// At most so many in a second, and in a [`TICK`] at once.
fn budget(per_second: u32, now: Instant) -> Bucket {
    Bucket::new(per_second, per_second / TICKS_PER_SECOND, now)
}

/// Grows in proportion to the number of paths, where the budget is used up.
fn interval(count: usize) -> Duration {
    let planned = Duration::from_secs(1) / PLANNED_PER_SECOND;
    INTERVAL_MIN.max(planned.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// A number from 0 to 1.
fn part(random: u64) -> f64 {
    // The upper 32 bits fit without loss.
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

fn headers(subnet: IpNet) -> usize {
    if subnet.addr().is_ipv6() { HEADERS_V6 } else { HEADERS_V4 }
}
