//! What the kernel has done for a daemon may end while it runs. Traffic goes on, and it is said once.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;
use weft_bench::lab::{LabOptions, Side, Signal, wait_until};

use crate::cluster::{Cluster, config};
use crate::load::Flows;

/// Bytes of a stream with hundreds of super-packets.
const STREAM_BYTES: u64 = 32 << 20;

/// A generous bound against hangs.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// A kernel that refuses to cut trains for a while, as the epoll engine sees it: strace lets a few of
/// its sends fail with EIO, whatever they carry.
#[test]
fn a_kernel_that_refuses_to_cut_trains() {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    if cluster.lab.host(Side::One).run(&["strace", "--version"]).is_err() {
        let line = b"SKIPPED: a kernel that refuses to cut trains: strace is not installed\n";
        io::stderr().write_all(line).unwrap();
        return;
    }
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config(false), &["--engine", "epoll"]);
    }
    cluster.wait_for_traffic();
    let between = cluster.pods_from(Side::One);
    between.tcp_meanwhile(1, 1 << 30, || {
        let sent = || cluster.counter(Side::One, "outbound", "bytes_out");
        let runs = || Ok((sent() > 32 << 20).then_some(()));
        wait_until("the stream to run", PATIENCE, runs).unwrap();
        refuse_some_sends(&cluster);
    });
    assert_eq!(cluster.counter(Side::One, "other", "segmentation_off"), 1);
    assert_eq!(peer(&cluster)["segmentation"], false);
    // From now on nothing but single datagrams, and all of it arrives.
    let trains = || cluster.counter(Side::One, "outbound", "trains_out");
    let segments = || cluster.counter(Side::One, "outbound", "segments_out");
    let singles = segments() - trains();
    between.tcp(1, STREAM_BYTES);
    assert_eq!(segments() - trains(), singles, "trains to a peer without segmentation");
    let logs = cluster.stop_daemons();
    assert_eq!(logs[0].matches("no segmentation to a peer").count(), 1, "{}", logs[0]);
    cluster.finish();
}

/// Lets the next sends of host 1's daemon fail, and leaves it alone again.
fn refuse_some_sends(cluster: &Cluster) {
    let process = cluster.node(Side::One).process().id().to_string();
    // Only what is traced can be made to fail.
    let (traced, failing) = ("trace=sendmmsg", "inject=sendmmsg:error=EIO:when=1..8");
    #[rustfmt::skip]
    let command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", &process,
        "-e", traced, "-e", failing];
    let mut strace = cluster.lab.host(Side::One).spawn(&command).unwrap();
    let off = || cluster.counter(Side::One, "other", "segmentation_off");
    let refused = wait_until("a refusal", PATIENCE, || Ok((off() > 0).then_some(())));
    strace.signal(Signal::INT).unwrap();
    strace.wait(PATIENCE).unwrap();
    refused.unwrap_or_else(|error| panic!("{error}: {}", strace.complaint()));
}
