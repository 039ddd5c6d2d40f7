//! From the peers to the kernel's state, for the types `vxlan` and `host-gw`.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::demand::Demand;
use super::{Hop, View};
use crate::config::{Backend, NetworkConfig, VxlanBackend};
use crate::kernel::MacAddress;
use crate::kernel::object::{Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, State, Underlay, Vxlan};
use crate::lease::Leaf;

/// What of this host goes into the kernel's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The interface that carries the traffic between hosts.
    pub underlay: Underlay,
    /// This node's VXLAN devices: one for each family, IPv4 first. Empty without `vxlan`.
    pub vteps: Vec<Vtep>,
}

/// A VXLAN device of this node, as far as the config does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Outer source address, whose family the device is for.
    pub local: IpAddr,
    /// Its hardware address.
    pub mac: MacAddress,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
}

/// Which hosts are on a link of this host, and over which device. Who is not in it has not been asked
/// for.
pub type OnLink = HashMap<IpAddr, Option<String>>;

/// How packets get to a peer in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Through the VXLAN device.
    Vxlan,
    /// By a plain route, instead of the VXLAN device.
    Direct,
    /// By a plain route.
    HostGw,
}

impl Path {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Direct => "direct",
            Self::HostGw => "host-gw",
        }
    }
}

/// The name of the device of one family, as flannel calls it.
#[must_use]
pub fn device_name(vni: u32, is_v6: bool) -> String {
    if is_v6 { format!("flannel-v6.{vni}") } else { format!("flannel.{vni}") }
}

/// The public addresses of peers that have to be known to be on a link or not.
pub fn asked_about<'a>(
    config: &'a NetworkConfig,
    view: &'a View,
) -> impl Iterator<Item = IpAddr> + 'a {
    let is_asked = config.backend.vxlan().is_some_and(|backend| backend.direct_routing);
    let peers = view.accepted.iter().filter(move |_| is_asked);
    peers.flat_map(|accepted| accepted.hops()).map(|hop| hop.public)
}

/// How packets get there.
#[must_use]
pub fn path(config: &NetworkConfig, on_link: &OnLink, hop: &Hop) -> Path {
    match &config.backend {
        Backend::Vxlan(backend) => match direct_device(backend, on_link, hop) {
            Some(_) => Path::Direct,
            None => Path::Vxlan,
        },
        _ => Path::HostGw,
    }
}

/// Why packets take these paths, where there is a choice.
#[must_use]
pub fn reason(config: &NetworkConfig, paths: &[Path]) -> Option<String> {
    let direct_routing = config.backend.vxlan()?.direct_routing;
    let reason = match paths {
        _ if !direct_routing => return None,
        [Path::Direct] => "it is on a link of this host",
        [Path::Vxlan] => "it is on no link of this host: a gateway or a tunnel is in between",
        _ => "it is on a link of this host in one address family only",
    };
    Some(reason.to_owned())
}

fn direct_device<'a>(backend: &VxlanBackend, on_link: &'a OnLink, hop: &Hop) -> Option<&'a String> {
    on_link.get(&hop.public).filter(|_| backend.direct_routing)?.as_ref()
}

/// What the kernel has answered and asked.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Which peers are on a link.
    pub on_link: &'a OnLink,
    /// What the kernel needs, if it gets only that.
    pub demand: Option<&'a Demand>,
}

/// The kernel's state for these peers. The own lease is not among them, so nothing leads to it.
#[must_use]
pub fn state(
    config: &NetworkConfig,
    own: &Leaf,
    host: &Host,
    view: &View,
    known: Known<'_>,
) -> State {
    let mut state = State { networks: config.networks().collect(), ..State::default() };
    let vxlan = config.backend.vxlan();
    state.vxlans = devices(config, own, host);
    if known.demand.is_some() {
        state.routes = state.vxlans.iter().filter_map(|one| whole_network(config, one)).collect();
    }
    for hop in view.accepted.iter().flat_map(|accepted| accepted.hops()) {
        match vxlan {
            Some(backend) => match (direct_device(backend, known.on_link, hop), known.demand) {
                (Some(device), _) => state.routes.push(route_by_host(hop, device)),
                (None, Some(demand)) => add_needed(&mut state, backend, hop, demand),
                (None, None) => add_tunnelled(&mut state, backend, hop),
            },
            None => state.routes.push(route_by_host(hop, &host.underlay.name)),
        }
    }
    state
}

/// The route that makes the kernel ask for each address by itself.
fn whole_network(config: &NetworkConfig, vxlan: &Vxlan) -> Option<Route> {
    let destination = config.networks().find(|network| network.contains(&vxlan.address))?;
    let device = vxlan.name.clone();
    let kind = RouteKind::Unicast { gateway: None, device, onlink: false, source: None, mtu: None };
    Some(Route { destination, table: MAIN_TABLE, kind, metric: None })
}

/// The VXLAN devices of this node.
#[must_use]
pub fn devices(config: &NetworkConfig, own: &Leaf, host: &Host) -> Vec<Vxlan> {
    let Some(backend) = config.backend.tunnel() else { return Vec::new() };
    host.vteps.iter().filter_map(|vtep| device(backend, own, host, vtep)).collect()
}

/// `None` for a family in which the node has no subnet.
fn device(backend: &VxlanBackend, own: &Leaf, host: &Host, vtep: &Vtep) -> Option<Vxlan> {
    let same_family = |net: &IpNet| net.network().is_ipv6() == vtep.local.is_ipv6();
    let subnet = own.subnets().find(same_family)?;
    Some(Vxlan {
        name: device_name(backend.vni, vtep.local.is_ipv6()),
        vni: backend.vni,
        underlay: host.underlay.clone(),
        local: vtep.local,
        port: backend.port,
        mtu: vtep.mtu,
        mac: vtep.mac,
        learning: backend.learning,
        gbp: backend.gbp,
        miss: backend.on_demand,
        address: subnet.network(),
    })
}

fn add_tunnelled(state: &mut State, backend: &VxlanBackend, hop: &Hop) {
    let Some(mac) = hop.mac else { return };
    let device = device_name(backend.vni, hop.public.is_ipv6());
    let address = hop.subnet.network();
    state.neighbours.push(Neighbour { device: device.clone(), address, mac });
    state.fdb.push(Fdb { device: device.clone(), mac, destination: hop.public });
    state.routes.push(unicast(hop.subnet, address, device, true));
}

/// One neighbour for each address that is asked for, all of them the peer's device, and its
/// forwarding entry.
fn add_needed(state: &mut State, backend: &VxlanBackend, hop: &Hop, demand: &Demand) {
    let Some(mac) = hop.mac else { return };
    let device = || device_name(backend.vni, hop.public.is_ipv6());
    let before = state.neighbours.len();
    let neighbour = |address| Neighbour { device: device(), address, mac };
    state.neighbours.extend(demand.asked_in(hop.subnet).map(neighbour));
    if state.neighbours.len() > before {
        state.fdb.push(Fdb { device: device(), mac, destination: hop.public });
    }
}

fn route_by_host(hop: &Hop, device: &str) -> Route {
    unicast(hop.subnet, hop.public, device.to_owned(), false)
}

fn unicast(destination: IpNet, gateway: IpAddr, device: String, onlink: bool) -> Route {
    let kind =
        RouteKind::Unicast { gateway: Some(gateway), device, onlink, source: None, mtu: None };
    Route { destination, table: MAIN_TABLE, kind, metric: None }
}

#[cfg(test)]
mod tests;
