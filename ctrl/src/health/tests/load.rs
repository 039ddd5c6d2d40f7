//! How much is sent.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::net::Net;
use crate::config::PathKind;
use crate::health::{PROBES_PER_SECOND, Prober, TICK, Target};

fn prober(peers: u32, now: Instant, chance: &mut StdRng) -> Prober {
    let identity = |number: u32| format!("{number:032x}").parse().unwrap();
    let mut prober = Prober::new(identity(0), 1, 1422, now);
    let target = |number: u32| Target {
        subnet: format!("10.{}.{}.0/24", number >> 8, number & 255).parse().unwrap(),
        identity: identity(number + 1),
        paths: PathKind::ALL.to_vec(),
    };
    prober.set_targets((0..peers).map(target).collect(), now, &mut || chance.random());
    prober
}

/// Requests in each second, and how many peers and paths were sent to at least once.
fn run(peers: u32, seconds: u32) -> (Vec<u32>, usize) {
    let mut now = Instant::now();
    let mut chance = StdRng::seed_from_u64(1);
    let mut prober = prober(peers, now, &mut chance);
    let (mut counts, mut reached) = (Vec::new(), std::collections::HashSet::new());
    for _ in 0..seconds {
        let mut count = 0;
        for _ in 0..Duration::from_secs(1).as_millis() / TICK.as_millis() {
            now += TICK;
            let requests = prober.handle_time(now, &mut || chance.random());
            count += u32::try_from(requests.len()).unwrap();
            reached.extend(requests.into_iter().map(|one| (one.to, one.path)));
        }
        counts.push(count);
    }
    (counts, reached.len())
}

#[test]
fn the_budget_holds_with_2000_peers_and_nobody_is_forgotten() {
    let (counts, reached) = run(2000, 20);
    assert!(counts.iter().all(|count| *count <= PROBES_PER_SECOND), "{counts:?}");
    assert!(counts[1..].iter().all(|count| *count > PROBES_PER_SECOND / 2), "{counts:?}");
    assert_eq!(reached, 6000);
}

#[test]
fn a_path_is_left_within_three_seconds_up_to_330_peers_on_three_paths() {
    let now = Instant::now();
    let mut chance = StdRng::seed_from_u64(1);
    let pace = prober(330, now, &mut chance).pace();
    assert!(pace.patience + 2 * TICK <= Duration::from_secs(3), "{pace:?}");
    let twice = prober(660, now, &mut chance).pace();
    assert_eq!(twice.interval, 2 * pace.interval, "beyond in proportion");
    let few = prober(3, now, &mut chance).pace();
    assert_eq!(few.interval, Duration::from_millis(500));
    let (counts, _) = run(3, 10);
    assert!(counts[2..].iter().all(|count| (15..=21).contains(count)), "{counts:?}");
}

#[test]
fn strangers_and_repetitions_get_nothing_out_of_it() {
    let mut net = Net::new(2, &[PathKind::Udp, PathKind::Vxlan], 1);
    let mut chance = StdRng::seed_from_u64(3);
    let later = net.now + Duration::from_secs(2);
    let requests = net.nodes[0].handle_time(later, &mut || chance.random());
    let request = &requests[0];
    let [from, stranger]: [IpAddr; 2] = ["10.5.1.0", "10.5.9.0"].map(|one| one.parse().unwrap());
    let node = &mut net.nodes[1];
    assert!(node.handle_datagram(later, request.path, stranger, &request.bytes).is_none());
    let wrong = PathKind::ALL.into_iter().find(|path| *path != request.path).unwrap();
    assert!(node.handle_datagram(later, wrong, from, &request.bytes).is_none(), "another path");
    let replies = (0..100_000)
        .filter(|_| node.handle_datagram(later, request.path, from, &request.bytes).is_some())
        .count();
    assert!((1..=100).contains(&replies), "a flood is answered {replies} times");
}
