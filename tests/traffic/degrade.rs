//! What the kernel has done for a daemon may end while it runs. Traffic goes on, and it is said once.

use serde_json::Value;
use weft_bench::lab::{LabOptions, Side};

use crate::cluster::Cluster;
use crate::load::Flows;

/// Bytes of a stream with hundreds of super-packets.
const STREAM_BYTES: u64 = 32 << 20;

/// Switches a feature of a device by hand.
fn switch(cluster: &Cluster, device: &str, feature: &str, state: &str) {
    cluster.lab.host(Side::One).run(&["ethtool", "-K", device, feature, state]).unwrap();
}

/// A stream and datagrams in large pieces, in both directions.
fn everything_arrives(cluster: &Cluster) {
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(2, STREAM_BYTES);
        let flows = Flows { sizes: &[64, 1300], count: 400, burst: 20, ..Flows::default() };
        let received = between.segmented_datagrams(flows);
        received.assert_intact();
        assert_eq!(received.received, flows.sizes.len() * flows.count, "{received:?}");
    }
}

fn super_packets(cluster: &Cluster) -> u64 {
    cluster.counter(Side::One, "outbound", "super_packets_in")
}

/// Host 1's peer as host 1 sees it.
fn peer(cluster: &Cluster) -> Value {
    cluster.ask(Side::One, "peers")["peers"][0].take()
}

/// Somebody switches off, by hand, what was negotiated for our device.
#[test]
fn a_device_that_loses_its_offloads_and_gets_them_back() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    cluster.keep_kernel_in_order();
    for feature in ["tso", "tx-udp-segmentation", "gso", "tx"] {
        switch(&cluster, "flannel0", feature, "off");
        everything_arrives(&cluster);
    }
    let before = super_packets(&cluster);
    everything_arrives(&cluster);
    assert_eq!(super_packets(&cluster), before, "the device still gives large packets");
    for feature in ["tx", "gso", "tx-udp-segmentation", "tso"] {
        switch(&cluster, "flannel0", feature, "on");
    }
    everything_arrives(&cluster);
    assert!(super_packets(&cluster) > before, "the device gives no large packets any more");
    cluster.finish();
}

/// Kernels before 6.11 do not cut trains for a device without checksums: EIO. Newer ones compute
/// the sums themselves.
#[test]
fn an_underlay_that_loses_its_checksums() {
    let Some(mut cluster) = Cluster::start(LabOptions::default()) else { return };
    cluster.keep_kernel_in_order();
    everything_arrives(&cluster);
    assert_eq!(peer(&cluster)["segmentation"], true);
    switch(&cluster, "u1", "tx", "off");
    everything_arrives(&cluster);
    let refused = cluster.counter(Side::One, "other", "segmentation_off");
    assert!(refused <= 1, "one peer was switched off {refused} times");
    assert_eq!(peer(&cluster)["segmentation"], refused == 0);
    switch(&cluster, "u1", "tx", "on");
    everything_arrives(&cluster);
    let logs = cluster.stop_daemons();
    assert_eq!(logs[0].matches("no segmentation to a peer").count() as u64, refused, "{}", logs[0]);
    cluster.finish();
}
