//! Days of a node's life with etcd: a day takes six seconds here, and the margin is half of it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_ctrl::source::etcd::{Endpoints, EtcdOptions, Patience};

use super::namespace::in_new_namespace;
use super::relay::{Relay, Wire};
use super::server::{EtcdServer, can_run_etcd};
use super::{World, until};

const DAY: Duration = Duration::from_secs(6);

const CONFIG: &str = r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.128.0"}"#;

/// Bounds a wait against a hang.
const PATIENCE: Duration = Duration::from_secs(40);

fn world(url: &str) -> World {
    let endpoints = Endpoints::parse(url, false).unwrap().servers;
    let second = Duration::from_secs(1);
    let options = EtcdOptions {
        lifetime: DAY,
        patience: Patience { connect: second, request: second, keep_alive: second },
        check_period: Duration::from_millis(500),
        ..EtcdOptions::new(endpoints, "/coreos.com/network")
    };
    World { etcd: Some(options), renew_margin: DAY / 2, ..World::new() }
}

async fn wait(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

#[test]
fn days_of_renewals_an_outage_and_a_new_day() {
    if !can_run_etcd() {
        return;
    }
    in_new_namespace("life", || async {
        let server = EtcdServer::start();
        server.ctl(&["put", "/coreos.com/network/config", CONFIG]);
        let peer = "/coreos.com/network/subnets/10.244.7.0-24";
        server.ctl(&["put", peer, r#"{"PublicIP":"10.168.0.3","PublicIPv6":null}"#]);
        let world = world(&server.url());
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let key = format!("/coreos.com/network/subnets/{lease}");
                let etcd_lease = || {
                    let text = server.ctl(&["get", "--write-out=json", &key]);
                    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
                    answer["kvs"][0]["lease"].as_i64()
                };
                // Four days. The key is never gone, and each renewal is another etcd lease.
                let mut known = vec![etcd_lease().expect("it is there")];
                let end = Instant::now() + 4 * DAY;
                while Instant::now() < end {
                    let now = etcd_lease().expect("the key is always there");
                    if known.last() != Some(&now) {
                        known.push(now);
                    }
                    assert!(world.status.is_ready(), "{:?}", world.status());
                    sleep(Duration::from_millis(200)).await;
                }
                // One before and about one for each half of a day; fewer on a busy machine.
                assert!((4..=12).contains(&known.len()), "{known:?}");
                assert_eq!(server.granted(&key), Some(DAY.as_secs()));

                // The store is silent for longer than a day: first a problem, then not ready.
                server.signal("STOP");
                wait("the day is over", || !world.status.is_ready()).await;
                let problems = world.status().problems;
                assert!(problems.iter().any(|one| one.contains("cannot be kept")), "{problems:?}");
                assert_eq!(tables.last().unwrap().peers().len(), 1, "packets go on");
                server.signal("CONT");
                wait("a new day", || world.status.is_ready()).await;
                assert_eq!(world.status().lease.unwrap().name, lease, "the same subnet");
                assert_eq!(tables.last().unwrap().peers().len(), 1);
            })
            .await;
    });
}

/// The other hosts reach the store all the time: they see its lease run out and take the host out, as
/// they do with flanneld. The host itself keeps what it has, and puts its lease back.
#[test]
fn a_host_alone_is_cut_off_for_longer_than_its_lease() {
    if !can_run_etcd() {
        return;
    }
    in_new_namespace("cut off", || async {
        let server = EtcdServer::start();
        server.ctl(&["put", "/coreos.com/network/config", CONFIG]);
        let peer = "/coreos.com/network/subnets/10.244.7.0-24";
        server.ctl(&["put", peer, r#"{"PublicIP":"10.168.0.3","PublicIPv6":null}"#]);
        let relay = Relay::to(server.port()).await;
        let world = world(&relay.url());
        world
            .run(async |lease, tables| {
                until("ready", || world.status.is_ready()).await;
                let key = format!("/coreos.com/network/subnets/{lease}");
                let value = server.value(&key);
                let keeps_all = || {
                    assert_eq!(world.status().lease.unwrap().name, lease);
                    tables.0.borrow()[1..].iter().all(|table| table.peers().len() == 1)
                };
                relay.set(Wire::Swallows);
                wait("the others see it go", || server.value(&key).is_none()).await;
                wait("not ready", || !world.status.is_ready()).await;
                assert!(keeps_all(), "packets go on");
                relay.set(Wire::Whole);
                wait("the same subnet again", || server.value(&key) == value).await;
                wait("ready again", || world.status.is_ready()).await;
                assert_eq!(server.granted(&key), Some(DAY.as_secs()));

                let theirs = r#"{"PublicIP":"10.168.0.9","PublicIPv6":null}"#;
                relay.set(Wire::Swallows);
                wait("gone again", || server.value(&key).is_none()).await;
                server.ctl(&["put", &key, theirs]);
                relay.set(Wire::Whole);
                let told = || world.status().problems.iter().any(|one| one.contains("taken"));
                wait("told that it is taken", told).await;
                assert!(!world.status.is_ready());
                assert_eq!(server.value(&key).as_deref(), Some(theirs));
                assert!(keeps_all(), "no pod is renumbered");
                server.ctl(&["del", &key]);
                wait("ours again", || server.value(&key) == value).await;
                wait("ready at last", || world.status.is_ready()).await;
            })
            .await;
    });
}
