//! Neighbours and forwarding entries.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Planner, Ranked, Ranks};
use crate::kernel::action::Action;
use crate::kernel::object::{Fdb, Neighbour};

/// A forwarding entry that no neighbour leads to comes after those of peers.
const LAST: usize = usize::MAX;

impl Planner<'_> {
    /// All steps for peers, those of one peer together: forwarding entry, neighbour, routes. As soon
    /// as a neighbour is known the kernel sends what has waited for it, which is lost without a
    /// forwarding entry.
    pub(super) fn peers(&mut self) -> Vec<Action> {
        let ranks = Ranks::new(self.desired);
        let mut steps = self.neighbours();
        steps.extend(self.fdb(&ranks));
        steps.extend(self.routes(&ranks));
        steps.sort_by_key(|(rank, _)| *rank);
        let (fdb, neighbours) = (self.stale_fdb(), self.stale_neighbours());
        self.stale.extend(fdb.into_iter().chain(neighbours));
        steps.into_iter().map(|(_, action)| action).collect()
    }

    fn neighbours(&self) -> Vec<Ranked> {
        let numbered = self.desired.neighbours.iter().enumerate();
        let missing = numbered.filter(|(_, neighbour)| {
            let device = neighbour.device.as_str();
            let is_empty = self.emptied.contains(device) || self.flushed.contains(device);
            let key = (neighbour.device.clone(), neighbour.address);
            let is_there = self.actual.neighbours.get(&key) == Some(&neighbour.mac);
            self.usable.contains(device) && (is_empty || !is_there)
        });
        missing.map(|(at, one)| ((at, 1), Action::SetNeighbour(one.clone()))).collect()
    }

    /// The kernel exchanges the destination if the entry has one; more than that nobody but a
    /// stranger made, and they go before, because which one is exchanged is the kernel's choice.
    fn fdb(&self, ranks: &Ranks<'_>) -> Vec<Ranked> {
        let mut steps = Vec::new();
        for wanted in &self.desired.fdb {
            let device = wanted.device.as_str();
            let is_empty = self.emptied.contains(device);
            let is_there = !is_empty && self.actual.fdb.contains(wanted);
            if is_there || !self.usable.contains(device) {
                continue;
            }
            let rank = (ranks.by_mac.get(&(device, wanted.mac)).copied().unwrap_or(LAST), 0);
            let others = self.with_mac(wanted).skip(1).filter(|_| !is_empty);
            steps.extend(others.map(|other| (rank, Action::DeleteFdb(other.clone()))));
            steps.push((rank, Action::SetFdb(wanted.clone())));
        }
        steps
    }

    /// The entries of one hardware address, which are neighbours in the order of the set.
    fn with_mac<'b>(&'b self, wanted: &'b Fdb) -> impl Iterator<Item = &'b Fdb> {
        let (v4, v6) = ([0; 4].into(), [255; 16].into());
        let at = |destination| Fdb { destination, ..wanted.clone() };
        self.actual.fdb.range(at(v4)..=at(v6))
    }

    fn stale_neighbours(&self) -> Vec<Action> {
        let wanted: HashSet<_> = (self.desired.neighbours.iter())
            .map(|one| (one.device.as_str(), one.address))
            .collect();
        let is_stale = |device: &str, address: IpAddr| {
            self.stays(device)
                && !self.flushed.contains(device)
                && !wanted.contains(&(device, address))
        };
        let found = self.actual.neighbours.iter();
        let stale = found.filter(|((device, address), _)| is_stale(device, *address));
        stale
            .map(|((device, address), mac)| {
                let (device, address, mac) = (device.clone(), *address, *mac);
                Action::DeleteNeighbour(Neighbour { device, address, mac })
            })
            .collect()
    }

    /// Where the wanted entry is missing, the found one is exchanged or has gone before.
    fn stale_fdb(&self) -> Vec<Action> {
        let wanted: HashMap<_, _> =
            self.desired.fdb.iter().map(|one| ((one.device.as_str(), one.mac), one)).collect();
        let is_stale = |entry: &Fdb| {
            wanted
                .get(&(entry.device.as_str(), entry.mac))
                .is_none_or(|one| *one != entry && self.actual.fdb.contains(*one))
        };
        let found = self.actual.fdb.iter();
        let stale = found.filter(|entry| self.stays(&entry.device) && is_stale(entry));
        stale.cloned().map(Action::DeleteFdb).collect()
    }

    fn stays(&self, device: &str) -> bool {
        self.usable.contains(device) && !self.goes(device)
    }
}
