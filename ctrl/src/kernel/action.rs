//! One step of a plan.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::MacAddress;
use super::actual::StaleRoute;
use super::object::{Fdb, Neighbour, Route, Rule, Vxlan};
use crate::device::Setting;
use crate::interface::snapshot::Address;

/// One step. It prints as the `ip` or `bridge` command that would do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a VXLAN device.
    AddLink(Vxlan),
    /// Remove a device and everything on it.
    DeleteLink(String),
    /// Mark a device as ours.
    SetAlias(String, String),
    /// Change the MTU of a device.
    SetMtu(String, u32),
    /// Change the hardware address of a device, which empties its neighbour table.
    SetMac(String, MacAddress),
    /// Let a VXLAN device learn, or not.
    SetLearning(String, bool),
    /// Write the wanted value of a setting of a device.
    Set(String, Setting),
    /// Give a device an address with the longest prefix.
    AddAddress(String, IpAddr),
    /// Take an address from a device.
    DeleteAddress(String, Address),
    /// Set a device up.
    SetUp(String),
    /// Make a neighbour, or give it another hardware address.
    SetNeighbour(Neighbour),
    /// Remove a neighbour.
    DeleteNeighbour(Neighbour),
    /// Make a forwarding entry, or give it another destination.
    SetFdb(Fdb),
    /// Remove a forwarding entry.
    DeleteFdb(Fdb),
    /// Make a route where there is none.
    AddRoute(Route),
    /// Put a route into the place of another one.
    ReplaceRoute(Route),
    /// Remove a route.
    DeleteRoute(StaleRoute),
    /// Make a rule.
    AddRule(Rule),
    /// Remove a rule.
    DeleteRule(Rule),
}

/// What an object is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A device, by name.
    Device(String),
    /// An address of a device.
    Address(String, IpAddr),
    /// A neighbour on a device.
    Neighbour(String, IpAddr),
    /// A forwarding entry of a device.
    Fdb(String, MacAddress),
    /// A route, by destination and table.
    Route(IpNet, u32),
    /// A rule, by priority and source.
    Rule(u32, IpNet),
}

impl Action {
    /// The object that it is about.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::AddLink(vxlan) => Key::Device(vxlan.name.clone()),
            Self::DeleteLink(name)
            | Self::SetAlias(name, _)
            | Self::SetMtu(name, _)
            | Self::SetMac(name, _)
            | Self::SetLearning(name, _)
            | Self::Set(name, _)
            | Self::SetUp(name) => Key::Device(name.clone()),
            Self::AddAddress(name, address) => Key::Address(name.clone(), *address),
            Self::DeleteAddress(name, address) => Key::Address(name.clone(), address.local),
            Self::SetNeighbour(one) | Self::DeleteNeighbour(one) => {
                Key::Neighbour(one.device.clone(), one.address)
            }
            Self::SetFdb(one) | Self::DeleteFdb(one) => Key::Fdb(one.device.clone(), one.mac),
            Self::AddRoute(one) | Self::ReplaceRoute(one) => Key::Route(one.destination, one.table),
            Self::DeleteRoute(one) => Key::Route(one.destination, one.table),
            Self::AddRule(rule) | Self::DeleteRule(rule) => Key::Rule(rule.priority, rule.source),
        }
    }

    /// Whether it changes a device itself, which the kernel may answer with changes elsewhere.
    pub(super) fn is_about_device(&self) -> bool {
        matches!(self.key(), Key::Device(_) | Key::Address(..))
    }

    /// Whether it only takes away.
    pub(super) fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::DeleteLink(_)
                | Self::DeleteAddress(..)
                | Self::DeleteNeighbour(_)
                | Self::DeleteFdb(_)
                | Self::DeleteRoute(_)
                | Self::DeleteRule(_)
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink(vxlan) => write!(formatter, "link add {vxlan}"),
            Self::DeleteLink(name) => write!(formatter, "link delete {name}"),
            Self::SetAlias(name, alias) => write!(formatter, "link set {name} alias {alias}"),
            Self::SetMtu(name, mtu) => write!(formatter, "link set {name} mtu {mtu}"),
            Self::SetMac(name, mac) => write!(formatter, "link set {name} address {mac}"),
            Self::SetLearning(name, learning) => {
                let word = if *learning { "learning" } else { "nolearning" };
                write!(formatter, "link set {name} type vxlan {word}")
            }
            Self::Set(name, setting) => {
                write!(formatter, "sysctl {name}.{setting}={}", setting.wanted())
            }
            Self::AddAddress(name, address) => {
                write!(formatter, "address add {} dev {name}", IpNet::from(*address))
            }
            Self::DeleteAddress(name, Address { local, prefix_length, .. }) => {
                write!(formatter, "address delete {local}/{prefix_length} dev {name}")
            }
            Self::SetUp(name) => write!(formatter, "link set {name} up"),
            Self::SetNeighbour(one) => write!(formatter, "neigh replace {one}"),
            Self::DeleteNeighbour(one) => write!(formatter, "neigh delete {one}"),
            Self::SetFdb(one) => write!(formatter, "fdb replace {one}"),
            Self::DeleteFdb(one) => write!(formatter, "fdb delete {one}"),
            Self::AddRoute(one) => write!(formatter, "route add {one}"),
            Self::ReplaceRoute(one) => write!(formatter, "route replace {one}"),
            Self::DeleteRoute(one) => write!(formatter, "route delete {one}"),
            Self::AddRule(rule) => write!(formatter, "rule add {rule}"),
            Self::DeleteRule(rule) => write!(formatter, "rule delete {rule}"),
        }
    }
}
