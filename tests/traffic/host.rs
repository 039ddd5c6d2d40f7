//! Traffic of the hosts themselves, and hosts that filter by the way back.

use std::net::IpAddr;

use weft_bench::lab::{LabOptions, Side};

use crate::cluster::Cluster;
use crate::load::{Between, Flows};

const MEBIBYTE: u64 = 1 << 20;

/// Everything in both directions, a little of each.
fn check_all(between: &Between<'_>) {
    between.ping(5, &[]);
    between.tcp(2, 16 * MEBIBYTE);
    between.echo(1, 50);
}

/// A host's packets into the overlay carry the first address of its subnet, as flanneld's do.
#[test]
fn hosts_and_pods_reach_each_other() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let lab = &cluster.lab;
    for side in Side::BOTH {
        let other = side.other();
        let (host, there) = (lab.host(side), lab.host(other));
        let from_host =
            Between { from: host, to: lab.pod(other), address: IpAddr::V4(other.pod_address()) };
        assert_eq!(from_host.tcp(2, 64 * MEBIBYTE), side.overlay_address().to_string());
        check_all(&from_host);
        for address in [other.overlay_address(), other.gateway_address()] {
            let address = IpAddr::V4(address);
            let to_host = Between { from: lab.pod(side), to: there, address };
            assert_eq!(to_host.tcp(2, 64 * MEBIBYTE), side.pod_address().to_string());
            check_all(&to_host);
            let between_hosts = Between { from: host, to: there, address };
            assert_eq!(between_hosts.tcp(1, MEBIBYTE), side.overlay_address().to_string());
            check_all(&between_hosts);
        }
    }
    cluster.finish();
}

#[test]
fn filters_by_the_way_back_let_the_overlay_pass() {
    for rp_filter in [0, 1, 2] {
        let options = LabOptions { rp_filter, ..LabOptions::default() };
        let Some(cluster) = Cluster::start(options) else { return };
        for side in Side::BOTH {
            check_all(&cluster.pods_from(side));
        }
        check_foreign_source(&cluster);
        let value = ["cat", "/proc/sys/net/ipv4/conf/flannel0/rp_filter"];
        let expected = if rp_filter == 0 { "0" } else { "2" };
        assert_eq!(cluster.lab.host(Side::One).run(&value).unwrap().trim(), expected);
        cluster.finish();
    }
}

/// A host may use any of its addresses. The way back to this one is not through `flannel0`, which a
/// strict filter on that device would hold against it.
fn check_foreign_source(cluster: &Cluster) {
    let source = IpAddr::V4(Side::Two.underlay_address());
    let between = Between {
        from: cluster.lab.host(Side::Two),
        to: cluster.lab.pod(Side::One),
        address: IpAddr::V4(Side::One.pod_address()),
    };
    let flows = Flows { source: Some(source), ..Flows::default() };
    let received = between.datagrams(flows);
    received.assert_intact();
    assert_eq!(received.received, flows.count);
    assert_eq!(received.sources, [source.to_string()]);
}
