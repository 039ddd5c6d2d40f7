//! What the kernel asks for while entries are made on demand, and which entries it uses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::FutureExt;
use futures_util::stream::BoxStream;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr;
use tokio::time::sleep;
use tracing::debug;

use super::{MacAddress, parse};
use crate::interface::reader::{Netlink, ReadError, parsed};

/// Pause before another socket is opened in place of one that failed.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Questions that are told together. The kernel repeats those that get no answer.
const BATCH_MAX: usize = 1024;

/// Devices of which it is remembered whether they are ours. There are far fewer that ask.
const LINKS_MAX: usize = 1024;

/// Something that the kernel needs to send a packet, and does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// The hardware address of this one.
    Address(IpAddr),
    /// The host that has this hardware address.
    Mac(MacAddress),
}

/// Tells what the kernel asks for. What it asks while nobody listens is lost, and asked again after a
/// second.
#[derive(Default)]
pub(crate) struct Misses {
    listening: Option<Listening>,
    /// With the devices that they are for, before it is known whether these are ours.
    waiting: Vec<(u32, Miss)>,
    /// Whether a device is ours.
    links: HashMap<u32, bool>,
}

struct Listening {
    announcements: BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    netlink: Netlink,
}

impl Misses {
    /// Waits for the next questions for one of these devices. May be dropped at any time.
    pub(crate) async fn next(&mut self, devices: &[String]) -> Vec<Miss> {
        loop {
            if self.listening.is_none() {
                self.listening = listen();
            }
            let Some(listening) = &mut self.listening else {
                sleep(SOCKET_PAUSE).await;
                continue;
            };
            if self.waiting.is_empty() {
                let Some((message, _)) = listening.announcements.next().await else {
                    self.listening = None;
                    continue;
                };
                self.waiting.extend(miss(&message));
            }
            while self.waiting.len() < BATCH_MAX
                && let Some((message, _)) = listening.announcements.next().now_or_never().flatten()
            {
                self.waiting.extend(miss(&message));
            }
            let unknown = self.waiting.iter().find(|(link, _)| !self.links.contains_key(link));
            if let Some((link, _)) = unknown.copied() {
                let is_ours = is_one_of(&listening.netlink, link, devices).await;
                self.learn(link, is_ours);
                continue;
            }
            let is_ours = |link: &u32| self.links.get(link) == Some(&true);
            let told = self.waiting.drain(..).filter(|(link, _)| is_ours(link));
            let told: Vec<Miss> = told.map(|(_, miss)| miss).collect();
            if !told.is_empty() {
                return told;
            }
        }
    }

    fn learn(&mut self, link: u32, is_ours: bool) {
        if self.links.len() >= LINKS_MAX {
            self.links.clear();
        }
        self.links.insert(link, is_ours);
    }
}

fn listen() -> Option<Listening> {
    match rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]) {
        Ok((connection, handle, announcements)) => Some(Listening {
            announcements: announcements.boxed(),
            netlink: Netlink::run(connection, handle),
        }),
        Err(error) => {
            debug!(%error, "the kernel's questions cannot be listened to");
            None
        }
    }
}

fn miss(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<(u32, Miss)> {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::GetNeighbour(question)) => {
            parse::miss(question)
        }
        _ => None,
    }
}

/// A device that cannot be asked about is gone.
async fn is_one_of(netlink: &Netlink, link: u32, devices: &[String]) -> bool {
    let question = netlink.handle().link().get().match_index(link).execute();
    let names = parsed(question, |message| Some(parse::link(&message).0)).await;
    names.is_ok_and(|names| names.iter().any(|name| devices.contains(name)))
}

/// What is on devices whose entries are made on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses with a neighbour that stays.
    pub neighbours: Vec<IpAddr>,
    /// How long ago a frame was last sent by each forwarding entry.
    pub unused: HashMap<MacAddress, Duration>,
    /// How long an entry may be unused, as the devices say it (`ageing`).
    pub ageing: Duration,
}

/// Reads it. Devices that are not there have nothing.
///
/// # Errors
/// The kernel's state cannot be read.
pub async fn usage(devices: &[String]) -> Result<Usage, ReadError> {
    let netlink = Netlink::open()?;
    let links = netlink.handle().link().get().execute();
    let found = parsed(links, |message| {
        let (name, device) = parse::link(&message);
        devices.contains(&name).then_some((device.index, parse::ageing(&message)?))
    });
    let links: HashMap<u32, Duration> = found.await?.into_iter().collect();
    let mut usage = Usage {
        ageing: links.values().min().copied().unwrap_or(Duration::MAX),
        ..Usage::default()
    };
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let question = netlink.handle().neighbours().get().set_address_family(family).execute();
        let on_ours = |message: NeighbourMessage| {
            links.contains_key(&message.header.ifindex).then_some(message)
        };
        for message in parsed(question, on_ours).await? {
            usage.neighbours.extend(parse::neighbour(&message).map(|(_, address, _)| address));
            let entry = parse::fdb(&message).zip(parse::unused_for(&message));
            usage.unused.extend(entry.map(|((_, mac, _), unused)| (mac, unused)));
        }
    }
    Ok(usage)
}
