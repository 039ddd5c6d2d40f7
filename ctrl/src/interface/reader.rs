//! Reads links, addresses and routes from the kernel over rtnetlink.

use std::future::ready;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use futures_util::stream::Stream;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteType,
    RouteVia,
};
use rtnetlink::proto::Connection;
use tokio::task::AbortHandle;

use super::message::{family, route_address};
use super::snapshot::{Address, Hop, Link, LinkKind, Route, Snapshot, Way};

/// Why the kernel's state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no netlink socket to be had.
    #[error("A netlink socket could not be opened")]
    Socket(#[source] io::Error),
    /// The kernel refused a question, or the answer could not be read.
    #[error("A question to the kernel was not answered")]
    Kernel(#[source] rtnetlink::Error),
    /// The socket was closed while it was listened to.
    #[error("The netlink socket was closed")]
    Closed,
}

/// A netlink socket in the network namespace of the thread that opened it, usable on a tokio
/// runtime. Questions may be asked at once; dropping it closes the socket.
pub struct Netlink {
    handle: rtnetlink::Handle,
    connection: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens the socket. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, ReadError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(ReadError::Socket)?;
        Ok(Self::run(connection, handle))
    }

    /// Lets the connection of an opened socket run.
    pub(crate) fn run(
        connection: Connection<netlink_packet_route::RouteNetlinkMessage>,
        handle: rtnetlink::Handle,
    ) -> Self {
        Self { handle, connection: tokio::spawn(connection).abort_handle() }
    }

    /// To ask and command with.
    pub(crate) fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    /// Reads everything. The parts are read one after the other, so that a change in between may
    /// show up in one part and not in another.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        Ok(Snapshot { links, addresses, routes: self.routes().await? })
    }

    /// All devices in order of their index.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, ReadError> {
        let answers = self.handle.link().get().execute();
        let mut links = parsed(answers, |message| Some(link(&message))).await?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The main tables of both families, IPv4 first.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, ReadError> {
        self.all_routes(route).await
    }

    /// Single addresses that the table `local` takes for this host's own, each with its device.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn local_addresses(&self) -> Result<Vec<(IpAddr, u32)>, ReadError> {
        self.all_routes(local_address).await
    }

    /// What `read` finds in the tables of both families, IPv4 first.
    async fn all_routes<T>(
        &self,
        read: impl Fn(&RouteMessage) -> Option<T>,
    ) -> Result<Vec<T>, ReadError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answers = self.handle.route().get(question).execute();
            found.extend(parsed(answers, |message| read(&message)).await?);
        }
        Ok(found)
    }

    /// The device with this name, if there is one.
    pub(crate) async fn link_named(&self, name: &str) -> Result<Option<Link>, ReadError> {
        let answers = self.handle.link().get().match_name(name).execute();
        match parsed(answers, |message| Some(link(&message))).await {
            Ok(links) => Ok(links.into_iter().next()),
            Err(ReadError::Kernel(rtnetlink::Error::NetlinkError(error)))
                if error.to_io().raw_os_error() == Some(NO_SUCH_DEVICE) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The addresses of all devices.
    pub(crate) async fn addresses(&self) -> Result<Vec<Address>, ReadError> {
        parsed(self.handle.address().get().execute(), address).await
    }

    /// Which way the kernel sends packets to `target`; `None` if it would refuse or drop them.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn way_to(&self, target: IpAddr) -> Result<Option<Way>, ReadError> {
        let question = question_about(target);
        let answers = self.handle.route().get(question).execute();
        match parsed(answers, |message| way(&message, target)).await {
            Ok(ways) => Ok(ways.into_iter().next()),
            Err(ReadError::Kernel(rtnetlink::Error::NetlinkError(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `ENODEV` of Linux on every architecture.
const NO_SUCH_DEVICE: i32 = 19;

pub(crate) async fn parsed<M, T>(
    answers: impl Stream<Item = Result<M, rtnetlink::Error>>,
    parse: impl Fn(M) -> Option<T>,
) -> Result<Vec<T>, ReadError> {
    let wanted = answers.try_filter_map(|message| ready(Ok(parse(message))));
    wanted.try_collect().await.map_err(ReadError::Kernel)
}

pub(crate) fn question_about(target: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = family(target);
    question.header.destination_prefix_length = IpNet::from(target).prefix_len();
    question.attributes.push(RouteAttribute::Destination(route_address(target)));
    question
}

fn way(message: &RouteMessage, target: IpAddr) -> Option<Way> {
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    let source = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => plain(address),
        _ => None,
    });
    Some(Way { target, link, source })
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(details) => link.kind = kind(details),
            _ => {}
        }
    }
    if message.header.flags.contains(LinkFlags::Loopback) {
        link.kind = LinkKind::Loopback;
    }
    link
}

fn kind(details: &[LinkInfo]) -> LinkKind {
    let named = details.iter().find_map(|detail| match detail {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match named {
        Some(InfoKind::Bridge) => LinkKind::Bridge,
        Some(InfoKind::Veth) => LinkKind::Veth,
        _ => LinkKind::Other,
    }
}

/// `None` for what is neither an IPv4 nor an IPv6 address.
pub(crate) fn address(message: AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    let mut prefix_address = None;
    let mut local = None;
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(address) => prefix_address = Some(address),
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // Without `IFA_LOCAL` the address of the prefix is this host's own; with it and different, it
    // is the other end's (linux/if_addr.h).
    let own = local.or(prefix_address)?;
    Some(Address {
        link: message.header.index,
        local: own,
        peer: prefix_address.filter(|address| *address != own),
        prefix_length: message.header.prefix_len,
        permanent: flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}

/// `None` for what is not in the main table, or not IP.
pub(crate) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut route = Route {
        destination: whole_family(header.address_family)?,
        unicast: header.kind == RouteType::Unicast,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        tos: header.tos,
        metric: 0,
        source: None,
        hops: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(full) => table = *full,
            RouteAttribute::Destination(address) => {
                route.destination =
                    IpNet::new(plain(address)?, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.source = plain(address),
            RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(one_of_many).collect(),
            RouteAttribute::Oif(index) => {
                route.hops = vec![Hop { link: *index, gateway: gateway(&message.attributes) }];
            }
            _ => {}
        }
    }
    let is_cached = header.flags.contains(RouteFlags::Cloned);
    (table == u32::from(RouteHeader::RT_TABLE_MAIN) && !is_cached).then_some(route)
}

/// `RT_TABLE_LOCAL` (`linux/rtnetlink.h`).
const TABLE_LOCAL: u8 = 255;

/// `None` for what is not in the table `local`, and for prefixes such as 127.0.0.0/8.
fn local_address(message: &RouteMessage) -> Option<(IpAddr, u32)> {
    let header = &message.header;
    if header.table != TABLE_LOCAL || header.kind != RouteType::Local {
        return None;
    }
    let (mut address, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => address = plain(destination),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let address = address?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    (header.destination_prefix_length == whole).then_some((address, link?))
}

/// A default route carries no destination.
pub(crate) fn whole_family(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => Some(ipnet::Ipv4Net::default().into()),
        AddressFamily::Inet6 => Some(ipnet::Ipv6Net::default().into()),
        _ => None,
    }
}

fn one_of_many(hop: &RouteNextHop) -> Hop {
    Hop { link: hop.interface_index, gateway: gateway(&hop.attributes) }
}

pub(crate) fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => plain(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

pub(crate) fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
