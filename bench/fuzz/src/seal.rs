//! What strangers send to a node that seals: messages, data messages of a session, and whole
//! conversations of two nodes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use weft_seal::aead::{Portable, Ring};
use weft_seal::context::Context;
use weft_seal::device::{Device, DeviceConfig, Output, PeerConfig, Received};
use weft_seal::handshake::Keys;
use weft_seal::keys::{PrivateKey, PublicKey, Secret};
use weft_seal::message::{DATA_OVERHEAD, Message};
use weft_seal::session::{Load, Session, inner_packet, sealed_length};
use weft_seal::timestamp::Timestamp;

use crate::input::Input;

const MTU: usize = 1420;
const SLOT: u16 = 3;

/// Steps of one input at most; handshakes are slow.
const STEPS_MAX: usize = 60;

/// Reading any datagram as a message.
pub fn seal_message(data: &[u8]) {
    let kind = data.first_chunk().map(|kind| u32::from_le_bytes(*kind));
    let expected = match (kind, data.len()) {
        (Some(1), 148) | (Some(2), 92) | (Some(3), 64) => kind,
        (Some(4), length) if length >= DATA_OVERHEAD => kind,
        _ => None,
    };
    let found = match Message::parse(data) {
        Ok(Message::Initiation(_)) => Some(1),
        Ok(Message::Response(_)) => Some(2),
        Ok(Message::CookieReply(_)) => Some(3),
        Ok(Message::Data { receiver, counter }) => {
            assert_eq!(data[4..8], receiver.to_le_bytes());
            assert_eq!(data[8..16], counter.to_le_bytes());
            Some(4)
        }
        Err(_) => None,
    };
    assert_eq!(found, expected);
    if let Ok(Some(range)) = inner_packet(data, 0..data.len()) {
        assert!(range.start == 0 && range.end <= data.len() && !range.is_empty());
    }
}

/// Data messages of one session: sealed ones, changed ones, old ones, made-up ones.
pub fn seal_open(data: &[u8]) {
    let mut input = Input::new(data);
    let now = Duration::ZERO;
    let keys = |local, is_initiator: bool| {
        let (ours, theirs) = if is_initiator { (1, 2) } else { (2, 1) };
        let (sending, receiving) = (Secret::new([ours; 32]), Secret::new([theirs; 32]));
        Keys { sending, receiving, local, remote: 99 - local, is_initiator }
    };
    let sender = Session::<Ring>::new(&keys(9, true), now);
    let receiver = Session::<Portable>::new(&keys(90, false), now);
    let mut sealed: Vec<(Vec<u8>, bool)> = Vec::new();
    while !input.is_empty() && sealed.len() < STEPS_MAX {
        let what = input.u8();
        if what.is_multiple_of(4) || sealed.is_empty() {
            let packet = input.take(usize::from(what)).to_vec();
            let counters = sender.reserve(1 + usize::from(what) / 2, Load::Packet, now);
            let counter = counters.ok().and_then(Iterator::last).expect("the session is young");
            let mut datagram = vec![what; sealed_length(packet.len(), MTU)];
            let length = sender.seal(counter, &[&packet], &mut datagram, MTU);
            assert_eq!(length, datagram.len());
            sealed.push((datagram, false));
            continue;
        }
        let index = usize::from(input.u8()) % sealed.len();
        let (datagram, was_admitted) = &mut sealed[index];
        let mut copy = datagram.clone();
        if what % 4 == 1 {
            assert_eq!(receiver.open(&mut copy, now).is_ok(), !*was_admitted);
            *was_admitted = true;
            continue;
        }
        let position = usize::from(input.u16()) % copy.len();
        copy[position] ^= input.u8().max(1);
        assert!(receiver.open(&mut copy, now).is_err(), "a changed message was admitted");
        let mut made_up = input.take(200).to_vec();
        assert!(receiver.open(&mut made_up, now).is_err(), "a made-up message was admitted");
    }
}

/// One of two nodes.
struct Node {
    device: Device<Ring>,
    address: SocketAddr,
    accepted: HashSet<u8>,
}

struct World {
    nodes: [Node; 2],
    /// Everything that was ever sent, and to whom.
    datagrams: Vec<(usize, Vec<u8>)>,
    nonces: HashSet<(usize, Vec<u8>)>,
    random: u64,
    now: Duration,
}

fn private(byte: u8) -> PrivateKey {
    PrivateKey::take(&mut [byte; 32])
}

impl Node {
    fn new(own: u8, other: u8) -> Self {
        let address = |host| SocketAddr::from(([192, 0, 2, host], 8285));
        let greatest_sent = Timestamp::default();
        let config = DeviceConfig { private: private(own), workers: 1, mtu: MTU, greatest_sent };
        let mut device = Device::new(config);
        let peer = PeerConfig {
            public: private(other).public(),
            preshared: Secret::default(),
            endpoint: Some(address(other)),
            keepalive: None,
            greatest: None,
        };
        device.add_peer(SLOT, peer).expect("the keys are different and good");
        Self { device, address: address(own), accepted: HashSet::new() }
    }
}

impl World {
    fn with<T>(
        &mut self,
        which: usize,
        call: impl FnOnce(&mut Device<Ring>, &mut Context<'_>) -> T,
    ) -> T {
        let state = &mut self.random;
        // Not random at all, but never the same.
        let mut random = |bytes: &mut [u8]| {
            *state += 1;
            bytes.fill(state.to_le_bytes()[0]);
            let length = bytes.len().min(8);
            bytes[..length].copy_from_slice(&state.to_le_bytes()[..length]);
        };
        let mut context = Context { now: self.now, since_1970: self.now, random: &mut random };
        let result = call(&mut self.nodes[which].device, &mut context);
        while let Some(output) = self.nodes[which].device.poll_output() {
            if let Output::Send { datagram, .. } = output {
                if datagram[0] == 4 {
                    assert!(self.nonces.insert((which, datagram[4..16].to_vec())), "same nonce");
                }
                self.datagrams.push((1 - which, datagram));
            }
        }
        result
    }

    /// Gives a datagram to its receiver. `is_own`: nobody has changed it.
    fn deliver(&mut self, to: usize, mut datagram: Vec<u8>, is_own: bool) {
        let from = self.nodes[1 - to].address;
        let received =
            self.with(to, |device, context| device.handle_datagram(context, from, &mut datagram));
        if let Ok(Received::Packet { slot, range }) = received {
            assert!(is_own, "a changed message was accepted");
            assert_eq!(slot, SLOT);
            let packet = &datagram[range];
            assert_eq!(packet.len(), 21);
            assert!(self.nodes[to].accepted.insert(packet[20]), "accepted twice");
        }
    }
}

/// Two nodes: packets, ticks, datagrams that are late, lost, doubled, changed or made up.
pub fn seal_device(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World {
        nodes: [Node::new(1, 2), Node::new(2, 1)],
        datagrams: Vec::new(),
        nonces: HashSet::new(),
        random: 0,
        now: Duration::from_secs(1),
    };
    let mut numbers = 0;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let which = usize::from(what >> 7);
        let argument = input.u8();
        let picked = world.datagrams.len().saturating_sub(1 + usize::from(argument));
        match (what % 6, world.datagrams.get(picked).cloned()) {
            (0, _) => {
                numbers += 1;
                let mut packet = [0; 21];
                (packet[0], packet[3], packet[20]) = (0x45, 21, numbers);
                world.with(which, |device, context| device.handle_packet(context, SLOT, &packet));
            }
            (1, _) => {
                world.now += Duration::from_millis(u64::from(argument) * 250);
                world.with(which, |device, context| device.handle_tick(context));
            }
            (2 | 3, Some((to, datagram))) => world.deliver(to, datagram, true),
            (4, Some((to, mut datagram))) => {
                let position = usize::from(input.u16()) % datagram.len();
                datagram[position] ^= input.u8().max(1);
                world.deliver(to, datagram, false);
            }
            _ => world.deliver(which, input.take(usize::from(argument)).to_vec(), false),
        }
    }
    for node in &world.nodes {
        let own = PublicKey::new(*node.device.public().bytes());
        assert_eq!(node.device.slot_of(&own), None);
        assert_eq!(node.device.peers().count(), 1);
    }
}
