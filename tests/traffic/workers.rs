//! Several workers a host: every flow stays in order and whole, all workers have their share, and
//! their counters add up; also with a host that has one worker, and with a peer that knows of none.

use std::time::{Duration, Instant};

use serde_json::Value;
use weft_bench::lab::{LabOptions, NETWORK, Side, wait_until};

use crate::cluster::{Cluster, config};
use crate::ipv6;
use crate::load::Flows;
use crate::peer::PythonPeer;

const MEBIBYTE: u64 = 1 << 20;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Many flows, so that no worker is left without some.
const FLOWS: Flows<'_> = Flows {
    flows: 16,
    count: 3_000,
    sizes: &[64, 1200, 300],
    run: 7,
    burst: 25,
    pause: 0.001,
    fragment: false,
    source: None,
};

/// Hosts may send from `source_ports` ports.
fn config_with(source_ports: u16) -> String {
    format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"udp","SourcePorts":{source_ports}}}}}"#)
}

fn start(cluster: &mut Cluster, side: Side, config: &str, engine: &str, workers: u16) {
    let workers = workers.to_string();
    cluster.start_weft_with(side, config, &["--engine", engine, "--workers", &workers]);
    cluster.keep_kernel_in_order();
}

fn workers(cluster: &Cluster, side: Side) -> Value {
    cluster.ask(side, "status")["workers"].take()
}

/// Inner packets of each worker of a host, in one direction.
fn shares(cluster: &Cluster, side: Side, direction: &str) -> Vec<u64> {
    let workers = workers(cluster, side);
    let share = |worker: &Value| worker[format!("{direction}_segments")].as_u64().unwrap();
    workers["each"].as_array().unwrap().iter().map(share).collect()
}

/// What the workers of a host counted is what the host says.
fn assert_sums(cluster: &Cluster, side: Side) {
    let status = cluster.ask(side, "status");
    for direction in ["outbound", "inbound"] {
        let each = status["workers"]["each"].as_array().unwrap();
        let share = |worker: &Value| worker[format!("{direction}_segments")].as_u64().unwrap();
        let sum: u64 = each.iter().map(share).sum();
        assert_eq!(status["traffic"][direction]["segments_in"], sum, "{status}");
    }
}

/// Streams and datagrams in both directions at once.
fn exchange(cluster: &Cluster) {
    std::thread::scope(|scope| {
        for side in Side::BOTH {
            scope.spawn(move || cluster.pods_from(side).tcp(8, 64 * MEBIBYTE));
        }
    });
    for side in Side::BOTH {
        let received = cluster.pods_from(side).datagrams(FLOWS);
        received.assert_intact();
        assert_eq!(received.flows, FLOWS.flows);
        // A busy machine may lose some in a full queue.
        assert!(received.received > FLOWS.flows * FLOWS.count / 2, "{received:?}");
        cluster.pods_from(side).echo_in_fragments(3000, 3010);
        assert_sums(cluster, side);
    }
}

fn both_sides(engine: &str) {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        start(&mut cluster, side, &config_with(2), engine, 2);
        assert_eq!(workers(&cluster, side)["count"], 2);
    }
    cluster.wait_for_traffic();
    exchange(&cluster);
    for side in Side::BOTH {
        for direction in ["outbound", "inbound"] {
            let shares = shares(&cluster, side, direction);
            assert!(shares.iter().all(|share| *share > 1000), "{direction}: {shares:?}");
        }
    }
    cluster.finish();
}

#[test]
fn two_workers_a_host_with_uring() {
    both_sides("uring");
}

#[test]
fn two_workers_a_host_with_epoll() {
    both_sides("epoll");
}

/// What worker *n* sends, worker *n* of the other host receives, in one direction and the other.
#[test]
fn a_flow_has_one_worker_from_end_to_end() {
    let Some(mut cluster) = Cluster::bare(ipv6::options()) else { return };
    ipv6::add_underlay_addresses(&cluster);
    let with_ipv6 = config(true).replace(r#""udp""#, r#""udp","SourcePorts":4"#);
    for side in Side::BOTH {
        // Workers carry the acknowledgements, too.
        let flags = ["--workers", "3", "--without", "shortcut"];
        cluster.start_weft_with(side, &with_ipv6, &flags);
        cluster.keep_kernel_in_order();
    }
    cluster.wait_for_traffic();
    let pairs = [cluster.pods_from(Side::One), cluster.pods_from_v6(Side::One)];
    for between in pairs {
        for _ in 0..3 {
            let before = counts(&cluster);
            between.tcp(1, 16 * MEBIBYTE);
            let grown: Vec<Option<usize>> = counts(&cluster)
                .iter()
                .zip(&before)
                .map(|(now, then)| busiest(now, then))
                .collect();
            assert!(
                grown.iter().all(|worker| worker.is_some() && *worker == grown[0]),
                "{grown:?}"
            );
        }
    }
    cluster.finish();
}

/// The shares of all workers, for both hosts and directions.
fn counts(cluster: &Cluster) -> Vec<Vec<u64>> {
    let both = ["outbound", "inbound"].map(|way| Side::BOTH.map(|side| shares(cluster, side, way)));
    both.into_iter().flatten().collect()
}

/// The one worker that has handled more than what the hosts themselves say now and then.
fn busiest(now: &[u64], then: &[u64]) -> Option<usize> {
    let grown = |worker: &usize| now[*worker] - then[*worker] > 50;
    let mut workers = (0..now.len()).filter(grown);
    workers.next().filter(|_| workers.next().is_none())
}

#[test]
fn two_workers_against_one() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    start(&mut cluster, Side::One, &config_with(2), "auto", 2);
    start(&mut cluster, Side::Two, &config_with(2), "auto", 1);
    cluster.wait_for_traffic();
    exchange(&cluster);
    assert!(shares(&cluster, Side::One, "outbound").iter().all(|share| *share > 1000));
    // A host with one worker says nothing of several ports, and has only one to send from.
    let inbound = shares(&cluster, Side::One, "inbound");
    assert!(inbound[0] > 1000 && inbound[1] == 0, "{inbound:?}");
    cluster.finish();
}

/// It has one port, so everything comes from there and goes to the first worker.
#[test]
fn two_workers_against_the_simple_peer() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    start(&mut cluster, Side::One, &config_with(2), "auto", 2);
    let peer = PythonPeer::start(&cluster, "10.244.2.0-24");
    cluster.wait_for_traffic();
    let foreign = "nft add table ip ports; nft add chain ip ports out \
        '{ type filter hook output priority 0; }'; \
        nft add rule ip ports out udp dport 8285 udp sport != 8285 counter drop";
    cluster.lab.host(Side::One).run(&["sh", "-c", foreign]).unwrap();
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(4, 16 * MEBIBYTE);
        let flows = Flows { flows: 8, count: 500, burst: 5, pause: 0.01, ..FLOWS };
        let received = between.datagrams(flows);
        received.assert_intact();
        // A busy machine may lose some in a full queue.
        assert!(received.received > flows.flows * flows.count / 2, "{received:?}");
    }
    let rules = cluster.lab.host(Side::One).run(&["nft", "list", "table", "ip", "ports"]).unwrap();
    assert!(rules.contains("counter packets 0"), "{rules}");
    assert!(shares(&cluster, Side::One, "outbound").iter().all(|share| *share > 100));
    assert_eq!(shares(&cluster, Side::One, "inbound")[1], 0);
    peer.stop();
    cluster.finish();
}

#[test]
fn fewer_workers_than_asked_for_are_explained() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    start(&mut cluster, Side::One, &config(false), "auto", 2);
    let found = workers(&cluster, Side::One);
    assert_eq!((&found["count"], &found["asked_for"]), (&1.into(), &2.into()), "{found}");
    let reason = found["fewer_because"].as_str().unwrap();
    assert!(reason.contains("Backend.SourcePorts to 2"), "{reason}");
    let log = cluster.stop_daemons().concat();
    assert_eq!(log.matches("fewer packet workers").count(), 1, "{log}");
    cluster.finish();
}

/// Sockets are replaced while the daemons run, and what arrives at the new ones is divided as well.
#[test]
fn workers_go_over_to_another_port() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        start(&mut cluster, side, &config_with(2), "auto", 2);
    }
    cluster.wait_for_traffic();
    let directory = cluster.node(Side::One).lease_directory().to_owned();
    let moved = config_with(2).replace(r#""udp""#, r#""udp","Port":8400"#);
    std::fs::write(directory.join(".new"), moved).unwrap();
    std::fs::rename(directory.join(".new"), directory.join("config")).unwrap();
    for side in Side::BOTH {
        let port = || cluster.ask(side, "status")["network"]["port"].take();
        let gone_over = || Ok((port() == 8400).then_some(()));
        wait_until("the new port", 2 * PATIENCE, gone_over).unwrap();
    }
    cluster.wait_for_traffic();
    let before = counts(&cluster);
    exchange(&cluster);
    for (now, then) in counts(&cluster).iter().zip(before) {
        let grown: Vec<u64> = now.iter().zip(then).map(|(now, then)| now - then).collect();
        assert!(grown.iter().all(|grown| *grown > 1000), "{grown:?}");
    }
    cluster.finish();
}

/// A host is killed and started again with another number of workers while streams run.
#[test]
fn streams_outlive_a_kill_and_another_number_of_workers() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        start(&mut cluster, side, &config_with(3), "auto", 2);
    }
    cluster.wait_for_traffic();
    for (side, workers) in [(Side::Two, 2), (Side::One, 3), (Side::Two, 1), (Side::Two, 3)] {
        let received = |cluster: &Cluster| cluster.counter(Side::Two, "inbound", "bytes_in");
        let (begun, before) = (Instant::now(), received(&cluster));
        let running = cluster.pods_from(Side::One).start_tcp(4, 256 * MEBIBYTE);
        while received(&cluster) - before < 16 * MEBIBYTE {
            assert!(begun.elapsed() < PATIENCE, "the streams do not run");
        }
        let dying = cluster.kill_weft(side);
        start(&mut cluster, side, &config_with(3), "auto", workers);
        drop(dying);
        running.finish();
    }
    exchange(&cluster);
    cluster.finish();
}
