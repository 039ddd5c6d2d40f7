//! What a test does to a cluster past the daemons, with every right, whichever API server it has.

use std::process::Command;

use serde_json::{Value, json};

pub(crate) const NODES: &str = "/api/v1/nodes";

/// Verbs and resources: the rights of flannel's service account.
pub(crate) const FLANNELS_RIGHTS: &[(&str, &str)] = &[
    ("get", "pods"),
    ("get", "nodes"),
    ("list", "nodes"),
    ("watch", "nodes"),
    ("patch", "nodes/status"),
];

/// Whether `kubectl` is installed.
pub(crate) fn has_kubectl() -> bool {
    Command::new("kubectl").args(["version", "--client"]).output().is_ok()
}

/// What `kubectl` and a daemon read to find the server.
pub(crate) fn kubeconfig(server: &str, authority: &str, user: &Value) -> String {
    let cluster = json!({"server": server, "certificate-authority": authority});
    let config = json!({
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    config.to_string()
}

/// An API server with what it keeps, which outlives a stop.
pub(crate) trait Cluster: Send + Sync {
    /// Whether there is one to test with. Says loudly if not.
    fn can_run() -> bool
    where
        Self: Sized;

    /// Serves encrypted at an address, inside of a network namespace if there is one given. `files` are
    /// CA, certificate and key. Whoever has `token` has the rights of flannel's service account.
    fn start_for(token: &str, namespace: Option<&str>, address: &str, files: [String; 3]) -> Self
    where
        Self: Sized;

    /// From the next start on, this is the token.
    fn accept(&mut self, token: &str);

    fn url(&self) -> String;

    /// Serves again, with what the files say now.
    fn run(&mut self);

    /// Every connection is closed.
    fn stop(&mut self);

    fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Forgets how everything came to be as it is, as happens every five minutes.
    fn compact(&self);

    /// Runs `kubectl` beside the server.
    fn kubectl(&self, words: &[&str]) -> String;

    fn add(&self, collection: &str, object: Value);

    fn object(&self, collection: &str, name: &str) -> Option<Value>;

    fn node_names(&self) -> Vec<String>;

    fn delete_node(&self, name: &str);

    fn annotate(&self, node: &str, annotations: &Value);

    /// Adds a node as a kubelet and the controller manager do.
    fn add_node(&self, name: &str, pod_cidrs: &[&str]) {
        let mut node = json!({
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {"name": name, "annotations": {"node.alpha.kubernetes.io/ttl": "0"}},
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        if let Some(first) = pod_cidrs.first() {
            node["spec"] = json!({"podCIDR": first, "podCIDRs": pod_cidrs});
        }
        self.add(NODES, node);
    }

    /// There is only `own` from now on, with this subnet, and it has said nothing yet.
    fn clear(&self, pod_cidr: &str) {
        self.node_names().iter().for_each(|name| self.delete_node(name));
        self.add_node("own", &[pod_cidr]);
    }

    /// A node's subnets are never changed, so another node of that name gets others.
    fn make_again(&self, name: &str, pod_cidrs: &[&str]) {
        self.delete_node(name);
        self.add_node(name, pod_cidrs);
    }

    /// A node that nobody has is a failure.
    fn node(&self, name: &str) -> Value {
        self.object(NODES, name).unwrap()
    }

    /// The annotation with this suffix of flannel's.
    fn annotation(&self, node: &str, suffix: &str) -> Option<String> {
        let node = self.node(node);
        let name = format!("flannel.alpha.coreos.com/{suffix}");
        node["metadata"]["annotations"][&name].as_str().map(str::to_owned)
    }
}
