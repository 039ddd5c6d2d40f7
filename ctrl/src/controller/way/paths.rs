//! `udp` with several `Paths`: the engine's way, and beside it the kernel's state for the peers that
//! are better reached without it. Probes say which.

mod narrow;
mod sockets;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::kernel::{ask_in_time, bounded};
use super::{EngineWay, Found, KernelWay, Learnt, Published, Way};
use crate::config::PathKind;
use crate::controller::change::Ground;
use crate::controller::macs::Macs;
use crate::controller::{Acquired, RunError, TableSink, underlay};
use crate::desired::kernel::{Host, OnLink};
use crate::desired::paths::{self, Chosen, Ways};
use crate::desired::{Accepted, Book, Hop, View, Viewer};
use crate::device::{self, DesiredDevice};
use crate::health::choice::{Objection, objection};
use crate::health::{Candidate, Choice, Prober, Standing, TICK, choose};
use crate::kernel;
use crate::kernel::object::State;
use crate::lease::Leaf;
use crate::status::{PathStatus, PathSwitches, PeerStatus};

use narrow::Narrow;
use sockets::Sockets;

/// How often what people are told of round trips and losses is brought up to date.
const SHOW_PERIOD: std::time::Duration = std::time::Duration::from_secs(2);

/// What both looks gave.
#[derive(Clone, Debug, Default)]
pub(in crate::controller) struct Report {
    device: device::Report,
    kernel: kernel::Report,
}

/// See [`Way`].
pub(in crate::controller) struct PathsWay<S> {
    engine: EngineWay<S>,
    /// Whether the engine works.
    works: watch::Receiver<bool>,
    macs: Macs,
    host: Host,
    /// Name of the engine's device.
    device: String,
    states: watch::Sender<Arc<State>>,
    kernel_reports: Arc<watch::Sender<kernel::Report>>,
    reports: Arc<watch::Sender<Report>>,
    prober: Prober,
    narrow: Narrow,
    sockets: Sockets,
    tick_at: Instant,
    show_at: Instant,
    chosen: Chosen,
    /// By the path that was left, the one that was taken, and what was wrong.
    switches: BTreeMap<(PathKind, PathKind, &'static str), u64>,
    on_link: OnLink,
    asked: HashSet<IpAddr>,
    asking: Option<BoxFuture<'static, OnLink>>,
    ask_at: Instant,
}

impl<S: TableSink> PathsWay<S> {
    /// The device was `desired` and reported; workers have the first table.
    pub(in crate::controller) fn new(
        sink: S,
        acquired: &Acquired,
        desired: DesiredDevice,
        report: device::Report,
    ) -> Self {
        let begun = acquired.begun();
        let macs = acquired.facts.macs;
        let full_size = usize::try_from(begun.mtu).expect("an MTU fits");
        let session = rand::rng().random_range(1..=u32::MAX);
        let now = Instant::now();
        Self {
            works: sink.works(),
            macs,
            host: underlay::host(&begun.interface, &begun.config, macs),
            device: desired.name.clone(),
            states: watch::Sender::default(),
            kernel_reports: Arc::default(),
            reports: Arc::new(watch::Sender::new(Report {
                device: report.clone(),
                ..Report::default()
            })),
            engine: EngineWay::new(sink, &acquired.first_table, desired, report),
            prober: Prober::new(begun.identity, session, full_size, now.into_std()),
            narrow: Narrow::default(),
            sockets: Sockets::new(acquired.lease.leaf, begun.config.backend.paths()),
            tick_at: now,
            show_at: now,
            chosen: Chosen::new(),
            switches: BTreeMap::new(),
            on_link: OnLink::new(),
            asked: HashSet::new(),
            asking: None,
            ask_at: now,
        }
    }

    /// Sends what is due, and says whether a choice may have changed.
    fn handle_tick(&mut self) -> bool {
        let now = Instant::now();
        self.tick_at = now + TICK;
        self.sockets.keep_open();
        let random = &mut || rand::rng().random();
        for datagram in self.prober.handle_time(now.into_std(), random) {
            self.sockets.send(&datagram);
        }
        let is_stale = now >= self.show_at && !self.prober.is_idle();
        if is_stale {
            self.show_at = now + SHOW_PERIOD;
        }
        self.prober.take_news() || is_stale
    }

    fn standing(&self, path: PathKind, hop: &Hop) -> Standing {
        if path == PathKind::Udp && !*self.works.borrow() {
            return Standing::Closed("the engine does not work");
        }
        if let Some(reason) = paths::objection(path, hop, &self.on_link) {
            return Standing::Closed(reason);
        }
        let mut probed = self.prober.assessments(&hop.subnet);
        match probed.find(|(one, _)| *one == path) {
            Some((_, assessment)) => Standing::Probed(assessment),
            None if path == PathKind::Udp => Standing::Alone,
            None => Standing::Closed("not probed yet"),
        }
    }

    /// Chooses for one peer in one family, and tells people about it.
    fn choose(&self, accepted: &Accepted, hop: &Hop) -> (Choice, Vec<PathStatus>) {
        let candidate =
            |path: &PathKind| Candidate { path: *path, standing: self.standing(*path, hop) };
        let candidates: Vec<Candidate> = accepted.paths.iter().map(candidate).collect();
        let choice = choose(&candidates).unwrap_or_else(|| Choice {
            path: PathKind::Udp,
            reason: "it is the only path that both nodes have".to_owned(),
        });
        let path = choice.path;
        let shown = candidates.iter().map(|one| PathStatus::new(one, hop.subnet, path)).collect();
        (choice, shown)
    }

    fn choose_all(&mut self, view: &View, peers: &mut [PeerStatus]) {
        let mut chosen = Chosen::new();
        for (accepted, shown) in view.accepted.iter().zip(peers) {
            let mut names: Vec<&str> = Vec::new();
            for hop in &accepted.beside {
                let (choice, paths) = self.choose(accepted, hop);
                if !names.contains(&choice.path.name()) {
                    names.push(choice.path.name());
                }
                self.note_switch(hop, &choice);
                chosen.insert(hop.subnet, choice.path);
                shown.reason = Some(choice.reason);
                shown.paths.extend(paths);
            }
            if names.is_empty() {
                shown.reason = Some("the peer has no other path".to_owned());
            } else {
                shown.path = names.join(", ");
            }
        }
        self.chosen = chosen;
    }

    /// What the chosen paths of the kernel take, where that is less than pods send.
    fn narrow_routes(&self) -> paths::Narrow {
        let of_kernel = self.chosen.iter().filter(|(_, path)| **path != PathKind::Udp);
        let mtu = |(subnet, path): (&IpNet, &PathKind)| {
            Some((*subnet, self.prober.narrow_path(subnet, *path)?))
        };
        of_kernel.filter_map(mtu).collect()
    }

    fn note_switch(&mut self, hop: &Hop, choice: &Choice) {
        let (subnet, to) = (hop.subnet, choice.path);
        let Some(&from) = self.chosen.get(&subnet).filter(|before| **before != to) else {
            return;
        };
        let fault = objection(self.standing(from, hop)).map_or("none", Objection::name);
        *self.switches.entry((from, to, fault)).or_default() += 1;
        info!(%subnet, %from, %to, reason = choice.reason, "another path");
    }

    fn switches(&self) -> Vec<PathSwitches> {
        let shown = |(&(from, to, reason), &count): (&(PathKind, PathKind, &str), &u64)| {
            let [from, to, reason] = [from.name(), to.name(), reason].map(str::to_owned);
            PathSwitches { from, to, reason, count }
        };
        self.switches.iter().map(shown).collect()
    }
}

impl<S: TableSink> Way for PathsWay<S> {
    type Report = Report;

    fn mark(&mut self) {
        self.engine.mark();
    }

    fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    fn publish(&mut self, viewer: &Viewer, book: &Book) -> Option<Published> {
        let narrow = self.prober.narrow_engine_paths();
        self.engine.narrow = self.narrow.handle(narrow, Instant::now().into_std());
        let Published { view, mut peers, epoch, .. } = self.engine.publish(viewer, book)?;
        let asked: HashSet<IpAddr> = paths::asked_about(&view).collect();
        let is_complete = asked.iter().all(|address| self.on_link.contains_key(address));
        self.on_link.retain(|address, _| asked.contains(address));
        if !is_complete {
            self.ask_at = Instant::now();
        }
        self.asked = asked;
        let targets = paths::targets(&view, &viewer.own, &self.on_link);
        self.prober.set_targets(targets, Instant::now().into_std(), &mut || rand::rng().random());
        self.choose_all(&view, &mut peers);
        // What an earlier daemon left in the kernel carries packets until all is known.
        let is_first = self.states.borrow().networks.is_empty();
        if is_complete || !is_first {
            let ways = Ways {
                config: &viewer.config,
                own: &viewer.own,
                host: &self.host,
                engine: &self.device,
                on_link: &self.on_link,
                narrow: &self.narrow_routes(),
            };
            let state = paths::state(ways, &view, &self.chosen);
            if *self.states.borrow().as_ref() != state {
                self.states.send_replace(Arc::new(state));
            }
        }
        Some(Published { view, peers, epoch, switches: self.switches() })
    }

    async fn learn(&mut self) -> Learnt {
        loop {
            let asked = ask_in_time(&mut self.asking, &self.asked, &mut self.ask_at);
            tokio::select! {
                answers = asked => {
                    let mut is_news = false;
                    for (address, link) in answers {
                        let known = self.on_link.insert(address, link.clone());
                        is_news |= known != Some(link);
                    }
                    if is_news {
                        break;
                    }
                }
                Ok(()) = self.works.changed() => {
                    let works = *self.works.borrow_and_update();
                    self.prober.set_engine(works, Instant::now().into_std());
                    break;
                }
                arrival = self.sockets.arrival() => {
                    let sockets::Arrival { path, from, bytes, at } = arrival;
                    let reply = self.prober.handle_datagram(at, path, from, &bytes);
                    if let Some(reply) = reply {
                        self.sockets.send(&reply);
                    }
                }
                () = sleep_until(self.tick_at) => if self.handle_tick() {
                    break;
                },
            }
        }
        self.engine.mark();
        Learnt::Own
    }

    fn keep(&self) -> impl Future<Output = RunError> + 'static {
        let engine = self.engine.keep_again(self.works.clone());
        let (states, reports) = (self.states.subscribe(), Arc::clone(&self.kernel_reports));
        let merged = merge(self.engine.reports(), reports.subscribe(), Arc::clone(&self.reports));
        async move {
            tokio::select! {
                never = engine => match never {},
                error = KernelWay::keep_states(states, reports) => error,
                () = merged => std::future::pending().await,
            }
        }
    }

    fn reports(&self) -> watch::Receiver<Report> {
        self.reports.subscribe()
    }

    /// The engine reaches every peer, so what is wrong with the other paths concerns peers at most.
    fn found(report: &Report) -> Found {
        let Found { foreign, device, peers, .. } = KernelWay::found(&report.kernel);
        let mut found = EngineWay::<S>::found(&report.device);
        found.foreign.extend(foreign);
        if report.kernel.looked {
            found.peers = bounded(device.into_iter().chain(peers).collect());
        }
        found
    }

    fn take_subnet(&mut self, leaf: &Leaf) {
        self.engine.take_subnet(leaf);
        self.sockets = Sockets::new(*leaf, self.sockets.paths());
    }

    async fn go_over(&mut self, before: &Ground, now: &Ground) -> Result<(), String> {
        underlay::check_public(&now.config, &now.interface).map_err(|error| error.to_string())?;
        self.engine.go_over(before, now).await?;
        self.host = underlay::host(&now.interface, &now.config, self.macs);
        Ok(())
    }
}

/// Puts both reports together until both have ended.
async fn merge(
    mut device: watch::Receiver<device::Report>,
    mut kernel: watch::Receiver<kernel::Report>,
    merged: Arc<watch::Sender<Report>>,
) {
    loop {
        tokio::select! {
            Ok(()) = device.changed() => {}
            Ok(()) = kernel.changed() => {}
            else => return,
        }
        let device = device.borrow_and_update().clone();
        let kernel = kernel.borrow_and_update().clone();
        merged.send_replace(Report { device, kernel });
    }
}
