//! The thread itself: what comes in, what the device makes of it, and what goes out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, select};
use rand::{TryRng, rngs::SysRng};
use tracing::{debug, warn};
use weft_seal::{
    context::Context,
    device::{Device, DeviceConfig, Output, PeerConfig, TICK},
    keys::{PrivateKey, Secret},
    session::Session,
};

use super::{Desk, HandshakesOptions, Keep, Memory, Report, SealedPeer, Wishes};
use crate::sealing::{Cipher, Incoming, News, Outgoing, PeerName, Sealing};

/// News that are taken before sessions are published: under a flood the map of all sessions is made once
/// for so many.
const BATCH: usize = 64;

/// How often peers' time stamps are kept. A crash in between lets an attacker repeat those handshakes
/// once, which makes a session that nobody can use.
const KEEP_PERIOD: Duration = Duration::from_secs(5);

/// A peer, and what is published of it.
struct Entry {
    peer: SealedPeer,
    session: Option<Arc<Session<Cipher>>>,
    /// Where it was last heard.
    to: SocketAddr,
}

/// What the thread has.
pub(super) struct Life {
    device: Device<Cipher>,
    preshared: Secret,
    workers: u8,
    mtu: usize,
    socket: UdpSocket,
    sealing: Arc<Sealing<Cipher>>,
    news: Receiver<News>,
    desk: Arc<Desk>,
    wake: Receiver<()>,
    /// By slot.
    entries: BTreeMap<u16, Entry>,
    /// By the session's local index, with its peer's slot.
    receiving: HashMap<u32, (u16, Arc<Session<Cipher>>)>,
    /// What receives is not what is published.
    is_other_map: bool,
    memory: Memory,
    keep: Keep,
    /// The memory has news that are not kept.
    is_unkept: bool,
    keep_at: Duration,
    keeping_failed: bool,
    /// What peers and devices counted that are no more.
    earlier: Report,
}

impl Life {
    pub(super) fn new(options: HandshakesOptions, desk: Arc<Desk>, wake: Receiver<()>) -> Self {
        let HandshakesOptions { private, preshared, workers, inner_mtu, .. } = options;
        let mtu = usize::from(inner_mtu);
        let greatest_sent = options.memory.sent;
        Self {
            device: Device::new(DeviceConfig { private, workers, mtu, greatest_sent }),
            preshared,
            workers,
            mtu,
            socket: options.socket,
            sealing: options.sealing,
            news: options.news,
            desk,
            wake,
            entries: BTreeMap::new(),
            receiving: HashMap::new(),
            is_other_map: false,
            memory: options.memory,
            keep: options.keep,
            is_unkept: false,
            keep_at: Duration::ZERO,
            keeping_failed: false,
            earlier: Report::default(),
        }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let news = self.news.clone();
        let wake = self.wake.clone();
        let mut tick_at = Instant::now();
        loop {
            select! {
                recv(news) -> first => {
                    let rest = news.try_iter().take(BATCH);
                    first.into_iter().chain(rest).for_each(|one| self.handle_news(one));
                }
                recv(wake) -> _ => {}
                default(tick_at.saturating_duration_since(Instant::now())) => {}
            }
            if !self.take_wishes() {
                break;
            }
            if Instant::now() >= tick_at {
                self.tick();
                tick_at = Instant::now() + TICK;
            }
            self.settle();
        }
        self.is_unkept = true;
        self.keep_memory();
    }

    /// Calls the device with the time and the kernel's randomness.
    fn with_device<T>(
        &mut self,
        call: impl FnOnce(&mut Device<Cipher>, &mut Context<'_>) -> T,
    ) -> T {
        let mut random = |buffer: &mut [u8]| {
            SysRng.try_fill_bytes(buffer).expect("the kernel has randomness once it has started");
        };
        let (now, since_1970) = (self.sealing.now(), since_1970());
        call(&mut self.device, &mut Context { now, since_1970, random: &mut random })
    }

    fn handle_news(&mut self, news: News) {
        match news {
            News::Datagram { from, mut bytes } => self.with_device(|device, context| {
                if let Err(rejected) = device.handle_datagram(context, from, &mut bytes) {
                    debug!(%from, %rejected, "a handshake's message was not accepted");
                }
            }),
            News::Packet { peer, bytes } if self.knows(peer) => {
                self.with_device(|device, context| {
                    device.handle_packet(context, peer.slot, &bytes);
                });
            }
            News::Packet { .. } => self.earlier.packets_dropped += 1,
            News::Wanted { peer } if self.knows(peer) => {
                self.with_device(|device, context| device.handle_wanted(context, peer.slot));
            }
            News::Wanted { .. } => {}
            News::Roamed { local, from } => {
                let slot = self.receiving.get(&local).map(|(slot, _)| slot);
                let entry = slot.and_then(|slot| self.entries.get(slot));
                let has_several = entry.is_some_and(|entry| entry.peer.has_several_ports);
                self.device.handle_roamed(local, from, has_several);
            }
            News::Used { local } => {
                self.with_device(|device, context| device.handle_used(context, local));
            }
        }
    }

    /// The slot may be another peer's by now.
    fn knows(&self, peer: PeerName) -> bool {
        self.entries.get(&peer.slot).is_some_and(|entry| entry.peer.name == peer)
    }

    /// Does what the control side wants. False if that is to stop.
    fn take_wishes(&mut self) -> bool {
        let Wishes { peers, socket, private, stop } = std::mem::take(&mut *self.desk.wishes());
        if let Some(socket) = socket {
            self.socket = socket;
        }
        if let Some(private) = private {
            self.change_key(private);
        }
        if let Some(peers) = peers {
            self.change_peers(&peers);
        }
        !stop
    }

    /// A peer whose key is another one is another peer to the protocol.
    fn change_peers(&mut self, peers: &[SealedPeer]) {
        let keys: HashMap<u16, _> = peers.iter().map(|peer| (peer.name.slot, peer.key)).collect();
        let is_gone = |(slot, entry): &(&u16, &Entry)| keys.get(slot) != Some(&entry.peer.key);
        let gone: Vec<u16> = self.entries.iter().filter(is_gone).map(|(slot, _)| *slot).collect();
        for slot in gone {
            self.remove(slot);
        }
        for peer in peers {
            match self.entries.get_mut(&peer.name.slot) {
                None => self.add(*peer),
                Some(entry) if entry.peer == *peer => {}
                Some(entry) => {
                    if entry.peer.endpoint != peer.endpoint {
                        entry.to = peer.endpoint;
                        self.device.set_endpoint(peer.name.slot, peer.endpoint);
                    }
                    entry.peer = *peer;
                    self.show(peer.name.slot);
                }
            }
        }
        // Sessions that receive have the peers' names in them.
        self.is_other_map = true;
    }

    fn remove(&mut self, slot: u16) {
        self.entries.remove(&slot);
        if let Some(status) = self.device.remove_peer(slot) {
            self.is_unkept |= self.memory.see(status.public, status.greatest);
            self.earlier.add_peer(&status);
        }
        self.sealing.publish(slot, None);
    }

    /// A new peer gets a session at once, at the device's pace: after a start everybody waits for one.
    fn add(&mut self, peer: SealedPeer) {
        let SealedPeer { name, key, endpoint, .. } = peer;
        let config = PeerConfig {
            public: key,
            preshared: self.preshared.clone(),
            endpoint: Some(endpoint),
            keepalive: None,
            greatest: self.memory.seen.get(&key).copied(),
        };
        if let Err(refused) = self.device.add_peer(name.slot, config) {
            warn!(%endpoint, %refused, "a peer's key cannot be used; it is sent nothing");
            return;
        }
        self.entries.insert(name.slot, Entry { peer, session: None, to: endpoint });
        self.with_device(|device, context| device.handle_wanted(context, name.slot));
    }

    /// All sessions end, and new ones are wanted.
    fn change_key(&mut self, private: PrivateKey) {
        let peers: Vec<SealedPeer> = self.entries.values().map(|entry| entry.peer).collect();
        for peer in &peers {
            self.remove(peer.name.slot);
        }
        self.earlier.add_rejections(self.device.rejections());
        let greatest_sent = self.device.greatest_sent();
        let (workers, mtu) = (self.workers, self.mtu);
        self.device = Device::new(DeviceConfig { private, workers, mtu, greatest_sent });
        self.receiving.clear();
        self.is_other_map = true;
        for peer in peers {
            self.add(peer);
        }
    }

    fn tick(&mut self) {
        self.with_device(|device, context| device.handle_tick(context));
        let now = self.sealing.now();
        if now >= self.keep_at {
            self.keep_at = now + KEEP_PERIOD;
            for (_, status) in self.device.peers() {
                self.is_unkept |= self.memory.see(status.public, status.greatest);
            }
            self.keep_memory();
        }
        self.desk.report.store(Arc::new(self.report(now)));
    }

    fn report(&self, now: Duration) -> Report {
        let mut report = self.earlier.clone();
        report.add_rejections(self.device.rejections());
        report.key = Some(self.device.public());
        report.sessions = self.receiving.len();
        for (slot, status) in self.device.peers() {
            if let Some(entry) = self.entries.get(&slot) {
                report.show_peer(entry.peer.name, &status, now);
            }
        }
        report
    }

    /// Takes all outputs. A session receives before the peer can know of it, and what was promised is on
    /// disk before a message says it.
    fn settle(&mut self) {
        let mut datagrams = Vec::new();
        let mut changed = Vec::new();
        while let Some(output) = self.device.poll_output() {
            match output {
                Output::Send { to, datagram } => datagrams.push((to, datagram)),
                Output::Install { slot, session } => {
                    self.is_other_map = true;
                    self.receiving.insert(session.local(), (slot, session));
                }
                Output::Retire { local } => {
                    self.is_other_map = true;
                    self.receiving.remove(&local);
                }
                Output::Publish { slot, session } => {
                    if let Some(entry) = self.entries.get_mut(&slot) {
                        entry.session = session;
                        changed.push(slot);
                    }
                }
                Output::Roamed { slot, to } => {
                    if let Some(entry) = self.entries.get_mut(&slot) {
                        entry.to = to;
                        changed.push(slot);
                    }
                }
            }
        }
        if std::mem::take(&mut self.is_other_map) {
            self.publish_receiving();
        }
        changed.into_iter().for_each(|slot| self.show(slot));
        if self.memory.promise(self.device.greatest_sent()) {
            self.is_unkept = true;
            self.keep_memory();
        }
        self.send(datagrams);
    }

    fn publish_receiving(&self) {
        let incoming = |(local, (slot, session)): (&u32, &(u16, Arc<Session<Cipher>>))| {
            let peer = self.entries.get(slot)?.peer.name;
            Some((*local, Incoming { peer, session: Arc::clone(session) }))
        };
        self.sealing.receive_with(self.receiving.iter().filter_map(incoming).collect());
    }

    /// Publishes how a peer is sent to.
    fn show(&self, slot: u16) {
        let Some(entry) = self.entries.get(&slot) else { return };
        let outgoing = |session: &Arc<_>| Outgoing {
            peer: entry.peer.name,
            session: Arc::clone(session),
            to: entry.to,
            has_several_ports: entry.peer.has_several_ports,
        };
        self.sealing.publish(slot, entry.session.as_ref().map(outgoing));
    }

    /// What does not leave is sent again by the protocol, but for packets that waited for a session.
    fn send(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, datagram) in datagrams {
            if let Err(error) = self.socket.send_to(&datagram, to) {
                self.earlier.sends_failed += 1;
                debug!(%to, %error, "a message was not sent");
            }
        }
    }

    fn keep_memory(&mut self) {
        if !std::mem::take(&mut self.is_unkept) {
            return;
        }
        if self.memory.is_full() {
            let known: HashSet<_> = self.entries.values().map(|entry| entry.peer.key).collect();
            self.memory.seen.retain(|key, _| known.contains(key));
        }
        let kept = (self.keep)(&self.memory);
        if let Err(error) = &kept
            && !self.keeping_failed
        {
            warn!(
                %error,
                "the time stamps of handshakes cannot be kept; free the disk of --state-dir, or \
                 peers may refuse handshakes after a start with a clock that was set back"
            );
        }
        self.keeping_failed = kept.is_err();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "peers compare time stamps by what the wall clock says; the device sees that they grow"
)]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
