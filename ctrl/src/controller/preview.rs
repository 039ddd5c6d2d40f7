//! What a start would change on this host and in the store, changing nothing.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::timeout;

use super::underlay::{self, Facts};
use super::way::{self, PrepareError};
use super::{Begun, DEVICE_NAME, Options, StartError, choose_interface, wanted_rules, with_cause};
use crate::config::{ConfigError, NetworkConfig};
use crate::desired::Book;
use crate::device;
use crate::identity::{self, Identity};
use crate::interface::reader::ReadError;
use crate::kernel::{self, object::State};
use crate::lease::Leaf;
use crate::netfilter;
use crate::source::acquire::{AcquireError, Origin, Request, choose};
use crate::source::{PublicAddresses, Record, Source, SourceError, Update};
use crate::status::StatusHandle;
use crate::subnet_file::{self, Contents};

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a start would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The backend type.
    pub backend: &'static str,
    /// The interface that would carry the traffic between hosts.
    pub interface: String,
    /// Bytes of the largest inner packet.
    pub mtu: u32,
    /// The own subnets, as the lease is named.
    pub lease: String,
    /// What it would change, in order.
    pub steps: Vec<Step>,
    /// What would keep it from starting, or from doing all of it; one sentence each.
    pub obstacles: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where.
    pub part: Part,
    /// What, where there is one as the command that would do it.
    pub step: String,
}

/// Where something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Leases in the store.
    Lease,
    /// Devices, addresses, routes, rules, neighbours and forwarding entries.
    Kernel,
    /// Rules of iptables or nft.
    Netfilter,
    /// The subnet file.
    File,
}

impl Part {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Kernel => "kernel",
            Self::Netfilter => "netfilter",
            Self::File => "file",
        }
    }
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// There is no network config.
    #[error("{0}")]
    NoConfig(String),
    /// The store does not answer in time.
    #[error("No answer from {0}")]
    NoAnswer(String),
    /// The store cannot be asked.
    #[error("{}", .0.sentence())]
    Source(#[from] SourceError),
    /// A start would end here as well.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The kernel's state cannot be read.
    #[error("The state of this host could not be read")]
    Read(#[from] ReadError),
}

impl From<AcquireError> for PreviewError {
    fn from(error: AcquireError) -> Self {
        Self::Start(error.into())
    }
}

impl From<ConfigError> for PreviewError {
    fn from(error: ConfigError) -> Self {
        Self::Start(error.into())
    }
}

impl From<PrepareError> for PreviewError {
    fn from(error: PrepareError) -> Self {
        Self::Start(error.into())
    }
}

/// Asks the store and the kernel, and says what [`super::begin`] and all after it would do. A daemon
/// that runs already has done it, so then there is nothing left.
///
/// # Errors
/// The store or the kernel cannot be asked, or a start would end before it changes anything.
pub async fn preview(mut options: Options) -> Result<Preview, PreviewError> {
    let source = options.source.open();
    let asking = ask(&*source);
    let answer = timeout(PATIENCE, asking).await;
    let Stored { document, records, given, public } =
        answer.map_err(|_| PreviewError::NoAnswer(source.description()))??;
    let config = NetworkConfig::parse_for(&document, source.subnets())?;
    options.interface.prefer(public);
    let (interface, mtu) = choose_interface(&options, &config).await?;
    let identity = identity::load(&options.state_directory).map_err(StartError::from)?;
    let begun = Begun {
        status: StatusHandle::new(),
        identity: identity.unwrap_or_else(Identity::random),
        document: String::from_utf8_lossy(&document).into_owned(),
        saved: None,
        source_is_away: false,
        source_ports: 1,
        shortcut: false,
        key: None,
        options,
        source,
        config,
        interface,
        mtu,
    };
    foretell(&begun, records, given).await
}

/// What the store has.
struct Stored {
    document: Vec<u8>,
    records: Vec<Record>,
    /// This node's lease, where it was given one.
    given: Option<Record>,
    public: PublicAddresses,
}

async fn ask(source: &dyn Source) -> Result<Stored, PreviewError> {
    let config = source.config().await?;
    Ok(Stored {
        document: config.ok_or_else(|| PreviewError::NoConfig(source.config_remedy()))?,
        records: source.list().await?,
        given: source.given().await?,
        public: source.public_addresses().await?,
    })
}

async fn foretell(
    begun: &Begun,
    records: Vec<Record>,
    given: Option<Record>,
) -> Result<Preview, PreviewError> {
    let mut preview = Preview {
        backend: begun.config.backend.name(),
        interface: begun.interface.name.clone(),
        mtu: begun.mtu,
        ..Preview::default()
    };
    if let Err(error) = begun.check_obstacles().await {
        preview.obstacles.push(with_cause(&error));
    }
    let macs = way::foresee_macs(begun, given.as_ref()).await?;
    let facts = Facts {
        identity: begun.identity,
        mtu: begun.mtu,
        source_ports: begun.source_ports,
        shortcut: begun.shortcut,
        macs,
        key: None,
    };
    let attributes = underlay::attributes(&begun.interface, &begun.config, &facts);
    let previous = subnet_file::previous(&begun.options.subnet_file);
    let request = Request { config: &begun.config, attributes: &attributes, previous };
    let leaf = match given {
        Some(given) => preview.add_given(&request, &given)?,
        None => preview.add_choice(&request, &records)?,
    };

    let mut book = Book::default();
    book.handle(Update::Snapshot(records), Instant::now());
    let viewer = begun.viewer(leaf, &facts);
    let has_engine = begun.config.backend.udp().is_some();
    let has_kernel_paths = !has_engine || begun.config.backend.paths().len() > 1;
    if has_engine {
        preview.add_engine(begun, &leaf).await?;
    }
    if has_kernel_paths {
        let plan = way::foretell(begun, &viewer, macs, &book).await?;
        preview.add_plan(&plan);
    }
    preview.add_rules(begun, &leaf).await;
    preview.add_file(begun, &leaf);
    Ok(preview)
}

impl Preview {
    fn add(&mut self, part: Part, step: impl Into<String>) {
        self.steps.push(Step { part, step: step.into() });
    }

    /// Somebody else has decided; only what others are told may differ.
    fn add_given(&mut self, request: &Request<'_>, given: &Record) -> Result<Leaf, AcquireError> {
        let leaf = request.part_of(given)?;
        self.add_lease(Origin::Own, &leaf);
        if given.value != request.attributes.to_json() {
            let text = String::from_utf8_lossy(&request.attributes.to_json()).into_owned();
            self.add(Part::Lease, format!("write on the node: {text}"));
        }
        Ok(leaf)
    }

    fn add_choice(
        &mut self,
        request: &Request<'_>,
        records: &[Record],
    ) -> Result<Leaf, AcquireError> {
        let choice = choose(records, request, &mut rand::rng())?;
        for record in &choice.remove {
            let step = format!("delete {}, which the config no longer allows", record.name);
            self.add(Part::Lease, step);
        }
        self.add_lease(choice.origin, &choice.leaf);
        Ok(choice.leaf)
    }

    fn add_lease(&mut self, origin: Origin, leaf: &Leaf) {
        self.lease = leaf.to_string();
        match origin {
            Origin::Own | Origin::Unconfirmed => {}
            Origin::Previous => {
                self.add(Part::Lease, format!("take {leaf}, which this host had before"));
            }
            Origin::New => self.add(Part::Lease, format!("take a free subnet, such as {leaf}")),
        }
    }

    /// The device, and what an earlier start with another type has left.
    async fn add_engine(&mut self, begun: &Begun, own: &Leaf) -> Result<(), PreviewError> {
        if begun.config.backend.paths().len() == 1 {
            let networks = begun.config.networks().collect();
            let plan = kernel::preview(&State { networks, ..State::default() }).await?;
            self.add_plan(&plan);
        }
        let desired = begun.desired_device(DEVICE_NAME, Some(own));
        let (steps, foreign) = device::preview(&desired).await.map_err(StartError::from)?;
        for step in steps {
            self.add(Part::Kernel, format!("{DEVICE_NAME}: {step}"));
        }
        self.add_foreign(&foreign);
        Ok(())
    }

    fn add_plan(&mut self, plan: &kernel::plan::Plan) {
        for action in &plan.actions {
            self.add(Part::Kernel, action.to_string());
        }
        self.add_foreign(&plan.foreign);
        self.obstacles.extend(plan.obstacles.iter().map(|(_, sentence)| sentence.clone()));
    }

    fn add_foreign(&mut self, foreign: &[device::ForeignRoute]) {
        let sentences = foreign.iter().map(|route| {
            let effect = if route.wins() { "keeps ours from being made" } else { "stays as well" };
            format!("Somebody else has the route {route}, which stays and {effect}")
        });
        self.obstacles.extend(sentences);
    }

    async fn add_rules(&mut self, begun: &Begun, own: &Leaf) {
        let Options { netfilter: options, subnet_file, .. } = &begun.options;
        let wanted = wanted_rules(&begun.config, own);
        let past = subnet_file::previous_overlays(subnet_file);
        match netfilter::preview(options, &wanted, &past).await {
            Ok(lines) => lines.into_iter().for_each(|line| self.add(Part::Netfilter, line)),
            Err(error) => self.obstacles.push(format!("The rules could not be read: {error}")),
        }
    }

    fn add_file(&mut self, begun: &Begun, own: &Leaf) {
        let contents = Contents {
            v4: begun.config.network_v4().zip(own.v4),
            v6: begun.config.network_v6().zip(own.v6),
            mtu: begun.mtu,
            ip_masq: begun.options.netfilter.masquerade,
        };
        let path = &begun.options.subnet_file;
        let text = contents.to_string();
        if std::fs::read_to_string(path).ok().as_ref() != Some(&text) {
            let values: Vec<&str> = text.lines().collect();
            self.add(Part::File, format!("write {}: {}", path.display(), values.join(" ")));
        }
    }
}
