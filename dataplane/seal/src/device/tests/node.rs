//! A device under test, with its clock and its randomness.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::aead::Portable;
use crate::context::Context;
use crate::device::{Device, DeviceConfig, Output, PeerConfig, Received};
use crate::keys::{PrivateKey, PublicKey, Secret};
use crate::rejected::Rejected;
use crate::session::Session;
use crate::timestamp::Timestamp;

pub(super) const MTU: usize = 1420;
pub(super) const SLOT: u16 = 7;

/// A generator of numbers that look random (splitmix64).
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True so many times in a hundred.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

pub(super) struct Node {
    pub(super) device: Device<Portable>,
    pub(super) address: SocketAddr,
    pub(super) random: Random,
    /// What outputs have said.
    pub(super) published: HashMap<u16, Arc<Session<Portable>>>,
    pub(super) installed: HashMap<u32, Arc<Session<Portable>>>,
    pub(super) roamed: Vec<SocketAddr>,
    pub(super) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// The wall clock's time at the start of the test.
    pub(super) wall: Duration,
}

pub(super) fn private(byte: u8) -> PrivateKey {
    PrivateKey::take(&mut [byte; 32])
}

pub(super) fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 8285))
}

pub(super) fn peer_config(public: PublicKey, endpoint: Option<SocketAddr>) -> PeerConfig {
    PeerConfig {
        public,
        preshared: Secret::new([9; 32]),
        endpoint,
        keepalive: None,
        greatest: None,
    }
}

impl Node {
    /// The node with this key byte, at an address with this last byte.
    pub(super) fn new(byte: u8, seed: u64) -> Self {
        Self::started(byte, seed, Timestamp::default())
    }

    pub(super) fn started(byte: u8, seed: u64, greatest_sent: Timestamp) -> Self {
        let config = DeviceConfig { private: private(byte), workers: 4, mtu: MTU, greatest_sent };
        Self {
            device: Device::new(config),
            address: address(byte),
            random: Random(seed ^ u64::from(byte) << 56),
            published: HashMap::new(),
            installed: HashMap::new(),
            roamed: Vec::new(),
            sent: Vec::new(),
            wall: Duration::from_secs(1_700_000_000),
        }
    }

    /// Both know each other.
    pub(super) fn pair(seed: u64) -> [Self; 2] {
        let (mut alice, mut bob) = (Self::new(1, seed), Self::new(2, seed));
        alice.add(&bob);
        bob.add(&alice);
        [alice, bob]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let config = peer_config(other.device.public(), Some(other.address));
        self.device.add_peer(SLOT, config).unwrap();
    }

    pub(super) fn with<T>(
        &mut self,
        now: Duration,
        call: impl FnOnce(&mut Device<Portable>, &mut Context<'_>) -> T,
    ) -> T {
        let generator = &mut self.random;
        let mut random = |bytes: &mut [u8]| generator.fill(bytes);
        let since_1970 = self.wall + now;
        let mut context = Context { now, since_1970, random: &mut random };
        let result = call(&mut self.device, &mut context);
        self.take_outputs();
        result
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.device.poll_output() {
            match output {
                Output::Send { to, datagram } => self.sent.push((to, datagram)),
                Output::Install { slot, session } => {
                    assert_eq!(slot, SLOT);
                    assert_eq!(crate::index::worker(session.local()), (SLOT % 4) as u8);
                    assert!(self.installed.insert(session.local(), session).is_none());
                }
                Output::Publish { slot, session: Some(session) } => {
                    assert!(self.installed.contains_key(&session.local()));
                    assert!(session.is_confirmed());
                    self.published.insert(slot, session);
                }
                Output::Publish { slot, session: None } => {
                    self.published.remove(&slot);
                }
                Output::Retire { local } => assert!(self.installed.remove(&local).is_some()),
                Output::Roamed { slot: _, to } => self.roamed.push(to),
            }
        }
        // At most one of each kind for each peer.
        assert!(self.installed.len() <= 3);
    }

    pub(super) fn send(&mut self, now: Duration, packet: &[u8]) {
        self.with(now, |device, context| device.handle_packet(context, SLOT, packet));
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.with(now, |device, context| device.handle_tick(context));
    }

    /// Gives the node a datagram; the packet in it, if there is one.
    pub(super) fn receive(
        &mut self,
        now: Duration,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Option<Vec<u8>>, Rejected> {
        let mut datagram = datagram.to_vec();
        let received =
            self.with(now, |device, context| device.handle_datagram(context, from, &mut datagram))?;
        match received {
            Received::Packet { slot, range } => {
                assert_eq!(slot, SLOT);
                Ok(Some(datagram[range].to_vec()))
            }
            Received::Handshake | Received::Keepalive { .. } => Ok(None),
        }
    }

    /// The only datagram sent since the last look.
    pub(super) fn only_sent(&mut self) -> Vec<u8> {
        assert_eq!(self.sent.len(), 1, "{:?}", self.kinds());
        self.sent.remove(0).1
    }

    /// The types of what was sent since the last look.
    pub(super) fn kinds(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent).iter().map(|(_, datagram)| datagram[0]).collect()
    }
}

/// An IPv4 packet's first bytes, with a number in it.
pub(super) fn packet(number: u64) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[20..28].copy_from_slice(&number.to_be_bytes());
    packet
}

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Carries everything both have sent to the other, at once and unharmed. The packets that arrived at
/// each.
pub(super) fn settle(now: Duration, nodes: &mut [Node; 2]) -> [Vec<Vec<u8>>; 2] {
    let mut arrived = [Vec::new(), Vec::new()];
    for _ in 0..100 {
        let mut is_quiet = true;
        for from in 0..2 {
            let sender = nodes[from].address;
            for (to, datagram) in std::mem::take(&mut nodes[from].sent) {
                is_quiet = false;
                assert_eq!(to, nodes[1 - from].address);
                if let Some(packet) = nodes[1 - from].receive(now, sender, &datagram).unwrap() {
                    arrived[1 - from].push(packet);
                }
            }
        }
        if is_quiet {
            return arrived;
        }
    }
    panic!("the nodes do not stop talking");
}
