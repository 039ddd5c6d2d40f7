//! The tunnel device's settings, addresses and routes, and keeping them as they should be.
//!
//! The device itself belongs to the packet worker; here it is only a name. *Ours* is a route with
//! protocol [`ROUTE_PROTOCOL`] that leads into the device, as the one of an earlier network does, or
//! whose destination is inside our network. Nothing else is removed or replaced: a foreign route to the same destination stays and is named in [`Report::foreign`].

mod before;
mod events;
mod execute;
mod keep;
pub mod plan;
mod read;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(crate) use before::overlaps;
pub use before::{Obstacle, check_before, check_networks};
pub use keep::{PERIOD, apply, keep, preview};
pub use settings::Setting;

use crate::interface::reader::ReadError;
use crate::interface::snapshot::Route;

/// Marks our routes (`rtm_protocol`). Unused by `/etc/iproute2/rt_protos` and routing daemons.
pub const ROUTE_PROTOCOL: u8 = 82;

/// What the device should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredDevice {
    /// Its name, such as `flannel0`.
    pub name: String,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
    /// The first address of our own subnet, set with prefix length 32.
    pub address_v4: Option<Ipv4Addr>,
    /// The first address of our own subnet, set with prefix length 128.
    pub address_v6: Option<Ipv6Addr>,
    /// The network that is routed into the device.
    pub network_v4: Option<Ipv4Net>,
    /// The network that is routed into the device.
    pub network_v6: Option<Ipv6Net>,
    /// The addresses that the sockets are bound to. They belong to another device and are only
    /// missed, never set.
    pub underlay: Vec<IpAddr>,
}

impl DesiredDevice {
    /// The networks of the families that are on, IPv4 first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.network_v4.map(IpNet::V4);
        v4.into_iter().chain(self.network_v6.map(IpNet::V6))
    }

    /// The addresses of the families that are on, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.address_v4.map(IpAddr::V4);
        v4.into_iter().chain(self.address_v6.map(IpAddr::V6))
    }
}

/// What a look at the device gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Routes of others to exactly one of our networks. They stay; as long as one is there, our
    /// traffic may take it.
    pub foreign: Vec<ForeignRoute>,
    /// What could not be brought about, one sentence each. Tried again at every event and every
    /// [`PERIOD`].
    pub failures: Vec<String>,
    /// Addresses of the underlay that this host does not have any more; told in `failures` as well.
    pub underlay_gone: Vec<IpAddr>,
}

impl Report {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.foreign.is_empty() && self.failures.is_empty()
    }
}

/// A route of somebody else to one of our networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Our network.
    pub destination: IpNet,
    /// The device that it leads to, if it names one that exists.
    pub device: Option<String>,
    /// The next hop, if there is one.
    pub gateway: Option<IpAddr>,
    /// `rtm_protocol`, see `/etc/iproute2/rt_protos`.
    pub protocol: u8,
    /// Its priority; the smallest wins.
    pub metric: u32,
}

impl ForeignRoute {
    fn new(route: &Route, device: Option<String>) -> Self {
        Self {
            destination: route.destination,
            device,
            gateway: route.hops.first().and_then(|hop| hop.gateway),
            protocol: route.protocol,
            metric: route.metric,
        }
    }

    /// Whether packets for our network take it instead of ours.
    #[must_use]
    pub fn wins(&self) -> bool {
        self.metric <= plan::metric_of(self.destination)
    }
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(formatter, " via {gateway}")?;
        }
        if let Some(device) = &self.device {
            write!(formatter, " dev {device}")?;
        }
        write!(formatter, " proto {} metric {}", self.protocol, self.metric)
    }
}

/// Why the device cannot be looked after.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel's state cannot be read or followed.
    #[error("The state of the device {name} could not be read")]
    Read {
        /// The device.
        name: String,
        /// Why.
        source: ReadError,
    },
    /// There is no such device.
    #[error(transparent)]
    Gone(#[from] DeviceGone),
    /// Something of this host stands in the way of our network. Every obstacle is listed.
    #[error("{}", list(.0))]
    Obstacles(Vec<Obstacle>),
}

impl DeviceError {
    fn read(desired: &DesiredDevice, source: ReadError) -> Self {
        Self::Read { name: desired.name.clone(), source }
    }
}

/// There is no such device any more, or another one has taken its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The device {name} is gone")]
pub struct DeviceGone {
    /// The device.
    pub name: String,
}

fn list(obstacles: &[Obstacle]) -> String {
    let texts: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
