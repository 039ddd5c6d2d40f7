//! What is known about a packet before it is judged.

use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use weft_ctrl::interface::reader::Netlink;
use weft_ctrl::kernel::lookup::{Answer, Packet, Routed, look_up};

use crate::admin::{Peer, Peers, Status};

/// Whose an address is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owner {
    /// This host itself.
    Host,
    /// A pod of this host.
    Pod,
    /// A pod of a peer, or the peer's end of the network.
    Peer(Box<Peer>),
    /// Inside the network, but of no lease.
    Nobody,
    /// Not of the network.
    Outside,
}

/// Everything that the judgement needs.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) source_is: Owner,
    pub(super) destination_is: Owner,
    /// What the kernel does with the packet on this host.
    pub(super) answer: Answer,
    /// Whether there is a way to the destination, whoever sends.
    pub(super) is_reached: bool,
    /// The setting that lets this host forward such packets, if it is off.
    pub(super) forwarding_off: Option<&'static str>,
}

/// Asks the kernel.
pub(super) async fn gather(
    status: &Status,
    peers: &Peers,
    source: IpAddr,
    destination: IpAddr,
) -> Result<Facts> {
    check(source, destination)?;
    let netlink = Netlink::open()?;
    let back = routed(look_up(&netlink, by_itself(source)).await?);
    let there = routed(look_up(&netlink, by_itself(destination)).await?);
    let source_is = owner(status, peers, source, back.as_ref());
    let destination_is = owner(status, peers, destination, there.as_ref());
    let is_here = |owner: &Owner| matches!(owner, Owner::Host | Owner::Pod);
    if !is_here(&source_is) && !is_here(&destination_is) {
        bail!(
            "Neither {source} nor {destination} is an address of this host or of its pods ({}). Ask \
             on a host that has one of them",
            own_subnets(status)
        );
    }
    let incoming = match &source_is {
        Owner::Host => None,
        Owner::Peer(peer) => arrives_by(&netlink, peer, source).await?,
        _ => back.as_ref().map(|back| back.link),
    };
    let packet = Packet { destination, source: Some(source), incoming };
    let answer = look_up(&netlink, packet).await?;
    Ok(Facts {
        source,
        destination,
        source_is,
        destination_is,
        answer,
        is_reached: there.is_some(),
        forwarding_off: forwarding_off(destination),
    })
}

/// The name of the setting that keeps packets of this family from being forwarded.
fn forwarding_off(destination: IpAddr) -> Option<&'static str> {
    let (path, name) = if destination.is_ipv4() {
        ("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward")
    } else {
        ("/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding")
    };
    let is_off = std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0");
    is_off.then_some(name)
}

/// The error says what is wrong with them.
fn check(source: IpAddr, destination: IpAddr) -> Result<()> {
    if source.is_ipv4() != destination.is_ipv4() {
        bail!("{source} and {destination} are of different families; no packet has both");
    }
    for address in [source, destination] {
        let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        let is_odd = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        if is_odd || is_broadcast {
            bail!(
                "{address} is no address that packets between hosts have: neither loopback nor \
                 multicast, broadcast or unspecified addresses are carried"
            );
        }
    }
    Ok(())
}

fn by_itself(destination: IpAddr) -> Packet {
    Packet { destination, source: None, incoming: None }
}

fn routed(answer: Answer) -> Option<Routed> {
    match answer {
        Answer::Routed(routed) => Some(routed),
        Answer::Refused(_) => None,
    }
}

/// The device that packets of a peer come in by.
async fn arrives_by(netlink: &Netlink, peer: &Peer, source: IpAddr) -> Result<Option<u32>> {
    let is_plain = matches!(path_for(peer, source), "host-gw" | "direct");
    let mut public = peer.addresses.iter().filter(|_| is_plain);
    let host = public.find(|one| one.is_ipv4() == source.is_ipv4());
    // Otherwise by the tunnel device that sends to it.
    let towards = by_itself(host.copied().unwrap_or(source));
    Ok(routed(look_up(netlink, towards).await?).map(|route| route.link))
}

/// The path of the family; a peer has two words where they differ, IPv4 first.
pub(super) fn path_for(peer: &Peer, address: IpAddr) -> &str {
    let mut words = peer.path.split(", ");
    let first = words.next().unwrap_or_default();
    if address.is_ipv4() || peer.subnet.is_none() { first } else { words.next().unwrap_or(first) }
}

fn owner(status: &Status, peers: &Peers, address: IpAddr, route: Option<&Routed>) -> Owner {
    if route.is_some_and(|route| route.is_local) {
        return Owner::Host;
    }
    let contains = |net: &Option<String>| {
        net.as_ref()
            .and_then(|net| net.parse::<IpNet>().ok())
            .is_some_and(|net| net.contains(&address))
    };
    let lease = status.lease.as_ref();
    if lease.is_some_and(|lease| contains(&lease.subnet) || contains(&lease.ipv6_subnet)) {
        return Owner::Pod;
    }
    let mut peers = peers.peers.iter();
    if let Some(peer) = peers.find(|peer| contains(&peer.subnet) || contains(&peer.ipv6_subnet)) {
        return Owner::Peer(Box::new(peer.clone()));
    }
    let network = status.network.as_ref();
    let is_inside =
        network.is_some_and(|network| contains(&network.ipv4) || contains(&network.ipv6));
    if is_inside { Owner::Nobody } else { Owner::Outside }
}

fn own_subnets(status: &Status) -> String {
    let lease = status.lease.as_ref();
    let subnets = lease.map(|lease| [&lease.subnet, &lease.ipv6_subnet]);
    let texts: Vec<&str> =
        subnets.into_iter().flatten().filter_map(|subnet| subnet.as_deref()).collect();
    if texts.is_empty() { "there is no lease yet".to_owned() } else { texts.join(", ") }
}
