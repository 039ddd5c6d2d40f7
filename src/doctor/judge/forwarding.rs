//! Whether the host passes packets on: sysctls and other programs' rules.

use weft_ctrl::netfilter::Family;

use super::{Finding, error, note, warning};
use crate::doctor::facts::Facts;

/// Strict, in `rp_filter` (`Documentation/networking/ip-sysctl.rst`).
const STRICT: i64 = 1;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(off(facts, Family::V4, "net/ipv4/ip_forward"));
    findings.extend(off(facts, Family::V6, "net/ipv6/conf/all/forwarding"));
    findings.extend(reverse_path(facts));
    findings.extend(bridges_past_rules(facts));
    findings.extend(rules(facts));
    findings
}

fn off(facts: &Facts, family: Family, path: &str) -> Option<Finding> {
    let overlays = &facts.subnet_file.overlays;
    let is_on = overlays.iter().any(|overlay| overlay.family() == family);
    let is_wanted = is_on || (overlays.is_empty() && family == Family::V4);
    if !is_wanted || facts.sysctl(path) != Some(0) {
        return None;
    }
    let name = path.replace('/', ".");
    Some(error("forwarding", format!("The sysctl {name} is 0.")).with(
        "The host passes no packets between its pods and other hosts.",
        format!(
            "sysctl -w {name}=1, and a file with {name} = 1 in /etc/sysctl.d for the next start."
        ),
    ))
}

/// The kernel takes the higher one of `all` and the device's own.
fn reverse_path(facts: &Facts) -> Vec<Finding> {
    let value = |device: &str| facts.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"));
    let is_strict =
        |device: &&str| value("all").unwrap_or(0).max(value(device).unwrap_or(0)) == STRICT;
    let finding = |device: &str| {
        error("rp_filter", format!("The reverse-path check of {device} is strict.")).with(
            "The kernel drops packets from other hosts whose answer would take another device, \
             such as those of hosts themselves; nstat shows TcpExtIPReversePathFilter.",
            format!("echo 2 > /proc/sys/net/ipv4/conf/{device}/rp_filter"),
        )
    };
    facts.tunnels().filter(is_strict).map(finding).collect()
}

/// Services of Kubernetes are rules of iptables; pods of one bridge meet them only by this switch.
fn bridges_past_rules(facts: &Facts) -> Option<Finding> {
    let bridge = facts.pod_bridges().next()?;
    let cause = match facts.sysctl("net/bridge/bridge-nf-call-iptables") {
        None => "The kernel module br_netfilter is not loaded.".to_owned(),
        Some(0) => "The sysctl net.bridge.bridge-nf-call-iptables is 0.".to_owned(),
        Some(_) => return None,
    };
    Some(warning("br_netfilter", cause).with(
        format!(
            "Packets between pods of the bridge {} pass by the rules of iptables, so that services \
             of Kubernetes may not answer them.",
            bridge.name
        ),
        "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1. Without kube-proxy \
         on this host nothing has to be done.",
    ))
}

fn rules(facts: &Facts) -> Vec<Finding> {
    let netfilter = &facts.netfilter;
    let mut findings = Vec::new();
    for sentence in &netfilter.forward_drops {
        findings.push(error("forward-policy", format!("{sentence}.")).with(
            "Pods of this host and of others may not reach each other.",
            "Run the command in the line above, where the rules of that program are kept.",
        ));
    }
    for chain in &netfilter.input_drops {
        findings.push(firewall(chain, facts.port().unwrap_or_default()));
    }
    if let Some(reason) = &netfilter.unread {
        findings.push(
            note("firewall", format!("The rules of netfilter were not read: {reason}.")).with(
                "Chains that drop packets are not found by this look.",
                "Install nftables, and ask as root.",
            ),
        );
    }
    if !netfilter.has_program {
        findings.push(warning("iptables", "Neither iptables nor nft is installed.").with(
            "Masquerading (--ip-masq) ends the daemon's start, and forward rules are missing.",
            "Install iptables or nftables.",
        ));
    }
    findings
}

fn firewall(chain: &str, port: u16) -> Finding {
    let cause = format!(
        "The chain {chain} drops what comes to this host unless a rule accepts it, and none seems \
         to accept UDP to port {port}."
    );
    warning("firewall", cause).with(
        "Datagrams of other hosts are dropped before weft sees them, if nothing else lets them in.",
        format!(
            "Accept them from the other hosts, such as by: iptables -I INPUT -p udp --dport {port} \
             -j ACCEPT"
        ),
    )
}
