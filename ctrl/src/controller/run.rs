//! The loop of a running node.

use std::collections::HashSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

mod adjust;
mod lease;
mod limit;
mod unsealed;

use super::announce;
use super::change::Ground;
use super::own::{Changed, Life, OwnLease, Tried};
use super::release::Wish;
use super::save::Saver;
use super::way::{EngineWay, Found, KernelWay, Learnt, PathsWay, Published, Way};
use super::{Acquired, OnLeaseLoss, RunError, TableSink, Viewer, wanted_rules, with_cause};
use crate::desired::Book;
use crate::device::{DesiredDevice, Report};
use crate::lease::Attributes;
use crate::netfilter::{self, Netfilter, Wanted};
use crate::saved::{Saved, wall_clock};
use crate::source::acquire::Origin;
use crate::source::{Health, Source, Update, Watch};
use crate::status::{Concern, Phase, RejectedStatus, StatusHandle};
use crate::subnet_file::{self, Contents};

use adjust::Adjustment;
use lease::{own_lease, written};
use limit::Lines;

/// How often everything is looked at that nobody tells of.
const PERIOD: Duration = Duration::from_secs(10);

/// Everything is set up for the engine.
#[derive(Debug)]
pub struct Running {
    acquired: Acquired,
    desired: DesiredDevice,
    report: Report,
}

/// Everything is set up for the kernel to carry all packets.
#[derive(Debug)]
pub struct KernelRunning {
    acquired: Acquired,
}

/// Why the loop is left.
enum Ended {
    Stopped,
    /// Another subnet has to be taken.
    LeaseTaken,
    /// What the node goes by has changed.
    GroundMoved,
}

impl Running {
    pub(super) fn new(acquired: Acquired, desired: DesiredDevice, report: Report) -> Self {
        Self { acquired, desired, report }
    }

    /// Establishes the netfilter rules, writes the subnet file, then follows the leases and keeps the
    /// device in order until `stop` resolves. On the way out nothing is undone: lease and subnet file stay for the next start.
    ///
    /// # Errors
    /// Masquerading cannot be set up, or the device was deleted.
    pub async fn run(
        self,
        sink: impl TableSink,
        stop: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let (_, nobody) = mpsc::channel(1);
        self.run_releasable(sink, stop, nobody).await
    }

    /// The same, but ends also when a wish to give the lease back could be granted.
    ///
    /// # Errors
    /// Masquerading cannot be set up, or the device was deleted.
    pub async fn run_releasable(
        self,
        sink: impl TableSink,
        stop: impl Future<Output = ()>,
        wishes: mpsc::Receiver<Wish>,
    ) -> Result<(), RunError> {
        let Self { acquired, desired, report } = self;
        let netfilter = acquired.establish_rules().await?;
        if acquired.begun().config().backend.paths().len() > 1 {
            let way = PathsWay::new(sink, &acquired, desired, report);
            return live(Node::new(acquired, way), netfilter, stop, wishes).await;
        }
        let way = EngineWay::new(sink, &acquired.first_table, desired, report);
        live(Node::new(acquired, way), netfilter, stop, wishes).await
    }
}

impl KernelRunning {
    pub(super) fn new(acquired: Acquired) -> Self {
        Self { acquired }
    }

    /// Establishes the netfilter rules, writes the subnet file, then follows the leases and keeps the
    /// kernel's state as they say until `stop` resolves, or until a wish to give the lease back could be granted. On the way out nothing
    /// is undone: the kernel goes on carrying packets.
    ///
    /// # Errors
    /// Masquerading cannot be set up; whatever else fails is tried again.
    pub async fn run_releasable(
        self,
        stop: impl Future<Output = ()>,
        wishes: mpsc::Receiver<Wish>,
    ) -> Result<(), RunError> {
        let netfilter = self.acquired.establish_rules().await?;
        let way = KernelWay::new(&self.acquired);
        live(Node::new(self.acquired, way), netfilter, stop, wishes).await
    }
}

async fn live<W: Way>(
    mut node: Node<W>,
    netfilter: Netfilter,
    stop: impl Future<Output = ()>,
    wishes: mpsc::Receiver<Wish>,
) -> Result<(), RunError> {
    node.write_subnet_file();
    node.status.change(|status| {
        status.phase = Phase::Running;
        status.raise(Concern::Start, "Waiting for the first list of leases".into());
    });
    let reported = node.way.reports();
    node.show_found(&W::found(&reported.borrow()));
    if node.is_unconfirmed {
        node.publish();
    }
    let rules = netfilter::keep(netfilter, node.rules.subscribe());
    let announcing = announce::keep(Arc::clone(&node.source), node.status.clone());
    let inputs = Inputs { watch: node.source.watch(), reported, wishes };
    tokio::select! {
        outcome = follow(node, inputs, stop) => outcome,
        never = rules => match never {},
        never = announcing => match never {},
    }
}

async fn follow<W: Way>(
    mut node: Node<W>,
    mut inputs: Inputs<W::Report>,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut stop = pin!(stop);
    loop {
        match node.follow(&mut inputs, stop.as_mut()).await? {
            Ended::Stopped => return Ok(()),
            Ended::LeaseTaken => tokio::select! {
                () = &mut stop => return Ok(()),
                () = node.take_another() => {}
            },
            Ended::GroundMoved => tokio::select! {
                () = &mut stop => return Ok(()),
                () = node.adjust() => {}
            },
        }
    }
}

struct Inputs<R> {
    watch: Watch,
    reported: watch::Receiver<R>,
    wishes: mpsc::Receiver<Wish>,
}

/// What the loop works on.
struct Node<W> {
    status: StatusHandle,
    source: Arc<dyn Source>,
    ground: Ground,
    adjustment: Adjustment,
    viewer: Viewer,
    own: OwnLease,
    attributes: Attributes,
    life: Life,
    on_lease_loss: OnLeaseLoss,
    /// A write of our lease that is under way.
    writing: Option<BoxFuture<'static, Tried>>,
    /// The lease could not be taken from the source; it is what was known last.
    is_unconfirmed: bool,
    book: Book,
    way: W,
    /// What the netfilter rules are made from.
    rules: watch::Sender<Wanted>,
    subnet_file: (std::path::PathBuf, Contents),
    subnet_file_written: bool,
    /// The source has told everything once.
    listed: bool,
    /// When the first change was told that is in no table yet.
    oldest_news: Option<Instant>,
    saver: Saver,
    /// What is logged of rejected leases.
    rejections: Lines,
}

impl<W: Way> Node<W> {
    fn new(acquired: Acquired, way: W) -> Self {
        let Acquired { begun, lease, began, facts, attributes, viewer, .. } = acquired;
        let contents = Contents {
            v4: begun.config.network_v4().zip(lease.leaf.v4),
            v6: begun.config.network_v6().zip(lease.leaf.v6),
            mtu: begun.mtu,
            ip_masq: begun.options.netfilter.masquerade,
        };
        let rules = watch::Sender::new(wanted_rules(&begun.config, &lease.leaf));
        let life = Life { lifetime: begun.source.lifetime(), margin: begun.options.renew_margin };
        let is_unconfirmed = lease.origin == Origin::Unconfirmed;
        let mut book = Book::default();
        if is_unconfirmed && let Some(saved) = &begun.saved {
            let records = saved.records(wall_clock());
            book.handle(Update::Snapshot(records), Instant::now().into_std());
        }
        let ground = Ground {
            config: begun.config,
            document: begun.document.clone(),
            interface: begun.interface,
        };
        Self {
            status: begun.status,
            source: begun.source,
            ground,
            adjustment: Adjustment::new(begun.options.interface, facts),
            viewer,
            own: own_lease(lease, &attributes, life, began),
            attributes,
            life,
            on_lease_loss: begun.options.on_lease_loss,
            writing: None,
            is_unconfirmed,
            book,
            way,
            rules,
            subnet_file: (begun.options.subnet_file, contents),
            subnet_file_written: false,
            listed: false,
            oldest_news: None,
            saver: Saver::new(begun.options.state_directory),
            rejections: Lines::new(Instant::now()),
        }
    }

    /// Until the node is stopped, or has to take another subnet.
    async fn follow(
        &mut self,
        inputs: &mut Inputs<W::Report>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Ended, RunError> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = inputs.watch.health();
        let mut keep = pin!(self.way.keep());
        loop {
            let publish_at = self.way.deadline();
            let look_at = self.look_at();
            let save_at = self.saver.deadline();
            let adjust_at = self.adjustment.deadline();
            tokio::select! {
                () = &mut stop => return Ok(Ended::Stopped),
                error = &mut keep => return Err(error),
                Ok(()) = inputs.reported.changed() => {
                    let found = W::found(&inputs.reported.borrow_and_update());
                    self.handle_found(&found);
                }
                learnt = self.way.learn() => if learnt == Learnt::Addresses {
                    self.look_at_host(Duration::ZERO);
                },
                looked = self.adjustment.looked() => self.handle_looked(looked),
                () = at(adjust_at) => return Ok(Ended::GroundMoved),
                tried = written(&mut self.writing) => self.handle_tried(tried),
                Some(wish) = inputs.wishes.recv() => match wish {
                    Wish::Release(release) => if self.release(release).await {
                        return Ok(Ended::Stopped);
                    },
                    Wish::Key(key) => self.take_up_key(key),
                },
                update = inputs.watch.next() => {
                    self.handle_update(update, inputs.watch.told_at());
                }
                Ok(()) = health.changed() => self.show_health(&health.borrow_and_update()),
                () = at(publish_at) => self.publish(),
                () = at(look_at) => self.keep_lease(Changed::Now),
                () = at(save_at) => self.save(),
                _ = ticks.tick() => self.handle_tick(),
            }
            if self.must_take_another() {
                return Ok(Ended::LeaseTaken);
            }
        }
    }

    /// A failure is no reason to stop, as in flanneld, but the node is not ready then.
    fn write_subnet_file(&mut self) {
        let (path, contents) = &self.subnet_file;
        match subnet_file::write(path, contents) {
            Ok(()) => {
                info!(path = %path.display(), "subnet file written");
                self.subnet_file_written = true;
                self.status.change(|status| status.clear(Concern::SubnetFile));
            }
            Err(error) => {
                let problem = with_cause(&error);
                warn!(problem, "the subnet file is missing");
                self.status.change(|status| status.raise(Concern::SubnetFile, problem));
            }
        }
    }

    fn handle_update(&mut self, update: Update, told_at: Instant) {
        if let Update::Config(config) = update {
            self.handle_config(config.as_deref());
            return;
        }
        let is_snapshot = matches!(update, Update::Snapshot(_));
        let changed = self.book.handle(update, Instant::now().into_std());
        let is_first = is_snapshot && !std::mem::replace(&mut self.listed, true);
        if is_first || changed {
            self.way.mark();
            self.oldest_news.get_or_insert(told_at);
        }
        self.keep_lease(Changed::Later);
    }

    fn handle_tick(&mut self) {
        if !self.subnet_file_written {
            self.write_subnet_file();
        }
        if self.book.handle_time(Instant::now().into_std()) {
            self.way.mark();
        }
        self.look_at_host(Duration::ZERO);
        self.keep_lease(Changed::Now);
    }

    fn publish(&mut self) {
        let Some(published) = self.way.publish(&self.viewer, &self.book) else { return };
        let Published { view, peers, epoch, switches } = published;
        let listed = self.listed;
        let delay = self.oldest_news.take().map(|oldest| oldest.elapsed());
        debug!(epoch, peers = peers.len(), rejected = view.rejected.len(), "leases sorted");
        let lines = &mut self.rejections;
        self.status.change(|status| {
            if let Some(delay) = delay {
                status.delays.add(delay);
            }
            let known = std::mem::take(&mut status.rejected);
            let known: HashSet<RejectedStatus> = known.into_iter().collect();
            status.set_view(&view, peers, epoch, &known);
            status.path_switches = switches;
            for one in status.rejected.iter().filter(|one| !known.contains(one)) {
                log_rejected(lines, one);
            }
            unsealed::tell(status, &self.viewer.config, &view.accepted);
            if listed {
                status.clear(Concern::Start);
            }
        });
        self.saver.mark();
    }

    fn show_found(&self, found: &Found) {
        self.status.change(|status| {
            status.foreign.clone_from(&found.foreign);
            status.set(Concern::Device, &found.device);
            status.set(Concern::Routes, &found.routes);
            status.set(Concern::Peers, &found.peers);
        });
    }

    fn show_health(&mut self, health: &Health) {
        if health.problem.is_none() && self.status.has(Concern::LeaseSource) {
            self.own.hurry(Instant::now().into_std());
            self.keep_lease(Changed::Now);
        }
        self.status.change(|status| {
            status.set_health(health);
            match &health.problem {
                Some(problem) => status.raise(Concern::LeaseSource, problem.clone()),
                None if health.listings > 0 => status.clear(Concern::LeaseSource),
                None => {}
            }
        });
    }

    /// Only what the source has said is worth keeping.
    fn save(&mut self) {
        let away = !self.listed || self.status.has(Concern::LeaseSource);
        let saved = (!away).then(|| {
            Saved::new(
                self.source.description(),
                self.source.lifetime(),
                self.ground.document.clone(),
                self.own.name().to_owned(),
                &self.book.records(),
            )
        });
        self.saver.save(saved);
    }
}

fn log_rejected(lines: &mut Lines, one: &RejectedStatus) {
    let Some(left_out) = lines.next(Instant::now()) else { return };
    if left_out > 0 {
        warn!(left_out, "more leases were rejected; weft status has those that are rejected now");
    }
    warn!(lease = one.name, reason = one.text, "lease rejected");
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
