//! Small packets that the kernel carries past the workers, among those that the workers carry.

use std::io::{self, Write};
use std::time::Duration;

use weft_bench::lab::{LabOptions, Side, wait_until};

use crate::cluster::{Cluster, config};
use crate::kernel::version;
use crate::load::{Between, Flows};

/// Longest wait for a peer to be given a shortcut, which takes a second at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// Linux that has a place for the programs.
const LINUX: (u32, u32) = (6, 6);

/// A lab without daemons. `None`, said aloud, where there cannot be a shortcut.
fn bare() -> Option<Cluster> {
    let (major, minor) = version();
    if (major, minor) < LINUX {
        // Not `eprintln!`, which the harness holds back while a test passes.
        let line = format!("SKIPPED: a test of the shortcut: Linux {major}.{minor} has none\n");
        io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    }
    Cluster::bare(LabOptions::default())
}

/// A lab with a daemon on both hosts, between which single packets take the shortcut.
fn start() -> Option<Cluster> {
    let mut cluster = bare()?;
    for side in Side::BOTH {
        cluster.start_weft(side, &config(false));
    }
    cluster.wait_for_traffic();
    wait_for_shortcut(&cluster);
    Some(cluster)
}

/// What took the shortcut on a side: sent and received.
fn taken(cluster: &Cluster, side: Side) -> [u64; 2] {
    let status = cluster.ask(side, "status");
    let shortcut = &status["traffic"]["shortcut"];
    ["packets_out", "packets_in"].map(|name| shortcut[name].as_u64().unwrap_or(0))
}

/// Sends echo requests until one takes the shortcut both ways.
fn wait_for_shortcut(cluster: &Cluster) {
    wait_until("a packet to take the shortcut", PATIENCE, || {
        let before = Side::BOTH.map(|side| taken(cluster, side));
        cluster.pods_from(Side::One).ping_loss(&["-c", "1"]);
        let now = Side::BOTH.map(|side| taken(cluster, side));
        let all = before.as_flattened().iter().zip(now.as_flattened()).all(|(old, new)| new > old);
        Ok(all.then_some(()))
    })
    .unwrap();
}

#[test]
fn single_packets_take_it_and_streams_do_not() {
    let Some(cluster) = start() else { return };
    for side in Side::BOTH {
        assert_eq!(cluster.ask(side, "status")["engine"]["features"]["shortcut"], true);
    }
    let sent = |side| cluster.counter(side, "outbound", "segments_out");
    let (workers, kernel) = (Side::BOTH.map(sent), Side::BOTH.map(|side| taken(&cluster, side)));
    cluster.pods_from(Side::One).ping(50, &[]);
    for (place, side) in Side::BOTH.into_iter().enumerate() {
        let [out, into] = taken(&cluster, side);
        assert!(out >= kernel[place][0] + 50 && into >= kernel[place][1] + 50, "{side:?}");
        assert!(sent(side) < workers[place] + 50, "{side:?}: workers have carried them, too");
    }
    let workers = sent(Side::One);
    cluster.pods_from(Side::One).tcp(2, 64 << 20);
    assert!(sent(Side::One) > workers + 40_000);
    cluster.finish();
}

/// The kernel carries some of a flow and workers others, in turn.
#[test]
fn a_flow_keeps_its_order_on_both_ways() {
    let Some(cluster) = start() else { return };
    cluster.keep_kernel_in_order();
    let sent = || cluster.counter(Side::One, "outbound", "segments_out");
    for (sizes, count, burst, pause) in [
        // Each alone: the long ones by workers, the short ones not.
        (&[16, 1400][..], 40, 1, 0.2),
        // Short ones behind long ones.
        (&[1400, 16], 2000, 2, 0.003),
        (&[16, 1400, 400, 700], 4000, 40, 0.01),
        // So many at once that workers take over in between, if the machine is fast enough.
        (&[64], 3000, 300, 0.2),
        (&[64, 100, 64, 64], 4000, 400, 0.2),
    ] {
        let flows = Flows { flows: 2, count, sizes, burst, pause, ..Flows::default() };
        let (workers, [kernel, _]) = (sent(), taken(&cluster, Side::One));
        let received = cluster.pods_from(Side::One).datagrams(flows);
        received.assert_intact();
        assert_eq!(received.received, 2 * count, "{received:?}");
        if burst == 1 {
            let by = [sent() - workers, taken(&cluster, Side::One)[0] - kernel];
            assert!(by.iter().all(|by| *by > 20), "{by:?} by workers and by the kernel");
        }
    }
    cluster.finish();
}

#[test]
fn a_host_without_it_gets_everything_from_workers() {
    let Some(mut cluster) = bare() else { return };
    cluster.start_weft(Side::One, &config(false));
    cluster.start_weft_with(Side::Two, &config(false), &["--without", "shortcut"]);
    cluster.wait_for_traffic();
    assert_eq!(cluster.ask(Side::Two, "status")["engine"]["features"]["shortcut"], false);
    for side in Side::BOTH {
        cluster.pods_from(side).ping(20, &[]);
    }
    assert_eq!(Side::BOTH.map(|side| taken(&cluster, side)), [[0, 0]; 2]);

    // It says so once it has one.
    drop(cluster.take_weft(Side::Two));
    cluster.start_weft(Side::Two, &config(false));
    cluster.wait_for_traffic();
    wait_for_shortcut(&cluster);
    cluster.finish();
}

#[test]
fn it_is_there_again_after_a_kill() {
    let Some(mut cluster) = start() else { return };
    drop(cluster.kill_weft(Side::Two));
    cluster.start_weft(Side::Two, &config(false));
    cluster.wait_for_traffic();
    wait_for_shortcut(&cluster);
    cluster.pods_from(Side::One).ping(20, &[]);
    cluster.finish();
}

#[test]
fn where_a_peer_is_reached_otherwise_nothing_is_sent_on_it() {
    let Some(cluster) = start() else { return };
    let host = cluster.lab.host(Side::One);
    let other = Side::Two.underlay_address().to_string();
    host.ip(&["address", "add", "198.51.100.1/32", "dev", "lo"]).unwrap();
    let route = [other.as_str(), "dev", "u1", "src", "198.51.100.1"];
    host.ip(&[&["route", "add"][..], &route].concat()).unwrap();
    let stands_still = || {
        let [before, _] = taken(&cluster, Side::One);
        cluster.pods_from(Side::One).ping_loss(&["-c", "3", "-i", "0.01"]);
        Ok((taken(&cluster, Side::One)[0] == before).then_some(()))
    };
    wait_until("the shortcut to be given up", PATIENCE, stands_still).unwrap();
    host.ip(&[&["route", "delete"][..], &route].concat()).unwrap();
    wait_for_shortcut(&cluster);
    // IPsec decides about what leaves the host, and the shortcut would pass it by.
    let policy = ["dst", "203.0.113.0/24", "dir", "out"];
    host.ip(&[&["xfrm", "policy", "add"][..], &policy, &["action", "block"]].concat()).unwrap();
    wait_until("the shortcut to be given up", PATIENCE, stands_still).unwrap();
    host.ip(&[&["xfrm", "policy", "delete"][..], &policy].concat()).unwrap();
    wait_for_shortcut(&cluster);
    cluster.finish();
}

/// As when a card is put into a bridge, which gets its address.
#[test]
fn it_follows_the_address_to_another_device() {
    let Some(cluster) = start() else { return };
    let host = cluster.lab.host(Side::One);
    let address = format!("{}/24", Side::One.underlay_address());
    for words in [
        &["link", "add", "br0", "type", "bridge"][..],
        &["link", "set", "br0", "up"],
        &["link", "set", "u1", "master", "br0"],
        &["address", "delete", &address, "dev", "u1"],
        &["address", "add", &address, "dev", "br0"],
    ] {
        host.ip(words).unwrap();
    }
    cluster.wait_for_traffic();
    wait_for_shortcut(&cluster);
    cluster.pods_from(Side::One).ping(20, &[]);
    cluster.finish();
}

/// The kernel does not put headers around what has some already, so that workers do.
#[test]
fn what_pods_encapsulate_themselves_arrives() {
    let Some(cluster) = start() else { return };
    let inside = |side: Side| format!("172.31.0.{}", if side == Side::One { 1 } else { 2 });
    for side in Side::BOTH {
        let (pod, other) = (cluster.lab.pod(side), side.other().pod_address().to_string());
        let vxlan = ["type", "vxlan", "id", "7", "dstport", "4789", "remote", &other];
        pod.ip(&[&["link", "add", "vx0"][..], &vxlan, &["dev", "eth0"]].concat()).unwrap();
        pod.ip(&["address", "add", &format!("{}/24", inside(side)), "dev", "vx0"]).unwrap();
        pod.ip(&["link", "set", "vx0", "mtu", "1400", "up"]).unwrap();
    }
    let between =
        Between { address: inside(Side::Two).parse().unwrap(), ..cluster.pods_from(Side::One) };
    between.ping(20, &[]);
    between.tcp(2, 8 << 20);
    for side in Side::BOTH {
        assert_eq!(cluster.ask(side, "status")["traffic"]["shortcut"]["lost"], 0, "{side:?}");
    }
    cluster.finish();
}

#[test]
fn sealed_packets_have_none() {
    let Some(mut cluster) = bare() else { return };
    let sealing = crate::sealed::config();
    for side in Side::BOTH {
        cluster.start_weft(side, &sealing);
    }
    cluster.wait_for_traffic();
    cluster.pods_from(Side::One).ping(10, &[]);
    for side in Side::BOTH {
        assert_eq!(cluster.ask(side, "status")["engine"]["features"]["shortcut"], false);
        assert_eq!(taken(&cluster, side), [0, 0]);
    }
    cluster.finish();
}
