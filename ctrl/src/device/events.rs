//! Which of the kernel's announcements concern the device.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

use super::DesiredDevice;
use crate::interface::reader::{address, route};
use crate::interface::snapshot::Address;

/// What has to be listened to.
pub(super) const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Whether the device may now look different. What cannot be read, and an overflow, may mean
/// anything. A link that goes down takes its IPv4 routes along without announcing them.
pub(super) fn concerns(
    message: &NetlinkMessage<RouteNetlinkMessage>,
    desired: &DesiredDevice,
    index: u32,
) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return true };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link.header.index == index || has_name(link, &desired.name)
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            let is_underlay = |one: Address| desired.underlay.contains(&one.local);
            message.header.index == index || address(message.clone()).is_some_and(is_underlay)
        }
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            is_inside(message, desired)
        }
        _ => false,
    }
}

fn has_name(link: &LinkMessage, name: &str) -> bool {
    link.attributes.iter().any(|one| matches!(one, LinkAttribute::IfName(other) if other == name))
}

fn is_inside(message: &RouteMessage, desired: &DesiredDevice) -> bool {
    let contains = |destination| desired.networks().any(|network| network.contains(&destination));
    route(message).is_some_and(|route| contains(route.destination))
}
