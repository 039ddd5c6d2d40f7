//! Where the kernel would send a packet. Nothing is sent.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};

use super::parse;
use crate::interface::message::route_address;
use crate::interface::reader::{
    Netlink, ReadError, gateway, parsed, plain, question_about, whole_family,
};

/// A packet, as far as routing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where to.
    pub destination: IpAddr,
    /// Where from; `None` asks for the route that a program of this host would get.
    pub source: Option<IpAddr>,
    /// Index of the device that it comes in by; `None` if this host sends it itself.
    pub incoming: Option<u32>,
}

/// What the kernel would do.
#[derive(Debug)]
pub enum Answer {
    /// It has a route.
    Routed(Routed),
    /// It would drop the packet.
    Refused(io::Error),
}

/// The route that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// What the route is for.
    pub prefix: IpNet,
    /// The destination is this host itself.
    pub is_local: bool,
    /// Index of the device.
    pub link: u32,
    /// Name of the device.
    pub device: String,
    /// Bytes of the largest packet that the device takes.
    pub mtu: u32,
    /// The next host, if there is one.
    pub gateway: Option<IpAddr>,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

/// Asks the kernel (`RTM_GETROUTE` with `RTM_F_FIB_MATCH`).
///
/// # Errors
/// The socket fails.
pub async fn look_up(netlink: &Netlink, packet: Packet) -> Result<Answer, ReadError> {
    let mut question = question_about(packet.destination);
    question.header.flags = RouteFlags::FibMatch;
    if let Some(source) = packet.source {
        question.header.source_prefix_length = IpNet::from(source).prefix_len();
        question.attributes.push(RouteAttribute::Source(route_address(source)));
    }
    question.attributes.extend(packet.incoming.map(RouteAttribute::Iif));
    let answers = netlink.handle().route().get(question).execute();
    let mut routed = match parsed(answers, |message| routed(&message)).await {
        Ok(found) => match found.into_iter().next() {
            Some(routed) => routed,
            None => return Ok(Answer::Refused(io::Error::other("no route of a known form"))),
        },
        Err(ReadError::Kernel(rtnetlink::Error::NetlinkError(error))) => {
            return Ok(Answer::Refused(error.to_io()));
        }
        Err(error) => return Err(error),
    };
    let link = netlink.handle().link().get().match_index(routed.link).execute();
    for (name, device) in parsed(link, |message| Some(parse::link(&message))).await? {
        (routed.device, routed.mtu) = (name, device.mtu);
    }
    Ok(Answer::Routed(routed))
}

/// The first of several ways, where a route has several.
fn routed(message: &RouteMessage) -> Option<Routed> {
    let header = &message.header;
    let mut routed = Routed {
        prefix: whole_family(header.address_family)?,
        is_local: header.kind == RouteType::Local,
        gateway: gateway(&message.attributes),
        protocol: header.protocol.into(),
        ..Routed::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let length = header.destination_prefix_length;
                routed.prefix = IpNet::new(plain(address)?, length).ok()?;
            }
            RouteAttribute::Oif(link) => routed.link = *link,
            RouteAttribute::MultiPath(hops) => {
                let first = hops.first()?;
                routed.link = first.interface_index;
                routed.gateway = gateway(&first.attributes);
            }
            _ => {}
        }
    }
    (routed.link != 0).then_some(routed)
}
