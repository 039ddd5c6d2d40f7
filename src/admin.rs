//! Asking a running daemon: what goes over the admin socket.
//!
//! A client connects to the Unix socket, writes one line of JSON, `{"cmd":"status"}`, and reads one
//! line of JSON, the answer, or `{"error":…}`. The connection then is ready for the next line.

pub mod client;
pub mod server;
pub mod show;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_ctrl::status::{PathStatus, PathSwitches};

/// Bytes of a request line. Every request is far shorter; this bounds what a stranger can make the
/// daemon hold.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// State of the daemon: [`Status`].
    Status,
    /// The other hosts: [`Peers`].
    Peers,
    /// Packets that were not handed on, and why: [`Drops`].
    Drops,
    /// Give the lease back and end: [`Released`].
    Release,
    /// Take another key: [`Rotated`].
    Rotate,
}

/// One line from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked.
    pub cmd: Question,
}

/// Answer when the request was not understood or not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A sentence for people.
    pub error: String,
}

/// State of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// As `/readyz` says it.
    pub ready: bool,
    /// Why it is not ready, or what else is wrong; empty if all is well.
    pub problems: Vec<String>,
    /// Where leases and config come from.
    pub source: String,
    /// How that place is.
    #[serde(default)]
    pub datastore: Datastore,
    /// The network config in force.
    pub network: Option<Network>,
    /// The interface for traffic between hosts.
    pub interface: Option<Interface>,
    /// This host's lease.
    pub lease: Option<Lease>,
    /// The overlay's device.
    pub device: Option<Device>,
    /// The packet worker has not finished a turn for a long time.
    pub stalled: Option<Stalled>,
    /// How packets are moved.
    pub engine: Option<Engine>,
    /// How traffic is sealed, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Sealing>,
    /// Who moves packets.
    #[serde(default)]
    pub workers: Option<Workers>,
    /// What the workers counted.
    pub traffic: Option<Traffic>,
    /// How many other hosts packets can be sent to.
    pub peers: usize,
    /// What the kernel has asked for, where it gets only that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemand>,
    /// Of these, by the path that packets take, where there are several; two where those of IPv4 and
    /// IPv6 differ.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<String, usize>,
    /// How often peers were given other paths since the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_switches: Vec<PathSwitches>,
    /// Number of the table in use; it grows with every change.
    pub epoch: u64,
    /// Whether source ports are random, if packets that leave the network are masqueraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade_fully_random: Option<bool>,
    /// The network config has changed, and what to do.
    pub config_change: Option<String>,
    /// Leases of others that are not believed.
    pub rejected: Vec<UnusedLease>,
    /// Leases of other backends.
    pub skipped: Vec<UnusedLease>,
    /// Objects of others that are in the way and stay.
    pub foreign: Vec<String>,
}

/// What the kernel has asked for. Numbers count from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemand {
    /// Addresses of peers that it has entries for now.
    pub addresses: usize,
    /// Questions after which entries were made.
    pub answered: u64,
    /// Questions for what no peer's lease has. Nothing was done.
    pub unknown: u64,
    /// Questions above the number that is answered a second. They are asked again.
    pub refused: u64,
}

/// How the place of leases and config is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datastore {
    /// It is being followed; otherwise what was known last is in force.
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

/// A lease that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedLease {
    /// Its name in the source.
    pub name: String,
    /// Why, as a name for programs.
    pub reason: String,
    /// Why, as a sentence.
    pub text: String,
}

/// The part of the network config that matters here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// IPv4 network, CIDR text.
    pub ipv4: Option<String>,
    /// IPv6 network, CIDR text.
    pub ipv6: Option<String>,
    /// Backend type.
    pub backend: String,
    /// UDP port, the same on all hosts; `None` where there is none.
    pub port: Option<u16>,
    /// The paths that nodes open to each other, by their names.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// The interface for traffic between hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The addresses our sockets are bound to.
    pub addresses: Vec<IpAddr>,
    /// The addresses that other hosts send to.
    pub public_addresses: Vec<IpAddr>,
}

/// This host's lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// IPv4 subnet, CIDR text.
    pub subnet: Option<String>,
    /// IPv6 subnet, CIDR text.
    pub ipv6_subnet: Option<String>,
    /// Identity of this host.
    pub id: String,
    /// Seconds until the lease runs out unless it is renewed, where it does and where that is known.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// The overlay's device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its MTU in bytes of inner packet.
    pub mtu: u32,
}

/// A turn of the worker that takes too long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// What the worker does.
    pub phase: String,
    /// How long the turn has taken.
    pub milliseconds: u64,
}

/// How packets are moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// `uring`.
    pub name: String,
    /// Why this one.
    pub reason: String,
    /// Parts and offloads in use, each by its name.
    pub features: Map<String, Value>,
}

/// How traffic is sealed. Numbers count from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// `require`: nothing is sent or taken that is not sealed. `offer`: hosts without a key are talked
    /// with all the same.
    pub mode: String,
    /// Hosts without a key, traffic with which is not sealed. Those have no session in the list of
    /// peers.
    #[serde(default)]
    pub plain_peers: usize,
    /// This host's public key.
    pub key: Option<String>,
    /// Sessions that may receive.
    pub sessions: usize,
    /// Sessions that were made and used.
    pub handshakes: u64,
    /// Handshakes that were given up without an answer.
    pub given_up: u64,
    /// Packets that waited for a session and were dropped.
    pub packets_dropped: u64,
    /// Messages that the kernel refused to send.
    pub sends_failed: u64,
    /// Messages of handshakes that were not accepted, by reason.
    pub rejected: Map<String, Value>,
}

/// The packet workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// How many there are.
    pub count: u16,
    /// How many were asked for.
    pub asked_for: u16,
    /// Why there are fewer than that.
    pub fewer_because: Option<String>,
    /// Each of them, by its number.
    pub each: Vec<Worker>,
}

/// A packet worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, from 0 on.
    pub number: usize,
    /// Its engine, as in [`Engine`].
    pub engine: String,
    /// Inner packets that it read from the device.
    pub outbound_segments: u64,
    /// Inner packets that it received from the peers.
    pub inbound_segments: u64,
    /// Those of both that it did not hand on.
    pub drops: u64,
    /// Its turns.
    pub turns: u64,
    /// How long it did not sleep.
    pub busy_milliseconds: u64,
}

/// What the workers counted, by the names of the counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// From the device to the peers.
    pub outbound: Map<String, Value>,
    /// From the peers to the device.
    pub inbound: Map<String, Value>,
    /// Both or neither.
    pub other: Map<String, Value>,
    /// What the kernel carried in their place; empty while it carries nothing.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub shortcut: Map<String, Value>,
}

/// The other hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// By slot.
    pub peers: Vec<Peer>,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its place in the workers' arrays, if they reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// How often the place was given to somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// IPv4 subnet, CIDR text.
    pub subnet: Option<String>,
    /// IPv6 subnet, CIDR text.
    pub ipv6_subnet: Option<String>,
    /// Where its packets are sent: an address, with a port where there is one.
    pub outer: String,
    /// Addresses its packets may come from.
    pub addresses: Vec<IpAddr>,
    /// How they get there: `udp`, `vxlan`, `direct` or `host-gw`.
    pub path: String,
    /// Why so, where there is a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The paths that both hosts have, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathStatus>,
    /// Its identity, if it is a weft node.
    pub id: Option<String>,
    /// Seconds since its lease was seen first.
    pub age_seconds: u64,
    /// It takes IPv6 packets inside.
    pub takes_ipv6: bool,
    /// MTU of the way to it in bytes, where the workers found it smaller than expected.
    pub path_mtu: Option<u16>,
    /// The kernel segments trains to it.
    pub segmentation: bool,
    /// How traffic to it is sealed, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<PeerSealing>,
}

/// How traffic to another host is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSealing {
    /// Its public key.
    pub key: String,
    /// Where it was last heard, if that is known.
    pub endpoint: Option<String>,
    /// Seconds since the last handshake. `None`: there is no session now.
    pub session_age_seconds: Option<u64>,
    /// Sessions that were made and used; all but the first replaced another.
    pub handshakes: u64,
    /// Handshakes that were given up without an answer.
    pub given_up: u64,
    /// Packets that waited for a session and were dropped.
    pub packets_dropped: u64,
}

/// Packets that were not handed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drops {
    /// Who counts, where that are not the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// From the device to the peers.
    pub outbound: Vec<Drop>,
    /// From the peers to the device.
    pub inbound: Vec<Drop>,
    /// Losses that the kernel counted around us.
    pub kernel: Vec<Drop>,
    /// Kernel counters that look like losses and are none of ours.
    pub not_loss: Vec<Drop>,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Name for programs.
    pub reason: String,
    /// Inner packets, or what the text says.
    pub count: u64,
    /// The cause as a sentence.
    pub text: String,
}

/// The lease was given back; the daemon ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Its name in the source.
    pub lease: String,
}

/// This host has another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Its public part.
    pub key: String,
}

/// Another key on its way, or why it stays the same.
pub type Rotating = Pin<Box<dyn Future<Output = Result<Rotated, String>> + Send>>;

/// A lease on its way back, or why it stays.
pub type Releasing = Pin<Box<dyn Future<Output = Result<Released, String>> + Send>>;

/// What can answer. The server calls it on the control thread, so it must not wait.
pub trait Answers: Send + Sync + 'static {
    /// State of the daemon.
    fn status(&self) -> Status;
    /// The other hosts.
    fn peers(&self) -> Peers;
    /// Packets not handed on.
    fn drops(&self) -> Drops;
    /// Gives the lease back and ends.
    fn release(&self) -> Releasing;
    /// Takes another key.
    fn rotate(&self) -> Rotating;
}
