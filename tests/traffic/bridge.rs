//! Pods behind a bridge, with connection tracking and masquerading, as container runtimes have it.

use std::net::IpAddr;

use weft_bench::lab::{LabOptions, Side, Topology};

use crate::cluster::Cluster;
use crate::load::{Between, Flows};

#[test]
fn pods_behind_a_bridge_keep_their_addresses_within_the_overlay() {
    let options = LabOptions { topology: Topology::Bridge, ..LabOptions::default() };
    let Some(cluster) = Cluster::start(options) else { return };
    for side in Side::BOTH {
        let (pod, between) = (side.pod_address().to_string(), cluster.pods_from(side));
        between.ping(5, &[]);
        assert_eq!(between.tcp(4, 128 << 20), pod);
        let flows = Flows { flows: 4, sizes: &[64, 1444], ..Flows::default() };
        let received = between.datagrams(flows);
        received.assert_intact();
        assert_eq!(received.received, flows.flows * flows.count);
        assert_eq!(received.sources, [pod]);
        between.echo(1400, 1444);
        // Connection tracking puts fragments together and takes them apart again.
        between.echo_in_fragments(3000, 3010);

        let other = side.other();
        let from_host = Between {
            from: cluster.lab.host(side),
            to: cluster.lab.pod(other),
            address: IpAddr::V4(other.pod_address()),
        };
        assert_eq!(from_host.tcp(1, 1 << 20), side.overlay_address().to_string());
        let leaving = Between {
            from: cluster.lab.pod(side),
            to: cluster.lab.host(other),
            address: IpAddr::V4(other.underlay_address()),
        };
        assert_eq!(leaving.tcp(1, 1 << 20), side.underlay_address().to_string());
    }
    cluster.finish();
}
