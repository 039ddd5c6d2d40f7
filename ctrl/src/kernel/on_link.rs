//! Whether a host can be reached without a router.

use std::net::IpAddr;

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteFlags, RouteMessage};

use super::object::RouteKind;
use super::parse;
use crate::interface::reader::{Netlink, ReadError, parsed, question_about};

/// Whether a route via `address` makes sense: the host is on the same layer 2 as we are.
///
/// The kernel is asked for the route that it would take. The address is on the link if that route
/// has no gateway, is more specific than the default route, and leads into a device on which hosts
/// find each other by ARP or neighbour discovery. Not on the link is therefore
/// - who is reached over a point-to-point or tunnel device, which has no gateways either, but whose
///   other end drops what is not addressed to it;
/// - who is reached by a default route without a gateway, where a router answers ARP for everybody;
/// - an address of this host, and one that no route leads to.
///
/// A router that answers ARP for a whole connected prefix cannot be told from the hosts.
///
/// # Errors
/// The socket fails.
pub async fn is_on_link(netlink: &Netlink, address: IpAddr) -> Result<bool, ReadError> {
    Ok(on_link_device(netlink, address).await?.is_some())
}

/// The same with the name of the device that leads there.
///
/// # Errors
/// The socket fails.
pub async fn on_link_device(
    netlink: &Netlink,
    address: IpAddr,
) -> Result<Option<String>, ReadError> {
    let Some(link) = link_to(netlink, address).await? else { return Ok(None) };
    let question = netlink.handle().link().get().match_index(link).execute();
    let name = |message: LinkMessage| {
        has_neighbours(message.header.flags).then(|| parse::link(&message).0)
    };
    Ok(parsed(question, name).await?.into_iter().next())
}

/// The device of the route without a gateway to `address`.
async fn link_to(netlink: &Netlink, address: IpAddr) -> Result<Option<u32>, ReadError> {
    let mut question: RouteMessage = question_about(address);
    // The route as it stands in the table, not what follows from it.
    question.header.flags = RouteFlags::FibMatch;
    let route = |message: RouteMessage| parse::route(&message, |_| Some(String::new()));
    let answers = parsed(netlink.handle().route().get(question).execute(), route).await;
    let found = match answers {
        Ok(found) => found,
        Err(ReadError::Kernel(rtnetlink::Error::NetlinkError(_))) => return Ok(None),
        Err(error) => return Err(error),
    };
    let direct = found.into_iter().find(|((destination, _), found)| {
        destination.prefix_len() > 0
            && matches!(found.kind, Some(RouteKind::Unicast { gateway: None, .. }))
    });
    Ok(direct.and_then(|(_, found)| found.link))
}

fn has_neighbours(flags: LinkFlags) -> bool {
    let without = LinkFlags::Pointopoint | LinkFlags::Noarp | LinkFlags::Loopback;
    flags.contains(LinkFlags::Broadcast) && !flags.intersects(without)
}
