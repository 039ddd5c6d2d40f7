//! Whether what pods send fits into what hosts send.

use super::{Finding, error, named, note, warning};
use crate::doctor::facts::{Answer, Bridge, Facts};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(underlay(facts));
    findings.extend(file(facts));
    if let Some(mtu) = facts.subnet_file.mtu {
        findings.extend(facts.pod_bridges().flat_map(|bridge| of_bridge(bridge, mtu)));
    }
    findings.extend(paths(facts));
    findings
}

/// Bytes that travel around a packet between the hosts.
fn overhead(facts: &Facts) -> Option<u32> {
    let status = facts.status()?;
    let is_v6 = status.interface.as_ref()?.addresses.first()?.is_ipv6();
    Some(match status.network.as_ref()?.backend.as_str() {
        _ if status.sealing.is_some() => 80,
        "udp" if is_v6 => 48,
        "udp" => 28,
        "vxlan" if is_v6 => 70,
        "vxlan" => 50,
        _ => 0,
    })
}

/// The interface's MTU as it is now; the daemon's is that of its start.
fn underlay(facts: &Facts) -> Option<Finding> {
    let status = facts.status()?;
    let (inner, name) = (status.device.as_ref()?.mtu, &status.interface.as_ref()?.name);
    let outer = facts.snapshot.link_named(name)?.mtu;
    let wanted = inner + overhead(facts)?;
    (outer < wanted).then(|| {
        let cause = format!(
            "{name} has an MTU of {outer} bytes, and full packets of the network need {wanted}."
        );
        error("mtu-underlay", cause).with(
            "Large packets are cut or refused, which costs speed or connections.",
            format!("ip link set {name} mtu {wanted}; or restart weft and then the pods."),
        )
    })
}

fn file(facts: &Facts) -> Option<Finding> {
    let device = facts.status()?.device.as_ref()?;
    let told = facts.subnet_file.mtu?;
    (told > device.mtu).then(|| {
        let path = facts.subnet_file.path.display();
        let cause =
            format!("{path} says an MTU of {told} bytes, and {} has {}.", device.name, device.mtu);
        warning("mtu-file", cause).with(
            "New pods send packets that are too large for the network.",
            "Restart weft, which writes the file again, and then the pods.",
        )
    })
}

fn of_bridge(bridge: &Bridge, told: u32) -> Vec<Finding> {
    let Bridge { name, mtu, ports, .. } = bridge;
    let restart = format!(
        "Restart the pods of this host; if {name} keeps its MTU: ip link set {name} mtu {told}."
    );
    let cause = format!("{name} has an MTU of {mtu} bytes, and the network takes {told}.");
    let mut findings = Vec::new();
    if *mtu > told {
        findings.push(warning("mtu-bridge", cause).with(
            "Large packets to other hosts are cut or answered by ICMP; the bridge is of an earlier \
             mode of the network.",
            restart.clone(),
        ));
    } else if *mtu < told {
        findings.push(note("mtu-bridge", cause).with(
            "Pods send smaller packets than they could, which costs some speed.",
            restart.clone(),
        ));
    }
    let large: Vec<&str> =
        ports.iter().filter(|(_, mtu)| *mtu > told).map(|(name, _)| name.as_str()).collect();
    if !large.is_empty() {
        let shown = named(&large);
        let cause = format!("Pods of {name} have a larger MTU than {told} bytes: {shown}.");
        findings.push(warning("mtu-pods", cause).with(
            "Their large packets to other hosts are cut or answered by ICMP.",
            "Start these pods again; they take the MTU of the subnet file then.",
        ));
    }
    findings
}

fn paths(facts: &Facts) -> Option<Finding> {
    let Answer::Some(answers) = &facts.daemon else { return None };
    let peers = answers.1.peers.iter();
    let lowered: Vec<String> = peers
        .filter_map(|peer| Some(format!("{} takes {} bytes", peer.outer, peer.path_mtu?)))
        .collect();
    let names: Vec<&str> = lowered.iter().map(String::as_str).collect();
    (!lowered.is_empty()).then(|| {
        let cause = format!("The way to other hosts is narrower than expected: {}.", named(&names));
        warning("mtu-path", cause).with(
            "Packets to them are cut or answered by ICMP until senders have learned the size.",
            "Set Backend.MTU of the network config to what the path takes, and restart weft and the \
             pods; or widen the path.",
        )
    })
}
