//! Addresses and routes that lead packets astray.

use std::net::IpAddr;

use super::{Finding, error, warning};
use crate::doctor::facts::{Bridge, Facts};

/// The device on which kube-proxy keeps the addresses of services, in its mode with IPVS.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The bridge of the CNI plugin for flannel.
const POD_BRIDGE: &str = "cni0";

/// Where programs of CNI look; the plugin for flannel has this file in it.
const CNI_FILE: &str = "flannel";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        facts.local_addresses.iter().filter_map(|local| stale(facts, *local)).collect();
    findings.extend(facts.bridges.iter().filter_map(|bridge| wrong_bridge(facts, bridge)));
    findings.extend(other_network(facts));
    findings
}

fn stale(facts: &Facts, (address, link): (IpAddr, u32)) -> Option<Finding> {
    let device = facts.snapshot.link(link).map_or("?", |link| link.name.as_str());
    let is_held = facts.snapshot.addresses.iter().any(|one| one.local == address);
    let swallowed = format!("Packets of this host to {address} reach nobody.");
    if device == IPVS_DEVICE && !facts.virtual_services.contains(&address) {
        let family = if address.is_ipv4() { "" } else { "-6 " };
        let remove = if is_held {
            format!("ip address delete {address} dev {device}")
        } else {
            format!("ip {family}route delete local {address} dev {device} table local")
        };
        return Some(
            error("kube-ipvs0", format!("{device} claims {address}, and IPVS does not serve it."))
                .with(
                    format!(
                        "{swallowed} If it is the service address of the API server, daemons and \
                         pods cannot talk to that."
                    ),
                    format!("{remove}; and see why kube-proxy has left it or does not serve it."),
                ),
        );
    }
    (!is_held && device != IPVS_DEVICE && !address.is_loopback()).then(|| {
        let family = if address.is_ipv4() { "" } else { "-6 " };
        let cause = format!(
            "The table local has a route to {address} over {device}, which no device has as its \
             address."
        );
        warning("local-route", cause).with(
            swallowed,
            format!("ip {family}route delete local {address} dev {device} table local"),
        )
    })
}

/// After the host got another subnet the bridge keeps its old address.
fn wrong_bridge(facts: &Facts, bridge: &Bridge) -> Option<Finding> {
    let overlays = &facts.subnet_file.overlays;
    let wrong = bridge.addresses.iter().find(|address| {
        let of_family =
            overlays.iter().filter(|one| one.subnet.addr().is_ipv4() == address.addr().is_ipv4());
        let is_global = !matches!(address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        let mut of_family = of_family.peekable();
        let is_known = of_family.peek().is_some();
        is_known && is_global && !of_family.any(|one| one.subnet.contains(&address.addr()))
    })?;
    if bridge.name != POD_BRIDGE {
        return None;
    }
    let cause =
        format!("{POD_BRIDGE} has the address {wrong}, which is not of this host's subnet.");
    Some(error("bridge-address", cause).with(
        "The CNI plugin refuses new pods, and other hosts do not reach the old ones.",
        format!("Drain the host, then: ip link delete {POD_BRIDGE}; new pods make it anew."),
    ))
}

/// Container runtimes take the first file.
fn other_network(facts: &Facts) -> Option<Finding> {
    let first = facts.cni_files.first()?;
    let is_ours = |name: &&String| name.contains(CNI_FILE);
    let ours = facts.cni_files.iter().find(is_ours)?;
    (!first.contains(CNI_FILE)).then(|| {
        warning("cni", format!("/etc/cni/net.d has {first}, which comes before {ours}.")).with(
            "Container runtimes take the first file, so that new pods get another network.",
            format!("Remove /etc/cni/net.d/{first} if its program is not used any more."),
        )
    })
}
