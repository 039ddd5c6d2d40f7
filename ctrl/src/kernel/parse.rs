//! From the kernel's messages to what they say. The same for an answer and for an announcement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, IpProtocol};

use super::MacAddress;
use super::actual::{Device, FoundRoute, VxlanParameters};
use super::misses::Miss;
use super::object::{RouteKind, Rule};
use crate::device::{ROUTE_PROTOCOL, Setting};
use crate::interface::reader::{gateway, plain, whole_family};

/// Ticks a second in what the kernel tells programs (asm-generic/param.h).
const USER_HZ: u32 = 100;

/// `RT_TABLE_LOCAL`: this host's own addresses.
const LOCAL_TABLE: u32 = 255;

/// A device's name and what can be said about it without further questions.
pub(super) fn link(message: &LinkMessage) -> (String, Device) {
    let mut name = String::new();
    let mut device = Device {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        mac: None,
        alias: None,
        controller: None,
        vxlan: None,
        addresses: Vec::new(),
        settings: [None; Setting::ALL.len()],
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Address(bytes) => device.mac = mac(bytes),
            LinkAttribute::IfAlias(text) => device.alias = Some(text.clone()),
            LinkAttribute::Controller(index) => device.controller = Some(*index),
            LinkAttribute::LinkInfo(details) => device.vxlan = vxlan(details),
            _ => {}
        }
    }
    (name, device)
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    bytes.try_into().ok().map(MacAddress)
}

fn vxlan(details: &[LinkInfo]) -> Option<VxlanParameters> {
    if !details.contains(&LinkInfo::Kind(InfoKind::Vxlan)) {
        return None;
    }
    let mut vxlan = VxlanParameters::default();
    let data = details.iter().find_map(|detail| match detail {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    for detail in data.into_iter().flatten() {
        match detail {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Link(index) => vxlan.underlay = Some(*index).filter(|index| *index != 0),
            InfoVxlan::Local(address) => vxlan.local = specified(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => vxlan.local = specified(IpAddr::V6(*address)),
            InfoVxlan::Group(address) => vxlan.group = specified(IpAddr::V4(*address)),
            InfoVxlan::Group6(address) => vxlan.group = specified(IpAddr::V6(*address)),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Gbp => vxlan.gbp = true,
            InfoVxlan::Proxy(on) => vxlan.proxy = *on,
            InfoVxlan::L2Miss(on) => vxlan.l2miss = *on,
            InfoVxlan::L3Miss(on) => vxlan.l3miss = *on,
            _ => {}
        }
    }
    Some(vxlan)
}

fn specified(address: IpAddr) -> Option<IpAddr> {
    Some(address).filter(|address| !address.is_unspecified())
}

/// Destination, table and the rest; `None` for this host's own addresses, for what is only cached
/// and for what is not IP. `name` gives a device's name by its index.
pub(super) fn route(
    message: &RouteMessage,
    name: impl Fn(u32) -> Option<String>,
) -> Option<((IpNet, u32), FoundRoute)> {
    let header = &message.header;
    let mut destination = whole_family(header.address_family)?;
    let mut table = u32::from(header.table);
    let (mut link, mut metric, mut source, mut mtu, mut is_plain) = (None, 0, None, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(full) => table = *full,
            RouteAttribute::Destination(address) => {
                let length = header.destination_prefix_length;
                destination = IpNet::new(plain(address)?, length).ok()?;
            }
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::PrefSource(address) => source = plain(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(mtu_of),
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) => is_plain = false,
            _ => {}
        }
    }
    let kind = match header.kind {
        RouteType::Unicast => link.and_then(&name).map(|device| RouteKind::Unicast {
            gateway: gateway(&message.attributes),
            device,
            onlink: header.flags.contains(RouteFlags::Onlink),
            source,
            mtu,
        }),
        RouteType::BlackHole => Some(RouteKind::Blackhole),
        RouteType::Unreachable => Some(RouteKind::Unreachable),
        _ => None,
    };
    let kind = kind.filter(|_| is_plain);
    // IPv6 shows the loopback device on routes that drop.
    let link = link.filter(|_| matches!(kind, Some(RouteKind::Unicast { .. })));
    let protocol = header.protocol.into();
    let found = FoundRoute { kind, link, metric, tos: header.tos, protocol };
    let is_wanted = table != LOCAL_TABLE && !header.flags.contains(RouteFlags::Cloned);
    is_wanted.then_some(((destination, table), found))
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

/// A rule of the form that ours have, and whether it carries our protocol.
pub(super) fn rule(message: &RuleMessage) -> Option<(Rule, bool)> {
    let header = &message.header;
    let mut rule = Rule {
        priority: 0,
        source: whole_family(header.family)?,
        source_port: None,
        table: u32::from(header.table),
    };
    let (mut is_udp, mut is_ours) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => {
                rule.source = IpNet::new(*address, header.src_len).ok()?;
            }
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::IpProtocol(protocol) => is_udp = *protocol == IpProtocol::Udp,
            RuleAttribute::Protocol(protocol) => {
                is_ours = *protocol == RouteProtocol::from(ROUTE_PROTOCOL);
            }
            RuleAttribute::SourcePortRange(range) if range.start == range.end => {
                rule.source_port = Some(range.start);
            }
            RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::Destination(_)
            | RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::L3MDev(_) => return None,
            _ => {}
        }
    }
    let has_form = is_udp && header.action == RuleAction::ToTable && header.flags.is_empty();
    has_form.then_some((rule, is_ours))
}

/// Device, address and hardware address of a permanent neighbour.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, MacAddress)> {
    let (link, address) = neighbour_key(message)?;
    let is_permanent = message.header.state == NeighbourState::Permanent;
    is_permanent.then_some((link, address, lladdr(message)?))
}

/// Device and address of any neighbour.
pub(super) fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let is_ip = matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6);
    is_ip.then_some((message.header.ifindex, destination(message)?))
}

/// What the kernel asks programs for, and the device that it needs it for. An address comes from the
/// device's ARP proxy (`vxlan_ip_miss` of drivers/net/vxlan) or from the neighbour table itself
/// (`neigh_app_ns` of net/core/neighbour.c). The family says nothing: where a hardware address is asked
/// about it is any (`vxlan_fdb_miss`).
pub(super) fn miss(message: &NeighbourMessage) -> Option<(u32, Miss)> {
    let address = destination(message).filter(|address| !address.is_unspecified());
    let miss = address.map(Miss::Address).or_else(|| lladdr(message).map(Miss::Mac))?;
    Some((message.header.ifindex, miss))
}

/// How long ago a frame was last sent by this forwarding entry.
pub(super) fn unused_for(message: &NeighbourMessage) -> Option<Duration> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::CacheInfo(times) => {
            Some(Duration::from_secs(u64::from(times.used)) / USER_HZ)
        }
        _ => None,
    })
}

/// How long a forwarding entry of the VXLAN device may be unused.
pub(super) fn ageing(message: &LinkMessage) -> Option<Duration> {
    let details = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(details) => Some(details),
        _ => None,
    })?;
    details.iter().find_map(|detail| match detail {
        LinkInfo::Data(InfoData::Vxlan(data)) => data.iter().find_map(|one| match one {
            InfoVxlan::Ageing(seconds) => Some(Duration::from_secs((*seconds).into())),
            _ => None,
        }),
        _ => None,
    })
}

/// Device, hardware address and destination of a forwarding entry that stays.
pub(super) fn fdb(message: &NeighbourMessage) -> Option<(u32, MacAddress, IpAddr)> {
    fdb_key(message).filter(|_| does_not_age(message))
}

/// Device, hardware address and destination of any forwarding entry.
pub(super) fn fdb_key(message: &NeighbourMessage) -> Option<(u32, MacAddress, IpAddr)> {
    let is_bridge = message.header.family == AddressFamily::Bridge;
    is_bridge.then_some((message.header.ifindex, lladdr(message)?, destination(message)?))
}

/// `vxlan_cleanup` of drivers/net/vxlan spares these; the tool `bridge` sets both.
fn does_not_age(message: &NeighbourMessage) -> bool {
    let forever = u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp);
    u16::from(message.header.state) & forever != 0
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(address) => ip(address),
        _ => None,
    })
}

fn lladdr(message: &NeighbourMessage) -> Option<MacAddress> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    })
}

/// Forwarding entries do not tell the family of the address.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(Ipv4Addr::from).map(IpAddr::V4);
            let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(Ipv6Addr::from).map(IpAddr::V6);
            v4.or(v6).ok()
        }
        _ => None,
    }
}
