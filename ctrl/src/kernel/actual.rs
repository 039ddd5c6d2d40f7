//! What is there, as far as it matters, and what a step changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::MacAddress;
use super::action::Action;
use super::object::{Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule};
use crate::device::{ROUTE_PROTOCOL, Setting};
use crate::interface::snapshot::Address;

/// What an IPv6 route gets that asks for no metric (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
/// IPv4's default is 0.
const METRIC_V6: u32 = 1024;

/// The part of the kernel's state that a plan looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// By name: every VXLAN device, and those that the wanted objects name.
    pub devices: BTreeMap<String, Device>,
    /// By destination and table: what is inside our networks or could be ours, of whomever.
    pub routes: BTreeMap<(IpNet, u32), Vec<FoundRoute>>,
    /// Rules of the form that ours have, and whether they carry our protocol.
    pub rules: BTreeMap<Rule, bool>,
    /// Permanent neighbours on VXLAN devices.
    pub neighbours: BTreeMap<(String, IpAddr), MacAddress>,
    /// Permanent forwarding entries of VXLAN devices.
    pub fdb: BTreeSet<Fdb>,
    /// The values of [`Setting::ALL`] that a new device would begin with; `None` where they are not known.
    pub new_settings: [Option<u8>; Setting::ALL.len()],
    /// Gateways that were wanted earlier and that a route made by hand or by flanneld still has.
    pub former_gateways: BTreeSet<IpAddr>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number.
    pub index: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// A text that somebody gave it (`IFLA_IFALIAS`).
    pub alias: Option<String>,
    /// Index of the bridge that it is a port of, or of what else has taken it in (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// The parameters of a VXLAN device.
    pub vxlan: Option<VxlanParameters>,
    /// Its addresses; only read for VXLAN devices.
    pub addresses: Vec<Address>,
    /// The values of [`Setting::ALL`], in that order; only read for wanted VXLAN devices, and
    /// `None` where the kernel has no such setting.
    pub settings: [Option<u8>; Setting::ALL.len()],
}

impl Device {
    /// The value of a setting, if it was read and the kernel has it.
    #[must_use]
    pub fn setting(&self, setting: Setting) -> Option<u8> {
        value_of(setting, &self.settings)
    }
}

fn value_of(setting: Setting, values: &[Option<u8>]) -> Option<u8> {
    let place = Setting::ALL.iter().position(|one| *one == setting)?;
    values.get(place).copied().flatten()
}

/// What a VXLAN device was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanParameters {
    /// The network identifier.
    pub vni: u32,
    /// Index of the device that carries it.
    pub underlay: Option<u32>,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Where frames go for which there is no forwarding entry.
    pub group: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Learns from received frames.
    pub learning: bool,
    /// Carries the mark of group-based policy.
    pub gbp: bool,
    /// Answers ARP.
    pub proxy: bool,
    /// Announces frames without a forwarding entry.
    pub l2miss: bool,
    /// Announces questions without a neighbour.
    pub l3miss: bool,
}

/// A route, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// What it does; `None` for what we never make, as a multipath route.
    pub kind: Option<RouteKind>,
    /// Index of the device, if it leads into a single one.
    pub link: Option<u32>,
    /// The smallest wins.
    pub metric: u32,
    /// Type of service that it is for; 0 means any.
    pub tos: u8,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

impl FoundRoute {
    /// The route that we make for `wanted`.
    pub(super) fn of(wanted: &Route, link: Option<u32>) -> Self {
        Self {
            kind: Some(wanted.kind.clone()),
            link,
            metric: metric_of(wanted),
            tos: 0,
            protocol: ROUTE_PROTOCOL,
        }
    }

    /// The device that it leads into, if there is exactly one.
    pub(super) fn device(&self) -> Option<&str> {
        match &self.kind {
            Some(RouteKind::Unicast { device, .. }) => Some(device),
            _ => None,
        }
    }

    /// The next host, if there is exactly one.
    pub(super) fn gateway(&self) -> Option<IpAddr> {
        match self.kind {
            Some(RouteKind::Unicast { gateway, .. }) => gateway,
            _ => None,
        }
    }
}

/// The metric that the kernel gives the route.
pub(super) fn metric_of(route: &Route) -> u32 {
    let by_default = if route.destination.addr().is_ipv4() { 0 } else { METRIC_V6 };
    // IPv6 takes 0 as a wish for the default.
    route.metric.filter(|metric| *metric != 0).unwrap_or(by_default)
}

/// A route that goes, with what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleRoute {
    /// Where to.
    pub destination: IpNet,
    /// In which table.
    pub table: u32,
    /// The rest.
    pub found: FoundRoute,
}

impl fmt::Display for StaleRoute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, table, found } = self;
        match &found.kind {
            Some(kind) => {
                let metric = Some(found.metric).filter(|metric| *metric != 0);
                let (kind, destination) = (kind.clone(), *destination);
                write!(formatter, "{}", Route { destination, table: *table, kind, metric })?;
            }
            None if *table == MAIN_TABLE => write!(formatter, "{destination}")?,
            None => write!(formatter, "{destination} table {table}")?,
        }
        write!(formatter, " proto {}", found.protocol)
    }
}

impl Actual {
    /// The value of a setting that a new device would begin with, if it is known.
    #[must_use]
    pub fn new_setting(&self, setting: Setting) -> Option<u8> {
        value_of(setting, &self.new_settings)
    }

    /// Index of the device with this name.
    pub(super) fn index(&self, device: &str) -> Option<u32> {
        self.devices.get(device).map(|device| device.index)
    }

    /// The state after the step, as the kernel takes it. Devices are not made here: their number
    /// is the kernel's choice.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::AddLink(_) => {}
            Action::Set(name, setting) => self.change(name, |device| {
                let place = Setting::ALL.iter().position(|one| one == setting);
                if let Some(value) = place.and_then(|at| device.settings.get_mut(at)) {
                    *value = Some(setting.wanted());
                }
            }),
            Action::DeleteLink(name) => self.delete_link(name),
            Action::SetAlias(name, alias) => {
                self.change(name, |device| device.alias = Some(alias.clone()));
            }
            Action::SetMtu(name, mtu) => self.change(name, |device| device.mtu = *mtu),
            Action::SetMac(name, mac) => {
                self.change(name, |device| device.mac = Some(*mac));
                // `neigh_changeaddr` of net/core/neighbour.c spares none.
                self.neighbours.retain(|(device, _), _| device != name);
            }
            Action::SetLearning(name, learning) => self.change(name, |device| {
                if let Some(vxlan) = &mut device.vxlan {
                    vxlan.learning = *learning;
                }
            }),
            Action::SetUp(name) => self.change(name, |device| device.up = true),
            Action::AddAddress(name, address) => self.add_address(name, *address),
            Action::DeleteAddress(name, address) => {
                self.change(name, |device| device.addresses.retain(|one| one != address));
            }
            Action::SetNeighbour(Neighbour { device, address, mac }) => {
                self.neighbours.insert((device.clone(), *address), *mac);
            }
            Action::DeleteNeighbour(Neighbour { device, address, .. }) => {
                self.neighbours.remove(&(device.clone(), *address));
            }
            Action::SetFdb(entry) => self.set_fdb(entry),
            Action::DeleteFdb(entry) => {
                self.fdb.remove(entry);
            }
            Action::AddRoute(route) => self.add_route(route),
            Action::ReplaceRoute(route) => self.replace_route(route),
            Action::DeleteRoute(stale) => self.delete_route(stale),
            Action::AddRule(rule) => {
                self.rules.entry(rule.clone()).or_insert(true);
            }
            Action::DeleteRule(rule) => {
                self.rules.remove(rule);
            }
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Device)) {
        if let Some(device) = self.devices.get_mut(name) {
            change(device);
        }
    }

    fn delete_link(&mut self, name: &str) {
        self.devices.remove(name);
        for routes in self.routes.values_mut() {
            routes.retain(|route| route.device() != Some(name));
        }
        self.routes.retain(|_, routes| !routes.is_empty());
        self.neighbours.retain(|(device, _), _| device != name);
        self.fdb.retain(|entry| entry.device != name);
    }

    fn add_address(&mut self, name: &str, address: IpAddr) {
        self.change(name, |device| {
            let prefix_length = IpNet::from(address).prefix_len();
            let is_same =
                |one: &Address| one.local == address && one.prefix_length == prefix_length;
            device.addresses.retain(|one| !is_same(one) || one.peer.is_some());
            device.addresses.push(Address {
                link: device.index,
                local: address,
                peer: None,
                prefix_length,
                permanent: true,
                temporary: false,
                deprecated: false,
            });
        });
    }

    /// One destination, if there is only one so far, is exchanged (`vxlan_fdb_replace`).
    fn set_fdb(&mut self, entry: &Fdb) {
        let same_mac = |one: &&Fdb| one.device == entry.device && one.mac == entry.mac;
        let first = self.fdb.iter().find(same_mac).cloned();
        if let Some(first) = first.filter(|_| !self.fdb.contains(entry)) {
            self.fdb.remove(&first);
        }
        self.fdb.insert(entry.clone());
    }

    fn link_of(&self, route: &Route) -> Option<u32> {
        match &route.kind {
            RouteKind::Unicast { device, .. } => self.index(device),
            RouteKind::Blackhole | RouteKind::Unreachable => None,
        }
    }

    fn add_route(&mut self, route: &Route) {
        let found = FoundRoute::of(route, self.link_of(route));
        self.routes.entry((route.destination, route.table)).or_default().push(found);
    }

    fn replace_route(&mut self, route: &Route) {
        let metric = metric_of(route);
        if let Some(routes) = self.routes.get_mut(&(route.destination, route.table))
            && let Some(place) = routes.iter().position(|one| one.metric == metric && one.tos == 0)
        {
            routes.remove(place);
        }
        self.add_route(route);
    }

    fn delete_route(&mut self, stale: &StaleRoute) {
        let place = (stale.destination, stale.table);
        if let Some(routes) = self.routes.get_mut(&place) {
            routes.retain(|route| *route != stale.found);
            if routes.is_empty() {
                self.routes.remove(&place);
            }
        }
    }
}
