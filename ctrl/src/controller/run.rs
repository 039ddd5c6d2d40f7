//! The loop of a running node.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, info, warn};

mod adjust;

use super::change::Ground;
use super::own::{Changed, Life, OwnLease, State, Tried};
use super::publish::Publisher;
use super::release::{RELEASE_PATIENCE, Release, remove_own};
use super::save::Saver;
use super::{Acquired, OnLeaseLoss, RunError, Slots, TableSink, Viewer, with_cause};
use crate::desired::Book;
use crate::device::{self, DesiredDevice, Report};
use crate::lease::Attributes;
use crate::saved::{Saved, wall_clock};
use crate::source::acquire::{Acquired as AcquiredLease, Origin, Request, acquire};
use crate::source::{Health, Source, Update, Watch};
use crate::status::{Concern, Phase, StatusHandle};
use crate::subnet_file::{self, Contents};

use adjust::Adjustment;

/// How often everything is looked at that nobody tells of.
const PERIOD: Duration = Duration::from_secs(10);

/// Everything is set up.
#[derive(Debug)]
pub struct Running {
    acquired: Acquired,
    desired: DesiredDevice,
    report: Report,
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

    /// Writes the subnet file, then follows the leases and keeps the device in order until `stop`
    /// resolves. On the way out nothing is undone: lease and subnet file stay for the next start.
    ///
    /// # Errors
    /// The device was deleted.
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
    /// The device was deleted.
    pub async fn run_releasable(
        self,
        sink: impl TableSink,
        stop: impl Future<Output = ()>,
        releases: mpsc::Receiver<Release>,
    ) -> Result<(), RunError> {
        let Self { acquired, mut desired, report } = self;
        let (reports, reported) = watch::channel(report);
        let mut node = Node::new(acquired, sink);
        node.write_subnet_file();
        node.status.change(|status| {
            status.phase = Phase::Running;
            status.raise(Concern::Start, "Waiting for the first list of leases".into());
        });
        if node.is_unconfirmed {
            node.publish();
        }
        let mut inputs = Inputs { watch: node.source.watch(), reported, releases };
        let mut stop = pin!(stop);
        loop {
            match node.follow(&mut inputs, &desired, &reports, stop.as_mut()).await? {
                Ended::Stopped => return Ok(()),
                Ended::LeaseTaken => tokio::select! {
                    () = &mut stop => return Ok(()),
                    () = node.take_another(&mut desired) => {}
                },
                Ended::GroundMoved => tokio::select! {
                    () = &mut stop => return Ok(()),
                    () = node.adjust(&mut desired) => {}
                },
            }
        }
    }
}

struct Inputs {
    watch: Watch,
    reported: watch::Receiver<Report>,
    releases: mpsc::Receiver<Release>,
}

/// What the loop works on.
struct Node<S> {
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
    slots: Slots,
    publisher: Publisher<S>,
    subnet_file: (std::path::PathBuf, Contents),
    subnet_file_written: bool,
    /// The source has told everything once.
    listed: bool,
    /// When the first change was told that is in no table yet.
    oldest_news: Option<Instant>,
    saver: Saver,
}

impl<S: TableSink> Node<S> {
    fn new(acquired: Acquired, sink: S) -> Self {
        let publisher = Publisher::new(sink, &acquired.first_table);
        let Acquired { begun, lease, began, attributes, viewer, .. } = acquired;
        let contents = Contents {
            v4: begun.config.network_v4().zip(lease.leaf.v4),
            v6: begun.config.network_v6().zip(lease.leaf.v6),
            mtu: begun.mtu,
            ip_masq: begun.options.ip_masq,
        };
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
            adjustment: Adjustment::new(begun.options.interface, begun.mtu, begun.source_ports),
            viewer,
            own: own_lease(lease, &attributes, life, began),
            attributes,
            life,
            on_lease_loss: begun.options.on_lease_loss,
            writing: None,
            is_unconfirmed,
            book,
            slots: Slots::default(),
            publisher,
            subnet_file: (begun.options.subnet_file, contents),
            subnet_file_written: false,
            listed: false,
            oldest_news: None,
            saver: Saver::new(begun.options.state_directory),
        }
    }

    /// Until the node is stopped, or has to take another subnet.
    async fn follow(
        &mut self,
        inputs: &mut Inputs,
        desired: &DesiredDevice,
        reports: &watch::Sender<Report>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Ended, RunError> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = inputs.watch.health();
        let mut keep = pin!(device::keep(desired, reports));
        loop {
            let publish_at = self.publisher.deadline();
            let look_at = self.look_at();
            let save_at = self.saver.deadline();
            let adjust_at = self.adjustment.deadline();
            tokio::select! {
                () = &mut stop => return Ok(Ended::Stopped),
                gone = &mut keep => return Err(gone.into()),
                Ok(()) = inputs.reported.changed() => {
                    self.handle_report(&inputs.reported.borrow_and_update());
                }
                found = self.adjustment.found() => self.handle_found(found),
                () = at(adjust_at) => return Ok(Ended::GroundMoved),
                tried = written(&mut self.writing) => self.handle_tried(tried),
                Some(release) = inputs.releases.recv() => {
                    if self.release(release).await {
                        return Ok(Ended::Stopped);
                    }
                }
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
            self.publisher.mark();
            self.oldest_news.get_or_insert(told_at);
        }
        self.keep_lease(Changed::Later);
    }

    fn handle_tick(&mut self) {
        if !self.subnet_file_written {
            self.write_subnet_file();
        }
        if self.book.handle_time(Instant::now().into_std()) {
            self.publisher.mark();
        }
        self.look_at_host(Duration::ZERO);
        self.keep_lease(Changed::Now);
    }

    fn look_at(&self) -> Option<Instant> {
        // What is due already waits for the next tick: it cannot be done now, or it would have been.
        let deadline = Instant::from_std(self.own.deadline()?);
        (deadline > Instant::now()).then_some(deadline)
    }

    /// Before the first listing nothing is known about our lease but what was written.
    fn keep_lease(&mut self, changed: Changed) {
        if !self.listed {
            return;
        }
        let now = Instant::now();
        let (state, step) = self.own.look(&self.book, changed, now.into_std());
        let is_writing = self.writing.is_some();
        if let Some(step) = step.filter(|_| !is_writing) {
            let source = Arc::clone(&self.source);
            self.writing = Some(self.own.try_step(source, step, now.into_std()));
        }
        self.show_lease(state);
    }

    fn handle_tried(&mut self, tried: Tried) {
        self.writing = None;
        let now = Instant::now().into_std();
        if let Some(update) = self.own.handle(tried, now)
            && self.book.handle(update, now)
        {
            self.publisher.mark();
        }
        self.keep_lease(Changed::Later);
    }

    fn show_lease(&mut self, state: State) {
        self.is_unconfirmed &= state != State::Ours;
        let stored = self.book.present(self.own.name());
        let written_at = self.own.written_at();
        let expires_at = self.own.expires_at().filter(|_| stored.is_none_or(|one| one.expires));
        self.status.change(|status| {
            status.set_life(written_at, expires_at);
            status.clear(Concern::Renewal);
            match state {
                State::Ours => status.clear(Concern::Lease),
                State::Missing => {}
                State::Stuck(problem) => {
                    status.clear(Concern::Lease);
                    status.raise(Concern::Renewal, problem);
                }
                State::Lost(problem) | State::Taken(problem) => {
                    if !status.problems.contains(&problem) {
                        tracing::error!(problem, "the lease is lost; forwarding goes on");
                    }
                    status.raise(Concern::Lease, problem);
                }
            }
        });
    }

    fn must_take_another(&self) -> bool {
        self.on_lease_loss == OnLeaseLoss::Replace
            && self.listed
            && matches!(
                self.own.look(&self.book, Changed::Later, Instant::now().into_std()).0,
                State::Taken(_)
            )
    }

    /// Every pod of this node has to be renumbered after this.
    async fn take_another(&mut self, desired: &mut DesiredDevice) {
        self.writing = None;
        let lost = self.own.name().to_owned();
        loop {
            let began = Instant::now();
            let request = Request {
                config: &self.viewer.config,
                attributes: &self.attributes,
                previous: None,
            };
            match acquire(&*self.source, &request).await {
                Ok(lease) => {
                    warn!(
                        lost,
                        lease = lease.record.name,
                        "another lease was taken; restart the pods"
                    );
                    self.use_lease(lease, began, desired);
                    return;
                }
                Err(error) => {
                    let problem = format!("The own lease {lost} was taken. {}", with_cause(&error));
                    self.status.change(|status| status.raise(Concern::Lease, problem));
                }
            }
            sleep_until(began + PERIOD).await;
        }
    }

    fn use_lease(&mut self, lease: AcquiredLease, began: Instant, desired: &mut DesiredDevice) {
        let leaf = lease.leaf;
        desired.address_v4 = leaf.v4.map(|net| net.network());
        desired.address_v6 = leaf.v6.map(|net| net.network());
        self.viewer.own = leaf;
        let config = &self.viewer.config;
        let contents = &mut self.subnet_file.1;
        contents.v4 = config.network_v4().zip(leaf.v4);
        contents.v6 = config.network_v6().zip(leaf.v6);
        self.status.change(|status| status.set_lease(&leaf, self.viewer.identity));
        let record = lease.record.clone();
        self.own = own_lease(lease, &self.attributes, self.life, began.into_std());
        let change = Update::Changes(vec![crate::source::Change::Put(record)]);
        self.book.handle(change, began.into_std());
        self.publisher.mark();
        self.write_subnet_file();
        self.keep_lease(Changed::Later);
    }

    /// Returns whether the lease is given back. Nothing of it is kept for the next start, either.
    async fn release(&mut self, release: Release) -> bool {
        self.writing = None;
        let name = self.own.name().to_owned();
        let removing = remove_own(&*self.source, &name, &self.attributes);
        let outcome = match timeout(RELEASE_PATIENCE, removing).await {
            Ok(outcome) => outcome,
            Err(_) => Err("the store does not answer".to_owned()),
        };
        let done = outcome.is_ok();
        if done {
            info!(lease = name, "the own lease is given back");
            self.saver.forget().await;
        }
        release.tell(outcome.map(|()| name));
        done
    }

    fn publish(&mut self) {
        let began = Instant::now();
        let view = self.viewer.view(&self.book, &mut self.slots);
        let epoch =
            self.publisher.publish(self.viewer.table_input(&view, self.publisher.next_epoch()));
        let listed = self.listed;
        let delay = self.oldest_news.take().map(|oldest| oldest.elapsed());
        self.status.change(|status| {
            if let Some(delay) = delay {
                status.delays.add(delay);
            }
            let known = status.rejected.clone();
            status.set_view(&view, epoch);
            for one in status.rejected.iter().filter(|one| !known.contains(one)) {
                warn!(lease = one.name, reason = one.text, "lease rejected");
            }
            if listed {
                status.clear(Concern::Start);
            }
        });
        self.saver.mark();
        self.publisher.spend(began.elapsed());
        debug!(epoch, peers = view.accepted.len(), rejected = view.rejected.len(), "leases sorted");
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

async fn written(writing: &mut Option<BoxFuture<'static, Tried>>) -> Tried {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn own_lease(
    lease: AcquiredLease,
    attributes: &Attributes,
    life: Life,
    began: std::time::Instant,
) -> OwnLease {
    let written = (lease.origin != Origin::Unconfirmed).then_some((lease.record.revision, began));
    OwnLease::new(lease.record.name, attributes.clone(), life, written)
}

/// Puts what was found about the device into the status. A foreign route is a problem where packets
/// take it instead of ours.
pub(super) fn show_report(status: &StatusHandle, report: &Report) {
    let winners = report.foreign.iter().filter(|route| route.wins());
    let sentence = |route| format!("Somebody else routes our network ({route}). Delete that route");
    let routes: Vec<String> = winners.map(sentence).collect();
    status.change(|status| {
        status.foreign = report.foreign.iter().map(ToString::to_string).collect();
        status.set(Concern::Device, &report.failures);
        status.set(Concern::Routes, &routes);
    });
}
