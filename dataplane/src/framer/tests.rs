//! Sealed traffic between two machines, with the test in the place of the handshake thread.

use std::{collections::HashMap, sync::Arc};

use crossbeam_channel::Receiver;
use weft_forward::virtio;
use weft_seal::{
    aead::Aead, handshake::Keys, keys::Secret, message::DATA_OVERHEAD, session::Session,
};
use weft_sys::ring::Errno;

use super::Sealed;
use crate::{
    sealing::{Cipher, Incoming, Mode, News, Outgoing, PeerName, Sealing},
    testing::{ALL, Inner, Rig, Sent, table_input},
};

/// One end: what it sends with, what it receives with.
struct End<A> {
    rig: Rig<Sealed<A>>,
    sealing: Arc<Sealing<A>>,
    news: Receiver<News>,
}

/// The peer of each end has slot 0.
const PEER: u16 = 0;
/// Our index of the session, and the peer's.
const INDICES: [u32; 2] = [0x0100_0001, 0x0200_0002];

impl<A: Aead> End<A> {
    fn new() -> End<A> {
        let (sealing, news) = Sealing::new(Mode::Require);
        let framer = || Sealed::new(Arc::clone(&sealing));
        End { rig: Rig::framing(framer, (128, 64), ALL), sealing, news }
    }

    fn peer(&self) -> PeerName {
        PeerName { slot: PEER, generation: table_input().peers[0].generation }
    }

    /// Gives this end its half of a session, its first or its second.
    fn install(&self, half: usize) {
        let secret = |byte| Secret::new([byte; 32]);
        let keys = Keys {
            sending: secret(1 + half as u8),
            receiving: secret(2 - half as u8),
            local: INDICES[half],
            remote: INDICES[1 - half],
            is_initiator: half == 0,
        };
        let session = Arc::new(Session::new(&keys, self.sealing.now()));
        let peer = self.peer();
        let incoming = Incoming { peer, session: Arc::clone(&session) };
        self.sealing.receive_with(HashMap::from([(INDICES[half], incoming)]));
        let to = table_input().peers[0].outer;
        self.sealing.publish(PEER, Some(Outgoing { peer, session, to, has_several_ports: false }));
    }

    fn news(&self) -> Vec<News> {
        self.news.try_iter().collect()
    }
}

fn pair<A: Aead>() -> [End<A>; 2] {
    let ends = [End::new(), End::new()];
    for (half, end) in ends.iter().enumerate() {
        end.install(half);
    }
    ends
}

/// From our pod to the peer's.
fn outward(length: usize) -> Inner {
    Inner::tcp("10.244.1.9", "10.244.2.7", length)
}

const FROM: &str = "127.0.0.2";

/// What the first end has read, sealed and sent, and what the second writes of it.
fn carry<A: Aead>(from: &mut End<A>, to: &mut End<A>) -> Vec<Vec<u8>> {
    let trains = from.rig.send();
    for train in &trains {
        assert!(to.rig.receive(FROM, &train.bytes, train.segment));
    }
    from.rig.accept(trains);
    to.rig.write(Ok(0))
}

/// A pair of which the first end is the peer that the second end's table knows.
fn mirrored<A: Aead>() -> [End<A>; 2] {
    let mut ends = pair::<A>();
    let mut input = table_input();
    input.own_v4 = Some("10.244.2.0/24".parse().unwrap());
    input.peers[0].subnet_v4 = Some("10.244.1.0/24".parse().unwrap());
    ends[0].rig.adopt(input);
    ends
}

/// From the pod of a mirrored pair's first end to that of its second.
fn inward(length: usize) -> Inner {
    Inner::tcp("10.244.2.7", "10.244.1.9", length)
}

fn super_packets_arrive_whole<A: Aead>() {
    let [mut one, mut two] = mirrored::<A>();
    let packet = inward(50_000);
    let (header, bytes) = packet.build_partial(1380);
    assert!(one.rig.read(header, &bytes));
    let written = carry(&mut one, &mut two);
    assert_eq!(written.len(), 1);
    let (header, joined) = written[0].split_at(virtio::LENGTH);
    assert_eq!(virtio::Header::parse(header).unwrap().gso, virtio::Gso::TcpV4);
    assert_eq!(joined[40..], bytes[40..]);
    one.rig.assert_accounted();
    two.rig.assert_accounted();
    assert_eq!((one.rig.held(), two.rig.held()), ((0, 0), (0, 0)));
}

#[test]
fn a_super_packet_crosses_sealed_as_one() {
    super_packets_arrive_whole::<Cipher>();
}

/// The same messages with another cipher: the engine does not know which one it is.
#[test]
fn another_cipher_needs_no_other_engine() {
    super_packets_arrive_whole::<Aes256Gcm>();
}

#[test]
fn segments_of_one_size_stay_of_one_size_and_say_nothing() {
    let [mut one, _two] = pair::<Cipher>();
    let packet = outward(50_000);
    let (header, bytes) = packet.build_partial(1380);
    assert!(one.rig.read(header, &bytes));
    let trains = one.rig.send();
    let segments = packet.cut(1380);
    let length = segments[0].build().len().next_multiple_of(16).min(1472) + DATA_OVERHEAD;
    assert_eq!(usize::from(trains[0].segment.unwrap()), length);
    let datagrams: Vec<Vec<u8>> = trains.iter().flat_map(Sent::datagrams).collect();
    assert_eq!(datagrams.len(), segments.len());
    for (number, datagram) in datagrams.iter().enumerate() {
        assert_eq!(datagram[..4], [4, 0, 0, 0]);
        assert_eq!(datagram[4..8], INDICES[1].to_le_bytes());
        assert_eq!(datagram[8..16], (number as u64).to_le_bytes());
        assert_eq!(datagram.len() % 16, 0);
        let is_in_clear = datagram.windows(8).any(|window| window == &bytes[100..108]);
        assert!(!is_in_clear);
    }
    one.rig.accept(trains);
}

#[test]
fn small_packets_of_one_size_share_a_train() {
    let [mut one, mut two] = mirrored::<Cipher>();
    let packets: Vec<Vec<u8>> = (0..40)
        .map(|id| Inner::udp("10.244.2.7", "10.244.1.9", 64).with(|packet| packet.id = id).build())
        .collect();
    for packet in &packets {
        one.rig.read_plain(packet);
    }
    let trains = one.rig.send();
    assert_eq!(trains.len(), 1);
    assert_eq!(trains[0].datagrams().len(), 40);
    assert!(two.rig.receive(FROM, &trains[0].bytes, trains[0].segment));
    one.rig.accept(trains);
    let bytes: usize = two.rig.write(Ok(0)).iter().map(|written| written.len()).sum();
    assert!(bytes > 40 * 64);
    two.rig.assert_accounted();
}

#[test]
fn whatever_is_changed_or_repeated_is_refused() {
    let [mut one, mut two] = mirrored::<Cipher>();
    one.rig.read_plain(&inward(100).build());
    let trains = one.rig.send();
    let good = trains[0].bytes.clone();
    one.rig.accept(trains);
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        assert!(two.rig.receive(FROM, &bad, None));
        assert!(two.rig.write(Ok(0)).is_empty(), "byte {byte}");
    }
    assert!(two.rig.receive(FROM, &good, None));
    assert_eq!(two.rig.write(Ok(0)).len(), 1);
    two.rig.assert_accounted();
    for _ in 0..2 {
        two.rig.assert_accounted();
        assert!(two.rig.receive(FROM, &good, None));
        assert!(two.rig.write(Ok(0)).is_empty());
    }
    let drops = two.rig.shared.counters.snapshot().inbound.drops;
    let of = |wanted: &str| drops.iter().find(|(reason, _)| reason.name() == wanted).unwrap().1;
    assert_eq!(of("replayed"), 2);
    assert_eq!(of("no_session_here"), 4);
    assert!(of("bad_seal") > 100);
}

#[test]
fn plain_datagrams_are_refused() {
    let [_one, mut two] = mirrored::<Cipher>();
    assert!(two.rig.receive(FROM, &inward(100).build(), None));
    assert!(two.rig.write(Ok(0)).is_empty());
    two.rig.assert_accounted();
    let drops = two.rig.shared.counters.snapshot().inbound.drops;
    assert!(drops.iter().any(|(reason, count)| reason.name() == "not_sealed" && count == 1));
}

#[test]
fn the_sender_is_who_has_the_keys_wherever_it_is() {
    let [mut one, mut two] = mirrored::<Cipher>();
    // From an address that nobody has announced.
    one.rig.read_plain(&inward(100).build());
    let trains = one.rig.send();
    assert!(two.rig.receive("192.0.2.77", &trains[0].bytes, None));
    one.rig.accept(trains);
    assert_eq!(two.rig.write(Ok(0)).len(), 1);
    let roamed = two.news().into_iter().any(|news| match news {
        News::Roamed { local, from } => {
            (local, from) == (INDICES[1], "192.0.2.77:8285".parse().unwrap())
        }
        _ => false,
    });
    assert!(roamed);
    // A source of somebody else's subnet is not the sender's.
    one.rig.read_plain(&Inner::tcp("10.244.3.7", "10.244.1.9", 9).build());
    let trains = one.rig.send();
    assert!(two.rig.receive(FROM, &trains[0].bytes, None));
    one.rig.accept(trains);
    assert!(two.rig.write(Ok(0)).is_empty());
    let drops = two.rig.shared.counters.snapshot().inbound.drops;
    assert!(drops.iter().any(|(reason, count)| reason.name() == "source_spoofed" && count == 1));
}

#[test]
fn without_a_session_whole_packets_wait_elsewhere_and_the_rest_is_counted() {
    let mut end = End::<Cipher>::new();
    let packet = outward(0).build();
    end.rig.read_plain(&packet);
    let (header, large) = outward(5000).build_partial(1000);
    assert!(end.rig.read(header, &large));
    assert!(end.rig.send().is_empty());
    end.rig.assert_accounted();
    let drops = end.rig.shared.counters.snapshot().outbound.drops;
    assert!(drops.iter().any(|(reason, count)| reason.name() == "no_session" && count == 5));
    let peer = end.peer();
    let news = end.news();
    assert!(
        matches!(&news[0], News::Packet { peer: who, bytes } if *who == peer && **bytes == *packet)
    );
    assert!(matches!(&news[1], News::Wanted { peer: who } if *who == peer));
}

#[test]
fn handshakes_go_to_their_thread_and_count_as_no_packet() {
    let mut end = End::<Cipher>::new();
    let mut initiation = vec![0; 148];
    initiation[0] = 1;
    assert!(end.rig.receive("192.0.2.1", &initiation, None));
    assert!(end.rig.write(Ok(0)).is_empty());
    end.rig.assert_accounted();
    assert_eq!(end.rig.shared.counters.snapshot().inbound.segments_in, 0);
    let news = end.news();
    assert!(matches!(&news[..], [News::Datagram { bytes, .. }] if **bytes == *initiation));
    // Nobody takes them: the queue is bounded and what is too much is counted.
    for _ in 0..3000 {
        assert!(end.rig.receive("192.0.2.1", &initiation, None));
        end.rig.write(Ok(0));
    }
    end.rig.assert_accounted();
    assert_eq!(end.news().len(), 1024);
}

#[test]
fn a_path_that_shrank_gets_its_packets_sealed_anew() {
    let [mut one, mut two] = mirrored::<Cipher>();
    // It may be fragmented.
    let packet = inward(1300).with(|packet| packet.dont_fragment = false);
    one.rig.read_plain(&packet.build());
    let trains = one.rig.send();
    let first = trains[0].bytes.clone();
    for train in trains {
        assert_eq!(one.rig.sent(train, Err(Errno::MSGSIZE)), None);
    }
    let trains = one.rig.send();
    let datagrams: Vec<Vec<u8>> = trains.iter().flat_map(Sent::datagrams).collect();
    assert!(datagrams.len() > 1, "{}", datagrams.len());
    assert!(datagrams.iter().all(|datagram| datagram.len() < first.len()));
    let counters: Vec<&[u8]> = datagrams.iter().map(|datagram| &datagram[8..16]).collect();
    assert!(!counters.contains(&&first[8..16]), "a counter is never used twice");
    for datagram in &datagrams {
        assert!(two.rig.receive(FROM, datagram, None));
    }
    one.rig.accept(trains);
    let written = two.rig.write(Ok(0));
    assert_eq!(written.len(), datagrams.len());
    one.rig.assert_accounted();
}

/// AES-256-GCM in the place of ChaCha20-Poly1305.
struct Aes256Gcm(ring::aead::LessSafeKey);

impl Aead for Aes256Gcm {
    const NAME: &'static str = "aes-256-gcm";

    fn new(key: &[u8; 32]) -> Self {
        let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key).unwrap();
        Aes256Gcm(ring::aead::LessSafeKey::new(key))
    }

    fn seal(&self, counter: u64, associated: &[u8], text: &mut [u8]) -> [u8; 16] {
        let associated = ring::aead::Aad::from(associated);
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), associated, text).unwrap();
        tag.as_ref().try_into().unwrap()
    }

    fn open(
        &self,
        counter: u64,
        associated: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, weft_seal::aead::Forged> {
        let associated = ring::aead::Aad::from(associated);
        let opened = self.0.open_in_place(nonce(counter), associated, sealed);
        opened.map(|text| text.len()).map_err(|_| weft_seal::aead::Forged)
    }
}

fn nonce(counter: u64) -> ring::aead::Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    ring::aead::Nonce::assume_unique_for_key(bytes)
}
