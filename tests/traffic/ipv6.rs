//! IPv6 packets between pods.

use std::net::IpAddr;

use weft_bench::lab::{LabOptions, Side};

use crate::cluster::{Cluster, config};
use crate::load::Flows;
use crate::peer::PythonPeer;

/// What is left of 1500 bytes below the headers of IPv6 and UDP, so that either outer family fits.
const OVERLAY_MTU: u32 = 1452;

/// A lab whose pods have both families.
pub(crate) fn options() -> LabOptions {
    LabOptions { ipv6: true, pod_mtu: OVERLAY_MTU, ..LabOptions::default() }
}

/// A host with both families has an address of both on its interface.
pub(crate) fn add_underlay_addresses(cluster: &Cluster) {
    for side in Side::BOTH {
        let address = format!("fd00:168::{}/64", side.number() + 1);
        let device = side.underlay_device();
        let arguments = ["address", "add", &address, "dev", device, "nodad"];
        cluster.lab.host(side).ip(&arguments).unwrap();
    }
}

fn start() -> Option<Cluster> {
    start_with(options())
}

/// A daemon on both hosts, which carry IPv6 packets as well.
pub(crate) fn start_with(options: LabOptions) -> Option<Cluster> {
    let mut cluster = Cluster::bare(options)?;
    add_underlay_addresses(&cluster);
    for side in Side::BOTH {
        cluster.start_weft(side, &config(true));
    }
    cluster.wait_for_traffic();
    Some(cluster)
}

#[test]
fn pods_reach_each_other_over_both_families() {
    let Some(cluster) = start() else { return };
    for side in Side::BOTH {
        let between = cluster.pods_from_v6(side);
        between.ping(20, &[]);
        between.ping(3, &["-s", "3000"]);
        assert_eq!(between.tcp(4, 256 << 20), side.pod_address_v6().to_string());
        // 48 bytes of IPv6 and UDP headers.
        between.echo(0, usize::try_from(OVERLAY_MTU).unwrap() - 48);
        between.echo_in_fragments(4000, 4005);
        cluster.pods_from(side).tcp(2, 64 << 20);
    }
    cluster.finish();
}

#[test]
fn flows_over_ipv6_stay_in_order_and_unchanged() {
    let Some(cluster) = start() else { return };
    cluster.keep_kernel_in_order();
    for side in Side::BOTH {
        let between = cluster.pods_from_v6(side);
        let flows = Flows {
            flows: 8,
            count: 5_000,
            sizes: &[64, 1400, 300],
            run: 5,
            burst: 25,
            ..Flows::default()
        };
        let received = between.datagrams(flows);
        received.assert_intact();
        assert!(received.received > flows.flows * flows.count / 2, "{received:?}");
        let flows = Flows { sizes: &[12, 1000, 1404], count: 320, burst: 32, ..Flows::default() };
        let received = between.segmented_datagrams(flows);
        received.assert_intact();
        assert_eq!(received.received, 3 * flows.count, "{received:?}");
    }
    cluster.finish();
}

/// Routers do not fragment IPv6, so the sender must be told of a path that is smaller.
#[test]
fn a_smaller_path_is_reported_to_ipv6_senders() {
    let Some(cluster) = start() else { return };
    let host = cluster.lab.host(Side::One);
    for address in ["10.168.0.3", "fd00:168::3"] {
        host.ip(&["route", "add", address, "dev", "u1", "mtu", "1400"]).unwrap();
    }
    let between = cluster.pods_from_v6(Side::One);
    let error = between.error(1404, false, 5).expect("no error came back");
    // SO_EE_ORIGIN_ICMP6, and "packet too big" of RFC 4443.
    assert_eq!((error.origin, error.icmp_type, error.code), (3, 2, 0), "{error:?}");
    let peers = cluster.ask(Side::One, "peers");
    assert_eq!(peers["peers"][0]["path_mtu"], error.mtu, "{peers}");
    assert!((1280..1400).contains(&error.mtu), "{error:?}");
    let largest = usize::try_from(error.mtu).unwrap() - 48;
    between.echo(largest - 2, largest);
    between.echo_in_fragments(largest + 1, largest + 20);
    between.tcp(2, 64 << 20);
    cluster.finish();
}

/// A lease with an IPv6 subnet is not enough: the peer must say that it takes IPv6 packets, or it
/// would read them as IPv4.
#[test]
fn a_peer_that_does_not_take_ipv6_gets_none() {
    let Some(mut cluster) = Cluster::bare(options()) else { return };
    add_underlay_addresses(&cluster);
    cluster.start_weft(Side::One, &config(true));
    let peer = PythonPeer::start(&cluster, "10.244.2.0-24&fd00:244:2::-64");
    let between = cluster.pods_from(Side::One);
    cluster
        .lab
        .wait_for_reply(Side::One, between.address, crate::peer::PATIENCE, || Ok(()))
        .unwrap();

    let error = cluster.pods_from_v6(Side::One).error(100, false, 3).expect("no error came back");
    // SO_EE_ORIGIN_ICMP6, and "destination unreachable" of RFC 4443.
    assert_eq!((error.origin, error.icmp_type), (3, 1), "{error:?}");
    assert_ne!(error.offender, IpAddr::V6(Side::One.gateway_address_v6()));
    assert!(cluster.dropped(Side::One, "outbound", "no_route_inner_v6") > 0);
    between.tcp(1, 1 << 20);
    peer.stop();
    cluster.finish();
}
