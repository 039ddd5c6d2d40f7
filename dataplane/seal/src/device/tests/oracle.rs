//! boringtun, a WireGuard of its own, as the other side.

use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::node::{Node, SLOT, address, packet, peer_config, seconds};

/// boringtun reads the clock itself. Nothing here takes as long as its timers.
fn since(start: Instant) -> Duration {
    seconds(100) + start.elapsed()
}

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

fn exchange(node: &mut Node, tunnel: &mut Tunn, start: Instant) {
    for number in 0..100 {
        let now = since(start);
        node.send(now, &packet(number));
        let datagram = node.only_sent();
        assert_eq!(give(tunnel, node, now, &datagram), [packet(number)]);
        let mut buffer = [0; 200];
        match tunnel.encapsulate(&packet(number), &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                let arrived = node.receive(now, address(2), datagram).unwrap();
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
    let start = Instant::now();
    node.with(since(start), |device, context| device.handle_wanted(context, SLOT));
    let initiation = node.only_sent();
    give(&mut tunnel, &mut node, since(start), &initiation);
    let keepalive = node.only_sent();
    assert_eq!(give(&mut tunnel, &mut node, since(start), &keepalive), Vec::<Vec<u8>>::new());
    exchange(&mut node, &mut tunnel, start);
}

#[test]
fn we_answer_boringtun() {
    let (mut node, mut tunnel) = pair();
    let start = Instant::now();
    let mut buffer = [0; 2000];
    let TunnResult::WriteToNetwork(initiation) =
        tunnel.format_handshake_initiation(&mut buffer, false)
    else {
        panic!("boringtun sends nothing");
    };
    node.receive(since(start), address(2), initiation).unwrap();
    let response = node.only_sent();
    give(&mut tunnel, &mut node, since(start), &response);
    assert!(node.published.contains_key(&SLOT), "its empty message proves its keys");
    exchange(&mut node, &mut tunnel, start);
}

/// boringtun understands our cookies: with one, it gets through while we are flooded.
#[test]
fn boringtun_takes_our_cookie() {
    let (mut node, mut tunnel) = pair();
    let start = Instant::now();
    let initiate = |tunnel: &mut Tunn| {
        let mut buffer = [0; 2000];
        match tunnel.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    let first = initiate(&mut tunnel);
    let flood = |node: &mut Node| {
        for _ in 0..1000 {
            let _ = node.receive(since(start), address(66), &first);
        }
        node.sent.clear();
    };
    flood(&mut node);
    assert!(node.receive(since(start), address(2), &first).is_err());
    let cookie = node.only_sent();
    assert_eq!(cookie[0], 3);
    give(&mut tunnel, &mut node, since(start), &cookie);
    std::thread::sleep(Duration::from_millis(25));
    let second = initiate(&mut tunnel);
    flood(&mut node);
    node.receive(since(start), address(2), &second).unwrap();
    let response = node.only_sent();
    assert_eq!(response[0], 2);
}
