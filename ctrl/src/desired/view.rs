//! Which leases become peers, and the table of them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use weft_forward::table::{Peer, TableInput};

use super::{Book, Slots};
use crate::config::NetworkConfig;
use crate::identity::Identity;
use crate::lease::{Leaf, Lease, Limits, Rejection};

/// The path that a lease must list, if it lists any, to be reached by the udp engine.
const PATH: &str = "udp";

/// A lease that became a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// Its subnets, without families that are off here.
    pub leaf: Leaf,
    /// What it says.
    pub lease: Lease,
    /// The peer in the table.
    pub peer: Peer,
    /// When the lease was first seen.
    pub since: Instant,
}

/// A lease that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name in the source.
    pub name: String,
    /// Why not.
    pub reason: Rejection,
}

/// A believable lease of a node that the udp engine does not talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name in the source.
    pub name: String,
    /// Its backend type, or the paths that it lists.
    pub backend: String,
}

/// All leases but our own, sorted into three.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Peers, oldest lease first.
    pub accepted: Vec<Accepted>,
    /// Not believed.
    pub rejected: Vec<Rejected>,
    /// For other backends.
    pub skipped: Vec<Skipped>,
}

/// This node's side of the comparison. Stays the same while the daemon runs.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The config in force.
    pub config: NetworkConfig,
    /// This node's subnets.
    pub own: Leaf,
    /// This node's identity.
    pub identity: Identity,
    /// Addresses of this host, public ones included.
    pub own_addresses: Vec<IpAddr>,
    /// Datagrams leave over IPv6, because this node has no IPv4.
    pub outer_v6: bool,
}

impl Viewer {
    /// Sorts the leases. Slots of peers that are gone are freed.
    pub fn view(&self, book: &Book, slots: &mut Slots) -> View {
        let mut view = View::default();
        let mut candidates = Vec::new();
        let mut owners: HashMap<IpNet, Leaf> = HashMap::new();
        for (name, entry) in book.by_age() {
            let rejected = |reason| Rejected { name: name.to_owned(), reason };
            let lease = match entry.lease.clone() {
                Ok(lease) if lease.leaf == self.own => continue,
                Ok(lease) => lease,
                Err(reason) => {
                    view.rejected.push(rejected(reason));
                    continue;
                }
            };
            if let Some(backend) = other_backend(&lease) {
                view.skipped.push(Skipped { name: name.to_owned(), backend });
                continue;
            }
            match self.judge(&lease, &owners) {
                Ok((leaf, outer)) => {
                    owners.extend(leaf.subnets().map(|net| (net, leaf)));
                    candidates.push((name, entry.since, leaf, lease, outer));
                }
                Err(reason) => view.rejected.push(rejected(reason)),
            }
        }
        let key = |leaf: Leaf, lease: &Lease| (leaf, lease.attributes.identity());
        let keys: HashSet<_> =
            candidates.iter().map(|(_, _, leaf, lease, _)| key(*leaf, lease)).collect();
        slots.keep_only(&keys);
        for (name, since, leaf, lease, outer) in candidates {
            let Some(slot) = slots.slot(key(leaf, &lease), outer) else {
                view.rejected.push(Rejected { name: name.to_owned(), reason: Rejection::TooMany });
                continue;
            };
            let peer = Peer {
                slot: slot.number,
                generation: slot.generation,
                outer,
                subnet_v4: leaf.v4,
                subnet_v6: leaf.v6,
                addresses: self.addresses(&lease),
                inner_v6: lease.attributes.weft.as_ref().is_some_and(|weft| weft.v6),
                source_ports: takes_source_ports(&lease),
                mtu: inner_mtu(&lease),
            };
            view.accepted.push(Accepted { leaf, lease, peer, since });
        }
        view
    }

    /// What a table is built from. The newest lease comes first: where two have one public address,
    /// the older one is mostly what the host left behind when it lost its state, and the table gives
    /// the address to whoever comes first.
    #[must_use]
    pub fn table_input(&self, view: &View, epoch: u64) -> TableInput {
        TableInput {
            epoch,
            network_v4: self.config.network_v4(),
            network_v6: self.config.network_v6(),
            own_v4: self.own.v4,
            own_v6: self.own.v6,
            own_addresses: self.own_addresses.clone(),
            allowed_sources: self.config.backend.allowed_sources.clone(),
            strict_source: self.config.backend.strict_source,
            peers: view.accepted.iter().rev().map(|accepted| accepted.peer.clone()).collect(),
        }
    }

    /// Every believable subnet of a family has one length, so two overlap only if they are equal.
    fn judge(
        &self,
        lease: &Lease,
        owners: &HashMap<IpNet, Leaf>,
    ) -> Result<(Leaf, SocketAddr), Rejection> {
        if lease.attributes.identity() == Some(self.identity) {
            return Err(Rejection::OwnIdentity);
        }
        let limits =
            Limits { config: &self.config, own: self.own, own_addresses: &self.own_addresses };
        let leaf = limits.check(lease)?;
        if let Some(older) = leaf.subnets().find_map(|net| owners.get(&net)) {
            return Err(Rejection::OverlapsOlder { older: *older });
        }
        let outer = self.outer(lease).ok_or(Rejection::PublicIpMissing)?;
        Ok((leaf, outer))
    }

    /// A flannel peer does not say its port; all nodes have the same one there.
    fn outer(&self, lease: &Lease) -> Option<SocketAddr> {
        let attributes = &lease.attributes;
        let port = attributes.weft.as_ref().and_then(|weft| weft.port);
        let address: IpAddr = match self.outer_v6 {
            false if attributes.public_ip.is_unspecified() => return None,
            false => attributes.public_ip.into(),
            true => attributes.public_ipv6?.into(),
        };
        Some((address, port.unwrap_or(self.config.backend.port)).into())
    }

    /// Announced addresses that cannot be another node's are left out; the rest of the lease is fine.
    fn addresses(&self, lease: &Lease) -> Vec<IpAddr> {
        let attributes = &lease.attributes;
        let public_v4 = Some(attributes.public_ip).filter(|address| !address.is_unspecified());
        let announced = attributes.weft.iter().flat_map(|weft| &weft.addrs).copied();
        let is_possible = |address: &IpAddr| {
            let inside = self.config.networks().any(|network| network.contains(address));
            let nobody =
                address.is_unspecified() || address.is_loopback() || address.is_multicast();
            !inside && !nobody && !self.own_addresses.contains(address)
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        let public = public_v4.map(IpAddr::V4).into_iter();
        let public = public.chain(attributes.public_ipv6.map(IpAddr::V6));
        for address in public.chain(announced.filter(is_possible)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// Whoever has several source ports divides what arrives by those of others. Who does not say so is
/// sent to from the one port that everybody has.
fn takes_source_ports(lease: &Lease) -> bool {
    let ports = lease.attributes.weft.as_ref().and_then(|weft| weft.ports);
    ports.is_some_and(|ports| ports > 1)
}

fn inner_mtu(lease: &Lease) -> Option<u16> {
    let mtu = lease.attributes.weft.as_ref().and_then(|weft| weft.mtu)?;
    u16::try_from(mtu).ok()
}

/// What else than udp the lease is for. Udp publishes no type, and flanneld's udp mode takes any.
fn other_backend(lease: &Lease) -> Option<String> {
    let kind = &lease.attributes.backend_type;
    if !kind.is_empty() && !kind.eq_ignore_ascii_case(PATH) {
        return Some(kind.clone());
    }
    let paths = lease.attributes.weft.as_ref().map(|weft| &weft.paths)?;
    let reachable = paths.is_empty() || paths.iter().any(|path| path == PATH);
    (!reachable).then(|| paths.join(","))
}

#[cfg(test)]
mod tests;
