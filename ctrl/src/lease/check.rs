//! Which leases of other nodes are believed.
//!
//! A datastore may be written by more than ours, so every value is checked against what a peer can
//! possibly say. A rejected lease is counted and shown, and touches no other lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Lease, ValueError};
use crate::config::{NetworkConfig, SubnetRange};
use crate::kernel::MacAddress;
use crate::key::PublicKey;
use crate::lease::Leaf;

/// Why a lease is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The name does not follow the form.
    #[error("The name is not that of a lease")]
    Name,
    /// The value cannot be read.
    #[error("The value cannot be read: {0}")]
    Value(#[source] ValueError),
    /// None of its families is on here.
    #[error("It has no subnet of an address family that the network config turns on")]
    Family,
    /// The subnet lies outside.
    #[error("Subnet {subnet} is outside the network {network}")]
    OutsideNetwork {
        /// The lease's subnet.
        subnet: IpNet,
        /// Our network.
        network: IpNet,
    },
    /// Subnets of one network have one length.
    #[error("Subnet {subnet} does not have the configured length {length}")]
    Length {
        /// The lease's subnet.
        subnet: IpNet,
        /// The length of the config.
        length: u8,
    },
    /// Host bits are set.
    #[error("Subnet {subnet} is not on a subnet boundary")]
    Boundary {
        /// The lease's subnet.
        subnet: IpNet,
    },
    /// It would take traffic for our own pods.
    #[error("It overlaps this node's own subnet")]
    OverlapsOwn,
    /// Somebody was there before.
    #[error("It overlaps the older lease {older}")]
    OverlapsOlder {
        /// The lease that stays.
        older: Leaf,
    },
    /// It has an IPv4 subnet but no IPv4 address.
    #[error("PublicIP {address} is not an address of a host")]
    PublicIpUnusable {
        /// What it says.
        address: IpAddr,
    },
    /// Sending there would send to ourselves.
    #[error("PublicIP {address} is this host's own")]
    PublicIpOurs {
        /// What it says.
        address: IpAddr,
    },
    /// Its datagrams would be routed into the tunnel that they come from.
    #[error("PublicIP {address} is inside the network {network}, so it cannot be reached outside")]
    PublicIpInside {
        /// What it says.
        address: IpAddr,
        /// Our network.
        network: IpNet,
    },
    /// No address of a family that this node sends over.
    #[error("It has no public address of the family that this node sends over")]
    PublicIpMissing,
    /// Nothing can be sent to a device without it.
    #[error("The MAC address of its VXLAN device cannot be used: {reason}")]
    MacUnusable {
        /// What is wrong with it.
        reason: String,
    },
    /// Frames for one would go to the other.
    #[error("The MAC address {mac} of its VXLAN device is that of {owner}")]
    MacTaken {
        /// What it says.
        mac: MacAddress,
        /// Who had it before.
        owner: String,
    },
    /// Nothing that is sealed can be sent to it.
    #[error(
        "It has no public key, and the network config demands that traffic is sealed: its node is a \
         flanneld, or a weft that has not been restarted since"
    )]
    KeyMissing,
    /// Going back to clear packets would be what an attacker wants.
    #[error(
        "It has no public key any more, though it had one since this daemon has started, and traffic \
         with its node does not go back to being unsealed. If that is meant, delete the lease, or \
         restart weft here"
    )]
    KeyLost,
    /// Everybody could open what is sealed with it.
    #[error("Its public key {key} is zero or another one that makes every secret the same")]
    KeyWeak {
        /// What it says.
        key: PublicKey,
    },
    /// Two nodes have one private key, or one of them lies.
    #[error("Its public key {key} is that of {owner}")]
    KeyTaken {
        /// What it says.
        key: PublicKey,
        /// Who had it before.
        owner: String,
    },
    /// Left over from this node's earlier life.
    #[error("It carries this node's own identity: a left-over, or a copied state directory")]
    OwnIdentity,
    /// The table is full.
    #[error("There are more peers than a table holds")]
    TooMany,
}

impl Rejection {
    /// A short name for counting.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Value(_) => "value",
            Self::Family => "family",
            Self::OutsideNetwork { .. } => "outside_network",
            Self::Length { .. } => "length",
            Self::Boundary { .. } => "boundary",
            Self::OverlapsOwn => "overlaps_own",
            Self::OverlapsOlder { .. } => "overlaps_older",
            Self::PublicIpUnusable { .. } => "public_ip_unusable",
            Self::PublicIpOurs { .. } => "public_ip_ours",
            Self::PublicIpInside { .. } => "public_ip_inside",
            Self::PublicIpMissing => "public_ip_missing",
            Self::MacUnusable { .. } => "mac_unusable",
            Self::MacTaken { .. } => "mac_taken",
            Self::KeyMissing => "key_missing",
            Self::KeyLost => "key_lost",
            Self::KeyWeak { .. } => "key_weak",
            Self::KeyTaken { .. } => "key_taken",
            Self::OwnIdentity => "own_identity",
            Self::TooMany => "too_many",
        }
    }
}

/// What a peer's lease is measured against.
#[derive(Clone, Debug)]
pub struct Limits<'a> {
    /// The config in force.
    pub config: &'a NetworkConfig,
    /// This node's own subnets.
    pub own: Leaf,
    /// Addresses of this host.
    pub own_addresses: &'a [IpAddr],
}

impl Limits<'_> {
    /// Checks one lease on its own; overlaps with other peers are the caller's.
    ///
    /// The returned name has only the families that are on here, so that a dual-stack peer stays
    /// reachable over IPv4 from a node that does not have IPv6 yet.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, lease: &Lease) -> Result<Leaf, Rejection> {
        let v4 = self.config.v4.as_ref().and(lease.leaf.v4);
        let v6 = self.config.v6.as_ref().and(lease.leaf.v6);
        let leaf = Leaf { v4, v6 };
        if leaf.subnets().next().is_none() {
            return Err(Rejection::Family);
        }
        for range in [&self.config.v4, &self.config.v6].into_iter().flatten() {
            let same_family =
                |net: &IpNet| net.max_prefix_len() == range.network().max_prefix_len();
            if let Some(subnet) = leaf.subnets().find(same_family) {
                check_subnet(range, subnet)?;
            }
        }
        if leaf.overlaps(&self.own) {
            return Err(Rejection::OverlapsOwn);
        }
        self.check_public(lease)?;
        Ok(leaf)
    }

    /// `0.0.0.0` is right where the lease has no IPv4 part.
    fn check_public(&self, lease: &Lease) -> Result<(), Rejection> {
        let v4 = lease.attributes.public_ip;
        if lease.leaf.v4.is_some() || !v4.is_unspecified() {
            if !is_host_v4(v4) {
                return Err(Rejection::PublicIpUnusable { address: v4.into() });
            }
            self.check_address(v4.into())?;
        }
        if let Some(v6) = lease.attributes.public_ipv6 {
            if !is_host_v6(v6) {
                return Err(Rejection::PublicIpUnusable { address: v6.into() });
            }
            self.check_address(v6.into())?;
        }
        Ok(())
    }

    fn check_address(&self, address: IpAddr) -> Result<(), Rejection> {
        if self.own_addresses.contains(&address) {
            return Err(Rejection::PublicIpOurs { address });
        }
        match self.config.networks().find(|network| network.contains(&address)) {
            Some(network) => Err(Rejection::PublicIpInside { address, network }),
            None => Ok(()),
        }
    }
}

fn check_subnet(range: &SubnetRange, subnet: IpNet) -> Result<(), Rejection> {
    let network = range.network();
    if !network.contains(&subnet.addr()) {
        return Err(Rejection::OutsideNetwork { subnet, network });
    }
    if !range.allows_length(subnet) {
        return Err(Rejection::Length { subnet, length: range.length() });
    }
    if subnet.addr() != subnet.network() {
        return Err(Rejection::Boundary { subnet });
    }
    Ok(())
}

/// Class E is left out with the broadcast address: no host has one.
fn is_host_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && !address.is_loopback() && first < 224
}

/// A link-local address means nothing without an interface, which a lease cannot name.
fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unicast_link_local()
        && address.to_ipv4_mapped().is_none()
}
