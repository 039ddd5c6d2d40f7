use super::*;
use crate::aead::{Portable, Ring};
use crate::keys::Secret;
use crate::message::DATA_OVERHEAD;

const NOW: Duration = Duration::from_secs(1000);
const MTU: usize = 1420;

fn keys(local: u32, is_initiator: bool) -> Keys {
    let (ours, theirs) = if is_initiator { (1, 2) } else { (2, 1) };
    Keys {
        sending: Secret::new([ours; 32]),
        receiving: Secret::new([theirs; 32]),
        local,
        remote: 100 - local,
        is_initiator,
    }
}

fn pair() -> (Session<Ring>, Session<Portable>) {
    (Session::new(&keys(30, true), NOW), Session::new(&keys(70, false), NOW))
}

/// An IPv4 header's first bytes, and numbers.
fn packet(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|index| index as u8).collect();
    if length >= 4 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    }
    packet
}

fn seal<A: Aead>(session: &Session<A>, packet: &[u8]) -> Vec<u8> {
    let load = if packet.is_empty() { Load::Nothing } else { Load::Packet };
    let counter = session.reserve(1, load, NOW).unwrap().next().unwrap();
    let mut datagram = vec![0xdd; sealed_length(packet.len(), MTU)];
    let (first, second) = packet.split_at(packet.len() / 3);
    let length = session.seal(counter, &[first, second], &mut datagram, MTU);
    assert_eq!(length, datagram.len());
    datagram
}

#[test]
fn what_one_seals_the_other_opens() {
    let (alice, bob) = pair();
    for length in (4..200).chain([576, 1279, 1280, 1404, 1405, 1419, 1420, 1421, 9000]) {
        let packet = packet(length);
        let mut datagram = seal(&alice, &packet);
        assert_eq!(datagram.len() - DATA_OVERHEAD, padded_length(length, MTU));
        let padded = bob.open(&mut datagram, NOW).unwrap();
        assert!(datagram[padded.start + length..padded.end].iter().all(|byte| *byte == 0));
        let range = inner_packet(&datagram, padded).unwrap().unwrap();
        assert_eq!(datagram[range], packet);
    }
    let mut datagram = seal(&bob, &[]);
    assert_eq!(datagram.len(), 32);
    let padded = alice.open(&mut datagram, NOW).unwrap();
    assert_eq!(inner_packet(&datagram, padded), Ok(None));
}

/// The message of the paper's section 5.4.6, byte by byte.
#[test]
fn the_message_has_the_form_of_the_paper() {
    let (alice, _) = pair();
    alice.wear(0x0807_0605_0403_0201);
    let datagram = seal(&alice, &packet(20));
    assert_eq!(datagram[..16], [4, 0, 0, 0, 70, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let mut text = packet(20);
    text.resize(32, 0);
    let tag = Portable::new(&[1; 32]).seal(0x0807_0605_0403_0201, &[], &mut text);
    assert_eq!(datagram[16..48], text);
    assert_eq!(datagram[48..], tag);
}

#[test]
fn padding_ends_at_the_mtu() {
    assert_eq!(padded_length(0, MTU), 0);
    assert_eq!(padded_length(1, MTU), 16);
    assert_eq!(padded_length(16, MTU), 16);
    assert_eq!(padded_length(1409, MTU), 1420);
    assert_eq!(padded_length(1420, MTU), 1420);
    assert_eq!(padded_length(1421, MTU), 1421);
}

#[test]
fn every_bit_of_a_message_counts() {
    let (alice, bob) = pair();
    let datagram = seal(&alice, &packet(64));
    for bit in 0..datagram.len() * 8 {
        let mut changed = datagram.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            0..4 => Rejected::Malformed,
            4..8 => Rejected::UnknownIndex,
            // The highest bits of the counter alone reach the limit only with all others.
            _ => Rejected::BadTag,
        };
        assert_eq!(bob.open(&mut changed, NOW), Err(expected), "bit {bit}");
    }
    for length in 0..datagram.len() {
        let refused = bob.open(&mut datagram[..length].to_vec(), NOW).unwrap_err();
        assert!(matches!(refused, Rejected::Malformed | Rejected::BadTag), "length {length}");
    }
    // None of them moved the window.
    assert!(bob.open(&mut datagram.clone(), NOW).is_ok());
    assert_eq!(bob.activity().received, Some(NOW));
}

#[test]
fn forged_messages_change_nothing() {
    let (alice, bob) = pair();
    let mut datagram = seal(&alice, &packet(64));
    datagram[20] ^= 1;
    assert_eq!(bob.open(&mut datagram, NOW), Err(Rejected::BadTag));
    assert_eq!(bob.activity(), Activity::default());
    assert!(!bob.is_confirmed());
}

#[test]
fn a_replayed_train_is_refused_whole() {
    let (alice, bob) = pair();
    let train: Vec<Vec<u8>> = (0..100).map(|index| seal(&alice, &packet(40 + index))).collect();
    let admit = |expected: Result<(), Rejected>| {
        let authentic =
            train.iter().map(|datagram| bob.authenticate(&mut datagram.clone(), NOW).unwrap());
        let mut count = 0;
        bob.admit(&authentic.collect::<Vec<_>>(), NOW, |admitted| {
            assert_eq!(admitted.map(|_| ()), expected);
            count += 1;
        });
        assert_eq!(count, train.len());
    };
    admit(Ok(()));
    admit(Err(Rejected::Replayed));
}

#[test]
fn a_session_ends_by_age() {
    let (alice, bob) = pair();
    let mut datagram = seal(&alice, &packet(64));
    let just_before = NOW + REJECT_AFTER_TIME - Duration::from_nanos(1);
    assert!(alice.reserve(1, Load::Packet, just_before).is_ok());
    assert_eq!(alice.reserve(1, Load::Packet, NOW + REJECT_AFTER_TIME).err(), Some(Ended));
    assert_eq!(bob.open(&mut datagram.clone(), NOW + REJECT_AFTER_TIME), Err(Rejected::Expired));
    assert!(bob.open(&mut datagram, just_before).is_ok());
}

#[test]
fn a_session_ends_by_count() {
    let (alice, bob) = pair();
    assert!(!alice.is_worn());
    alice.wear(REKEY_AFTER_MESSAGES);
    assert!(alice.is_worn());
    alice.wear(REJECT_AFTER_MESSAGES - 1);
    let mut last = seal(&alice, &packet(64));
    assert_eq!(alice.reserve(1, Load::Packet, NOW).err(), Some(Ended));
    assert!(bob.open(&mut last, NOW).is_ok());

    // Even a peer that seals beyond the limit is not listened to.
    let mut text = packet(64);
    let tag = Portable::new(&[1; 32]).seal(REJECT_AFTER_MESSAGES, &[], &mut text);
    let mut datagram =
        zerocopy::IntoBytes::as_bytes(&crate::message::DataHeader::new(70, REJECT_AFTER_MESSAGES))
            .to_vec();
    datagram.extend_from_slice(&text);
    datagram.extend_from_slice(&tag);
    assert_eq!(bob.open(&mut datagram, NOW), Err(Rejected::Expired));
}

#[test]
fn activity_tells_packets_from_nothing() {
    let (alice, bob) = pair();
    assert_eq!(alice.activity(), Activity::default());
    let mut nothing = seal(&alice, &[]);
    let sent = Activity { sent: Some(NOW), ..Activity::default() };
    assert_eq!(alice.activity(), sent);
    bob.open(&mut nothing, NOW).unwrap();
    let received = Activity { received: Some(NOW), ..Activity::default() };
    assert_eq!(bob.activity(), received);
    let mut full = seal(&alice, &packet(40));
    assert_eq!(alice.activity(), Activity { packet_sent: Some(NOW), ..sent });
    bob.open(&mut full, NOW).unwrap();
    assert_eq!(bob.activity(), Activity { packet_received: Some(NOW), ..received });
}

#[test]
fn a_responder_waits_for_proof() {
    let (alice, bob) = pair();
    assert!(alice.is_confirmed() && !bob.is_confirmed());
    bob.open(&mut seal(&alice, &[]), NOW).unwrap();
    assert!(bob.is_confirmed());
}

#[test]
fn inner_lengths_are_checked() {
    let cut = |packet: &[u8]| inner_packet(packet, 0..packet.len());
    assert_eq!(cut(&[]), Ok(None));
    assert_eq!(cut(&packet(40)), Ok(Some(0..40)));
    let mut padded = packet(40);
    padded.resize(48, 0);
    assert_eq!(cut(&padded), Ok(Some(0..40)));
    assert_eq!(cut(&padded[..39]), Err(Rejected::BadInnerLength));
    assert_eq!(cut(&[0x45, 0, 0]), Err(Rejected::BadInnerLength));
    assert_eq!(cut(&[0x45, 0, 0, 0]), Err(Rejected::BadInnerLength));
    assert_eq!(cut(&[0x50; 40]), Err(Rejected::BadInnerLength));
    let mut v6 = [0; 48];
    v6[0] = 0x60;
    v6[5] = 8;
    assert_eq!(cut(&v6), Ok(Some(0..48)));
    v6[5] = 9;
    assert_eq!(cut(&v6), Err(Rejected::BadInnerLength));
}

/// Two threads send, two receive all of it twice: everything is admitted once.
#[test]
fn workers_share_a_session() {
    let (alice, bob) = pair();
    let send = || -> Vec<Vec<u8>> { (0..2000).map(|_| seal(&alice, &packet(40))).collect() };
    let datagrams: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(send), scope.spawn(send));
        [first.join().unwrap(), second.join().unwrap()].concat()
    });
    let receive =
        || datagrams.iter().filter(|one| bob.open(&mut one.to_vec(), NOW).is_ok()).count();
    let admitted = std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(receive), scope.spawn(receive));
        first.join().unwrap() + second.join().unwrap()
    });
    assert_eq!(admitted, datagrams.len());
}

#[test]
fn keys_are_not_shown() {
    let (alice, _) = pair();
    let shown = format!("{alice:?} {:?}", keys(30, true));
    assert!(!shown.contains("1, 1") && shown.contains("Secret(..)"), "{shown}");
}
