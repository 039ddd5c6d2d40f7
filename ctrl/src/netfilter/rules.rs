//! The rules of one address family, and how `iptables-save` and `nft list` write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What the rules of one address family are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The whole network.
    pub network: IpNet,
    /// This host's part of it.
    pub subnet: IpNet,
    /// Packets that hosts send into the network get the first address of `subnet`, whatever device
    /// they leave by: where that may change under a connection, the device's address would end it.
    pub fixed_source: bool,
}

impl Overlay {
    /// The family that the rules are for.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(&self.network)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(network: &IpNet) -> Self {
        match network {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// What nft calls it, for tables as well as in front of an address.
    pub(super) fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// flannel's table of nft.
    pub(super) fn nft_table(self) -> &'static str {
        match self {
            Self::V4 => "flannel-ipv4",
            Self::V6 => "flannel-ipv6",
        }
    }

    /// The program of iptables.
    pub(super) fn iptables(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    fn multicast(self) -> IpNet {
        match self {
            Self::V4 => Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into(),
            Self::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
        }
    }
}

/// kube-proxy marks with this bit what it masquerades itself.
const KUBE_PROXY_MARK: &str = "0x4000";

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Return,
    Accept,
    Masquerade {
        /// With a source port that nobody can guess, which also spares flows that begin at once the
        /// same port.
        fully_random: bool,
    },
    /// The same with one address, not that of the device.
    Source {
        address: IpAddr,
        fully_random: bool,
    },
}

/// An address is, or is not, of this prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Of {
    prefix: IpNet,
    negated: bool,
}

impl Of {
    fn matches(self, address: IpAddr) -> bool {
        self.prefix.contains(&address) != self.negated
    }

    fn iptables(self, option: char) -> String {
        let not = if self.negated { "! " } else { "" };
        format!("{not}-{option} {} ", self.prefix)
    }

    fn nft(self, family: Family, side: &str) -> String {
        let not = if self.negated { "!= " } else { "" };
        format!("{} {side} {not}{} ", family.nft(), self.prefix)
    }
}

/// One rule. Everything that it names has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    marked_by_kube_proxy: bool,
    source: Option<Of>,
    destination: Option<Of>,
    verdict: Verdict,
}

fn of(prefix: IpNet) -> Option<Of> {
    Some(Of { prefix, negated: false })
}

fn not_of(prefix: IpNet) -> Option<Of> {
    Some(Of { prefix, negated: true })
}

fn rule(source: Option<Of>, destination: Option<Of>, verdict: Verdict) -> Rule {
    Rule { marked_by_kube_proxy: false, source, destination, verdict }
}

impl Rule {
    /// As `iptables-save` writes it after the name of the chain.
    pub(super) fn iptables(&self, comment: &str) -> String {
        let mark = if self.marked_by_kube_proxy {
            format!("-m mark --mark {KUBE_PROXY_MARK}/{KUBE_PROXY_MARK} ")
        } else {
            String::new()
        };
        let comment = format!("-m comment --comment \"{comment}\" ");
        format!("{}{mark}{comment}{}", self.iptables_addresses(), self.iptables_verdict())
    }

    /// The same without mark and comment, as flanneld's oldest versions wrote it.
    fn iptables_bare(&self) -> String {
        format!("{}{}", self.iptables_addresses(), self.iptables_verdict())
    }

    fn iptables_addresses(&self) -> String {
        let source = self.source.map(|source| source.iptables('s'));
        let destination = self.destination.map(|destination| destination.iptables('d'));
        source.into_iter().chain(destination).collect()
    }

    fn iptables_verdict(&self) -> String {
        let random = |fully_random| if fully_random { " --random-fully" } else { "" };
        match self.verdict {
            Verdict::Return => "-j RETURN".to_owned(),
            Verdict::Accept => "-j ACCEPT".to_owned(),
            Verdict::Masquerade { fully_random } => {
                format!("-j MASQUERADE{}", random(fully_random))
            }
            Verdict::Source { address, fully_random } => {
                format!("-j SNAT --to-source {address}{}", random(fully_random))
            }
        }
    }

    /// As `nft list` writes it.
    pub(super) fn nft(&self, family: Family) -> String {
        let mark = if self.marked_by_kube_proxy { "meta mark 0x00004000 " } else { "" };
        let source = self.source.map(|source| source.nft(family, "saddr")).unwrap_or_default();
        let destination = self
            .destination
            .map(|destination| destination.nft(family, "daddr"))
            .unwrap_or_default();
        let random = |fully_random| if fully_random { " fully-random" } else { "" };
        let verdict = match self.verdict {
            Verdict::Return => "return".to_owned(),
            Verdict::Accept => "accept".to_owned(),
            Verdict::Masquerade { fully_random } => format!("masquerade{}", random(fully_random)),
            Verdict::Source { address, fully_random } => {
                format!("snat to {address}{}", random(fully_random))
            }
        };
        format!("{mark}{source}{destination}{verdict}")
    }
}

/// Packets that leave the overlay network get an address of this host, and so do packets of hosts
/// that enter it. Between pods, and from outside to a pod of this host, nothing is changed.
pub(super) fn masquerade(overlay: &Overlay, fully_random: bool) -> Vec<Rule> {
    let Overlay { network, subnet, fixed_source } = *overlay;
    let multicast = overlay.family().multicast();
    let masquerade = Verdict::Masquerade { fully_random };
    let inward = match fixed_source {
        true => Verdict::Source { address: subnet.network(), fully_random },
        false => masquerade,
    };
    let marked = Rule { marked_by_kube_proxy: true, ..rule(None, None, Verdict::Return) };
    vec![
        marked,
        rule(of(subnet), of(network), Verdict::Return),
        rule(of(network), of(subnet), Verdict::Return),
        rule(not_of(network), of(subnet), Verdict::Return),
        rule(of(network), not_of(multicast), masquerade),
        rule(not_of(network), of(network), inward),
    ]
}

/// What the rules of masquerading do with a packet that nobody has marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Treatment {
    /// The rule that decides, as iptables writes it.
    pub rule: String,
    /// The packet gets an address of this host.
    pub is_masqueraded: bool,
}

/// The first rule of masquerading that a packet meets when it leaves this host; `None` if none is for
/// it.
#[must_use]
pub fn treatment(
    overlay: &Overlay,
    fully_random: bool,
    source: IpAddr,
    destination: IpAddr,
) -> Option<Treatment> {
    let matches = |of: Option<Of>, address| of.is_none_or(|of| of.matches(address));
    let rules = masquerade(overlay, fully_random);
    let rule = rules.into_iter().find(|rule| {
        !rule.marked_by_kube_proxy
            && matches(rule.source, source)
            && matches(rule.destination, destination)
    })?;
    let is_masqueraded =
        matches!(rule.verdict, Verdict::Masquerade { .. } | Verdict::Source { .. });
    Some(Treatment { rule: rule.iptables_bare(), is_masqueraded })
}

/// What comes from or goes to the network may pass this host.
pub(super) fn forward(network: IpNet) -> Vec<Rule> {
    vec![rule(of(network), None, Verdict::Accept), rule(None, of(network), Verdict::Accept)]
}

/// Rules that flanneld's versions before own chains and comments left in `POSTROUTING`.
pub(super) fn old_masquerade(overlay: &Overlay) -> Vec<String> {
    let Overlay { network, subnet, .. } = *overlay;
    let multicast = overlay.family().multicast();
    let mut old = vec![
        rule(of(network), of(network), Verdict::Return),
        rule(not_of(network), of(subnet), Verdict::Return),
    ];
    for fully_random in [false, true] {
        let masquerade = Verdict::Masquerade { fully_random };
        old.push(rule(of(network), not_of(multicast), masquerade));
        old.push(rule(not_of(network), of(network), masquerade));
    }
    old.iter().map(Rule::iptables_bare).collect()
}

/// Those in `FORWARD`.
pub(super) fn old_forward(overlay: &Overlay) -> Vec<String> {
    forward(overlay.network).iter().map(Rule::iptables_bare).collect()
}

impl fmt::Display for Overlay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {}", self.subnet, self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(network: &str, subnet: &str) -> Overlay {
        let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
        Overlay { network, subnet, fixed_source: false }
    }

    fn iptables(rules: &[Rule]) -> Vec<String> {
        rules.iter().map(|rule| rule.iptables("flanneld masq")).collect()
    }

    fn nft(rules: &[Rule], family: Family) -> Vec<String> {
        rules.iter().map(|rule| rule.nft(family)).collect()
    }

    #[test]
    fn masquerading_of_ipv4_is_flannels_to_the_byte() {
        let rules = masquerade(&overlay("10.244.0.0/16", "10.244.1.0/24"), true);
        assert_eq!(
            iptables(&rules),
            [
                r#"-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#,
                r#"! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#,
            ]
        );
        assert_eq!(
            nft(&rules, Family::V4),
            [
                "meta mark 0x00004000 return",
                "ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return",
                "ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return",
                "ip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return",
                "ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
                "ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random",
            ]
        );
    }

    #[test]
    fn masquerading_of_ipv6_with_guessable_ports() {
        let rules = masquerade(&overlay("fd00:10::/48", "fd00:10:0:1::/64"), false);
        assert_eq!(
            iptables(&rules)[3..],
            [
                r#"! -s fd00:10::/48 -d fd00:10:0:1::/64 -m comment --comment "flanneld masq" -j RETURN"#,
                r#"-s fd00:10::/48 ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE"#,
                r#"! -s fd00:10::/48 -d fd00:10::/48 -m comment --comment "flanneld masq" -j MASQUERADE"#,
            ]
        );
        assert_eq!(
            nft(&rules, Family::V6)[3..],
            [
                "ip6 saddr != fd00:10::/48 ip6 daddr fd00:10:0:1::/64 return",
                "ip6 saddr fd00:10::/48 ip6 daddr != ff00::/8 masquerade",
                "ip6 saddr != fd00:10::/48 ip6 daddr fd00:10::/48 masquerade",
            ]
        );
    }

    #[test]
    fn each_packet_meets_one_rule() {
        let overlay = overlay("10.244.0.0/16", "10.244.1.0/24");
        for (source, destination, rule, is_masqueraded) in [
            ("10.244.1.7", "10.244.2.7", "-s 10.244.1.0/24 -d 10.244.0.0/16 -j RETURN", false),
            ("10.244.2.7", "10.244.1.7", "-s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN", false),
            ("192.0.2.1", "10.244.1.7", "! -s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN", false),
            ("10.244.1.7", "192.0.2.1", "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE", true),
            ("192.0.2.1", "10.244.2.7", "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE", true),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let found = treatment(&overlay, false, source, destination);
            assert_eq!(found, Some(Treatment { rule: rule.to_owned(), is_masqueraded }));
        }
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        assert_eq!(treatment(&overlay, true, one, other), None);
    }

    #[test]
    fn with_several_paths_hosts_have_one_address() {
        for (network, subnet, address) in [
            ("10.244.0.0/16", "10.244.1.0/24", "10.244.1.0"),
            ("fd00:10::/48", "fd00:10:0:1::/64", "fd00:10:0:1::"),
        ] {
            let overlay = Overlay { fixed_source: true, ..overlay(network, subnet) };
            let (random, plain) = (masquerade(&overlay, true), masquerade(&overlay, false));
            let others = masquerade(&Overlay { fixed_source: false, ..overlay }, true);
            assert_eq!(random[..5], others[..5], "only what goes into the network");
            let family = overlay.family();
            let written = |rule: &Rule| (rule.iptables_verdict(), rule.nft(family));
            let (iptables, nft) = written(&random[5]);
            assert_eq!(iptables, format!("-j SNAT --to-source {address} --random-fully"));
            assert!(nft.ends_with(&format!(" snat to {address} fully-random")), "{nft}");
            let (iptables, nft) = written(&plain[5]);
            assert_eq!(iptables, format!("-j SNAT --to-source {address}"));
            assert!(nft.ends_with(&format!(" snat to {address}")), "{nft}");
        }
    }

    #[test]
    fn forwarding_is_accepted_in_both_directions() {
        let rules = forward("10.244.0.0/16".parse().unwrap());
        let texts: Vec<_> = rules.iter().map(|rule| rule.iptables("flanneld forward")).collect();
        assert_eq!(
            texts,
            [
                r#"-s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT"#,
                r#"-d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT"#,
            ]
        );
        assert_eq!(
            nft(&rules, Family::V4),
            ["ip saddr 10.244.0.0/16 accept", "ip daddr 10.244.0.0/16 accept"]
        );
    }

    #[test]
    fn rules_of_old_versions_are_known() {
        let overlay = overlay("10.244.0.0/16", "10.244.0.0/24");
        let old = old_masquerade(&overlay);
        for text in [
            "-s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
            "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            "! -s 10.244.0.0/16 -d 10.244.0.0/24 -j RETURN",
            "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE",
        ] {
            assert!(old.iter().any(|one| one == text), "{text}");
        }
        let forward = ["-s 10.244.0.0/16 -j ACCEPT", "-d 10.244.0.0/16 -j ACCEPT"];
        assert_eq!(old_forward(&overlay), forward);
    }
}
