//! What is known about this node, for people and probes.
//!
//! The control loop writes it, anybody may read it; a packet worker does neither.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::{NetworkConfig, PathKind, SubnetRange};
use crate::desired::demand::Counts;
use crate::desired::kernel::{self, OnLink, Path};
use crate::desired::{Accepted, Hop, View};
use crate::health::choice::{Objection, in_words, objection};
use crate::health::{Candidate, Standing};
use crate::identity::Identity;
use crate::interface::Interface;
use crate::lease::{Leaf, shortened};
use crate::source::Health;

/// How far the daemon has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for a network config that can be used.
    #[default]
    Config,
    /// Choosing the interface.
    Interface,
    /// Taking a lease.
    Lease,
    /// Setting up the device.
    Device,
    /// Everything is there; leases are followed.
    Running,
}

/// A copy of everything at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// How far the start has come.
    pub phase: Phase,
    /// The subnet file is written, packets are forwarded, and the lease is ours.
    pub ready: bool,
    /// Everything that is not as it should be, each with its cause; those that make the node not
    /// ready are among them.
    pub problems: Vec<String>,
    /// The config in force.
    pub config: Option<ConfigStatus>,
    /// The config in the source differs from the one in force, and what to do.
    pub config_change: Option<String>,
    /// The interface that carries the traffic between hosts.
    pub interface: Option<InterfaceStatus>,
    /// How the source of leases is.
    pub source: SourceStatus,
    /// Our own lease.
    pub lease: Option<LeaseStatus>,
    /// The tunnel device.
    pub device: Option<DeviceStatus>,
    /// Number of the last table published; 0 before the first.
    pub epoch: u64,
    /// How long changes took to get into a table.
    pub delays: TableDelays,
    /// Other nodes that packets are sent to.
    pub peers: Vec<PeerStatus>,
    /// What the kernel has asked for, if it gets only that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemandStatus>,
    /// How often peers were given other paths since the start.
    pub path_switches: Vec<PathSwitches>,
    /// Leases of other backends.
    pub skipped: Vec<SkippedStatus>,
    /// Leases that are not believed now.
    pub rejected: Vec<RejectedStatus>,
    /// How often leases were rejected since the start, by reason.
    pub rejections: BTreeMap<&'static str, u64>,
    /// Whether source ports are random, if packets are masqueraded (`--ip-masq`).
    pub masquerade_fully_random: Option<bool>,
    /// How often netfilter rules had to be put back.
    pub rule_repairs: u64,
    /// Packets that came past the tunnel and were dropped, at the last look; `None` where they are let
    /// in.
    pub wall_drops: Option<u64>,
    /// Objects of others that are in the way and stay.
    pub foreign: Vec<String>,
    #[serde(skip)]
    concerns: BTreeMap<Concern, String>,
}

/// The network config, short.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigStatus {
    /// The backend type.
    pub backend: &'static str,
    /// UDP port between the nodes, where there is one.
    pub port: Option<u16>,
    /// The paths that nodes open to each other, by their names.
    pub paths: Vec<String>,
    /// IPv4 subnets.
    pub v4: Option<RangeStatus>,
    /// IPv6 subnets.
    pub v6: Option<RangeStatus>,
    /// Outer sources allowed besides the peers.
    pub allowed_sources: Vec<String>,
    /// Inner sources outside Network are dropped.
    pub strict_source: bool,
}

/// The subnets of one family.
#[derive(Clone, Debug, Serialize)]
pub struct RangeStatus {
    /// The whole network.
    pub network: String,
    /// Prefix length of every lease; `None` where somebody else gives the subnets.
    pub subnet_length: Option<u8>,
    /// SubnetMin, likewise.
    pub subnet_min: Option<IpAddr>,
    /// SubnetMax, likewise.
    pub subnet_max: Option<IpAddr>,
}

/// The interface, short.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Underlay MTU of the device in bytes.
    pub mtu: u32,
    /// Addresses that sockets are bound to.
    pub addresses: Vec<IpAddr>,
    /// Addresses that other nodes send to.
    pub public_addresses: Vec<IpAddr>,
}

/// Our own lease.
#[derive(Clone, Debug, Serialize)]
pub struct LeaseStatus {
    /// Its name in the source.
    pub name: String,
    /// IPv4 subnet.
    pub subnet: Option<String>,
    /// IPv6 subnet.
    pub ipv6_subnet: Option<String>,
    /// This node's identity.
    pub id: Identity,
    /// Seconds until it runs out unless it is renewed; `None` if it does not, or if that is unknown.
    pub expires_in_seconds: Option<u64>,
    /// Seconds since this daemon last wrote it; `None` before the first time.
    pub age_seconds: Option<u64>,
    #[serde(skip)]
    expires_at: Option<Instant>,
    #[serde(skip)]
    written_at: Option<Instant>,
}

/// The source of leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// Leases and config are being followed; otherwise what was known last is in force.
    pub connected: bool,
    /// Which server answers, if there is a choice.
    pub server: Option<String>,
    /// Times that everything was listed.
    pub listings: u64,
    /// Times that following began again.
    pub restarts: u64,
    /// Changes seen, and leases in listings.
    pub events: u64,
    /// Failures of any kind.
    pub errors: u64,
}

/// A change takes longer than this only if something is wrong.
const DELAY_MAX: Duration = Duration::from_millis(50);

/// Upper ends of the classes that delays are counted in. [`DELAY_MAX`] is one of them.
const DELAY_CLASSES: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    DELAY_MAX,
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// From the arrival of the oldest change to the table that has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableDelays {
    /// Tables with changes.
    pub tables: u64,
    /// Those that took above 50 milliseconds.
    pub late: u64,
    #[serde(skip)]
    classes: [u64; DELAY_CLASSES.len()],
    /// The sum.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

impl TableDelays {
    /// Counts one more table.
    pub fn add(&mut self, delay: Duration) {
        self.tables += 1;
        if let Some(class) = DELAY_CLASSES.iter().position(|end| delay <= *end) {
            self.classes[class] += 1;
        }
        self.late += u64::from(delay > DELAY_MAX);
        self.total += delay;
        self.longest = self.longest.max(delay);
    }

    /// Classes of delays from short to long, each with its upper end (`None` for the last, which has
    /// none) and the number of tables in it alone.
    pub fn classes(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let beyond = self.tables - self.classes.iter().sum::<u64>();
        let ended = DELAY_CLASSES.into_iter().map(Some).zip(self.classes);
        ended.chain([(None, beyond)])
    }
}

/// A part of the node that has to be right for it to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// The tunnel device, or the first of the VXLAN devices.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStatus {
    /// Name.
    pub name: String,
    /// The kernel's number, where it does not change.
    pub index: Option<u32>,
    /// MTU in bytes of inner packet.
    pub mtu: u32,
}

/// A peer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerStatus {
    /// IPv4 subnet.
    pub subnet: Option<String>,
    /// IPv6 subnet.
    pub ipv6_subnet: Option<String>,
    /// Where packets are sent to: an address, with a port where there is one.
    pub outer: String,
    /// Outer sources that it may send from.
    pub addresses: Vec<IpAddr>,
    /// Its identity, if it is a weft node.
    pub id: Option<Identity>,
    /// Version of its `Weft` key, if it is a weft node.
    pub weft: Option<u64>,
    /// The path that packets take; two where those of IPv4 and IPv6 differ.
    pub path: String,
    /// Why that one, where there is a choice.
    pub reason: Option<String>,
    /// The paths that both nodes have, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathStatus>,
    /// It takes IPv6 inside.
    pub takes_ipv6: bool,
    /// Number in the table, if the engine reaches it.
    pub slot: Option<u16>,
    /// Tells apart users of one slot.
    pub generation: Option<u32>,
    /// Seconds since the lease was first seen.
    pub age_seconds: u64,
    #[serde(skip)]
    since: Option<Instant>,
}

/// How often peers went from one path to another for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSwitches {
    /// The path that was left, by its name in the config.
    pub from: String,
    /// The one that was taken.
    pub to: String,
    /// What was wrong with the one that was left, as in [`PathStatus::fault`]; `none` if a better one
    /// could be had.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// One of several paths to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Its name in the config.
    pub path: String,
    /// The peer's subnet that it leads to.
    pub subnet: String,
    /// Packets take it.
    pub chosen: bool,
    /// What is wrong with it, in words, or `nothing`.
    pub problem: String,
    /// The same for programs: `none`, `closed`, `unknown`, `dead`, `proving`, `narrow`, `lossy`, or
    /// `peer` if it is the other host that does not find it good.
    #[serde(default)]
    pub fault: String,
    /// Bytes of the largest packet that gets through, if that is known. Larger ones than pods send
    /// are not tried.
    pub mtu: Option<usize>,
    /// Microseconds there and back, smoothed.
    pub round_trip_us: Option<u64>,
    /// Part of the probes without an answer, from 0 to 1.
    pub loss: Option<f64>,
}

impl PathStatus {
    pub(crate) fn new(candidate: &Candidate, subnet: IpNet, chosen: PathKind) -> Self {
        let assessment = match candidate.standing {
            Standing::Probed(assessment) => Some(assessment),
            _ => None,
        };
        let round_trip = assessment.and_then(|one| one.round_trip);
        let objection = objection(candidate.standing);
        Self {
            path: candidate.path.name().to_owned(),
            subnet: subnet.to_string(),
            chosen: candidate.path == chosen,
            problem: in_words(objection),
            fault: objection.map_or("none", Objection::name).to_owned(),
            mtu: assessment.and_then(|one| one.mtu),
            round_trip_us: round_trip.and_then(|time| time.as_micros().try_into().ok()),
            loss: assessment.map(|one| one.loss),
        }
    }
}

/// What the kernel has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OnDemandStatus {
    /// Addresses of peers that it has entries for.
    pub addresses: usize,
    /// What became of its questions.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A lease for another backend.
#[derive(Clone, Debug, Serialize)]
pub struct SkippedStatus {
    /// Its name in the source.
    pub name: String,
    /// Its type, or the paths that it lists.
    pub backend: String,
}

/// Letters of a name that are shown. The longest name of a lease is far shorter; a stray key may have
/// more than a million.
const NAME_LENGTH_MAX: usize = 100;

/// A lease that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RejectedStatus {
    /// Its name in the source, or the beginning of a very long one.
    pub name: String,
    /// Short name of the reason.
    pub reason: &'static str,
    /// The reason in words.
    pub text: String,
}

/// What a problem is about; one problem each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Concern {
    Start,
    SubnetFile,
    Lease,
    /// The lease is good still, but cannot be renewed.
    Renewal,
    LeaseSource,
    Device,
    /// The interface has a subnet that our network cannot live beside.
    Underlay,
    Routes,
    /// Single peers that cannot be reached; all others can.
    Peers,
    /// Netfilter rules, ours or those of others that make ours useless.
    Rules,
    /// Sealing is offered, and some have no key.
    Unsealed,
}

impl Concern {
    /// A node with this problem must not be given work.
    fn blocks(self) -> bool {
        !matches!(
            self,
            Self::LeaseSource | Self::Renewal | Self::Peers | Self::Rules | Self::Unsealed
        )
    }
}

/// Shared access to the [`Status`]. Clones see the same.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    sender: Arc<watch::Sender<Status>>,
}

impl Default for StatusHandle {
    fn default() -> Self {
        let mut status = Status::default();
        status.concerns.insert(Concern::Start, "Starting".into());
        status.settle();
        Self { sender: Arc::new(watch::Sender::new(status)) }
    }
}

impl StatusHandle {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the present state.
    #[must_use]
    pub fn snapshot(&self) -> Status {
        let mut status = self.sender.borrow().clone();
        for peer in &mut status.peers {
            peer.age_seconds = peer.since.map_or(0, |since| since.elapsed().as_secs());
        }
        if let Some(lease) = &mut status.lease {
            let left = |end: Instant| end.saturating_duration_since(Instant::now()).as_secs();
            lease.expires_in_seconds = lease.expires_at.map(left);
            lease.age_seconds = lease.written_at.map(|written| written.elapsed().as_secs());
        }
        status
    }

    /// Whether the node is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sender.borrow().ready
    }

    /// Wakes at every change, for example to tell a supervisor about readiness.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.sender.subscribe()
    }

    pub(crate) fn has(&self, concern: Concern) -> bool {
        self.sender.borrow().concerns.contains_key(&concern)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Status)) {
        self.sender.send_modify(|status| {
            change(status);
            status.settle();
        });
    }
}

impl Status {
    pub(crate) fn raise(&mut self, concern: Concern, problem: String) {
        self.concerns.insert(concern, problem);
    }

    pub(crate) fn clear(&mut self, concern: Concern) {
        self.concerns.remove(&concern);
    }

    /// What is wrong with a part.
    pub(crate) fn concern(&self, concern: Concern) -> Option<&String> {
        self.concerns.get(&concern)
    }

    /// Raises or clears a problem that has several parts.
    pub(crate) fn set(&mut self, concern: Concern, parts: &[String]) {
        match parts {
            [] => self.clear(concern),
            parts => self.raise(concern, parts.join("; ")),
        }
    }

    /// The parts of the node, each with what is wrong.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let missing = |there: bool| (!there).then(|| "Not there yet".to_owned());
        // Plain routes need no device.
        let is_set_up = self.device.is_some() || self.phase == Phase::Running;
        let check = |name, concerns: &[Concern], otherwise: Option<String>| {
            let problem = concerns.iter().find_map(|concern| self.concerns.get(concern)).cloned();
            Check { name, problem: problem.or(otherwise) }
        };
        vec![
            check("datastore", &[Concern::LeaseSource], missing(self.config.is_some())),
            check("lease", &[Concern::Lease, Concern::Renewal], missing(self.lease.is_some())),
            check("device", &[Concern::Device], missing(is_set_up)),
            check(
                "routes",
                &[Concern::Underlay, Concern::Routes, Concern::Peers],
                missing(is_set_up),
            ),
            check("rules", &[Concern::Rules], missing(self.phase == Phase::Running)),
            check("subnet file", &[Concern::SubnetFile], missing(self.phase == Phase::Running)),
            check("start", &[Concern::Start], None),
        ]
    }

    /// Why the pods of this node cannot reach others, if that is known.
    pub(crate) fn broken_network(&self) -> Option<String> {
        let concerns = [Concern::Device, Concern::Underlay, Concern::Routes];
        let mut problems = concerns.iter().filter_map(|concern| self.concerns.get(concern));
        problems.next().filter(|_| self.phase == Phase::Running).cloned()
    }

    fn settle(&mut self) {
        let blocked = self.concerns.keys().any(|concern| concern.blocks());
        self.ready = self.phase == Phase::Running && !blocked;
        self.problems = self.concerns.values().cloned().collect();
    }

    pub(crate) fn set_config(&mut self, config: &NetworkConfig) {
        let range = |range: &SubnetRange| RangeStatus {
            network: range.network().to_string(),
            subnet_length: (!range.is_given()).then(|| range.length()),
            subnet_min: (!range.is_given()).then(|| range.first()),
            subnet_max: (!range.is_given()).then(|| range.last()),
        };
        let udp = config.backend.udp();
        let sources = udp.iter().flat_map(|udp| &udp.allowed_sources);
        self.config = Some(ConfigStatus {
            backend: config.backend.name(),
            port: config.backend.port(),
            paths: config.backend.paths().iter().map(ToString::to_string).collect(),
            v4: config.v4.as_ref().map(range),
            v6: config.v6.as_ref().map(range),
            allowed_sources: sources.map(ToString::to_string).collect(),
            strict_source: udp.is_some_and(|udp| udp.strict_source),
        });
    }

    pub(crate) fn set_interface(&mut self, interface: &Interface) {
        let both = |v4: Option<std::net::Ipv4Addr>, v6: Option<std::net::Ipv6Addr>| {
            v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect()
        };
        self.interface = Some(InterfaceStatus {
            name: interface.name.clone(),
            index: interface.index,
            mtu: interface.mtu,
            addresses: both(interface.address_v4, interface.address_v6),
            public_addresses: both(interface.public_v4, interface.public_v6),
        });
    }

    pub(crate) fn set_lease(&mut self, leaf: &Leaf, id: Identity) {
        self.lease = Some(LeaseStatus::new(leaf, id));
    }

    /// When the own lease was last written, and when it runs out.
    pub(crate) fn set_life(&mut self, written_at: Option<Instant>, expires_at: Option<Instant>) {
        if let Some(lease) = &mut self.lease {
            (lease.written_at, lease.expires_at) = (written_at, expires_at);
        }
    }

    pub(crate) fn set_health(&mut self, health: &Health) {
        self.source = SourceStatus {
            connected: health.problem.is_none() && health.listings > 0,
            server: health.server.clone(),
            listings: health.listings,
            restarts: health.restarts,
            events: health.events,
            errors: health.errors,
        };
    }

    /// Counts a rejection when a lease becomes rejected or is rejected for another reason, so that it is
    /// not among those `known` before.
    pub(crate) fn set_view(
        &mut self,
        view: &View,
        peers: Vec<PeerStatus>,
        epoch: u64,
        known: &HashSet<RejectedStatus>,
    ) {
        self.epoch = epoch;
        self.peers = peers;
        let skipped = view.skipped.iter();
        self.skipped = skipped
            .map(|one| SkippedStatus { name: one.name.clone(), backend: one.backend.clone() })
            .collect();
        let rejected: Vec<_> = view
            .rejected
            .iter()
            .map(|one| RejectedStatus {
                name: shortened(&one.name, NAME_LENGTH_MAX),
                reason: one.reason.name(),
                text: one.reason.to_string(),
            })
            .collect();
        for one in rejected.iter().filter(|one| !known.contains(one)) {
            *self.rejections.entry(one.reason).or_default() += 1;
        }
        self.rejected = rejected;
    }
}

impl LeaseStatus {
    /// A lease of which nothing is known but what it is.
    #[must_use]
    pub fn new(leaf: &Leaf, id: Identity) -> Self {
        Self {
            name: leaf.to_string(),
            subnet: leaf.v4.map(|net| net.to_string()),
            ipv6_subnet: leaf.v6.map(|net| net.to_string()),
            id,
            expires_in_seconds: None,
            age_seconds: None,
            expires_at: None,
            written_at: None,
        }
    }
}

impl PeerStatus {
    /// A peer that the engine reaches; `None` for others.
    pub(crate) fn of_engine(accepted: &Accepted) -> Option<Self> {
        let peer = accepted.peer()?;
        Some(Self {
            outer: peer.outer.to_string(),
            addresses: peer.addresses.clone(),
            path: "udp".to_owned(),
            takes_ipv6: peer.inner_v6,
            slot: Some(peer.slot),
            generation: Some(peer.generation),
            ..Self::of(accepted)
        })
    }

    /// A peer that the kernel reaches.
    pub(crate) fn of_kernel(accepted: &Accepted, config: &NetworkConfig, on_link: &OnLink) -> Self {
        let hops = accepted.hops();
        let mut paths: Vec<Path> =
            hops.iter().map(|hop| kernel::path(config, on_link, hop)).collect();
        paths.dedup();
        let names: Vec<&str> = paths.iter().map(|path| path.name()).collect();
        let outer = |hop: &Hop| match config.backend.port() {
            Some(port) if paths.contains(&Path::Vxlan) => {
                SocketAddr::new(hop.public, port).to_string()
            }
            _ => hop.public.to_string(),
        };
        Self {
            outer: hops.first().map(outer).unwrap_or_default(),
            addresses: hops.iter().map(|hop| hop.public).collect(),
            path: names.join(", "),
            reason: kernel::reason(config, &paths),
            takes_ipv6: hops.iter().any(|hop| hop.public.is_ipv6()),
            ..Self::of(accepted)
        }
    }

    fn of(accepted: &Accepted) -> Self {
        let weft = accepted.lease.attributes.weft.as_ref();
        Self {
            subnet: accepted.leaf.v4.map(|net| net.to_string()),
            ipv6_subnet: accepted.leaf.v6.map(|net| net.to_string()),
            outer: String::new(),
            addresses: Vec::new(),
            id: weft.and_then(|weft| weft.id),
            weft: weft.map(|weft| weft.v),
            path: String::new(),
            reason: None,
            paths: Vec::new(),
            takes_ipv6: false,
            slot: None,
            generation: None,
            age_seconds: 0,
            since: Some(accepted.since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_running_without_a_blocking_problem() {
        let handle = StatusHandle::new();
        assert!(!handle.is_ready());
        assert_eq!(handle.snapshot().problems, ["Starting"]);
        handle.change(|status| {
            status.clear(Concern::Start);
            status.raise(Concern::LeaseSource, "cannot list".into());
        });
        assert!(!handle.is_ready(), "not running yet");
        handle.change(|status| status.phase = Phase::Running);
        assert!(handle.is_ready());
        assert_eq!(handle.snapshot().problems, ["cannot list"]);
        handle.change(|status| status.raise(Concern::Lease, "taken".into()));
        assert!(!handle.is_ready());
        handle.change(|status| status.clear(Concern::Lease));
        assert!(handle.is_ready());
    }

    #[test]
    fn every_check_names_what_is_wrong() {
        let handle = StatusHandle::new();
        let failed = || -> Vec<&str> {
            let checks = handle.snapshot().checks();
            checks.into_iter().filter(|one| one.problem.is_some()).map(|one| one.name).collect()
        };
        assert_eq!(
            failed(),
            ["datastore", "lease", "device", "routes", "rules", "subnet file", "start"]
        );
        handle.change(|status| {
            status.phase = Phase::Running;
            status.clear(Concern::Start);
            let config = NetworkConfig::parse(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
            status.set_config(&config);
            status.set_lease(&"10.5.1.0-24".parse().unwrap(), Identity::random());
            status.device =
                Some(DeviceStatus { name: "flannel0".into(), index: Some(1), mtu: 1472 });
        });
        assert_eq!(failed(), [""; 0]);
        for (concern, name) in [
            (Concern::LeaseSource, "datastore"),
            (Concern::Renewal, "lease"),
            (Concern::Lease, "lease"),
            (Concern::Device, "device"),
            (Concern::Underlay, "routes"),
            (Concern::Routes, "routes"),
            (Concern::Peers, "routes"),
            (Concern::Rules, "rules"),
            (Concern::SubnetFile, "subnet file"),
            (Concern::Start, "start"),
        ] {
            handle.change(|status| status.set(concern, &["it is wrong".into()]));
            assert_eq!(failed(), [name]);
            assert_eq!(handle.is_ready(), !concern.blocks(), "{concern:?}");
            handle.change(|status| status.set(concern, &[]));
        }
    }

    #[test]
    fn delays_are_counted_in_classes() {
        let mut delays = TableDelays::default();
        for milliseconds in [0, 1, 2, 50, 51, 1000, 1001, 5000] {
            delays.add(Duration::from_millis(milliseconds));
        }
        let counts: Vec<u64> = delays.classes().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 1, 0, 1, 2]);
        let late = delays.classes().filter(|(end, _)| end.is_none_or(|end| end > DELAY_MAX));
        assert_eq!(late.map(|(_, count)| count).sum::<u64>(), delays.late);
        assert!(DELAY_CLASSES.is_sorted());
    }

    #[test]
    fn it_becomes_json() {
        let json = serde_json::to_value(StatusHandle::new().snapshot()).unwrap();
        assert_eq!(json["phase"], "config");
        assert_eq!(json["ready"], false);
        assert!(json.get("concerns").is_none());
    }
}
