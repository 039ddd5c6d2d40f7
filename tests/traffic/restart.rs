//! A daemon that is killed at any moment starts again from what it finds, and traffic goes on.

use std::time::{Duration, Instant};

use weft_bench::lab::{LabOptions, Side, wait_until};
use weft_bench::train::Train;

use crate::cluster::{Cluster, config};

/// A generous bound against hangs. How long it really takes is for `weft-bench restart` to say.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream that is still under way after a second.
const STREAM_BYTES: u64 = 1 << 30;

/// Waits for a reply to what was sent after `moment`, or nearly.
fn wait_for_reply(train: &Train, moment: Instant) {
    while train.first_reply_after(moment).is_none() {
        assert!(moment.elapsed() < PATIENCE, "the train gets no replies: {:?}", train.fate());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Each daemon is killed twice, while a datagram goes to and fro each millisecond and a stream runs.
fn outlives_kills(engine: &str) {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    let flags = ["--engine", engine];
    for side in Side::BOTH {
        cluster.start_weft_with(side, &config(false), &flags);
    }
    cluster.wait_for_traffic();
    let leases = Side::BOTH.map(|side| cluster.ask(side, "status")["lease"].take());
    let train = Train::start(&cluster.lab).unwrap();
    wait_for_reply(&train, Instant::now());
    for side in [Side::One, Side::Two, Side::One, Side::Two] {
        // Nobody waits for locks, sockets, device and port to be free.
        let dying = cluster.kill_weft(side);
        cluster.start_weft_with(side, &config(false), &flags);
        drop(dying);
        wait_for_reply(&train, Instant::now());
    }
    let fate = train.fate();
    drop(train);
    assert_eq!(fate.disordered, 0, "{fate:?}");
    for side in Side::BOTH {
        cluster.pods_from(side).tcp(2, 16 << 20);
    }
    assert_eq!(Side::BOTH.map(|side| cluster.ask(side, "status")["lease"].take()), leases);
    cluster.finish();
}

#[test]
fn uring_outlives_kills() {
    outlives_kills("uring");
}

#[test]
fn epoll_outlives_kills() {
    outlives_kills("epoll");
}

/// A stream that was under way goes on where it was.
#[test]
fn a_stream_outlives_a_kill() {
    let Some(mut cluster) = Cluster::start(LabOptions::default()) else { return };
    let train = Train::start(&cluster.lab).unwrap();
    let stream = cluster.pods_from(Side::One).start_tcp(1, STREAM_BYTES);
    let sent = |cluster: &Cluster| cluster.counter(Side::One, "outbound", "bytes_out");
    wait_until("the stream to run", PATIENCE, || Ok((sent(&cluster) > 32 << 20).then_some(())))
        .unwrap();
    let dying = cluster.kill_weft(Side::Two);
    assert!(sent(&cluster) < STREAM_BYTES, "the stream is over already");
    let killed = Instant::now();
    cluster.start_weft(Side::Two, &config(false));
    drop(dying);
    wait_for_reply(&train, killed);
    drop(train);
    stream.finish();
    cluster.finish();
}
