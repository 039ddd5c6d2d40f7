//! A network that delays, reorders, repeats and loses what the hosts send to each other.

use std::io::{self, Write};

use weft_bench::lab::{LabOptions, Side};

use crate::cluster::{Cluster, config};
use crate::load::Flows;

/// Half of the packets overtake others, because each is delayed by another time.
const DISTURBANCE: &[&str] = &["delay", "3ms", "2ms", "duplicate", "3%", "loss", "1%"];

/// More than ever wait in the queue, so that nothing is lost but by intention.
const QUEUE: &[&str] = &["limit", "100000"];

const STREAM_BYTES: u64 = 4 << 20;

const FLOWS: Flows<'_> = Flows {
    flows: 4,
    count: 1000,
    sizes: &[64, 1200, 1444],
    run: 5,
    burst: 20,
    pause: 0.002,
    fragment: false,
    source: None,
};

/// Disturbs what a host sends. False, said aloud, where the kernel cannot.
fn disturb(cluster: &Cluster, side: Side) -> bool {
    let begin = ["qdisc", "replace", "dev", side.underlay_device(), "root", "netem"];
    let Err(error) = cluster.lab.host(side).tc(&[&begin, DISTURBANCE, QUEUE].concat()) else {
        return true;
    };
    let line = format!("SKIPPED: a test of a disturbed network: no netem: {error:#}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    false
}

fn arrives_disturbed(flags: &[&str]) {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config(false), flags);
    }
    cluster.wait_for_traffic();
    if !Side::BOTH.into_iter().all(|side| disturb(&cluster, side)) {
        return cluster.finish();
    }
    for side in Side::BOTH {
        let other = side.other();
        cluster.pods_from(side).tcp(2, STREAM_BYTES);

        let read = |side, part, name| cluster.counter(side, part, name);
        let before = [
            read(side, "outbound", "segments_out"),
            read(side, "outbound", "drops"),
            read(other, "inbound", "segments_in"),
            read(other, "inbound", "drops"),
        ];
        let received = cluster.pods_from(side).datagrams(FLOWS);
        let sent = FLOWS.flows * FLOWS.count;
        let distinct = received.received - received.duplicates;
        assert_eq!(received.corrupted, 0, "{received:?}");
        assert!(received.reordered > 0 && received.duplicates > 0, "{received:?}");
        assert!(distinct > sent / 2 && distinct < sent, "{received:?}");

        // Whatever the network does, both hosts know what they had.
        let out = read(side, "outbound", "segments_out") - before[0];
        assert!(out >= sent as u64, "{out} of {sent} segments left");
        assert_eq!(read(side, "outbound", "drops"), before[1]);
        let arrived = read(other, "inbound", "segments_in") - before[2];
        assert!(arrived >= received.received as u64, "{arrived} arrived, {received:?}");
        assert_eq!(read(other, "inbound", "drops"), before[3]);
    }
    cluster.finish();
}

/// Whole trains are delayed, repeated and lost, since the queue comes before the cut.
#[test]
fn streams_and_datagrams_arrive_although_trains_are_disturbed() {
    arrives_disturbed(&[]);
}

#[test]
fn streams_and_datagrams_arrive_although_single_datagrams_are_disturbed() {
    arrives_disturbed(&["--without", "udp-gso"]);
}
