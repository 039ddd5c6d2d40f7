//! From what is there and what should be there to the steps in between. Pure.

mod links;
mod peers;
mod routes;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::ALIAS;
use super::action::{Action, Key};
use super::actual::{Actual, Device};
use super::object::{RouteKind, State};
use crate::device::ForeignRoute;

/// The steps, and what stands in the way of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In an order in which each can succeed. After all of them, planning again gives none.
    pub actions: Vec<Action>,
    /// Routes of somebody else to a destination of ours. They stay. One that [wins] keeps ours from
    /// being made, unless it does the same.
    ///
    /// [wins]: ForeignRoute::wins
    pub foreign: Vec<ForeignRoute>,
    /// What keeps an object from being made, one sentence each.
    pub obstacles: Vec<(Key, String)>,
}

/// Devices, addresses and settings; then per peer its forwarding entry, its neighbour and its
/// routes; then rules; and at last what is too much. What is wrong is exchanged in place, so that
/// there is no gap; it is removed before only where the kernel demands it.
#[must_use]
pub fn plan(actual: &Actual, desired: &State) -> Plan {
    let mut planner = Planner::new(actual, desired);
    planner.links();
    let peers = planner.peers();
    let (rules, stale_rules) = planner.rules();
    let Planner { mut plan, stale_links, stale, .. } = planner;
    plan.actions.extend(peers);
    plan.actions.extend(rules);
    plan.actions.extend(stale_rules);
    plan.actions.extend(stale);
    plan.actions.extend(stale_links.into_iter().map(|name| Action::DeleteLink(name.to_owned())));
    plan
}

struct Planner<'a> {
    actual: &'a Actual,
    desired: &'a State,
    /// Wanted devices on which objects can be made.
    usable: HashSet<&'a str>,
    /// Devices that are removed before anything else, with everything on them.
    emptied: HashSet<&'a str>,
    /// Devices that lose their neighbours.
    flushed: HashSet<&'a str>,
    /// Devices of ours that nobody wants, which go at last.
    stale_links: Vec<&'a str>,
    /// Addresses that peers are reached at, now or before.
    known: HashSet<IpAddr>,
    plan: Plan,
    /// Removals that come last.
    stale: Vec<Action>,
}

impl<'a> Planner<'a> {
    fn new(actual: &'a Actual, desired: &'a State) -> Self {
        let mut planner = Self {
            actual,
            desired,
            usable: HashSet::new(),
            emptied: HashSet::new(),
            flushed: HashSet::new(),
            stale_links: Vec::new(),
            known: known(desired).chain(actual.former_gateways.iter().copied()).collect(),
            plan: Plan::default(),
            stale: Vec::new(),
        };
        let wanted: HashSet<&str> = desired.vxlans.iter().map(|one| one.name.as_str()).collect();
        planner.stale_links = (actual.devices.iter())
            .filter(|(name, device)| !wanted.contains(name.as_str()) && is_ours(device, desired))
            .map(|(name, _)| name.as_str())
            .collect();
        planner
    }

    /// Whether everything on the device goes with it.
    fn goes(&self, device: &str) -> bool {
        self.emptied.contains(device) || self.stale_links.contains(&device)
    }
}

/// The addresses at which `desired` reaches peers.
pub(super) fn known(desired: &State) -> impl Iterator<Item = IpAddr> {
    let gateways = desired.routes.iter().filter_map(|route| match route.kind {
        RouteKind::Unicast { gateway, onlink: false, .. } => gateway,
        _ => None,
    });
    gateways.chain(desired.fdb.iter().map(|entry| entry.destination))
}

/// A device that carries our mark, and an address that tells it from those of another daemon.
fn is_ours(device: &Device, desired: &State) -> bool {
    let mut addresses = device.addresses.iter();
    device.vxlan.is_some()
        && device.alias.as_deref() == Some(ALIAS)
        && addresses.any(|address| desired.is_inside(address.local.into()))
}

/// Whether flanneld would give a VXLAN device this name.
pub(super) fn is_flannels_name(name: &str) -> bool {
    let vni = name.strip_prefix("flannel-v6.").or_else(|| name.strip_prefix("flannel."));
    vni.is_some_and(|vni| !vni.is_empty() && vni.bytes().all(|digit| digit.is_ascii_digit()))
}

/// What belongs together comes together: for each peer the step of `class` 0 first.
struct Ranks<'a> {
    by_address: HashMap<(&'a str, IpAddr), usize>,
    by_mac: HashMap<(&'a str, super::MacAddress), usize>,
}

impl<'a> Ranks<'a> {
    fn new(desired: &'a State) -> Self {
        let neighbours = || desired.neighbours.iter().enumerate();
        Self {
            by_address: neighbours().map(|(at, n)| ((n.device.as_str(), n.address), at)).collect(),
            // The first of several neighbours with one hardware address.
            by_mac: neighbours().rev().map(|(at, n)| ((n.device.as_str(), n.mac), at)).collect(),
        }
    }
}

/// A step and its place: that of its peer, and among the peer's.
type Ranked = ((usize, u8), Action);
