//! boringtun, a WireGuard of its own, as the other side.

use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::node::{Node, SLOT, address, packet, peer_config, seconds};

/// Our time. boringtun reads the clock itself, but nothing here takes as long as its timers.
const NOW: Duration = seconds(100);

fn pair() -> (Node, Tunn) {
    let mut node = Node::new(1, 1);
    let theirs = StaticSecret::from([2; 32]);
    let public = crate::keys::PublicKey::new(PublicKey::from(&theirs).to_bytes());
    let ours = PublicKey::from(*node.device.public().bytes());
    node.device.add_peer(SLOT, peer_config(public, Some(address(2)))).unwrap();
    (node, Tunn::new(theirs, ours, Some([9; 32]), None, 5, None))
}

/// Gives boringtun a datagram, then sends it all it answers. The packets that came out of it.
fn give(tunnel: &mut Tunn, node: &mut Node, now: Duration, datagram: &[u8]) -> Vec<Vec<u8>> {
    let (mut packets, mut input) = (Vec::new(), datagram.to_vec());
    let mut buffer = [0; 2000];
    loop {
        match tunnel.decapsulate(None, &input, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => {
                node.receive(now, address(2), answer).unwrap();
                // An empty datagram asks for more.
                input.clear();
            }
            TunnResult::WriteToTunnelV4(packet, _) => {
                packets.push(packet.to_vec());
                return packets;
            }
            TunnResult::Done => return packets,
            other => panic!("{other:?}"),
        }
    }
}

fn exchange(node: &mut Node, tunnel: &mut Tunn) {
    for number in 0..100 {
        node.send(NOW, &packet(number));
        let datagram = node.only_sent();
        assert_eq!(give(tunnel, node, NOW, &datagram), [packet(number)]);
        let mut buffer = [0; 200];
        match tunnel.encapsulate(&packet(number), &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                let arrived = node.receive(NOW, address(2), datagram).unwrap();
                assert_eq!(arrived, Some(packet(number)));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(node.sent.is_empty());
}

#[test]
fn boringtun_answers_us() {
    let (mut node, mut tunnel) = pair();
    node.with(NOW, |device, context| device.handle_wanted(context, SLOT));
    let initiation = node.only_sent();
    give(&mut tunnel, &mut node, NOW, &initiation);
    let keepalive = node.only_sent();
    assert_eq!(give(&mut tunnel, &mut node, NOW, &keepalive), Vec::<Vec<u8>>::new());
    exchange(&mut node, &mut tunnel);
}

#[test]
fn we_answer_boringtun() {
    let (mut node, mut tunnel) = pair();
    let mut buffer = [0; 2000];
    let TunnResult::WriteToNetwork(initiation) =
        tunnel.format_handshake_initiation(&mut buffer, false)
    else {
        panic!("boringtun sends nothing");
    };
    node.receive(NOW, address(2), initiation).unwrap();
    let response = node.only_sent();
    give(&mut tunnel, &mut node, NOW, &response);
    assert!(node.published.contains_key(&SLOT), "its empty message proves its keys");
    exchange(&mut node, &mut tunnel);
}

/// boringtun understands our cookies: with one, it gets through while we are flooded.
#[test]
fn boringtun_takes_our_cookie() {
    let (mut node, mut tunnel) = pair();
    let initiate = |tunnel: &mut Tunn| {
        let mut buffer = [0; 2000];
        match tunnel.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    let first = initiate(&mut tunnel);
    for _ in 0..1000 {
        let _ = node.receive(NOW, address(66), &first);
    }
    node.sent.clear();
    assert!(node.receive(NOW, address(2), &first).is_err());
    let cookie = node.only_sent();
    assert_eq!(cookie[0], 3);
    give(&mut tunnel, &mut node, NOW, &cookie);
    let second = initiate(&mut tunnel);
    // Not faster than a peer may be.
    let later = NOW + Duration::from_millis(25);
    node.receive(later, address(2), &second).unwrap();
    let response = node.only_sent();
    assert_eq!(response[0], 2);
}
