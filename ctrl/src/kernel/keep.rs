//! Brings the wanted state about and keeps it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::BoxStream;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::sys::SocketAddr;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::ALIAS;
use super::action::{Action, Key};
use super::actual::{Actual, Device};
use super::events::{GROUPS, Listener, News};
use super::execute::{Executed, Failure, execute};
use super::object::State;
use super::plan::{Plan, plan};
use super::read::{read, wanted_devices};
use crate::device::{ForeignRoute, ROUTE_PROTOCOL};
use crate::interface::reader::{Netlink, ReadError};

/// How often everything is looked at without being told.
pub const PERIOD: Duration = Duration::from_secs(10);

/// From an announcement to the look: changes come in groups.
const SETTLING: Duration = Duration::from_millis(50);

/// Between two passes for changed wishes, however fast they change.
const GATHERING: Duration = Duration::from_millis(20);

/// Pause before other sockets are opened in place of those that failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Pauses before a failed step is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a look gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether there has been a look at all.
    pub looked: bool,
    /// Routes of others to destinations of ours. They stay, and those that win keep ours from being
    /// made.
    pub foreign: Vec<ForeignRoute>,
    /// What could not be brought about. Tried again, ever more rarely.
    pub failures: Vec<Failure>,
    /// Why the kernel's state cannot be read or followed, if so.
    pub unreadable: Option<String>,
}

impl Report {
    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.looked
            && self.foreign.is_empty()
            && self.failures.is_empty()
            && self.unreadable.is_none()
    }
}

/// What [`keep`] would do first. Changes nothing.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn preview(desired: &State) -> Result<Plan, ReadError> {
    let netlink = Netlink::open()?;
    let actual = read(&netlink, desired, &Actual::default()).await?;
    Ok(plan(&actual, desired))
}

/// Brings the state about, once. What could not be done is in the report.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn apply(desired: &State) -> Result<Report, ReadError> {
    let netlink = Netlink::open()?;
    let mut actual = read(&netlink, desired, &Actual::default()).await?;
    let mut waiting = Waiting::default();
    let (mut report, look_again) = pass(&netlink, &mut actual, desired, &mut waiting).await?;
    if look_again {
        actual = read(&netlink, desired, &actual).await?;
        waiting.hope();
        (report, _) = pass(&netlink, &mut actual, desired, &mut waiting).await?;
    }
    Ok(report)
}

/// What was removed, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// As the commands that would have done it.
    pub done: Vec<String>,
    /// One sentence each.
    pub failures: Vec<String>,
}

/// Removes everything that is ours: devices with our alias and what is on them, and routes and
/// rules with our protocol inside `networks`.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn remove_all(networks: &[IpNet]) -> Result<Removed, ReadError> {
    let netlink = Netlink::open()?;
    let nothing = State { networks: networks.to_vec(), ..State::default() };
    let mut actual = read(&netlink, &nothing, &Actual::default()).await?;
    let mut actions = plan(&actual, &nothing).actions;
    actions.retain(|action| match action {
        Action::DeleteRoute(stale) => stale.found.protocol == ROUTE_PROTOCOL,
        Action::DeleteLink(_) => false,
        _ => true,
    });
    let is_ours =
        |device: &Device| device.vxlan.is_some() && device.alias.as_deref() == Some(ALIAS);
    let links = actual.devices.iter().filter(|(_, device)| is_ours(device));
    actions.extend(links.map(|(name, _)| Action::DeleteLink(name.clone())));
    let Executed { done, failed, .. } = execute(&netlink, &mut actual, actions).await?;
    Ok(Removed {
        done: done.iter().map(ToString::to_string).collect(),
        failures: failed.into_iter().map(|(_, sentence)| sentence).collect(),
    })
}

/// Keeps what `desired` says, until its sender is gone. Every report that differs from the one
/// before is put into `reports`. May be dropped at any time, which leaves everything as it is.
pub async fn keep(mut desired: watch::Receiver<Arc<State>>, reports: &watch::Sender<Report>) {
    while let Err(error) = follow(&mut desired, reports).await {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        let unreadable = Some(format!("{error}{}", cause.unwrap_or_default()));
        publish(reports, Report { unreadable, ..reports.borrow().clone() });
        sleep(SOCKET_PAUSE).await;
    }
}

type Announcement = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// Listens first and looks then, so that nothing is missed in between. Announcements have a socket
/// of their own: they may overflow it, and answers must not get lost.
async fn follow(
    desired: &mut watch::Receiver<Arc<State>>,
    reports: &watch::Sender<Report>,
) -> Result<(), ReadError> {
    let (connection, handle, announcements) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(ReadError::Socket)?;
    let _listening = Netlink::run(connection, handle);
    let mut keeper = Keeper {
        netlink: Netlink::open()?,
        announcements: announcements.boxed(),
        actual: Actual::default(),
        waiting: Waiting::default(),
        look_at: Instant::now(),
    };
    let mut before: Option<Arc<State>> = None;
    loop {
        let start = Instant::now();
        let state = desired.borrow_and_update().clone();
        let is_wider = before.as_ref().is_none_or(|before| !covers(before, &state));
        if is_wider || start >= keeper.look_at {
            keeper.look(&state).await?;
        }
        let (report, look_again) =
            pass(&keeper.netlink, &mut keeper.actual, &state, &mut keeper.waiting).await?;
        publish(reports, report);
        if look_again {
            keeper.look_soon();
        }
        if keeper.wait(desired, &state).await?.is_break() {
            return Ok(());
        }
        sleep_until(start + GATHERING).await;
        before = Some(state);
    }
}

/// Whether what was read for `before` is enough for `state`.
fn covers(before: &State, state: &State) -> bool {
    let names = |state: &State| {
        state.vxlans.iter().map(|vxlan| vxlan.name.clone()).collect::<Vec<String>>()
    };
    before.networks == state.networks
        && names(before) == names(state)
        && wanted_devices(state).is_subset(&wanted_devices(before))
}

struct Keeper {
    netlink: Netlink,
    announcements: BoxStream<'static, Announcement>,
    actual: Actual,
    waiting: Waiting,
    /// When to read everything again.
    look_at: Instant,
}

impl Keeper {
    async fn look(&mut self, state: &State) -> Result<(), ReadError> {
        while self.announcements.next().now_or_never().flatten().is_some() {}
        self.actual = read(&self.netlink, state, &self.actual).await?;
        self.look_at = Instant::now() + PERIOD;
        Ok(())
    }

    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(Instant::now() + SETTLING);
    }

    /// Until there is something to do; breaks if nobody wishes anything any more.
    async fn wait(
        &mut self,
        desired: &mut watch::Receiver<Arc<State>>,
        state: &State,
    ) -> Result<ControlFlow<()>, ReadError> {
        let listener = Listener::new(state);
        loop {
            let next = self.waiting.due().map_or(self.look_at, |due| due.min(self.look_at));
            tokio::select! {
                changed = desired.changed() => {
                    return Ok(if changed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
                }
                () = sleep_until(next) => return Ok(ControlFlow::Continue(())),
                announcement = self.announcements.next() => {
                    let (message, _) = announcement.ok_or(ReadError::Closed)?;
                    let news = listener.news(&message, &self.actual);
                    if news > News::No {
                        self.look_soon();
                    }
                    if news == News::Hope {
                        self.waiting.hope();
                    }
                }
            }
        }
    }
}

/// Plans and does what is due. The second value says whether the kernel has to be read again.
async fn pass(
    netlink: &Netlink,
    actual: &mut Actual,
    desired: &State,
    waiting: &mut Waiting,
) -> Result<(Report, bool), ReadError> {
    let Plan { mut actions, foreign, obstacles } = plan(actual, desired);
    waiting.keep_only(&actions);
    actions.retain(|action| waiting.is_due(action));
    let Executed { done, failed, look_again } = execute(netlink, actual, actions).await?;
    if !done.is_empty() {
        debug!(steps = done.len(), first = %done[0], "put in order");
    }
    waiting.note(&done, failed);
    let mut failures = waiting.failures();
    failures.extend(obstacles.into_iter().map(|(key, sentence)| Failure { key, sentence }));
    failures.sort_by(|one, other| one.key.cmp(&other.key));
    Ok((Report { looked: true, foreign, failures, unreadable: None }, look_again))
}

/// Steps that failed.
#[derive(Default)]
struct Waiting {
    steps: BTreeMap<Key, Wait>,
}

struct Wait {
    action: Action,
    sentence: String,
    pause: Duration,
    due: Instant,
}

impl Waiting {
    /// Forgets what nobody wants any more.
    fn keep_only(&mut self, actions: &[Action]) {
        if !self.steps.is_empty() {
            let planned: BTreeSet<Key> = actions.iter().map(Action::key).collect();
            self.steps.retain(|key, _| planned.contains(key));
        }
    }

    /// Another step for the same object does not wait.
    fn is_due(&self, action: &Action) -> bool {
        self.steps.is_empty()
            || self
                .steps
                .get(&action.key())
                .is_none_or(|wait| wait.action != *action || wait.due <= Instant::now())
    }

    fn note(&mut self, done: &[Action], failed: Vec<(Action, String)>) {
        if !self.steps.is_empty() {
            for action in done {
                let key = action.key();
                if self.steps.get(&key).is_some_and(|wait| wait.action == *action) {
                    self.steps.remove(&key);
                }
            }
        }
        for (action, sentence) in failed {
            let key = action.key();
            let before = self.steps.get(&key).filter(|wait| wait.action == action);
            let pause = before.map_or(PAUSE_FIRST, |wait| (2 * wait.pause).min(PAUSE_MAX));
            let due = Instant::now() + pause;
            self.steps.insert(key, Wait { action, sentence, pause, due });
        }
    }

    /// Circumstances have changed.
    fn hope(&mut self) {
        let now = Instant::now();
        self.steps.values_mut().for_each(|wait| wait.due = now);
    }

    fn due(&self) -> Option<Instant> {
        self.steps.values().map(|wait| wait.due).min()
    }

    fn failures(&self) -> Vec<Failure> {
        let waits = self.steps.iter();
        waits
            .map(|(key, wait)| Failure { key: key.clone(), sentence: wait.sentence.clone() })
            .collect()
    }
}

/// Says only what is new, however often it is found.
fn publish(reports: &watch::Sender<Report>, report: Report) {
    reports.send_if_modified(|previous| {
        if *previous == report {
            return false;
        }
        log_change(previous, &report);
        *previous = report;
        true
    });
}

/// With thousands of peers the same trouble comes thousands of times at once.
const LOGGED_MAX: usize = 5;

fn log_change(previous: &Report, report: &Report) {
    let known: HashSet<_> = previous.failures.iter().map(|one| &one.key).collect();
    let new = report.failures.iter().filter(|one| !known.contains(&one.key));
    for failure in new.take(LOGGED_MAX) {
        let (failure, all) = (&failure.sentence, report.failures.len());
        warn!(%failure, all, "not everything is as it should be; trying again");
    }
    let new = report.foreign.iter().filter(|one| !previous.foreign.contains(one));
    for route in new.take(LOGGED_MAX) {
        let all = report.foreign.len();
        warn!(%route, all, "somebody else has a route to a subnet of ours; it stays");
    }
    if let Some(error) = &report.unreadable {
        warn!(error, "the kernel's state cannot be followed; trying again");
    }
    if report.is_clean() && previous.looked {
        info!("everything is as it should be again");
    }
}
