//! The list of all metrics: names, helps, labels, and where each comes from.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::registry::Unit;
use weft_ctrl::status::{OnDemandStatus, PathStatus, Status};
use weft_dataplane::{BUFFERS, WorkerInfo};
use weft_forward::counters::{HistogramSnapshot, InboundSnapshot, OutboundSnapshot, Snapshot};
use weft_seal::rejected::Rejected;
use weft_sys::shortcut::ShortcutCounts;

use super::{Family, Labels, Value};
use crate::cli::VERSION;
use crate::daemon::sealing::Standing;

/// Peers whose path MTU has a metric of its own; those with the lowest come first. The number of
/// all is a metric too.
const PEERS_MAX: usize = 100;

/// Paths that have metrics of their own; those with something wrong come first. All are counted
/// together, too.
const PATHS_MAX: usize = 100;

/// What is known at one moment.
#[derive(Debug)]
pub(in crate::daemon) struct Scrape {
    pub(in crate::daemon) ready: bool,
    pub(in crate::daemon) uptime: Duration,
    pub(in crate::daemon) resident_bytes: Option<u64>,
    pub(in crate::daemon) control: Status,
    pub(in crate::daemon) stalls: u64,
    pub(in crate::daemon) stalled: bool,
    /// Where a peer's packets are sent, and the inner bytes that the path takes, for peers where
    /// that is less than expected.
    pub(in crate::daemon) lowered: Vec<(String, u16)>,
    /// Peers for which the kernel does not segment.
    pub(in crate::daemon) unsegmented: usize,
    /// Losses that the kernel counted around us.
    pub(in crate::daemon) kernel: Vec<(&'static str, u64)>,
    pub(in crate::daemon) moving: Option<Moving>,
}

/// What is known once packets are moved.
#[derive(Debug)]
pub(in crate::daemon) struct Moving {
    pub(in crate::daemon) info: WorkerInfo,
    /// How sealing goes, if traffic is sealed.
    pub(in crate::daemon) sealing: Option<Standing>,
    /// What took the shortcut, while there is one.
    pub(in crate::daemon) shortcut: Option<ShortcutCounts>,
    /// By all workers.
    pub(in crate::daemon) counted: Snapshot,
    /// By each worker, in the order of their numbers.
    pub(in crate::daemon) workers: Vec<Snapshot>,
}

/// All metrics.
pub(super) fn families(scrape: &Scrape) -> Vec<Family> {
    let mut all = daemon(scrape);
    all.extend(store(&scrape.control));
    if let Some(moving) = &scrape.moving {
        all.extend(engine(moving));
        all.extend(traffic(&moving.counted.outbound, &moving.counted.inbound));
        all.extend(workers(&moving.workers));
        all.extend(events(&moving.counted));
        all.extend(buffers(&moving.counted, moving.workers.len() as u64));
        all.extend(paths(scrape));
        all.extend(moving.sealing.iter().flat_map(sealing));
        all.extend(moving.shortcut.iter().flat_map(shortcut));
    }
    all.extend(path_health(&scrape.control));
    all.push(kernel(&scrape.kernel));
    all
}

fn daemon(scrape: &Scrape) -> Vec<Family> {
    let control = &scrape.control;
    let mut all = vec![
        info("build", "The program.", vec![("version", VERSION.to_owned())]),
        flag("ready", "Whether /readyz answers 200.", scrape.ready),
        gauge("uptime", "Time since the start.", scrape.uptime.as_secs()).of(Unit::Seconds),
        gauge("problems", "Problems that weft status shows.", control.problems.len() as u64),
        flag("lease_held", "Whether this host has a lease.", control.lease.is_some()),
        gauge("peers", "Hosts that packets can be sent to.", control.peers.len() as u64),
        family("path_peers", "Hosts by the path that packets take.", path_peers(control)),
        gauge("rejected_leases", "Leases that are not believed.", control.rejected.len() as u64),
        gauge("skipped_leases", "Leases of other backends.", control.skipped.len() as u64),
        gauge("table_epoch", "Number of the last table; it grows.", control.epoch),
        counter(
            "rule_repairs",
            "Times that netfilter rules had to be put back.",
            control.rule_repairs,
        ),
        counter("worker_stalls", "Turns of workers that took too long.", scrape.stalls),
        flag("worker_stalled", "Whether a turn takes too long now.", scrape.stalled),
    ];
    all.extend(control.on_demand.iter().flat_map(on_demand));
    let resident = "Resident memory of the process.";
    all.extend(
        scrape
            .resident_bytes
            .map(|bytes| gauge("resident_memory", resident, bytes).of(Unit::Bytes)),
    );
    all
}

/// What the kernel has asked for, where entries are made on demand.
fn on_demand(known: &OnDemandStatus) -> [Family; 2] {
    let OnDemandStatus { addresses, counts } = known;
    let outcomes =
        [("answered", counts.answered), ("unknown", counts.unknown), ("refused", counts.refused)];
    let sample = |(outcome, count)| (labels([("outcome", outcome)]), Value::Counter(count));
    [
        gauge("on_demand_addresses", "Addresses with entries on demand.", *addresses as u64),
        family(
            "on_demand_questions",
            "Questions of the kernel for what it needs.",
            outcomes.map(sample),
        ),
    ]
}

fn path_peers(control: &Status) -> Vec<(Labels, Value)> {
    let mut counts = BTreeMap::<&str, u64>::new();
    for peer in &control.peers {
        *counts.entry(&peer.path).or_default() += 1;
    }
    let sample = |(path, count)| (labels([("path", path)]), Value::Gauge(count));
    counts.into_iter().map(sample).collect()
}

/// The paths to peers that have several.
fn path_health(control: &Status) -> Vec<Family> {
    let mut all: Vec<&PathStatus> = control.peers.iter().flat_map(|peer| &peer.paths).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let mut counts = BTreeMap::<(&str, &str), u64>::new();
    for path in &all {
        *counts.entry((&path.path, &path.fault)).or_default() += 1;
    }
    let counted =
        |((path, fault), count)| (labels([("path", path), ("fault", fault)]), Value::Gauge(count));
    // What is wrong comes first, and among equals what carries packets.
    all.sort_by_key(|path| (path.fault == "none", !path.chosen));
    let each = |name, help, value: &dyn Fn(&PathStatus) -> Option<Value>| {
        let sample = |path: &&PathStatus| {
            let labels = labels([("subnet", &path.subnet), ("path", &path.path)]);
            Some((labels, value(path)?))
        };
        family(name, help, all.iter().take(PATHS_MAX).filter_map(sample))
    };
    let help = "Whether a path to a peer works, and nothing is wrong with it.";
    vec![
        family("paths", "Paths to peers, by what is wrong.", counts.into_iter().map(counted)),
        each("path_good", help, &|path| Some(Value::Gauge(u64::from(path.fault == "none")))),
        each("path_chosen", "Whether packets take it.", &|path| {
            Some(Value::Gauge(u64::from(path.chosen)))
        }),
        each("path_round_trip", "Time of a probe there and back.", &|path| {
            let microseconds = u32::try_from(path.round_trip_us?).unwrap_or(u32::MAX);
            Some(Value::Part(f64::from(microseconds) / 1e6))
        })
        .of(Unit::Seconds),
        each("path_loss", "Part of the probes without an answer.", &|path| {
            path.loss.map(Value::Part)
        })
        .of(Unit::Ratios),
        each("path_mtu", "Bytes of the largest packet that gets through.", &|path| {
            path.mtu.map(|mtu| Value::Gauge(mtu as u64))
        })
        .of(Unit::Bytes),
        family("path_switches", "Times that a peer was given another path.", switches(control)),
    ]
}

fn switches(control: &Status) -> impl Iterator<Item = (Labels, Value)> {
    control.path_switches.iter().map(|one| {
        let labels = labels([("from", &one.from), ("to", &one.to), ("reason", &one.reason)]);
        (labels, Value::Counter(one.count))
    })
}

/// Where leases and config come from.
fn store(control: &Status) -> Vec<Family> {
    let source = &control.source;
    let mut all = vec![
        flag("store_connected", "Whether leases are followed now.", source.connected),
        counter("store_listings", "Times that all leases were listed.", source.listings),
        counter("store_restarts", "Times that following leases began again.", source.restarts),
        counter("store_events", "Changes of leases seen, and leases listed.", source.events),
        counter("store_errors", "Failures of the store, or on the way to it.", source.errors),
    ];
    let delay = family(
        "table_delay",
        "From a change of leases to its table.",
        [(labels([]), Value::Delays(control.delays))],
    );
    all.push(delay.of(Unit::Seconds));
    let rejections = control.rejections.iter();
    all.push(family(
        "lease_rejections",
        "Leases that were found not to be believed, by reason.",
        rejections.map(|(reason, count)| (labels([("reason", reason)]), Value::Counter(*count))),
    ));
    let lease = control.lease.as_ref();
    let age = lease.and_then(|lease| lease.age_seconds);
    let help = "Time since the own lease was last written.";
    all.extend(age.map(|age| gauge("lease_age", help, age).of(Unit::Seconds)));
    let left = lease.and_then(|lease| lease.expires_in_seconds);
    let help = "Time until the own lease runs out unless it is renewed.";
    all.extend(left.map(|left| gauge("lease_remaining", help, left).of(Unit::Seconds)));
    all
}

fn engine(moving: &Moving) -> Vec<Family> {
    let worker = &moving.info;
    let joins = worker.joins_datagrams.iter().all(|joins| *joins);
    let offloads = [
        ("tun-csum", worker.offloads.checksum),
        ("tun-tso", worker.offloads.tso),
        ("tun-uso", worker.offloads.uso),
        ("udp-gso", worker.segments_max > 1),
        ("udp-gro", joins),
    ];
    let enabled =
        |(name, is_on): (&str, bool)| (labels([("offload", name)]), Value::Gauge(u64::from(is_on)));
    vec![
        info(
            "engine",
            "How packets are moved.",
            labels([
                ("engine", worker.engine),
                ("reason", &worker.reason),
                ("checksum", worker.checksum),
            ]),
        ),
        family(
            "offload_enabled",
            "Whether the kernel does this for the whole host; peers without it are counted apart.",
            offloads.into_iter().map(enabled),
        ),
        gauge(
            "train_segments_max",
            "Datagrams that the kernel cuts one train into.",
            u64::from(worker.segments_max),
        ),
    ]
}

fn traffic(outbound: &OutboundSnapshot, inbound: &InboundSnapshot) -> Vec<Family> {
    let drops = outbound.drops.iter().map(|drop| ("outbound", drop));
    let drops = drops.chain(inbound.drops.iter().map(|drop| ("inbound", drop)));
    let dropped = |(direction, (reason, count)): (&str, (_, u64))| {
        let reason: weft_forward::drops::DropReason = reason;
        let labels = labels([("direction", direction), ("reason", reason.name())]);
        (labels, Value::Counter(count))
    };
    vec![
        both(
            "segments_in",
            "Inner packets of wire size read (outbound) or received (inbound).",
            [outbound.segments_in, inbound.segments_in],
        ),
        both(
            "segments_out",
            "Inner packets of wire size sent (outbound) or taken by the device (inbound).",
            [outbound.segments_out, inbound.segments_out],
        ),
        both(
            "plain_segments",
            "Inner packets handed on that were not sealed though sealing is offered.",
            [outbound.plain_segments, inbound.plain_segments],
        ),
        family("dropped_segments", "Inner packets not handed on.", drops.map(dropped)),
        both(
            "inner",
            "Inner bytes sent (outbound) or received (inbound).",
            [outbound.bytes_out, inbound.bytes_in],
        )
        .of(Unit::Bytes),
        both(
            "trains",
            "Sends and receives, each of one or more segments.",
            [outbound.trains_out, inbound.trains_in],
        ),
        histograms(
            "train_segments",
            "Segments of a send or receive.",
            [outbound.train_segments, inbound.train_segments],
        ),
        histograms(
            "batch_packets",
            "Packets from the device, or receives, that one turn of the worker handled.",
            [outbound.batches, inbound.batches],
        ),
        counter("super_packets", "Large packets from the device.", outbound.super_packets_in),
        counter("device_writes", "Writes to the device.", inbound.writes_out),
    ]
}

/// Not among those that workers count.
fn shortcut(counts: &ShortcutCounts) -> [Family; 2] {
    let ShortcutCounts { packets_out, bytes_out, packets_in, bytes_in, lost: _ } = *counts;
    let packets = "Inner packets that the kernel carried past the workers.";
    [
        both("shortcut_packets", packets, [packets_out, packets_in]),
        both("shortcut", "Their bytes.", [bytes_out, bytes_in]).of(Unit::Bytes),
    ]
}

/// Each by itself; everything else is the sum of all.
fn workers(workers: &[Snapshot]) -> Vec<Family> {
    let busy = |worker: &Snapshot| Duration::from_nanos(worker.busy_ns).as_secs_f64();
    let each = |name, help, value: &dyn Fn(&Snapshot) -> Value| {
        let sample = |(number, worker): (usize, &Snapshot)| {
            (labels([("worker", &number.to_string())]), value(worker))
        };
        family(name, help, workers.iter().enumerate().map(sample))
    };
    let lost = workers.iter().map(|worker| worker.events_lost).sum();
    vec![
        gauge("workers", "Workers that move packets.", workers.len() as u64),
        each("worker_turns", "Turns of a worker.", &|worker| Value::Counter(worker.turns)),
        each("worker_syscalls", "System calls of a worker.", &|worker| {
            Value::Counter(worker.syscalls)
        }),
        each("worker_busy", "Time in which a worker did not sleep in the kernel.", &|worker| {
            Value::Seconds(busy(worker))
        })
        .of(Unit::Seconds),
        each("worker_outbound_segments", "Inner packets that a worker read.", &|worker| {
            Value::Counter(worker.outbound.segments_in)
        }),
        each("worker_inbound_segments", "Inner packets that a worker received.", &|worker| {
            Value::Counter(worker.inbound.segments_in)
        }),
        counter("events_lost", "News of the workers that found no room.", lost),
    ]
}

fn events(counted: &Snapshot) -> Vec<Family> {
    let exhausted = [("tun_frames", counted.buffers_exhausted_tun)];
    let exhausted = exhausted.into_iter().chain([("udp_frames", counted.buffers_exhausted_udp)]);
    vec![
        counter("icmp_sent", "ICMP errors to pods.", counted.icmp_sent),
        counter("mss_clamped", "TCP handshakes with a lowered MSS.", counted.mss_clamped),
        counter("fragments_made", "IPv4 fragments made.", counted.fragments_made),
        counter(
            "segmentation_refused",
            "Times that the kernel began to refuse to segment to a peer.",
            counted.segmentation_off,
        ),
        counter("path_mtu_lowered", "Times that a path MTU was lowered.", counted.path_mtu_lowered),
        counter("send_retries", "Sends repeated after a full buffer.", counted.send_retries),
        family(
            "buffers_exhausted",
            "Pauses because every buffer was in use.",
            exhausted.map(|(name, count)| (labels([("buffer", name)]), Value::Counter(count))),
        ),
    ]
}

fn buffers(counted: &Snapshot, workers: u64) -> Vec<Family> {
    let used = &counted.buffers;
    let all = [
        ("tun_frames", used.tun_frames, BUFFERS.tun_frames * workers),
        ("udp_frames", used.udp_frames, BUFFERS.udp_frames * workers),
        ("trains", used.trains, BUFFERS.trains * workers),
        ("writes", used.writes, BUFFERS.writes * workers),
    ];
    let gauges = |select: fn((&'static str, u64, u64)) -> u64| {
        all.map(|buffer| (labels([("buffer", buffer.0)]), Value::Gauge(select(buffer))))
    };
    vec![
        family(
            "buffers_in_use",
            "Buffers that the workers held after their last turns.",
            gauges(|(_, used, _)| used),
        ),
        family("buffers_max", "Buffers that there are.", gauges(|(.., most)| most)),
    ]
}

fn paths(scrape: &Scrape) -> Vec<Family> {
    let device = scrape.control.device.as_ref().map(|device| u64::from(device.mtu));
    let mut lowered = scrape.lowered.clone();
    lowered.sort_by_key(|(_, mtu)| *mtu);
    let lowest = lowered.first().map(|(_, mtu)| u64::from(*mtu)).or(device);
    let peers = lowered.iter().take(PEERS_MAX);
    let help = "Inner bytes that a path takes, for peers where that is less than expected.";
    let mut all = vec![
        gauge("path_mtu_lowered_peers", "Peers whose path takes less.", lowered.len() as u64),
        family(
            "peer_path_mtu",
            help,
            peers.map(|(peer, mtu)| (labels([("peer", peer)]), Value::Gauge(u64::from(*mtu)))),
        )
        .of(Unit::Bytes),
        gauge(
            "segmentation_off_peers",
            "Peers for which the kernel does not segment.",
            scrape.unsegmented as u64,
        ),
    ];
    let help = "Inner bytes that every path takes: the lowest of all.";
    all.extend(lowest.map(|mtu| gauge("path_mtu_min", help, mtu).of(Unit::Bytes)));
    all.extend(device.map(|mtu| gauge("device_mtu", "The device's MTU.", mtu).of(Unit::Bytes)));
    all
}

fn sealing(standing: &Standing) -> Vec<Family> {
    let Standing { plain_peers, report, .. } = standing;
    let with_session = report.peers.iter().filter(|peer| peer.session_age.is_some()).count();
    let refused = |(reason, count): (Rejected, u64)| {
        (labels([("reason", reason.name())]), Value::Counter(count))
    };
    vec![
        gauge("sealing_sessions", "Sessions that may receive.", report.sessions as u64),
        gauge("sealing_peers", "Peers that there is a session with.", with_session as u64),
        gauge(
            "sealing_plain_peers",
            "Peers without a key, traffic with which is not sealed.",
            *plain_peers as u64,
        ),
        counter("sealing_handshakes", "Sessions that were made and used.", report.handshakes),
        counter(
            "sealing_given_up_handshakes",
            "Handshakes that were given up without an answer.",
            report.given_up,
        ),
        counter(
            "sealing_dropped_packets",
            "Packets that waited for a session and were dropped.",
            report.packets_dropped,
        ),
        counter(
            "sealing_failed_sends",
            "Messages that the kernel refused to send.",
            report.sends_failed,
        ),
        family(
            "sealing_refused_messages",
            "Messages of handshakes that were not accepted.",
            report.rejections().map(refused),
        ),
    ]
}

fn kernel(losses: &[(&'static str, u64)]) -> Family {
    let help = "Packets that the kernel dropped just before or after us.";
    let dropped =
        |(place, count): &(&str, u64)| (labels([("place", place)]), Value::Counter(*count));
    family("kernel_dropped_packets", help, losses.iter().map(dropped))
}

impl Family {
    fn of(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }
}

fn family(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = (Labels, Value)>,
) -> Family {
    Family { name, help, unit: None, samples: samples.into_iter().collect() }
}

fn info(name: &'static str, help: &'static str, labels: Labels) -> Family {
    family(name, help, [(labels, Value::Info)])
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Family {
    family(name, help, [(vec![], Value::Counter(value))])
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    family(name, help, [(vec![], Value::Gauge(value))])
}

fn flag(name: &'static str, help: &'static str, is_set: bool) -> Family {
    gauge(name, help, u64::from(is_set))
}

/// A counter for each direction, outbound first.
fn both(name: &'static str, help: &'static str, values: [u64; 2]) -> Family {
    let values = values.map(Value::Counter);
    family(name, help, DIRECTIONS.into_iter().map(direction).zip(values))
}

fn histograms(name: &'static str, help: &'static str, values: [HistogramSnapshot; 2]) -> Family {
    let values = values.map(Value::Histogram);
    family(name, help, DIRECTIONS.into_iter().map(direction).zip(values))
}

const DIRECTIONS: [&str; 2] = ["outbound", "inbound"];

fn direction(name: &str) -> Labels {
    labels([("direction", name)])
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.map(|(name, value)| (name, value.to_owned())).into()
}
