//! What follows from the interface: where to bind, what others are told, and what fits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tracing::warn;

use super::macs::Macs;
use super::{Options, StartError};
use crate::config::{NetworkConfig, PathKind};
use crate::desired::kernel::{Host, Vtep};
use crate::identity::Identity;
use crate::interface::Interface;
use crate::kernel::MacAddress;
use crate::kernel::object::Underlay;
use crate::key::PublicKey;
use crate::lease::{Attributes, Weft, vtep};

/// Lengths of headers in bytes (RFC 768, RFC 7348, IEEE 802.3).
const UDP_HEADER: u32 = 8;
const VXLAN_HEADER: u32 = 8;
const ETHERNET_HEADER: u32 = 14;

/// What a sealed packet is longer than the inner one, as everybody's WireGuard has it: the headers of
/// IPv6, UDP and the message, and the tag. The same over IPv4, where something is left for padding.
const SEALED_OVERHEAD: u32 = 40 + UDP_HEADER + 16 + 16;

/// The smallest MTU that a device can have with IPv4 (RFC 791), with IPv6 (RFC 8200).
const MTU_MIN_V4: u32 = 68;
const MTU_MIN_V6: u32 = 1280;

/// The longest packet that a TUN device takes.
const MTU_MAX: u32 = 65_535;

/// What our lease says that neither config nor interface do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    /// Bytes of the largest inner packet; the pods have it too.
    pub(super) mtu: u32,
    /// Ports that this node sends from; workers have one each.
    pub(super) source_ports: u16,
    /// See `Begun::set_shortcut`.
    pub(super) shortcut: bool,
    /// Of this node's VXLAN devices; none without `vxlan`.
    pub(super) macs: Macs,
    /// This node's public key, if its traffic is sealed.
    pub(super) key: Option<PublicKey>,
}

/// Where to bind the sockets: the interface's address and the configured port. Only the family that
/// datagrams are sent over, which is IPv4 where the node has it. None where the kernel does it all.
pub(super) fn bind_addresses(interface: &Interface, config: &NetworkConfig) -> Vec<SocketAddr> {
    let address = interface.outer_address().zip(config.backend.udp());
    address.map(|(address, udp)| (address, udp.port).into()).into_iter().collect()
}

/// What our lease says. The interface's own address is announced only where others see another. More
/// than one source port says, too, that what arrives may come from several.
pub(super) fn attributes(
    interface: &Interface,
    config: &NetworkConfig,
    facts: &Facts,
) -> Attributes {
    let v4 = interface.address_v4.filter(|_| interface.address_v4 != interface.public_v4);
    let v6 = interface.address_v6.filter(|_| interface.address_v6 != interface.public_v6);
    let addrs = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect();
    let udp = config.backend.udp();
    let name = config.backend.name();
    let data = |mac: Option<MacAddress>| {
        let (backend, mac) = config.backend.vxlan().zip(mac)?;
        Some(vtep::data(backend.vni, mac))
    };
    Attributes {
        public_ip: interface.public_v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        public_ipv6: interface.public_v6,
        // `udp` is the type of a lease that names none.
        backend_type: udp.map_or_else(|| name.to_owned(), |_| String::new()),
        backend_data: data(facts.macs.v4),
        backend_v6_data: data(facts.macs.v6),
        weft: Some(Weft {
            id: Some(facts.identity),
            paths: config.backend.paths().iter().map(|path| path.name().to_owned()).collect(),
            port: udp.map(|udp| udp.port),
            ports: udp.map(|_| facts.source_ports),
            addrs,
            mtu: Some(facts.mtu),
            key: facts.key,
            vtep: udp.and(config.backend.tunnel()).and_then(|_| facts.macs.iter().next()),
            v6: config.v6.is_some(),
            shortcut: facts.shortcut,
            ..Weft::default()
        }),
    }
}

/// What of this host goes into the kernel's state.
pub(super) fn host(interface: &Interface, config: &NetworkConfig, macs: Macs) -> Host {
    let v4 = interface.public_v4.map(IpAddr::V4).zip(macs.v4);
    let v6 = interface.public_v6.map(IpAddr::V6).zip(macs.v6);
    let vtep = |(local, mac)| Vtep { local, mac, mtu: device_mtu(config, interface, local) };
    Host {
        underlay: Underlay { name: interface.name.clone(), index: interface.index },
        vteps: v4.into_iter().chain(v6).map(vtep).collect(),
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

/// What is left of the underlay's MTU inside of our packets: for every family that they travel in.
pub(super) fn inner_mtu(config: &NetworkConfig, interface: &Interface) -> Result<u32, StartError> {
    let underlay = config.backend.mtu().unwrap_or(interface.mtu);
    if underlay > interface.mtu {
        warn!(
            configured = underlay,
            interface = interface.mtu,
            "Backend.MTU is larger than the interface's; full packets will not fit"
        );
    }
    let kernel_outer: Vec<bool> =
        [config.v4.as_ref().map(|_| false), config.v6.as_ref().map(|_| true)]
            .into_iter()
            .flatten()
            .collect();
    let outer = |path: PathKind| match path {
        PathKind::Udp => vec![interface.address_v4.is_none()],
        _ => kernel_outer.clone(),
    };
    let is_sealed = config.backend.sealing().is_some();
    let paths = config.backend.paths().iter();
    let all = paths.flat_map(|path| {
        outer(*path).into_iter().map(move |is_v6| overhead(*path, is_v6, is_sealed))
    });
    let overhead = all.max();
    let mtu = underlay.saturating_sub(overhead.unwrap_or(0)).min(MTU_MAX);
    let least = if config.v6.is_some() { MTU_MIN_V6 } else { MTU_MIN_V4 };
    if mtu < least {
        let interface = interface.name.clone();
        return Err(StartError::Mtu { interface, underlay, mtu, least });
    }
    Ok(mtu)
}

/// The same for the device of one family.
fn device_mtu(config: &NetworkConfig, interface: &Interface, local: IpAddr) -> u32 {
    let underlay = config.backend.mtu().unwrap_or(interface.mtu);
    underlay.saturating_sub(overhead(PathKind::Vxlan, local.is_ipv6(), false)).min(MTU_MAX)
}

/// What is put around every inner packet, in bytes, by the family of the outer one.
fn overhead(path: PathKind, is_v6: bool, is_sealed: bool) -> u32 {
    let ip = if is_v6 { 40 } else { 20 };
    match path {
        PathKind::Udp if is_sealed => SEALED_OVERHEAD,
        PathKind::Udp => ip + UDP_HEADER,
        PathKind::Vxlan => ip + UDP_HEADER + VXLAN_HEADER + ETHERNET_HEADER,
        PathKind::HostGw => 0,
    }
}

/// Keys come from the store, so whoever can change what it says can take part.
pub(super) fn check_store(config: &NetworkConfig, options: &Options) -> Result<(), StartError> {
    let seals = config.backend.sealing().is_some();
    match options.source.unprotected() {
        Some(server) if seals && !options.insecure_store => {
            Err(StartError::InsecureStore { server })
        }
        _ => Ok(()),
    }
}

/// Plain routes lead to the address that packets are sent from; there is nothing that would translate
/// it on the way.
pub(super) fn check_public(
    config: &NetworkConfig,
    interface: &Interface,
) -> Result<(), StartError> {
    let v4 = (interface.public_v4.map(IpAddr::V4), interface.address_v4.map(IpAddr::V4));
    let v6 = (interface.public_v6.map(IpAddr::V6), interface.address_v6.map(IpAddr::V6));
    let differs =
        |(public, own): &(Option<IpAddr>, Option<IpAddr>)| public.is_some() && public != own;
    let different = [v4, v6].into_iter().find(differs);
    let routes_plainly = config.backend.paths().contains(&PathKind::HostGw);
    match different {
        Some((Some(public), _)) if routes_plainly => {
            let interface = interface.name.clone();
            Err(StartError::PublicAddress { public, interface })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
