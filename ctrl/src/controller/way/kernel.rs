//! `vxlan` and `host-gw`: the kernel carries all packets, and gets what it has to know for that.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::demand::{OnDemand, device_names};
use super::{Found, Learnt, Published, Way};
use crate::config::NetworkConfig;
use crate::controller::change::Ground;
use crate::controller::macs::{Macs, MacsError, foresee, known, load_or_create};
use crate::controller::{Acquired, Begun, DEVICE_NAME, RunError, start, underlay, with_cause};
use crate::desired::demand::Demand;
use crate::desired::kernel::{Host, Known, OnLink, asked_about, device_name, devices, state};
use crate::desired::paths::{self, Chosen, Ways};
use crate::desired::{Book, Slots, Viewer};
use crate::device;
use crate::interface::news::AddressNews;
use crate::interface::reader::{Netlink, ReadError};
use crate::kernel::action::Key;
use crate::kernel::misses::usage;
use crate::kernel::object::State;
use crate::kernel::plan::Plan;
use crate::kernel::{self, Failure, MacAddress, Report};
use crate::lease::{Attributes, Leaf};
use crate::source::Record;
use crate::status::PeerStatus;

/// Changes within this time go to the kernel together.
const PERIOD: Duration = Duration::from_millis(5);

/// How often it is asked again which peers are on a link: nothing tells of it.
const ASK_PERIOD: Duration = Duration::from_secs(10);

/// Peers in trouble that `status` names.
const SENTENCES_MAX: usize = 5;

/// See [`Way`].
pub(in crate::controller) struct KernelWay {
    macs: Macs,
    host: Host,
    states: watch::Sender<Arc<State>>,
    reports: Arc<watch::Sender<Report>>,
    /// Grows with every state.
    epoch: u64,
    due: bool,
    earliest: Instant,
    slots: Slots,
    on_link: OnLink,
    /// Whose place has to be known.
    asked: HashSet<IpAddr>,
    asking: Option<BoxFuture<'static, OnLink>>,
    ask_at: Instant,
    addresses: AddressNews,
    /// If the kernel gets only what it asks for.
    on_demand: Option<OnDemand>,
}

impl KernelWay {
    /// Nothing is handed on before the leases are known: what an earlier daemon left in the kernel
    /// carries packets until then.
    pub(in crate::controller) fn new(acquired: &Acquired) -> Self {
        let Begun { interface, config, .. } = acquired.begun();
        let macs = acquired.facts.macs;
        Self {
            macs,
            host: underlay::host(interface, config, macs),
            states: watch::Sender::default(),
            reports: Arc::default(),
            epoch: 0,
            due: false,
            earliest: Instant::now(),
            slots: Slots::default(),
            on_link: OnLink::new(),
            asked: HashSet::new(),
            asking: None,
            ask_at: Instant::now(),
            addresses: AddressNews::default(),
            on_demand: OnDemand::new(acquired.begun()),
        }
    }

    /// Keeps what `states` say as soon as they say something.
    pub(super) async fn keep_states(
        mut states: watch::Receiver<Arc<State>>,
        reports: Arc<watch::Sender<Report>>,
    ) -> RunError {
        // The first state has networks; before it nothing is removed.
        let first = states.wait_for(|state| !state.networks.is_empty()).await.is_ok();
        assert!(first, "the way outlives what it keeps");
        kernel::keep(states, &reports).await;
        // The sender lives as long as the node.
        std::future::pending().await
    }

    /// Asks where the peers are, and says whether all is known that is needed to begin. A peer that
    /// comes later is reached through the tunnel until it is known to be on a link.
    fn knows_enough(&mut self, asked: HashSet<IpAddr>) -> bool {
        self.on_link.retain(|address, _| asked.contains(address));
        let is_complete = asked.iter().all(|address| self.on_link.contains_key(address));
        self.asked = asked;
        if !is_complete {
            self.ask_at = Instant::now();
        }
        is_complete || self.epoch > 0
    }
}

/// Answers to the questions under way, or to those that come next. Pends for ever if there are none.
pub(super) async fn ask_in_time(
    asking: &mut Option<BoxFuture<'static, OnLink>>,
    asked: &HashSet<IpAddr>,
    ask_at: &mut Instant,
) -> OnLink {
    if asking.is_none() && asked.is_empty() {
        return std::future::pending().await;
    }
    if asking.is_none() {
        sleep_until(*ask_at).await;
    }
    let addresses = || asked.iter().copied().collect();
    let answers = asking.get_or_insert_with(|| links_of(addresses()).boxed()).await;
    *asking = None;
    *ask_at = Instant::now() + ASK_PERIOD;
    answers
}

/// Pends for ever if everything is made at once.
async fn learn_demand(on_demand: &mut Option<OnDemand>) -> bool {
    match on_demand {
        Some(on_demand) => on_demand.learn().await,
        None => std::future::pending().await,
    }
}

impl Way for KernelWay {
    type Report = Report;

    fn mark(&mut self) {
        self.due = true;
    }

    fn deadline(&self) -> Option<Instant> {
        self.due.then_some(self.earliest)
    }

    fn publish(&mut self, viewer: &Viewer, book: &Book) -> Option<Published> {
        let began = Instant::now();
        self.due = false;
        let view = viewer.view(book, &mut self.slots);
        let config = &viewer.config;
        if !self.knows_enough(asked_about(config, &view).collect()) {
            return None;
        }
        let demand = match &mut self.on_demand {
            Some(on_demand) => Some(on_demand.demand(&view, &viewer.own)?),
            None => None,
        };
        let known = Known { on_link: &self.on_link, demand };
        let state = state(config, &viewer.own, &self.host, &view, known);
        if *self.states.borrow().as_ref() != state {
            self.states.send_replace(Arc::new(state));
            self.epoch += 1;
        }
        let peer = |accepted| PeerStatus::of_kernel(accepted, config, &self.on_link);
        let peers = view.accepted.iter().map(peer).collect();
        // As long as this takes, everything else gets its turn too.
        self.earliest = Instant::now() + PERIOD.max(began.elapsed());
        Some(Published { view, peers, epoch: self.epoch, switches: Vec::new() })
    }

    async fn learn(&mut self) -> Learnt {
        let asked = ask_in_time(&mut self.asking, &self.asked, &mut self.ask_at);
        let answers = tokio::select! {
            answers = asked => answers,
            () = self.addresses.changed() => return Learnt::Addresses,
            is_news = learn_demand(&mut self.on_demand) => {
                self.due |= is_news;
                return Learnt::Own;
            }
        };
        for (address, link) in answers {
            let known = self.on_link.insert(address, link.clone());
            self.due |= known != Some(link);
        }
        Learnt::Own
    }

    fn keep(&self) -> impl Future<Output = RunError> + 'static {
        Self::keep_states(self.states.subscribe(), Arc::clone(&self.reports))
    }

    fn reports(&self) -> watch::Receiver<Report> {
        self.reports.subscribe()
    }

    /// A peer that cannot be reached takes nothing from the others, nor from the node's readiness.
    fn found(report: &Report) -> Found {
        let winners = report.foreign.iter().filter(|route| route.wins());
        let mut found = Found {
            foreign: report.foreign.iter().map(ToString::to_string).collect(),
            peers: winners
                .map(|route| {
                    format!("Somebody else routes a peer's subnet ({route}). Delete that route")
                })
                .collect(),
            device: report.unreadable.clone().into_iter().collect(),
            ..Found::default()
        };
        if !report.looked {
            found.device.push("The kernel has not been told of the peers yet".to_owned());
        }
        for Failure { key, sentence } in &report.failures {
            match key {
                Key::Device(_) | Key::Address(..) => found.device.push(sentence.clone()),
                _ => found.peers.push(sentence.clone()),
            }
        }
        found.peers = bounded(found.peers);
        found
    }

    /// The next state has it.
    fn take_subnet(&mut self, _: &Leaf) {}

    async fn go_over(&mut self, before: &Ground, now: &Ground) -> Result<(), String> {
        underlay::check_public(&now.config, &now.interface).map_err(|error| error.to_string())?;
        if !now.config.networks().eq(before.config.networks()) {
            let networks: Vec<_> = now.config.networks().collect();
            let checked = device::check_networks(&networks, &now.interface).await;
            checked.map_err(|error| with_cause(&error))?;
        }
        self.host = underlay::host(&now.interface, &now.config, self.macs);
        Ok(())
    }
}

/// With thousands of peers the same trouble comes thousands of times.
pub(super) fn bounded(mut sentences: Vec<String>) -> Vec<String> {
    let more = sentences.len().saturating_sub(SENTENCES_MAX);
    if more > 0 {
        sentences.truncate(SENTENCES_MAX);
        sentences.push(format!("and {more} more of this kind"));
    }
    sentences
}

/// Which of them are on a link of this host, and which one. Who cannot be asked about is on none, so
/// that the tunnel is used, which works everywhere.
pub(super) async fn links_of(addresses: Vec<IpAddr>) -> OnLink {
    let mut links = OnLink::new();
    let netlink = Netlink::open().ok();
    for address in addresses {
        let link = match &netlink {
            Some(netlink) => kernel::on_link_device(netlink, address).await.ok().flatten(),
            None => None,
        };
        links.insert(address, link);
    }
    links
}

/// What a start would do to the kernel's state for these leases, changing nothing.
pub(in crate::controller) async fn foretell(
    begun: &Begun,
    viewer: &Viewer,
    macs: Macs,
    book: &Book,
) -> Result<Plan, ReadError> {
    let config = &viewer.config;
    let view = viewer.view(book, &mut Slots::default());
    let host = underlay::host(&begun.interface, config, macs);
    if config.backend.udp().is_some() && config.backend.paths().len() > 1 {
        let on_link = links_of(paths::asked_about(&view).collect()).await;
        let (own, engine) = (&viewer.own, DEVICE_NAME);
        // Nothing is known of health, so the engine carries everything at first.
        let narrow = &paths::Narrow::new();
        let ways = Ways { config, own, host: &host, engine, on_link: &on_link, narrow };
        let mut plan = kernel::preview(&paths::state(ways, &view, &Chosen::new())).await?;
        // The engine's device is there as soon as the daemon is.
        plan.obstacles.retain(|(key, _)| *key != Key::Device(engine.to_owned()));
        return Ok(plan);
    }
    let on_link = links_of(asked_about(config, &view).collect()).await;
    let mut demand =
        device_names(begun).map(|names| (names, Demand::new(std::time::Instant::now())));
    if let Some((names, demand)) = &mut demand {
        // What was made for earlier questions stays.
        demand.adopt(&usage(names).await?.neighbours, std::time::Instant::now());
    }
    let known = Known { on_link: &on_link, demand: demand.as_ref().map(|(_, demand)| demand) };
    kernel::preview(&state(config, &viewer.own, &host, &view, known)).await
}

/// The MAC addresses that a start would use, without keeping them. `given` is this node's lease, where
/// it was given one.
pub(in crate::controller) async fn foresee_macs(
    begun: &Begun,
    given: Option<&Record>,
) -> Result<Macs, PrepareError> {
    macs_by(begun, given, foresee).await
}

/// Removes what an earlier start with another type has left in the kernel, which would carry packets
/// past the engine. What cannot be removed is logged: it is a part of the network at most.
pub(in crate::controller) async fn clear(config: &NetworkConfig) {
    let nothing = State { networks: config.networks().collect(), ..State::default() };
    match kernel::apply(&nothing).await {
        Ok(report) => {
            for Failure { sentence, .. } in &report.failures {
                warn!(sentence, "the state of an earlier backend type stays in part");
            }
        }
        Err(error) => {
            warn!(problem = with_cause(&error), "the state of an earlier backend type may stay");
        }
    }
}

/// Why the devices cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The MAC addresses cannot be kept.
    #[error(transparent)]
    Macs(#[from] MacsError),
    /// The kernel cannot be asked.
    #[error("The devices of this host could not be read")]
    Read(#[from] ReadError),
    /// It does not make the device.
    #[error("{0}")]
    Device(String),
}

/// Makes the devices that the lease tells about, or adopts those that are there. Nothing else of the
/// kernel's state is touched, so what carries packets already goes on. Gives their MAC addresses.
///
/// # Errors
/// The kernel does not make a device, or the addresses cannot be kept.
pub(in crate::controller) async fn prepare(begun: &Begun) -> Result<Macs, PrepareError> {
    let config = &begun.config;
    if config.backend.tunnel().is_none() {
        return Ok(Macs::default());
    }
    let given = start::given(begun).await;
    let macs = macs_by(begun, given.as_ref(), load_or_create).await?;
    let host = underlay::host(&begun.interface, config, macs);
    // Without an address: it comes with the lease. The network's own is not used here.
    let nobody = Leaf { v4: config.network_v4(), v6: config.network_v6() };
    let devices = devices(config, &nobody, &host);
    match kernel::make_devices(&devices).await?.into_iter().next() {
        Some(failure) => Err(PrepareError::Device(failure.sentence)),
        None => Ok(macs),
    }
}

/// One for each family that is on, of a directory, whether for IPv6, and the address that peers know.
async fn macs_by(
    begun: &Begun,
    given: Option<&Record>,
    choose: fn(&Path, bool, Option<MacAddress>) -> Result<MacAddress, MacsError>,
) -> Result<Macs, PrepareError> {
    let config = &begun.config;
    let Some(backend) = config.backend.tunnel() else { return Ok(Macs::default()) };
    let there = kernel::vxlan_macs().await?;
    let told = given.and_then(|record| Attributes::parse(&record.value).ok());
    let is_one_of_several = config.backend.vxlan().is_none();
    // As one path of several, both devices have the address that our part of the lease tells.
    let mac = |is_v6: bool| {
        let is_v6 = is_v6 && !is_one_of_several;
        let there = there.get(&device_name(backend.vni, is_v6)).copied();
        choose(&begun.options.state_directory, is_v6, known(there, told.as_ref(), is_v6))
    };
    Ok(Macs {
        v4: config.v4.as_ref().map(|_| mac(false)).transpose()?,
        v6: config.v6.as_ref().map(|_| mac(true)).transpose()?,
    })
}
