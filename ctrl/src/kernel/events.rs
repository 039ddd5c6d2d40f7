//! Which of the kernel's announcements say something that is not known. What we do ourselves is
//! announced as well, and is known by then.

use std::collections::HashSet;

use ipnet::IpNet;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

use super::actual::{Actual, Device};
use super::object::{Fdb, State};
use super::{parse, read};
use crate::device::{ROUTE_PROTOCOL, Setting};
use crate::interface::reader;

/// What has to be listened to.
pub(super) const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// What an announcement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    /// Nothing new.
    No,
    /// Something is not as it was.
    Changed,
    /// What failed before may work now, too.
    Hope,
}

/// Compares announcements with what is known.
pub(super) struct Listener<'a> {
    desired: &'a State,
    names: HashSet<&'a str>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(desired: &'a State) -> Self {
        Self { desired, names: read::wanted_devices(desired) }
    }

    /// What cannot be read, and an overflow, may mean anything.
    pub(super) fn news(
        &self,
        message: &NetlinkMessage<RouteNetlinkMessage>,
        actual: &Actual,
    ) -> News {
        use RouteNetlinkMessage as Message;
        let NetlinkPayload::InnerMessage(message) = &message.payload else { return News::Changed };
        let changed = match message {
            Message::NewLink(link) => return self.new_link(link, actual),
            Message::DelLink(link) => {
                is_whole(link) && actual.devices.values().any(|one| one.index == link.header.index)
            }
            Message::NewAddress(message) => return self.address(message, actual, true),
            Message::DelAddress(message) => return self.address(message, actual, false),
            Message::NewRoute(message) => self.route(message, actual, true),
            Message::DelRoute(message) => self.route(message, actual, false),
            Message::NewNeighbour(message) => self.neighbour(message, actual, true),
            Message::DelNeighbour(message) => self.neighbour(message, actual, false),
            Message::NewRule(message) => parse::rule(message).is_some_and(|(rule, is_ours)| {
                self.is_inside(rule.source) && actual.rules.get(&rule) != Some(&is_ours)
            }),
            Message::DelRule(message) => parse::rule(message).is_some_and(|(rule, _)| {
                self.is_inside(rule.source) && actual.rules.contains_key(&rule)
            }),
            _ => false,
        };
        if changed { News::Changed } else { News::No }
    }

    fn is_inside(&self, prefix: IpNet) -> bool {
        self.desired.is_inside(prefix)
    }

    /// A link that goes down takes its IPv4 routes along without announcing them.
    fn new_link(&self, message: &LinkMessage, actual: &Actual) -> News {
        let (name, device) = parse::link(message);
        let known = actual.devices.get(&name);
        let matters = known.is_some() || device.vxlan.is_some() || self.names.contains(&*name);
        let bare = known.map(|known| Device {
            addresses: Vec::new(),
            settings: [None; Setting::ALL.len()],
            ..known.clone()
        });
        if is_whole(message) && matters && bare.as_ref() != Some(&device) {
            News::Hope
        } else {
            News::No
        }
    }

    fn address(&self, message: &AddressMessage, actual: &Actual, is_new: bool) -> News {
        let mut devices = actual.devices.values();
        let Some(device) = devices.find(|device| device.index == message.header.index) else {
            return News::No;
        };
        let Some(address) = reader::address(message.clone()) else { return News::No };
        match device.vxlan {
            Some(_) if device.addresses.contains(&address) == is_new => News::No,
            _ => News::Hope,
        }
    }

    fn route(&self, message: &RouteMessage, actual: &Actual, is_new: bool) -> bool {
        let name = |index| {
            let mut devices = actual.devices.iter();
            devices.find(|(_, device)| device.index == index).map(|(name, _)| name.clone())
        };
        let Some((place, found)) = parse::route(message, name) else { return false };
        let matters = self.is_inside(place.0) || found.protocol == ROUTE_PROTOCOL;
        let is_known = actual.routes.get(&place).is_some_and(|routes| routes.contains(&found));
        matters && is_known != is_new
    }

    fn neighbour(&self, message: &NeighbourMessage, actual: &Actual, is_new: bool) -> bool {
        let mut vxlans = self.desired.vxlans.iter();
        let index = message.header.ifindex;
        let Some(name) = vxlans
            .find(|vxlan| actual.index(&vxlan.name) == Some(index))
            .map(|vxlan| vxlan.name.clone())
        else {
            return false;
        };
        if message.header.family == AddressFamily::Bridge {
            let Some((_, mac, destination)) = parse::fdb_key(message) else { return false };
            let is_known = actual.fdb.contains(&Fdb { device: name, mac, destination });
            let is_there = is_new && parse::fdb(message).is_some();
            return is_known != is_there;
        }
        let Some((_, address)) = parse::neighbour_key(message) else { return false };
        let known = actual.neighbours.get(&(name, address));
        let there = parse::neighbour(message).map(|(_, _, mac)| mac).filter(|_| is_new);
        known.copied() != there
    }
}

/// Announcements about a port of a bridge say little about the device.
fn is_whole(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}
