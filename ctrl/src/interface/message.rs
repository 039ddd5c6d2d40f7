//! Parts of messages to the kernel that every executor needs.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::route::RouteAddress;

use super::snapshot::Address;

/// The address with the longest prefix, for the device of this index. Nobody else on a device of ours
/// can own our address, and probing would keep it unusable for a second.
pub(crate) fn new_address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = address_message(index, address, IpNet::from(address).prefix_len(), address);
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// An address as it was found, to be removed.
pub(crate) fn old_address(address: &Address) -> AddressMessage {
    let prefix = address.peer.unwrap_or(address.local);
    address_message(address.link, address.local, address.prefix_length, prefix)
}

fn address_message(index: u32, local: IpAddr, length: u8, prefix: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(local);
    message.header.index = index;
    message.header.prefix_len = length;
    message.attributes = vec![AddressAttribute::Address(prefix), AddressAttribute::Local(local)];
    message
}

/// As messages name it.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// As messages about routes have it.
pub(crate) fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
