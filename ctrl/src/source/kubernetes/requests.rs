//! The questions themselves.

use std::io;

use futures_util::Stream;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::Request;
use kube::core::params::GetParams;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tracing::{debug, info};

use super::annotations::Wanted;
use super::connection::{Connected, Failure};
use super::memory::SERVERS_MAX;
use super::node::{Node, NodePage};
use super::{Kubernetes, KubernetesError, NodeName};
use crate::saved::wall_clock;
use crate::source::Network;

const NODES: &str = "/api/v1/nodes";

/// Nodes in one answer. A node may have some ten kilobytes, most of which is skipped while reading.
const PAGE: u32 = 500;

/// A list is begun again when its continuation has run out, which takes five minutes.
const LISTINGS_MAX: u32 = 3;

/// Everything at one moment.
pub(super) struct Listing {
    /// Who was there first before the others.
    pub(super) nodes: Vec<Node>,
    pub(super) version: String,
}

/// The addresses behind a service.
#[derive(Debug, Deserialize)]
struct EndpointSlice {
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Port {
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    spec: PodSpec,
}

#[derive(Debug, Deserialize)]
struct PodSpec {
    #[serde(rename = "nodeName")]
    node_name: Option<String>,
}

fn built<T>(request: Result<T, kube::core::request::Error>) -> Result<T, kube::Error> {
    request.map_err(kube::Error::BuildRequest)
}

impl Kubernetes {
    /// The network config's file; `None` if it is not there.
    pub(super) async fn read_config(&self) -> Result<Option<Vec<u8>>, KubernetesError> {
        let path = &self.shared.options.config;
        let to_read = path.clone();
        let reading = spawn_blocking(move || std::fs::read(to_read)).await;
        match reading.expect("reading a file does not panic") {
            Ok(document) => Ok(Some(document)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KubernetesError::Config { path: path.clone(), source }),
        }
    }

    async fn get<T>(&self, what: &'static str, path: &str, name: &str) -> Result<T, Failure>
    where
        T: serde::de::DeserializeOwned + Send,
    {
        let ask = |client: Client| async move {
            let request = built(Request::new(path).get(name, &GetParams::default()))?;
            client.request(request).await
        };
        Ok(self.connection().ask(what, ask).await?.0)
    }

    /// This node's name. It is looked up once, and remembered for a start without the server.
    pub(super) async fn node_name(&self) -> Result<&str, KubernetesError> {
        if let Some(name) = self.shared.node.get() {
            return Ok(name);
        }
        let name = match &self.shared.options.node {
            NodeName::Known(name) => name.clone(),
            NodeName::OfPod { namespace, pod } => self.look_up(namespace, pod).await?,
        };
        info!(node = name, "this node's name");
        Ok(self.shared.node.get_or_init(|| name))
    }

    async fn look_up(&self, namespace: &str, pod: &str) -> Result<String, KubernetesError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let unknown =
            || KubernetesError::NoNodeName { namespace: namespace.to_owned(), pod: pod.to_owned() };
        let remembered = self.shared.memory.learnt().node;
        match self.get::<Pod>("get the pod", &path, pod).await {
            Ok(found) => {
                let node = found.spec.node_name.ok_or_else(unknown)?;
                self.shared.memory.learn(|learnt| learnt.node = Some(node.clone()));
                Ok(node)
            }
            Err(Failure::NotFound) => Err(unknown()),
            Err(failure) => remembered.ok_or_else(|| failure.into()),
        }
    }

    pub(super) fn name_for_people(&self) -> String {
        self.shared.node.get().cloned().unwrap_or_default()
    }

    pub(super) fn no_node(&self) -> KubernetesError {
        KubernetesError::NoNode { node: self.name_for_people() }
    }

    pub(super) async fn read_node(&self, name: &str) -> Result<Node, Failure> {
        self.get("get the node", NODES, name).await
    }

    /// This node as it is now.
    pub(super) async fn own_node(&self) -> Result<Node, KubernetesError> {
        let name = self.node_name().await?;
        match self.read_node(name).await {
            Err(Failure::NotFound) => Err(self.no_node()),
            answer => Ok(answer?),
        }
    }

    /// The version of this node's object.
    pub(super) async fn own_version(&self) -> Result<u64, Failure> {
        let name = self.node_name().await.map_err(Failure::Other)?;
        let ask = |client: Client| async move {
            let request = built(Request::new(NODES).get_metadata(name, &GetParams::default()))?;
            client.request::<Node>(request).await
        };
        let (node, _) = self.connection().ask("get the node", ask).await?;
        Ok(node.metadata.revision())
    }

    /// All nodes, in pages of one moment.
    pub(super) async fn list_nodes(&self) -> Result<Listing, Failure> {
        self.node_name().await.map_err(Failure::Other)?;
        let mut outcome = self.try_list().await;
        for _ in 1..LISTINGS_MAX {
            if !matches!(outcome, Err(Failure::Gone(_))) {
                break;
            }
            outcome = self.try_list().await;
        }
        let mut listing = outcome?;
        let age =
            |node: &Node| (node.metadata.creation_timestamp.clone(), node.metadata.name.clone());
        listing.nodes.sort_by_cached_key(age);
        Ok(listing)
    }

    async fn try_list(&self) -> Result<Listing, Failure> {
        let mut nodes = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut params = ListParams::default().limit(PAGE);
            params.continue_token.clone_from(&next);
            let ask = |client: Client| {
                let request = built(Request::new(NODES).list(&params));
                async move { client.request::<NodePage>(request?).await }
            };
            let (page, _) = self.connection().ask("list the nodes", ask).await?;
            nodes.extend(page.items);
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                return Ok(Listing { nodes, version: page.metadata.resource_version });
            }
        }
    }

    /// What happens to the metadata of all nodes after this version.
    pub(super) async fn open_watch(
        &self,
        version: &str,
    ) -> Result<
        (impl Stream<Item = Result<WatchEvent<Node>, kube::Error>> + Send + use<>, Connected),
        Failure,
    > {
        // Nodes that started together do not come back together for ever.
        let length = self.patience().watch.mul_f64(rand::random_range(0.75..=1.0));
        let seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams::default().timeout(seconds);
        let ask = |client: Client| {
            let request = built(Request::new(NODES).watch_metadata(&params, version));
            async move { client.request_events::<Node>(request?).await }
        };
        self.connection().ask("watch the nodes", ask).await
    }

    /// Writes annotations for the version of the node that was read.
    pub(super) async fn write_annotations(
        &self,
        node: &Node,
        wanted: &Wanted,
    ) -> Result<Node, Failure> {
        let now = node.metadata.annotations();
        let differing: serde_json::Map<String, Value> = wanted
            .iter()
            .filter(|(name, value)| now.get(*name) != value.as_ref())
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        if differing.is_empty() {
            return Ok(node.clone());
        }
        let version = &node.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version, "annotations": differing}});
        let what = "write the annotations of its node";
        self.patch_status(what, &node.metadata.name, &patch).await
    }

    async fn patch_status(
        &self,
        what: &'static str,
        name: &str,
        patch: &Value,
    ) -> Result<Node, Failure> {
        let ask = |client: Client| async move {
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let request = Request::new(NODES).patch_subresource("status", name, &params, &patch);
            client.request::<Node>(built(request)?).await
        };
        Ok(self.connection().ask(what, ask).await?.0)
    }

    /// Says in the node's conditions whether its pods have a network. Where this is `True`, nothing is
    /// scheduled there.
    pub(super) async fn write_condition(&self, network: &Network) -> Result<(), KubernetesError> {
        let (status, reason, message) = match network {
            Network::Up => ("False", "FlannelIsUp", "Flannel is running on this node"),
            Network::Down(problem) => ("True", "WeftIsDown", problem.as_str()),
        };
        let now = now();
        let patch = json!({"status": {"conditions": [{
            "type": "NetworkUnavailable",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        }]}});
        let name = self.node_name().await?;
        match self.patch_status("set the condition NetworkUnavailable", name, &patch).await {
            Err(Failure::NotFound) => Err(self.no_node()),
            outcome => Ok(outcome.map(drop)?),
        }
    }

    /// The addresses behind the service `kubernetes`.
    async fn read_slice(&self, version: &str) -> Result<EndpointSlice, Failure> {
        let path = format!("/apis/discovery.k8s.io/{version}/namespaces/default/endpointslices");
        self.get("get the addresses of the API server", &path, "kubernetes").await
    }

    /// Remembers the real addresses of the API server, for when the way to the given one is broken. A
    /// service account that may not read them does without.
    pub(super) async fn learn_servers(&self) -> Result<(), Failure> {
        let mut answer = self.read_slice("v1").await;
        if matches!(answer, Err(Failure::NotFound)) {
            // Kubernetes before 1.21.
            answer = self.read_slice("v1beta1").await;
        }
        let slice = match answer {
            Ok(slice) => slice,
            Err(failure) => {
                debug!(?failure, "the addresses of the API server are not known");
                return Err(failure);
            }
        };
        let port = slice.ports.iter().flatten().find_map(|port| port.port);
        let url = |address: &String| {
            let port = port?;
            Some(match address.contains(':') {
                true => format!("https://[{address}]:{port}"),
                false => format!("https://{address}:{port}"),
            })
        };
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let servers: Vec<String> = addresses.filter_map(url).take(SERVERS_MAX).collect();
        if !servers.is_empty() {
            self.shared.memory.learn(|learnt| learnt.servers = servers);
        }
        Ok(())
    }
}

/// As Kubernetes writes times.
fn now() -> String {
    let now = Timestamp::try_from(wall_clock()).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
