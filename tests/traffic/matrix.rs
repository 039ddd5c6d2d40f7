//! Every engine with every set of the kernel's helps, against a weft of the same kind and against a
//! peer that has none of them: the same traffic arrives, and status and counters show that the mode
//! was the one asked for.

use serde_json::Value;
use weft_bench::lab::{LabOptions, Side};

use crate::cluster::{Cluster, config};
use crate::ipv6;
use crate::load::{Between, Flows};
use crate::peer::PythonPeer;

/// Bytes of each stream: enough for hundreds of super-packets.
const STREAM_BYTES: u64 = 8 << 20;

/// Small and nearly full datagrams, in trains that begin and end often. Bursts are so small that
/// the simple peer's queues hold several.
const DATAGRAMS: Flows<'_> = Flows {
    flows: 2,
    count: 400,
    sizes: &[64, 1300],
    run: 5,
    burst: 10,
    pause: 0.005,
    fragment: false,
    source: None,
};

/// What an application hands the kernel in one piece.
const SEGMENTED: Flows<'_> =
    Flows { flows: 1, count: 400, sizes: &[64, 1300], run: 1, burst: 20, ..DATAGRAMS };

/// How much the device leaves undone in what we read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Full,
    NoUso,
    Nothing,
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
struct Mode {
    engine: &'static str,
    device: Device,
    gso: bool,
    gro: bool,
}

impl Mode {
    fn all(engine: &'static str) -> Vec<Mode> {
        let mut modes = Vec::new();
        for device in [Device::Full, Device::NoUso, Device::Nothing] {
            for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
                modes.push(Mode { engine, device, gso, gro });
            }
        }
        modes
    }

    /// What is missing, by the names that `--without` and `weft status` have for it.
    fn missing(self) -> Vec<&'static str> {
        let mut missing = match self.device {
            Device::Full => vec![],
            Device::NoUso => vec!["tun-uso"],
            Device::Nothing => vec!["tun-csum", "tun-tso", "tun-uso"],
        };
        if !self.gso {
            missing.push("udp-gso");
        }
        if !self.gro {
            missing.push("udp-gro");
        }
        missing
    }

    fn flags(self) -> Vec<String> {
        let without = self.missing();
        let mut flags = vec!["--engine".to_owned(), self.engine.to_owned()];
        if !without.is_empty() {
            flags.extend(["--without".to_owned(), without.join(",")]);
        }
        flags
    }

    /// What `weft status` says is in use must be what was asked for, no more and no less.
    fn check_status(self, status: &Value) {
        let engine = &status["engine"];
        let features = &engine["features"];
        assert_eq!(engine["name"], self.engine, "{engine}");
        assert_eq!(features["device_checksum"], self.device != Device::Nothing, "{engine}");
        assert_eq!(features["device_tso"], self.device != Device::Nothing, "{engine}");
        assert_eq!(features["device_uso"], self.device == Device::Full, "{engine}");
        assert_eq!(features["segments_max"].as_u64().unwrap() > 1, self.gso, "{engine}");
        let joins = features["joined_receive"].as_array().unwrap();
        assert!(!joins.is_empty() && joins.iter().all(|joins| *joins == self.gro), "{engine}");
        assert_eq!(features["degraded"], Value::from(self.missing()), "{engine}");
    }

    /// The log has one line for each thing that is missing.
    fn check_log(self, log: &str) {
        let said = |name: &&str| log.matches(&format!("feature=\"{name}\"")).count();
        let counts: Vec<usize> = self.missing().iter().map(said).collect();
        assert!(counts.iter().all(|count| *count == 1), "{counts:?}: {log}");
        assert_eq!(log.matches("feature=").count(), counts.len(), "{log}");
    }
}

/// What a daemon has counted so far.
struct Counted {
    super_packets: u64,
    trains_out: u64,
    segments_out: u64,
    trains_in: u64,
    segments_in: u64,
    /// Segments dropped, but for the kernel's own multicast, which belongs to nobody.
    drops: u64,
}

impl Counted {
    fn read(cluster: &Cluster, side: Side) -> Counted {
        let status = cluster.ask(side, "status");
        let number = |part: &str, name: &str| {
            let value = &status["traffic"][part][name];
            value.as_u64().unwrap_or_else(|| panic!("no counter {part} {name}: {status}"))
        };
        Counted {
            super_packets: number("outbound", "super_packets_in"),
            trains_out: number("outbound", "trains_out"),
            segments_out: number("outbound", "segments_out"),
            trains_in: number("inbound", "trains_in"),
            segments_in: number("inbound", "segments_in"),
            drops: dropped(cluster, side),
        }
    }
}

/// From one answer, since the kernel may send more of its multicast between two.
fn dropped(cluster: &Cluster, side: Side) -> u64 {
    let answer = cluster.ask(side, "drops");
    let directions = ["outbound", "inbound"].map(|name| answer[name].as_array().unwrap());
    let ours = directions.into_iter().flatten().filter(|drop| drop["reason"] != "multicast");
    ours.map(|drop| drop["count"].as_u64().unwrap()).sum()
}

/// Runs the same in both directions at once.
fn both_ways(work: impl Fn(Side) + Sync) {
    let work = &work;
    std::thread::scope(|scope| {
        for side in Side::BOTH {
            scope.spawn(move || work(side));
        }
    });
}

/// The datagrams of `flows` arrive unchanged and in order. Queues of the kernel and of the simple
/// peer may lose some of them on a busy machine; that weft loses none is for its counters to say.
fn datagrams_arrive(between: &Between<'_>, flows: Flows<'_>) {
    let received = between.datagrams(flows);
    received.assert_intact();
    assert!(received.received > flows.flows * flows.count * 9 / 10, "{received:?}");
}

/// The same for those that the application hands over in pieces of many.
fn segmented_arrive(between: &Between<'_>, flows: Flows<'_>) {
    let received = between.segmented_datagrams(flows);
    received.assert_intact();
    assert!(received.received > flows.sizes.len() * flows.count * 9 / 10, "{received:?}");
}

/// The traffic of one cell, and what host 1 must have counted meanwhile.
fn exchange(cluster: &Cluster, mode: Mode, peer_is_weft: bool) {
    let before = Counted::read(cluster, Side::One);
    both_ways(|side| {
        let between = cluster.pods_from(side);
        assert_eq!(between.tcp(1, STREAM_BYTES), side.pod_address().to_string());
        if peer_is_weft {
            cluster.pods_from_v6(side).tcp(1, STREAM_BYTES);
        }
    });
    let streamed = Counted::read(cluster, Side::One);
    let has_tso = mode.device != Device::Nothing;
    assert_eq!(streamed.super_packets > before.super_packets, has_tso, "TCP super-packets");

    both_ways(|side| segmented_arrive(&cluster.pods_from(side), SEGMENTED));
    let segmented = Counted::read(cluster, Side::One);
    let has_uso = mode.device == Device::Full;
    assert_eq!(segmented.super_packets > streamed.super_packets, has_uso, "UDP super-packets");

    both_ways(|side| {
        datagrams_arrive(&cluster.pods_from(side), DATAGRAMS);
        if peer_is_weft {
            segmented_arrive(&cluster.pods_from_v6(side), SEGMENTED);
        }
    });
    let after = Counted::read(cluster, Side::One);
    let sent_trains = after.segments_out > after.trains_out;
    assert_eq!(sent_trains, mode.gso, "{} in {}", after.segments_out, after.trains_out);
    let received_trains = after.segments_in > after.trains_in;
    // The kernel joins what comes close together; only trains are sure to.
    let sure = !mode.gro || (mode.gso && peer_is_weft);
    assert!(!sure || received_trains == mode.gro, "{} in {}", after.segments_in, after.trains_in);
    assert_eq!(after.drops, before.drops, "{}", cluster.ask(Side::One, "drops"));
}

fn start(cluster: &mut Cluster, side: Side, mode: Mode) {
    let flags = mode.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let config = config(cluster.lab.options().ipv6);
    cluster.start_weft_with(side, &config, &flags);
    mode.check_status(&cluster.ask(side, "status"));
    // The device is new, and with it how its packets are spread over the processors.
    cluster.keep_kernel_in_order();
}

fn with_itself(engine: &'static str) {
    let Some(mut cluster) = Cluster::bare(ipv6::options()) else { return };
    ipv6::add_underlay_addresses(&cluster);
    for mode in Mode::all(engine) {
        println!("{mode:?} with weft");
        for side in Side::BOTH {
            start(&mut cluster, side, mode);
        }
        cluster.wait_for_traffic();
        exchange(&cluster, mode, true);
        cluster.stop_daemons().iter().for_each(|log| mode.check_log(log));
    }
    cluster.finish();
}

fn with_the_simple_peer(engine: &'static str) {
    let Some(mut cluster) = Cluster::bare(LabOptions::default()) else { return };
    let mut peer = None;
    for mode in Mode::all(engine) {
        println!("{mode:?} with the simple peer");
        start(&mut cluster, Side::One, mode);
        peer.get_or_insert_with(|| PythonPeer::start(&cluster, "10.244.2.0-24"));
        cluster.wait_for_traffic();
        exchange(&cluster, mode, false);
        cluster.stop_daemons().iter().for_each(|log| mode.check_log(log));
    }
    peer.unwrap().stop();
    cluster.finish();
}

#[test]
fn uring_with_itself() {
    with_itself("uring");
}

#[test]
fn uring_with_the_simple_peer() {
    with_the_simple_peer("uring");
}

#[test]
fn epoll_with_itself() {
    with_itself("epoll");
}

#[test]
fn epoll_with_the_simple_peer() {
    with_the_simple_peer("epoll");
}
