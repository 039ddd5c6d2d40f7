//! What is read of a Node object. Everything else, such as its list of images, is skipped while it is
//! read, so that a cluster of thousands of nodes costs little memory.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use crate::lease::Leaf;

use super::KubernetesError;

/// A node, or only its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    /// Another node of the same name has another one.
    pub(super) uid: String,
    pub(super) resource_version: String,
    /// RFC 3339 in UTC, so that the order of texts is that of time.
    pub(super) creation_timestamp: Option<String>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodePage {
    pub(super) metadata: PageMetadata,
    pub(super) items: Vec<Node>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

impl Metadata {
    pub(super) fn annotations(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.annotations.as_ref().unwrap_or(&NONE)
    }

    /// Kubernetes promises since 1.35 that it is a number that grows, and it always was one.
    pub(super) fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

impl Node {
    /// The subnets that the node was given: of each family the last one, as flanneld takes them.
    pub(super) fn leaf(&self) -> Result<Leaf, KubernetesError> {
        let node = || self.metadata.name.clone();
        let listed = self.spec.pod_cidrs.as_deref().unwrap_or_default();
        let single = self.spec.pod_cidr.as_slice();
        let texts = if listed.is_empty() { single } else { listed };
        if texts.len() > 2 {
            return Err(KubernetesError::PodCidrs { node: node(), given: texts.join(", ") });
        }
        let mut leaf = Leaf { v4: None, v6: None };
        for text in texts.iter().filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(IpNet::V4(subnet)) => leaf.v4 = Some(subnet),
                Ok(IpNet::V6(subnet)) => leaf.v6 = Some(subnet),
                Err(_) => {
                    return Err(KubernetesError::PodCidrs {
                        node: node(),
                        given: texts.join(", "),
                    });
                }
            }
        }
        match leaf.subnets().next() {
            Some(_) => Ok(leaf),
            None => Err(KubernetesError::NoPodCidr { node: node() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(spec: &str) -> Result<String, String> {
        let text = format!(r#"{{"metadata":{{"name":"n","annotations":null}},"spec":{spec}}}"#);
        let node: Node = serde_json::from_str(&text).unwrap();
        node.leaf().map(|leaf| leaf.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn subnets_are_found_in_both_fields() {
        for (spec, expected) in [
            (r#"{"podCIDR":"10.244.1.0/24"}"#, "10.244.1.0-24"),
            (r#"{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}"#, "10.244.1.0-24"),
            (r#"{"podCIDR":"10.244.1.0/24","podCIDRs":[]}"#, "10.244.1.0-24"),
            (r#"{"podCIDRs":["fd00:1::/64","10.244.1.0/24"]}"#, "10.244.1.0-24&fd00:1::-64"),
            (r#"{"podCIDRs":["fd00:1::/64"]}"#, "0.0.0.0-0&fd00:1::-64"),
            (r#"{"podCIDRs":["10.244.1.0/24","10.244.2.0/24"]}"#, "10.244.2.0-24"),
        ] {
            assert_eq!(leaf(spec).as_deref(), Ok(expected), "{spec}");
        }
        assert!(leaf("{}").unwrap_err().contains("no pod CIDR"));
        assert!(leaf(r#"{"podCIDR":""}"#).unwrap_err().contains("no pod CIDR"));
        for spec in
            [r#"{"podCIDR":"x"}"#, r#"{"podCIDRs":["10.1.0.0/24","10.2.0.0/24","10.3.0.0/24"]}"#]
        {
            assert!(leaf(spec).unwrap_err().contains("cannot be used"), "{spec}");
        }
    }

    #[test]
    fn a_node_of_real_size_is_read_without_its_bulk() {
        let text = r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"a","uid":"u",
            "resourceVersion":"77","creationTimestamp":"2026-01-02T03:04:05Z",
            "labels":{"x":"y"},"annotations":{"k":"v"},"managedFields":[{"manager":"m"}]},
            "spec":{"podCIDR":"10.244.1.0/24","taints":[]},
            "status":{"images":[{"names":["i"],"sizeBytes":1}]}}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!((node.metadata.name.as_str(), node.metadata.revision()), ("a", 77));
        assert_eq!(node.metadata.annotations()["k"], "v");
    }
}
