//! Which leases become peers, and the table of those that the engine reaches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use weft_forward::table::{Peer, TableInput};

use super::slots::Place;
use super::{Book, Slots};
use crate::config::{Backend, NetworkConfig, PathKind, Sealing, SealingMode};
use crate::identity::Identity;
use crate::kernel::MacAddress;
use crate::key::PublicKey;
use crate::lease::{Leaf, Lease, Limits, Rejection, vtep};

/// The type of a lease that names none.
const UDP: &str = "udp";

/// A lease that became a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// Its subnets, without families that are off here.
    pub leaf: Leaf,
    /// What it says.
    pub lease: Arc<Lease>,
    /// How it is reached.
    pub reach: Reach,
    /// Besides, if the engine reaches it: what the kernel has to know for the other paths.
    pub beside: Vec<Hop>,
    /// The paths that both nodes have open, in the config's order.
    pub paths: Vec<PathKind>,
    /// When the lease was first seen.
    pub since: Instant,
}

/// How a peer is reached, which follows from the config's `Backend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By the engine, as this entry of the table.
    Engine(Peer),
    /// By the kernel: in each family that both have, IPv4 first.
    Kernel(Vec<Hop>),
}

/// A peer in one address family, to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Its pods.
    pub subnet: IpNet,
    /// Its host, of the same family.
    pub public: IpAddr,
    /// Its VXLAN device; `None` if the config has no such devices.
    pub mac: Option<MacAddress>,
}

impl Accepted {
    /// The entry of the table, if the engine reaches it.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        match &self.reach {
            Reach::Engine(peer) => Some(peer),
            Reach::Kernel(_) => None,
        }
    }

    /// What the kernel has to know, if it is that which reaches it.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        match &self.reach {
            Reach::Engine(_) => &[],
            Reach::Kernel(hops) => hops,
        }
    }
}

/// A lease that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name in the source.
    pub name: String,
    /// Why not.
    pub reason: Rejection,
}

/// A believable lease of a node that has another backend.
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

/// This node's side of the comparison.
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
    /// The engine's datagrams leave over IPv6, because this node has no IPv4.
    pub outer_v6: bool,
    /// The MAC addresses of this node's VXLAN devices.
    pub own_macs: Vec<MacAddress>,
    /// This node's public key, if its traffic is sealed.
    pub own_key: Option<PublicKey>,
}

/// A lease on the way to a peer.
struct Candidate<'a> {
    name: &'a str,
    since: Instant,
    leaf: Leaf,
    lease: Arc<Lease>,
    far: Far,
    /// See [`Accepted`].
    beside: Vec<Hop>,
    paths: Vec<PathKind>,
}

/// Where a believable lease's owner is.
enum Far {
    /// Datagrams of the engine go there.
    Outer(SocketAddr),
    Hops(Vec<Hop>),
}

/// What older leases have already, with who has it.
#[derive(Default)]
struct Taken {
    /// No two of them overlap.
    subnets: BTreeMap<IpNet, Leaf>,
    macs: HashMap<MacAddress, String>,
    keys: HashMap<PublicKey, String>,
}

impl Taken {
    /// Who has a part of a subnet. In the order of networks it lies behind the one that it is part of,
    /// and before those that are part of it.
    fn overlapping(&self, subnet: &IpNet) -> Option<&Leaf> {
        let before = self.subnets.range(..=*subnet).next_back();
        let after = self.subnets.range(*subnet..).next();
        let overlaps =
            |other: &IpNet| other.contains(&subnet.network()) || subnet.contains(&other.network());
        before.into_iter().chain(after).find(|(other, _)| overlaps(other)).map(|(_, leaf)| leaf)
    }
}

impl Viewer {
    /// Sorts the leases. Slots of peers that are gone are freed.
    pub fn view(&self, book: &Book, slots: &mut Slots) -> View {
        let mut view = View::default();
        let leases = book.by_age();
        let mut candidates = Vec::with_capacity(leases.len());
        let mut taken = Taken::default();
        let own = self.own_macs.iter().map(|mac| (*mac, "this host".to_owned()));
        taken.macs.extend(own);
        taken.keys.extend(self.own_key.map(|key| (key, "this host".to_owned())));
        for (name, entry) in leases {
            let rejected = |reason| Rejected { name: name.to_owned(), reason };
            let lease = match entry.lease.clone() {
                Ok(lease) if self.is_own(&lease) => continue,
                Ok(lease) => lease,
                Err(reason) => {
                    view.rejected.push(rejected(reason));
                    continue;
                }
            };
            if let Some(backend) = self.other_backend(&lease) {
                view.skipped.push(Skipped { name: name.to_owned(), backend });
                continue;
            }
            let judged = self.judge(&lease, &mut taken, slots.had_key(name));
            match judged {
                Ok((leaf, far)) => {
                    let since = entry.since;
                    if lease.attributes.key().is_some() {
                        slots.note_key(name);
                    }
                    let (beside, paths) = self.beside(&lease, &leaf, &mut taken);
                    candidates.push(Candidate { name, since, leaf, lease, far, beside, paths });
                }
                Err(reason) => view.rejected.push(rejected(reason)),
            }
        }
        slots.forget_keys(|name| book.knows(name));
        let keys: HashSet<_> = candidates.iter().map(Candidate::key).collect();
        slots.keep_only(&keys);
        view.accepted.reserve_exact(candidates.len());
        for candidate in candidates {
            let name = candidate.name;
            match self.accept(candidate, slots) {
                Some(accepted) => view.accepted.push(accepted),
                None => view
                    .rejected
                    .push(Rejected { name: name.to_owned(), reason: Rejection::TooMany }),
            }
        }
        view
    }

    /// A lease of ours may have a subnet of a family that is off here.
    fn is_own(&self, lease: &Lease) -> bool {
        lease.leaf == self.own
            || (self.config.part_of(lease.leaf) == self.own
                && lease.attributes.identity() == Some(self.identity))
    }

    /// `None` if the table has no room for it.
    fn accept(&self, candidate: Candidate<'_>, slots: &mut Slots) -> Option<Accepted> {
        let key = candidate.key();
        let Candidate { since, leaf, lease, far, beside, paths, .. } = candidate;
        let reach = match far {
            Far::Hops(hops) => Reach::Kernel(hops),
            Far::Outer(outer) => {
                let has_key = self.seals_to(&lease);
                let slot = slots.slot(key, Place { outer, has_key })?;
                Reach::Engine(Peer {
                    slot: slot.number,
                    generation: slot.generation,
                    outer,
                    subnet_v4: leaf.v4,
                    subnet_v6: leaf.v6,
                    addresses: self.addresses(&lease),
                    inner_v6: lease.attributes.weft.as_ref().is_some_and(|weft| weft.v6),
                    source_ports: takes_source_ports(&lease),
                    shortcut: lease.attributes.weft.as_ref().is_some_and(|weft| weft.shortcut),
                    mtu: inner_mtu(&lease),
                })
            }
        };
        Some(Accepted { leaf, lease, reach, beside, paths, since })
    }

    /// What a table is built from. The newest lease comes first: where two have one public address,
    /// the older one is mostly what the host left behind when it lost its state, and the table gives
    /// the address to whoever comes first.
    #[must_use]
    pub fn table_input(&self, view: &View, epoch: u64) -> TableInput {
        let udp = self.config.backend.udp();
        TableInput {
            epoch,
            network_v4: self.config.network_v4(),
            network_v6: self.config.network_v6(),
            own_v4: self.own.v4,
            own_v6: self.own.v6,
            own_addresses: self.own_addresses.clone(),
            allowed_sources: udp.map(|udp| udp.allowed_sources.clone()).unwrap_or_default(),
            strict_source: udp.is_some_and(|udp| udp.strict_source),
            peers: view.accepted.iter().rev().filter_map(Accepted::peer).cloned().collect(),
        }
    }

    /// Checks a lease, and whether older ones leave it what it says.
    fn judge(
        &self,
        lease: &Lease,
        taken: &mut Taken,
        had_key: bool,
    ) -> Result<(Leaf, Far), Rejection> {
        if lease.attributes.identity() == Some(self.identity) {
            return Err(Rejection::OwnIdentity);
        }
        let limits =
            Limits { config: &self.config, own: self.own, own_addresses: &self.own_addresses };
        let leaf = limits.check(lease)?;
        if let Some(older) = leaf.subnets().find_map(|net| taken.overlapping(&net)) {
            return Err(Rejection::OverlapsOlder { older: *older });
        }
        let far = match &self.config.backend {
            Backend::Udp(udp) => {
                if let Some(sealing) = &udp.sealing {
                    check_key(lease, taken, (sealing, had_key))?;
                }
                let outer = self.outer(lease, udp.port).ok_or(Rejection::PublicIpMissing)?;
                Far::Outer(outer)
            }
            Backend::Vxlan(_) => Far::Hops(vxlan_hops(lease, &leaf, taken)?),
            Backend::HostGw => Far::Hops(hops(lease, &leaf)?),
        };
        taken.subnets.extend(leaf.subnets().map(|net| (net, leaf)));
        let key = lease.attributes.key().map(|key| (key, format!("the older lease {leaf}")));
        taken.keys.extend(key);
        Ok((leaf, far))
    }

    /// What the kernel has to know of a peer that the engine reaches, and the paths that both have. A
    /// path of which something is missing is not one that both have; the others are none the worse.
    fn beside(&self, lease: &Lease, leaf: &Leaf, taken: &mut Taken) -> (Vec<Hop>, Vec<PathKind>) {
        let ours = self.config.backend.paths();
        if self.config.backend.udp().is_none() || ours.len() == 1 {
            return (Vec::new(), ours.to_vec());
        }
        if self.seals_to(lease) {
            return (Vec::new(), vec![PathKind::Udp]);
        }
        let weft = lease.attributes.weft.as_ref();
        let announces = |path: &PathKind| {
            weft.is_some_and(|weft| weft.paths.iter().any(|one| one == path.name()))
        };
        let mut paths: Vec<PathKind> = ours.to_vec();
        paths.retain(|path| *path == PathKind::Udp || announces(path));
        let mac = weft.and_then(|weft| weft.vtep).filter(|mac| !taken.macs.contains_key(mac));
        if mac.is_none() {
            paths.retain(|path| *path != PathKind::Vxlan);
        }
        let has_tunnel = paths.contains(&PathKind::Vxlan);
        if has_tunnel && let Some(mac) = mac {
            taken.macs.insert(mac, format!("the older lease {leaf}"));
        }
        let mut hops = hops(lease, leaf).unwrap_or_default();
        hops.iter_mut().for_each(|hop| hop.mac = mac.filter(|_| has_tunnel));
        if hops.is_empty() || lease.attributes.identity().is_none() {
            paths.retain(|path| *path == PathKind::Udp);
        }
        if paths.len() == 1 {
            hops.clear();
        }
        (hops, paths)
    }

    /// Whether what is sent to the lease's owner is sealed.
    fn seals_to(&self, lease: &Lease) -> bool {
        self.config.backend.sealing().is_some() && lease.attributes.key().is_some()
    }

    /// A flannel peer does not say its port; all nodes have the same one there.
    fn outer(&self, lease: &Lease, common_port: u16) -> Option<SocketAddr> {
        let attributes = &lease.attributes;
        let port = attributes.weft.as_ref().and_then(|weft| weft.port);
        let address: IpAddr = match self.outer_v6 {
            false if attributes.public_ip.is_unspecified() => return None,
            false => attributes.public_ip.into(),
            true => attributes.public_ipv6?.into(),
        };
        Some((address, port.unwrap_or(common_port)).into())
    }

    /// What else the lease is for. Udp publishes no type, and flanneld's udp mode takes any.
    fn other_backend(&self, lease: &Lease) -> Option<String> {
        let path = self.config.backend.name();
        let kind = &lease.attributes.backend_type;
        let kind = if kind.is_empty() { UDP } else { kind };
        if !kind.eq_ignore_ascii_case(path) {
            return Some(kind.to_owned());
        }
        let paths = lease.attributes.weft.as_ref().map(|weft| &weft.paths)?;
        let reachable = paths.is_empty() || paths.iter().any(|one| one == path);
        (!reachable).then(|| paths.join(","))
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

/// A key that cannot be, or that another has, makes the whole lease unbelievable: nothing could be sent
/// to its owner but in clear. Who has said a key does not get anything in clear any more.
fn check_key(
    lease: &Lease,
    taken: &Taken,
    (sealing, had_key): (&Sealing, bool),
) -> Result<(), Rejection> {
    let Some(key) = lease.attributes.key() else {
        return match sealing.mode {
            SealingMode::Require => Err(Rejection::KeyMissing),
            SealingMode::Offer if had_key => Err(Rejection::KeyLost),
            SealingMode::Offer => Ok(()),
        };
    };
    if key.is_weak() {
        return Err(Rejection::KeyWeak { key });
    }
    match taken.keys.get(&key) {
        Some(owner) => Err(Rejection::KeyTaken { key, owner: owner.clone() }),
        None => Ok(()),
    }
}

impl Candidate<'_> {
    fn key(&self) -> (Leaf, Option<Identity>) {
        (self.leaf, self.lease.attributes.identity())
    }
}

/// The peer in each family in which it has a subnet and a host.
fn hops(lease: &Lease, leaf: &Leaf) -> Result<Vec<Hop>, Rejection> {
    let attributes = &lease.attributes;
    let v4 = Some(attributes.public_ip).filter(|address| !address.is_unspecified());
    let v4 = leaf.v4.map(IpNet::V4).zip(v4.map(IpAddr::V4));
    let v6 = leaf.v6.map(IpNet::V6).zip(attributes.public_ipv6.map(IpAddr::V6));
    let both = v4.into_iter().chain(v6);
    let hops: Vec<Hop> = both.map(|(subnet, public)| Hop { subnet, public, mac: None }).collect();
    if hops.is_empty() { Err(Rejection::PublicIpMissing) } else { Ok(hops) }
}

/// The same with the devices. A family without data is one that the peer does not have; data that
/// cannot be used is a broken lease.
fn vxlan_hops(lease: &Lease, leaf: &Leaf, taken: &mut Taken) -> Result<Vec<Hop>, Rejection> {
    let attributes = &lease.attributes;
    let mut reachable = Vec::new();
    for hop in hops(lease, leaf)? {
        let data = match hop.public {
            IpAddr::V4(_) => attributes.backend_data.as_ref(),
            IpAddr::V6(_) => attributes.backend_v6_data.as_ref(),
        };
        if data.is_some() {
            let mac = vtep::mac(data).map_err(|reason| Rejection::MacUnusable { reason })?;
            reachable.push(Hop { mac: Some(mac), ..hop });
        }
    }
    let macs: HashSet<MacAddress> = reachable.iter().filter_map(|hop| hop.mac).collect();
    if macs.is_empty() {
        return Err(Rejection::MacUnusable { reason: "it has none".to_owned() });
    }
    for mac in &macs {
        if let Some(owner) = taken.macs.get(mac) {
            return Err(Rejection::MacTaken { mac: *mac, owner: owner.clone() });
        }
    }
    taken.macs.extend(macs.into_iter().map(|mac| (mac, format!("the older lease {}", lease.leaf))));
    Ok(reachable)
}

#[cfg(test)]
mod tests;
