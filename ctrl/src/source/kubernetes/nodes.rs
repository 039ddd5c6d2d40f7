//! Which lease is whose: nodes come, change and go by their names, leases by their subnets.
//!
//! Two nodes with one pod CIDR are a mistake of whoever gave it; the one that was there first has it,
//! and this node always keeps its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tracing::warn;

use crate::lease::Leaf;
use crate::source::{Change, Record};

/// A node as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) node: String,
    /// Another node of the same name has another one.
    pub(super) uid: String,
    pub(super) leaf: Leaf,
    /// What it says; its name is that of `leaf`.
    pub(super) record: Record,
    /// It is this node.
    pub(super) is_own: bool,
}

/// All nodes that take part.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<String, Seen>,
    /// The node that has each lease.
    holders: HashMap<String, String>,
}

impl Nodes {
    /// The subnets of a node that is known; they do not change as long as it is the same node.
    pub(super) fn leaf(&self, node: &str, uid: &str) -> Option<Leaf> {
        self.known.get(node).filter(|seen| seen.uid == uid).map(|seen| seen.leaf)
    }

    /// Everything that there is, who was there first before the others. Returns the leases.
    pub(super) fn replace_all(&mut self, nodes: Vec<Seen>) -> Vec<Record> {
        self.known.clear();
        self.holders.clear();
        let (own, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|seen| seen.is_own);
        let mut records = Vec::with_capacity(own.len() + others.len());
        for seen in own.into_iter().chain(others) {
            if self.may_hold(&seen) {
                records.push(seen.record.clone());
                self.holders.insert(seen.record.name.clone(), seen.node.clone());
            }
            self.known.insert(seen.node.clone(), seen);
        }
        records
    }

    /// A node is there, or says something. Returns what this changes.
    pub(super) fn put(&mut self, seen: Seen) -> Vec<Change> {
        let mut changes = Vec::new();
        let before = self.known.get(&seen.node);
        if let Some(before) = before
            && before.record.name != seen.record.name
        {
            let node = seen.node.clone();
            changes = self.remove(&node, seen.record.revision);
        } else if before.is_some_and(|before| before.record.value == seen.record.value) {
            return changes;
        }
        if self.may_hold(&seen) {
            self.holders.insert(seen.record.name.clone(), seen.node.clone());
            changes.push(Change::Put(seen.record.clone()));
        }
        self.known.insert(seen.node.clone(), seen);
        changes
    }

    /// A node is gone, or takes no part any more.
    pub(super) fn remove(&mut self, node: &str, revision: u64) -> Vec<Change> {
        let Some(gone) = self.known.remove(node) else { return Vec::new() };
        let name = gone.record.name;
        let Entry::Occupied(holder) = self.holders.entry(name.clone()) else { return Vec::new() };
        if holder.get() != node {
            return Vec::new();
        }
        holder.remove();
        let mut changes = vec![Change::Deleted { name: name.clone(), revision }];
        if let Some(next) = self.known.values().find(|seen| seen.record.name == name) {
            self.holders.insert(name, next.node.clone());
            let record = Record { revision, ..next.record.clone() };
            changes.push(Change::Put(record));
        }
        changes
    }

    fn may_hold(&self, seen: &Seen) -> bool {
        match self.holders.get(&seen.record.name) {
            Some(holder) if *holder != seen.node && !seen.is_own => {
                let (node, lease) = (&seen.node, &seen.record.name);
                warn!(
                    node,
                    holder, lease, "two nodes have one pod CIDR; the second one is left out"
                );
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(node: &str, uid: &str, lease: &str, value: &str, revision: u64) -> Seen {
        let record = Record { revision, ..Record::lasting(lease, value) };
        let leaf = lease.parse().unwrap();
        Seen { node: node.into(), uid: uid.into(), leaf, record, is_own: node == "own" }
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let one = |change: &Change| match change {
            Change::Put(record) => {
                format!("{}={}", record.name, String::from_utf8_lossy(&record.value))
            }
            Change::Deleted { name, revision } => format!("{name} gone at {revision}"),
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn only_news_are_told() {
        let mut nodes = Nodes::default();
        assert_eq!(shown(&nodes.put(seen("a", "1", "10.5.1.0-24", "x", 1))), ["10.5.1.0-24=x"]);
        assert_eq!(shown(&nodes.put(seen("a", "1", "10.5.1.0-24", "x", 2))), [""; 0]);
        assert_eq!(shown(&nodes.put(seen("a", "1", "10.5.1.0-24", "y", 3))), ["10.5.1.0-24=y"]);
        assert_eq!(shown(&nodes.remove("a", 4)), ["10.5.1.0-24 gone at 4"]);
        assert_eq!(shown(&nodes.remove("a", 5)), [""; 0]);
    }

    #[test]
    fn a_node_that_was_made_again_has_another_lease() {
        let mut nodes = Nodes::default();
        nodes.put(seen("a", "1", "10.5.1.0-24", "x", 1));
        assert!(nodes.leaf("a", "1").is_some());
        assert_eq!(nodes.leaf("a", "2"), None);
        assert_eq!(
            shown(&nodes.put(seen("a", "2", "10.5.2.0-24", "x", 7))),
            ["10.5.1.0-24 gone at 7", "10.5.2.0-24=x"]
        );
    }

    #[test]
    fn one_subnet_has_one_node() {
        let mut nodes = Nodes::default();
        let all = vec![
            seen("b", "1", "10.5.1.0-24", "b", 1),
            seen("c", "1", "10.5.1.0-24", "c", 2),
            seen("d", "1", "10.5.3.0-24", "d", 3),
            seen("own", "1", "10.5.3.0-24", "own", 4),
        ];
        let records = nodes.replace_all(all);
        let values: Vec<_> =
            records.iter().map(|record| String::from_utf8_lossy(&record.value)).collect();
        assert_eq!(values, ["own", "b"]);
        assert_eq!(shown(&nodes.put(seen("c", "1", "10.5.1.0-24", "c2", 5))), [""; 0]);
        assert_eq!(shown(&nodes.remove("d", 6)), [""; 0]);
        assert_eq!(shown(&nodes.remove("b", 7)), ["10.5.1.0-24 gone at 7", "10.5.1.0-24=c2"]);
        assert_eq!(shown(&nodes.remove("c", 8)), ["10.5.1.0-24 gone at 8"]);
    }
}
