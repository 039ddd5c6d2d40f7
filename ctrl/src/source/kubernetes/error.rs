//! Why Kubernetes cannot be used as a source.

use std::io;
use std::path::PathBuf;

use crate::lease::{Leaf, ValueError};

/// Why the API server, or what it says, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// No server could be asked.
    #[error("The Kubernetes API server does not answer: {}. {hint}", .tried.join("; "))]
    Unreachable {
        /// Each address with the reason.
        tried: Vec<String>,
        /// Where to look.
        hint: String,
    },
    /// The server refused.
    #[error("The Kubernetes API server refused to {what}: {message}{}", remedy(.message))]
    Refused {
        /// What it was asked for.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// A kubeconfig file, a token or a certificate cannot be read.
    #[error("The access to the Kubernetes API server cannot be set up: {0}")]
    Access(String),
    /// The file of the network config cannot be read.
    #[error("Could not read the network config {}. Check --net-config-path", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody has said which node this is.
    #[error(
        "This node's name is not known: the pod {namespace}/{pod} is not there, or is on no node. \
         Check POD_NAME and POD_NAMESPACE, or set NODE_NAME"
    )]
    NoNodeName {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// There is no such node.
    #[error(
        "The cluster has no node {node}. If this host is to be one, look at its kubelet; if that has \
         another name, set NODE_NAME"
    )]
    NoNode {
        /// This node's name.
        node: String,
    },
    /// The node has no subnet.
    #[error(
        "The node {node} has no pod CIDR. The controller manager gives it one when it runs with \
         --allocate-node-cidrs=true and --cluster-cidr (kubeadm: podSubnet), as long as there are free \
         ones"
    )]
    NoPodCidr {
        /// The node.
        node: String,
    },
    /// The node has subnets that cannot be used.
    #[error(
        "The pod CIDRs {given} of the node {node} cannot be used: one of each family is expected"
    )]
    PodCidrs {
        /// The node.
        node: String,
        /// As they are written.
        given: String,
    },
    /// The node is to have other subnets than those that its pods have.
    #[error(
        "The node {node} was given {now} instead of {before}: it was deleted and made again. Forwarding \
         goes on and no pod is renumbered; drain this node and restart weft to use the new subnet"
    )]
    Renumbered {
        /// This node's name.
        node: String,
        /// What it was given before.
        before: String,
        /// What it is given now.
        now: Leaf,
    },
    /// It is no value of a lease.
    #[error("The lease cannot be written as annotations")]
    Value(#[from] ValueError),
    /// Others changed the node at every try.
    #[error("The node {node} was changed by others at every try to write its annotations")]
    Contended {
        /// This node's name.
        node: String,
    },
}

fn remedy(message: &str) -> &'static str {
    if message.contains("is forbidden") {
        ". The service account needs the rights of weft's ClusterRole: get on pods; get, list and watch \
         on nodes; patch on nodes/status"
    } else {
        ""
    }
}
