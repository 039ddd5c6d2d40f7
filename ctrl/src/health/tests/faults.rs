//! What goes wrong, and how soon it is noticed.

use std::time::Duration;

use rand::RngExt;

use super::net::{Net, SIZE, open};
use crate::config::PathKind::{self, HostGw, Udp, Vxlan};
use crate::health::path::{HOLD_FIRST, HOLD_MAX};
use crate::health::{Direction, Verdict};

const ALL: [PathKind; 3] = [HostGw, Vxlan, Udp];

/// A path is left within this.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn started(seed: u64) -> Net {
    let mut net = Net::new(2, &ALL, seed);
    assert_eq!(net.paths(), [Udp; 2], "a kernel path has to prove itself first");
    net.time_to(HostGw, seconds(3));
    net.run(seconds(10));
    assert_eq!(net.choice(0).reason, "it is the first path that both nodes have");
    net
}

#[test]
fn a_path_that_goes_dark_is_left_and_returned_to() {
    for seed in 0..20 {
        let mut net = started(seed);
        net.link = Box::new(|_, path, _, _| path != HostGw);
        net.time_to(Vxlan, LEFT_WITHIN);
        net.run(seconds(1));
        let reason = net.choice(0).reason;
        assert!(reason.contains("host-gw: nothing gets through either way"), "{reason}");
        net.link = Box::new(|_, path, _, _| path == Udp);
        net.time_to(Udp, LEFT_WITHIN);
        net.link = open();
        let back = net.time_to(HostGw, seconds(20));
        assert!(back >= HOLD_FIRST, "{back:?}");
    }
}

#[test]
fn both_leave_what_is_dead_in_one_direction_and_name_it() {
    for seed in 0..20 {
        for deaf in [0, 1] {
            let mut net = started(seed);
            net.link = Box::new(move |from, path, _, _| path != HostGw || from == deaf);
            net.time_to(Vxlan, LEFT_WITHIN);
            net.run(seconds(1));
            let verdict = |node| net.assessment(node, HostGw).verdict;
            assert_eq!(verdict(deaf), Verdict::Down(Direction::In), "nothing comes to it");
            assert_eq!(verdict(1 - deaf), Verdict::Down(Direction::Out));
            assert_eq!(net.paths(), [Vxlan; 2]);
        }
    }
}

#[test]
fn a_path_that_swallows_large_packets_is_left() {
    for (seed, one_way) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut net = started(seed);
        net.link = Box::new(move |from, path, size, _| {
            path != HostGw || size <= 1300 || (one_way && from == 1)
        });
        net.time_to(Vxlan, LEFT_WITHIN);
        net.run(seconds(60));
        assert_eq!(net.paths(), [Vxlan; 2]);
        let mtu = net.assessment(0, HostGw).mtu.unwrap();
        assert!((1292..=1300).contains(&mtu), "{mtu}");
        assert!(
            net.choice(0).reason.contains("takes no packets above"),
            "{}",
            net.choice(0).reason
        );
        net.link = open();
        net.time_to(HostGw, seconds(60));
        assert_eq!(net.assessment(0, HostGw).mtu, Some(SIZE));
    }
}

#[test]
fn where_every_path_swallows_large_packets_the_engine_carries_and_its_mtu_is_known() {
    let mut net = started(1);
    net.link = Box::new(|_, _, size, _| size <= 1000);
    net.time_to(Udp, LEFT_WITHIN);
    net.run(seconds(60));
    assert_eq!(net.paths(), [Udp; 2]);
    let mtu = net.assessment(0, Udp).mtu.unwrap();
    assert!((992..=1000).contains(&mtu), "{mtu}");
    let told =
        |net: &Net| net.nodes[0].narrow_engine_paths().map(|(_, mtu)| mtu).collect::<Vec<_>>();
    assert_eq!(told(&net), [mtu]);
    net.link = Box::new(|_, _, size, _| size <= 800);
    net.run(seconds(60));
    let narrower = told(&net);
    assert!((792..=800).contains(&narrower[0]), "{narrower:?}");
    net.link = open();
    net.run(seconds(60));
    assert!(told(&net).is_empty());
}

/// What was lost with the path was not lost for its size, and the engine must not be told so.
#[test]
fn a_path_that_was_dead_is_not_narrow() {
    for seed in 0..20 {
        let mut net = started(seed);
        net.link = Box::new(|_, path, size, _| path != Udp || size < 100);
        net.run(seconds(3));
        net.link = open();
        for _ in 0..600 {
            net.run(crate::health::TICK);
            assert_eq!(net.nodes[0].narrow_engine_paths().next(), None);
        }
        assert_eq!(net.assessment(0, Udp).mtu, Some(SIZE));
        net.link = Box::new(|_, path, _, _| path != Udp);
        net.run(seconds(3));
        net.link = open();
        for _ in 0..100 {
            net.run(crate::health::TICK);
            assert_eq!(net.assessment(0, Udp).mtu, Some(SIZE), "nothing large was lost alone");
        }
    }
}

/// What is known before the search has ended is far too small.
#[test]
fn what_is_still_searched_is_told_nobody() {
    let mut net = started(1);
    net.link = Box::new(|_, _, size, _| size <= 1000);
    let end = net.now + seconds(60);
    while net.nodes[0].narrow_engine_paths().next().is_none() {
        assert!(net.now < end);
        net.run(crate::health::TICK);
    }
    let mtu = net.assessment(0, Udp).mtu.unwrap();
    assert!((992..=1000).contains(&mtu), "{mtu}");
}

#[test]
fn a_little_loss_changes_nothing() {
    let mut net = started(7);
    net.link = Box::new(|_, _, _, chance| chance.random_bool(0.99));
    for _ in 0..600 {
        net.run(seconds(1));
        assert_eq!(net.paths(), [HostGw; 2], "{}", net.choice(0).reason);
    }
    let loss = net.assessment(0, HostGw).loss;
    assert!(loss < 0.2, "{loss}");
}

#[test]
fn much_loss_is_left_for_a_path_without() {
    let mut net = started(8);
    net.link = Box::new(|_, path, _, chance| path != HostGw || chance.random_bool(0.7));
    net.time_to(Vxlan, seconds(30));
    let mut away = 0;
    for _ in 0..300 {
        net.run(seconds(1));
        away += u64::from(net.paths() == [Vxlan; 2]);
    }
    assert!(away > 295, "{away} of 300 seconds away");
    net.link = open();
    net.time_to(HostGw, HOLD_MAX + seconds(60));
}

#[test]
fn who_flaps_has_to_wait_ever_longer() {
    let mut net = started(9);
    let mut waits = Vec::new();
    for _ in 0..5 {
        net.link = Box::new(|_, path, _, _| path != HostGw);
        net.time_to(Vxlan, LEFT_WITHIN);
        net.link = open();
        waits.push(net.time_to(HostGw, HOLD_MAX + seconds(10)));
    }
    for pair in waits.windows(2) {
        assert!(pair[1] > pair[0].mul_f64(1.5), "{waits:?}");
    }
    net.run(seconds(700));
    net.link = Box::new(|_, path, _, _| path != HostGw);
    net.time_to(Vxlan, LEFT_WITHIN);
    net.link = open();
    assert!(net.time_to(HostGw, seconds(60)) < seconds(15), "calm is rewarded");
}

#[test]
fn a_dead_engine_is_told_to_the_peer() {
    let mut net = Net::new(2, &[Udp, Vxlan], 3);
    net.time_to(Udp, seconds(3));
    net.run(seconds(5));
    let now = net.now;
    net.nodes[0].set_engine(false, now);
    let start = net.now;
    while net.choice(1).path != Vxlan {
        assert!(net.now < start + seconds(3));
        net.run(crate::health::TICK);
    }
    assert_eq!(net.assessment(1, Udp).verdict, Verdict::Up, "the path itself is fine");
}

/// However short the failure was.
#[test]
fn an_engine_that_works_again_has_to_prove_itself() {
    let mut net = Net::new(2, &[Udp, Vxlan], 6);
    net.time_to(Udp, seconds(3));
    net.run(seconds(5));
    for (times, hold) in [(1, HOLD_FIRST), (2, 2 * HOLD_FIRST)] {
        for works in [false, true] {
            let now = net.now;
            net.nodes[0].set_engine(works, now);
        }
        net.run(seconds(1));
        assert_eq!(net.paths(), [Vxlan; 2], "{times}: {}", net.choice(1).reason);
        let back = net.time_to(Udp, seconds(30));
        assert!(back + seconds(1) >= hold, "{times}: {back:?}");
    }
}

#[test]
fn a_restarted_node_is_believed_at_once() {
    let mut net = started(4);
    let fresh = Net::new(2, &ALL, 5).nodes.swap_remove(0);
    net.nodes[0] = fresh;
    net.run(seconds(4));
    assert_eq!(net.assessment(1, HostGw).verdict, Verdict::Up);
    assert_eq!(net.assessment(0, HostGw).verdict, Verdict::Up);
    assert_eq!(net.paths(), [HostGw; 2]);
}

#[test]
fn the_round_trip_is_estimated() {
    let net = started(1);
    let estimate = net.assessment(0, HostGw).round_trip.unwrap();
    assert!(estimate >= Duration::from_millis(2) && estimate < seconds(1), "{estimate:?}");
}
