//! What the kernel has: links, addresses and the routes of the main table.

use std::net::IpAddr;

use ipnet::IpNet;

/// The state of one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In order of their index.
    pub links: Vec<Link>,
    /// In the kernel's order: per link the primary addresses first.
    pub addresses: Vec<Address>,
    /// The main table in the kernel's order: per destination the smallest metric first.
    pub routes: Vec<Route>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// The name, such as `eth0`.
    pub name: String,
    /// What drives it.
    pub kind: LinkKind,
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
}

/// As far as it matters which kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// `lo`.
    Loopback,
    /// A bridge.
    Bridge,
    /// One end of a pair.
    Veth,
    /// Anything else.
    Other,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub link: u32,
    /// This host's address.
    pub local: IpAddr,
    /// The other end's address, on a point-to-point address that has one.
    pub peer: Option<IpAddr>,
    /// Length of the prefix that is reached over the device.
    pub prefix_length: u8,
    /// Has no lifetime (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// A privacy address of IPv6, or a further address of a prefix of IPv4; the kernel has one bit
    /// for both (`IFA_F_TEMPORARY`, `IFA_F_SECONDARY`).
    pub temporary: bool,
    /// Should not be used for anything new (`IFA_F_DEPRECATED`).
    pub deprecated: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; the default route is a prefix of length 0.
    pub destination: IpNet,
    /// Whether packets are forwarded, as opposed to dropped or refused.
    pub unicast: bool,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// How far the destination is (`rtm_scope`): 0 is anywhere, 253 on the link.
    pub scope: u8,
    /// Type of service that it is for; 0 means any.
    pub tos: u8,
    /// The smallest wins.
    pub metric: u32,
    /// The address that packets of this host get, if the route says one.
    pub source: Option<IpAddr>,
    /// One, several of a multipath route, or none if packets go nowhere.
    pub hops: Vec<Hop>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub link: u32,
    /// The next host, if the destination is not on the link. A next hop of the other family counts.
    pub gateway: Option<IpAddr>,
}

/// The way that the kernel takes to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The destination.
    pub target: IpAddr,
    /// Index of the device.
    pub link: u32,
    /// The source address that the kernel picks.
    pub source: Option<IpAddr>,
}

impl Snapshot {
    /// The device with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The device with this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

impl Route {
    /// Whether it is for everything that has no better route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.unicast && self.destination.prefix_len() == 0
    }
}
