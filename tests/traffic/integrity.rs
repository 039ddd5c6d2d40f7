//! Streams arrive as they were sent, also when the network between the hosts loses packets.

use weft_bench::lab::{Counters, LabOptions, Side, Underlay};

use crate::cluster::Cluster;

const GIBIBYTE: u64 = 1 << 30;
const MEBIBYTE: u64 = 1 << 20;

fn a_gibibyte_arrives(streams: usize) {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let source = cluster.pods_from(Side::One).tcp(streams, GIBIBYTE);
    assert_eq!(source, Side::One.pod_address().to_string());
    cluster.finish();
}

#[test]
fn a_gibibyte_arrives_in_one_stream() {
    a_gibibyte_arrives(1);
}

#[test]
fn a_gibibyte_arrives_in_four_streams() {
    a_gibibyte_arrives(4);
}

#[test]
fn a_gibibyte_arrives_in_sixteen_streams() {
    a_gibibyte_arrives(16);
}

/// Both directions share the daemons, so neither may starve or harm the other.
#[test]
fn streams_in_both_directions_at_once_arrive() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let [forth, back] = Side::BOTH.map(|side| cluster.pods_from(side));
    std::thread::scope(|scope| {
        scope.spawn(|| forth.tcp(2, 256 * MEBIBYTE));
        scope.spawn(|| back.tcp(2, 256 * MEBIBYTE));
    });
    cluster.finish();
}

/// Frames of 64 KiB cross the link whole, so receives are as large as they can be.
#[test]
fn streams_arrive_over_a_link_that_does_not_cut() {
    let options = LabOptions { underlay: Underlay::Super, ..LabOptions::default() };
    let Some(cluster) = Cluster::start(options) else { return };
    cluster.pods_from(Side::One).tcp(4, 256 * MEBIBYTE);
    cluster.pods_from(Side::Two).tcp(1, 256 * MEBIBYTE);
    cluster.finish();
}

#[test]
fn many_short_streams_arrive() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    for bytes in [0, 64, 64 * 1445, 64 * 70_001] {
        cluster.pods_from(Side::One).tcp(64, bytes);
    }
    cluster.finish();
}

#[test]
fn streams_arrive_although_the_underlay_loses_one_percent() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.lab.lose_arrivals(side, 1).unwrap();
    }
    let before = Counters::read(cluster.lab.pod(Side::One)).unwrap();
    cluster.pods_from(Side::One).tcp(4, 64 * MEBIBYTE);
    let growth = Counters::read(cluster.lab.pod(Side::One)).unwrap().since(&before);
    assert!(growth.contains_key("TcpRetransSegs"), "nothing was lost: {growth:?}");
    cluster.pods_from(Side::Two).tcp(1, 64 * MEBIBYTE);
    // Two percent of the round trips. That a hundred of a thousand are lost does not happen. They are too
    // long for the shortcut, which stands before what loses them.
    let loss = cluster.pods_from(Side::One).ping_loss(&["-c", "1000", "-i", "0.002", "-s", "600"]);
    assert!(loss > 0.0 && loss < 10.0, "{loss} percent lost");
    cluster.finish();
}
