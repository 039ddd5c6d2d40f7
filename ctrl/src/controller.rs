//! The order of it all: flanneld's start-up sequence, and the loop after it.
//!
//! The program owns device and sockets, so the start is cut where it has to act:
//!
//! ```text
//! begin      network config (waited for), interface, obstacles   -> MTU, addresses to bind
//! acquire    lease                                               -> first table, without peers
//! configure  addresses, MTU, route and settings of the device    <- name of the device
//!            (leave_to_kernel for vxlan and host-gw, where there is no device of the program)
//! run        netfilter rules, subnet file, then leases, tables and repairs until stopped
//! ```
//!
//! Each step consumes the one before, so the order cannot be wrong: the subnet file appears when
//! lease and device are there, and before any peer is. Device and sockets may be opened at any time
//! before `configure`. Every future may be dropped to stop; what was done until then stays, as it does
//! when flanneld stops.

mod announce;
mod change;
mod macs;
mod own;
pub mod preview;
mod publish;
mod release;
mod run;
mod save;
mod start;
mod underlay;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};
use weft_forward::table::{Table, TableError};

use crate::config::{Backend, ConfigError, NetworkConfig};
use crate::desired::kernel::device_name;
use crate::desired::{View, Viewer};
use crate::device::{self, DesiredDevice, DeviceError, DeviceGone};
use crate::identity::{self, Identity, IdentityError};
use crate::interface::{self, Families, Interface, InterfaceError, InterfaceOptions};
use crate::key::PublicKey;
use crate::lease::{Attributes, Leaf};
use crate::netfilter::{self, Netfilter, NetfilterError, Overlay, WallError, wall};
use crate::saved::Saved;
use crate::source::acquire::{AcquireError, Acquired as AcquiredLease, Origin};
use crate::source::{Source, SourceOptions};
use crate::status::{Concern, DeviceStatus, Phase, StatusHandle};
use crate::subnet_file::{self, SubnetFileError};

use underlay::Facts;

pub use macs::MacsError;
pub use release::{Outcome, Release, Wish};
pub use run::{KernelRunning, Running};
pub use way::PrepareError;

/// The device's name in flannel's UDP mode.
pub const DEVICE_NAME: &str = "flannel0";

/// Takes what the control loop decides; the dataplane is behind it. Called on the control thread. Must
/// not block.
pub trait TableSink {
    /// Hands the table on. It replaces every one before. Called at most once in five milliseconds, with
    /// epochs that grow.
    fn publish(&mut self, table: Arc<Table>);

    /// These peers have keys, those have none, and there are no others; the next table has them. Called
    /// only where the config seals.
    fn seal(&mut self, peers: PeerKeys);

    /// Packets are to be sent from and received at these addresses instead of those before. Where that
    /// cannot be, those before stay, and a sentence says why.
    fn rebind(&mut self, addresses: Vec<SocketAddr>) -> Rebinding;

    /// Whether packets that the tables are for are moved at all. Peers that have another path are
    /// given that while they are not.
    fn works(&self) -> watch::Receiver<bool> {
        watch::channel(true).1
    }
}

/// Who has a key, and who has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerKeys {
    /// Traffic to and from these is sealed.
    pub with: Vec<SealedPeer>,
    /// Traffic to and from these is not. Nobody is here where a key is required.
    pub without: Vec<KeylessPeer>,
}

/// A peer that has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeylessPeer {
    /// Its slot in the table.
    pub slot: u16,
    /// Tells it from others that had the slot before, and from itself with a key.
    pub generation: u32,
}

/// A peer that traffic is sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedPeer {
    /// Its slot in the table.
    pub slot: u16,
    /// Tells it from others that had the slot before.
    pub generation: u32,
    /// Where its lease says that it is.
    pub outer: SocketAddr,
    /// It sends from several ports, of which only the one there receives.
    pub has_several_ports: bool,
    /// Its public key.
    pub key: PublicKey,
}

/// What becomes of new addresses, some time. Dropping it leaves open which ones are in use.
pub type Rebinding = BoxFuture<'static, Result<(), String>>;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where leases and config are kept.
    pub source: SourceOptions,
    /// `--state-dir`.
    pub state_directory: PathBuf,
    /// `--subnet-file`.
    pub subnet_file: PathBuf,
    /// `--iface` and its siblings.
    pub interface: InterfaceOptions,
    /// `--ip-masq`, which is written into the subnet file as well, and its siblings.
    pub netfilter: netfilter::Options,
    /// `--subnet-lease-renew-margin`.
    pub renew_margin: Duration,
    /// `--on-lease-loss`.
    pub on_lease_loss: OnLeaseLoss,
    /// `--insecure-store`: keys of the peers are taken also from a store that anybody on the way to it
    /// could change.
    pub insecure_store: bool,
}

/// What to do when the own lease is taken by another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLeaseLoss {
    /// Keep forwarding under the old addresses and wait for an operator.
    #[default]
    Hold,
    /// Take another subnet, which renumbers every pod of this node.
    Replace,
}

/// Why the daemon cannot start. Nothing here is worth retrying without a change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The subnet file cannot be written.
    #[error(transparent)]
    SubnetFile(#[from] SubnetFileError),
    /// The config asks for what cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The underlay leaves too little.
    #[error(
        "An MTU of {underlay} on {interface} leaves {mtu} bytes for inner packets, less than the \
         {least} that are needed. Raise the interface's MTU or the config's Backend.MTU, or turn \
         off IPv6"
    )]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU, or the config's.
        underlay: u32,
        /// What is left.
        mtu: u32,
        /// What has to be left.
        least: u32,
    },
    /// What others send to is not an address of the interface.
    #[error(
        "\"host-gw\" cannot work with the public address {public}, which is none of \
         {interface}: peers route to this address directly. Leave out --public-ip and \
         --public-ipv6, choose the interface that has the address with --iface, or use \"vxlan\""
    )]
    PublicAddress {
        /// The address.
        public: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Whoever is on the way to the store could put in keys of their own.
    #[error(
        "The network config demands that traffic is sealed, but {server} is asked for the peers' keys \
         over a connection that is not protected. Use https:// in --etcd-endpoints, --kube-api-url \
         or the kubeconfig file, which must not skip verification, or accept that everybody on the \
         way can take part with --insecure-store"
    )]
    InsecureStore {
        /// The etcd or API server.
        server: String,
    },
    /// Packets that are not sealed could pass.
    #[error(transparent)]
    Wall(#[from] WallError),
    /// A VXLAN device cannot be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// No lease.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The device cannot be set up, or the host has something in its way.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The first table is refused; it has no peers, so this is a defect.
    #[error("The first table could not be built")]
    Table(#[from] TableError),
}

/// Why a daemon that is set up cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Masquerading is asked for and cannot be had.
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
    /// Somebody deleted the device.
    #[error("{0}. Somebody deleted it; start again")]
    DeviceGone(#[from] DeviceGone),
}

/// The config is known and the interface chosen. Nothing of the host was changed yet, but that packets
/// past the tunnel are kept out where traffic has to be sealed.
#[derive(Debug)]
pub struct Begun {
    options: Options,
    status: StatusHandle,
    source: Arc<dyn Source>,
    identity: Identity,
    config: NetworkConfig,
    /// The config as stored.
    document: String,
    /// What is known from before, while the source does not answer.
    saved: Option<Saved>,
    /// The config is the saved one.
    source_is_away: bool,
    interface: Interface,
    mtu: u32,
    source_ports: u16,
    shortcut: bool,
    key: Option<PublicKey>,
}

/// Waits for a network config, chooses the interface and looks for obstacles.
///
/// # Errors
/// Everything that a later config cannot correct.
pub async fn begin(mut options: Options, status: StatusHandle) -> Result<Begun, StartError> {
    let identity = identity::load_or_create(&options.state_directory)?;
    subnet_file::probe(&options.subnet_file)?;
    let source = options.source.open();
    let saved = Saved::load(&options.state_directory, &source.description());
    let found = start::wait_for_config(&*source, saved.as_ref(), &status).await?;
    let start::Found { config, document, mut source_is_away } = found;
    let public = start::public_addresses(&*source, &status).await;
    source_is_away |= public.is_remembered;
    options.interface.prefer(public);
    status.change(|status| {
        status.set_config(&config);
        status.phase = Phase::Interface;
        status.raise(Concern::Start, "Choosing the interface".into());
    });
    let (interface, mtu) = choose_interface(&options, &config).await?;
    let begun = Begun {
        options,
        status,
        source,
        identity,
        config,
        document,
        saved,
        source_is_away,
        interface,
        mtu,
        source_ports: 1,
        shortcut: false,
        key: None,
    };
    begun.check_obstacles().await?;
    if begun.config.backend.requires_seal() {
        let networks: Vec<IpNet> = begun.config.networks().collect();
        wall::raise(&networks).await?;
    }
    info!(
        interface = begun.interface.name,
        addresses = ?begun.bind_addresses(),
        mtu,
        "interface chosen"
    );
    begun.status.change(|status| status.set_interface(&begun.interface));
    Ok(begun)
}

/// The interface, and what is left of its MTU.
async fn choose_interface(
    options: &Options,
    config: &NetworkConfig,
) -> Result<(Interface, u32), StartError> {
    let families = Families { v4: config.v4.is_some(), v6: config.v6.is_some() };
    let chosen = interface::select(&options.interface, families).await?;
    chosen.log_refusals();
    underlay::check_public(config, &chosen.interface)?;
    let mtu = underlay::inner_mtu(config, &chosen.interface)?;
    underlay::check_store(config, options)?;
    Ok((chosen.interface, mtu))
}

impl Begun {
    async fn check_obstacles(&self) -> Result<(), DeviceError> {
        match &self.config.backend {
            Backend::Udp(_) => {
                let desired = self.desired_device(DEVICE_NAME, None);
                device::check_before(&desired, &self.interface).await
            }
            _ => {
                let networks: Vec<_> = self.config.networks().collect();
                device::check_networks(&networks, &self.interface).await
            }
        }
    }

    /// Whose leases are believed, seen from a node with this subnet.
    fn viewer(&self, own: Leaf, facts: &Facts) -> Viewer {
        Viewer {
            config: self.config.clone(),
            own,
            identity: self.identity,
            own_addresses: underlay::own_addresses(&self.interface),
            outer_v6: self.interface.address_v4.is_none(),
            own_macs: facts.macs.iter().collect(),
            own_key: facts.key,
        }
    }

    /// The config in force.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The interface that carries the traffic between hosts.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// MTU for the tunnel device, in bytes of inner packet.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Packets are sent from this many ports, the configured one first, and those of others may come
    /// from several. The lease says so; one is what it says otherwise.
    pub fn set_source_ports(&mut self, count: u16) {
        self.source_ports = count;
    }

    /// This node's kernel takes packets in the place of the workers, where others send them like that. The
    /// lease says so.
    pub fn set_shortcut(&mut self) {
        self.shortcut = true;
    }

    /// Others seal what they send to this node with this key from now on; it is for a config that seals.
    pub fn set_key(&mut self, key: PublicKey) {
        self.key = Some(key);
    }

    /// Where to bind the sockets: the interface's address and the configured port. Only the family
    /// that datagrams are sent over, which is IPv4 where the node has it.
    #[must_use]
    pub fn bind_addresses(&self) -> Vec<SocketAddr> {
        underlay::bind_addresses(&self.interface, &self.config)
    }

    /// Takes a lease. With `vxlan` the devices are made before, since the lease tells their MAC
    /// addresses. If the source does not answer, the one that it confirmed last is used.
    ///
    /// # Errors
    /// There is none to take, the source cannot be used, or a device cannot be made.
    pub async fn acquire(self) -> Result<Acquired, StartError> {
        self.status.change(|status| {
            status.phase = Phase::Lease;
            status.raise(Concern::Start, "Taking a lease".into());
        });
        let facts = Facts {
            identity: self.identity,
            mtu: self.mtu,
            source_ports: self.source_ports,
            shortcut: self.shortcut,
            macs: way::prepare(&self).await?,
            key: self.key,
        };
        let attributes = underlay::attributes(&self.interface, &self.config, &facts);
        let began = Instant::now().into_std();
        let lease = start::acquire(&self, &attributes).await?;
        info!(lease = lease.record.name, origin = ?lease.origin, "lease acquired");
        self.status.change(|status| {
            status.set_lease(&lease.leaf, self.identity);
            status.clear(Concern::LeaseSource);
            if lease.origin == Origin::Unconfirmed {
                status.raise(Concern::Lease, start::unconfirmed(&lease.record.name));
            }
        });
        let viewer = self.viewer(lease.leaf, &facts);
        let first_table = Arc::new(Table::new(viewer.table_input(&View::default(), 1))?);
        Ok(Acquired { begun: self, lease, began, facts, attributes, viewer, first_table })
    }

    fn desired_device(&self, name: &str, own: Option<&Leaf>) -> DesiredDevice {
        DesiredDevice {
            name: name.to_owned(),
            mtu: self.mtu,
            address_v4: own.and_then(|leaf| leaf.v4).map(|net| net.network()),
            address_v6: own.and_then(|leaf| leaf.v6).map(|net| net.network()),
            network_v4: self.config.network_v4(),
            network_v6: self.config.network_v6(),
            underlay: self.bind_addresses().iter().map(SocketAddr::ip).collect(),
        }
    }
}

/// The lease is ours.
#[derive(Debug)]
pub struct Acquired {
    begun: Begun,
    lease: AcquiredLease,
    /// When taking it began: it does not live longer than from then on.
    began: std::time::Instant,
    facts: Facts,
    attributes: Attributes,
    viewer: Viewer,
    first_table: Arc<Table>,
}

impl Acquired {
    /// What was known before.
    #[must_use]
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> &AcquiredLease {
        &self.lease
    }

    /// A table without peers for workers to begin with. Later ones come through the sink.
    #[must_use]
    pub fn first_table(&self) -> Arc<Table> {
        Arc::clone(&self.first_table)
    }

    /// Sets up the device, which the program has opened.
    ///
    /// A setting that cannot be made is no error: it is told in the status, keeps the node from being
    /// ready and is tried again.
    ///
    /// # Errors
    /// The device is not there, or the kernel cannot be asked.
    pub async fn configure(self, name: &str, index: u32) -> Result<Running, StartError> {
        let status = &self.begun.status;
        status.change(|status| {
            status.phase = Phase::Device;
            status.raise(Concern::Start, "Setting up the device".into());
            let mtu = self.begun.mtu;
            status.device = Some(DeviceStatus { name: name.to_owned(), index: Some(index), mtu });
        });
        if self.begun.config.backend.paths().len() == 1 {
            way::clear(&self.begun.config).await;
        }
        if self.begun.config.backend.requires_seal() {
            wall::establish(&wanted_rules(&self.begun.config, &self.lease.leaf)).await?;
        }
        let desired = self.begun.desired_device(name, Some(&self.lease.leaf));
        let report = device::apply(&desired).await?;
        for failure in &report.failures {
            error!(%failure, "the device could not be set up completely");
        }
        Ok(Running::new(self, desired, report))
    }

    /// The same for the types that need nothing of the program: the kernel carries all packets.
    #[must_use]
    pub fn leave_to_kernel(self) -> KernelRunning {
        let Begun { config, mtu, status, .. } = &self.begun;
        let first = config.backend.vxlan().map(|vxlan| device_name(vxlan.vni, config.v4.is_none()));
        status.change(|status| {
            status.phase = Phase::Device;
            status.device = first.map(|name| DeviceStatus { name, index: None, mtu: *mtu });
        });
        KernelRunning::new(self)
    }

    /// Before the subnet file, so that no pod is there before the rules are.
    async fn establish_rules(&self) -> Result<Netfilter, NetfilterError> {
        let Begun { options, status, config, .. } = &self.begun;
        let wanted = wanted_rules(config, &self.lease.leaf);
        let past = subnet_file::previous_overlays(&options.subnet_file);
        Netfilter::establish(options.netfilter.clone(), wanted, past, status.clone()).await
    }
}

fn wanted_rules(config: &NetworkConfig, own: &Leaf) -> netfilter::Wanted {
    let subnets = own.subnets();
    let overlay = |subnet: IpNet| {
        let network = config.networks().find(|network| network.contains(&subnet))?;
        Some(Overlay { network, subnet, fixed_source: config.backend.paths().len() > 1 })
    };
    netfilter::Wanted {
        overlays: subnets.filter_map(overlay).collect(),
        nftables: config.nftables,
        sealed: config.backend.requires_seal(),
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error} ({cause})"),
        None => error.to_string(),
    }
}
