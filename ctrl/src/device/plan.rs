//! From what the device looks like and what it should look like to the steps in between. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::settings::Setting;
use super::{DesiredDevice, ROUTE_PROTOCOL};
use crate::interface::snapshot::{Address, Route};

/// `RT_SCOPE_UNIVERSE` (linux/rtnetlink.h): the destination may be anywhere.
pub(super) const SCOPE_ANYWHERE: u8 = 0;

/// `RTPROT_KERNEL`: a route that belongs to an address.
const PROTOCOL_KERNEL: u8 = 2;

/// What an IPv6 route gets that asks for no metric (`IP6_RT_PRIO_USER`, linux/ipv6_route.h).
/// IPv4's default is 0.
pub(super) const METRIC_V6: u32 = 1024;

/// What the device looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// The kernel's index of the device.
    pub index: u32,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// The values of [`Setting::COMMON`], in that order; `None` where the kernel has no such setting.
    pub settings: [Option<u8>; Setting::COMMON.len()],
    /// The addresses on the device.
    pub addresses: Vec<Address>,
    /// The routes of the main table, at least those inside our networks and ours into the device.
    pub routes: Vec<Route>,
    /// Addresses of the underlay that this host does not have any more.
    pub underlay_gone: Vec<IpAddr>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the wanted value of a setting.
    Set(Setting),
    /// Set the MTU.
    SetMtu(u32),
    /// Add our own address, with the longest prefix.
    AddAddress(IpAddr),
    /// Set the device up.
    SetUp,
    /// Add the route of a network into the device.
    AddRoute(IpNet),
    /// Put the right route in the place of one of ours that is wrong.
    ReplaceRoute(IpNet),
    /// Remove a route of ours that nobody wants any more.
    DeleteRoute(Route),
    /// Remove an address inside our network that is not ours.
    DeleteAddress(Address),
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(setting) => write!(formatter, "set {setting} to {}", setting.wanted()),
            Self::SetMtu(mtu) => write!(formatter, "set the MTU to {mtu}"),
            Self::AddAddress(address) => write!(formatter, "add the address {address}"),
            Self::SetUp => write!(formatter, "set the device up"),
            Self::AddRoute(network) => write!(formatter, "add the route to {network}"),
            Self::ReplaceRoute(network) => write!(formatter, "correct the route to {network}"),
            Self::DeleteRoute(route) => {
                write!(formatter, "delete the left-over route to {}", route.destination)
            }
            Self::DeleteAddress(address) => {
                let Address { local, prefix_length, .. } = address;
                write!(formatter, "delete the address {local}/{prefix_length}")
            }
        }
    }
}

/// The steps, in an order in which each can succeed: settings while the device has no addresses
/// yet, what is missing, and then what is too much. Planning again after all steps gives none.
#[must_use]
pub fn plan(actual: &Actual, desired: &DesiredDevice) -> Vec<Action> {
    let mut actions = settings(actual);
    if actual.mtu != desired.mtu {
        actions.push(Action::SetMtu(desired.mtu));
    }
    for wanted in desired.addresses() {
        actions.extend(add_address(actual, wanted));
    }
    if !actual.up {
        actions.push(Action::SetUp);
    }
    for network in desired.networks() {
        actions.extend(add_route(actual, network));
    }
    actions.extend(delete_routes(actual, desired));
    actions.extend(delete_addresses(actual, desired));
    actions
}

/// Routes of somebody else to exactly one of our networks, except those that do what ours does.
pub fn foreign_routes<'a>(
    actual: &'a Actual,
    desired: &DesiredDevice,
) -> impl Iterator<Item = &'a Route> {
    let networks: Vec<IpNet> = desired.networks().collect();
    actual.routes.iter().filter(move |route| {
        networks.contains(&route.destination)
            && route.protocol != ROUTE_PROTOCOL
            && !leads_into(route, actual.index)
    })
}

fn settings(actual: &Actual) -> Vec<Action> {
    let pairs = Setting::COMMON.into_iter().zip(actual.settings);
    let wrong =
        pairs.filter(|(setting, value)| value.is_some_and(|value| !setting.is_right(value)));
    wrong.map(|(setting, _)| Action::Set(setting)).collect()
}

/// IPv6 has an address only once per device, whatever its prefix length, so one of another form
/// has to go before. One that has only a lifetime too much loses that by being added again.
fn add_address(actual: &Actual, wanted: IpAddr) -> Vec<Action> {
    let is_there = |address: &Address| has_form(address, wanted) && address.permanent;
    if actual.addresses.iter().any(is_there) {
        return Vec::new();
    }
    let in_the_way = |address: &&Address| {
        wanted.is_ipv6() && address.local == wanted && !has_form(address, wanted)
    };
    let blocking = actual.addresses.iter().find(in_the_way);
    let delete = blocking.map(|address| Action::DeleteAddress(address.clone()));
    delete.into_iter().chain([Action::AddAddress(wanted)]).collect()
}

fn has_form(address: &Address, wanted: IpAddr) -> bool {
    address.local == wanted && address.prefix_length == length_of(wanted) && address.peer.is_none()
}

/// Bits of a whole address.
pub(super) fn length_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The kernel has one route for each destination, type of service and metric. If somebody else has
/// ours, it stays: it either leads into the device too, or is a foreign route to be named.
fn add_route(actual: &Actual, network: IpNet) -> Option<Action> {
    if actual.routes.iter().any(|route| is_right(route, network, actual.index)) {
        return None;
    }
    match actual.routes.iter().find(|route| has_our_place(route, network)) {
        None => Some(Action::AddRoute(network)),
        Some(route) if may_be_replaced(route, actual.index) => Some(Action::ReplaceRoute(network)),
        Some(_) => None,
    }
}

/// Besides our own: what the kernel made for an address on the device that covers the whole
/// network. It goes with the address, which is not wanted, and ours could not be added before.
fn may_be_replaced(route: &Route, index: u32) -> bool {
    let is_of_address = route.protocol == PROTOCOL_KERNEL && leads_into(route, index);
    route.protocol == ROUTE_PROTOCOL || is_of_address
}

/// Only what the engine has: routes to whole networks, and what leads into its device. Routes inside
/// the networks lead to peers on other paths, and those that drop packets have a purpose of their own.
fn delete_routes(actual: &Actual, desired: &DesiredDevice) -> Vec<Action> {
    let networks: Vec<IpNet> = desired.networks().collect();
    let is_replaced = |route: &Route| {
        let place = networks.iter().find(|network| has_our_place(route, **network));
        place.is_some_and(|network| add_route(actual, *network).is_some())
    };
    let is_stale = |route: &&Route| {
        let is_whole = route.unicast && networks.contains(&route.destination);
        (is_left_over(route, actual.index) || is_whole && route.protocol == ROUTE_PROTOCOL)
            && !networks.iter().any(|network| is_right(route, *network, actual.index))
            && !is_replaced(route)
    };
    actual.routes.iter().filter(is_stale).cloned().map(Action::DeleteRoute).collect()
}

fn delete_addresses(actual: &Actual, desired: &DesiredDevice) -> Vec<Action> {
    let is_inside = |address: &Address| {
        desired.networks().any(|network| network.contains(&IpNet::from(address.local)))
    };
    // With IPv6 what has our address had to go before ours could be added.
    let is_gone_by_then =
        |address: &Address, wanted: IpAddr| wanted.is_ipv6() && address.local == wanted;
    let is_too_much = |address: &&Address| {
        is_inside(address)
            && !desired
                .addresses()
                .any(|wanted| has_form(address, wanted) || is_gone_by_then(address, wanted))
    };
    actual.addresses.iter().filter(is_too_much).cloned().map(Action::DeleteAddress).collect()
}

/// The metric of our route.
pub(super) fn metric_of(network: IpNet) -> u32 {
    if network.addr().is_ipv4() { 0 } else { METRIC_V6 }
}

fn has_our_place(route: &Route, network: IpNet) -> bool {
    route.destination == network && route.tos == 0 && route.metric == metric_of(network)
}

/// A route of ours into the device, wherever to: our network may have been another one.
pub(super) fn is_left_over(route: &Route, index: u32) -> bool {
    route.protocol == ROUTE_PROTOCOL && leads_into(route, index)
}

fn leads_into(route: &Route, index: u32) -> bool {
    let [hop] = route.hops.as_slice() else { return false };
    route.unicast && hop.link == index && hop.gateway.is_none()
}

fn is_right(route: &Route, network: IpNet, index: u32) -> bool {
    has_our_place(route, network)
        && route.protocol == ROUTE_PROTOCOL
        && route.scope == SCOPE_ANYWHERE
        && route.source.is_none()
        && leads_into(route, index)
}
