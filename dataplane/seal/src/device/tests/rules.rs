//! One rule at a time.

use std::net::SocketAddr;
use std::time::Duration;

use super::node::{Node, SLOT, address, packet, peer_config, private, seconds, settle};
use crate::device::{QUEUE_MAX, TICK};
use crate::handshake::KeyRefused;
use crate::keys::PublicKey;
use crate::limits::{JITTER, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};
use crate::message::Message;
use crate::rejected::Rejected;
use crate::session::{Load, Session};
use crate::timestamp::Timestamp;

#[test]
fn a_packet_makes_a_session() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    let initiation = nodes[0].only_sent();
    assert_eq!((initiation.len(), initiation[0]), (148, 1));
    nodes[1].receive(seconds(1), address(1), &initiation).unwrap();
    assert!(nodes[1].published.is_empty(), "the responder waits for proof");
    let response = nodes[1].only_sent();
    assert_eq!((response.len(), response[0]), (92, 2));
    nodes[0].receive(seconds(1), address(2), &response).unwrap();
    let data = nodes[0].only_sent();
    assert_eq!((data.len(), data[0]), (16 + 48 + 16, 4));
    let arrived = nodes[1].receive(seconds(1), address(1), &data).unwrap();
    assert_eq!(arrived, Some(packet(1)));
    assert_eq!(nodes[1].published.len(), 1);
    nodes[1].send(seconds(1), &packet(2));
    assert_eq!(settle(seconds(1), &mut nodes), [vec![packet(2)], vec![]]);
    for node in &nodes {
        let (slot, status) = node.device.peers().next().unwrap();
        assert_eq!((slot, status.handshakes, status.dropped), (SLOT, 1, 0));
        assert_eq!(status.session_made, Some(seconds(1)));
    }
}

/// A worker's view: no packets go through the device.
#[test]
fn workers_use_what_is_published() {
    let mut nodes = Node::pair(1);
    nodes[0].with(seconds(1), |device, context| device.handle_wanted(context, SLOT));
    settle(seconds(1), &mut nodes);
    assert_eq!(nodes[1].published.len(), 1, "an empty message proves the keys too");
    let sending = nodes[0].published[&SLOT].clone();
    let receiving = nodes[1].published[&SLOT].clone();
    let counters = sending.reserve(44, Load::Packet, seconds(2)).unwrap();
    for counter in counters {
        let mut datagram = [0; 100];
        let length = sending.seal(counter, &[&packet(1)], &mut datagram, 1420);
        assert!(receiving.open(&mut datagram[..length], seconds(2)).is_ok());
    }
    // Nobody answers: the receiver says that it is there after ten seconds.
    for tick in 20..=120 {
        nodes[1].tick(TICK * tick);
    }
    assert_eq!(nodes[1].kinds(), [4]);
    assert_eq!(TICK * 120, seconds(12));
}

/// Nothing but ticks reaches the devices for a thousand seconds; workers seal and open all packets,
/// and never miss a session.
#[test]
fn workers_go_through_rekeys_without_a_gap() {
    let mut nodes = Node::pair(1);
    nodes[0].with(seconds(1), |device, context| device.handle_wanted(context, SLOT));
    settle(seconds(1), &mut nodes);
    let mut used = std::collections::HashSet::new();
    for tick in 10..10_000 {
        let now = TICK * tick;
        for from in 0..2 {
            let session = nodes[from].published[&SLOT].clone();
            let counter = session.reserve(1, Load::Packet, now).unwrap().next().unwrap();
            let mut datagram = [0; 80];
            session.seal(counter, &[&packet(1)], &mut datagram, 1420);
            let Ok(Message::Data { receiver, .. }) = Message::parse(&datagram) else { panic!() };
            used.insert(receiver);
            let session = nodes[1 - from].installed[&receiver].clone();
            session.open(&mut datagram, now).unwrap();
            nodes[from].tick(now);
        }
        settle(now, &mut nodes);
    }
    let handshakes = nodes[0].device.peers().next().unwrap().1.handshakes;
    assert_eq!(handshakes, 1 + 999 / 120);
    assert_eq!(used.len() as u64, 2 * handshakes);
}

/// Workers' reports come with ticks, but timers go by when it was, and by what came first.
#[test]
fn what_happens_between_ticks_counts_in_its_order() {
    for (sent_ms, received_ms, expected, at) in [(2050, 2010, 1, 17_050), (2010, 2050, 4, 12_050)] {
        let mut nodes = Node::pair(1);
        nodes[0].with(seconds(1), |device, context| device.handle_wanted(context, SLOT));
        settle(seconds(1), &mut nodes);
        let (ours, theirs) = (nodes[0].published[&SLOT].clone(), nodes[1].published[&SLOT].clone());
        let seal = |session: &Session<_>, at_ms| {
            let at = Duration::from_millis(at_ms);
            let counter = session.reserve(1, Load::Packet, at).unwrap().next().unwrap();
            let mut datagram = [0; 80];
            session.seal(counter, &[&packet(1)], &mut datagram, 1420);
            datagram
        };
        let mut datagram = seal(&theirs, received_ms);
        ours.open(&mut datagram, Duration::from_millis(received_ms)).unwrap();
        seal(&ours, sent_ms);
        let mut tick = 20;
        while nodes[0].sent.is_empty() {
            tick += 1;
            assert!(tick < 1000, "nothing is ever sent");
            nodes[0].tick(TICK * tick);
        }
        assert_eq!(nodes[0].kinds(), [expected]);
        let late = (TICK * tick).checked_sub(Duration::from_millis(at)).unwrap();
        assert!(late <= JITTER + TICK, "{late:?}");
    }
}

#[test]
fn a_session_that_is_used_up_is_replaced() {
    for by in 0..2 {
        let mut nodes = Node::pair(1);
        nodes[0].send(seconds(1), &packet(1));
        settle(seconds(1), &mut nodes);
        let before = nodes[by].published[&SLOT].clone();
        before.wear(REKEY_AFTER_MESSAGES - 1);
        nodes[by].send(seconds(10), &packet(2));
        assert_eq!(nodes[by].kinds(), [4, 1], "worn, but still good");
        // The answer is lost. Meanwhile the last counters are used.
        before.wear(REJECT_AFTER_MESSAGES);
        nodes[by].send(seconds(11), &packet(3));
        assert!(nodes[by].sent.is_empty());
        nodes[by].tick(seconds(16));
        let arrived = settle(seconds(16), &mut nodes);
        assert_eq!(arrived[1 - by], [packet(3)]);
        assert_ne!(nodes[by].published[&SLOT].local(), before.local());
    }
}

#[test]
fn both_may_begin_at_once() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    nodes[1].send(seconds(1), &packet(2));
    let arrived = settle(seconds(1), &mut nodes);
    assert_eq!(arrived, [vec![packet(2)], vec![packet(1)]]);
    for _ in 0..10 {
        nodes[0].send(seconds(2), &packet(3));
        nodes[1].send(seconds(2), &packet(4));
        assert_eq!(settle(seconds(2), &mut nodes), [vec![packet(4)], vec![packet(3)]]);
    }
}

#[test]
fn an_initiator_rekeys_after_two_minutes_of_use() {
    let mut nodes = Node::pair(1);
    for second in 1..1000 {
        nodes[0].send(seconds(second), &packet(second));
        let arrived = settle(seconds(second), &mut nodes);
        assert_eq!(arrived, [vec![], vec![packet(second)]]);
        nodes[0].tick(seconds(second));
        nodes[1].tick(seconds(second));
        settle(seconds(second), &mut nodes);
    }
    let handshakes = nodes[0].device.peers().next().unwrap().1.handshakes;
    assert_eq!(handshakes, 1 + 999 / 120);
    assert_eq!(nodes[1].device.rejections(), &Default::default());
}

/// The responder's traffic keeps the session alive: the initiator replaces it before it ends.
#[test]
fn an_initiator_rekeys_when_it_only_receives() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(0));
    settle(seconds(1), &mut nodes);
    for second in 2..1000 {
        nodes[1].send(seconds(second), &packet(second));
        assert_eq!(settle(seconds(second), &mut nodes), [vec![packet(second)], vec![]]);
        nodes[0].tick(seconds(second));
        nodes[1].tick(seconds(second));
        settle(seconds(second), &mut nodes);
    }
    // It sends empty messages, each of which may find the session old.
    let handshakes = nodes[0].device.peers().next().unwrap().1.handshakes;
    assert!((7..=9).contains(&handshakes), "{handshakes}");
}

#[test]
fn idle_peers_are_silent_and_forget() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    settle(seconds(1), &mut nodes);
    let mut kinds = Vec::new();
    for tick in 10..2000 {
        for node in &mut nodes {
            node.tick(TICK * tick);
        }
        kinds.extend(nodes[1].sent.iter().map(|(_, datagram)| datagram[0]));
        settle(TICK * tick, &mut nodes);
    }
    assert_eq!(kinds, [4], "one empty message acknowledges the packet");
    for node in &nodes {
        assert!(node.published.is_empty() && node.installed.is_empty());
    }
}

#[test]
fn a_dead_peer_is_tried_every_five_seconds_for_ninety() {
    let [mut alice, _] = Node::pair(1);
    for number in 0..100 {
        alice.send(seconds(1), &packet(number));
    }
    let mut times = vec![seconds(1)];
    assert_eq!(alice.kinds(), [1]);
    for tick in 10..5000 {
        alice.tick(TICK * tick);
        if !alice.kinds().is_empty() {
            times.push(TICK * tick);
        }
    }
    assert_eq!(times.len(), 19);
    for pair in times.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= seconds(5) && gap <= seconds(5) + JITTER + TICK, "{gap:?}");
    }
    let status = alice.device.peers().next().unwrap().1;
    assert_eq!((status.given_up, status.dropped), (1, 100));
    // The next packet begins anew.
    alice.send(seconds(600), &packet(1));
    assert_eq!(alice.kinds(), [1]);
}

#[test]
fn what_waits_is_bounded_and_leaves_in_order() {
    let mut nodes = Node::pair(1);
    for number in 0..100 {
        nodes[0].send(seconds(1), &packet(number));
    }
    let [_, arrived] = settle(seconds(1), &mut nodes);
    let expected: Vec<_> = (100 - QUEUE_MAX as u64..100).map(packet).collect();
    assert_eq!(arrived, expected);
    let status = nodes[0].device.peers().next().unwrap().1;
    assert_eq!(status.dropped, 100 - QUEUE_MAX as u64);
}

#[test]
fn what_waits_is_bounded_over_all_peers() {
    let mut node = Node::new(1, 1);
    for slot in 0..200 {
        let public = private(slot as u8 + 2).public();
        if slot < 150 {
            node.device.add_peer(slot, peer_config(public, None)).unwrap();
        }
        node.with(seconds(1), |device, context| {
            for number in 0..QUEUE_MAX as u64 {
                device.handle_packet(context, slot, &packet(number));
            }
        });
    }
    assert_eq!(node.device.waiting, super::super::WAITING_MAX);
    let dropped: u64 = node.device.peers().map(|(_, status)| status.dropped).sum();
    assert_eq!(dropped as usize, 150 * QUEUE_MAX - super::super::WAITING_MAX);
    for slot in 0..150 {
        node.device.remove_peer(slot);
    }
    assert_eq!(node.device.waiting, 0);
}

#[test]
fn a_peer_roams_by_authentic_messages_only() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    settle(seconds(1), &mut nodes);
    let elsewhere = address(77);
    nodes[0].send(seconds(2), &packet(2));
    let datagram = nodes[0].only_sent();
    let mut forged = datagram.clone();
    forged[30] ^= 1;
    assert_eq!(nodes[1].receive(seconds(2), elsewhere, &forged), Err(Rejected::BadTag));
    assert!(nodes[1].roamed.is_empty());
    nodes[1].receive(seconds(2), elsewhere, &datagram).unwrap();
    assert_eq!(nodes[1].roamed, [elsewhere]);
    nodes[1].send(seconds(2), &packet(3));
    assert_eq!(nodes[1].sent[0].0, elsewhere);
    // A replay from a third place moves nothing.
    let replayed = nodes[1].receive(seconds(2), address(78), &datagram);
    assert_eq!(replayed, Err(Rejected::Replayed));
    assert_eq!(nodes[1].roamed, [elsewhere]);
}

/// What workers report, they report by the index of a session, which nobody else gets.
#[test]
fn reports_of_workers_reach_the_peer_they_are_about() {
    let mut nodes = Node::pair(1);
    nodes[0].with(seconds(1), |device, context| device.handle_wanted(context, SLOT));
    let initiation = nodes[0].only_sent();
    nodes[1].receive(seconds(1), address(1), &initiation).unwrap();
    let response = nodes[1].only_sent();
    nodes[0].receive(seconds(1), address(2), &response).unwrap();
    let session = nodes[1].installed.values().next().unwrap().clone();
    let local = session.local();

    nodes[1].with(seconds(1), |device, context| device.handle_used(context, local));
    assert!(nodes[1].published.is_empty(), "nothing was admitted yet");
    session.open(&mut nodes[0].only_sent(), seconds(1)).unwrap();
    nodes[1].with(seconds(1), |device, context| device.handle_used(context, local));
    assert_eq!(nodes[1].published[&SLOT].local(), local);
    nodes[1].with(seconds(1), |device, _| device.handle_roamed(local, address(77), false));
    assert_eq!(nodes[1].roamed, [address(77)]);
    nodes[1].with(seconds(1), |device, _| device.handle_roamed(local ^ 1, address(78), false));
    assert_eq!(nodes[1].roamed, [address(77)]);

    // One of several ports is no news, but another address is.
    let mut other_port = address(77);
    other_port.set_port(other_port.port() + 1);
    nodes[1].with(seconds(1), |device, _| device.handle_roamed(local, other_port, true));
    assert_eq!(nodes[1].roamed, [address(77)]);
    let mut elsewhere = SocketAddr::from(([203, 0, 113, 7], other_port.port()));
    nodes[1].with(seconds(1), |device, _| device.handle_roamed(local, elsewhere, true));
    elsewhere.set_port(address(77).port());
    assert_eq!(nodes[1].roamed, [address(77), elsewhere]);
}

#[test]
fn keys_that_cannot_be_peers_are_refused() {
    let mut node = Node::new(1, 1);
    let mut add = |slot, public| node.device.add_peer(slot, peer_config(public, None));
    assert_eq!(add(1, private(1).public()), Err(KeyRefused::Own));
    assert_eq!(add(1, PublicKey::new([0; 32])), Err(KeyRefused::LowOrder));
    assert_eq!(add(1, private(2).public()), Ok(()));
    assert_eq!(add(2, private(2).public()), Err(KeyRefused::Duplicate));
    assert_eq!(node.device.peers().count(), 1);
    assert!(node.device.remove_peer(1).is_some());
    assert!(node.device.remove_peer(1).is_none());
    assert_eq!(node.device.add_peer(2, peer_config(private(2).public(), None)), Ok(()));
    assert_eq!(node.device.slot_of(&private(2).public()), Some(2));
}

#[test]
fn a_removed_peer_is_not_heard_any_more() {
    let mut nodes = Node::pair(1);
    nodes[0].send(seconds(1), &packet(1));
    settle(seconds(1), &mut nodes);
    nodes[0].send(seconds(2), &packet(2));
    let datagram = nodes[0].only_sent();
    nodes[1].with(seconds(2), |device, _| device.remove_peer(SLOT)).unwrap();
    assert!(nodes[1].installed.is_empty() && nodes[1].published.is_empty());
    assert_eq!(nodes[1].receive(seconds(2), address(1), &datagram), Err(Rejected::UnknownIndex));
    nodes[0].with(seconds(10), |device, context| device.handle_wanted(context, SLOT));
    let initiation = nodes[0].only_sent();
    assert_eq!(nodes[1].receive(seconds(10), address(1), &initiation), Err(Rejected::UnknownPeer));
    assert!(nodes[1].device.indices.is_empty());
}

/// The clock is set back while the daemon runs, and once more over a restart.
#[test]
fn time_stamps_never_go_back() {
    let mut nodes = Node::pair(1);
    let year = seconds(365 * 86_400);
    let mut stamps = vec![nodes[0].device.greatest_sent()];
    let mut handshake = |nodes: &mut [Node; 2], at: u64| {
        nodes[0].with(seconds(at), |device, context| device.handle_wanted(context, SLOT));
        settle(seconds(at), nodes);
        stamps.push(nodes[0].device.greatest_sent());
        assert!(stamps.is_sorted_by(|before, after| before < after));
        let known = nodes[1].device.peers().next().unwrap().1.greatest;
        assert_eq!(known, stamps.last().copied());
    };
    handshake(&mut nodes, 10);
    nodes[0].wall -= year;
    handshake(&mut nodes, 20);
    handshake(&mut nodes, 30);

    let kept = nodes[0].device.greatest_sent();
    nodes[0] = Node::started(1, 99, kept);
    nodes[0].wall -= 2 * year;
    let [alice, bob] = &mut nodes;
    alice.add(bob);
    handshake(&mut nodes, 40);

    // The peer comes and goes on our side.
    nodes[0].with(seconds(45), |device, _| device.remove_peer(SLOT));
    let [alice, bob] = &mut nodes;
    alice.add(bob);
    handshake(&mut nodes, 50);

    // Without what was kept, the peer would not listen.
    nodes[0] = Node::started(1, 98, Timestamp::default());
    nodes[0].wall -= 2 * year;
    let [alice, bob] = &mut nodes;
    alice.add(bob);
    nodes[0].with(seconds(60), |device, context| device.handle_wanted(context, SLOT));
    let initiation = nodes[0].only_sent();
    let refused = nodes[1].receive(seconds(60), address(1), &initiation);
    assert_eq!(refused, Err(Rejected::StaleTimestamp));
}

/// The responder restarts and keeps the greatest stamp: what was recorded before is no good.
#[test]
fn a_recorded_initiation_is_of_no_use_after_a_restart() {
    let mut nodes = Node::pair(1);
    nodes[0].with(seconds(10), |device, context| device.handle_wanted(context, SLOT));
    let initiation = nodes[0].only_sent();
    nodes[1].receive(seconds(10), address(1), &initiation).unwrap();
    let greatest = nodes[1].device.peers().next().unwrap().1.greatest;
    let mut bob = Node::new(2, 5);
    let mut config = peer_config(nodes[0].device.public(), None);
    config.greatest = greatest;
    bob.device.add_peer(SLOT, config).unwrap();
    assert_eq!(bob.receive(seconds(11), address(1), &initiation), Err(Rejected::StaleTimestamp));
}

/// Seven hundred peers wait for us after a restart. They are served at a pace, in turn, each once.
#[test]
fn a_restart_makes_no_storm() {
    let mut node = Node::new(1, 1);
    for slot in 0..700_u16 {
        let mut key = [3; 32];
        key[4..6].copy_from_slice(&slot.to_le_bytes());
        let public = crate::keys::PrivateKey::take(&mut key).public();
        let config = peer_config(public, Some(address(9)));
        node.device.add_peer(slot, config).unwrap();
        node.with(seconds(1), |device, context| device.handle_wanted(context, slot));
    }
    let mut counts = vec![node.kinds().len()];
    for tick in 11..45 {
        node.tick(TICK * tick);
        counts.push(node.kinds().len());
    }
    assert_eq!(counts.iter().sum::<usize>(), 700);
    assert!(counts[0] <= 64 && counts[1..].iter().all(|count| *count <= 21), "{counts:?}");
}

#[test]
fn persistent_keepalives_hold_a_session() {
    let [alice, bob] = Node::pair(1);
    let mut nodes = [Node::new(1, 1), bob];
    let mut config = peer_config(nodes[1].device.public(), Some(nodes[1].address));
    config.keepalive = Some(seconds(25));
    nodes[0].device.add_peer(SLOT, config).unwrap();
    drop(alice);
    nodes[0].send(seconds(1), &packet(1));
    settle(seconds(1), &mut nodes);
    let mut count = 0;
    for tick in 10..10_000 {
        nodes[0].tick(TICK * tick);
        nodes[1].tick(TICK * tick);
        count += nodes[0].sent.len();
        settle(TICK * tick, &mut nodes);
    }
    assert!((35..=60).contains(&count), "{count} messages in a thousand seconds");
    assert!(!nodes[0].published.is_empty());
}
