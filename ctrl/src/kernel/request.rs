//! The question to the kernel that does a step.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};

use super::MacAddress;
use super::action::Action;
use super::actual::{Actual, StaleRoute};
use super::object::{Fdb, Neighbour, Route, RouteKind, Rule, Vxlan};
use crate::device::ROUTE_PROTOCOL;
use crate::interface::message::{family, new_address, old_address, route_address};

pub(super) type Request = NetlinkMessage<RouteNetlinkMessage>;

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
const CHANGE: u16 = 0;

/// The table that stands in the header if the number has no room there (`RT_TABLE_UNSPEC`).
const TABLE_ELSEWHERE: u8 = 0;

/// `None` if the step needs a device that there is not, or no question to the kernel at all.
pub(super) fn request(action: &Action, actual: &Actual) -> Option<Request> {
    use RouteNetlinkMessage as Message;
    let index = |device: &str| actual.index(device);
    let (message, flags) = match action {
        Action::Set(..) => return None,
        Action::AddLink(vxlan) => (Message::NewLink(new_link(vxlan)), ADD),
        Action::DeleteLink(name) => (Message::DelLink(link(index(name)?)), CHANGE),
        Action::SetAlias(name, alias) => {
            let alias = LinkAttribute::IfAlias(alias.clone());
            (Message::SetLink(changed_link(index(name)?, alias)), CHANGE)
        }
        Action::SetMtu(name, mtu) => {
            (Message::SetLink(changed_link(index(name)?, LinkAttribute::Mtu(*mtu))), CHANGE)
        }
        Action::SetMac(name, MacAddress(bytes)) => {
            let address = LinkAttribute::Address(bytes.to_vec());
            (Message::SetLink(changed_link(index(name)?, address)), CHANGE)
        }
        Action::SetLearning(name, on) => {
            let data = vxlan_info(vec![InfoVxlan::Learning(*on)]);
            (Message::NewLink(changed_link(index(name)?, data)), CHANGE)
        }
        Action::SetUp(name) => (Message::SetLink(up(index(name)?)), CHANGE),
        Action::AddAddress(name, address) => {
            (Message::NewAddress(new_address(index(name)?, *address)), REPLACE)
        }
        Action::DeleteAddress(_, address) => (Message::DelAddress(old_address(address)), CHANGE),
        Action::SetNeighbour(one) => {
            (Message::NewNeighbour(neighbour(one, index(&one.device)?)), REPLACE)
        }
        Action::DeleteNeighbour(one) => {
            (Message::DelNeighbour(neighbour(one, index(&one.device)?)), CHANGE)
        }
        Action::SetFdb(one) => (Message::NewNeighbour(fdb(one, index(&one.device)?)), REPLACE),
        Action::DeleteFdb(one) => (Message::DelNeighbour(fdb(one, index(&one.device)?)), CHANGE),
        Action::AddRoute(one) => (Message::NewRoute(route(one, actual)?), ADD),
        Action::ReplaceRoute(one) => (Message::NewRoute(route(one, actual)?), REPLACE),
        Action::DeleteRoute(stale) => (Message::DelRoute(stale_route(stale)), CHANGE),
        Action::AddRule(one) => (Message::NewRule(rule(one)), ADD),
        Action::DeleteRule(one) => (Message::DelRule(rule(one)), CHANGE),
    };
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    Some(request)
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn changed_link(index: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = link(index);
    message.attributes.push(attribute);
    message
}

fn up(index: u32) -> LinkMessage {
    let mut message = link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn vxlan_info(data: Vec<InfoVxlan>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(data)),
    ])
}

/// With the hardware address from the start, so that nobody who watches for new devices gives it
/// another one.
fn new_link(vxlan: &Vxlan) -> LinkMessage {
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Link(vxlan.underlay.index),
        match vxlan.local {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        },
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
    ];
    if vxlan.miss {
        let misses = [InfoVxlan::Proxy(true), InfoVxlan::L2Miss(true), InfoVxlan::L3Miss(true)];
        data.extend(misses);
    }
    if vxlan.gbp {
        data.push(InfoVxlan::Gbp);
    }
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(vxlan.name.clone()),
        LinkAttribute::Address(vxlan.mac.0.to_vec()),
        LinkAttribute::Mtu(vxlan.mtu),
        LinkAttribute::TxQueueLen(0),
        vxlan_info(data),
    ];
    message
}

fn neighbour(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.address)),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
    ];
    message
}

fn fdb(entry: &Fdb, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    // The device's own table, not that of a bridge that it is a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(NeighbourAddress::from(entry.destination)),
    ];
    message
}

fn route(route: &Route, actual: &Actual) -> Option<RouteMessage> {
    let mut message = to(route.destination, route.table);
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    match &route.kind {
        RouteKind::Blackhole => message.header.kind = RouteType::BlackHole,
        RouteKind::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteKind::Unicast { gateway, device, onlink, source, mtu } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(actual.index(device)?));
            let gateway = gateway.map(|gateway| RouteAttribute::Gateway(route_address(gateway)));
            message.attributes.extend(gateway);
            let source = source.map(|source| RouteAttribute::PrefSource(route_address(source)));
            message.attributes.extend(source);
            let mtu = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            message.attributes.extend(mtu);
            if *onlink {
                message.header.flags = RouteFlags::Onlink;
            }
        }
    }
    message.attributes.extend(route.metric.map(RouteAttribute::Priority));
    Some(message)
}

fn to(destination: IpNet, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = u8::try_from(table).unwrap_or(TABLE_ELSEWHERE);
    let destination = route_address(destination.network());
    message.attributes.push(RouteAttribute::Destination(destination));
    message.attributes.push(RouteAttribute::Table(table));
    message
}

/// Names everything by which the kernel tells this route from others (`fib_table_delete` and
/// `ip6_route_del`).
fn stale_route(stale: &StaleRoute) -> RouteMessage {
    let mut message = to(stale.destination, stale.table);
    message.header.protocol = RouteProtocol::from(stale.found.protocol);
    message.header.scope = RouteScope::NoWhere;
    message.header.tos = stale.found.tos;
    // Whichever it is.
    message.header.kind = RouteType::Unspec;
    message.attributes.push(RouteAttribute::Priority(stale.found.metric));
    message.attributes.extend(stale.found.link.map(RouteAttribute::Oif));
    let gateway = stale.found.gateway();
    // One of the other family is told in another way, and the rest says enough.
    let gateway = gateway.filter(|gateway| gateway.is_ipv4() == stale.destination.addr().is_ipv4());
    message
        .attributes
        .extend(gateway.map(|gateway| RouteAttribute::Gateway(route_address(gateway))));
    message
}

fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.source.addr());
    message.header.src_len = rule.source.prefix_len();
    message.header.table = u8::try_from(rule.table).unwrap_or(TABLE_ELSEWHERE);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Source(rule.source.network()),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
    ];
    let range = rule
        .source_port
        .map(|port| RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }));
    message.attributes.extend(range);
    message
}
