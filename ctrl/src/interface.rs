//! The interface that carries the traffic between hosts, and its addresses.
//!
//! What an operator asked for is tried in flannel's order: every `--iface`, every `--iface-regex`,
//! `--iface-can-reach`; the first that gives a usable interface wins. Without any of them a public
//! address that was given names the interface that owns it, and without that the default route does.
//!
//! Chosen at the start, and again when an address that is in use goes away. Three kinds of devices are not taken just because they match, since no
//! host is reached through them; the text of the error says so:
//!
//! | device | taken only |
//! | --- | --- |
//! | `kube-ipvs0` (holds service addresses), `flannel*` | by name |
//! | loopback | by name, or by an address of it |
//! | a bridge or veth that carries no default route, so one of containers | by name, by an address of it, or as the kernel's way to `--iface-can-reach` |

mod choose;
pub(crate) mod message;
pub(crate) mod news;
pub mod reader;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::source::PublicAddresses;

pub use choose::{Chosen, Refusal, choose};
use reader::{Netlink, ReadError};

/// What the command line says about the interface; all empty means the default route's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// `--iface`: names or addresses, in order of preference.
    pub iface: Vec<String>,
    /// `--iface-regex`: unanchored, tried on addresses and then on names, in order of preference.
    pub iface_regex: Vec<String>,
    /// `--iface-can-reach`: an address; the kernel's way to it decides.
    pub can_reach: Option<String>,
    /// `--public-ip`: what other hosts send to, if it is not the interface's address.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
}

impl InterfaceOptions {
    /// Addresses that are stored for this node stand in for those of the command line, as with
    /// flanneld.
    pub(crate) fn prefer(&mut self, stored: PublicAddresses) {
        self.public_ip = stored.v4.or(self.public_ip);
        self.public_ipv6 = stored.v6.or(self.public_ipv6);
    }
}

/// The address families that the network config turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// The chosen interface. Per family the addresses are there if and only if the family is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// The kernel's index.
    pub index: u32,
    /// Bytes of the largest IP packet; not 0.
    pub mtu: u32,
    /// The address to bind sockets to.
    pub address_v4: Option<Ipv4Addr>,
    /// The address to bind sockets to.
    pub address_v6: Option<Ipv6Addr>,
    /// The address that other hosts send to.
    pub public_v4: Option<Ipv4Addr>,
    /// The address that other hosts send to.
    pub public_v6: Option<Ipv6Addr>,
    /// Every address of this host, except those on `kube-ipvs0`: these belong to services, and
    /// one of them may well be another host's.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// The address that datagrams between hosts are sent from: IPv4 where the node has it.
    #[must_use]
    pub fn outer_address(&self) -> Option<IpAddr> {
        self.address_v4.map(IpAddr::V4).or(self.address_v6.map(IpAddr::V6))
    }
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel's state cannot be read.
    #[error("The network interfaces could not be read")]
    Read(#[from] ReadError),
    /// Nothing that was asked for gives a usable interface; one reason for each.
    #[error("No usable network interface: {}", list(.0))]
    NoneUsable(Vec<Refusal>),
}

fn list(refusals: &[Refusal]) -> String {
    let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Chooses the interface from the state of the network namespace of the calling thread.
///
/// # Errors
/// The kernel cannot be asked, or nothing usable is found.
pub async fn select(
    options: &InterfaceOptions,
    families: Families,
) -> Result<Chosen, InterfaceError> {
    let netlink = Netlink::open()?;
    let snapshot = netlink.snapshot().await?;
    let target = options.can_reach.as_deref().and_then(|text| text.parse().ok());
    let way = match target {
        Some(target) => netlink.way_to(target).await?,
        None => None,
    };
    choose(options, families, &snapshot, way.as_ref()).map_err(InterfaceError::NoneUsable)
}
