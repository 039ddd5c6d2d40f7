//! Datagrams arrive unchanged, one by one, and in order within a flow.

use weft_bench::lab::{LabOptions, Side, Underlay};

use crate::cluster::Cluster;
use crate::load::Flows;

/// Eight flows whose datagrams change their size often, so that trains begin and end often.
const FLOWS: Flows<'_> = Flows {
    flows: 8,
    count: 15_000,
    sizes: &[64, 1200, 64, 300, 1444],
    run: 7,
    burst: 25,
    pause: 0.001,
    fragment: false,
    source: None,
};

#[test]
fn every_size_of_datagram_arrives_unchanged() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.pods_from(side).echo(0, 1444);
    }
    cluster.finish();
}

#[test]
fn flows_stay_in_order() {
    for underlay in [Underlay::Wire, Underlay::Super] {
        let options = LabOptions { underlay, ..LabOptions::default() };
        let Some(cluster) = Cluster::start(options) else { return };
        cluster.keep_kernel_in_order();
        for side in Side::BOTH {
            let received = cluster.pods_from(side).datagrams(FLOWS);
            received.assert_intact();
            assert_eq!(received.flows, FLOWS.flows);
            // A busy machine may lose some in a full queue.
            assert!(received.received > FLOWS.flows * FLOWS.count / 2, "{received:?}");
        }
        cluster.finish();
    }
}

/// A full send buffer refuses a train in the middle of others; what follows must not pass it.
#[test]
fn flows_stay_in_order_when_the_send_buffer_is_full() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    cluster.keep_kernel_in_order();
    cluster.lab.limit_departures(Side::One, "250mbit").unwrap();
    // Half of the buffer drains before the kernel takes more, so it takes a while to be full often.
    let flows = Flows { count: 30_000, sizes: &[1200, 1200, 300], pause: 0.0, ..FLOWS };
    let received = cluster.pods_from(Side::One).datagrams(flows);
    received.assert_intact();
    assert_eq!(received.flows, flows.flows);
    assert!(received.received > 1_000, "{received:?}");
    let retries = cluster.counter(Side::One, "other", "send_retries");
    assert!(retries > 2, "{retries} retries");
    cluster.finish();
}

/// The whole of a stream must fit through as well, and it repeats what the queue loses.
#[test]
fn a_stream_arrives_when_the_send_buffer_is_full() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    cluster.lab.limit_departures(Side::One, "400mbit").unwrap();
    cluster.pods_from(Side::One).tcp(16, 64 << 20);
    cluster.finish();
}

#[test]
fn datagrams_that_the_application_had_segmented_arrive_one_by_one() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    let sizes = [12, 100, 536, 1000, 1443, 1444];
    for burst in [2, 3, 44, 64] {
        let flows = Flows { sizes: &sizes, count: 640, burst, pause: 0.003, ..Flows::default() };
        for side in Side::BOTH {
            let received = cluster.pods_from(side).segmented_datagrams(flows);
            received.assert_intact();
            assert_eq!(received.flows, sizes.len());
            assert_eq!(received.received, sizes.len() * flows.count, "{received:?}");
            // Every full size, and the shorter ends of calls, but nothing that was joined.
            assert!(sizes.iter().all(|size| received.lengths.contains_key(&size.to_string())));
            assert!(received.lengths.len() > sizes.len(), "{received:?}");
        }
    }
    assert!(cluster.counter(Side::One, "outbound", "super_packets_in") > 0);
    cluster.finish();
}

/// Nothing is carried in fragments of our own when the sender's kernel has made some already.
#[test]
fn fragments_arrive() {
    let Some(cluster) = Cluster::start(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.pods_from(side).echo_in_fragments(1440, 1500);
        cluster.pods_from(side).echo_in_fragments(8000, 8010);
        cluster.pods_from(side).echo_in_fragments(65_507, 65_507);
        cluster.pods_from(side).ping(5, &["-s", "3000"]);
    }
    assert_eq!(cluster.counter(Side::One, "other", "fragments_made"), 0);
    cluster.finish();
}
