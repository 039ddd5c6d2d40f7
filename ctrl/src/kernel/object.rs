//! The objects that should be there. Each prints as the words after the verb of the `ip` or
//! `bridge` command that would make it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::MacAddress;
use crate::device::Setting;

/// `RT_TABLE_MAIN` (linux/rtnetlink.h).
pub const MAIN_TABLE: u32 = 254;

/// The UDP port that Linux takes for VXLAN if it is told none (drivers/net/vxlan). IANA's is 4789.
pub const VXLAN_PORT: u16 = 8472;

/// What should be there. The order does not matter; no two objects have one key, which is what the
/// kernel tells them apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Keyed by name.
    pub vxlans: Vec<Vxlan>,
    /// Keyed by destination and table.
    pub routes: Vec<Route>,
    /// Keyed by priority, source and table.
    pub rules: Vec<Rule>,
    /// Keyed by device and address.
    pub neighbours: Vec<Neighbour>,
    /// Keyed by device and hardware address.
    pub fdb: Vec<Fdb>,
    /// Our networks. Routes and addresses outside are not ours, whoever made them.
    pub networks: Vec<IpNet>,
}

impl State {
    /// Whether the address or the whole of the prefix is inside one of our networks.
    #[must_use]
    pub fn is_inside(&self, prefix: IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(&prefix))
    }
}

impl fmt::Display for State {
    /// One line an object.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vxlan in &self.vxlans {
            writeln!(formatter, "link {vxlan}")?;
            writeln!(formatter, "address {} dev {}", vxlan.prefix(), vxlan.name)?;
        }
        self.neighbours.iter().try_for_each(|one| writeln!(formatter, "neigh {one}"))?;
        self.fdb.iter().try_for_each(|one| writeln!(formatter, "fdb {one}"))?;
        self.routes.iter().try_for_each(|one| writeln!(formatter, "route {one}"))?;
        self.rules.iter().try_for_each(|one| writeln!(formatter, "rule {one}"))
    }
}

/// A VXLAN device, up, with one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Such as `flannel.1`; `flannel-v6.1` for IPv6 inside.
    pub name: String,
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The device that carries it.
    pub underlay: Underlay,
    /// Outer source address.
    pub local: IpAddr,
    /// UDP port to send to and to listen on; [`VXLAN_PORT`] if nobody says another.
    pub port: u16,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
    /// Its own hardware address, which the lease tells to the others.
    pub mac: MacAddress,
    /// Learn from received frames where hardware addresses are. flannel's default is not to.
    pub learning: bool,
    /// Carry the mark of group-based policy.
    pub gbp: bool,
    /// Answer ARP from the neighbour table and announce misses (`proxy`, `l2miss`, `l3miss`), and ask
    /// programs instead of the network for neighbours, so that entries can be made on demand.
    pub miss: bool,
    /// The first address of our own subnet, with the longest prefix.
    pub address: IpAddr,
}

impl Vxlan {
    /// The address with its prefix length.
    #[must_use]
    pub fn prefix(&self) -> IpNet {
        IpNet::from(self.address)
    }

    /// The settings that must not keep their defaults.
    pub fn settings(&self) -> impl Iterator<Item = Setting> + use<> {
        let on_demand = self.miss.then(|| Setting::on_demand(self.address.is_ipv6()));
        Setting::COMMON.into_iter().chain(on_demand.into_iter().flatten())
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, mac, mtu, vni, underlay, local, port, .. } = self;
        write!(
            formatter,
            "{name} address {mac} mtu {mtu} type vxlan id {vni} local {local} dev {} dstport {port} {}",
            underlay.name,
            if self.learning { "learning" } else { "nolearning" },
        )?;
        formatter.write_str(if self.miss { " proxy l2miss l3miss" } else { "" })?;
        formatter.write_str(if self.gbp { " gbp" } else { "" })
    }
}

/// The device that carries a VXLAN device's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Such as `eth0`.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
}

/// A route, with our protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// [`MAIN_TABLE`], or one that a [`Rule`] leads to.
    pub table: u32,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// The smallest wins. `None` is the kernel's default, 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sends packets on.
    Unicast {
        /// The next host; `None` if the destination is on the link.
        gateway: Option<IpAddr>,
        /// The device that leads there.
        device: String,
        /// Believe that the gateway is on the link although no address of the device says so.
        onlink: bool,
        /// The source address of this host's own packets.
        source: Option<IpAddr>,
        /// Bytes of the largest packet, where the way takes less than the device does.
        mtu: Option<u32>,
    },
    /// Drops packets silently.
    Blackhole,
    /// Drops packets and tells the sender.
    Unreachable,
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = self.destination;
        match &self.kind {
            RouteKind::Blackhole => write!(formatter, "blackhole {destination}")?,
            RouteKind::Unreachable => write!(formatter, "unreachable {destination}")?,
            RouteKind::Unicast { gateway, device, .. } => {
                write!(formatter, "{destination}")?;
                if let Some(gateway) = gateway {
                    write!(formatter, " via {gateway}")?;
                }
                write!(formatter, " dev {device}")?;
            }
        }
        if self.table != MAIN_TABLE {
            write!(formatter, " table {}", self.table)?;
        }
        if let RouteKind::Unicast { source: Some(source), .. } = &self.kind {
            write!(formatter, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(formatter, " metric {metric}")?;
        }
        if let RouteKind::Unicast { mtu: Some(mtu), .. } = &self.kind {
            write!(formatter, " mtu {mtu}")?;
        }
        let is_onlink = matches!(self.kind, RouteKind::Unicast { onlink: true, .. });
        formatter.write_str(if is_onlink { " onlink" } else { "" })
    }
}

/// A rule that sends UDP packets of ours to a table, with our protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The smallest is asked first; the main table is at 32766.
    pub priority: u32,
    /// Source addresses that it is for. They have to be inside our networks, which makes it ours.
    pub source: IpNet,
    /// Only this UDP source port.
    pub source_port: Option<u16>,
    /// The table that is asked.
    pub table: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "priority {} from {} ipproto udp", self.priority, self.source)?;
        if let Some(port) = self.source_port {
            write!(formatter, " sport {port}")?;
        }
        write!(formatter, " lookup {}", self.table)
    }
}

/// The hardware address of a peer's device; permanent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Our device.
    pub device: String,
    /// The peer's inner address, which is the gateway of its route.
    pub address: IpAddr,
    /// The peer's device.
    pub mac: MacAddress,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} lladdr {} dev {}", self.address, self.mac, self.device)
    }
}

/// Where frames for a hardware address are sent; permanent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fdb {
    /// Our device.
    pub device: String,
    /// The peer's device.
    pub mac: MacAddress,
    /// The peer's outer address.
    pub destination: IpAddr,
}

impl fmt::Display for Fdb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} dev {} dst {} self", self.mac, self.device, self.destination)
    }
}
