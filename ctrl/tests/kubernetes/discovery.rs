//! What the API server says about itself, so that `kubectl` finds its way: the version, and which
//! resources there are. There is no schema, so nothing can be validated by one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Group and version, plural, kind, and whether it is in a namespace.
const RESOURCES: &[(&str, &str, &str, bool)] = &[
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "namespaces", "Namespace", false),
    ("v1", "nodes", "Node", false),
    ("v1", "pods", "Pod", true),
    ("v1", "serviceaccounts", "ServiceAccount", true),
    ("apps/v1", "daemonsets", "DaemonSet", true),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", true),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", true),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", true),
];

/// The answer to a question that is not about an object.
pub(crate) fn discover(path: &str) -> Option<Value> {
    match path.trim_matches('/') {
        "version" => Some(json!({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})),
        "api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "apis" => Some(groups()),
        path => resources(path.strip_prefix("api/").or_else(|| path.strip_prefix("apis/"))?),
    }
}

fn groups() -> Value {
    let versions: BTreeSet<&str> = RESOURCES.iter().map(|resource| resource.0).collect();
    let named = versions.into_iter().filter_map(|both| Some((both, both.split_once('/')?)));
    let groups = named.map(|(both, (group, version))| {
        let version = json!({"groupVersion": both, "version": version});
        json!({"name": group, "versions": [version], "preferredVersion": version})
    });
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
}

fn resources(group_version: &str) -> Option<Value> {
    let of_group = RESOURCES.iter().filter(|resource| resource.0 == group_version);
    let resources: Vec<Value> = of_group
        .map(|(_, plural, kind, is_namespaced)| {
            json!({
                "name": plural,
                "singularName": kind.to_lowercase(),
                "namespaced": is_namespaced,
                "kind": kind,
                "verbs": ["create", "delete", "get", "list", "patch", "watch"],
            })
        })
        .collect();
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    });
    (!resources.is_empty()).then_some(list)
}
