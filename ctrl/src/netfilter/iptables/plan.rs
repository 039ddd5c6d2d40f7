//! From what is there and what is wanted to one transaction, which leaves no moment without rules.

use std::fmt::Write as _;

use super::dump::{Table, leads_to};
use crate::netfilter::rules::{self, Overlay, Rule};

/// One of flannel's two chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::netfilter) enum Place {
    /// Addresses are changed.
    Masquerade,
    /// Packets may pass.
    Forward,
}

impl Place {
    pub(in crate::netfilter) const ALL: [Self; 2] = [Self::Masquerade, Self::Forward];

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Masquerade => "nat",
            Self::Forward => "filter",
        }
    }

    /// The chain of the kernel that leads into ours.
    pub(in crate::netfilter) fn hook(self) -> &'static str {
        match self {
            Self::Masquerade => "POSTROUTING",
            Self::Forward => "FORWARD",
        }
    }

    pub(in crate::netfilter) fn chain(self) -> &'static str {
        match self {
            Self::Masquerade => "FLANNEL-POSTRTG",
            Self::Forward => "FLANNEL-FWD",
        }
    }

    fn comment(self) -> &'static str {
        match self {
            Self::Masquerade => "flanneld masq",
            Self::Forward => "flanneld forward",
        }
    }

    fn jump(self) -> String {
        format!("-m comment --comment \"{}\" -j {}", self.comment(), self.chain())
    }

    /// The rules of a network in our chain.
    pub(super) fn rules(self, overlay: &Overlay, fully_random: bool) -> Vec<String> {
        let rules = match self {
            Self::Masquerade => rules::masquerade(overlay, fully_random),
            Self::Forward => rules::forward(overlay.network),
        };
        rules.iter().map(|rule: &Rule| rule.iptables(self.comment())).collect()
    }

    /// Rules that versions without chains left in the kernel's chain.
    fn old(self, overlay: &Overlay) -> Vec<String> {
        match self {
            Self::Masquerade => rules::old_masquerade(overlay),
            Self::Forward => rules::old_forward(overlay),
        }
    }
}

/// What is wanted in one of the chains.
pub(super) struct Wish<'a> {
    pub(super) place: Place,
    /// Our rules; none if the chain is not wanted.
    pub(super) rules: Vec<String>,
    /// What our rules are or were made from. Rules for any of their networks are ours to remove.
    pub(super) ours: &'a [Overlay],
    /// Whether rules of other networks stay. Another daemon of this host may have put its own into
    /// the same chain.
    pub(super) keeps_others: bool,
}

impl Wish<'_> {
    /// The input of `iptables-restore --noflush`; `None` if there is nothing to do. Everything in it
    /// happens at once: packets meet the rules before or the rules after.
    pub(super) fn plan(&self, table: Option<&Table>) -> Option<String> {
        let nothing = Table::default();
        let table = table.unwrap_or(&nothing);
        let Self { place, .. } = self;
        let (hook, chain) = (place.hook(), place.chain());
        let there: Vec<&str> = table.rules(chain).collect();
        let (others, rest) = self.others(&there);
        let is_wanted = !self.rules.is_empty() || !others.is_empty();
        let mut steps = String::new();
        if rest != self.rules || (is_wanted && !table.has_chain(chain)) {
            // This empties a chain that exists.
            let _ = writeln!(steps, ":{chain} - [0:0]");
            for rule in others.iter().copied().chain(self.rules.iter().map(String::as_str)) {
                let _ = writeln!(steps, "-A {chain} {rule}");
            }
        }
        self.plan_hook(table, is_wanted, &mut steps);
        if !is_wanted && table.has_chain(chain) && !table.is_used_elsewhere(chain, hook) {
            let _ = writeln!(steps, "-F {chain}\n-X {chain}");
        }
        (!steps.is_empty()).then(|| format!("*{}\n{steps}COMMIT\n", place.table()))
    }

    /// The jump from the kernel's chain: there once, where it was, and at the end otherwise. What old
    /// versions had instead of it gives its place to it.
    fn plan_hook(&self, table: &Table, is_wanted: bool, steps: &mut String) {
        let (hook, jump) = (self.place.hook(), self.place.jump());
        let there: Vec<&str> = table.rules(hook).collect();
        let jumps = there.iter().filter(|rule| **rule == jump).count();
        let stale: Vec<(usize, &str)> = there
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, rule)| self.is_stale(rule, jumps))
            .collect();
        if is_wanted && jumps == 0 {
            let _ = match stale.first() {
                Some((index, _)) => writeln!(steps, "-I {hook} {} {jump}", index + 1),
                None => writeln!(steps, "-A {hook} {jump}"),
            };
        }
        // By what they say and not by their numbers, which another program may have moved.
        let surplus = jumps.saturating_sub(usize::from(is_wanted));
        let surplus = std::iter::repeat_n(jump.as_str(), surplus);
        for rule in surplus.chain(stale.iter().map(|(_, rule)| *rule)) {
            let _ = writeln!(steps, "-D {hook} {rule}");
        }
    }

    /// Rules of flannel in the kernel's chain other than the jump. Without a comment they are known
    /// only by their form, so they are taken for flannel's only where our jump takes their place.
    fn is_stale(&self, rule: &str, jumps: usize) -> bool {
        if rule == self.place.jump() {
            return false;
        }
        let comment = format!("--comment \"{}\" ", self.place.comment());
        let is_old =
            || self.ours.iter().any(|ours| self.place.old(ours).iter().any(|old| old == rule));
        let is_replaced = jumps == 0 && !self.rules.is_empty();
        rule.contains(&comment) || leads_to(rule, self.place.chain()) || (is_replaced && is_old())
    }

    /// Complete rule sets of other daemons, and what is left without them.
    fn others<'a>(&self, there: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
        let (mut others, mut rest) = (Vec::new(), Vec::new());
        let mut left = there;
        while let Some((first, tail)) = left.split_first() {
            match self.set_of_another(left) {
                Some(length) => {
                    others.extend(&left[..length]);
                    left = &left[length..];
                }
                None => {
                    rest.push(*first);
                    left = tail;
                }
            }
        }
        (others, rest)
    }

    /// The number of rules that begin the list and are all that a network needs that is not ours.
    fn set_of_another(&self, rules: &[&str]) -> Option<usize> {
        if !self.keeps_others {
            return None;
        }
        let overlay = match self.place {
            Place::Masquerade => {
                let (subnet, rest) = source(rules.get(1)?)?;
                let network = rest.strip_prefix("-d ")?.split(' ').next()?.parse().ok()?;
                Overlay { network, subnet, fixed_source: false }
            }
            Place::Forward => {
                let (network, _) = source(rules.first()?)?;
                Overlay { network, subnet: network, fixed_source: false }
            }
        };
        let is_apart = |ours: &Overlay| {
            !ours.network.contains(&overlay.network) && !overlay.network.contains(&ours.network)
        };
        let is_complete = |(fixed_source, fully_random)| {
            let set = self.place.rules(&Overlay { fixed_source, ..overlay }, fully_random);
            rules.starts_with(&set.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut forms = [(false, false), (false, true), (true, false), (true, true)].into_iter();
        let is_set = self.ours.iter().all(is_apart) && forms.any(is_complete);
        is_set.then(|| self.place.rules(&overlay, false).len())
    }
}

fn source(rule: &str) -> Option<(ipnet::IpNet, &str)> {
    let (network, rest) = rule.strip_prefix("-s ")?.split_once(' ')?;
    Some((network.parse().ok()?, rest))
}

/// Whether the table drops forwarded packets at the end of the kernel's chain and nothing of ours
/// accepts those of `network` before.
pub(super) fn drops_forwarded(table: &Table, network: ipnet::IpNet) -> bool {
    let chain = Place::Forward.chain();
    let accepts = |option: &str| {
        let wanted = format!("{option} {network} ");
        table.all_rules().any(|rule| rule.contains(&wanted) && rule.ends_with("-j ACCEPT"))
    };
    table.policy(Place::Forward.hook()) == Some("DROP")
        && !table.has_chain(chain)
        && !(accepts("-s") && accepts("-d"))
}
