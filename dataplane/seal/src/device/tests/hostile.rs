//! Senders who want harm.

use std::net::SocketAddr;

use super::node::{Node, SLOT, address, packet, peer_config, seconds, settle};
use crate::rejected::Rejected;

fn changed(datagram: &[u8], bit: usize) -> Vec<u8> {
    let mut changed = datagram.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

/// No bit of any handshake message can be changed, and trying does no harm. mac2 is the exception
/// while nobody asks for cookies.
#[test]
fn every_bit_of_every_handshake_message_counts() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    let initiation = nodes[0].only_sent();
    for bit in 0..132 * 8 {
        let expected = if bit < 32 { Rejected::Malformed } else { Rejected::BadMac1 };
        let refused = nodes[1].receive(seconds(1), address(1), &changed(&initiation, bit));
        assert_eq!(refused, Err(expected), "bit {bit} of the initiation");
    }
    assert!(nodes[1].sent.is_empty() && nodes[1].device.indices.is_empty());
    nodes[1].receive(seconds(1), address(1), &initiation).unwrap();
    let response = nodes[1].only_sent();
    for bit in 0..76 * 8 {
        let expected = if bit < 32 { Rejected::Malformed } else { Rejected::BadMac1 };
        let refused = nodes[0].receive(seconds(1), address(2), &changed(&response, bit));
        assert_eq!(refused, Err(expected), "bit {bit} of the response");
    }
    assert!(nodes[0].published.is_empty());
    nodes[0].receive(seconds(1), address(2), &response).unwrap();
    let [_, arrived] = settle(seconds(1), &mut nodes);
    assert_eq!(arrived, [packet(1)]);
}

/// A whole capture once more, from the first message to the last, at both ends.
#[test]
fn a_replayed_capture_is_refused_whole() {
    let mut nodes = Node::pair(1);
    let mut capture: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    for second in 1..300 {
        nodes[0].send(seconds(second), &packet(second));
        nodes[1].send(seconds(second), &packet(second));
        while nodes.iter().any(|node| !node.sent.is_empty()) {
            for from in 0..2 {
                for (_, datagram) in std::mem::take(&mut nodes[from].sent) {
                    nodes[1 - from].receive(seconds(second), address(9), &datagram).unwrap();
                    capture[1 - from].push(datagram);
                }
            }
        }
    }
    for to in 0..2 {
        let roamed = nodes[to].roamed.len();
        for datagram in &capture[to] {
            assert!(nodes[to].receive(seconds(300), address(66), datagram).is_err());
        }
        assert_eq!(nodes[to].roamed.len(), roamed);
        assert!(nodes[to].sent.is_empty());
    }
    nodes[0].send(seconds(301), &packet(1));
    assert_eq!(nodes[0].kinds(), [4]);
}

/// Ten thousand initiations that know our public key, from as many addresses, in one second.
#[test]
fn a_flood_takes_no_memory_and_stops_nobody() {
    let [mut stranger, mut bob] = Node::pair(1);
    bob.with(seconds(0), |device, _| device.remove_peer(SLOT));
    let mut friend = Node::new(3, 4);
    let config = peer_config(bob.device.public(), Some(bob.address));
    friend.device.add_peer(SLOT, config).unwrap();
    let config = peer_config(friend.device.public(), None);
    bob.device.add_peer(SLOT, config).unwrap();

    friend.send(seconds(1), &packet(1));
    let mut nodes = [friend, bob];
    settle(seconds(1), &mut nodes);
    let [mut friend, mut bob] = nodes;

    stranger.with(seconds(1), |device, context| device.handle_wanted(context, SLOT));
    let initiation = stranger.only_sent();
    let (indices, mut cookies, mut looked_at) = (bob.device.indices.len(), 0, 0);
    for number in 0..10_000_u32 {
        let now = seconds(2) + std::time::Duration::from_micros(u64::from(number) * 100);
        let from = SocketAddr::from((number.to_be_bytes(), 8285));
        match bob.receive(now, from, &initiation) {
            Err(Rejected::UnknownPeer) => looked_at += 1,
            Err(Rejected::CookieWanted) => cookies += 1,
            other => panic!("{other:?}"),
        }
        for (to, datagram) in std::mem::take(&mut bob.sent) {
            assert_eq!((to, datagram[0]), (from, 3));
            assert!(datagram.len() < initiation.len(), "nothing is amplified");
        }
        if number % 100 == 0 {
            friend.send(now, &packet(u64::from(number)));
            let datagram = friend.only_sent();
            assert!(bob.receive(now, friend.address, &datagram).unwrap().is_some());
        }
    }
    assert!(looked_at <= 600 && cookies >= 9_400, "{looked_at} {cookies}");
    assert_eq!(bob.device.indices.len(), indices);
    assert!(bob.device.outputs.capacity() <= 64);

    // A friend who wants a session gets one meanwhile, with a cookie.
    let flood = |bob: &mut Node, now| {
        for _ in 0..2000 {
            let _ = bob.receive(now, address(200), &initiation);
        }
        bob.sent.clear();
    };
    let now = seconds(7);
    flood(&mut bob, now);
    friend.with(now, |device, context| device.handle_wanted(context, SLOT));
    let first = friend.only_sent();
    assert_eq!(bob.receive(now, friend.address, &first), Err(Rejected::CookieWanted));
    let cookie = bob.only_sent();
    friend.receive(now, bob.address, &cookie).unwrap();
    assert!(friend.sent.is_empty(), "the cookie serves the next try");
    let now = seconds(12);
    flood(&mut bob, now);
    friend.with(now, |device, context| device.handle_wanted(context, SLOT));
    let second = friend.only_sent();
    let forged = changed(&second, 147 * 8);
    assert_eq!(bob.receive(now, friend.address, &forged), Err(Rejected::CookieWanted));
    assert_eq!(bob.receive(now, address(201), &second), Err(Rejected::CookieWanted));
    bob.sent.clear();
    bob.receive(now, friend.address, &second).unwrap();
    assert_eq!(bob.kinds(), [2]);
}

/// Even with cookies, one address cannot make us work without end.
#[test]
fn one_address_is_limited_under_load() {
    let mut nodes = Node::pair(1);
    let now = seconds(10);
    nodes[0].with(now, |device, context| device.handle_wanted(context, SLOT));
    let first = nodes[0].only_sent();
    nodes[1].receive(now, address(1), &first).unwrap();
    for _ in 0..1000 {
        let _ = nodes[1].receive(now, address(1), &first);
    }
    let cookie = nodes[1].sent.pop().unwrap().1;
    assert_eq!(cookie[0], 3);
    nodes[0].receive(now, address(2), &cookie).unwrap();
    nodes[0].with(seconds(15), |device, context| device.handle_wanted(context, SLOT));
    let second = nodes[0].only_sent();
    for _ in 0..1000 {
        let _ = nodes[1].receive(seconds(15), address(50), &first);
    }
    let mut outcomes = [0; 2];
    for _ in 0..100 {
        match nodes[1].receive(seconds(15), address(1), &second) {
            Err(Rejected::RateLimited) => outcomes[1] += 1,
            Ok(_) | Err(Rejected::StaleTimestamp) => outcomes[0] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(outcomes, [5, 95]);
}

/// Somebody who sees our initiation sends responses that only look right.
#[test]
fn few_false_responses_are_looked_at() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    let initiation = nodes[0].only_sent();
    nodes[1].receive(seconds(1), address(1), &initiation).unwrap();
    let response = nodes[1].only_sent();
    // mac1 needs only the public key of the one it is sent to.
    let mut forged =
        *<crate::message::Response as zerocopy::FromBytes>::ref_from_bytes(&response).unwrap();
    forged.sealed_nothing[0] ^= 1;
    crate::cookie::Stamper::new(&nodes[0].device.public()).stamp(&mut forged, seconds(1));
    let forged = zerocopy::IntoBytes::as_bytes(&forged).to_vec();
    let mut outcomes = [0; 2];
    for _ in 0..100 {
        match nodes[0].receive(seconds(1), address(9), &forged) {
            Err(Rejected::BadHandshake) => outcomes[0] += 1,
            Err(Rejected::RateLimited) => outcomes[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(outcomes, [16, 84]);
    assert!(nodes[0].roamed.is_empty());
    // The next try has a new index.
    nodes[0].with(seconds(7), |device, context| device.handle_wanted(context, SLOT));
    let [_, arrived] = settle(seconds(7), &mut nodes);
    assert_eq!(arrived, [packet(1)]);
}

#[test]
fn a_peer_cannot_make_us_answer_without_end() {
    let mut nodes = Node::pair(1);
    let mut initiation = |now| {
        nodes[0] = Node::new(1, 1);
        let [alice, bob] = &mut nodes;
        alice.add(bob);
        alice.with(now, |device, context| device.handle_wanted(context, SLOT));
        let datagram = alice.only_sent();
        bob.receive(now, address(1), &datagram)
    };
    let step = std::time::Duration::from_millis(17);
    assert!(initiation(seconds(1)).is_ok());
    assert_eq!(initiation(seconds(1) + step), Err(Rejected::TooFrequent));
    assert!(initiation(seconds(1) + 2 * step).is_ok());
    assert!(nodes[1].installed.len() <= 1);
}

#[test]
fn nothing_short_or_strange_does_harm() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    settle(seconds(1), &mut nodes);
    let mut random = super::node::Random(1);
    for round in 0..20_000 {
        let mut datagram = vec![0; random.below(200) as usize];
        random.fill(&mut datagram);
        if let (true, Some(prefix)) = (round % 2 == 0, datagram.first_chunk_mut()) {
            *prefix = [(round % 5) as u8, 0, 0, 0];
        }
        assert!(nodes[1].receive(seconds(2), address(1), &datagram).is_err());
    }
    assert!(nodes[1].sent.is_empty());
    let total: u64 =
        Rejected::ALL.into_iter().map(|reason| nodes[1].device.rejections().of(reason)).sum();
    assert_eq!(total, 20_000);
}
