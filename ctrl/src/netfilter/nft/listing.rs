//! What `nft` printed.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::netfilter::rules::Family;

/// A table as `nft list table` writes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TableText {
    chains: BTreeMap<String, ChainText>,
}

/// A chain of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChainText {
    /// Where the kernel enters it.
    pub(super) hook: Option<String>,
    pub(super) rules: Vec<String>,
}

impl TableText {
    pub(super) fn parse(text: &str) -> Self {
        let mut table = Self::default();
        let mut chain: Option<&mut ChainText> = None;
        for line in text.lines().map(str::trim) {
            let name = line.strip_prefix("chain ").and_then(|line| line.strip_suffix(" {"));
            if let Some(name) = name {
                chain = Some(table.chains.entry(name.to_owned()).or_default());
            } else if line == "}" {
                chain = None;
            } else if let Some(chain) = &mut chain {
                chain.read(line);
            }
        }
        table
    }

    /// How many chains it has.
    pub(super) fn chains(&self) -> usize {
        self.chains.len()
    }

    pub(super) fn chain(&self, name: &str) -> Option<&ChainText> {
        self.chains.get(name)
    }
}

impl ChainText {
    fn read(&mut self, line: &str) {
        if line.starts_with("type ") {
            self.hook = Some(line.to_owned());
        } else if !line.is_empty() && !line.starts_with("comment ") {
            self.rules.push(line.to_owned());
        }
    }
}

/// The packets that rules with a counter have dropped, of a chain as `nft list chain` writes it.
pub(super) fn dropped(text: &str) -> u64 {
    let rules = text.lines().map(str::trim).filter(|rule| rule.ends_with(" drop"));
    let counted = |rule: &str| {
        let (_, behind) = rule.split_once(" counter packets ")?;
        behind.split(' ').next()?.parse::<u64>().ok()
    };
    rules.filter_map(counted).sum()
}

/// The answer to `nft --json list chains`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub(in crate::netfilter) struct Chains {
    #[serde(rename = "nftables")]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    chain: Option<Chain>,
}

/// A chain.
#[derive(Debug, Deserialize)]
pub(in crate::netfilter) struct Chain {
    pub(in crate::netfilter) family: String,
    pub(in crate::netfilter) table: String,
    pub(in crate::netfilter) name: String,
    hook: Option<String>,
    policy: Option<String>,
}

impl Chains {
    /// What is not such an answer has no chains.
    pub(super) fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Chains at a hook that drop packets of a family that they do not accept, apart from those that
    /// lead into a chain `helped_by` of the same table.
    pub(in crate::netfilter) fn dropping(
        &self,
        family: Family,
        hook: &str,
        helped_by: &str,
    ) -> Vec<&Chain> {
        let chains = || self.entries.iter().filter_map(|entry| entry.chain.as_ref());
        let is_helped = |chain: &Chain| {
            chains().any(|one| {
                one.name == helped_by && one.family == chain.family && one.table == chain.table
            })
        };
        chains()
            .filter(|chain| chain.hook.as_deref() == Some(hook))
            .filter(|chain| chain.policy.as_deref() == Some("drop"))
            .filter(|chain| chain.family == family.nft() || chain.family == "inet")
            .filter(|chain| !is_helped(chain))
            .collect()
    }
}
