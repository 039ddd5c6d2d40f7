//! Following the nodes: a list, then every change after it, whatever happens to the connection.
//!
//! The list is of whole nodes, because the subnets are in their specification. Subnets do not change
//! while a node is the same one, so changes are followed by metadata alone, and a node that was not in
//! the list is read once.
//!
//! A watch ends by itself now and then and goes on where it was. Where the server has forgotten that
//! moment (410 Gone), everything is listed again, and the receiver compares. A watch that merely tells
//! nothing any more is found out by this node's own object: its kubelet changes it every few minutes, so
//! each check reads it, and the watch has to have told of that version by the next check.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::api::WatchEvent;
use kube::core::Status;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::connection::{Connected, Failure, within};
use super::node::{Metadata, Node};
use super::nodes::{Nodes, Seen};
use super::{Kubernetes, KubernetesError};
use crate::source::back_off::BackOff;
use crate::source::watch::Reporter;
use crate::source::{Change, SourceError, Update, deepest};

/// Changes that arrive together are told together, up to so many.
const CHANGES_MAX: usize = 256;

/// What the server may be late with ending a watch.
const LATE_MAX: Duration = Duration::from_secs(30);

/// A server that ends watches sooner than this is not asked again at once.
const SHORT_MAX: Duration = Duration::from_secs(1);

/// For questions that nothing depends on.
const LEARN_PATIENCE: Duration = Duration::from_secs(2);

type Events = Pin<Box<dyn Stream<Item = Vec<Result<WatchEvent<Node>, kube::Error>>> + Send>>;

/// Follows one cluster.
pub(super) struct Follower {
    source: Kubernetes,
    /// Everything up to here was told.
    version: Option<String>,
    nodes: Nodes,
    config: Option<Option<Vec<u8>>>,
    own: OwnNode,
}

/// What shows whether the watch tells everything.
#[derive(Debug, Default)]
struct OwnNode {
    /// The version that was told last.
    told: u64,
    /// A version that has to be told.
    awaited: u64,
}

/// Why a watch ended.
enum End {
    /// Its time was up.
    Over,
    /// It can go on where it was.
    Broken(String),
    /// Changes were missed; everything is listed again.
    Lost(String),
}

impl From<KubernetesError> for End {
    fn from(error: KubernetesError) -> Self {
        Self::Broken(SourceError::from(error).sentence())
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gone(message) => Self::Lost(message),
            failure => KubernetesError::from(failure).into(),
        }
    }
}

impl Follower {
    pub(super) fn new(source: Kubernetes) -> Self {
        let (nodes, own) = (Nodes::default(), OwnNode::default());
        Self { source, version: None, nodes, config: None, own }
    }

    pub(super) async fn run(mut self, mut reporter: Reporter) {
        let mut back_off = BackOff::new();
        loop {
            match self.follow(&mut reporter, &mut back_off).await {
                End::Over => continue,
                End::Broken(reason) => reporter.fail(reason),
                End::Lost(reason) => {
                    info!(reason, "all nodes are listed again");
                    self.version = None;
                }
            }
            reporter.restart();
            self.wait(back_off.wait(), &mut reporter).await;
        }
    }

    /// The config is a file here, which does not depend on the server.
    async fn wait(&mut self, pause: Duration, reporter: &mut Reporter) {
        sleep(pause).await;
        self.tell_config(reporter).await;
    }

    /// One watch from its beginning to its end.
    async fn follow(&mut self, reporter: &mut Reporter, back_off: &mut BackOff) -> End {
        self.tell_config(reporter).await;
        let began = Instant::now();
        let (events, connected) = match self.begin(reporter).await {
            Ok(begun) => begun,
            Err(end) => return end,
        };
        reporter.succeed(Some(&connected.server));
        within(LEARN_PATIENCE, self.source.learn_servers()).await;
        let end = match self.read(events, reporter, back_off).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        // The given address may work again by now, and the files may be others.
        if !connected.is_given || !matches!(end, End::Over) {
            self.source.connection().give_up(&connected);
        }
        match end {
            End::Over if began.elapsed() < SHORT_MAX => {
                End::Broken(format!("{} ends every watch at once", connected.server))
            }
            end => end,
        }
    }

    /// Brings the receiver to one moment and opens the watch from there.
    async fn begin(&mut self, reporter: &mut Reporter) -> Result<(Events, Connected), End> {
        let version = match &self.version {
            Some(version) => version.clone(),
            None => self.tell_all(reporter).await?,
        };
        let (events, connected) = self.source.open_watch(&version).await?;
        Ok((events.ready_chunks(CHANGES_MAX).boxed(), connected))
    }

    async fn tell_all(&mut self, reporter: &Reporter) -> Result<String, End> {
        let listing = self.source.list_nodes().await?;
        let mut seen = Vec::with_capacity(listing.nodes.len());
        for node in &listing.nodes {
            self.note_own(&node.metadata);
            match node.leaf() {
                Ok(leaf) => seen.extend(self.source.seen(&node.metadata, leaf)),
                Err(error) => debug!(%error, "a node takes no part"),
            }
        }
        debug!(nodes = listing.nodes.len(), taking_part = seen.len(), "listed");
        reporter.send(Update::Snapshot(self.nodes.replace_all(seen))).await;
        self.version = Some(listing.version.clone());
        Ok(listing.version)
    }

    async fn read(
        &mut self,
        mut events: Events,
        reporter: &mut Reporter,
        back_off: &mut BackOff,
    ) -> Result<std::convert::Infallible, End> {
        let times = self.source.patience();
        let end = Instant::now() + times.watch + LATE_MAX;
        let mut check_at = Instant::now() + jittered(times.check);
        let mut config_ticks = interval(times.config);
        loop {
            tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => self.take(chunk, reporter).await?,
                    None => return Err(End::Over),
                },
                () = sleep_until(check_at) => {
                    self.check().await?;
                    check_at = Instant::now() + jittered(times.check);
                    back_off.reset();
                }
                _ = config_ticks.tick() => self.tell_config(reporter).await,
                () = sleep_until(end) => {
                    return Err(End::Broken("the watch has outlived its time".to_owned()));
                }
            }
        }
    }

    /// What was taken in is told, also if the rest cannot be.
    async fn take(
        &mut self,
        chunk: Vec<Result<WatchEvent<Node>, kube::Error>>,
        reporter: &Reporter,
    ) -> Result<(), End> {
        let mut changes = Vec::new();
        let mut outcome = Ok(());
        for event in chunk {
            outcome = match event {
                Ok(event) => self.take_event(event, &mut changes).await,
                Err(kube::Error::Api(status)) => Err(told(&status)),
                Err(error) => Err(End::Broken(deepest(&error))),
            };
            if outcome.is_err() {
                break;
            }
        }
        if !changes.is_empty() {
            reporter.send(Update::Changes(changes)).await;
        }
        outcome
    }

    async fn take_event(
        &mut self,
        event: WatchEvent<Node>,
        changes: &mut Vec<Change>,
    ) -> Result<(), End> {
        let metadata = match event {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => {
                changes.extend(self.put(&node.metadata).await?);
                node.metadata
            }
            WatchEvent::Deleted(node) => {
                let Metadata { name, .. } = &node.metadata;
                changes.extend(self.nodes.remove(name, node.metadata.revision()));
                node.metadata
            }
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(told(&status)),
        };
        self.note_own(&metadata);
        self.version = Some(metadata.resource_version);
        Ok(())
    }

    async fn put(&mut self, metadata: &Metadata) -> Result<Vec<Change>, End> {
        let revision = metadata.revision();
        if !self.source.takes_part(metadata) {
            return Ok(self.nodes.remove(&metadata.name, revision));
        }
        let leaf = match self.nodes.leaf(&metadata.name, &metadata.uid) {
            Some(leaf) => leaf,
            None => match self.read_leaf(metadata).await? {
                Some(leaf) => leaf,
                None => return Ok(self.nodes.remove(&metadata.name, revision)),
            },
        };
        let seen: Option<Seen> = self.source.seen(metadata, leaf);
        Ok(seen.map(|seen| self.nodes.put(seen)).unwrap_or_default())
    }

    /// `None` if the node has none, or is gone already, which will be told.
    async fn read_leaf(&self, metadata: &Metadata) -> Result<Option<crate::lease::Leaf>, End> {
        let node = match self.source.read_node(&metadata.name).await {
            Ok(node) => node,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        match node.leaf() {
            Ok(leaf) if node.metadata.uid == metadata.uid => Ok(Some(leaf)),
            Ok(_) => Ok(None),
            Err(error) => {
                debug!(%error, "a node takes no part");
                Ok(None)
            }
        }
    }

    fn note_own(&mut self, metadata: &Metadata) {
        if self.source.is_own(&metadata.name) {
            self.own.told = self.own.told.max(metadata.revision());
            self.source.learn_addresses(metadata);
        }
    }

    /// Whether the server answers, and the watch tells what it should.
    async fn check(&mut self) -> Result<(), End> {
        if self.own.told < self.own.awaited {
            self.own.awaited = 0;
            return Err(End::Broken("the watch has become silent".to_owned()));
        }
        match self.source.own_version().await {
            Ok(version) => self.own.awaited = version,
            Err(Failure::NotFound) => {}
            Err(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    /// Only a config that is another one than the last is told.
    async fn tell_config(&mut self, reporter: &Reporter) {
        match self.source.read_config().await {
            Ok(config) if self.config.as_ref() == Some(&config) => {}
            Ok(config) => {
                reporter.send(Update::Config(config.clone())).await;
                self.config = Some(config);
            }
            Err(error) => warn!(%error, "the one in force stays"),
        }
    }
}

fn told(status: &Status) -> End {
    match status.code {
        410 => End::Lost(status.message.clone()),
        code => End::Broken(format!("the server ended the watch: {} ({code})", status.message)),
    }
}

/// Nodes that started together do not ask together for ever.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.9..=1.1))
}
