//! The loop of a running node.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use super::own::{Changed, OwnLease, State};
use super::publish::Publisher;
use super::{Acquired, RunError, Slots, TableSink, Viewer, read_config, with_cause};
use crate::desired::Book;
use crate::device::{self, DesiredDevice, Report};
use crate::source::Update;
use crate::source::directory::{Directory, Watch};
use crate::status::{Concern, Phase, StatusHandle};
use crate::subnet_file::{self, Contents};

/// How often everything is looked at that nobody tells of.
const PERIOD: Duration = Duration::from_secs(10);

/// Everything is set up.
#[derive(Debug)]
pub struct Running {
    acquired: Acquired,
    desired: DesiredDevice,
    report: Report,
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
        let Self { acquired, desired, report } = self;
        let (reports, mut reported) = watch::channel(report);
        let mut node = Node::new(acquired, sink);
        node.write_subnet_file();
        node.status.change(|status| {
            status.phase = Phase::Running;
            status.raise(Concern::Start, "Waiting for the first list of leases".into());
        });
        let mut watch = Watch::new(node.own.directory.clone());
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = pin!(stop);
        let mut keep = pin!(device::keep(&desired, &reports));
        loop {
            let deadline = node.publisher.deadline();
            tokio::select! {
                () = &mut stop => return Ok(()),
                gone = &mut keep => return Err(gone.into()),
                Ok(()) = reported.changed() => {
                    show_report(&node.status, &reported.borrow_and_update());
                }
                update = watch.next() => node.handle_update(update),
                () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)),
                    if deadline.is_some() => node.publish(),
                _ = ticks.tick() => node.handle_tick(watch.problem()),
            }
        }
    }
}

/// What the loop works on.
struct Node<S> {
    status: StatusHandle,
    viewer: Viewer,
    own: OwnLease,
    book: Book,
    slots: Slots,
    publisher: Publisher<S>,
    subnet_file: (std::path::PathBuf, Contents),
    subnet_file_written: bool,
    listed: bool,
}

impl<S: TableSink> Node<S> {
    fn new(acquired: Acquired, sink: S) -> Self {
        let publisher = Publisher::new(sink, &acquired.first_table);
        let Acquired { begun, lease, attributes, viewer, .. } = acquired;
        let contents = Contents {
            v4: begun.config.network_v4().zip(lease.leaf.v4),
            v6: begun.config.network_v6().zip(lease.leaf.v6),
            mtu: begun.mtu,
            ip_masq: begun.options.ip_masq,
        };
        Self {
            status: begun.status,
            viewer,
            own: OwnLease { directory: begun.directory, name: lease.name, attributes },
            book: Book::default(),
            slots: Slots::default(),
            publisher,
            subnet_file: (begun.options.subnet_file, contents),
            subnet_file_written: false,
            listed: false,
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

    fn handle_update(&mut self, update: Update) {
        if update == Update::Config {
            self.compare_config();
            return;
        }
        let first = !std::mem::replace(&mut self.listed, true);
        if self.book.handle(update, Instant::now()) || first {
            self.publisher.mark();
            self.keep_lease(Changed::Later);
        }
    }

    fn handle_tick(&mut self, source_problem: Option<&str>) {
        if !self.subnet_file_written {
            self.write_subnet_file();
        }
        if self.book.handle_time(Instant::now()) {
            self.publisher.mark();
        }
        if self.listed {
            self.keep_lease(Changed::Now);
        }
        self.compare_config();
        self.status.change(|status| match source_problem {
            Some(problem) => status.raise(Concern::LeaseSource, problem.to_owned()),
            None => status.clear(Concern::LeaseSource),
        });
    }

    fn keep_lease(&self, changed: Changed) {
        let state = self.own.keep(&self.book, changed);
        self.status.change(|status| match state {
            State::Ours => status.clear(Concern::Lease),
            State::Lost(problem) => {
                if !status.problems.contains(&problem) {
                    tracing::error!(problem, "the lease is lost; forwarding goes on");
                }
                status.raise(Concern::Lease, problem);
            }
        });
    }

    fn publish(&mut self) {
        let view = self.viewer.view(&self.book, &mut self.slots);
        let epoch =
            self.publisher.publish(self.viewer.table_input(&view, self.publisher.next_epoch()));
        self.status.change(|status| {
            let known = status.rejected.clone();
            status.set_view(&view, epoch);
            for one in status.rejected.iter().filter(|one| !known.contains(one)) {
                warn!(lease = one.name, reason = one.text, "lease rejected");
            }
            status.clear(Concern::Start);
        });
        debug!(epoch, peers = view.accepted.len(), rejected = view.rejected.len(), "leases sorted");
    }

    fn compare_config(&self) {
        let note = config_note(&self.own.directory, &self.viewer);
        self.status.change(|status| {
            if status.config_change != note
                && let Some(note) = &note
            {
                warn!("{note}");
            }
            status.config_change = note;
        });
    }
}

fn config_note(directory: &Directory, viewer: &Viewer) -> Option<String> {
    match read_config(directory) {
        Ok(Ok(config)) if config == viewer.config => None,
        Ok(Ok(_)) => Some("The network config has changed. Restart weft to apply it".into()),
        Ok(Err(error)) => Some(format!("A changed network config is not usable. {error}")),
        Err(error) => Some(format!("The one in force stays. {}", with_cause(&error))),
    }
}

/// Puts what was found about the device into the status. A foreign route is a problem where packets
/// take it instead of ours.
pub(super) fn show_report(status: &StatusHandle, report: &Report) {
    let winners = report.foreign.iter().filter(|route| route.wins());
    let sentence = |route| format!("Somebody else routes our network ({route}). Delete that route");
    let problems: Vec<String> =
        report.failures.iter().cloned().chain(winners.map(sentence)).collect();
    status.change(|status| {
        status.foreign = report.foreign.iter().map(ToString::to_string).collect();
        match problems.is_empty() {
            true => status.clear(Concern::Device),
            false => status.raise(Concern::Device, problems.join("; ")),
        }
    });
}
