//! Everything arrives unchanged without the kernel's help as well, also when only one side lacks it.

use weft_bench::lab::{LabOptions, Side};

use crate::cluster::{Cluster, config};
use crate::load::Flows;

fn arrives_without(features: [&str; 2]) {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for (side, features) in Side::BOTH.into_iter().zip(features) {
        let flags: &[&str] = if features.is_empty() { &[] } else { &["--without", features] };
        cluster.start_weft_with(side, &config(false), flags);
    }
    cluster.wait_for_traffic();
    for side in Side::BOTH {
        let between = cluster.pods_from(side);
        between.tcp(2, 64 << 20);
        between.echo(0, 100);
        between.echo(1400, 1444);
        let flows = Flows { sizes: &[1000, 1444], count: 320, burst: 32, ..Flows::default() };
        let received = between.segmented_datagrams(flows);
        received.assert_intact();
        // Without offloads this is a burst of single packets, of which a busy machine may lose some.
        assert!(received.received > flows.count, "{received:?}");
    }
    cluster.finish();
}

#[test]
fn without_segmentation_in_the_device() {
    arrives_without(["tun-tso", ""]);
    arrives_without(["tun-uso", "tun-tso,tun-uso"]);
}

#[test]
fn without_checksums_from_the_device() {
    arrives_without(["tun-csum", ""]);
}

#[test]
fn without_trains_on_the_sockets() {
    arrives_without(["udp-gso", ""]);
    arrives_without(["udp-gro", "udp-gso"]);
}

#[test]
fn without_any_of_it() {
    let all = "tun-tso,tun-uso,tun-csum,udp-gso,udp-gro";
    arrives_without([all, all]);
}
