//! What other programs' rules do to our packets, for a look that changes nothing.

use super::command::{CommandError, run};
use super::iptables::{Iptables, legacy_filters};
use super::rules::Family;
use super::{Wanted, drops, nft};
use crate::netfilter::Overlay;

/// A sentence for each chain that drops forwarded packets of these networks, with the command that
/// accepts them. Empty, too, if nobody can say.
pub async fn forward_drops(overlays: &[Overlay]) -> Vec<String> {
    drops::find(&Wanted { overlays: overlays.to_vec(), ..Wanted::default() }).await
}

/// The chains that drop what comes to this host, and seem not to accept UDP to `port`, as they are
/// called by the program that shows them.
///
/// # Errors
/// Neither `nft` nor the older kind of iptables can be asked.
pub async fn input_drops(family: Family, port: u16) -> Result<Vec<String>, CommandError> {
    let mut found = Vec::new();
    for chain in nft::chains().await?.dropping(family, "input", "") {
        let text = nft::table(&chain.family, &chain.table).await?;
        if !text.lines().any(|line| admits(line, port)) {
            found.push(format!("of nft \"{} {} {}\"", chain.family, chain.table, chain.name));
        }
    }
    if legacy_filters(family) && Iptables::new(family).drops_input(port).await? {
        found.push(format!("INPUT of {}", family.iptables()));
    }
    Ok(found)
}

/// Whether a program answers when it is asked for its version.
pub async fn is_installed(program: &str) -> bool {
    run(program, &["--version"], "").await.is_ok()
}

/// Whether a rule, as `nft` or `iptables-save` writes it, can accept UDP to `port` of what comes from
/// somewhere. What a rule demands of the sender is not looked at.
pub(super) fn admits(rule: &str, port: u16) -> bool {
    let rule = rule.split_once(" comment \"").map_or(rule, |(before, _)| before).trim();
    if !rule.ends_with("accept") && !rule.ends_with("-j ACCEPT") {
        return false;
    }
    let words: Vec<&str> =
        rule.split([' ', ',', '{', '}']).filter(|word| !word.is_empty()).collect();
    let says = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
    if says(&["dport", "--dport", "--dports"]) {
        let speaks_of_udp = says(&["udp", "th"]);
        return speaks_of_udp && words.iter().any(|word| covers(word, port));
    }
    let elsewhere = ["tcp", "icmp", "icmpv6", "ipv6-icmp", "sport", "--sport", "ct", "conntrack"];
    !says(&elsewhere) && !says(&["lo", "\"lo\""])
}

/// Whether a number, or a range of either program, has the port.
fn covers(word: &str, port: u16) -> bool {
    let (first, last) = word.split_once(['-', ':']).unwrap_or((word, word));
    let number = |text: &str| text.parse::<u16>().ok();
    match (number(first), number(last)) {
        (Some(first), Some(last)) => (first..=last).contains(&port),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_let_the_port_in_are_known() {
        for rule in [
            "udp dport 8285 accept",
            "udp dport { 53, 8285 } accept comment \"weft\"",
            "udp dport 8000-9000 counter packets 0 bytes 0 accept",
            "meta l4proto udp th dport 8285 accept",
            "ip saddr 10.168.0.0/24 accept",
            "iifname \"eth0\" accept",
            "-A INPUT -p udp -m udp --dport 8285 -j ACCEPT",
            "-A INPUT -p udp -m multiport --dports 53,8000:9000 -j ACCEPT",
            "-A INPUT -s 10.168.0.0/24 -j ACCEPT",
        ] {
            assert!(admits(rule, 8285), "{rule}");
        }
        for rule in [
            "udp dport 8472 accept",
            "udp dport { 53, 8284 } accept",
            "tcp dport 8285 accept",
            "tcp dport 22 accept",
            "iifname \"lo\" accept",
            "ct state established,related accept",
            "ip protocol icmp accept",
            "udp sport 8285 accept",
            "udp dport 8285 drop",
            "-A INPUT -p udp -m udp --dport 53 -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "type filter hook input priority filter; policy drop;",
        ] {
            assert!(!admits(rule, 8285), "{rule}");
        }
    }
}
