//! Links of other sizes than usual, and links that become smaller.

use std::time::Duration;

use weft_bench::lab::{LabOptions, Namespace, Side, wait_until};

use crate::cluster::{Cluster, config};
use crate::load::{Between, Flows};

/// Bytes of the IPv4 and UDP headers around an inner packet, and of those within it.
const HEADERS: u32 = 28;

/// Longest wait for a socket to learn that the path is smaller.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a stream that must outlive a change is long enough for.
const STREAM_BYTES: u64 = 1 << 30;

/// `SO_EE_ORIGIN_ICMP` of linux/errqueue.h, and the ICMP type and code of RFC 1191.
const ORIGIN_ICMP: u8 = 2;
const TOO_BIG: (u8, u8) = (3, 4);

fn flannel_mtu(cluster: &Cluster, side: Side) -> u32 {
    let text = std::fs::read_to_string(cluster.node(side).subnet_file()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("FLANNEL_MTU="));
    value.unwrap().parse().unwrap()
}

/// Datagrams that just fill the overlay's MTU arrive whole, and larger ones are known to be.
fn check_full_size(between: &Between<'_>, overlay_mtu: u32) {
    let largest = usize::try_from(overlay_mtu - HEADERS).unwrap();
    between.echo(largest - 5, largest);
    let flows = Flows { sizes: &[largest], count: 500, ..Flows::default() };
    let received = between.datagrams(flows);
    received.assert_intact();
    assert_eq!(received.received, 500, "{received:?}");
    let size = largest.to_string();
    between.ping(3, &["-M", "do", "-s", &size]);
}

/// Sends datagrams until one comes back as too big for the overlay; gives the MTU it names.
fn learned_mtu(between: &Between<'_>, size: usize) -> u32 {
    let error = between.error(size, false, 20).expect("no error came back");
    assert_eq!(error.error, "EMSGSIZE", "{error:?}");
    assert_eq!((error.origin, (error.icmp_type, error.code)), (ORIGIN_ICMP, TOO_BIG), "{error:?}");
    error.mtu
}

#[test]
fn underlays_of_other_sizes_carry_everything() {
    for mtu in [1280, 1400, 1500, 9000] {
        let overlay_mtu = mtu - HEADERS;
        let options =
            LabOptions { underlay_mtu: mtu, pod_mtu: overlay_mtu, ..LabOptions::default() };
        let Some(cluster) = Cluster::start(options) else { return };
        for side in Side::BOTH {
            assert_eq!(flannel_mtu(&cluster, side), overlay_mtu);
            check_full_size(&cluster.pods_from(side), overlay_mtu);
            cluster.pods_from(side).tcp(2, 64 << 20);
        }
        cluster.finish();
    }
}

fn set_mtu(namespace: &Namespace, device: &str, mtu: u32) {
    namespace.ip(&["link", "set", device, "mtu", &mtu.to_string()]).unwrap();
}

/// The hosts' links differ, and each host sends no more than the other takes.
#[test]
fn hosts_with_different_underlay_sizes_understand_each_other() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    set_mtu(cluster.lab.host(Side::Two), "u2", 1400);
    set_mtu(cluster.lab.host(Side::Two), "c2", 1372);
    set_mtu(cluster.lab.pod(Side::Two), "eth0", 1372);
    for side in Side::BOTH {
        cluster.start_weft(side, &config(false));
    }
    cluster.wait_for_traffic();
    assert_eq!(Side::BOTH.map(|side| flannel_mtu(&cluster, side)), [1472, 1372]);
    for side in Side::BOTH {
        check_full_size(&cluster.pods_from(side), 1372);
        cluster.pods_from(side).tcp(2, 64 << 20);
    }
    assert_eq!(learned_mtu(&cluster.pods_from(Side::One), 1444), 1372);
    // What may be fragmented is, and arrives.
    cluster.pods_from(Side::One).echo_in_fragments(1344, 1444);
    cluster.finish();
}

/// A stream runs on while `shrink` makes the way from host 1 smaller, and afterwards datagrams of
/// either kind learn of it or are fragmented.
fn a_stream_outlives(cluster: &Cluster, shrink: impl FnOnce()) {
    let between = cluster.pods_from(Side::One);
    assert_eq!(cluster.counter(Side::One, "other", "path_mtu_lowered"), 0);
    between.tcp_meanwhile(1, STREAM_BYTES, || {
        wait_for_bytes(cluster, 32 << 20);
        shrink();
        assert!(cluster.counter(Side::One, "outbound", "bytes_out") < STREAM_BYTES);
    });
    assert!(cluster.counter(Side::One, "other", "path_mtu_lowered") > 0);
    assert!(cluster.counter(Side::One, "other", "icmp_sent") > 0);
    let peers = cluster.ask(Side::One, "peers");
    // Shown as what is left for packets of the overlay.
    assert_eq!(peers["peers"][0]["path_mtu"], 1300 - HEADERS, "{peers}");
}

fn wait_for_bytes(cluster: &Cluster, bytes: u64) {
    wait_until("the stream to run", PATIENCE, || {
        let sent = cluster.counter(Side::One, "outbound", "bytes_out");
        Ok((sent > bytes).then_some(()))
    })
    .unwrap();
}

/// After the way from host 1 has shrunk to 1300 bytes.
fn check_shrunk(cluster: &Cluster) {
    let between = cluster.pods_from(Side::One);
    // The pod's kernel remembers what the stream has learned; it must learn it again.
    cluster.lab.pod(Side::One).ip(&["route", "flush", "cache"]).unwrap();
    assert_eq!(learned_mtu(&between, 1444), 1300 - HEADERS);
    check_full_size(&between, 1300 - HEADERS);
    let before = cluster.counter(Side::One, "other", "fragments_made");
    between.echo_in_fragments(1300, 1444);
    assert!(cluster.counter(Side::One, "other", "fragments_made") > before);
    between.tcp(4, 64 << 20);
}

#[test]
fn a_stream_outlives_a_route_that_shrinks() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let host = cluster.lab.host(Side::One);
    let other = Side::Two.underlay_address().to_string();
    a_stream_outlives(&cluster, || {
        host.ip(&["route", "add", &other, "dev", "u1", "mtu", "1300"]).unwrap();
    });
    check_shrunk(&cluster);
    cluster.finish();
}

#[test]
fn a_stream_outlives_a_link_behind_a_router_that_shrinks() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    cluster.lab.put_router_between().unwrap();
    for side in Side::BOTH {
        cluster.start_weft(side, &config(false));
    }
    cluster.wait_for_traffic();
    a_stream_outlives(&cluster, || {
        // Host 1 hears of it from the router only.
        set_mtu(cluster.lab.host(Side::Two), "u2", 1300);
        set_mtu(cluster.lab.router().unwrap(), "u2", 1300);
    });
    check_shrunk(&cluster);
    cluster.pods_from(Side::Two).tcp(2, 64 << 20);
    cluster.finish();
}

#[test]
fn pods_whose_size_is_too_large_are_served() {
    for pod_mtu in [1500, 9000] {
        let options = LabOptions { pod_mtu, ..LabOptions::default() };
        let Some(cluster) = Cluster::start(options) else { return };
        for side in Side::BOTH {
            let between = cluster.pods_from(side);
            between.tcp(4, 128 << 20);
            assert_eq!(learned_mtu(&between, 1460), 1472);
            between.echo_in_fragments(1440, 1472);
            between.echo_in_fragments(8950, 8960);
        }
        assert!(cluster.counter(Side::One, "other", "mss_clamped") > 0);
        cluster.finish();
    }
}
