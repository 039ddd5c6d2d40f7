//! Which peer has which addresses: an immutable table that the control loop builds and the workers read.

mod lookup;
#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::drops::DropReason;
use lookup::{Hosts, Lookup, Prefix, Senders};

/// Peers in one table: slots are 16 bits wide, and one value of an index entry says "nobody".
pub const PEERS_MAX: usize = u16::MAX as usize;

/// Another node: what it may send from and what is sent to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// A stable number below [`PEERS_MAX`], unique in the table.
    pub slot: u16,
    /// Tells apart the peers that used this slot one after the other.
    pub generation: u32,
    /// Where its datagrams are sent to.
    pub outer: SocketAddr,
    /// Its pods' IPv4 addresses.
    pub subnet_v4: Option<Ipv4Net>,
    /// Its pods' IPv6 addresses.
    pub subnet_v6: Option<Ipv6Net>,
    /// Outer sources its datagrams may have: its public addresses and those it announces.
    pub addresses: Vec<IpAddr>,
    /// It takes IPv6 packets.
    pub inner_v6: bool,
    /// It takes datagrams from several source ports, and divides them by these.
    pub source_ports: bool,
    /// Its kernel takes small packets in the place of its workers.
    pub shortcut: bool,
    /// The longest inner packet that its device takes in bytes, if it says so.
    pub mtu: Option<u16>,
}

/// What a [`Table`] is built from.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableInput {
    /// Grows with every table published.
    pub epoch: u64,
    /// The whole overlay network, IPv4.
    pub network_v4: Option<Ipv4Net>,
    /// The whole overlay network, IPv6.
    pub network_v6: Option<Ipv6Net>,
    /// This node's subnet, IPv4.
    pub own_v4: Option<Ipv4Net>,
    /// This node's subnet, IPv6.
    pub own_v6: Option<Ipv6Net>,
    /// Addresses of this host, which no packet from outside may have as its source.
    pub own_addresses: Vec<IpAddr>,
    /// Outer sources that may send without being a peer's address.
    pub allowed_sources: Vec<IpNet>,
    /// Inner sources outside the network are refused.
    pub strict_source: bool,
    /// The other nodes.
    pub peers: Vec<Peer>,
}

/// Why a table could not be built. The workers keep the one they have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// More than [`PEERS_MAX`] peers.
    TooManyPeers,
    /// Two peers have the same slot.
    DuplicateSlot(u16),
    /// Two peers have the same subnet.
    DuplicateSubnet(IpNet),
}

impl fmt::Display for TableError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyPeers => write!(formatter, "More than {PEERS_MAX} peers in one table"),
            Self::DuplicateSlot(slot) => write!(formatter, "Two peers have slot {slot}"),
            Self::DuplicateSubnet(subnet) => write!(formatter, "Two peers have subnet {subnet}"),
        }
    }
}

impl core::error::Error for TableError {}

/// Who sent a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender<'a> {
    /// A peer, as far as the outer source address tells.
    Peer(&'a Peer),
    /// A peer that has proved it.
    Proved(&'a Peer),
    /// Nobody in particular, but from an address that the configuration allows.
    Allowed,
    /// A stranger.
    Unknown,
}

/// What the way out needs to know of a peer: 8 bytes, which stand in the index itself, so that a packet
/// costs one read of memory whatever the number of peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The peer among those that had the slot.
    pub generation: u32,
    /// The peer's slot.
    pub slot: u16,
    /// Whether it takes IPv6 packets.
    pub inner_v6: bool,
}

impl From<&Peer> for Route {
    fn from(peer: &Peer) -> Route {
        Route { generation: peer.generation, slot: peer.slot, inner_v6: peer.inner_v6 }
    }
}

/// The table. Lookups allocate nothing; the first one of a batch should be remembered by the caller.
#[derive(Debug)]
pub struct Table {
    input: TableInput,
    /// From a slot to its peer among `input.peers`.
    positions: Vec<u16>,
    by_v4: Lookup<u32>,
    by_v6: Lookup<u128>,
    senders: Senders,
    own_hosts: Hosts,
    network_v4: Prefix<u32>,
    network_v6: Prefix<u128>,
    own_v4: Prefix<u32>,
    own_v6: Prefix<u128>,
}

impl TryFrom<TableInput> for Table {
    type Error = TableError;

    fn try_from(input: TableInput) -> Result<Self, TableError> {
        Self::new(input)
    }
}

impl Table {
    /// Builds the table.
    ///
    /// # Errors
    /// If there are too many peers, or two claim the same slot or subnet. Subnets inside one another
    /// are allowed; the longer one wins.
    pub fn new(input: TableInput) -> Result<Self, TableError> {
        if input.peers.len() > PEERS_MAX {
            return Err(TableError::TooManyPeers);
        }
        check_slots(&input.peers)?;
        let v4 = subnets(&input.peers, |peer| peer.subnet_v4.map(Prefix::from));
        let v6 = subnets(&input.peers, |peer| peer.subnet_v6.map(Prefix::from));
        let positions = positions(&input.peers);
        let at = |route: Route| &input.peers[usize::from(positions[usize::from(route.slot)])];
        let by_v4 = Lookup::new(v4).map_err(|of| duplicate(at(of).subnet_v4.map(IpNet::V4)))?;
        let by_v6 = Lookup::new(v6).map_err(|of| duplicate(at(of).subnet_v6.map(IpNet::V6)))?;
        Ok(Self {
            by_v4,
            by_v6,
            senders: Senders::new(&input.peers),
            own_hosts: Hosts::new(&input.own_addresses),
            network_v4: input.network_v4.map_or(Prefix::EMPTY_V4, Prefix::from),
            network_v6: input.network_v6.map_or(Prefix::EMPTY_V6, Prefix::from),
            own_v4: input.own_v4.map_or(Prefix::EMPTY_V4, Prefix::from),
            own_v6: input.own_v6.map_or(Prefix::EMPTY_V6, Prefix::from),
            positions,
            input,
        })
    }

    /// The number of this table; a later table has a higher one.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.input.epoch
    }

    /// The other nodes, in the order given.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.input.peers
    }

    /// The highest slot in use plus one.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.positions.len()
    }

    /// What the table was built from.
    #[must_use]
    pub const fn input(&self) -> &TableInput {
        &self.input
    }

    /// The whole overlay network, IPv4.
    #[must_use]
    pub const fn network_v4(&self) -> Option<Ipv4Net> {
        self.input.network_v4
    }

    /// The whole overlay network, IPv6.
    #[must_use]
    pub const fn network_v6(&self) -> Option<Ipv6Net> {
        self.input.network_v6
    }

    /// This node's subnet, IPv4.
    #[must_use]
    pub const fn own_v4(&self) -> Option<Ipv4Net> {
        self.input.own_v4
    }

    /// This node's subnet, IPv6.
    #[must_use]
    pub const fn own_v6(&self) -> Option<Ipv6Net> {
        self.input.own_v6
    }

    /// The peer whose subnet has `destination`; of several, the one with the longest prefix.
    #[inline]
    #[must_use]
    pub fn peer_for(&self, destination: IpAddr) -> Option<&Peer> {
        self.peer_at(self.route_for(destination)?.slot)
    }

    /// The way to `destination`: what [`Table::peer_for`] finds, in short.
    #[inline]
    #[must_use]
    pub fn route_for(&self, destination: IpAddr) -> Option<Route> {
        match destination {
            IpAddr::V4(address) => self.by_v4.find(address.to_bits()),
            IpAddr::V6(address) => self.by_v6.find(address.to_bits()),
        }
    }

    /// The peer that has `slot`, if it is the one of `generation`.
    #[inline]
    #[must_use]
    pub fn peer_in(&self, slot: u16, generation: u32) -> Option<&Peer> {
        self.peer_at(slot).filter(|peer| (peer.slot, peer.generation) == (slot, generation))
    }

    fn peer_at(&self, slot: u16) -> Option<&Peer> {
        self.input.peers.get(usize::from(*self.positions.get(usize::from(slot))?))
    }

    /// Whose datagrams come from `outer_source`. Where two peers claim one address, the one that is
    /// sent to at that address has it, then the one that comes first.
    #[inline]
    #[must_use]
    pub fn peer_from(&self, outer_source: IpAddr) -> Sender<'_> {
        let address = outer_source.to_canonical();
        let found = self.senders.find(address);
        if let Some(peer) = found.and_then(|position| self.input.peers.get(usize::from(position))) {
            return Sender::Peer(peer);
        }
        if self.input.allowed_sources.iter().any(|net| net.contains(&address)) {
            Sender::Allowed
        } else {
            Sender::Unknown
        }
    }

    /// Whether `address` is in this node's subnet.
    #[inline]
    #[must_use]
    pub fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.own_v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.own_v6.contains(address.to_bits()),
        }
    }

    /// Checks the inner addresses of a packet from `sender`. The destination must be in our subnet. A
    /// source inside the network must be in the sender's subnet or that of a peer at the same address
    /// (in any peer's, if the sender is allowed without being a peer; only in its own, if it has proved who
    /// it is); outside it is allowed unless the table is strict; never ours, loopback, multicast or no
    /// host's address.
    ///
    /// # Errors
    /// The reason under which to drop the packet.
    #[inline]
    pub fn check_inbound(
        &self,
        sender: &Sender<'_>,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), DropReason> {
        let peer = match sender {
            Sender::Peer(peer) | Sender::Proved(peer) => Some(*peer),
            Sender::Allowed => None,
            Sender::Unknown => return Err(DropReason::UnknownSender),
        };
        if !self.is_ours(destination) {
            return Err(DropReason::DestinationNotOurs);
        }
        if self.is_forbidden_source(source) {
            return Err(DropReason::SourceForbidden);
        }
        if !self.in_network(source) {
            let refused = Err(DropReason::SourceOutsideNetwork);
            return if self.input.strict_source { refused } else { Ok(()) };
        }
        match (peer, self.route_for(source)) {
            (Some(peer), Some(owner)) if matches!(sender, Sender::Proved(_)) => {
                let is_own = (peer.slot, peer.generation) == (owner.slot, owner.generation);
                if is_own { Ok(()) } else { Err(DropReason::SourceSpoofed) }
            }
            (None, Some(_)) => Ok(()),
            (Some(peer), Some(owner)) if self.may_send_for(peer, owner) => Ok(()),
            _ => Err(DropReason::SourceSpoofed),
        }
    }

    /// Whether a packet of `owner` may come from `sender`: it is the same node, or one that is reached
    /// at the same address, which no outer source tells apart. A host that lost its state leaves such a
    /// lease behind, and whoever writes one must not silence the other. The sender may have been looked
    /// up in another epoch of the table.
    #[inline]
    fn may_send_for(&self, sender: &Peer, owner: Route) -> bool {
        let is_same = (sender.slot, sender.generation) == (owner.slot, owner.generation);
        let is_at_same_address = |owner: &Peer| sender.outer.ip() == owner.outer.ip();
        is_same || self.peer_at(owner.slot).is_some_and(is_at_same_address)
    }

    #[inline]
    fn in_network(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.network_v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.network_v6.contains(address.to_bits()),
        }
    }

    #[inline]
    fn is_forbidden_source(&self, source: IpAddr) -> bool {
        let nobody = match source {
            // Loopback, 0/8, and everything from multicast up: class E and broadcast.
            IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..=255),
            IpAddr::V6(address) => {
                address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.to_ipv4_mapped().is_some()
            }
        };
        nobody || self.is_ours(source) || self.own_hosts.contains(source)
    }
}

fn duplicate(subnet: Option<IpNet>) -> TableError {
    TableError::DuplicateSubnet(subnet.expect("only a peer with a subnet is indexed"))
}

fn check_slots(peers: &[Peer]) -> Result<(), TableError> {
    let mut slots: Vec<u16> = peers.iter().map(|peer| peer.slot).collect();
    slots.sort_unstable();
    match slots.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(TableError::DuplicateSlot(pair[0])),
        None => Ok(()),
    }
}

/// From a slot to the position of its peer. A slot without a peer is never asked for.
fn positions(peers: &[Peer]) -> Vec<u16> {
    let slots = peers.iter().map(|peer| usize::from(peer.slot) + 1).max().unwrap_or(0);
    let mut positions = vec![0; slots];
    for (position, peer) in (0..u16::MAX).zip(peers) {
        positions[usize::from(peer.slot)] = position;
    }
    positions
}

/// The subnets of one family, each with its peer.
fn subnets<W>(peers: &[Peer], of: impl Fn(&Peer) -> Option<Prefix<W>>) -> Vec<(Prefix<W>, Route)> {
    peers.iter().filter_map(|peer| Some((of(peer)?, Route::from(peer)))).collect()
}
