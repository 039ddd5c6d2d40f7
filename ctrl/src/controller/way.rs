//! What the backend types do differently. Everything else of a node (its lease, its source, what it
//! saves and tells) is the same for all.
//!
//! | | [`EngineWay`] | [`KernelWay`] |
//! | --- | --- | --- |
//! | types | `udp` | `vxlan`, `host-gw` |
//! | hands on | a table to the workers | devices, routes, neighbours and FDB entries to the kernel |
//! | looks after | the tunnel device | all of these |
//!
//! [`PathsWay`] does both, for `udp` with several `Paths`.

mod demand;
mod engine;
mod kernel;
mod paths;

use tokio::sync::watch;
use tokio::time::Instant;

use super::RunError;
use super::change::Ground;
use crate::desired::{Book, View, Viewer};
use crate::lease::Leaf;
use crate::status::{PathSwitches, PeerStatus};

pub(super) use engine::EngineWay;
pub use kernel::PrepareError;
pub(super) use kernel::{KernelWay, clear, foresee_macs, foretell, prepare};
pub(super) use paths::PathsWay;

/// How packets get to the peers.
pub(super) trait Way {
    /// What a look at the kernel gives.
    type Report: Clone + Send + Sync + 'static;

    /// Something changed that may change what is handed on.
    fn mark(&mut self);

    /// When to call [`Way::publish`]; `None` while nothing is due.
    fn deadline(&self) -> Option<Instant>;

    /// Hands on what follows from the leases. `None` if something has to be known before, after which
    /// it is due again.
    fn publish(&mut self, viewer: &Viewer, book: &Book) -> Option<Published>;

    /// Waits for what has to be known, and for news of the host that no report brings.
    async fn learn(&mut self) -> Learnt;

    /// Keeps the kernel's part in order, until that cannot be done. Owns what it needs, so that the
    /// loop can go on meanwhile.
    fn keep(&self) -> impl Future<Output = RunError> + 'static;

    /// The newest look.
    fn reports(&self) -> watch::Receiver<Self::Report>;

    /// A look as the node understands it.
    fn found(report: &Self::Report) -> Found;

    /// The node has another subnet.
    fn take_subnet(&mut self, leaf: &Leaf);

    /// The config or the interface is another one. A failure, in a sentence, leaves everything as it
    /// was.
    async fn go_over(&mut self, before: &Ground, now: &Ground) -> Result<(), String>;
}

/// What came in beside reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learnt {
    /// Something that [`Way::publish`] needs.
    Own,
    /// The host has other addresses, perhaps.
    Addresses,
}

/// What was handed on.
pub(super) struct Published {
    pub(super) view: View,
    /// Those that were accepted, for people.
    pub(super) peers: Vec<PeerStatus>,
    /// Number of the table; it grows with every change.
    pub(super) epoch: u64,
    /// How often peers were given other paths.
    pub(super) switches: Vec<PathSwitches>,
}

/// What is not as it should be on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Objects of others that stay.
    pub(super) foreign: Vec<String>,
    /// What keeps this node from doing its work: its devices, and routes of others that win.
    pub(super) device: Vec<String>,
    pub(super) routes: Vec<String>,
    /// What concerns single peers.
    pub(super) peers: Vec<String>,
    /// The address that packets are sent from is gone.
    pub(super) is_stranded: bool,
}
