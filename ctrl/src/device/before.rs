//! What stands in the way of our network, asked before anything of the host is changed.

use std::fmt;

use ipnet::IpNet;
use tracing::info;

use super::{DesiredDevice, DeviceError, ForeignRoute, ROUTE_PROTOCOL};
use crate::interface::Interface;
use crate::interface::reader::{Netlink, ReadError};
use crate::interface::snapshot::{Route, Snapshot};

/// Something of this host that our network cannot live beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The whole network is routed somewhere else.
    Route(ForeignRoute),
    /// A subnet that is directly connected and a network of ours share addresses.
    Subnet {
        /// Our network.
        network: IpNet,
        /// The subnet.
        subnet: IpNet,
        /// The device that it is connected to.
        device: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => write!(
                formatter,
                "The network {} is already routed by somebody else ({route}). Stop what made this \
                 route, or delete it",
                route.destination
            ),
            Self::Subnet { network, subnet, device } => write!(
                formatter,
                "The network {network} of the config overlaps the subnet {subnet} that {device} is \
                 connected to. Choose another Network"
            ),
        }
    }
}

/// Looks for what stands in the way. Changes nothing; the device need not exist yet.
///
/// # Errors
/// Every obstacle, or the kernel's state cannot be read.
pub async fn check_before(
    desired: &DesiredDevice,
    external: &Interface,
) -> Result<(), DeviceError> {
    let snapshot = snapshot().await.map_err(|source| DeviceError::read(desired, source))?;
    let obstacles = obstacles(desired, external, &snapshot);
    if obstacles.is_empty() {
        return Ok(());
    }
    Err(DeviceError::Obstacles(obstacles))
}

/// Subnets of the interface that a network of ours shares addresses with. Changes nothing.
///
/// # Errors
/// The kernel's state cannot be read.
pub(crate) async fn overlaps(
    networks: &[IpNet],
    external: &Interface,
) -> Result<Vec<Obstacle>, ReadError> {
    let snapshot = snapshot().await?;
    let overlaps = networks.iter().flat_map(|network| overlapping(*network, external, &snapshot));
    Ok(overlaps.collect())
}

/// As [`check_before`], for networks of which only single subnets are routed, each by a route of its
/// own.
///
/// # Errors
/// Every obstacle, or the kernel's state cannot be read.
pub async fn check_networks(networks: &[IpNet], external: &Interface) -> Result<(), DeviceError> {
    let failed = |source| DeviceError::Read { name: external.name.clone(), source };
    let obstacles = overlaps(networks, external).await.map_err(failed)?;
    if obstacles.is_empty() { Ok(()) } else { Err(DeviceError::Obstacles(obstacles)) }
}

async fn snapshot() -> Result<Snapshot, ReadError> {
    Netlink::open()?.snapshot().await
}

/// More specific routes inside the network, such as that of the pods' bridge, are normal. So are
/// wider ones through a gateway: like the default route they are for what has no better route.
pub(super) fn obstacles(
    desired: &DesiredDevice,
    external: &Interface,
    snapshot: &Snapshot,
) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for network in desired.networks() {
        obstacles.extend(overlapping(network, external, snapshot));
        for route in &snapshot.routes {
            obstacles.extend(obstacle(desired, network, route, snapshot));
        }
    }
    let mut seen = Vec::new();
    obstacles.retain(|obstacle| {
        let is_new = !seen.contains(obstacle);
        seen.push(obstacle.clone());
        is_new
    });
    obstacles
}

fn overlapping<'a>(
    network: IpNet,
    external: &'a Interface,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = Obstacle> + 'a {
    let subnets = external_subnets(external, snapshot);
    let device = external.name.clone();
    let obstacle = move |subnet| Obstacle::Subnet { network, subnet, device: device.clone() };
    subnets.filter(move |subnet| overlap(*subnet, network)).map(obstacle)
}

fn external_subnets<'a>(
    external: &'a Interface,
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = IpNet> + 'a {
    let on_it = snapshot.addresses.iter().filter(|address| address.link == external.index);
    on_it.filter_map(|address| {
        let reached = address.peer.unwrap_or(address.local);
        IpNet::new(reached, address.prefix_length).ok().map(|subnet| subnet.trunc())
    })
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn obstacle(
    desired: &DesiredDevice,
    network: IpNet,
    route: &Route,
    snapshot: &Snapshot,
) -> Option<Obstacle> {
    let hop = route.hops.first();
    let device = hop.and_then(|hop| snapshot.link(hop.link)).map(|link| link.name.clone());
    let is_own = route.protocol == ROUTE_PROTOCOL || device.as_ref() == Some(&desired.name);
    if is_own || route.is_default() || !route.destination.contains(&network) {
        return None;
    }
    if route.destination == network {
        return Some(Obstacle::Route(ForeignRoute::new(route, device)));
    }
    if !route.unicast || hop.is_none_or(|hop| hop.gateway.is_some()) {
        info!(wider = %route.destination, %network, "a wider route covers the network; ours wins");
        return None;
    }
    Some(Obstacle::Subnet { network, subnet: route.destination, device: device? })
}
