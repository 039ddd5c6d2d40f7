//! Nodes of a Kubernetes cluster as leases: the subnet is the pod CIDR that the cluster gave to the
//! node, the value is in annotations that each node writes on itself, as flanneld does.
//!
//! Nothing is chosen and nothing expires. A node that has a pod CIDR and the annotation
//! `kube-subnet-manager` has a lease; its name is made of the pod CIDR, so that it reads as one of
//! etcd. This node's annotations are written through `nodes/status`, for a version of the node that was
//! read just before.

mod annotations;
mod connection;
mod diagnosis;
mod error;
mod follow;
mod memory;
mod node;
mod nodes;
mod requests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use tracing::warn;

use super::{Answer, Network, PublicAddresses, Record, Source, SourceError, Watch};
use crate::config::Subnets;
use crate::identity::{self, Identity};
use crate::lease::{Attributes, Leaf};
use annotations::{Annotations, Names, Wanted, damage, has, make_readable, set_identity, silent};
use connection::{Connection, Failure};
use follow::Follower;
use memory::{LearntAddresses, Memory};
use node::{Metadata, Node};
use nodes::Seen;

pub use annotations::{AnnotationPrefix, PrefixError};
pub use connection::Access;
pub use error::KubernetesError;

/// Others change a node every few seconds at most, so a write for the version that was just read is
/// hardly ever refused twice.
const TRIES_MAX: u32 = 8;

/// How long the server may take to answer while what it said last would do as well.
const PATIENCE_WITH_MEMORY: Duration = Duration::from_millis(500);

/// What the command line and the environment say about Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// How the API server is reached.
    pub access: Access,
    /// Which node this is.
    pub node: NodeName,
    /// `--kube-annotation-prefix`.
    pub prefix: AnnotationPrefix,
    /// `--net-config-path`.
    pub config: PathBuf,
    /// `--set-node-network-unavailable`.
    pub sets_condition: bool,
    /// `--state-dir`, where the identity is, and where is kept what a start without the API server needs.
    pub state_directory: PathBuf,
    /// Ends of waiting.
    pub patience: Patience,
}

/// Which node this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeName {
    /// `NODE_NAME`.
    Known(String),
    /// The node that this pod is on: `POD_NAMESPACE` and `POD_NAME`.
    OfPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
}

/// Times that end a wait, and periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer.
    pub request: Duration,
    /// Between two signs of life on an idle connection.
    pub keep_alive: Duration,
    /// How long one watch lasts. Whole seconds, at most 290.
    pub watch: Duration,
    /// How often the server and the watch are looked at.
    pub check: Duration,
    /// How often the file of the network config is read.
    pub config: Duration,
}

impl Default for Patience {
    /// The check costs the server one small answer a minute and node.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
            watch: Duration::from_secs(240),
            check: Duration::from_secs(60),
            config: Duration::from_secs(2),
        }
    }
}

/// The source. Cheap to clone; nothing is connected before the first question.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: KubernetesOptions,
    connection: Connection,
    memory: Arc<Memory>,
    names: Names,
    node: OnceLock<String>,
    identity: OnceLock<Option<Identity>>,
    /// What was written last, and what it was made of.
    written: Mutex<Option<Written>>,
    /// What was said last about the network of the node.
    announced: Mutex<Option<Network>>,
    /// An annotation and what is in it, when that cannot be what an operator wants.
    mistake: Mutex<Option<(String, String)>>,
    /// What cannot be read of this node's own annotations.
    damage: Mutex<Option<Vec<String>>>,
}

#[derive(Clone, Debug)]
struct Written {
    value: Vec<u8>,
    attributes: Attributes,
}

impl Kubernetes {
    /// Names the cluster.
    #[must_use]
    pub fn new(options: KubernetesOptions) -> Self {
        let memory = Arc::new(Memory::open(&options.state_directory));
        let access = options.access.clone();
        let shared = Shared {
            connection: Connection::new(access, options.patience, Arc::clone(&memory)),
            names: Names::new(&options.prefix),
            memory,
            node: OnceLock::new(),
            identity: OnceLock::new(),
            written: Mutex::default(),
            announced: Mutex::default(),
            mistake: Mutex::default(),
            damage: Mutex::default(),
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    fn connection(&self) -> &Connection {
        &self.shared.connection
    }

    fn patience(&self) -> Patience {
        self.shared.options.patience
    }

    fn takes_part(&self, metadata: &Metadata) -> bool {
        self.shared.names.is_managed(metadata.annotations())
    }

    fn is_own(&self, node: &str) -> bool {
        self.shared.node.get().is_some_and(|own| own == node)
    }

    fn identity(&self) -> Option<Identity> {
        let load = || identity::load(&self.shared.options.state_directory).ok().flatten();
        *self.shared.identity.get_or_init(load)
    }

    /// What a node says, if it takes part.
    fn seen(&self, metadata: &Metadata, leaf: Leaf) -> Option<Seen> {
        self.takes_part(metadata).then(|| Seen {
            node: metadata.name.clone(),
            uid: metadata.uid.clone(),
            leaf,
            record: self.record(metadata, leaf),
            is_own: self.is_own(&metadata.name),
        })
    }

    fn record(&self, metadata: &Metadata, leaf: Leaf) -> Record {
        let annotations = metadata.annotations();
        let value = match self.is_own(&metadata.name) {
            true => self.own_value(annotations),
            false => self.shared.names.value(annotations).to_string().into_bytes(),
        };
        Record { revision: metadata.revision(), ..Record::lasting(leaf.to_string(), value) }
    }

    /// The value of this node's lease: what was written as long as nothing is to be changed, although an
    /// operator may have the node say another address.
    fn own_value(&self, annotations: &Annotations) -> Vec<u8> {
        let names = &self.shared.names;
        self.tell_mistake(names.mistaken_wish(annotations));
        let written = self.written();
        let is_as_written =
            |written: &&Written| has(annotations, &names.wanted(&written.attributes, annotations));
        if let Some(written) = written.as_ref().filter(is_as_written) {
            self.tell_damage(None);
            return written.value.clone();
        }
        let mut value = names.value(annotations);
        let found = damage(&value);
        if found.is_some() {
            // Nobody else can have this lease, so it stays ours and is written again.
            make_readable(&mut value);
        }
        self.tell_damage(found.map(|found| found.mistakes));
        let identify = |value: &mut Value| {
            self.identity().iter().for_each(|own| set_identity(value, *own));
        };
        identify(&mut value);
        let is_said_as_written =
            |written: &Written| written.value == value.to_string().into_bytes();
        if written.as_ref().is_some_and(is_said_as_written) || names.has_unmet_wish(annotations) {
            // A key that nobody reads. What is to be written again must not equal it.
            value["Outdated"] = true.into();
        }
        if damage(&value).is_some() {
            // It is too long, perhaps only with what was added. This is never what was written.
            value = silent();
            identify(&mut value);
        }
        value.to_string().into_bytes()
    }

    /// Says once what an operator wants and cannot have.
    fn tell_mistake(&self, mistake: Option<(String, String)>) {
        let mut told = self.shared.mistake.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == mistake {
            return;
        }
        if let Some((annotation, text)) = &mistake {
            warn!(annotation, text, "this is no address; the node's own address is said instead");
        }
        *told = mistake;
    }

    /// Says once what others cannot read of what this node says.
    fn tell_damage(&self, damage: Option<Vec<String>>) {
        let mut told = self.shared.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == damage {
            return;
        }
        if let Some(mistakes) = &damage {
            warn!(
                mistakes = mistakes.join("; "),
                "the annotations of this node were changed, and no other node can read them; they \
                 are written again"
            );
        }
        *told = damage;
    }

    fn written(&self) -> Option<Written> {
        self.shared.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_written(&self, written: Option<Written>) -> Option<Written> {
        let mut place = self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut place, written)
    }

    /// The lease of this node as it is, if there is one.
    fn own_record(&self, node: &Node) -> Result<Option<Record>, KubernetesError> {
        let leaf = node.leaf()?;
        Ok(self.takes_part(&node.metadata).then(|| self.record(&node.metadata, leaf)))
    }

    /// Changes this node's annotations if `decide` still wants that when it sees the node as it is.
    async fn change(
        &self,
        written: Option<&Written>,
        decide: impl Fn(&Node) -> Result<Option<Wanted>, KubernetesError> + Send + Sync,
    ) -> Result<Option<Node>, KubernetesError> {
        for _ in 0..TRIES_MAX {
            let node = self.own_node().await?;
            let Some(wanted) = decide(&node)? else { return Ok(None) };
            // The watch may tell of the change before its answer is here.
            let before = self.set_written(written.cloned());
            match self.write_annotations(&node, &wanted).await {
                Ok(node) => return Ok(Some(node)),
                Err(Failure::Conflict) => drop(self.set_written(before)),
                Err(Failure::NotFound) => return Err(self.no_node()),
                Err(failure) => {
                    self.set_written(before);
                    return Err(failure.into());
                }
            }
        }
        Err(KubernetesError::Contended { node: self.name_for_people() })
    }

    async fn create_lease(
        &self,
        name: &str,
        value: &[u8],
    ) -> Result<Option<Record>, KubernetesError> {
        let written = Written { value: value.to_vec(), attributes: Attributes::parse(value)? };
        let decide = |node: &Node| {
            let now = node.leaf()?;
            if now.to_string() != name {
                let (node, before) = (self.name_for_people(), name.to_owned());
                return Err(KubernetesError::Renumbered { node, before, now });
            }
            let annotations = node.metadata.annotations();
            let is_free = !self.takes_part(&node.metadata);
            Ok(is_free.then(|| self.shared.names.wanted(&written.attributes, annotations)))
        };
        let Some(node) = self.change(Some(&written), decide).await? else { return Ok(None) };
        // A node that was made again has lost this, too.
        let announced =
            self.shared.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(network) = announced {
            self.write_condition(&network).await?;
        }
        self.own_record(&node)
    }

    async fn replace_lease(
        &self,
        seen: &Record,
        value: &[u8],
    ) -> Result<Option<Record>, KubernetesError> {
        let written = Written { value: value.to_vec(), attributes: Attributes::parse(value)? };
        let decide = |node: &Node| {
            let annotations = node.metadata.annotations();
            let is_as_seen = self.is_as_seen(node, seen)?;
            Ok(is_as_seen.then(|| self.shared.names.wanted(&written.attributes, annotations)))
        };
        let node = self.change(Some(&written), decide).await?;
        node.map_or(Ok(None), |node| self.own_record(&node))
    }

    async fn remove_lease(&self, seen: &Record) -> Result<bool, KubernetesError> {
        let decide = |node: &Node| {
            let is_as_seen = self.is_as_seen(node, seen)?;
            Ok(is_as_seen.then(|| self.shared.names.none()))
        };
        Ok(self.change(None, decide).await?.is_some())
    }

    fn is_as_seen(&self, node: &Node, seen: &Record) -> Result<bool, KubernetesError> {
        let record = self.own_record(node)?;
        Ok(record.is_some_and(|now| now.name == seen.name && now.value == seen.value))
    }

    async fn list_leases(&self) -> Result<Vec<Record>, KubernetesError> {
        self.node_name().await?;
        let listing = self.list_nodes().await.map_err(KubernetesError::from)?;
        let seen = listing.nodes.iter().filter_map(|node| {
            let leaf = node.leaf().ok()?;
            self.seen(&node.metadata, leaf)
        });
        Ok(nodes::Nodes::default().replace_all(seen.collect()))
    }

    async fn read_lease(&self, name: &str) -> Result<Option<Record>, KubernetesError> {
        match self.own_node().await {
            Ok(node) if node.leaf().is_ok_and(|leaf| leaf.to_string() == name) => {
                return self.own_record(&node);
            }
            Ok(_) | Err(KubernetesError::NoNode { .. }) => {}
            Err(error) => return Err(error),
        }
        let records = self.list_leases().await?;
        Ok(records.into_iter().find(|record| record.name == name))
    }

    /// The subnets of this node as a lease, whether it has said anything yet or not.
    async fn given_lease(&self) -> Result<Record, KubernetesError> {
        let node = self.own_node().await?;
        let leaf = node.leaf()?;
        Ok(self.record(&node.metadata, leaf))
    }

    async fn stored_addresses(&self) -> Result<PublicAddresses, KubernetesError> {
        let of = |learnt: LearntAddresses, is_remembered| PublicAddresses {
            v4: learnt.v4,
            v6: learnt.v6,
            is_remembered,
        };
        let asked = async {
            let node = self.own_node().await?;
            Ok::<_, KubernetesError>(self.learn_addresses(&node.metadata))
        };
        match self.shared.memory.learnt().addresses {
            None => Ok(of(asked.await?, false)),
            Some(learnt) => match tokio::time::timeout(PATIENCE_WITH_MEMORY, asked).await {
                Ok(Ok(now)) => Ok(of(now, false)),
                Ok(Err(_)) | Err(_) => Ok(of(learnt, true)),
            },
        }
    }

    /// Remembers what an operator wants to be this node's addresses.
    fn learn_addresses(&self, metadata: &Metadata) -> LearntAddresses {
        let wanted = self.shared.names.node_addresses(metadata.annotations());
        let now = LearntAddresses { v4: wanted.v4, v6: wanted.v6 };
        self.shared.memory.learn(|learnt| learnt.addresses = Some(now));
        now
    }

    async fn announce_network(&self, network: Network) -> Result<(), KubernetesError> {
        if !self.shared.options.sets_condition {
            return Ok(());
        }
        self.write_condition(&network).await?;
        let mut announced = self.shared.announced.lock().unwrap_or_else(PoisonError::into_inner);
        *announced = Some(network);
        Ok(())
    }
}

impl Source for Kubernetes {
    fn description(&self) -> String {
        format!("Kubernetes at {}", self.shared.options.access.name())
    }

    fn config_remedy(&self) -> String {
        format!(
            "There is no network config at {}. It is the key net-conf.json of the ConfigMap \
             kube-flannel-cfg, which the pod has to mount there; --net-config-path says another place",
            self.shared.options.config.display()
        )
    }

    fn lifetime(&self) -> Option<Duration> {
        None
    }

    fn config(&self) -> Answer<'_, Option<Vec<u8>>> {
        async move { Ok(self.read_config().await?) }.boxed()
    }

    fn list(&self) -> Answer<'_, Vec<Record>> {
        async move { Ok(self.list_leases().await?) }.boxed()
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Record>> {
        async move { Ok(self.read_lease(name).await?) }.boxed()
    }

    fn create<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        async move { Ok(self.create_lease(name, value).await?) }.boxed()
    }

    fn replace<'a>(&'a self, seen: &'a Record, value: &'a [u8]) -> Answer<'a, Option<Record>> {
        async move { Ok(self.replace_lease(seen, value).await?) }.boxed()
    }

    fn remove<'a>(&'a self, seen: &'a Record) -> Answer<'a, bool> {
        async move { Ok(self.remove_lease(seen).await?) }.boxed()
    }

    fn watch(&self) -> Watch {
        let follower = Follower::new(self.clone());
        Watch::start(|reporter| follower.run(reporter))
    }

    fn subnets(&self) -> Subnets {
        Subnets::Given
    }

    fn given(&self) -> Answer<'_, Option<Record>> {
        async move { Ok(Some(self.given_lease().await?)) }.boxed()
    }

    fn public_addresses(&self) -> Answer<'_, PublicAddresses> {
        async move { Ok(self.stored_addresses().await?) }.boxed()
    }

    fn announce(&self, network: Network) -> Answer<'_, ()> {
        async move { self.announce_network(network).await.map_err(SourceError::from) }.boxed()
    }
}
