//! What follows from the interface: where to bind, what others are told, and what fits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tracing::warn;

use super::StartError;
use crate::config::NetworkConfig;
use crate::identity::Identity;
use crate::interface::Interface;
use crate::lease::{Attributes, Weft};

/// An IPv4 (IPv6) and a UDP header around every inner packet, in bytes.
const OVERHEAD_V4: u32 = 20 + 8;
const OVERHEAD_V6: u32 = 40 + 8;

/// The smallest MTU that a device can have with IPv4 (RFC 791), with IPv6 (RFC 8200).
const MTU_MIN_V4: u32 = 68;
const MTU_MIN_V6: u32 = 1280;

/// The longest packet that a TUN device takes.
const MTU_MAX: u32 = 65_535;

/// Where to bind the sockets: the interface's address and the configured port. Only the family that
/// datagrams are sent over, which is IPv4 where the node has it.
pub(super) fn bind_addresses(interface: &Interface, config: &NetworkConfig) -> Vec<SocketAddr> {
    let address = interface.outer_address();
    address.map(|address| (address, config.backend.port).into()).into_iter().collect()
}

/// What our lease says. The interface's own address is announced only where others see another. More
/// than one source port says, too, that what arrives may come from several.
pub(super) fn attributes(
    interface: &Interface,
    config: &NetworkConfig,
    identity: Identity,
    mtu: u32,
    source_ports: u16,
) -> Attributes {
    let v4 = interface.address_v4.filter(|_| interface.address_v4 != interface.public_v4);
    let v6 = interface.address_v6.filter(|_| interface.address_v6 != interface.public_v6);
    let addrs = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect();
    Attributes {
        public_ip: interface.public_v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_ipv6: interface.public_v6,
        backend_type: String::new(),
        backend_data: None,
        backend_v6_data: None,
        weft: Some(Weft {
            id: Some(identity),
            paths: vec!["udp".into()],
            port: Some(config.backend.port),
            ports: Some(source_ports),
            addrs,
            mtu: Some(mtu),
            v6: config.v6.is_some(),
            ..Weft::default()
        }),
    }
}

/// Every address of this host, and the public ones even if a NAT has them.
pub(super) fn own_addresses(interface: &Interface) -> Vec<IpAddr> {
    let mut addresses = interface.addresses.clone();
    let v4 = interface.public_v4.map(IpAddr::V4);
    addresses.extend(v4.into_iter().chain(interface.public_v6.map(IpAddr::V6)));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What is left of the underlay's MTU inside of our datagrams.
pub(super) fn inner_mtu(config: &NetworkConfig, interface: &Interface) -> Result<u32, StartError> {
    let underlay = config.backend.mtu.unwrap_or(interface.mtu);
    if underlay > interface.mtu {
        warn!(
            configured = underlay,
            interface = interface.mtu,
            "Backend.MTU is larger than the interface's; full packets will not fit"
        );
    }
    let overhead = if interface.address_v4.is_some() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let mtu = underlay.saturating_sub(overhead).min(MTU_MAX);
    let least = if config.v6.is_some() { MTU_MIN_V6 } else { MTU_MIN_V4 };
    if mtu < least {
        let interface = interface.name.clone();
        return Err(StartError::Mtu { interface, underlay, mtu, least });
    }
    Ok(mtu)
}
