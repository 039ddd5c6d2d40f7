//! Routes and rules.

use std::collections::{BTreeSet, HashSet};

use ipnet::IpNet;

use super::{Planner, Ranked, Ranks, is_flannels_name, is_ours};
use crate::device::{ForeignRoute, ROUTE_PROTOCOL};
use crate::kernel::action::{Action, Key};
use crate::kernel::actual::{FoundRoute, StaleRoute, metric_of};
use crate::kernel::object::{MAIN_TABLE, Route, RouteKind, Rule};
use crate::netfilter::refusal;

/// `RTPROT_KERNEL`: a route that belongs to an address.
const PROTOCOL_KERNEL: u8 = 2;
/// `RTPROT_BOOT`: made by flanneld, or by hand.
const PROTOCOL_BOOT: u8 = 3;

/// A route that no neighbour belongs to comes after those of peers.
const LAST: usize = usize::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// May be exchanged and removed.
    Us,
    /// Made by hand or by flanneld, via a peer: may be exchanged by a better one for the same
    /// destination, but an operator may want it, so it is not removed.
    Anybody,
    /// Stays.
    SomebodyElse,
}

/// What has to be done for one destination.
#[derive(Default)]
struct Steps {
    actions: Vec<Action>,
    /// Removals that can wait.
    stale: Vec<Action>,
    foreign: Vec<ForeignRoute>,
}

impl Planner<'_> {
    pub(super) fn routes(&mut self, ranks: &Ranks<'_>) -> Vec<Ranked> {
        let (actual, desired) = (self.actual, self.desired);
        let mut ranked = Vec::new();
        let mut wanted_places = HashSet::new();
        self.missing_devices();
        for wanted in &desired.routes {
            if !self.can_be_made(wanted) || self.is_left_to_bridge(wanted) {
                continue;
            }
            let place = (wanted.destination, wanted.table);
            wanted_places.insert(place);
            let found = actual.routes.get(&place).map_or(&[][..], Vec::as_slice);
            let Steps { actions, stale, foreign } = self.route(wanted, found);
            let rank = rank(wanted, ranks);
            ranked.extend(actions.into_iter().map(|action| (rank, action)));
            self.stale.extend(stale);
            self.plan.foreign.extend(foreign);
        }
        for (place, found) in &actual.routes {
            if !wanted_places.contains(place) {
                let stale = found.iter().filter_map(|one| self.stale_route(*place, one));
                let stale: Vec<Action> = stale.collect();
                self.stale.extend(stale);
            }
        }
        ranked
    }

    fn can_be_made(&self, route: &Route) -> bool {
        device_of(route).is_none_or(|device| {
            self.usable.contains(device)
                || self.actual.devices.contains_key(device) && !self.is_wanted(device)
        })
    }

    /// Whether the device is a port of a bridge in which all pods are, so that the way to them is
    /// the bridge's. That is one of the two forms of entries on demand.
    fn is_left_to_bridge(&self, route: &Route) -> bool {
        let Some(name) = device_of(route) else { return false };
        let mut ours = self.desired.vxlans.iter();
        ours.any(|vxlan| vxlan.miss && vxlan.name == name)
            && self.actual.devices.get(name).is_some_and(|device| device.controller.is_some())
    }

    /// Whether the device is one of those that we make.
    fn is_wanted(&self, device: &str) -> bool {
        self.desired.vxlans.iter().any(|vxlan| vxlan.name == device)
    }

    fn missing_devices(&mut self) {
        let devices: BTreeSet<&str> = self.desired.routes.iter().filter_map(device_of).collect();
        let is_missing =
            |device: &&str| !self.actual.devices.contains_key(*device) && !self.is_wanted(device);
        let obstacles = devices.into_iter().filter(is_missing).map(|device| {
            let sentence = format!(
                "There is no device {device}, so its routes cannot be made. Bring it back, or name                  another one with --iface"
            );
            (Key::Device(device.to_owned()), sentence)
        });
        let obstacles: Vec<_> = obstacles.collect();
        self.plan.obstacles.extend(obstacles);
    }

    fn route(&self, wanted: &Route, found: &[FoundRoute]) -> Steps {
        let place = (wanted.destination, wanted.table);
        let stays = |one: &&FoundRoute| {
            one.tos == 0 && !one.device().is_some_and(|device| self.emptied.contains(device))
        };
        let owned: Vec<(&FoundRoute, Owner)> = (found.iter().filter(stays))
            .map(|one| (one, self.owner(wanted.destination, one)))
            .collect();
        let mut steps = Steps::default();

        let rivals = owned.iter().filter(|(one, owner)| is_rival(one, wanted, *owner));
        let rivals: Vec<&FoundRoute> = rivals.map(|(one, _)| *one).collect();
        let winners = || rivals.iter().filter(|one| wins(one, wanted));
        let is_done_by_others = winners().any(|one| does(one, wanted));
        let is_blocked = winners().next().is_some() && !is_done_by_others;
        if !is_done_by_others {
            let others = rivals.iter().filter(|one| !does(one, wanted));
            steps.foreign = others.map(|one| foreign(wanted, one)).collect();
        }

        let is_ours = |(_, owner): &&(&FoundRoute, Owner)| *owner == Owner::Us;
        let ours = || owned.iter().filter(is_ours).map(|(one, _)| *one);
        let is_needed = !is_blocked && !is_done_by_others && !ours().any(|one| is(one, wanted));
        let is_in_place = |one: &FoundRoute| is_needed && one.metric == metric_of(wanted);
        let stale = ours().filter(|one| is_blocked || !is(one, wanted) && !is_in_place(one));
        steps.stale = stale.filter_map(|one| self.stale_route(place, one)).collect();
        if is_needed {
            let replaceable = owned.iter().filter(|(one, owner)| {
                *owner != Owner::SomebodyElse && one.metric == metric_of(wanted)
            });
            steps.actions = self.exchange(wanted, &replaceable.copied().collect::<Vec<_>>());
        }
        steps
    }

    /// Puts the wanted route in the place of those that have its metric. Which of several the
    /// kernel would exchange is its choice, so all but one go before.
    fn exchange(&self, wanted: &Route, old: &[(&FoundRoute, Owner)]) -> Vec<Action> {
        let place = (wanted.destination, wanted.table);
        let Some(((first, _), others)) = old.split_first() else {
            return vec![Action::AddRoute(wanted.clone())];
        };
        let others = others.iter().map(|(one, _)| Action::DeleteRoute(stale_of(place, one)));
        let mut actions: Vec<Action> = others.collect();
        if self.needs_room(wanted, first) {
            actions.push(Action::DeleteRoute(stale_of(place, first)));
            actions.push(Action::AddRoute(wanted.clone()));
        } else {
            actions.push(Action::ReplaceRoute(wanted.clone()));
        }
        actions
    }

    /// IPv6 refuses a gateway that another device's route covers, even if it is declared to be on
    /// the link (`ip6_route_check_nh_onlink`), so the old route has to go unless a route to the
    /// gateway alone is there by then.
    fn needs_room(&self, wanted: &Route, old: &FoundRoute) -> bool {
        let RouteKind::Unicast { gateway: Some(gateway), device, onlink: true, .. } = &wanted.kind
        else {
            return false;
        };
        let host = IpNet::from(*gateway);
        gateway.is_ipv6()
            && wanted.table == MAIN_TABLE
            && wanted.destination.contains(gateway)
            && old.device().is_some_and(|other| other != device)
            && !self.desired.routes.iter().any(|one| one.destination == host)
    }

    fn stale_route(&self, place: (IpNet, u32), found: &FoundRoute) -> Option<Action> {
        let is_ours = self.owner(place.0, found) == Owner::Us;
        let goes_along = found.device().is_some_and(|device| self.goes(device));
        (is_ours && !goes_along).then(|| Action::DeleteRoute(stale_of(place, found)))
    }

    fn owner(&self, destination: IpNet, found: &FoundRoute) -> Owner {
        let is_inside = self.desired.is_inside(destination);
        let device = found.device().unwrap_or_default();
        let is_on_ours = self.usable.contains(device)
            || self.actual.devices.get(device).is_some_and(|one| is_ours(one, self.desired));
        // The whole network leads into the engine's device, which is looked after elsewhere, as are
        // the routes that carry nothing.
        let is_engines = self.desired.networks.contains(&destination)
            && found.device().is_some()
            && found.gateway().is_none()
            && !is_on_ours;
        let is_refusal = refusal::is_one(found.kind.as_ref(), found.metric);
        match found.protocol {
            ROUTE_PROTOCOL if is_engines || is_refusal => Owner::SomebodyElse,
            ROUTE_PROTOCOL if is_inside || is_on_ours => Owner::Us,
            PROTOCOL_KERNEL => Owner::SomebodyElse,
            _ if !is_inside => Owner::SomebodyElse,
            _ if is_on_ours => Owner::Us,
            PROTOCOL_BOOT if self.is_flannels(device) => Owner::Us,
            PROTOCOL_BOOT if found.gateway().is_some_and(|one| self.known.contains(&one)) => {
                Owner::Anybody
            }
            _ => Owner::SomebodyElse,
        }
    }

    fn is_flannels(&self, name: &str) -> bool {
        let device = self.actual.devices.get(name);
        is_flannels_name(name) && device.is_some_and(|device| device.vxlan.is_some())
    }

    /// Rules to make, and rules that are too much.
    pub(super) fn rules(&self) -> (Vec<Action>, Vec<Action>) {
        let wanted = &self.desired.rules;
        let missing = wanted.iter().filter(|rule| !self.actual.rules.contains_key(*rule));
        let is_stale = |rule: &Rule| self.desired.is_inside(rule.source) && !wanted.contains(rule);
        let stale = self.actual.rules.iter().filter(|(rule, is_ours)| **is_ours && is_stale(rule));
        (
            missing.cloned().map(Action::AddRule).collect(),
            stale.map(|(rule, _)| Action::DeleteRule(rule.clone())).collect(),
        )
    }
}

fn device_of(route: &Route) -> Option<&str> {
    match &route.kind {
        RouteKind::Unicast { device, .. } => Some(device),
        RouteKind::Blackhole | RouteKind::Unreachable => None,
    }
}

/// The way to a gateway alone comes before routes via that gateway.
fn rank(route: &Route, ranks: &Ranks<'_>) -> (usize, u8) {
    let RouteKind::Unicast { gateway, device, .. } = &route.kind else { return (LAST, 3) };
    let host = gateway.unwrap_or_else(|| route.destination.addr());
    let at = ranks.by_address.get(&(device.as_str(), host)).copied().unwrap_or(LAST);
    (at, if gateway.is_some() { 3 } else { 2 })
}

/// Whether the route is not ours to change and has to do with what is wanted. What only drops
/// packets is there for when nothing else is, so it does not mind others with another metric.
fn is_rival(found: &FoundRoute, wanted: &Route, owner: Owner) -> bool {
    let is_last_resort = !matches!(wanted.kind, RouteKind::Unicast { .. });
    let same_metric = found.metric == metric_of(wanted);
    match owner {
        Owner::Us => false,
        Owner::Anybody => does(found, wanted) || !same_metric,
        Owner::SomebodyElse => same_metric || !is_last_resort,
    }
}

/// Whether it is exactly what we make.
fn is(found: &FoundRoute, wanted: &Route) -> bool {
    *found == FoundRoute::of(wanted, found.link)
}

fn wins(found: &FoundRoute, wanted: &Route) -> bool {
    found.metric <= metric_of(wanted)
}

/// Whether packets take the same way.
fn does(found: &FoundRoute, wanted: &Route) -> bool {
    match (&found.kind, &wanted.kind) {
        (
            Some(RouteKind::Unicast { gateway, device, source: has, .. }),
            RouteKind::Unicast { gateway: to, device: through, source, .. },
        ) => gateway == to && device == through && (source.is_none() || has == source),
        (found, wanted) => found.as_ref() == Some(wanted),
    }
}

fn foreign(wanted: &Route, found: &FoundRoute) -> ForeignRoute {
    ForeignRoute {
        destination: wanted.destination,
        device: found.device().map(str::to_owned),
        gateway: found.gateway(),
        protocol: found.protocol,
        metric: found.metric,
    }
}

fn stale_of((destination, table): (IpNet, u32), found: &FoundRoute) -> StaleRoute {
    StaleRoute { destination, table, found: found.clone() }
}
