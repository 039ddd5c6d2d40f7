//! What `iptables-save` printed.

use std::collections::BTreeMap;

/// All tables that there are.
#[derive(Debug, Default)]
pub(super) struct Dump {
    tables: BTreeMap<String, Table>,
}

/// One table.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Chains with their policies, which is `-` for those of users.
    chains: BTreeMap<String, String>,
    /// Chain and the rest of the line, in order.
    rules: Vec<(String, String)>,
}

impl Dump {
    /// Reads it; lines of unknown kinds are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let mut dump = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Some(dump.tables.entry(name.trim().to_owned()).or_default());
            } else if let Some(table) = &mut table {
                table.read(line);
            }
        }
        dump
    }

    /// A table, if it exists.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }
}

impl Table {
    fn read(&mut self, line: &str) {
        if let Some(declaration) = line.strip_prefix(':') {
            let mut words = declaration.split_whitespace();
            if let (Some(chain), Some(policy)) = (words.next(), words.next()) {
                self.chains.insert(chain.to_owned(), policy.to_owned());
            }
        } else if let Some(rule) = line.strip_prefix("-A ")
            && let Some((chain, rest)) = rule.split_once(' ')
        {
            self.rules.push((chain.to_owned(), rest.trim_end().to_owned()));
        }
    }

    pub(super) fn has_chain(&self, chain: &str) -> bool {
        self.chains.contains_key(chain)
    }

    /// What becomes of packets at the end of a built-in chain.
    pub(super) fn policy(&self, chain: &str) -> Option<&str> {
        self.chains.get(chain).map(String::as_str)
    }

    /// The rules of a chain, in order.
    pub(super) fn rules<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a str> {
        self.rules.iter().filter(move |(of, _)| of == chain).map(|(_, rule)| rule.as_str())
    }

    /// The rules of all chains.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|(_, rule)| rule.as_str())
    }

    /// Whether a chain other than `apart_from` has a rule that leads into `target`.
    pub(super) fn is_used_elsewhere(&self, target: &str, apart_from: &str) -> bool {
        self.rules.iter().any(|(of, rule)| of != apart_from && leads_to(rule, target))
    }
}

/// Whether a rule goes on in another chain.
pub(super) fn leads_to(rule: &str, target: &str) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && pair[1] == target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_dump() {
        let dump = Dump::parse(include_str!("../../../tests/data/iptables-save-udp.txt"));
        let nat = dump.table("nat").unwrap();
        assert!(nat.has_chain("FLANNEL-POSTRTG") && !nat.has_chain("FLANNEL-FWD"));
        assert_eq!(nat.rules("FLANNEL-POSTRTG").count(), 5);
        let jump: Vec<&str> = nat.rules("POSTROUTING").collect();
        assert_eq!(jump, [r#"-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#]);
        assert!(leads_to(jump[0], "FLANNEL-POSTRTG") && !leads_to(jump[0], "FLANNEL"));
        assert!(nat.is_used_elsewhere("FLANNEL-POSTRTG", "PREROUTING"));
        assert!(!nat.is_used_elsewhere("FLANNEL-POSTRTG", "POSTROUTING"));
        assert_eq!(dump.table("filter").unwrap().policy("FORWARD"), Some("ACCEPT"));
        assert!(dump.table("mangle").is_none());
    }
}
