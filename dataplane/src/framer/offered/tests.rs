//! A host that offers sealing, between a peer without a key (slot 0) and one that has one (slot 1).

use std::collections::HashMap;

use weft_forward::table::TableInput;
use weft_seal::{handshake::Keys, keys::Secret, session::Load, session::Session};
use weft_sys::ring::Errno;

use super::*;
use crate::{
    sealing::{Cipher, Incoming, Mode, Outgoing},
    testing::{ALL, Inner, Rig, Sent, table_input},
};

const PLAIN: PeerName = PeerName { slot: 0, generation: 1 };
const SEALED: PeerName = PeerName { slot: 1, generation: 1 };

/// Where their datagrams come from.
const PLAIN_FROM: &str = "127.0.0.2";
const SEALED_FROM: &str = "127.0.0.3";

const LOCAL: u32 = 0x0100_0001;

struct Host {
    rig: Rig<Offered<Cipher>>,
    sealing: Arc<Sealing<Cipher>>,
    /// The other end of the session.
    far: Session<Cipher>,
}

fn host() -> Host {
    let (sealing, _) = Sealing::new(Mode::Offer);
    let keys = |local, remote, half: u8| Keys {
        sending: Secret::new([1 + half; 32]),
        receiving: Secret::new([2 - half; 32]),
        local,
        remote,
        is_initiator: half == 0,
    };
    let session = Arc::new(Session::new(&keys(LOCAL, 7, 0), sealing.now()));
    let incoming = Incoming { peer: SEALED, session: Arc::clone(&session) };
    sealing.receive_with(HashMap::from([(LOCAL, incoming)]));
    let to = table_input().peers[1].outer;
    sealing.publish(
        SEALED.slot,
        Some(Outgoing { peer: SEALED, session, to, has_several_ports: false }),
    );
    sealing.set_plain(&[PLAIN]);
    let rig = Rig::framing(|| Offered::new(Arc::clone(&sealing)), (128, 64), ALL);
    let far = Session::new(&keys(7, LOCAL, 1), sealing.now());
    Host { rig, sealing, far }
}

impl Host {
    /// A packet as the peer with the key seals it.
    fn seal(&self, packet: &[u8]) -> Vec<u8> {
        let mut counters = self.far.reserve(1, Load::Packet, self.sealing.now()).unwrap();
        let mut datagram = vec![0; packet.len() + 100];
        let length =
            self.far.seal(counters.next().unwrap(), &[packet], &mut datagram, packet.len());
        datagram.truncate(length);
        datagram
    }

    /// What is written of a datagram, and for what reason it was dropped.
    fn receive(&mut self, from: &str, datagram: &[u8]) -> (usize, Option<&'static str>) {
        let before = self.rig.shared.counters.snapshot().inbound.drops;
        assert!(self.rig.receive(from, datagram, None));
        let written = self.rig.write(Ok(0)).len();
        self.rig.assert_accounted();
        let now = self.rig.shared.counters.snapshot().inbound.drops;
        let moved = now.iter().zip(before.iter()).find(|(now, before)| now != before);
        (written, moved.map(|((reason, _), _)| reason.name()))
    }
}

fn datagrams(trains: &[Sent]) -> Vec<Vec<u8>> {
    trains.iter().flat_map(Sent::datagrams).collect()
}

fn to_peer(number: u8, length: usize) -> Vec<u8> {
    Inner::udp("10.244.1.9", &format!("10.244.{number}.7"), length).build()
}

fn from_source(source: &str) -> Vec<u8> {
    Inner::udp(source, "10.244.1.9", 64).build()
}

#[test]
fn who_has_a_key_is_sealed_to_and_who_has_none_is_not() {
    let Host { mut rig, far, sealing } = host();
    let packets = [to_peer(2, 64), to_peer(3, 64), to_peer(2, 1400), to_peer(3, 1300)];
    packets.iter().for_each(|packet| rig.read_plain(packet));
    let trains = rig.send();
    let [mut plain, mut sealed] = [Vec::new(), Vec::new()];
    for datagram in datagrams(&trains) {
        match datagram[0] {
            0x45 => plain.push(datagram),
            4 => sealed.push(datagram),
            other => panic!("{other}"),
        }
    }
    assert_eq!(plain, [packets[0].clone(), packets[2].clone()]);
    for (datagram, packet) in sealed.iter_mut().zip([&packets[1], &packets[3]]) {
        let range = far.open(datagram, sealing.now()).unwrap();
        assert_eq!(datagram[range][..packet.len()], **packet);
    }
    rig.accept(trains);
    rig.assert_accounted();
    let out = rig.shared.counters.snapshot().outbound;
    assert_eq!((out.segments_out, out.plain_segments), (4, 2));
    let inner: usize = packets.iter().map(Vec::len).sum();
    let padding: usize = sealed.iter().map(Vec::len).sum::<usize>() - 2 * 32;
    let padding = padding - packets[1].len() - packets[3].len();
    assert_eq!(out.bytes_out, (inner + padding) as u64);
}

#[test]
fn nothing_in_clear_is_taken_from_who_has_a_key() {
    let mut host = host();
    assert_eq!(host.receive(PLAIN_FROM, &from_source("10.244.2.7")), (1, None));
    assert_eq!(host.receive(PLAIN_FROM, &from_source("192.0.2.1")), (1, None));
    let sealed = host.seal(&from_source("10.244.3.7"));
    assert_eq!(host.receive(SEALED_FROM, &sealed), (1, None));
    // Wherever it comes from, as before.
    let sealed = host.seal(&from_source("10.244.3.7"));
    assert_eq!(host.receive("192.0.2.77", &sealed), (1, None));
    for source in ["10.244.3.7", "192.0.2.1"] {
        assert_eq!(host.receive(SEALED_FROM, &from_source(source)), (0, Some("not_sealed")));
    }
    let spoofed = from_source("10.244.3.7");
    assert_eq!(host.receive(PLAIN_FROM, &spoofed), (0, Some("source_spoofed")));
    assert_eq!(host.receive("192.0.2.9", &spoofed), (0, Some("unknown_sender")));
    let inbound = host.rig.shared.counters.snapshot().inbound;
    assert_eq!((inbound.segments_out, inbound.plain_segments), (4, 2));
}

/// A lease without a key that names the address of a host with one gives nobody its voice.
#[test]
fn neither_a_shared_address_nor_an_allowed_one_lets_clear_packets_in() {
    let mut host = host();
    let mut input = table_input();
    input.peers[0].outer = input.peers[1].outer;
    input.peers[0].addresses = input.peers[1].addresses.clone();
    host.rig.adopt(TableInput { epoch: 2, ..input });
    let spoofed = from_source("10.244.3.7");
    assert_eq!(host.receive(SEALED_FROM, &spoofed), (0, Some("not_sealed")));
    let allowed_sources = vec!["192.0.2.0/24".parse().unwrap()];
    host.rig.adopt(TableInput { epoch: 3, allowed_sources, ..table_input() });
    assert_eq!(host.receive("192.0.2.9", &from_source("10.244.2.7")), (1, None));
    assert_eq!(host.receive("192.0.2.9", &spoofed), (0, Some("not_sealed")));
    let nobodys = from_source("198.51.100.1");
    assert_eq!(host.receive("192.0.2.9", &nobodys), (0, Some("not_sealed")));
}

#[test]
fn one_train_may_hold_both_formats() {
    let mut host = host();
    host.sealing.set_plain(&[PLAIN, SEALED]);
    let clear = Inner::udp("10.244.3.7", "10.244.1.9", 68).build();
    let other = Inner::udp("10.244.3.7", "10.244.1.9", 36);
    let mut sealed = host.seal(&other.with(|packet| packet.source_port = 1).build());
    assert_eq!(clear.len(), sealed.len(), "as the kernel joins them");
    let size = clear.len() as u16;
    let mut train = clear;
    train.append(&mut sealed);
    assert!(host.rig.receive(SEALED_FROM, &train, Some(size)));
    assert_eq!(host.rig.write(Ok(0)).len(), 2);
    host.rig.assert_accounted();
    assert_eq!(host.rig.shared.counters.snapshot().inbound.plain_segments, 1);
}

/// From the moment that the control side knows of the key, and before the worker has the new table.
#[test]
fn who_gets_a_key_is_sent_nothing_in_clear_any_more() {
    let Host { mut rig, sealing, .. } = host();
    rig.read_plain(&to_peer(2, 64));
    let waiting = rig.send();
    assert_eq!(waiting.len(), 1);
    for train in waiting {
        assert_eq!(rig.sent(train, Err(Errno::AGAIN)), Some(0));
    }
    sealing.set_plain(&[]);
    let mut input = table_input();
    input.peers[0].generation = 2;
    rig.adopt(TableInput { epoch: 2, ..input });
    rig.outbound.handle_writable(0);
    rig.read_plain(&to_peer(2, 64));
    assert!(rig.send().is_empty(), "neither what waited nor what came later leaves");
    rig.assert_accounted();
    let drops = rig.shared.counters.snapshot().outbound.drops;
    assert!(drops.iter().any(|(reason, count)| reason.name() == "peer_gone" && count == 1));
}

#[test]
fn without_the_new_table_nothing_is_sent_in_clear_either() {
    let Host { mut rig, sealing, .. } = host();
    sealing.set_plain(&[]);
    rig.read_plain(&to_peer(2, 64));
    assert!(rig.send().is_empty());
    rig.assert_accounted();
}

#[test]
fn clear_packets_that_do_not_fit_the_path_are_fragmented() {
    let Host { mut rig, .. } = host();
    let packet = Inner::udp("10.244.1.9", "10.244.2.7", 1300);
    rig.read_plain(&packet.with(|packet| packet.dont_fragment = false).build());
    for train in rig.send() {
        assert_eq!(rig.sent(train, Err(Errno::MSGSIZE)), None);
    }
    let trains = rig.send();
    let fragments = datagrams(&trains);
    assert!(fragments.len() > 1);
    assert!(fragments.iter().all(|fragment| fragment[0] == 0x45 && fragment.len() < 1300));
    rig.accept(trains);
    rig.assert_accounted();
}

#[test]
fn where_a_key_is_required_nobody_is_without() {
    let (sealing, _) = Sealing::<Cipher>::new(Mode::Require);
    sealing.set_plain(&[PLAIN]);
    assert!(!sealing.is_plain(PLAIN));
}
