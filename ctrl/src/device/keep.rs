//! Brings the device into the wanted form and keeps it there.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::Stream;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::sys::SocketAddr;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::execute::{Executed, execute};
use super::plan::{Action, Actual, plan};
use super::read::{name_foreign_routes, new_device, read};
use super::{DesiredDevice, DeviceError, DeviceGone, ForeignRoute, Report, events};
use crate::interface::reader::{Netlink, ReadError};

/// How often everything is looked at without being told, in case an announcement got lost or there
/// is none, as for the settings.
pub const PERIOD: Duration = Duration::from_secs(10);

/// From an announcement to the look at the device: changes come in groups. It also bounds how often
/// a quarrel with another program can make us work.
const SETTLING: Duration = Duration::from_millis(50);

/// Pause before another socket is opened in place of one that failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Brings the device into the wanted form, once. What could not be done is in the report.
///
/// # Errors
/// The kernel's state cannot be read, or there is no such device.
pub async fn apply(desired: &DesiredDevice) -> Result<Report, DeviceError> {
    let failed = |source| DeviceError::read(desired, source);
    let netlink = Netlink::open().map_err(failed)?;
    let pass = Pass { netlink: &netlink, desired, index: None };
    match pass.run().await {
        Ok(Outcome { report, .. }) => Ok(report),
        Err(PassError::Gone) => Err(DeviceGone { name: desired.name.clone() }.into()),
        Err(PassError::Read(source)) => Err(failed(source)),
    }
}

/// What [`apply`] would do, and routes of others that stay. A device that is not there yet is treated as
/// a new one. Changes nothing.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn preview(
    desired: &DesiredDevice,
) -> Result<(Vec<Action>, Vec<ForeignRoute>), DeviceError> {
    let failed = |source| DeviceError::read(desired, source);
    let netlink = Netlink::open().map_err(failed)?;
    let actual = match read(&netlink, desired).await.map_err(failed)? {
        Some(actual) => actual,
        None => new_device(&netlink, desired).await.map_err(failed)?,
    };
    let foreign = name_foreign_routes(&netlink, &actual, desired).await.map_err(failed)?;
    Ok((plan(&actual, desired), foreign))
}

/// Keeps the device in the wanted form until it is gone, which is what this returns. Every report
/// that differs from the one before is put into `reports`. May be dropped at any time, which leaves
/// the device as it is.
pub async fn keep(desired: &DesiredDevice, reports: &watch::Sender<Report>) -> DeviceGone {
    let mut keeper = Keeper { desired, reports, index: None };
    loop {
        match keeper.follow().await {
            PassError::Gone => return DeviceGone { name: desired.name.clone() },
            PassError::Read(error) => {
                let failure = format!("{}: {}", desired.name, chain(&error));
                // Borrowed no longer than for the copy: publishing waits for every reader.
                let before = reports.borrow().clone();
                keeper.publish(Report { failures: vec![failure], ..before });
            }
        }
        sleep(SOCKET_PAUSE).await;
    }
}

enum PassError {
    Gone,
    Read(ReadError),
}

impl From<ReadError> for PassError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// An error with its causes, on one line.
fn chain(error: &ReadError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// One look at the device, and what has to be done.
struct Pass<'a> {
    netlink: &'a Netlink,
    desired: &'a DesiredDevice,
    /// The device it has to be, after the first look.
    index: Option<u32>,
}

struct Outcome {
    index: u32,
    report: Report,
}

impl Pass<'_> {
    async fn run(&self) -> Result<Outcome, PassError> {
        let actual = self.read().await?;
        let actions = plan(&actual, self.desired);
        let Executed { done, mut failures } =
            execute(self.netlink, &actual, &self.desired.name, &actions).await;
        if self.index.is_some() && !done.is_empty() {
            info!(device = self.desired.name, ?done, "put in order again");
        } else {
            debug!(device = self.desired.name, ?done, "put in order");
        }
        let actual = if actions.is_empty() { actual } else { self.read().await? };
        failures.extend(actual.underlay_gone.iter().map(|address| {
            format!(
                "The address {address} is gone from this host, so nothing can be sent to other \
                 nodes. Give it back, or give the interface another one, which is used then"
            )
        }));
        let foreign = name_foreign_routes(self.netlink, &actual, self.desired).await?;
        let report = Report { foreign, failures, underlay_gone: actual.underlay_gone };
        Ok(Outcome { index: actual.index, report })
    }

    /// A device that came with the same name after ours went is not ours.
    async fn read(&self) -> Result<Actual, PassError> {
        let actual = read(self.netlink, self.desired).await?.ok_or(PassError::Gone)?;
        if self.index.is_some_and(|index| index != actual.index) {
            return Err(PassError::Gone);
        }
        Ok(actual)
    }
}

struct Keeper<'a> {
    desired: &'a DesiredDevice,
    reports: &'a watch::Sender<Report>,
    index: Option<u32>,
}

type Announcement = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

impl Keeper<'_> {
    /// Listens first and looks then, so that nothing is missed in between. Ends with what went
    /// wrong.
    async fn follow(&mut self) -> PassError {
        let (connection, handle, mut announcements) =
            match rtnetlink::new_multicast_connection(&events::GROUPS) {
                Ok(parts) => parts,
                Err(error) => return PassError::Read(ReadError::Socket(error)),
            };
        let netlink = Netlink::run(connection, handle);
        loop {
            let next = Instant::now() + PERIOD;
            let pass = Pass { netlink: &netlink, desired: self.desired, index: self.index };
            match pass.run().await {
                Ok(outcome) => {
                    self.index = Some(outcome.index);
                    self.publish(outcome.report);
                }
                Err(error) => return error,
            }
            let wait = self.wait_for_change(&mut announcements);
            if let Ok(Err(error)) = timeout_at(next, wait).await {
                return PassError::Read(error);
            }
        }
    }

    async fn wait_for_change(
        &self,
        announcements: &mut (impl Stream<Item = Announcement> + Unpin),
    ) -> Result<(), ReadError> {
        let index = self.index.unwrap_or_default();
        loop {
            let Some((message, _)) = announcements.next().await else {
                return Err(ReadError::Closed);
            };
            if events::concerns(&message, self.desired, index) {
                break;
            }
        }
        sleep(SETTLING).await;
        while announcements.next().now_or_never().flatten().is_some() {}
        Ok(())
    }

    /// Says only what is new, however often it is found.
    fn publish(&self, report: Report) {
        self.reports.send_if_modified(|previous| {
            if *previous == report {
                return false;
            }
            log_change(previous, &report);
            *previous = report;
            true
        });
    }
}

fn log_change(previous: &Report, report: &Report) {
    for failure in report.failures.iter().filter(|one| !previous.failures.contains(one)) {
        warn!(%failure, "not everything is as it should be; trying again");
    }
    for route in report.foreign.iter().filter(|one| !previous.foreign.contains(one)) {
        warn!(%route, "somebody else routes our network; their route stays");
    }
    if report.is_clean() {
        info!("everything is as it should be again");
    }
}
