//! The thread with sockets on loopback: two of them make sessions, lose them and get them back.

use std::time::Instant;

use weft_seal::{message::Message, session::Load};

use super::*;
use crate::sealing::Mode;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const INNER_MTU: u16 = 1420;

/// A thread, what it publishes, and a worker's place.
struct Side {
    handshakes: Handshakes,
    sealing: Arc<Sealing<Cipher>>,
    socket: UdpSocket,
    key: PublicKey,
    kept: Arc<Mutex<Memory>>,
}

fn side(private: u8, memory: Memory) -> Side {
    let (sealing, news) = Sealing::new(Mode::Require);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let private = PrivateKey::take(&mut [private; 32]);
    let key = private.public();
    let kept = Arc::new(Mutex::new(memory.clone()));
    let keeper = Arc::clone(&kept);
    let options = HandshakesOptions {
        private,
        preshared: Secret::new([9; 32]),
        workers: 1,
        inner_mtu: INNER_MTU,
        socket: socket.try_clone().unwrap(),
        sealing: Arc::clone(&sealing),
        news,
        memory,
        keep: Box::new(move |memory| {
            keeper.lock().unwrap().clone_from(memory);
            Ok(())
        }),
    };
    let handshakes = spawn(options, |reason| panic!("{reason}")).unwrap();
    Side { handshakes, sealing, socket, key, kept }
}

impl Side {
    fn peer(&self, slot: u16, generation: u32) -> SealedPeer {
        let name = PeerName { slot, generation };
        let endpoint = self.socket.local_addr().unwrap();
        SealedPeer { name, key: self.key, endpoint, has_several_ports: false }
    }

    /// What a worker does with what arrives: handshakes go to the thread, packets are opened.
    fn receive(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let datagram = &mut buffer[..length];
            let Ok(Message::Data { receiver, .. }) = Message::parse(datagram) else {
                let bytes = (&*datagram).into();
                assert!(self.sealing.tell(News::Datagram { from, bytes }));
                continue;
            };
            let receiving = self.sealing.receiving();
            let Some(incoming) = receiving.get(&receiver) else { continue };
            let range = incoming.session.open(datagram, self.sealing.now()).unwrap();
            self.sealing.tell(News::Used { local: receiver });
            if !range.is_empty() {
                packets.push(datagram[range].to_vec());
            }
        }
        packets
    }

    /// Seals a packet as a worker does. False if there is no session.
    fn send(&self, peer: PeerName, packet: &[u8]) -> bool {
        let Some(outgoing) = self.sealing.outgoing(peer) else { return false };
        let session = &outgoing.session;
        let counter = session.reserve(1, Load::Packet, self.sealing.now()).unwrap().next().unwrap();
        let mut datagram = [0; 2048];
        let length = session.seal(counter, &[packet], &mut datagram, INNER_MTU.into());
        self.socket.send_to(&datagram[..length], outgoing.to).unwrap();
        true
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until both can send to each other, as `names` of each other.
fn wait_for_sessions(sides: [&Side; 2], names: [PeerName; 2]) {
    wait("no sessions", || {
        let packets: Vec<_> = sides.iter().map(|side| side.receive()).collect();
        assert!(packets.iter().all(Vec::is_empty), "nobody sent any");
        sides.iter().zip(names).all(|(side, name)| side.sealing.outgoing(name).is_some())
    });
}

const PACKET: &[u8] = &[
    0x45, 0, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7,
    8, 9,
];

fn exchange(sides: [&Side; 2], names: [PeerName; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(sides[from].send(names[from], PACKET));
        let mut got = Vec::new();
        wait("no packet", || {
            sides[from].receive();
            got.extend(sides[to].receive());
            !got.is_empty()
        });
        assert_eq!(got, [PACKET]);
    }
}

#[test]
fn peers_get_sessions_at_once_and_lose_them_with_their_place() {
    let [one, two] = [1, 2].map(|private| side(private, Memory::default()));
    let names = [PeerName { slot: 3, generation: 1 }, PeerName { slot: 0, generation: 7 }];
    one.handshakes.set_peers(vec![two.peer(3, 1)]);
    two.handshakes.set_peers(vec![one.peer(0, 7)]);
    wait_for_sessions([&one, &two], names);
    exchange([&one, &two], names);
    wait("no report", || {
        let report = one.handshakes.report();
        report.peers.len() == 1 && report.handshakes > 0 && report.sessions > 0
    });
    let report = one.handshakes.report();
    assert_eq!((report.peers[0].name, report.peers[0].key), (names[0], two.key));
    assert!(report.peers[0].session_age.is_some());
    // Another generation is the same peer somewhere else in the table.
    one.handshakes.set_peers(vec![two.peer(3, 2)]);
    let renamed = PeerName { generation: 2, ..names[0] };
    wait("not renamed", || one.sealing.outgoing(renamed).is_some());
    assert!(one.sealing.outgoing(names[0]).is_none());
    exchange([&one, &two], [renamed, names[1]]);
    one.handshakes.set_peers(Vec::new());
    wait("a session stays", || {
        one.sealing.outgoing(renamed).is_none() && one.sealing.receiving().is_empty()
    });
    assert!(one.handshakes.stop(PATIENCE) && two.handshakes.stop(PATIENCE));
}

#[test]
fn a_packet_that_waits_is_sent_when_there_is_a_session() {
    let [one, two] = [1, 2].map(|private| side(private, Memory::default()));
    let name = PeerName { slot: 0, generation: 1 };
    one.handshakes.set_peers(vec![two.peer(0, 1)]);
    assert!(one.sealing.tell(News::Packet { peer: name, bytes: PACKET.into() }));
    two.handshakes.set_peers(vec![one.peer(0, 1)]);
    let mut got = Vec::new();
    wait("the packet is lost", || {
        one.receive();
        got.extend(two.receive());
        !got.is_empty()
    });
    assert_eq!(got, [PACKET]);
}

#[test]
fn another_key_ends_all_sessions_and_begins_new_ones() {
    let [one, two] = [1, 2].map(|private| side(private, Memory::default()));
    let name = PeerName { slot: 0, generation: 1 };
    one.handshakes.set_peers(vec![two.peer(0, 1)]);
    two.handshakes.set_peers(vec![one.peer(0, 1)]);
    wait_for_sessions([&one, &two], [name; 2]);
    let before = one.sealing.outgoing(name).unwrap().session.local();
    let private = PrivateKey::take(&mut [5; 32]);
    let one_now = SealedPeer { key: private.public(), ..one.peer(0, 1) };
    one.handshakes.set_key(private);
    wait("the old session stays", || !one.sealing.receiving().contains_key(&before));
    two.handshakes.set_peers(vec![one_now]);
    wait_for_sessions([&one, &two], [name; 2]);
    exchange([&one, &two], [name; 2]);
}

#[test]
fn what_was_promised_is_kept_before_it_is_said_and_after_a_stop() {
    let [one, two] = [1, 2].map(|private| side(private, Memory::default()));
    let name = PeerName { slot: 0, generation: 1 };
    one.handshakes.set_peers(vec![two.peer(0, 1)]);
    let mut buffer = [0; 2048];
    wait("no initiation", || two.socket.recv_from(&mut buffer).is_ok());
    let promised = one.kept.lock().unwrap().sent;
    assert!(promised > Memory::default().sent);
    two.handshakes.set_peers(vec![one.peer(0, 1)]);
    wait_for_sessions([&one, &two], [name; 2]);
    let (key, kept) = (two.key, Arc::clone(&one.kept));
    assert!(one.handshakes.stop(PATIENCE));
    let kept = kept.lock().unwrap().clone();
    assert!(kept.sent >= promised);
    // Whoever of the two began, the other may have seen no stamp of it.
    assert!(kept.seen.keys().all(|known| *known == key));
    // The next life begins above what was promised.
    let again = side(1, kept.clone());
    again.handshakes.set_peers(vec![two.peer(0, 1)]);
    wait("nothing more is promised", || again.kept.lock().unwrap().sent > kept.sent);
}

/// The file system is gone, or whatever else cannot happen: somebody has to know.
#[test]
fn a_thread_that_dies_says_so() {
    let (sealing, news) = Sealing::new(Mode::Require);
    let options = HandshakesOptions {
        private: PrivateKey::take(&mut [1; 32]),
        preshared: Secret::default(),
        workers: 1,
        inner_mtu: INNER_MTU,
        socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
        sealing,
        news,
        memory: Memory::default(),
        keep: Box::new(|_| panic!("no disk")),
    };
    let (died, death) = bounded(1);
    let handshakes = spawn(options, move |reason| died.send(reason).unwrap()).unwrap();
    let peer = side(2, Memory::default());
    handshakes.set_peers(vec![peer.peer(0, 1)]);
    assert_eq!(death.recv_timeout(PATIENCE).unwrap(), "panic: no disk");
    assert!(handshakes.stop(PATIENCE), "it has ended");
}

#[test]
fn all_ports_of_a_peer_with_several_workers_are_one_place() {
    let [one, two] = [1, 2].map(|private| side(private, Memory::default()));
    let name = PeerName { slot: 0, generation: 1 };
    one.handshakes.set_peers(vec![SealedPeer { has_several_ports: true, ..two.peer(0, 1) }]);
    two.handshakes.set_peers(vec![one.peer(0, 1)]);
    wait_for_sessions([&one, &two], [name; 2]);
    for (side, other, has_several) in [(&one, &two, true), (&two, &one, false)] {
        let to = other.socket.local_addr().unwrap();
        for port in [0, 1, 500] {
            let from = SocketAddr::new(to.ip(), to.port().wrapping_add(port));
            assert_eq!(side.sealing.is_place_of(0, from), has_several || port == 0, "{port}");
        }
        assert!(!side.sealing.is_place_of(0, ([127, 0, 0, 9], to.port()).into()));
    }
}
