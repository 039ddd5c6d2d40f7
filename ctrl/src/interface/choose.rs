//! The choice itself: a pure function over what the kernel has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;
use tracing::warn;

use super::snapshot::{Address, Link, LinkKind, Route, Snapshot, Way};
use super::{Families, Interface, InterfaceOptions};

/// Holds the addresses of services when kube-proxy works with IPVS.
const SERVICE_DEVICE: &str = "kube-ipvs0";

/// flannel's own devices, whichever backend.
const OVERLAY_PREFIX: &str = "flannel";

/// Why something that was asked for gives no interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No device has this name.
    #[error("there is no interface {name} (there are: {})", .there.join(", "))]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// The names of all devices.
        there: Vec<String>,
    },
    /// No device has this address.
    #[error(
        "no interface has the address {0}. If other hosts reach this one by an address that is \
         translated on the way, name the interface with --iface as well"
    )]
    NoSuchAddress(IpAddr),
    /// The expression does not parse.
    #[error("the expression {expression:?} is no regular expression: {why}")]
    BadExpression {
        /// What was asked for.
        expression: String,
        /// Where it goes wrong.
        why: String,
    },
    /// Neither addresses nor names match. Unsuitable ones are listed with the reason.
    #[error("the expression {expression:?} matches none of: {}", .candidates.join(", "))]
    NoMatch {
        /// What was asked for.
        expression: String,
        /// Every device with its usable addresses.
        candidates: Vec<String>,
    },
    /// `--iface-can-reach` is not an address.
    #[error("{0:?} is no address, and --iface-can-reach needs one")]
    BadTarget(String),
    /// The kernel has no way to the address.
    #[error("there is no route to {0}")]
    NoWay(IpAddr),
    /// The main table has no default route of this family.
    #[error("there is no {family} default route; name the interface with --iface")]
    NoDefaultRoute {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Several next hops at once.
    #[error(
        "the {family} default route has several next hops, so it does not say which interface to \
         take; name it with --iface"
    )]
    MultipathDefault {
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Both families are on and lead to different devices.
    #[error(
        "IPv4 leads to the interface {v4} and IPv6 to {v6}, but both have to be on one; name it \
         with --iface"
    )]
    TwoInterfaces {
        /// The device for IPv4.
        v4: String,
        /// The device for IPv6.
        v6: String,
    },
    /// A device that does not lead to other hosts.
    #[error("{name} is {why}; if it really is the one, name it with --iface")]
    Unsuitable {
        /// The device.
        name: String,
        /// What it is.
        why: &'static str,
    },
    /// No address that may be used.
    #[error("{name} has no usable {family} address")]
    NoAddress {
        /// The device.
        name: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The device takes no packets.
    #[error("{name} has the MTU 0")]
    NoMtu {
        /// The device.
        name: String,
    },
}

/// What was chosen, and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The interface to take.
    pub interface: Interface,
    /// What was asked for before it and gave nothing.
    pub refusals: Vec<Refusal>,
}

impl Chosen {
    /// Writes into the log what gave nothing.
    pub fn log_refusals(&self) {
        for refusal in &self.refusals {
            warn!(%refusal, taken = self.interface.name, "an interface setting gave nothing");
        }
    }
}

/// A device, and the addresses on it that what was asked for fixes.
struct Found<'a> {
    link: &'a Link,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl<'a> Found<'a> {
    fn on(link: &'a Link) -> Self {
        Self { link, v4: None, v6: None }
    }

    fn at(link: &'a Link, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self { link, v4: Some(address), v6: None },
            IpAddr::V6(address) => Self { link, v4: None, v6: Some(address) },
        }
    }
}

/// Chooses from a snapshot. `way` is the kernel's answer for `options.can_reach`.
///
/// # Errors
/// One refusal for each thing that was asked for; there is at least one.
pub fn choose(
    options: &InterfaceOptions,
    families: Families,
    snapshot: &Snapshot,
    way: Option<&Way>,
) -> Result<Chosen, Vec<Refusal>> {
    let chooser = Chooser { options, families, snapshot };
    let mut refusals = Vec::new();
    for attempt in chooser.attempts(way) {
        match attempt().and_then(|found| chooser.complete(&found)) {
            Ok(interface) => return Ok(Chosen { interface, refusals }),
            Err(refusal) => refusals.push(refusal),
        }
    }
    Err(refusals)
}

/// One thing that was asked for, to be looked for when it is its turn.
type Attempt<'a> = Box<dyn Fn() -> Result<Found<'a>, Refusal> + 'a>;

struct Chooser<'a> {
    options: &'a InterfaceOptions,
    families: Families,
    snapshot: &'a Snapshot,
}

impl<'a> Chooser<'a> {
    fn attempts(&'a self, way: Option<&'a Way>) -> Vec<Attempt<'a>> {
        let mut attempts: Vec<Attempt<'a>> = Vec::new();
        for name in &self.options.iface {
            attempts.push(Box::new(|| self.by_name_or_address(name)));
        }
        for expression in &self.options.iface_regex {
            attempts.push(Box::new(|| self.by_expression(expression)));
        }
        if let Some(target) = &self.options.can_reach {
            attempts.push(Box::new(move || self.by_way(target, way)));
        }
        if attempts.is_empty() {
            attempts.push(match self.public_address() {
                Some(address) => Box::new(move || self.by_address(address)),
                None => Box::new(|| self.by_default_route()),
            });
        }
        attempts
    }

    /// A public address of a family that is off says nothing.
    fn public_address(&self) -> Option<IpAddr> {
        let v4 = self.options.public_ip.filter(|_| self.families.v4).map(IpAddr::V4);
        v4.or_else(|| self.options.public_ipv6.filter(|_| self.families.v6).map(IpAddr::V6))
    }

    fn by_name_or_address(&self, text: &str) -> Result<Found<'a>, Refusal> {
        if let Ok(address) = text.parse() {
            return self.by_address(address);
        }
        let there = || self.snapshot.links.iter().map(|link| link.name.clone()).collect();
        let found = self.snapshot.link_named(text).map(Found::on);
        found.ok_or_else(|| Refusal::NoSuchName { name: text.to_owned(), there: there() })
    }

    /// The owner of an address. With both families on, an own IPv6 address that is published has
    /// to be on the same interface as the IPv4 one, and is then bound to as well.
    fn by_address(&self, address: IpAddr) -> Result<Found<'a>, Refusal> {
        let mut found = Found::at(self.owner(address)?, address);
        let both = self.families.v4 && self.families.v6;
        if let (true, IpAddr::V4(_), Some(public)) = (both, address, self.options.public_ipv6) {
            let other = self.owner(IpAddr::V6(public))?;
            same(found.link, other)?;
            found.v6 = Some(public);
        }
        Ok(found)
    }

    /// The first suitable owner: an address of this host may also be a service's.
    fn owner(&self, address: IpAddr) -> Result<&'a Link, Refusal> {
        let owners: Vec<&'a Link> = self
            .snapshot
            .addresses
            .iter()
            .filter(|candidate| candidate.local == address)
            .filter_map(|candidate| self.snapshot.link(candidate.link))
            .collect();
        let suitable = owners.iter().find(|link| never_by_itself(link).is_none());
        match suitable.or(owners.first()) {
            None => Err(Refusal::NoSuchAddress(address)),
            Some(link) => refuse(link, never_by_itself(link)),
        }
    }

    fn by_expression(&self, text: &str) -> Result<Found<'a>, Refusal> {
        let expression = Regex::new(text).map_err(|error| Refusal::BadExpression {
            expression: text.to_owned(),
            why: error.to_string(),
        })?;
        let suitable = || self.snapshot.links.iter().filter(|link| self.unsuitable(link).is_none());
        let by_address = suitable().find_map(|link| self.matching_addresses(link, &expression));
        let by_name = || suitable().find(|link| expression.is_match(&link.name)).map(Found::on);
        by_address.or_else(by_name).ok_or_else(|| Refusal::NoMatch {
            expression: text.to_owned(),
            candidates: self.snapshot.links.iter().map(|link| self.describe(link)).collect(),
        })
    }

    /// Each family that is on needs a matching address.
    fn matching_addresses(&self, link: &'a Link, expression: &Regex) -> Option<Found<'a>> {
        let matching = |address: &IpAddr| expression.is_match(&address.to_string());
        let mut found = Found::on(link);
        if self.families.v4 {
            found.v4 = Some(self.usable(link).filter(matching).find_map(only_v4)?);
        }
        if self.families.v6 {
            found.v6 = Some(self.usable(link).filter(matching).find_map(only_v6)?);
        }
        (found.v4.is_some() || found.v6.is_some()).then_some(found)
    }

    fn describe(&self, link: &Link) -> String {
        if let Some(why) = self.unsuitable(link) {
            return format!("{} (not considered: {why})", link.name);
        }
        let addresses: Vec<String> = self.usable(link).map(|one| one.to_string()).collect();
        format!("{} [{}]", link.name, addresses.join(" "))
    }

    fn by_way(&self, text: &str, way: Option<&Way>) -> Result<Found<'a>, Refusal> {
        let target: IpAddr = text.parse().map_err(|_| Refusal::BadTarget(text.to_owned()))?;
        let way = way.filter(|way| way.target == target).ok_or(Refusal::NoWay(target))?;
        let link = self.snapshot.link(way.link).ok_or(Refusal::NoWay(target))?;
        let link = refuse(link, never_by_itself(link).or_else(|| loopback(link)))?;
        Ok(way.source.map_or_else(|| Found::on(link), |source| Found::at(link, source)))
    }

    fn by_default_route(&self) -> Result<Found<'a>, Refusal> {
        let v4 = self.families.v4.then(|| self.default_link(false)).transpose()?;
        let v6 = self.families.v6.then(|| self.default_link(true)).transpose()?;
        if let (Some(v4), Some(v6)) = (v4, v6) {
            same(v4, v6)?;
        }
        v4.or(v6).map(Found::on).ok_or(Refusal::NoDefaultRoute { family: "IPv4" })
    }

    /// The device of the first default route that leads to other hosts.
    fn default_link(&self, v6: bool) -> Result<&'a Link, Refusal> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let of_family = |route: &&Route| route.is_default() && is_v6(route) == v6;
        let mut unsuitable = None;
        for route in self.snapshot.routes.iter().filter(of_family) {
            let [hop] = route.hops.as_slice() else {
                return Err(Refusal::MultipathDefault { family });
            };
            let Some(link) = self.snapshot.link(hop.link) else { continue };
            match refuse(link, never_by_itself(link).or_else(|| loopback(link))) {
                Ok(link) => return Ok(link),
                Err(refusal) => unsuitable = unsuitable.or(Some(refusal)),
            }
        }
        Err(unsuitable.unwrap_or(Refusal::NoDefaultRoute { family }))
    }

    /// Why the device is not taken just because something matches it.
    fn unsuitable(&self, link: &Link) -> Option<&'static str> {
        never_by_itself(link).or_else(|| loopback(link)).or_else(|| self.container_device(link))
    }

    /// A bridge or veth that carries a default route is this host's uplink and not of containers.
    fn container_device(&self, link: &Link) -> Option<&'static str> {
        let why = match link.kind {
            LinkKind::Bridge => "a bridge without default route, so probably of containers",
            LinkKind::Veth => "a veth without default route, so probably of a container",
            LinkKind::Loopback | LinkKind::Other => return None,
        };
        let mut defaults = self.snapshot.routes.iter().filter(|route| route.is_default());
        let is_uplink = defaults.any(|route| route.hops.iter().any(|hop| hop.link == link.index));
        (!is_uplink).then_some(why)
    }

    /// The usable addresses of a device, the best first.
    fn usable(&self, link: &Link) -> impl Iterator<Item = IpAddr> + use<'a> {
        let index = link.index;
        let mut usable: Vec<&Address> = self
            .snapshot
            .addresses
            .iter()
            .filter(|address| address.link == index && is_usable(address))
            .collect();
        // Stable, so that the kernel's order decides between equals.
        usable.sort_by_key(|address| {
            (is_link_local(address.local), !address.permanent, address.temporary)
        });
        usable.into_iter().map(|address| address.local)
    }

    /// Fills in what is not fixed yet.
    fn complete(&self, found: &Found<'a>) -> Result<Interface, Refusal> {
        let link = found.link;
        if link.mtu == 0 {
            return Err(Refusal::NoMtu { name: link.name.clone() });
        }
        let missing = |family| Refusal::NoAddress { name: link.name.clone(), family };
        let v4 = || found.v4.or_else(|| self.usable(link).find_map(only_v4));
        let v6 = || found.v6.or_else(|| self.usable(link).find_map(only_v6));
        let v4 = self.families.v4.then(|| v4().ok_or_else(|| missing("IPv4"))).transpose()?;
        let v6 = self.families.v6.then(|| v6().ok_or_else(|| missing("IPv6"))).transpose()?;
        Ok(Interface {
            name: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            address_v4: v4,
            address_v6: v6,
            public_v4: v4.map(|address| self.options.public_ip.unwrap_or(address)),
            // A link-local address means nothing to other hosts, and every peer would refuse a
            // lease that names one. Beside IPv4 it is not needed: datagrams go over IPv4 then.
            public_v6: self
                .options
                .public_ipv6
                .filter(|_| v6.is_some())
                .or(v6.filter(|address| v4.is_none() || !address.is_unicast_link_local())),
            addresses: self.host_addresses(),
        })
    }

    fn host_addresses(&self) -> Vec<IpAddr> {
        let service = self.snapshot.link_named(SERVICE_DEVICE).map(|link| link.index);
        let of_host = |address: &&Address| Some(address.link) != service;
        let mut addresses: Vec<IpAddr> =
            self.snapshot.addresses.iter().filter(of_host).map(|address| address.local).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

fn never_by_itself(link: &Link) -> Option<&'static str> {
    if link.name == SERVICE_DEVICE {
        return Some("the device that holds the addresses of Kubernetes services");
    }
    let is_overlay = link.name.starts_with(OVERLAY_PREFIX);
    is_overlay.then_some("a device of an overlay network, which needs another interface below it")
}

fn loopback(link: &Link) -> Option<&'static str> {
    (link.kind == LinkKind::Loopback).then_some("the loopback device")
}

fn refuse<'a>(link: &'a Link, why: Option<&'static str>) -> Result<&'a Link, Refusal> {
    match why {
        None => Ok(link),
        Some(why) => Err(Refusal::Unsuitable { name: link.name.clone(), why }),
    }
}

fn same(v4: &Link, v6: &Link) -> Result<(), Refusal> {
    if v4.index == v6.index {
        return Ok(());
    }
    Err(Refusal::TwoInterfaces { v4: v4.name.clone(), v6: v6.name.clone() })
}

fn is_v6(route: &Route) -> bool {
    route.destination.addr().is_ipv6()
}

fn only_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn only_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// A unicast address, global or of the link, that may be used for something new.
fn is_usable(address: &Address) -> bool {
    let is_unicast = match address.local {
        IpAddr::V4(one) => {
            !one.is_unspecified()
                && !one.is_loopback()
                && !one.is_multicast()
                && !one.is_broadcast()
        }
        IpAddr::V6(one) => !one.is_unspecified() && !one.is_loopback() && !one.is_multicast(),
    };
    is_unicast && !address.deprecated
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
