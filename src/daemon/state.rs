//! What the daemon knows about itself, for the answers to subcommands and probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use weft_ctrl::controller::{Release, Wish};
use weft_ctrl::status::{self, StatusHandle};
use weft_dataplane::Event;
use weft_forward::counters::{DropsSnapshot, Snapshot};
use weft_forward::drops::DropReason;
use weft_sys::shortcut::ShortcutCounts;

use super::degraded::degraded;
use super::events::{Paths, PeerId, WorkerId};
use super::forwarding::{Counted, Forwarding, Told, total};
use super::kernel;
use super::metrics::{Moving, Scrape};
use super::sealing::show;
use super::watchdog::{Stall, Stalls};
use super::workers::Crew;
use crate::admin::{
    Answers, Datastore, Device, Drop, Drops, Engine, Interface, Lease, Network, OnDemand, Peer,
    Peers, Released, Releasing, Rotated, Rotating, Stalled, Status, Traffic, UnusedLease, Worker,
    Workers,
};
use crate::cli::VERSION;

/// Shared by the start-up, the servers and the control loop, which keeps its own part in a handle.
#[derive(Debug)]
pub(super) struct State {
    started: Instant,
    source: String,
    control: StatusHandle,
    wishes: mpsc::Sender<Wish>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    forwarding: Option<Arc<Forwarding>>,
    /// For the control loop, once it runs.
    wishes: Option<mpsc::Receiver<Wish>>,
    paths: Paths,
    /// Why packets are not moved, once a worker has ended or was given up, until it has a successor.
    failed: Option<String>,
    stalls: Stalls,
}

impl Known {
    fn moves_packets(&self) -> bool {
        self.stalls.now().is_none() && self.failed.is_none()
    }

    fn failure(&self) -> Option<String> {
        let reason = self.failed.as_ref()?;
        Some(format!(
            "A packet worker has ended ({reason}). Peers are reached on other paths until it is \
             started anew"
        ))
    }
}

impl State {
    /// Nothing known yet. `source` says where leases come from.
    pub(super) fn new(source: String) -> Arc<Self> {
        // One wish is enough to end the daemon; others wait for its outcome.
        let (sender, wishes) = mpsc::channel(1);
        Arc::new(Self {
            started: Instant::now(),
            source,
            control: StatusHandle::new(),
            wishes: sender,
            known: Mutex::new(Known { wishes: Some(wishes), ..Known::default() }),
        })
    }

    /// The part of the control loop.
    pub(super) fn control(&self) -> StatusHandle {
        self.control.clone()
    }

    /// Packets are moved from now on.
    pub(super) fn set_forwarding(&self, forwarding: Arc<Forwarding>) {
        self.known().forwarding = Some(forwarding);
    }

    /// The workers, if there are any.
    pub(super) fn forwarding(&self) -> Option<Arc<Forwarding>> {
        self.known().forwarding.clone()
    }

    /// Remembers what a worker told about a path. `Dead` is for the caller.
    pub(super) fn handle_event(&self, told: &Told) {
        let paths = &mut self.known().paths;
        if paths.is_gone(told.worker) {
            return;
        }
        match &told.event {
            Event::PathMtu { slot, generation, mtu } => {
                let peer = PeerId { slot: *slot, generation: *generation };
                paths.handle_path_mtu(told.worker, peer, *mtu);
            }
            Event::SegmentationOff { slot, generation, error } => {
                let peer = PeerId { slot: *slot, generation: *generation };
                paths.handle_segmentation_off(told.worker, peer, &error.to_string());
            }
            Event::SegmentationOn { slot, generation } => {
                let peer = PeerId { slot: *slot, generation: *generation };
                paths.handle_segmentation_on(told.worker, peer);
            }
            Event::Dead { .. } => {}
        }
    }

    /// Whether a worker is not one of those that were replaced.
    pub(super) fn is_current(&self, worker: WorkerId) -> bool {
        !self.known().paths.is_gone(worker)
    }

    /// A worker has ended or was given up, for this reason; `None` once it has a successor.
    pub(super) fn set_failed(&self, reason: Option<String>) {
        self.known().failed = reason;
    }

    /// Whether a worker has ended or was given up and has no successor yet.
    pub(super) fn has_failed(&self) -> bool {
        self.known().failed.is_some()
    }

    /// All workers were replaced, so often by now.
    pub(super) fn handle_replacement(&self, replacements: u64) {
        let mut known = self.known();
        known.stalls.handle_replacement();
        known.paths.handle_replacement(replacements);
    }

    /// What the watchdog has seen.
    pub(super) fn with_stalls<T>(&self, handle: impl FnOnce(&mut Stalls) -> T) -> T {
        handle(&mut self.known().stalls)
    }

    /// Whether this host can be given work: the control loop says so, and packets are moved.
    pub(super) fn is_ready(&self) -> bool {
        self.control.is_ready() && self.known().moves_packets()
    }

    /// Where wishes of the running node arrive. There is one taker.
    pub(super) fn take_wishes(&self) -> mpsc::Receiver<Wish> {
        self.known().wishes.take().expect("the daemon starts once")
    }

    /// The parts of the node, each with what is wrong.
    pub(super) fn checks(&self) -> Vec<status::Check> {
        let control = self.control.snapshot();
        let mut checks = control.checks();
        if is_left_to_kernel(&control) {
            return checks;
        }
        let known = self.known();
        let problem = match &known.forwarding {
            None => Some("Not there yet".to_owned()),
            Some(_) if known.failed.is_some() => known.failure(),
            Some(_) if known.stalls.now().is_some() => {
                Some("A packet worker does not go on".to_owned())
            }
            Some(_) => None,
        };
        checks.push(status::Check { name: "engine", problem });
        checks
    }

    /// What there is to scrape.
    pub(super) fn scrape(&self) -> Scrape {
        let control = self.control.snapshot();
        let moving = self.forwarding().map(|forwarding| {
            let counted = forwarding.counted();
            Moving {
                sealing: forwarding.sealing(),
                shortcut: forwarding.shortcut_counts(),
                info: forwarding.info().clone(),
                counted: total(&counted),
                workers: counted.into_iter().map(|worker| worker.snapshot).collect(),
            }
        });
        let known = self.known();
        let lowered = |peer: &status::PeerStatus| {
            let path_mtu = known.paths.path_mtu(peer_id(peer)?)?;
            Some((peer.outer.clone(), path_mtu))
        };
        let is_unsegmented =
            |peer: &&status::PeerStatus| peer_id(peer).is_some_and(|id| !known.paths.segments(id));
        let peers = &control.peers;
        Scrape {
            ready: control.ready && known.moves_packets(),
            uptime: self.started.elapsed(),
            resident_bytes: kernel::resident_bytes(),
            stalls: known.stalls.count,
            stalled: known.stalls.now().is_some(),
            lowered: peers.iter().filter_map(lowered).collect(),
            unsegmented: peers.iter().filter(is_unsegmented).count(),
            kernel: losses(&control, moving.as_ref()),
            moving,
            control,
        }
    }

    /// Nothing panics while it holds the lock in a way that would leave halves behind.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for State {
    fn status(&self) -> Status {
        let control = self.control.snapshot();
        let (stalled, moves_packets, failure) = {
            let known = self.known();
            (known.stalls.now().map(stalled), known.moves_packets(), known.failure())
        };
        let forwarding = self.forwarding();
        let forwarding = forwarding.as_deref();
        // Asked once, so that the sums are those of the workers beside them.
        let counted = forwarding.map(Forwarding::counted);
        Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: control.ready && moves_packets,
            stalled,
            source: self.source.clone(),
            datastore: datastore(&control.source),
            network: control.config.as_ref().map(network),
            engine: forwarding.map(engine),
            sealing: forwarding.and_then(Forwarding::sealing).as_ref().map(show::sealing),
            traffic: forwarding.zip(counted.as_deref()).map(|(forwarding, counted)| {
                traffic(&total(counted), forwarding.shortcut_counts())
            }),
            workers: forwarding
                .zip(counted)
                .map(|(forwarding, counted)| workers(forwarding, counted)),
            peers: control.peers.len(),
            on_demand: control.on_demand.map(on_demand),
            masquerade_fully_random: control.masquerade_fully_random,
            paths: by_path(&control.peers),
            path_switches: control.path_switches,
            epoch: control.epoch,
            rejected: control.rejected.iter().map(rejected).collect(),
            skipped: control.skipped.iter().map(skipped).collect(),
            interface: control.interface.map(|interface| Interface {
                name: interface.name,
                mtu: interface.mtu,
                addresses: interface.addresses,
                public_addresses: interface.public_addresses,
            }),
            lease: control.lease.map(|lease| Lease {
                subnet: lease.subnet,
                ipv6_subnet: lease.ipv6_subnet,
                id: lease.id.to_string(),
                expires_in_seconds: lease.expires_in_seconds,
            }),
            device: control.device.map(|device| Device { name: device.name, mtu: device.mtu }),
            problems: control.problems.into_iter().chain(failure).collect(),
            config_change: control.config_change,
            foreign: control.foreign,
        }
    }

    fn peers(&self) -> Peers {
        let control = self.control.snapshot();
        let sealing = self.forwarding().and_then(|forwarding| forwarding.sealing());
        let paths = &self.known().paths;
        let describe = |peer: status::PeerStatus| {
            let sealed = peer_id(&peer).zip(sealing.as_ref());
            let sealed = sealed.and_then(|(id, now)| show::peer_sealing(&now.report, id));
            Peer { sealing: sealed, ..describe(peer, paths) }
        };
        Peers { peers: control.peers.into_iter().map(describe).collect() }
    }

    fn release(&self) -> Releasing {
        let has_lease = self.control.snapshot().lease.is_some();
        let wishes = self.wishes.clone();
        Box::pin(async move {
            if !has_lease {
                return Err("there is no lease yet that could be given back".to_owned());
            }
            let (release, outcome) = Release::new();
            let ended = || "the daemon is ending".to_owned();
            wishes.send(Wish::Release(release)).await.map_err(|_| ended())?;
            let lease = outcome.await.map_err(|_| ended())??;
            Ok(Released { lease })
        })
    }

    fn rotate(&self) -> Rotating {
        let forwarding = self.forwarding();
        let wishes = self.wishes.clone();
        Box::pin(async move {
            let forwarding = forwarding
                .ok_or("the daemon is still starting, or the kernel carries all packets")?;
            let rotating = spawn_blocking(move || forwarding.rotate_key());
            let rotated = rotating.await.map_err(|error| error.to_string())?;
            let rotated = rotated.ok_or("the network config does not ask for sealed traffic")?;
            let key = rotated.map_err(|error| error.to_string())?;
            let ended = |_| "the daemon is ending".to_owned();
            wishes.send(Wish::Key(key)).await.map_err(ended)?;
            Ok(Rotated { key: key.to_string() })
        })
    }

    fn drops(&self) -> Drops {
        let control = self.control.snapshot();
        if is_left_to_kernel(&control) {
            return kernel::drops_of_kernel(control.device.as_ref().map(|device| &*device.name));
        }
        let Some(forwarding) = self.forwarding() else { return Drops::default() };
        let snapshot = forwarding.snapshot();
        Drops {
            note: None,
            outbound: reasons(&snapshot.outbound.drops),
            inbound: reasons(&snapshot.inbound.drops),
            kernel: kernel::losses(
                &snapshot,
                control.wall_drops,
                forwarding.shortcut_counts().map_or(0, |counts| counts.lost),
            ),
            not_loss: kernel::not_losses(),
        }
    }
}

fn stalled(stall: Stall) -> Stalled {
    let milliseconds = stall.since.elapsed().as_millis();
    Stalled {
        phase: stall.phase.name().to_owned(),
        milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX),
    }
}

fn on_demand(known: status::OnDemandStatus) -> OnDemand {
    let status::OnDemandStatus { addresses, counts } = known;
    OnDemand {
        addresses,
        answered: counts.answered,
        unknown: counts.unknown,
        refused: counts.refused,
    }
}

fn datastore(source: &status::SourceStatus) -> Datastore {
    Datastore {
        connected: source.connected,
        server: source.server.clone(),
        listings: source.listings,
        restarts: source.restarts,
        events: source.events,
        errors: source.errors,
    }
}

fn network(config: &status::ConfigStatus) -> Network {
    Network {
        ipv4: config.v4.as_ref().map(|range| range.network.clone()),
        ipv6: config.v6.as_ref().map(|range| range.network.clone()),
        backend: config.backend.to_owned(),
        port: config.port,
        paths: config.paths.clone(),
    }
}

fn rejected(lease: &status::RejectedStatus) -> UnusedLease {
    UnusedLease {
        name: lease.name.clone(),
        reason: lease.reason.to_owned(),
        text: lease.text.clone(),
    }
}

fn skipped(lease: &status::SkippedStatus) -> UnusedLease {
    UnusedLease {
        name: lease.name.clone(),
        reason: "other_backend".to_owned(),
        text: format!("It is for another backend: {}.", lease.backend),
    }
}

/// The config names a type whose packets no worker of ours sees.
fn is_left_to_kernel(control: &status::Status) -> bool {
    control.config.as_ref().is_some_and(|config| config.backend != "udp")
}

/// What the kernel counted around the workers, or by itself.
fn losses(control: &status::Status, moving: Option<&Moving>) -> Vec<(&'static str, u64)> {
    match (moving, &control.device) {
        (Some(moving), _) => {
            let wall = control.wall_drops.map(|drops| (kernel::WALL, drops));
            let shortcut = moving.shortcut.map(|counts| (kernel::SHORTCUT, counts.lost));
            kernel::loss_counts(&moving.counted).into_iter().chain(wall).chain(shortcut).collect()
        }
        (None, Some(device)) => kernel::device_losses(&device.name).to_vec(),
        (None, None) => Vec::new(),
    }
}

/// A peer as the workers know it, if they do.
fn peer_id(peer: &status::PeerStatus) -> Option<PeerId> {
    Some(PeerId { slot: peer.slot?, generation: peer.generation? })
}

/// How many peers are reached on which path. Empty where no peer has several.
fn by_path(peers: &[status::PeerStatus]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    if peers.iter().any(|peer| !peer.paths.is_empty()) {
        for peer in peers {
            *counts.entry(peer.path.clone()).or_default() += 1;
        }
    }
    counts
}

fn describe(peer: status::PeerStatus, paths: &Paths) -> Peer {
    let id = peer_id(&peer);
    Peer {
        slot: peer.slot,
        generation: peer.generation,
        subnet: peer.subnet,
        ipv6_subnet: peer.ipv6_subnet,
        outer: peer.outer,
        addresses: peer.addresses,
        path: peer.path,
        reason: peer.reason,
        paths: peer.paths,
        id: peer.id.map(|id| id.to_string()),
        age_seconds: peer.age_seconds,
        takes_ipv6: peer.takes_ipv6,
        path_mtu: id.and_then(|id| paths.path_mtu(id)),
        segmentation: id.is_none_or(|id| paths.segments(id)),
        sealing: None,
    }
}

fn engine(forwarding: &Forwarding) -> Engine {
    let info = forwarding.info();
    let features = json!({
        "device_checksum": info.offloads.checksum,
        "device_tso": info.offloads.tso,
        "device_tso_ecn": info.offloads.tso_ecn,
        "device_uso": info.offloads.uso,
        "segments_max": info.segments_max,
        "joined_receive": info.joins_datagrams,
        "degraded": degraded(info).iter().map(|one| one.name).collect::<Vec<_>>(),
        "checksum": info.checksum,
        "shortcut": forwarding.has_shortcut(),
        "buffer_bytes_max": info.memory * usize::from(forwarding.crew().count),
    });
    Engine {
        name: info.engine.to_owned(),
        reason: info.reason.clone(),
        features: if let Value::Object(features) = features { features } else { Map::new() },
    }
}

fn workers(forwarding: &Forwarding, counted: Vec<Counted>) -> Workers {
    let Crew { asked_for, count, fewer_because } = forwarding.crew().clone();
    let describe = |(number, worker): (usize, Counted)| {
        let Counted { engine, snapshot } = worker;
        Worker {
            number,
            engine: engine.to_owned(),
            outbound_segments: snapshot.outbound.segments_in,
            inbound_segments: snapshot.inbound.segments_in,
            drops: snapshot.outbound.drops.total() + snapshot.inbound.drops.total(),
            turns: snapshot.turns,
            busy_milliseconds: snapshot.busy_ns / 1_000_000,
        }
    };
    let each = counted.into_iter().enumerate().map(describe).collect();
    Workers { count, asked_for, fewer_because, each }
}

fn traffic(snapshot: &Snapshot, shortcut: Option<ShortcutCounts>) -> Traffic {
    let mut outbound = numbers(snapshot.outbound.fields());
    outbound.insert("drops".to_owned(), snapshot.outbound.drops.total().into());
    let mut inbound = numbers(snapshot.inbound.fields());
    inbound.insert("drops".to_owned(), snapshot.inbound.drops.total().into());
    let shortcut = shortcut.map(|counts| numbers(counts.fields().into_iter()));
    let (other, shortcut) = (numbers(snapshot.fields()), shortcut.unwrap_or_default());
    Traffic { outbound, inbound, other, shortcut }
}

fn numbers(fields: impl Iterator<Item = (&'static str, u64)>) -> Map<String, Value> {
    fields.map(|(name, number)| (name.to_owned(), number.into())).collect()
}

fn reasons(drops: &DropsSnapshot) -> Vec<Drop> {
    let line = |(reason, count): (DropReason, u64)| Drop {
        reason: reason.name().to_owned(),
        count,
        text: reason.text().to_owned(),
    };
    drops.iter().filter(|(_, count)| *count > 0).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weft_dataplane::progress::{News, Phase};
    use weft_forward::counters::Counters;

    #[test]
    fn a_daemon_that_waits_answers_everything() {
        let state = State::new("directory /l".into());
        assert_eq!(state.peers(), Peers::default());
        assert_eq!(state.drops(), Drops::default());
        let status = state.status();
        assert_eq!((status.engine, status.ready), (None, false));
        assert_eq!(status.source, "directory /l");
        assert!(!status.problems.is_empty(), "it says why it is not ready");
    }

    #[test]
    fn a_stall_is_told() {
        let state = State::new("directory /l".into());
        assert_eq!(state.status().stalled, None);
        let now = Instant::now();
        let (phase, lasted) = (Phase::Outbound, Duration::from_secs(2));
        state.with_stalls(|stalls| stalls.handle(0, News::Stalled { phase, lasted }, now));
        assert!(!state.is_ready());
        assert_eq!(state.status().stalled.map(|stalled| stalled.phase), Some("outbound".into()));
    }

    #[test]
    fn only_reasons_that_occurred_are_listed() {
        let counters = Counters::default();
        counters.outbound.drops.add(DropReason::NoRoute, 3);
        let lines = reasons(&counters.snapshot().outbound.drops);
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].reason.as_str(), lines[0].count), ("no_route", 3));
        assert_eq!(lines[0].text, DropReason::NoRoute.text());
    }

    #[test]
    fn traffic_has_the_sums_of_drops() {
        let counters = Counters::default();
        counters.inbound.segments_in.add(9);
        counters.inbound.drops.add(DropReason::UnknownSender, 3);
        counters.inbound.drops.add(DropReason::Truncated, 1);
        counters.turns.add(5);
        let taken = ShortcutCounts { packets_in: 2, ..ShortcutCounts::default() };
        assert!(traffic(&counters.snapshot(), None).shortcut.is_empty());
        let traffic = traffic(&counters.snapshot(), Some(taken));
        assert_eq!(traffic.shortcut["packets_in"], 2);
        assert_eq!(traffic.inbound["segments_in"], 9);
        assert_eq!(traffic.inbound["drops"], 4);
        assert_eq!(traffic.outbound["drops"], 0);
        assert_eq!(traffic.other["turns"], 5);
    }
}
