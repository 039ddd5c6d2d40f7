//! From the peers and the choice among their paths to the kernel's state, for `udp` with `Paths`.
//!
//! All paths are open at once. `flannel0` holds the route of the whole network, and a peer on a
//! kernel path gets a more specific one, so to change a path is to make, exchange or remove one
//! route. Each path has a table of its own besides, which holds the ways to the peers' first
//! addresses; a rule leads probes of the path there by their source port, and nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::kernel::{Host, OnLink, device_name, devices};
use super::{Accepted, Hop, View};
use crate::config::{NetworkConfig, PathKind};
use crate::health::{Target, port};
use crate::kernel::object::{Fdb, MAIN_TABLE, Neighbour, Route, RouteKind, Rule, State};
use crate::lease::Leaf;

/// A probe that finds no way in its table must not take that of the main one.
const LAST_METRIC: u32 = 9999;

/// The path of each peer's subnet. Whose is missing is carried by the engine.
pub type Chosen = BTreeMap<IpNet, PathKind>;

/// What paths of the kernel take less than pods send: bytes of the largest packet, by the peer's subnet.
pub type Narrow = BTreeMap<IpNet, usize>;

/// What the state is made from, besides the peers.
#[derive(Clone, Copy, Debug)]
pub struct Ways<'a> {
    /// The config in force.
    pub config: &'a NetworkConfig,
    /// This node's subnets.
    pub own: &'a Leaf,
    /// This node's interface and devices.
    pub host: &'a Host,
    /// Name of the engine's device.
    pub engine: &'a str,
    /// Which peers are on a link.
    pub on_link: &'a OnLink,
    /// Of the paths that are chosen.
    pub narrow: &'a Narrow,
}

/// The routing table of a path. It has the number of the port that leads to it.
#[must_use]
pub fn table(path: PathKind) -> u32 {
    port(path).into()
}

/// The public addresses of peers that have to be known to be on a link or not.
pub fn asked_about(view: &View) -> impl Iterator<Item = IpAddr> + '_ {
    let has_plain_route = |one: &&Accepted| one.paths.contains(&PathKind::HostGw);
    view.accepted.iter().filter(has_plain_route).flat_map(|one| &one.beside).map(|hop| hop.public)
}

/// Whom to probe on which paths: who has several.
#[must_use]
pub fn targets(view: &View, own: &Leaf, on_link: &OnLink) -> Vec<Target> {
    let mut targets = Vec::new();
    for accepted in &view.accepted {
        let Some(identity) = accepted.lease.attributes.identity() else { continue };
        for hop in accepted.beside.iter().filter(|hop| has_family(own, hop.subnet)) {
            let mut paths = accepted.paths.clone();
            paths.retain(|path| objection(*path, hop, on_link).is_none());
            if paths.len() > 1 {
                targets.push(Target { subnet: hop.subnet, identity, paths });
            }
        }
    }
    targets
}

/// What keeps a path that both nodes have from being used at all.
#[must_use]
pub fn objection(path: PathKind, hop: &Hop, on_link: &OnLink) -> Option<&'static str> {
    let is_on_link = on_link.get(&hop.public).is_some_and(Option::is_some);
    match path {
        PathKind::HostGw if !is_on_link => Some("the peer is on no link of this host"),
        _ => None,
    }
}

/// The kernel's state for these peers.
#[must_use]
pub fn state(ways: Ways<'_>, view: &View, chosen: &Chosen) -> State {
    let Ways { config, own, host, .. } = ways;
    let networks: Vec<IpNet> = config.networks().collect();
    let vxlans = devices(config, own, host);
    let mut state = State { networks, vxlans, ..State::default() };
    for subnet in own.subnets() {
        for path in config.backend.paths() {
            add_table(&mut state, config, subnet, *path);
        }
    }
    for accepted in &view.accepted {
        for hop in accepted.beside.iter().filter(|hop| has_family(own, hop.subnet)) {
            let path = chosen.get(&hop.subnet).copied().unwrap_or(PathKind::Udp);
            add_peer(&mut state, ways, accepted, (hop, path));
        }
    }
    state
}

/// What a route says of the largest packet. Senders need not obey to smaller ones than every link of
/// IPv6 and every host of IPv4 takes (RFC 8200 section 5, RFC 791 section 3.1).
fn route_mtu(found: usize, is_v6: bool) -> u32 {
    let least = if is_v6 { 1280 } else { 576 };
    u32::try_from(found).unwrap_or(u32::MAX).max(least)
}

fn has_family(own: &Leaf, subnet: IpNet) -> bool {
    source(own, subnet).is_some()
}

/// This node's address that its packets and probes to the peer have.
fn source(own: &Leaf, subnet: IpNet) -> Option<IpAddr> {
    let is_v6 = subnet.addr().is_ipv6();
    own.subnets().map(|net| net.network()).find(|address| address.is_ipv6() == is_v6)
}

fn add_table(state: &mut State, config: &NetworkConfig, own: IpNet, path: PathKind) {
    let Some(network) = config.networks().find(|network| network.contains(&own)) else { return };
    let table = table(path);
    state.rules.push(Rule {
        priority: table,
        source: own.network().into(),
        source_port: Some(port(path)),
        table,
    });
    let kind = RouteKind::Unreachable;
    state.routes.push(Route { destination: network, table, kind, metric: Some(LAST_METRIC) });
}

fn add_peer(
    state: &mut State,
    ways: Ways<'_>,
    accepted: &Accepted,
    (hop, chosen): (&Hop, PathKind),
) {
    let Ways { config, own, host, engine, on_link, narrow } = ways;
    let source = source(own, hop.subnet);
    let address = hop.subnet.network();
    let is_v6 = address.is_ipv6();
    let narrow = narrow.get(&hop.subnet).map(|mtu| route_mtu(*mtu, is_v6));
    let mut add = |destination: IpNet, table, gateway, device: &str, onlink| {
        let device = device.to_owned();
        // Probes are not bound to what they have found, so they see when the path becomes wider.
        let mtu = narrow.filter(|_| table == MAIN_TABLE);
        let kind = RouteKind::Unicast { gateway, device, onlink, source, mtu };
        state.routes.push(Route { destination, table, kind, metric: None });
    };
    if accepted.paths.contains(&PathKind::Udp) {
        add(address.into(), table(PathKind::Udp), None, engine, false);
    }
    let link = on_link.get(&hop.public).and_then(Option::as_ref);
    if let Some(link) = link.filter(|_| accepted.paths.contains(&PathKind::HostGw)) {
        let gateway = Some(hop.public);
        add(address.into(), table(PathKind::HostGw), gateway, link, false);
        if chosen == PathKind::HostGw {
            add(hop.subnet, MAIN_TABLE, gateway, link, false);
        }
    }
    let Some((tunnel, mac)) = config.backend.tunnel().zip(hop.mac) else { return };
    if !host.vteps.iter().any(|vtep| vtep.local.is_ipv6() == is_v6) {
        return;
    }
    let device = device_name(tunnel.vni, is_v6);
    add(address.into(), table(PathKind::Vxlan), None, &device, false);
    if chosen == PathKind::Vxlan {
        if is_v6 {
            // The kernel refuses a gateway that the route into the engine's device covers.
            add(address.into(), MAIN_TABLE, None, &device, false);
        }
        add(hop.subnet, MAIN_TABLE, Some(address), &device, true);
    }
    state.neighbours.push(Neighbour { device: device.clone(), address, mac });
    state.fdb.push(Fdb { device, mac, destination: hop.public });
}

#[cfg(test)]
mod tests;
