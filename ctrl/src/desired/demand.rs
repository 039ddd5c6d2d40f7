//! Which addresses of peers the kernel has asked for, for entries on demand. Pure: time is an argument.
//!
//! An address is known to be needed from the kernel's question on until its peer has not been sent
//! anything for as long as the device lets entries be unused. Whoever can send packets from this host
//! can make the kernel ask, so addresses that no lease has cost a counter only, and the others are
//! bounded in number and in how many can be added a second.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::View;
use crate::bucket::Bucket;
use crate::kernel::MacAddress;
use crate::kernel::misses::{Miss, Usage};
use crate::lease::Leaf;

/// Most addresses at a time. Each is a neighbour of a few hundred bytes in the kernel.
pub const ASKED_MAX: usize = 16_384;

/// When there are that many, the oldest ones of this part go, so that it is looked for them rarely.
const EVICTED: usize = ASKED_MAX / 4;

/// Addresses that may be added a second, and at once after a quiet time. The kernel asks again for
/// those that were not.
const PER_SECOND: u32 = 500;
const BURST: u32 = 2 * PER_SECOND;

/// What became of the kernel's questions since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// For an address or a device of a peer; entries were made.
    pub answered: u64,
    /// For what no peer's lease has. Nothing was done.
    pub unknown: u64,
    /// More than may be answered a second. They are asked again.
    pub refused: u64,
}

/// A peer, where it is looked for.
#[derive(Clone, Copy, Debug)]
struct Peer {
    subnet: IpNet,
    mac: MacAddress,
}

/// See the module.
#[derive(Debug)]
pub struct Demand {
    own: Option<Leaf>,
    /// By the first address of the subnet.
    peers: BTreeMap<IpAddr, Peer>,
    by_mac: HashMap<MacAddress, IpAddr>,
    /// When each was last asked for.
    asked: BTreeMap<IpAddr, Instant>,
    counts: Counts,
    rate: Bucket,
}

impl Demand {
    /// Nothing has been asked for.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            own: None,
            peers: BTreeMap::new(),
            by_mac: HashMap::new(),
            asked: BTreeMap::new(),
            counts: Counts::default(),
            rate: Bucket::new(PER_SECOND, BURST, now),
        }
    }

    /// What became of the questions.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many addresses are needed now.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.asked.len()
    }

    /// The needed addresses of a subnet.
    pub fn asked_in(&self, subnet: IpNet) -> impl Iterator<Item = IpAddr> + '_ {
        self.asked.range(subnet.network()..=subnet.broadcast()).map(|(address, _)| *address)
    }

    /// These are the peers from now on.
    pub fn set_peers(&mut self, view: &View, own: &Leaf) {
        self.own = Some(*own);
        self.peers.clear();
        for hop in view.accepted.iter().flat_map(|accepted| accepted.hops()) {
            let Some(mac) = hop.mac else { continue };
            self.peers.insert(hop.subnet.network(), Peer { subnet: hop.subnet, mac });
        }
        let by_mac = self.peers.iter().map(|(first, peer)| (peer.mac, *first));
        self.by_mac = by_mac.collect();
    }

    /// Entries that an earlier daemon has made are needed, as far as is known.
    pub fn adopt(&mut self, addresses: &[IpAddr], now: Instant) {
        self.asked.extend(addresses.iter().take(ASKED_MAX).map(|address| (*address, now)));
    }

    /// Takes a question of the kernel, and says whether entries have to be made.
    pub fn handle_miss(&mut self, miss: Miss, now: Instant) -> bool {
        let Some(own) = self.own else { return false };
        let address = match miss {
            Miss::Address(address) if own.subnets().any(|subnet| subnet.contains(&address)) => {
                // A bridge asks everywhere for its own pods, who answer for themselves.
                return false;
            }
            Miss::Address(address) => self.peer_of(address).map(|_| address),
            // A neighbour brings its forwarding entry along.
            Miss::Mac(mac) => self.by_mac.get(&mac).copied(),
        };
        let Some(address) = address else {
            self.counts.unknown += 1;
            return false;
        };
        if let Some(asked_at) = self.asked.get_mut(&address) {
            *asked_at = now;
            return false;
        }
        if !self.rate.take(now) {
            self.counts.refused += 1;
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            self.evict();
        }
        self.asked.insert(address, now);
        self.counts.answered += 1;
        true
    }

    /// Lets go of what has not been used, and says whether there was any.
    pub fn handle_usage(&mut self, usage: &Usage, now: Instant) -> bool {
        let before = self.asked.len();
        // A peer is one: its forwarding entry tells of all its addresses.
        let mut newest: HashMap<IpAddr, Instant> = HashMap::new();
        for (address, asked_at) in &self.asked {
            let at = newest.entry(self.first_of(*address)).or_insert(*asked_at);
            *at = (*at).max(*asked_at);
        }
        let is_needed = |first: &IpAddr| {
            let quiet = newest.get(first).map(|at| now.saturating_duration_since(*at));
            let peer = self.peers.get(first);
            let unused = peer.and_then(|peer| usage.unused.get(&peer.mac).copied());
            let idle = quiet.into_iter().chain(unused).min().unwrap_or(Duration::MAX);
            idle <= usage.ageing
        };
        let needed: HashMap<IpAddr, bool> =
            newest.keys().map(|first| (*first, is_needed(first))).collect();
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|address, _| needed.get(&self.first_of(*address)) == Some(&true));
        self.asked = asked;
        self.asked.len() != before
    }

    fn peer_of(&self, address: IpAddr) -> Option<&Peer> {
        let (_, peer) = self.peers.range(..=address).next_back()?;
        peer.subnet.contains(&address).then_some(peer)
    }

    /// The first address of the peer's subnet; the address itself where there is no peer any more.
    fn first_of(&self, address: IpAddr) -> IpAddr {
        self.peer_of(address).map_or(address, |peer| peer.subnet.network())
    }

    fn evict(&mut self) {
        let mut times: Vec<Instant> = self.asked.values().copied().collect();
        times.sort_unstable();
        let Some(end) = times.get(EVICTED).copied() else { return };
        let mut left = EVICTED;
        self.asked.retain(|_, asked_at| {
            let goes = *asked_at <= end && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests;
