//! What follows from what the daemon and the kernel say. Pure.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use weft_ctrl::controller::DEVICE_NAME;
use weft_ctrl::kernel::lookup::{Answer, Routed};
use weft_ctrl::netfilter::{Overlay, Treatment, treatment};
use weft_forward::drops::DropReason;

use super::facts::{Facts, Owner, path_for};
use crate::admin::{Peer, Status};

/// Error numbers that are the same on every architecture (asm-generic/errno-base.h, errno.h).
mod errno {
    pub(super) const ACCESS: i32 = 13;
    pub(super) const CROSS_DEVICE: i32 = 18;
    pub(super) const INVALID: i32 = 22;
}

/// What would become of the packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Trace {
    pub(super) source: String,
    pub(super) destination: String,
    /// Whose the addresses are.
    pub(super) source_is: String,
    pub(super) destination_is: String,
    /// The peer's subnet, if there is a peer.
    pub(super) lease: Option<String>,
    /// How the packet gets to the other host, or from it.
    pub(super) path: Option<String>,
    /// Why that way, where there is a choice.
    pub(super) because: Option<String>,
    /// The kernel's route on this host.
    pub(super) route: Option<String>,
    /// Bytes of the largest packet that gets through as it is.
    pub(super) mtu: Option<u32>,
    pub(super) sealed: String,
    pub(super) is_sealed: bool,
    pub(super) masqueraded: String,
    pub(super) is_masqueraded: bool,
    /// What else there is to know.
    pub(super) remarks: Vec<String>,
    pub(super) dropped: Option<Dropped>,
}

/// Why the packet would not arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Dropped {
    /// A name for programs; one of those of `weft drops` if the engine drops it.
    pub(super) reason: String,
    /// A sentence.
    pub(super) text: String,
}

impl From<DropReason> for Dropped {
    fn from(reason: DropReason) -> Self {
        Self { reason: reason.name().to_owned(), text: reason.text().to_owned() }
    }
}

fn dropped(reason: &str, text: impl Into<String>) -> Option<Dropped> {
    Some(Dropped { reason: reason.to_owned(), text: text.into() })
}

/// Puts everything together.
pub(super) fn judge(status: &Status, facts: &Facts) -> Trace {
    let mut trace = Trace {
        source: facts.source.to_string(),
        destination: facts.destination.to_string(),
        source_is: describe(&facts.source_is),
        destination_is: describe(&facts.destination_is),
        sealed: "no".to_owned(),
        masqueraded: "no".to_owned(),
        ..Trace::default()
    };
    let route = match &facts.answer {
        Answer::Routed(route) => Some(route),
        Answer::Refused(error) => {
            trace.dropped = Some(refusal(facts, error));
            None
        }
    };
    // Without forwarding the kernel refuses by a number that means many things.
    let is_forwarded = facts.source_is != Owner::Host && facts.destination_is != Owner::Host;
    if let Some(setting) = facts.forwarding_off.filter(|_| is_forwarded) {
        let text = format!("This host does not forward packets: sysctl -w {setting}=1");
        trace.dropped = dropped("forwarding_off", text);
    }
    trace.route = route.map(describe_route);
    trace.mtu = route.filter(|route| !route.is_local).map(|route| route.mtu);
    match (&facts.source_is, &facts.destination_is) {
        (_, Owner::Peer(peer)) => outbound(status, facts, peer, route, &mut trace),
        (Owner::Peer(peer), _) => inbound(status, facts, peer, &mut trace),
        (_, Owner::Nobody) => to_nobody(status, route, &mut trace),
        (Owner::Nobody, _) => from_nobody(status, &mut trace),
        _ => {}
    }
    if let Some(route) = route.filter(|route| !route.is_local) {
        masquerading(status, facts, route, &mut trace);
    }
    if route.is_some_and(|route| route.device == DEVICE_NAME) && status.stalled.is_some() {
        trace.remarks.push("A packet worker does not go on".to_owned());
    }
    trace
}

fn describe(owner: &Owner) -> String {
    match owner {
        Owner::Host => "this host".to_owned(),
        Owner::Pod => "a pod of this host".to_owned(),
        Owner::Peer(peer) => {
            let kind = if peer.id.is_some() { "weft" } else { "flannel" };
            format!("a pod of {} ({kind}), lease {}", peer.outer, subnets(peer))
        }
        Owner::Nobody => "inside the network, but no lease has it".to_owned(),
        Owner::Outside => "outside of the network".to_owned(),
    }
}

fn subnets(peer: &Peer) -> String {
    let subnets = [&peer.subnet, &peer.ipv6_subnet].into_iter().flatten();
    subnets.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn describe_route(route: &Routed) -> String {
    let Routed { prefix, is_local, device, gateway, .. } = route;
    let kind = if *is_local { "local " } else { "" };
    let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    format!("{kind}{prefix}{via} dev {device}")
}

fn refusal(facts: &Facts, error: &io::Error) -> Dropped {
    let Facts { source, destination, .. } = facts;
    let found = match error.raw_os_error() {
        // Kernels from 6.13 on say only that the packet is not valid where it comes in.
        Some(errno::CROSS_DEVICE | errno::INVALID) if facts.is_reached => dropped(
            "reverse_path",
            format!(
                "The reverse-path filter finds that {source} should come in by another device: see \
                 rp_filter of the devices with `sysctl net.ipv4.conf`"
            ),
        ),
        Some(errno::INVALID) => {
            dropped("blackhole", format!("A blackhole route covers {destination}"))
        }
        Some(errno::ACCESS) => dropped("prohibited", "A route prohibits it"),
        _ => dropped("no_way", format!("The kernel has no way to {destination}: {error}")),
    };
    found.expect("every refusal has a text")
}

/// The path that the kernel's route amounts to.
fn path_of(route: &Routed) -> &'static str {
    match route {
        Routed { device, .. } if device == DEVICE_NAME => "udp",
        Routed { device, .. } if device.starts_with("flannel") => "vxlan",
        _ => "a plain route",
    }
}

fn outbound(
    status: &Status,
    facts: &Facts,
    peer: &Peer,
    route: Option<&Routed>,
    trace: &mut Trace,
) {
    let path = path_for(peer, facts.destination);
    about_peer(peer, path, trace);
    let Some(route) = route else { return };
    narrow(probed_mtu(peer, facts.destination), trace);
    let taken = path_of(route);
    let is_plain = matches!(path, "host-gw" | "direct")
        && taken == "a plain route"
        && route.gateway.is_some_and(|gateway| is_host_of(peer, gateway));
    if taken != path && !is_plain {
        trace.remarks.push(format!(
            "weft takes {path} for this peer, but the kernel's route leads into {}, which is {taken}: \
             somebody else's route wins, or weft is about to change it",
            route.device
        ));
    }
    if path == "udp" && taken == "udp" {
        by_engine(status, facts, peer, trace);
    } else if status.sealing.is_some() && !is_keyless(status, peer) {
        trace.dropped =
            dropped("not_sealed", "Traffic must be sealed, and would not be on this way");
    }
    if status.on_demand.is_some() && taken == "vxlan" {
        trace.remarks.push("Entries are made on demand, with the first packet".to_owned());
    }
}

/// Whether the peer has the address. In a family in which none is known, any may be.
fn is_host_of(peer: &Peer, address: IpAddr) -> bool {
    let known = || peer.addresses.iter().filter(|one| one.is_ipv4() == address.is_ipv4());
    known().next().is_none() || known().any(|one| *one == address)
}

/// What probes found that the chosen path takes, where there are several.
fn probed_mtu(peer: &Peer, destination: IpAddr) -> Option<u32> {
    let is_for = |subnet: &str| subnet.parse::<IpNet>().is_ok_and(|net| net.contains(&destination));
    let mut paths = peer.paths.iter().filter(|path| path.chosen);
    let mtu = paths.find(|path| is_for(&path.subnet))?.mtu?;
    u32::try_from(mtu).ok()
}

fn narrow(mtu: Option<u32>, trace: &mut Trace) {
    if let Some(mtu) = mtu.filter(|mtu| trace.mtu.is_some_and(|all| *mtu < all)) {
        trace.mtu = Some(mtu);
        trace.remarks.push(format!("The way to the peer takes {mtu} bytes only"));
    }
}

fn about_peer(peer: &Peer, path: &str, trace: &mut Trace) {
    trace.lease = Some(subnets(peer));
    trace.path = Some(path.to_owned());
    let reason = || "the config says so".to_owned();
    trace.because = Some(peer.reason.clone().unwrap_or_else(reason));
}

fn by_engine(status: &Status, facts: &Facts, peer: &Peer, trace: &mut Trace) {
    narrow(peer.path_mtu.map(u32::from), trace);
    if facts.destination.is_ipv6() && !peer.takes_ipv6 {
        trace.dropped = Some(DropReason::NoRouteInnerV6.into());
    }
    seal(status, peer, trace);
}

/// Sealing is offered, and the peer has no key.
fn is_keyless(status: &Status, peer: &Peer) -> bool {
    let offers = status.sealing.as_ref().is_some_and(|sealing| sealing.mode == "offer");
    offers && peer.sealing.is_none()
}

fn seal(status: &Status, peer: &Peer, trace: &mut Trace) {
    if status.sealing.is_none() {
        return;
    }
    if is_keyless(status, peer) {
        trace.sealed = "no: sealing is offered, and the peer's lease says no key".to_owned();
        return;
    }
    trace.is_sealed = true;
    let age = peer.sealing.as_ref().and_then(|sealing| sealing.session_age_seconds);
    trace.sealed = match age {
        Some(age) => format!("yes, with a session that is {age} s old"),
        None => "yes; a session is agreed on first, for which the packet waits".to_owned(),
    };
}

fn inbound(status: &Status, facts: &Facts, peer: &Peer, trace: &mut Trace) {
    let path = path_for(peer, facts.source);
    about_peer(peer, path, trace);
    if path == "udp" {
        seal(status, peer, trace);
        if facts.source.is_ipv6() && !peer.takes_ipv6 {
            trace.remarks.push("The peer is not known to send IPv6 packets".to_owned());
        }
        if facts.destination_is == Owner::Host && !is_ours(status, facts.destination) {
            trace.dropped = Some(DropReason::DestinationNotOurs.into());
        }
    }
    trace.remarks.push("The peer chooses the way of its packets by itself".to_owned());
}

fn is_ours(status: &Status, address: IpAddr) -> bool {
    let subnets = status.lease.iter().flat_map(|lease| [&lease.subnet, &lease.ipv6_subnet]);
    let nets = subnets.flatten().filter_map(|subnet| subnet.parse::<IpNet>().ok());
    nets.into_iter().any(|net| net.contains(&address))
}

fn to_nobody(status: &Status, route: Option<&Routed>, trace: &mut Trace) {
    let Some(route) = route else { return };
    match path_of(route) {
        "udp" => trace.dropped = Some(DropReason::NoRoute.into()),
        "vxlan" if status.on_demand.is_some() => {
            trace.dropped = dropped(
                "no_lease",
                "No lease has the destination, so the sender is told after 3 s that it cannot be \
                 reached",
            );
        }
        _ => trace.remarks.push(format!(
            "No lease has the destination; the packet leaves this host by {}",
            route.device
        )),
    }
}

fn from_nobody(status: &Status, trace: &mut Trace) {
    if status.engine.is_some() {
        trace.dropped = Some(DropReason::SourceSpoofed.into());
    }
}

fn masquerading(status: &Status, facts: &Facts, route: &Routed, trace: &mut Trace) {
    let Some(fully_random) = status.masquerade_fully_random else {
        trace.masqueraded = "no, --ip-masq is off".to_owned();
        return;
    };
    let found = overlay(status, facts.source)
        .and_then(|overlay| treatment(&overlay, fully_random, facts.source, facts.destination));
    let Some(Treatment { rule, is_masqueraded }) = found else {
        trace.masqueraded = "no, no rule is for it".to_owned();
        return;
    };
    trace.is_masqueraded = is_masqueraded;
    trace.masqueraded = match is_masqueraded {
        true if rule.contains("--to-source") => format!("yes, by {rule}"),
        true => format!("yes, with the address of {}, by {rule}", route.device),
        false => format!("no, by {rule}"),
    };
}

/// The network and the own subnet of the family.
fn overlay(status: &Status, address: IpAddr) -> Option<Overlay> {
    let (network, lease) = (status.network.as_ref()?, status.lease.as_ref()?);
    let fixed_source = network.paths.len() > 1;
    let (network, subnet) = if address.is_ipv4() {
        (&network.ipv4, &lease.subnet)
    } else {
        (&network.ipv6, &lease.ipv6_subnet)
    };
    let net = |text: &Option<String>| text.as_ref()?.parse::<IpNet>().ok().map(|net| net.trunc());
    let (network, subnet) = (net(network)?, net(subnet)?);
    Some(Overlay { network, subnet, fixed_source })
}

#[cfg(test)]
mod tests;
