//! Steps, done.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use tokio::time::timeout;
use tracing::debug;

use super::action::{Action, Key};
use super::actual::Actual;
use super::object::RouteKind;
use super::parse;
use super::request::{Request, request};
use crate::device::Setting;
use crate::interface::reader::{Netlink, ReadError, parsed};

/// Questions that the kernel has not answered yet. Each answer takes less than a kibibyte of the
/// socket's receive buffer, which has at least 128 KiB everywhere, and an answer that finds no room
/// is lost.
const IN_FLIGHT_MAX: usize = 64;

/// The kernel answers before a request returns; a lost answer never comes.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Error numbers that are the same on every architecture (asm-generic/errno-base.h, errno.h).
mod errno {
    pub(super) const NOT_PERMITTED: i32 = 1;
    pub(super) const NO_ENTRY: i32 = 2;
    pub(super) const NO_SUCH_ROUTE: i32 = 3;
    pub(super) const NO_ACCESS: i32 = 13;
    pub(super) const EXISTS: i32 = 17;
    pub(super) const NO_SUCH_DEVICE: i32 = 19;
    pub(super) const INVALID: i32 = 22;
    pub(super) const READ_ONLY: i32 = 30;
    pub(super) const NOT_SUPPORTED: i32 = 95;
    pub(super) const ADDRESS_IN_USE: i32 = 98;
    pub(super) const NO_SUCH_ADDRESS: i32 = 99;
    pub(super) const NETWORK_DOWN: i32 = 100;
    pub(super) const NETWORK_UNREACHABLE: i32 = 101;
    pub(super) const HOST_UNREACHABLE: i32 = 113;
}

/// Something that could not be brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it is about.
    pub key: Key,
    /// Cause and remedy.
    pub sentence: String,
}

/// What became of the steps.
#[derive(Default)]
pub(super) struct Executed {
    pub(super) done: Vec<Action>,
    pub(super) failed: Vec<(Action, String)>,
    /// Whether the kernel may have done more than was asked, or somebody else was faster.
    pub(super) look_again: bool,
}

/// Does every step, in order, whatever becomes of the others; `actual` follows. Steps on a device
/// that could not be made are left out. May be dropped between any two steps.
///
/// # Errors
/// The socket does not answer any more.
pub(super) async fn execute(
    netlink: &Netlink,
    actual: &mut Actual,
    actions: Vec<Action>,
) -> Result<Executed, ReadError> {
    let mut flight = Flight { netlink, actual, waiting: VecDeque::new(), out: Executed::default() };
    for action in actions {
        if action.is_about_device() {
            flight.land_all().await?;
            flight.change_device(action).await?;
        } else if let Some(request) = request(&action, flight.actual) {
            flight.start(action, request)?;
            while flight.waiting.len() >= IN_FLIGHT_MAX {
                flight.land().await?;
            }
        }
    }
    flight.land_all().await?;
    Ok(flight.out)
}

type Answer = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// Steps under way. The kernel takes questions of one socket in the order they are asked.
struct Flight<'a> {
    netlink: &'a Netlink,
    actual: &'a mut Actual,
    waiting: VecDeque<(Action, Answer)>,
    out: Executed,
}

impl Flight<'_> {
    fn start(&mut self, action: Action, request: Request) -> Result<(), ReadError> {
        let answer = self.netlink.handle().clone().request(request).map_err(ReadError::Kernel)?;
        self.waiting.push_back((action, answer.boxed()));
        Ok(())
    }

    async fn land_all(&mut self) -> Result<(), ReadError> {
        while !self.waiting.is_empty() {
            self.land().await?;
        }
        Ok(())
    }

    async fn land(&mut self) -> Result<(), ReadError> {
        if let Some((action, answer)) = self.waiting.pop_front() {
            let outcome = outcome(answer).await?;
            self.note(action, outcome);
        }
        Ok(())
    }

    fn note(&mut self, action: Action, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !is_success(&action, &error) => {
                self.out.look_again |= error.raw_os_error() == Some(errno::EXISTS);
                let sentence = sentence(&action, &error);
                self.out.failed.push((action, sentence));
            }
            _ => {
                self.actual.apply(&action);
                self.out.look_again |= action.is_about_device();
                self.out.done.push(action);
            }
        }
    }

    async fn change_device(&mut self, action: Action) -> Result<(), ReadError> {
        if let Action::Set(device, setting) = &action {
            if self.actual.index(device).is_some() {
                let outcome = write(device, *setting);
                self.note(action, outcome);
            }
            return Ok(());
        }
        let Some(request) = request(&action, self.actual) else { return Ok(()) };
        let made = match &action {
            Action::AddLink(vxlan) => Some(vxlan.name.clone()),
            _ => None,
        };
        self.start(action, request)?;
        self.land().await?;
        match made {
            Some(name) => self.find(&name).await,
            None => Ok(()),
        }
    }

    /// The kernel has chosen the number of the device.
    async fn find(&mut self, name: &str) -> Result<(), ReadError> {
        let question = self.netlink.handle().link().get().match_name(name);
        match parsed(question.execute(), |message| Some(parse::link(&message))).await {
            Ok(found) => self.actual.devices.extend(found),
            // It could not be made.
            Err(ReadError::Kernel(rtnetlink::Error::NetlinkError(_))) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Success has no message.
async fn outcome(mut answer: Answer) -> Result<io::Result<()>, ReadError> {
    let message = timeout(ANSWER_WAIT, answer.next()).await.map_err(|_| ReadError::Closed)?;
    Ok(match message.map(|message| message.payload) {
        None => Ok(()),
        Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
        Some(_) => return Err(ReadError::Closed),
    })
}

/// A setting that packets do not need is let be where `/proc/sys` cannot be written.
fn write(device: &str, setting: Setting) -> io::Result<()> {
    match setting.write(device) {
        Err(error) if !setting.is_needed(device) => {
            debug!(%error, %setting, device, "a setting that can be done without");
            Ok(())
        }
        outcome => outcome,
    }
}

/// What is gone already, by somebody else or with another object, needs no deleting; and rules are
/// equal if the kernel says so.
fn is_success(action: &Action, error: &io::Error) -> bool {
    const GONE: [i32; 4] =
        [errno::NO_ENTRY, errno::NO_SUCH_ROUTE, errno::NO_SUCH_DEVICE, errno::NO_SUCH_ADDRESS];
    let number = error.raw_os_error().unwrap_or_default();
    let is_there = matches!(action, Action::AddRule(_)) && number == errno::EXISTS;
    is_there || action.is_removal() && GONE.contains(&number)
}

fn sentence(action: &Action, error: &io::Error) -> String {
    format!("Could not do `{action}`: {error}. {}", remedy(action, error))
}

fn remedy(action: &Action, error: &io::Error) -> String {
    let number = error.raw_os_error().unwrap_or_default();
    match (action, number) {
        (_, errno::NOT_PERMITTED) => "Run as root or with CAP_NET_ADMIN".to_owned(),
        (Action::Set(device, setting), errno::READ_ONLY) => format!(
            "Set {setting} of {device} to {} on the host, or mount /proc/sys writable",
            setting.wanted()
        ),
        (Action::AddLink(vxlan), errno::EXISTS) => format!(
            "Another VXLAN device of this host has VNI {} on port {}: remove it, or choose another \
             VNI or Port in the config of all nodes",
            vxlan.vni, vxlan.port
        ),
        (Action::AddLink(_), errno::NOT_SUPPORTED) => {
            "The kernel has no VXLAN: load its module (modprobe vxlan), or choose another Type"
                .to_owned()
        }
        (Action::AddLink(vxlan), errno::NO_SUCH_DEVICE) => {
            format!("Its underlay {} is gone", vxlan.underlay.name)
        }
        (Action::SetUp(_), errno::ADDRESS_IN_USE) => {
            "Another program has its UDP port: end it, or choose another Port in the config of all \
             nodes"
                .to_owned()
        }
        (Action::SetMtu(..), errno::INVALID) => {
            "The device that carries it allows less: raise that one's MTU, or set MTU in the config \
             to that of the underlay"
                .to_owned()
        }
        (Action::AddAddress(..), errno::NO_ACCESS) => {
            "IPv6 is disabled on the device: set net.ipv6.conf.all.disable_ipv6=0".to_owned()
        }
        (Action::AddRoute(_) | Action::ReplaceRoute(_), errno::EXISTS) => {
            "Somebody else made a route to the same destination at the same time".to_owned()
        }
        (Action::AddRoute(route) | Action::ReplaceRoute(route), _) => {
            route_remedy(&route.kind, number)
        }
        _ => "It is tried again".to_owned(),
    }
}

fn route_remedy(kind: &RouteKind, number: i32) -> String {
    match kind {
        RouteKind::Unicast { device, .. } if number == errno::NETWORK_DOWN => {
            format!("The device is down: ip link set {device} up")
        }
        RouteKind::Unicast { gateway: Some(gateway), device, onlink: false, .. }
            if [errno::NETWORK_UNREACHABLE, errno::HOST_UNREACHABLE, errno::INVALID]
                .contains(&number) =>
        {
            format!(
                "{gateway} is not on the network of {device}: host-gw and DirectRouting need hosts \
                 that reach each other without a router; Type vxlan does not"
            )
        }
        _ => "It is tried again".to_owned(),
    }
}
